"""The scheduler of the message queue on an asyncio loop.

What is called later may leave messages to be sent, so that each such call is followed by `after`, which sends them.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.storage.pace import Pace

SYNC_THREADS: Final = 4
"""A disk gains little from more syncs at a time."""


class LoopScheduler:
    """Time, turns and threads of a running loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self.now, self.now_ms = clock.now, clock.now_ms
        self._threads = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="zbusrpc-disk")
        self._pace = Pace()
        self._timers: set[asyncio.TimerHandle] = set()
        self.after: Callable[[], None] = lambda: None
        """Sends what a callback left to be sent."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` when this turn ends."""
        self._loop.call_soon(self._call, callback)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` after a while."""
        handles: list[asyncio.TimerHandle] = []
        handles.append(self._loop.call_later(delay_s, lambda: self._ring(handles[0], callback)))
        self._timers.add(handles[0])

    def in_worker(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Do `work` in another thread, then tell `done` here what it raised."""
        future = self._loop.run_in_executor(self._threads, work)
        future.add_done_callback(lambda future: self._call(lambda: done(future.exception())))

    def sync(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Do `work`, which waits for a disk, on the spot where that is quick, else in another thread; then tell."""
        if not self._pace.is_quick():
            self.in_worker(work, done)
            return
        began, error = time.perf_counter(), None
        try:
            work()
        except BaseException as failure:  # told in the same way as from another thread
            error = failure
        self._pace.note(time.perf_counter() - began)
        self.soon(lambda: done(error))

    def close(self) -> None:
        """Call nothing any more, and let the threads end."""
        for handle in self._timers:
            handle.cancel()
        self._threads.shutdown(wait=False)

    def _ring(self, handle: asyncio.TimerHandle, callback: Callable[[], None]) -> None:
        self._timers.discard(handle)
        self._call(callback)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        finally:  # what others were told before a fault is sent all the same
            self.after()
