"""Delays: until when messages wait for their time.

A wait that is over before its time, because its message was done or put back, is passed over when its turn comes.

Pure.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from zbusrpc.broker.mq.delivery import Delivery, State


class Delays:
    """The messages of one group that wait for their time."""

    __slots__ = ("_heap", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Delivery]] = []
        self._numbers = count()  # among equal times who came first

    def begin(self, delivery: Delivery, until: float) -> None:
        """Let a message wait."""
        delivery.state, delivery.until = State.DELAYED, until
        heappush(self._heap, (until, next(self._numbers), delivery))

    def next_at(self) -> float | None:
        """Return when the next wait ends, or None."""
        heap = self._heap
        while heap and not _holds(heap[0][0], heap[0][2]):
            heappop(heap)
        return heap[0][0] if heap else None

    def ended(self, now: float) -> Iterator[Delivery]:
        """Yield the messages whose time has come, each once."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            until, _, delivery = heappop(heap)
            if _holds(until, delivery):
                yield delivery

    def clear(self) -> None:
        """Forget all waits."""
        self._heap.clear()


def _holds(until: float, delivery: Delivery) -> bool:
    return delivery.until == until and delivery.state is State.DELAYED
