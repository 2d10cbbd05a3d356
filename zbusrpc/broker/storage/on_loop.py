"""Group commit on an asyncio loop: turns are the loop's, syncs run in threads, receipts are futures.

Nothing here is a task: a batch costs one callback or, where somebody awaits it, one future. The loop is given, so
that this module has nothing that waits either.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.record import Record

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from concurrent.futures import Executor

SYNC_THREADS: Final = 4
"""Threads that an executor for all logs of a broker should have: a disk gains little from more syncs at a time."""


def committer_on_loop(
    log: Log,
    durability: Durability,
    *,
    loop: "AbstractEventLoop",
    executor: "Executor",
    now_ms: Callable[[], int],
) -> Committer:
    """Return a committer for `log` whose syncs run in `executor`."""

    def in_worker(work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        loop.run_in_executor(executor, work).add_done_callback(lambda future: done(future.exception()))

    return Committer(log, durability, soon=loop.call_soon, in_worker=in_worker, now_ms=now_ms)


def append(
    committer: Committer, batch: Sequence[Record], loop: "AbstractEventLoop", durability: Durability | None = None
) -> "Future[int]":
    """Store a batch, all or nothing, and return its first offset, to be awaited.

    `durability` is the batch's own level, as in `Committer.submit`. Cancelling leaves open whether it is stored.

    Raises:
        StorageError: as `Committer.submit`, at once; what happens later is raised by the future.
    """
    future: Future[int] = loop.create_future()

    def done(offset: int, error: StorageError | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(offset)
        else:
            future.set_exception(error)

    committer.submit(batch, done, durability)
    return future


def drained(committer: Committer, loop: "AbstractEventLoop") -> "Future[None]":
    """Return what is done when everything that was submitted is; then the log can be closed."""
    future: Future[None] = loop.create_future()
    committer.when_idle(lambda: None if future.cancelled() else future.set_result(None))
    return future
