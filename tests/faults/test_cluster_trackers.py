"""Trackers that die, disagree, freeze, or cannot be reached: calls go on, and tables are right in the end."""

import asyncio
import sys
import time
from contextlib import AsyncExitStack

import pytest

from tests.support.broker_set import BrokerSet, fleet_at, serving_at, traffic, wait_known, wait_table, wait_used
from tests.support.lab import Lab
from tests.support.namespace import network_namespace
from tests.support.processes import Processes
from tests.support.relay import Relay, relaying
from zbusrpc import connect
from zbusrpc.cluster.fleets import close_fleets

pytestmark = pytest.mark.anyio

PAUSE_S = 0.015
"""Between two calls of the same task: enough of them meet the fault, and the machine is not busy with them."""
FROZEN_S = 2.5
"""More than a lease, and more than a client waits for a broker that is silent."""


def tracker_set(processes: Processes, count: int) -> BrokerSet:
    """Start processes that only track, and do not know each other."""
    return BrokerSet(processes, count, "--tracker-only", trackers="")


async def test_all_trackers_die_and_one_returns(processes: Processes, links: None) -> None:
    """Calls never notice, though nobody was told of the brokers; the tracker that is back knows all of them."""
    trackers = await asyncio.to_thread(tracker_set, processes, 2)
    brokers = await asyncio.to_thread(BrokerSet, processes, 2, trackers=trackers.all)
    fleet, lab = fleet_at(trackers.all), connect(Lab, broker=trackers.all)

    async with serving_at(trackers.all):
        await wait_known(fleet, *brokers.addresses)
        async with traffic(lambda: lab.add(1, 2), pause_s=PAUSE_S) as flow:
            for index in range(2):
                await flow.wait_more()
                trackers.kill(index)
                await flow.wait_more()
            assert set(fleet.topology.brokers) == set(brokers.addresses)

            await asyncio.to_thread(trackers.start, 0)
            began = time.monotonic()
            await wait_table(trackers.addresses[0], brokers.addresses)
            print(f"the tracker knew all brokers {time.monotonic() - began:.2f} s after its start")
            await asyncio.to_thread(brokers.add)
            await wait_known(fleet, *brokers.addresses)
            await wait_used(brokers.addresses[2])

    assert not flow.failures


async def test_broker_is_there_while_half_of_the_trackers_say_so(processes: Processes, links: None) -> None:
    """One of three that has lost it does not count, two do; but whoever has a link to it uses it still."""
    trackers = await asyncio.to_thread(tracker_set, processes, 3)
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(relaying(address)) for address in trackers.addresses[:2]]
        reported = ";".join([*(relay.address for relay in relays), trackers.addresses[2]])
        brokers = await asyncio.to_thread(BrokerSet, processes, 1, trackers=reported)
        user, observer = fleet_at(trackers.all), fleet_at(";".join(reversed(trackers.addresses)))
        for address in trackers.addresses:
            await wait_table(address, brokers.addresses)
        lab = connect(Lab, broker=trackers.all)
        await stack.enter_async_context(serving_at(trackers.all))
        flow = await stack.enter_async_context(traffic(lambda: lab.add(1, 2), pause_s=PAUSE_S))
        await flow.wait_more()
        await wait_known(observer, *brokers.addresses)

        part(relays[0])
        await wait_table(trackers.addresses[0], [])
        await flow.wait_more()
        assert set(observer.topology.brokers) == set(user.topology.brokers) == set(brokers.addresses)

        part(relays[1])
        await wait_known(observer)
        await flow.wait_more()
        assert set(user.topology.brokers) == set(brokers.addresses)

        for relay in relays:
            relay.release()
        await wait_known(observer, *brokers.addresses)
        for address in trackers.addresses:
            await wait_table(address, brokers.addresses)
        flow.stop()

    assert not flow.failures


