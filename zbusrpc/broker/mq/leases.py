"""Leases: until when consumers may have their messages.

All leases of a group are equally long, so that the one that began first ends first; only after the group was given
shorter ones they must be sorted in. A lease that was renewed, or whose message is done, is passed over when its turn
comes.

Pure.
"""

from bisect import insort
from collections import deque
from operator import itemgetter
from typing import Final

from zbusrpc.broker.mq.delivery import Delivery, State

PRUNE_MIN: Final = 1024
"""Fewer leases than these are not worth a look."""


class Leases:
    """The leases of one group."""

    __slots__ = ("_prune_at", "_queue")

    def __init__(self) -> None:
        self._queue: deque[tuple[float, Delivery]] = deque()
        self._prune_at = PRUNE_MIN

    def begin(self, delivery: Delivery, until: float) -> None:
        """Let a lease begin, or begin anew."""
        delivery.until = until
        if self._queue and until < self._queue[-1][0]:
            insort(self._queue, (until, delivery), key=itemgetter(0))
        else:
            self._queue.append((until, delivery))
        if len(self._queue) > self._prune_at:  # behind one that takes long there may be many that are over
            self._queue = deque(dict.fromkeys(lease for lease in self._queue if _holds(*lease)))
            self._prune_at = max(PRUNE_MIN, 2 * len(self._queue))

    def next_at(self) -> float | None:
        """Return when the next lease ends, or None."""
        queue = self._queue
        while queue and not _holds(*queue[0]):
            queue.popleft()
        return queue[0][0] if queue else None

    def ended(self, now: float, count_max: int) -> list[Delivery]:
        """Return messages whose lease has ended, each once, as many as may be."""
        queue, ended = self._queue, list[Delivery]()
        while queue and queue[0][0] <= now and len(ended) < count_max:
            until, delivery = queue.popleft()
            if _holds(until, delivery):
                delivery.until = 0.0  # it may stand here again, when it was renewed twice at a time
                ended.append(delivery)
        return ended

    def clear(self) -> None:
        """Forget all leases."""
        self._queue.clear()


def _holds(until: float, delivery: Delivery) -> bool:
    return delivery.until == until and delivery.state is State.IN_FLIGHT
