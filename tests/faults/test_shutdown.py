"""SIGTERM, SIGINT and a second signal, to services and brokers, in the middle of calls."""

import asyncio
import signal

import pytest

from tests.support.fixtures import Site
from tests.support.lab import Lab, refusal_of
from tests.support.native import NativePeer, statistics
from tests.support.processes import Processes
from tests.support.waiting import eventually, wait_until
from zbusrpc import Code, RpcError, aio, connect, options

pytestmark = pytest.mark.anyio

LONG_S = 60.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_processes_end_at_once(site: Site, number: signal.Signals) -> None:
    """Service and broker without calls end with exit code 0, and say nothing about it."""
    site.service.send_signal(number)
    assert site.service.wait_exit() == 0
    site.broker.send_signal(number)
    assert site.broker.wait_exit() == 0

    assert (site.service.errors, site.broker.errors) == ("", "")


async def test_service_finishes_what_it_started(site: Site, own_lab: Lab) -> None:
    """After SIGTERM running calls get their results; the service has left the group, so new ones find nobody."""
    proxy = options(own_lab, timeout=LONG_S)
    running = [asyncio.create_task(proxy.work("running", 0.6)), asyncio.create_task(aio(proxy.block)("thread", 0.6))]
    await eventually(lambda: site.processes.marks("running") and site.processes.marks("thread"), "start of both")

    site.service.send_signal(signal.SIGTERM)
    refusal = await refusal_of(proxy)

    assert refusal.code is Code.UNAVAILABLE
    assert not refusal.may_have_run
    assert await asyncio.gather(*running) == [site.service.pid, None]
    assert await asyncio.to_thread(site.service.wait_exit) == 0


async def test_no_call_is_lost_while_one_of_two_instances_leaves(site: Site, own_lab: Lab) -> None:
    """With another instance there, callers notice nothing of a SIGTERM, idempotent or not."""
    other = site.processes.serve(site.address)
    results: list[int] = []

    async def caller() -> None:
        while len(results) < 300 or other.is_running:
            results.append(await own_lab.add(1, 2))
            await asyncio.sleep(0)

    callers = asyncio.gather(*[caller() for _ in range(8)])
    await eventually(lambda: len(results) > 50, "calls under way")
    other.send_signal(signal.SIGTERM)
    await callers

    assert set(results) == {3}
    assert other.wait_exit() == 0


async def test_grace_time_ends_what_does_not_finish(processes: Processes, links: None) -> None:
    """What has not finished within the grace time is handed back if idempotent, and otherwise fails saying it may
    have run."""
    _, address = processes.broker()
    leaving = processes.serve(address, "--grace", "0.2")
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    once = asyncio.create_task(lab.work("once", LONG_S))
    again = asyncio.create_task(lab.work_elsewhere("again"))
    await eventually(lambda: processes.marks("once") and processes.marks("again"), "start of both")
    other = processes.serve(address)

    leaving.send_signal(signal.SIGTERM)
    with pytest.raises(RpcError) as caught:
        await once

    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.may_have_run
    assert await again == other.pid
    assert await asyncio.to_thread(leaving.wait_exit) == 0
    assert "cancelled" in processes.marks("once")


async def test_waiting_calls_go_to_who_remains(processes: Processes, links: None) -> None:
    """Calls that wait in the broker when an instance leaves are not its own: another takes them."""
    _, address = processes.broker()
    leaving = processes.serve(address, "--concurrency", "1")
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    first = asyncio.create_task(lab.work("first", 0.5))
    await eventually(lambda: processes.marks("first"), "start")
    waiting = [asyncio.create_task(lab.pid()) for _ in range(5)]
    await eventually(lambda: statistics(address)["queued"] == 5, "queue")
    leaving.send_signal(signal.SIGTERM)
    other = processes.serve(address)

    results = await asyncio.gather(first, *waiting, return_exceptions=True)

    assert results[0] == leaving.pid
    for result in results[1:]:
        assert result == other.pid or (isinstance(result, RpcError) and not result.may_have_run)


async def test_handler_stuck_in_a_thread_does_not_keep_the_service(processes: Processes, links: None) -> None:
    """A `def` handler that does not end holds the service up for the grace time and little more."""
    _, address = processes.broker()
    service = processes.serve(address, "--grace", "0.1")
    call = asyncio.create_task(aio(options(connect(Lab, broker=address), timeout=LONG_S).block)("stuck", LONG_S))
    await eventually(lambda: processes.marks("stuck"), "start")

    service.send_signal(signal.SIGTERM)
    with pytest.raises(RpcError) as caught:
        await call

    assert caught.value.code is Code.UNAVAILABLE
    assert await asyncio.to_thread(service.wait_exit) == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_exits_now(site: Site, own_lab: Lab, first: signal.Signals) -> None:
    """A second signal ends the service at once, whatever runs, and its calls end as if it had died."""
    call = asyncio.create_task(options(own_lab, timeout=LONG_S).work("running", LONG_S))
    await eventually(lambda: site.processes.marks("running"), "start")

    site.service.send_signal(first)
    await eventually(lambda: not _instances(site), "instance left")
    assert site.service.is_running
    site.service.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(site.service.wait_exit) == 130
    with pytest.raises(RpcError) as caught:
        await call
    assert caught.value.code is Code.UNAVAILABLE


async def test_second_signal_ends_the_broker_now(site: Site, own_lab: Lab) -> None:
    """A broker that waits for running calls ends at once on a second signal."""
    call = asyncio.create_task(options(own_lab, timeout=LONG_S).work("running", LONG_S))
    await eventually(lambda: site.processes.marks("running"), "start")

    site.broker.send_signal(signal.SIGTERM)
    await refusal_of(own_lab)
    assert site.broker.is_running
    site.broker.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(site.broker.wait_exit) == 130
    with pytest.raises(RpcError):
        await call


def test_service_that_lost_its_broker_ends_on_a_signal(site: Site) -> None:
    """A service that is looking for its broker ends in order, too."""
    site.broker.kill()
    wait_until(lambda: site.service.log("worker.link_lost"), "loss")

    site.service.send_signal(signal.SIGTERM)

    assert site.service.wait_exit() == 0


def _instances(site: Site) -> list[object]:
    """Return the instances that the broker would give calls to."""
    with NativePeer(site.address) as peer:
        services: list[dict[str, list[object]]] = peer.query()["services"]  # type: ignore[assignment]
    return [instance for service in services for instance in service["instances"]]
