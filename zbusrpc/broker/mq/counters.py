"""Counters of a group: what happened in it since the broker started."""

from typing import Final

DONE: Final = ("acked", "dead", "expired", "removed", "compacted", "skipped")
"""What may have become of a message; those that nobody has to acknowledge count as acked when they are handed out."""


class GroupCounters:
    """What happened in a group since the broker started.

    Each message that the group is done with is in exactly one of DONE; one that is tried again begins anew.
    """

    __slots__ = (
        "acked",
        "compacted",
        "dead",
        "delivered",
        "expired",
        "late",
        "redelivered",
        "removed",
        "skipped",
    )

    def __init__(self) -> None:
        self.delivered = self.acked = self.dead = 0
        self.redelivered = 0
        """Of those delivered: not for the first time."""
        self.skipped = 0
        """Left out by the filter."""
        self.expired = self.removed = self.compacted = 0
        """Not handled: their time to live was over, retention had removed them, or compaction (or damage) had."""
        self.late = 0
        """Acknowledgements of messages that were not with that consumer any more."""

    def as_dict(self) -> dict[str, int]:
        """Return them by name."""
        return {name: getattr(self, name) for name in self.__slots__}
