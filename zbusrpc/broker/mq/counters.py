"""Counters of a group: what happened in it since the broker started."""


class GroupCounters:
    """What happened in a group since the broker started."""

    __slots__ = ("acked", "dead", "delivered", "expired", "gone", "late", "redelivered", "skipped")

    def __init__(self) -> None:
        self.delivered = self.acked = self.dead = 0
        self.redelivered = 0
        """Of those delivered: not for the first time."""
        self.skipped = 0
        """Left out by the filter."""
        self.expired = self.gone = 0
        """Not delivered: their time to live was over, or retention had removed them."""
        self.late = 0
        """Acknowledgements of messages that were not with that consumer any more."""

    def as_dict(self) -> dict[str, int]:
        """Return them by name."""
        return {name: getattr(self, name) for name in self.__slots__}
