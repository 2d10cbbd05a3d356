"""Pending room: how many messages groups may have in hand, each and all together.

What a group has read and is not done with is in memory. Each group tells with every look at its messages how many
there are; where all have used up the room, a group reads on only as long as it has few, until others are done.

Pure.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zbusrpc.broker.mq.group import Group

PENDING_MAX: Final = 100_000
"""Messages of a group that were read and are not done, most of them delayed or held by their key: about 30 MiB. At the
bound the group reads no further until some are done."""
PENDING_TOTAL_MAX: Final = 1_000_000
"""Of all groups together: about 300 MiB."""
PENDING_SHARE: Final = 256
"""What a group may have though all of them are at their bound, so that none is stopped by others: what one dispatch
hands out."""


class PendingRoom:
    """The room that the groups of a broker share."""

    __slots__ = ("_told", "_waiting", "taken")

    def __init__(self) -> None:
        self.taken = 0
        """Messages that all groups have in hand."""
        self._told: dict[Group, int] = {}
        self._waiting: dict[Group, None] = {}

    def note(self, group: "Group") -> None:
        """Take note of how many messages a group has."""
        count, before = len(group.pending), self._told.get(group, 0)
        if count != before:
            self._told[group] = count
            self.taken += count - before

    def has_room(self, group: "Group") -> bool:
        """Say whether a group may read on; one that may not is among `to_wake` when it may."""
        self.note(group)
        count = len(group.pending)
        if count >= PENDING_MAX:  # it is looked at again when one of them is done
            return False
        if self.taken < PENDING_TOTAL_MAX or count < PENDING_SHARE:
            return True
        self._waiting[group] = None
        return False

    def forget(self, group: "Group") -> None:
        """Take back the room of a group that is gone."""
        self.taken -= self._told.pop(group, 0)
        self._waiting.pop(group, None)

    def to_wake(self) -> list["Group"]:
        """Return the groups that were refused room, once there is some again."""
        if not self._waiting or self.taken >= PENDING_TOTAL_MAX:
            return []
        waiting, self._waiting = self._waiting, {}
        return list(waiting)
