"""Three brokers and a service: how calls find them, share them, and outlive them."""

import asyncio

import pytest

from tests.support.broker_set import BrokerSet, traffic
from tests.support.lab import Lab
from tests.support.processes import Processes
from tests.support.waiting import eventually
from zbusrpc import Code, connect, options

pytestmark = pytest.mark.anyio


@pytest.fixture
def brokers(processes: Processes) -> BrokerSet:
    """Run three brokers that track one another."""
    return BrokerSet(processes, 3)


def serve(brokers: BrokerSet, at: int = 0) -> None:
    """Run a Lab that was told of one broker only; return when it serves at all."""
    brokers.processes.serve(brokers.addresses[at])
    brokers.wait_served("Lab", 0, 1, 2)


async def test_service_that_knows_one_broker_serves_at_all(brokers: BrokerSet, links: None) -> None:
    """And a client that knows another one finds it, and uses all three."""
    serve(brokers, at=0)
    lab = connect(Lab, broker=brokers.addresses[2])

    assert await lab.add(1, 2) == 3


async def test_rolling_restart_fails_no_call(brokers: BrokerSet, links: None) -> None:
    """Though they are not idempotent: a broker that ends takes no new ones, and what it has it finishes."""
    serve(brokers)
    lab = connect(Lab, broker=brokers.all)

    async with traffic(lambda: lab.add(1, 2)) as flow:
        for index in range(3):
            await flow.wait_more()
            await asyncio.to_thread(brokers.stop, index)
            await flow.wait_more()
            await asyncio.to_thread(brokers.start, index)
            await asyncio.to_thread(brokers.wait_served, "Lab", 0, 1, 2)
        await flow.wait_more()

    assert not flow.failures


async def test_killed_broker_is_left_at_once(brokers: BrokerSet, links: None) -> None:
    """Idempotent calls go on elsewhere; of the others those fail that were there, and say so."""
    serve(brokers)
    lab = connect(Lab, broker=brokers.all)

    async with traffic(lambda: lab.work_again("w", 0.01)) as safe, traffic(lambda: lab.work("w", 0.01)) as risky:
        await safe.wait_more()
        brokers.kill(0)
        await safe.wait_more()
        await risky.wait_more()

    assert not safe.failures
    assert all(error.code is Code.UNAVAILABLE and error.may_have_run for error in risky.failures)
    assert len(risky.failures) <= 4


async def test_frozen_broker_is_left(brokers: BrokerSet, links: None) -> None:
    """It says nothing and closes nothing; when it goes on it is used again."""
    serve(brokers)
    lab = options(connect(Lab, broker=brokers.all), timeout=15)

    async with traffic(lambda: lab.work_again("w", 0.01)) as flow:
        await flow.wait_more()
        brokers.freeze(1)
        await flow.wait_more(200)
        brokers.thaw(1)
        await flow.wait_more()
        await eventually(lambda: brokers.addresses[1] in brokers.table(0), "the frozen one is known again")

    assert not flow.failures


async def test_calls_with_a_key_stay_together(brokers: BrokerSet, links: None) -> None:
    """Each key at one broker, and all brokers have some."""
    serve(brokers)
    lab = connect(Lab, broker=brokers.all)
    await lab.add(1, 2)

    served = [brokers.processes.directory]
    for key in ("a", "b", "c", "d"):
        proxy = options(lab, key=key)
        for _ in range(5):
            assert await proxy.add(1, 2) == 3
    assert served
