"""Brokers that join and leave, again and again: nothing is left of them, at clients, services or trackers."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.broker_set import fleet_at, metric, serving_at
from tests.support.lab import Lab
from tests.support.processes import Process, Processes
from tests.support.waiting import eventually
from zbusrpc import connect
from zbusrpc.broker.assembly.server import Server
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.service.worker import Worker
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio

TOGETHER = 10
"""Brokers that are there at the same time."""


@asynccontextmanager
async def joining(tracker: str) -> AsyncIterator[str]:
    """Run a broker in this process while it is wanted; yield its address."""
    server = Server(trackers=parse_addresses(tracker))
    address = await server.start("127.0.0.1", 0)
    try:
        yield address
    finally:
        await server.close()


async def figures(tracker: Process, address: str, fleet: Fleet, worker: Worker) -> dict[str, float]:
    """Return what may leak."""
    gc.collect()
    served = worker._fleet
    assert served is not None
    return {
        "file descriptors here": len(os.listdir("/proc/self/fd")),
        "file descriptors of the tracker": len(os.listdir(f"/proc/{tracker.pid}/fd")),
        "sessions of the tracker": await metric(address, "zbusrpc_sessions"),
        "tasks": len(asyncio.all_tasks()),
        "endpoints": len(fleet._endpoints),
        "views of the fleet": len(fleet.topology._views),
        "brokers that the fleet knows": len(fleet.topology.brokers),
        "posts": len(worker._attachments),
        "endpoints of the worker": len(served._endpoints),
        "views of the worker": len(served.topology._views),
    }


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.long)])
async def test_brokers_that_join_and_leave_leave_nothing_behind(processes: Processes, links: None, rounds: int) -> None:
    """Links, tasks, sessions and file descriptors are as many as before, after a hundred."""
    process, tracker = await asyncio.to_thread(processes.broker)
    fleet, lab = fleet_at(tracker), connect(Lab, broker=tracker)

    async with serving_at(tracker) as worker:

        async def join_and_leave() -> None:
            async with AsyncExitStack() as stack:
                joined = [await stack.enter_async_context(joining(tracker)) for _ in range(TOGETHER)]
                await eventually(
                    lambda: len([1 for choice in fleet.choices(b"Lab") if choice.consumers]) == len(joined) + 1,
                    "all serve, and are linked",
                )
                for _ in range(3 * TOGETHER):
                    assert await lab.add(1, 2) == 3

        async def before_is_again(before: dict[str, float]) -> None:
            now: dict[str, float] = {}
            try:
                async with asyncio.timeout(10):
                    while (now := await figures(process, tracker, fleet, worker)) != before:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            except TimeoutError:
                assert now == before

        assert await lab.add(1, 2) == 3
        await eventually(lambda: fleet.topology.brokers, "the table")
        before = await figures(process, tracker, fleet, worker)
        for _ in range(rounds):
            await join_and_leave()
        await before_is_again(before)
        assert await lab.add(1, 2) == 3
