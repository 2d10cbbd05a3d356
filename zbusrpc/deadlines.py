"""A deadline wheel: many things that may have to end at a time, with one timer for all of them.

Clients, brokers and services each watch a deadline for every call, and nearly every call ends long before it.
A timer of the event loop for each costs 1.3 us; here adding and removing cost a dict operation, because
deadlines share ticks of 10 ms. A thing is due at the end of its tick: never early, at most one tick late.

Pure: time is passed in, in seconds of any monotonic clock.
"""

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

TICKS_PER_SECOND: Final = 100
"""10 ms: far below any useful call time-out, and few enough ticks to keep the heap small."""
PRUNE_MIN: Final = 4096
"""Fewer ticks than these are not worth a look for empty ones: those of 40 s."""

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Things ordered by when they are due, for cheap adding and removing."""

    __slots__ = ("_by_number", "_numbers", "_prune_at", "next_at")

    def __init__(self) -> None:
        self._by_number: dict[int, dict[T, None]] = {}  # a tick: a set that keeps its order
        self._numbers: list[int] = []
        self._prune_at = PRUNE_MIN
        self.next_at: float | None = None
        """When `due` should next be asked, or None when nothing is watched."""

    def add(self, item: T, deadline: float) -> dict[T, None]:
        """Watch `item` until `deadline`; return its tick, so that `tick.pop(item, None)` stops watching it."""
        number = int(deadline * TICKS_PER_SECOND) + 1
        tick = self._by_number.get(number)
        if tick is None:
            tick = self._by_number[number] = {item: None}
            heapq.heappush(self._numbers, number)
            if self._numbers[0] == number:
                self._note_first()
                self._first_tick_changed()
            if len(self._numbers) > self._prune_at:  # most are empty, where time limits are long and differ
                self._prune()
        else:
            tick[item] = None
        return tick

    def _prune(self) -> None:
        self._by_number = {number: tick for number, tick in self._by_number.items() if tick}
        self._numbers = sorted(self._by_number)
        self._prune_at = max(PRUNE_MIN, 2 * len(self._numbers))
        self._note_first()

    def _note_first(self) -> None:
        self.next_at = self._numbers[0] / TICKS_PER_SECOND if self._numbers else None

    def _first_tick_changed(self) -> None:
        """Take note that a tick began which ends before all others; for those who set timers."""

    def due(self, now: float) -> list[T]:
        """Remove and return everything whose tick has ended, earliest tick first."""
        items: list[T] = []
        while self._numbers and self._numbers[0] / TICKS_PER_SECOND <= now:  # to the last bit as `next_at` has it
            items.extend(self._by_number.pop(heapq.heappop(self._numbers)))
        self._note_first()
        return items
