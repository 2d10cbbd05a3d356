"""The scheduler: the seam through which the message queue meets time, turns of the loop, and threads.

The broker puts an asyncio loop behind it (`assembly/loop_scheduler.py`), tests a clock of their own that can jump.
"""

from collections.abc import Callable
from typing import Protocol

from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.seams import TopicLog


class Scheduler(Protocol):
    """Time, turns and threads."""

    def now(self) -> float:
        """Return seconds of a clock that never jumps: leases and waits go by it."""

    def now_ms(self) -> int:
        """Return ms since 1970: what is stored goes by it."""

    def soon(self, callback: Callable[[], None]) -> object:
        """Call `callback` when this turn ends."""

    def later(self, delay_s: float, callback: Callable[[], None]) -> object:
        """Call `callback` after a while."""

    def sync(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Do `work`, which waits for the disk a moment, on the spot or in another thread; later tell `done`."""

    def in_worker(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Do `work` in another thread, then tell `done` here what it raised."""


def committer_on(scheduler: Scheduler, opened: TopicLog, durability: Durability) -> Committer:
    """Return what writes a log, with the turns, workers and clock of a scheduler."""
    return Committer(
        opened,
        durability,
        soon=scheduler.soon,
        in_worker=scheduler.in_worker,
        sync=scheduler.sync,
        now_ms=scheduler.now_ms,
    )
