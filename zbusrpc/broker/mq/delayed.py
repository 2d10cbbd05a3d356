"""Delayed messages of one topic, counted by who has produced them until they are due.

Each takes a place in the memory of each group that reads on: with delays of a year, one token would take all places and
stop the groups for everybody. Times of many messages are kept as a few: each is rounded up, by a 32nd of the delay at
most, so that a topic remembers about a thousand for each token, whatever was produced.

Pure: time comes in as `now`, in seconds of a monotonic clock. Nothing is remembered over a restart: what was delayed
before it waits as ever, and counts against the whole that a group may have in hand.
"""

import heapq
from collections.abc import Iterable
from math import ceil, log2
from typing import Final

from zbusrpc.broker.sessions.shares import Payer

FINENESS: Final = 32
"""Parts of a delay to which its end is rounded up."""

Charge = dict[float, int]
"""How many messages count until when."""


class Delayed:
    """The messages of one topic that are not due."""

    __slots__ = ("_counts", "_due", "_ends")

    def __init__(self) -> None:
        self._counts: dict[Payer, int] = {}
        self._ends: dict[tuple[float, Payer], int] = {}
        self._due: list[tuple[float, Payer]] = []  # a heap of those

    def of(self, payer: Payer, now: float) -> int:
        """Return how many of somebody's messages are not due."""
        while self._due and self._due[0][0] <= now:
            end = heapq.heappop(self._due)
            self._reduce(end[1], self._ends.pop(end))
        return self._counts.get(payer, 0)

    def take(self, payer: Payer, delays_ms: Iterable[int], now: float) -> Charge:
        """Count messages, and return what `give_back` takes."""
        charge: Charge = {}
        for delay_ms in delays_ms:
            at = _end_of(delay_ms / 1000, now)
            charge[at] = charge.get(at, 0) + 1
        for at, count in charge.items():
            end = at, payer
            if end not in self._ends:
                heapq.heappush(self._due, end)
            self._ends[end] = self._ends.get(end, 0) + count
            self._counts[payer] = self._counts.get(payer, 0) + count
        return charge

    def give_back(self, payer: Payer, charge: Charge) -> None:
        """Count messages no more that were not stored.

        Their times stay until they have come: each is in the heap once, however often messages are refused.
        """
        for at, count in charge.items():
            end = at, payer
            counted = min(count, self._ends.get(end, 0))
            if counted:
                self._ends[end] -= counted
                self._reduce(payer, counted)

    def forget(self) -> None:
        """Count nothing any more: the messages are gone."""
        self._counts.clear()
        self._ends.clear()
        self._due.clear()

    def _reduce(self, payer: Payer, count: int) -> None:
        rest = self._counts.get(payer, 0) - count
        if rest > 0:
            self._counts[payer] = rest
        else:
            self._counts.pop(payer, None)


def _end_of(delay_s: float, now: float) -> float:
    """Return when a delay ends, a little later rather than earlier."""
    step = 2.0 ** ceil(log2(max(delay_s, 1.0) / FINENESS))
    return ceil((now + delay_s) / step) * step
