"""Brokers at addresses that lead nowhere, with clocks that are wrong, and restarted ones: calls go on."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.broker_set import (
    BrokerSet,
    fleet_at,
    free_ports,
    serving_at,
    traffic,
    wait_known,
    wait_table,
    wait_used,
)
from tests.support.inprocess import BareClient
from tests.support.lab import Lab
from tests.support.processes import Process, Processes
from tests.support.waiting import eventually
from zbusrpc import connect, disconnect, mq
from zbusrpc.message import Kind, Message
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.topology import Topology, parse_topology

pytestmark = pytest.mark.anyio

HOUR_S = 3600
SKEWED = """
import sys, time
skew_s = int(sys.argv.pop(1))
time_, time_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: time_() + skew_s, lambda: time_ns() + skew_s * 10**9
from zbusrpc.__main__ import main
main()
"""
"""The command line with a clock that is wrong."""


@contextmanager
def swallowing() -> Iterator[str]:
    """Yield an address at which nobody ever answers the first packet: the backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


class HangingUp(asyncio.Protocol):
    """Says nothing, and closes the connection a while after it was opened."""

    opened: ClassVar[set[asyncio.BaseTransport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened.add(transport)
        asyncio.get_running_loop().call_later(0.5, transport.close)


@asynccontextmanager
async def hanging_up() -> AsyncIterator[str]:
    """Yield an address where each connection is closed before anything was said."""
    listener = await asyncio.get_running_loop().create_server(HangingUp, "127.0.0.1", 0)
    async with listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        for transport in HangingUp.opened:
            transport.close()


async def test_brokers_at_addresses_that_lead_nowhere(processes: Processes, links: None) -> None:
    """A call does not wait for them: not where the dial is refused, and not where it gets no answer."""
    with swallowing() as silent:
        closed = f"127.0.0.1:{free_ports(1)[0]}"
        brokers = await asyncio.to_thread(BrokerSet, processes, 1)
        seed = brokers.addresses[0]
        lost = [
            (await asyncio.to_thread(processes.broker, "--tracker", seed, "--advertise", address))[1]
            for address in (closed, silent)
        ]
        lab, fleet = connect(Lab, broker=seed), fleet_at(seed)
        async with serving_at(";".join([seed, *lost])):
            await wait_table(seed, [seed, closed, silent])
            await eventually(
                lambda: all("Lab" in broker.topics for broker in fleet.topology.brokers.values()), "all have it"
            )
            assert await lab.add(1, 2) == 3
            dialled = {str(endpoint.dialled): endpoint for endpoint in fleet._endpoints}
            async with traffic(lambda: lab.add(1, 2)) as flow:
                await flow.wait_more()
            assert dialled.keys() == {seed, closed, silent}
            assert dialled[silent].connection is dialled[silent].channel.error is None, "it is being dialled still"

    assert not flow.failures


async def test_command_does_not_wait_for_a_broker_that_hangs_up(
    processes: Processes, tmp_path: Path, links: None
) -> None:
    """A tracker tells of it, and its dial fails when all others are there: a command is for those."""
    async with hanging_up() as lost:
        brokers = await asyncio.to_thread(BrokerSet, processes, 1, "--tracker-only")
        seed = brokers.addresses[0]
        _, live = await asyncio.to_thread(processes.broker, "--tracker", seed, "--data-dir", str(tmp_path / "data"))
        await asyncio.to_thread(processes.broker, "--tracker", seed, "--advertise", lost)
        await wait_table(seed, [live, lost])

        for number in range(3):
            assert (await mq.declare(f"orders.{number}", broker=seed)).is_new
            await disconnect()


# -- clocks --------------------------------------------------------------------------------------------------


async def skewed(processes: Processes, port: int, skew_s: int, *arguments: str) -> Process:
    """Start a broker whose clock is wrong."""
    options = ["broker", "--port", str(port), "--json", "--data-dir", str(processes.directory / f"data-{port}")]
    process = processes.python(SKEWED, str(skew_s), *options, *arguments)
    await asyncio.to_thread(process.wait_ready)
    return process


@asynccontextmanager
async def tracking(port: int) -> AsyncIterator[list[Topology]]:
    """Yield what a tracker tells, as it comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client, told = BareClient(reader, writer), list[Topology]()

    async def listen() -> None:
        client.send(hello_message(Hello(name="watcher")), Message(Kind.TRACK, 1))
        while True:
            message = await client.receive()
            if message.kind in {Kind.REPLY, Kind.TOPOLOGY}:
                told.append(parse_topology(message.body, is_reply=message.kind == Kind.REPLY))

    task = asyncio.create_task(listen())
    try:
        await eventually(lambda: told, "an answer to TRACK")
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()


async def last_version(port: int) -> int:
    """Return the version of what a tracker tells now."""
    async with tracking(port) as told:
        return told[-1].version


async def test_clocks_that_differ_by_an_hour(processes: Processes, links: None) -> None:
    """Tables are right, and versions grow though tracker and broker come back with clocks that went back."""
    ports = free_ports(3)
    tracker_port, early_port, late_port = ports
    tracker, early, late = (f"127.0.0.1:{port}" for port in ports)
    report = ("--tracker", tracker)
    first = await skewed(processes, tracker_port, HOUR_S, "--tracker-only")
    first_late = await skewed(processes, late_port, HOUR_S, *report)
    await skewed(processes, early_port, -HOUR_S, *report)
    lab, fleet = connect(Lab, broker=tracker), fleet_at(tracker)

    async with serving_at(tracker):
        await wait_known(fleet, early, late)
        await wait_used_at(lab, early, late)
        versions = {port: await last_version(port) for port in (tracker_port, late_port)}
        first.kill()
        await skewed(processes, tracker_port, -HOUR_S, "--tracker-only")
        async with tracking(tracker_port) as told:
            await eventually(lambda: told[-1].version > versions[tracker_port], "a version that grows")
        await wait_table(tracker, [early, late])

        first_late.kill()
        await skewed(processes, late_port, -HOUR_S, *report)
        async with tracking(late_port) as told:
            await eventually(lambda: told[-1].version > versions[late_port], "a version that grows")
        await wait_known(fleet, early, late)
        await wait_used_at(lab, early, late)


async def wait_used_at(lab: Lab, *addresses: str) -> None:
    """Return when calls go to those brokers."""
    async with traffic(lambda: lab.add(1, 2), pause_s=0.015):
        for address in addresses:
            await wait_used(address)


# -- restarts ------------------------------------------------------------------------------------------------


async def test_restarts_at_the_same_address(processes: Processes, links: None) -> None:
    """It is used again, for calls and in all tables, with the data that it had and with an empty directory."""
    brokers = await asyncio.to_thread(BrokerSet, processes, 2)
    lab, fleet = connect(Lab, broker=brokers.addresses[0]), fleet_at(brokers.addresses[0])
    boots = set()

    async with serving_at(brokers.all):
        for has_data in (True, False):
            await wait_known(fleet, *brokers.addresses)
            await wait_used_at(lab, *brokers.addresses)
            boots.add(fleet.topology.brokers[brokers.addresses[1]].boot)
            brokers.kill(1)
            if not has_data:
                shutil.rmtree(brokers.data_dir(1))
            await asyncio.to_thread(brokers.start, 1)
            await wait_used_at(lab, *brokers.addresses)
            for address in brokers.addresses:
                await wait_table(address, brokers.addresses)
        boots.add(fleet.topology.brokers[brokers.addresses[1]].boot)

    assert len(boots) == 3
