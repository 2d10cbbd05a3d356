"""A process that writes to a log until it is killed, and prints each acknowledged record: `offset number`.

python -m tests.support.storage_writer DIRECTORY LEVEL FIRST_NUMBER
"""

import asyncio
import os
import sys

from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.assembly.loop_scheduler import LoopScheduler
from zbusrpc.broker.sessions.scheduler import committer_on
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.recovery import open_log

OPTIONS = LogOptions(segment_bytes_max=256 * 1024, checkpoint_bytes=64 * 1024)
"""Small, so that rolls and checkpoints happen all the time."""
IN_FLIGHT = 32


async def write(directory: str, level: Durability, number: int) -> None:
    """Keep some batches of one to three records under way, for ever."""
    loop = asyncio.get_running_loop()
    disk = RealDisk()
    log = open_log(disk, Handles(disk), directory, OPTIONS, now_ms=1)
    committer = committer_on(LoopScheduler(loop, Clock()), log, level)

    def send() -> None:
        nonlocal number
        size = number % 3 + 1
        first, number = number, number + size

        def done(offset: int, error: StorageError | None) -> None:
            assert error is None, error
            lines = "".join(f"{offset + n} {first + n}\n" for n in range(size))
            os.write(1, lines.encode())  # one write, far below PIPE_BUF: a line is there or not
            loop.call_soon(send)

        committer.submit([Record(b"%d " % (first + n) * 20) for n in range(size)], done)

    for _ in range(IN_FLIGHT):
        send()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], Durability(sys.argv[2]), int(sys.argv[3])))