def part(relay: Relay) -> None:
    """Let nothing pass in either direction, and close nothing: as a cable does that was pulled."""
    relay.hold_requests()
    relay.hold_answers()


async def test_partition_between_broker_and_tracker(processes: Processes, links: None) -> None:
    """Clients that reach the broker go on; after the partition the table is whole, though connections were cut."""
    tracker = (await asyncio.to_thread(tracker_set, processes, 1)).addresses[0]
    async with relaying(tracker) as relay:
        near = await asyncio.to_thread(BrokerSet, processes, 1, trackers=tracker)
        process, far = await asyncio.to_thread(processes.broker, "--tracker", relay.address)
        everybody = [*near.addresses, far]
        fleet, lab = fleet_at(tracker), connect(Lab, broker=tracker)
        async with serving_at(tracker):
            await wait_known(fleet, *everybody)
            async with traffic(lambda: lab.add(1, 2), pause_s=PAUSE_S) as flow:
                await wait_used(far)
                part(relay)
                await wait_table(tracker, near.addresses)
                await wait_used(far)
                assert set(fleet.topology.brokers) == set(everybody)

                relay.cut()
                await wait_table(tracker, everybody)
                await wait_used(far)
    assert process.is_running

    assert not flow.failures


@pytest.mark.long
async def test_partition_between_machines(processes: Processes, links: None) -> None:
    """The same with two real network stacks: the broker's packets to the tracker vanish, those to clients do not."""
    with network_namespace() as net:
        _, tracker = await asyncio.to_thread(processes.broker, "--host", net.tracker, "--insecure", "--tracker-only")
        options = ["--host", net.there, "--port", "0", "--insecure", "--json", "--tracker", tracker]
        options += ["--data-dir", str(processes.directory / "data")]
        process = processes.start(*net.inside(sys.executable, "-m", "zbusrpc", "broker", *options))
        far = (await asyncio.to_thread(process.wait_ready))["broker"]
        fleet, lab = fleet_at(tracker), connect(Lab, broker=tracker)
        async with serving_at(tracker):
            await wait_known(fleet, far)
            async with traffic(lambda: lab.add(1, 2), pause_s=PAUSE_S) as flow:
                await flow.wait_more()
                net.part()
                await wait_table(tracker, [])
                await flow.wait_more()
                net.heal()
                await wait_table(tracker, [far])
                await flow.wait_more()
        await close_fleets()
        process.kill()

    assert not flow.failures


async def test_frozen_tracker_declares_nobody_dead(processes: Processes, links: None) -> None:
    """It has heard nobody in that time; nor does a client whose event loop stood still give up its links."""
    trackers = await asyncio.to_thread(tracker_set, processes, 1)
    brokers = await asyncio.to_thread(BrokerSet, processes, 2, trackers=trackers.all)
    fleet, lab = fleet_at(trackers.all), connect(Lab, broker=trackers.all)
    missed: list[set[str]] = []

    async with serving_at(trackers.all):
        await wait_known(fleet, *brokers.addresses)
        async with traffic(lambda: lab.add(1, 2), pause_s=PAUSE_S) as flow:
            await wait_used(brokers.addresses[0])
            await wait_used(brokers.addresses[1])
            fleet.listeners["test"] = lambda: missed.append(set(brokers.addresses) - set(fleet.topology.brokers))
            connections = {choice.address: choice.endpoint.connection for choice in fleet.choices(b"Lab")}
            trackers.freeze(0)
            await asyncio.sleep(FROZEN_S)
            trackers.thaw(0)
            await wait_table(trackers.addresses[0], brokers.addresses)
            time.sleep(FROZEN_S)  # noqa: ASYNC251 - that is the fault
            await flow.wait_more()

    assert not flow.failures
    assert not any(missed)
    assert not trackers[0].log("tracker.lost")
    assert connections.keys() == set(brokers.addresses)
    assert connections == {choice.address: choice.endpoint.connection for choice in fleet.choices(b"Lab")}
