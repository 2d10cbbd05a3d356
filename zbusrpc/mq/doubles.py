"""Doubles: messages that come again while the application still has them, as when a lease ended over a slow handler.

An answer names an offset, and of its own consumer the broker takes it for the latest delivery. What came again is
therefore no more than a copy of what was answered: it goes from the buffer with the answer, and it is left out where it
was on its way while a confirmation was.

Pure.
"""

from collections import deque
from collections.abc import Container

from zbusrpc.transport.entries import Entry


class Doubles:
    """The messages of one subscription that are here twice."""

    __slots__ = ("_came", "_confirming")

    def __init__(self) -> None:
        self._came: set[int] = set()
        self._confirming: set[int] = set()

    def sift(self, entries: list[Entry], handed_out: Container[int]) -> list[Entry]:
        """Take note of messages that come again, and return those that are to wait for the application."""
        self._came.update(entry.first for entry in entries if entry.first in handed_out)
        if not self._confirming:
            return entries
        return [entry for entry in entries if entry.first not in self._confirming]

    def drop(self, offset: int, buffer: deque[Entry]) -> None:
        """Take what came again of an answered message out of the buffer."""
        if offset in self._came:
            self._came.discard(offset)
            kept = [entry for entry in buffer if entry.first != offset]
            buffer.clear()
            buffer.extend(kept)

    def begin_confirming(self, offset: int) -> None:
        """Leave a message out that comes before the broker has confirmed its acknowledgement."""
        self._confirming.add(offset)

    def end_confirming(self, offset: int) -> None:
        """Let a message come again: what comes now the broker has sent knowing of the acknowledgement."""
        self._confirming.discard(offset)
