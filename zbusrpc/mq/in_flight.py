"""In flight: how many messages a producer has handed in without an answer, and who waits until there are fewer.

A message is taken in while both counts are below their bounds, so the bytes may exceed theirs by one message. Whoever
has to wait is let in in order, and nobody overtakes those who wait.
"""

import asyncio
from collections import deque

_Waiting = tuple[asyncio.Future[None], int, int]


class InFlight:
    """The messages of one producer that are not answered, by number and bytes."""

    __slots__ = ("_admitted", "_bytes_max", "_messages_max", "_waiting", "bytes", "is_full", "messages")

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._waiting: deque[_Waiting] = deque()
        self._admitted = 0
        """Those that were let in and have not run yet."""
        self.messages = 0
        self.bytes = 0
        self.is_full = False
        """Whether nothing may be taken in at once: a bound is reached, or others wait."""

    def __str__(self) -> str:
        return f"{self.messages} of {self._messages_max} messages, {self.bytes} of {self._bytes_max} bytes"

    def take(self, messages: int, size: int) -> None:
        """Take in messages; the caller has seen that it is not full."""
        self.messages += messages
        self.bytes += size
        if self.messages >= self._messages_max or self.bytes >= self._bytes_max:
            self.is_full = True

    def give(self, messages: int, size: int) -> None:
        """Note that messages were answered, and let others in."""
        self.messages -= messages
        self.bytes -= size
        if self.is_full:
            self._admit()

    async def wait(self, messages: int, size: int) -> None:
        """Take in messages as soon as there is room and nobody was here before."""
        waiting: _Waiting = (asyncio.get_running_loop().create_future(), messages, size)
        self._waiting.append(waiting)
        try:
            await waiting[0]
        except asyncio.CancelledError:
            if waiting[0].cancelled():
                self._waiting = deque(one for one in self._waiting if one is not waiting)
            else:  # let in and cancelled in the same turn
                self._admitted -= 1
                self.messages -= messages
                self.bytes -= size
            self._admit()
            raise
        self._admitted -= 1
        self._note_room()

    def _admit(self) -> None:
        while self._waiting and self._has_room():
            future, messages, size = self._waiting.popleft()
            if not future.done():
                self._admitted += 1
                self.messages += messages
                self.bytes += size
                future.set_result(None)
        self._note_room()

    def _has_room(self) -> bool:
        return self.messages < self._messages_max and self.bytes < self._bytes_max

    def _note_room(self) -> None:
        self.is_full = bool(self._waiting or self._admitted) or not self._has_room()
