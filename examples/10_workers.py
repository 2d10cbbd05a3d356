"""Several processes of one service: the calls are shared between them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zbusrpc import connect, options, service


@service(concurrency=4)
class Who:
    """Says which process answers."""

    async def pid(self) -> int:
        """Return the number of the process."""
        await asyncio.sleep(0.05)
        return os.getpid()


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run a command of zbusrpc until the block ends, and yield the broker that it names when it is ready."""
    command = [sys.executable, "-m", "zbusrpc", *arguments, "--json", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as running:
        assert running.stdout is not None
        try:
            yield json.loads(running.stdout.readline())["broker"]
        finally:
            running.terminate()


async def main(broker: str) -> None:
    """Make calls at the same time, and count who answered."""
    who = options(connect(Who, broker=broker), wait_for_ready=True)
    pids: set[int] = set()
    while len(pids) < 2:
        pids |= set(await asyncio.gather(*[who.pid() for _ in range(8)]))
    print("processes that answered:", len(pids))


if __name__ == "__main__":
    with (
        process("broker", "--port", "0") as address,
        process("serve", "10_workers:Who", "--workers", "2", "--broker", address),
    ):
        asyncio.run(asyncio.wait_for(main(address), 10))
