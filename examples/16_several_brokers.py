"""Three brokers on one machine: a client that knows one uses all, and one is taken out without a call failing."""

import asyncio
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from zbusrpc import connect, rpc, service
from zbusrpc.testing import running


@service
class Calc:
    """Arithmetic over the bus."""

    @rpc(idempotent=True)
    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b


@contextmanager
def brokers(count: int) -> Iterator[list[str]]:
    """Run brokers until the block ends, and yield their addresses."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "zbusrpc", "broker", "--port", "0", "--nodes", str(count), "--json"]
        command += ["--data-dir", directory, "--log-level", "error"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            try:
                yield json.loads(running.stdout.readline())["brokers"]
            finally:
                running.terminate()


def calls_at(address: str) -> int:
    """Return how many calls a broker was given, as its own page shows it."""
    with urllib.request.urlopen(f"http://{address}/api/server") as answer:
        return int(json.load(answer)["result"]["statistics"]["requests"])


async def main(addresses: list[str]) -> None:
    """Call through all of them, and take one out meanwhile."""
    calc = connect(Calc, broker=addresses[0], selector="round-robin")
    async with running(Calc, broker=addresses[0]):
        while not all([await asyncio.to_thread(calls_at, address) for address in addresses]):
            await calc.add(1, 2)
        print("brokers that were given calls:", len(addresses))

        drain = ["broker", "drain", addresses[1]]
        draining = await asyncio.create_subprocess_exec(sys.executable, "-m", "zbusrpc", *drain)
        calls = 0
        while draining.returncode is None:
            assert await calc.add(calls, 1) == calls + 1
            calls += 1
            await asyncio.sleep(0.001)
        print("calls failed while one was taken out:", 0)


if __name__ == "__main__":
    with brokers(3) as found:
        asyncio.run(asyncio.wait_for(main(found), 20))
