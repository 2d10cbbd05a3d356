"""Slices: long work on the loop, a part of it in each turn, so that everybody else is served in between.

Pure: turns come from the scheduler. Promises: no turn does more than STEPS_MAX steps, nor begins one more after
BYTES_MAX.
"""

from collections.abc import Callable, Iterator
from typing import Final

from zbusrpc.broker.sessions.scheduler import Scheduler
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.errors import RpcError

STEPS_MAX: Final = 128
"""Steps of one turn: where each is a seek on the disk, 20 ms."""
BYTES_MAX: Final = 1024 * 1024
"""Bytes that are read in one turn: some ms."""

Done = Callable[[StorageError | RpcError | None], None]


def in_slices(scheduler: Scheduler, steps: Iterator[int], done: Done) -> None:
    """Do `steps`, the first of them at once, and tell when all are done, or what one of them raised.

    Args:
        scheduler: Whose turns they take.
        steps: Does one step each time it is asked for the next, and yields how many bytes that took.
        done: Told the end once.
    """

    def go_on() -> None:
        try:
            has_more = do_slice(steps)
        except (StorageError, RpcError) as error:
            done(error)
            return
        if has_more:
            scheduler.soon(go_on)
        else:
            done(None)

    go_on()


def do_slice(steps: Iterator[int]) -> bool:
    """Do the share of one turn, and say whether there may be more."""
    count = size = 0
    for taken in steps:
        count, size = count + 1, size + taken
        if count >= STEPS_MAX or size >= BYTES_MAX:
            return True
    return False
