"""The duplicate window: the ids of the messages that a topic stored lately, with their offsets.

A message whose id is in the window is not stored again. An id stays for so many seconds and while no more than so
many others came after it. An id is reserved when its message is handed in, and becomes known or is freed when the
outcome is. After a restart the window is filled from the log.

Producers choose ids, so each counts for its owner alone (`whose`): nobody can have another's message left out by
storing one with its id.

Pure: time comes in as `now_ms`.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

RESERVED: Final = -1
"""In place of an offset: the message was handed in, and is not yet stored."""


Whose = bytes | tuple[int, bytes]
"""An id, with its owner where it has one."""


def whose(owner: int, id_: bytes) -> Whose:
    """Return an id as the window knows it."""
    return (owner, id_) if owner else id_


class DuplicateWindow:
    """The ids of late messages of one topic."""

    __slots__ = ("_ages", "_offsets", "_owners", "ids_max", "window_ms")

    def __init__(self, window_ms: int, ids_max: int) -> None:
        self.window_ms = window_ms
        self.ids_max = ids_max
        self._offsets: dict[Whose, int] = {}
        self._ages: deque[tuple[int, list[Whose]]] = deque()
        self._owners: set[int] = set()  # as many as there are tokens

    def __len__(self) -> int:
        return len(self._offsets)

    def find(self, id_: Whose) -> int | None:
        """Return the offset of the message with this id, RESERVED, or None where there is none."""
        return self._offsets.get(id_)

    def find_any(self, id_: bytes) -> int | None:
        """Return the offset of the last message with this id, whoever has produced it."""
        found = (self._offsets.get(whose(owner, id_)) for owner in (0, *self._owners))
        return max((offset for offset in found if offset is not None and offset != RESERVED), default=None)

    def forget_old(self, now_ms: int) -> None:
        """Forget the ids whose time is over; before each look, so that a quiet topic forgets too."""
        oldest_ms = now_ms - self.window_ms
        while self._ages and self._ages[0][0] <= oldest_ms:
            self._forget(self._ages.popleft()[1])

    def reserve(self, ids: list[Whose], now_ms: int, owner: int = 0) -> None:
        """Take note that messages with these ids, all of one owner, were handed in."""
        offsets = self._offsets
        if owner:
            self._owners.add(owner)
        for id_ in ids:
            offsets[id_] = RESERVED
        self._ages.append((now_ms, ids))
        self.forget_old(now_ms)
        while len(offsets) > self.ids_max and self._ages:
            self._forget(self._ages.popleft()[1])

    def settle(self, ids_and_offsets: Iterable[tuple[Whose, int]]) -> None:
        """Take note of where messages were stored."""
        offsets = self._offsets
        for id_, offset in ids_and_offsets:
            if id_ in offsets:  # else it has left the window already
                offsets[id_] = offset

    def free(self, ids: list[Whose]) -> None:
        """Forget ids that were reserved together: their messages could not be stored."""
        for number in range(len(self._ages) - 1, -1, -1):
            if self._ages[number][1] is ids:  # else they have left the window, and may have been reserved again
                del self._ages[number]
                self._forget(ids)
                return

    def _forget(self, ids: list[Whose]) -> None:
        for id_ in ids:
            self._offsets.pop(id_, None)
