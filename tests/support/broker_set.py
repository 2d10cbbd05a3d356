"""A set of brokers in processes of their own that track one another, and traffic through it.

with BrokerSet(processes, 3) as brokers:
    brokers.kill(0), brokers.start(0), brokers.freeze(1), brokers.thaw(1), brokers.stop(2)
"""

import asyncio
import json
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

from tests.support.processes import Process, Processes
from tests.support.waiting import eventually, wait_until
from zbusrpc import RpcError


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class BrokerSet:
    """Brokers that track one another."""

    def __init__(self, processes: Processes, count: int, *arguments: str, trackers: str | None = None) -> None:
        """Start them all.

        Args:
            arguments: Of each broker.
            trackers: To whom they report; by default each to all of them.
        """
        self.processes = processes
        self.ports = free_ports(count)
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.all = ";".join(self.addresses)
        self._trackers = self.all if trackers is None else trackers
        self._arguments = arguments
        self._running: dict[int, Process] = {}
        for index in range(count):
            self._begin(index)
        for index in range(count):
            self._running[index].wait_ready()

    def __getitem__(self, index: int) -> Process:
        return self._running[index]

    def _begin(self, index: int) -> Process:
        data_dir = self.processes.directory / f"data-{index}"
        options = ["--port", str(self.ports[index]), "--data-dir", str(data_dir), *self._arguments]
        options += ["--tracker", self._trackers] if self._trackers else []
        self._running[index] = process = self.processes.zbusrpc("broker", "--json", *options)
        return process

    def start(self, index: int) -> None:
        """Start a broker again, at its address and with its data."""
        self._begin(index).wait_ready()

    def kill(self, index: int) -> None:
        """End a broker as kill -9 does."""
        self._running[index].kill()

    def stop(self, index: int) -> None:
        """End a broker by SIGTERM, and wait for its end."""
        self._running[index].send_signal(signal.SIGTERM)
        assert self._running[index].wait_exit() == 0

    def freeze(self, index: int) -> None:
        """Stop a broker's process where it stands."""
        self._running[index].send_signal(signal.SIGSTOP)

    def thaw(self, index: int) -> None:
        """Let it go on."""
        self._running[index].send_signal(signal.SIGCONT)

    # -- what they know ----------------------------------------------------------------------------------

    def table(self, index: int) -> dict[str, Any]:
        """Return the table of servers that a broker tells clients of zbus."""
        return table_of(self.addresses[index])

    def consumers(self, index: int, topic: str) -> dict[str, int]:
        """Return how many consumers of a topic there are at each broker, as one of them tells."""
        return {
            address: info["topicTable"][topic]["consumerCount"]
            for address, info in self.table(index).items()
            if topic in info["topicTable"]
        }

    def wait_known(self, *indexes: int) -> None:
        """Return when those brokers list each other and no others."""
        wanted = {self.addresses[index] for index in indexes}
        for index in indexes:
            wait_until(lambda index=index: set(self.table(index)) == wanted, f"{index} knows {wanted}")  # type: ignore[misc]

    def wait_served(self, topic: str, *indexes: int, consumers: int = 1) -> None:
        """Return when a topic has so many consumers at each of those brokers."""
        wanted = {self.addresses[index]: consumers for index in indexes}
        for index in indexes:
            wait_until(
                lambda index=index: wanted.items() <= self.consumers(index, topic).items(),  # type: ignore[misc]
                f"{topic} is served at {wanted}, as {index} tells",
            )


def table_of(address: str) -> dict[str, Any]:
    """Return the table of servers that a broker tells; none where it cannot be asked."""
    with suppress(OSError), urllib.request.urlopen(f"http://{address}/tracker", timeout=2) as answer:
        table: dict[str, Any] = json.load(answer)["serverTable"]
        return table
    return {}


class Traffic:
    """Calls that go on until they are stopped, and what became of them."""

    def __init__(self) -> None:
        self.done = 0
        self.results: Counter[Any] = Counter()
        self.failures: list[RpcError] = []
        self.longest_s = 0.0
        self._is_over = False

    async def run(self, call: Callable[[], Awaitable[Any]], pause_s: float) -> None:
        """Call again and again."""
        while not self._is_over:
            began = time.monotonic()
            try:
                self.results[await call()] += 1
                self.done += 1
            except RpcError as error:
                self.failures.append(error)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            await asyncio.sleep(pause_s)

    def stop(self) -> None:
        """Let the calls that are under way be the last."""
        self._is_over = True

    async def wait_more(self, count: int = 50) -> None:
        """Return when so many more calls have succeeded."""
        wanted = self.done + count
        await eventually(lambda: self.done >= wanted or len(self.failures) > 1000, f"{count} more calls")


@asynccontextmanager
async def traffic(
    call: Callable[[], Awaitable[Any]], *, tasks: int = 4, pause_s: float = 0.002
) -> AsyncIterator[Traffic]:
    """Have some tasks make calls meanwhile."""
    flow = Traffic()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(flow.run(call, pause_s))
        try:
            yield flow
        finally:
            flow.stop()
