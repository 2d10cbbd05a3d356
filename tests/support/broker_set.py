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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.lab import Lab
from tests.support.processes import Process, Processes
from tests.support.waiting import WAIT_S, eventually, wait_until
from zbusrpc import RpcError
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.cluster.fleets import fleet_of_loop
from zbusrpc.service.lifespan import hosted
from zbusrpc.service.worker import Worker
from zbusrpc.transport.address import parse_addresses

CALLS = "zbusrpc_calls_requests_total"
ASK_S = 0.03
"""How often a broker is asked for what it counts, which costs it more than a look at a variable."""


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
        options = ["--port", str(self.ports[index]), "--data-dir", str(self.data_dir(index)), *self._arguments]
        options += ["--tracker", self._trackers] if self._trackers else []
        self._running[index] = process = self.processes.zbusrpc("broker", "--json", *options)
        return process

    def data_dir(self, index: int) -> Path:
        """Return where a broker stores topics."""
        return self.processes.directory / f"data-{index}"

    def add(self) -> int:
        """Start one more broker that reports as the others do, and return its index."""
        self.ports += free_ports(1)
        self.addresses.append(f"127.0.0.1:{self.ports[-1]}")
        self._begin(len(self.ports) - 1).wait_ready()
        return len(self.ports) - 1

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


async def wait_table(address: str, wanted: Iterable[str]) -> None:
    """Return when a tracker tells of those brokers and no others."""
    async with asyncio.timeout(WAIT_S):
        while set(await asyncio.to_thread(table_of, address)) != set(wanted):  # noqa: ASYNC110 - no events there
            await asyncio.sleep(ASK_S)


async def metric(address: str, name: str) -> float:
    """Return a figure that a broker counts, of all its labels together; 0 where it has none."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    lines = (await asyncio.to_thread(read)).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


async def wait_used(address: str) -> None:
    """Return when a broker is given calls from now on."""
    before = await metric(address, CALLS)
    async with asyncio.timeout(WAIT_S):
        while await metric(address, CALLS) <= before:  # noqa: ASYNC110 - no events there
            await asyncio.sleep(ASK_S)


def fleet_at(addresses: str) -> Fleet:
    """Return the fleet of this event loop to which these addresses lead."""
    return fleet_of_loop(parse_addresses(addresses))


async def wait_known(fleet: Fleet, *addresses: str) -> None:
    """Return when a fleet knows those brokers and no others."""
    wanted = set(addresses)
    await eventually(lambda: set(fleet.topology.brokers) == wanted, f"{wanted} are known, not {fleet.topology.brokers}")


@asynccontextmanager
async def serving_at(addresses: str, target: Any = Lab, **options: Any) -> AsyncIterator[Worker]:
    """Serve in the process of the test at brokers elsewhere."""
    async with hosted(target) as (definition, instance):
        worker = Worker(definition, instance, parse_addresses(addresses), **options)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.close(1.0)


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
