"""A broker that is killed and comes back on the same port: links open again by themselves, calls end as promised."""

import asyncio
import signal
import time

import pytest

from tests.support.fixtures import Site
from tests.support.lab import Lab, refusal_of
from tests.support.processes import Processes, port_of
from tests.support.waiting import WAIT_S, eventually
from zbusrpc import Code, RpcError, aio, connect, options

pytestmark = pytest.mark.anyio

LONG_S = 60.0


async def test_client_and_service_reconnect_by_themselves(site: Site, own_lab: Lab) -> None:
    """After kill -9 and a new start on the same port, the same proxy reaches the same service process again."""
    assert await own_lab.add(1, 2) == 3

    site.broker.kill()
    site.processes.broker(port=port_of(site.address))

    assert await options(own_lab, timeout=LONG_S, wait_for_ready=True).work_again("after", 0) == site.service.pid
    assert await own_lab.add(1, 2) == 3
    assert await aio(own_lab.subtract)(3, 2) == 1


async def test_pending_calls_end_as_promised(site: Site, own_lab: Lab) -> None:
    """When the broker dies, idempotent calls complete after its return; others are UNAVAILABLE at once."""
    proxy = options(own_lab, timeout=LONG_S)
    once = asyncio.create_task(proxy.work("once", LONG_S))
    again = asyncio.create_task(proxy.work_again("again", 0.3))
    await eventually(lambda: site.processes.marks("once") and site.processes.marks("again"), "start of both")

    site.broker.kill()
    with pytest.raises(RpcError) as caught:
        await once

    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.may_have_run
    assert not again.done()
    site.processes.broker(port=port_of(site.address))
    assert await again == site.service.pid
    assert site.processes.marks("once") == ["started", "cancelled"]
    assert site.processes.marks("again") == ["started", "cancelled", "started", "finished"]


async def test_calls_while_the_broker_is_away_fail_at_once(site: Site, own_lab: Lab) -> None:
    """While the broker is away, calls are UNAVAILABLE at once, have not run, and name the broker."""
    await own_lab.add(1, 2)
    site.broker.kill()
    await eventually(lambda: site.service.log("worker.link_lost"), "loss noticed")
    began = time.monotonic()

    errors = [await refusal_of(options(own_lab, timeout=LONG_S)) for _ in range(3)]

    assert {error.code for error in errors} == {Code.UNAVAILABLE}
    assert not errors[-1].may_have_run
    assert site.address in errors[-1].message
    assert time.monotonic() - began < WAIT_S


async def test_several_restarts_are_survived(site: Site, own_lab: Lab) -> None:
    """However often the broker restarts, everybody finds it again."""
    broker = site.broker

    for _ in range(3):
        broker.kill()
        broker, _ = site.processes.broker(port=port_of(site.address))
        assert await options(own_lab, timeout=LONG_S, wait_for_ready=True).work_again("after", 0) == site.service.pid

    assert site.service.is_running


async def test_orderly_end_of_the_broker_lets_calls_finish(site: Site, own_lab: Lab) -> None:
    """On SIGTERM the broker lets running calls finish, refuses new ones, says goodbye and exits with 0."""
    running = asyncio.create_task(options(own_lab, timeout=LONG_S).work("running", 0.5))
    await eventually(lambda: site.processes.marks("running"), "start")

    site.broker.send_signal(signal.SIGTERM)
    refusal = await refusal_of(own_lab)

    assert refusal.code is Code.UNAVAILABLE
    assert not refusal.may_have_run
    assert "shutting down" in refusal.message
    assert await running == site.service.pid
    assert await asyncio.to_thread(site.broker.wait_exit) == 0


async def test_next_broker_of_a_list_is_used(processes: Processes, links: None) -> None:
    """A client that names several brokers uses the first that answers; a service serves at each of them."""
    first, first_address = processes.broker()
    _, second_address = processes.broker()
    both = f"{first_address};{second_address}"
    service = processes.serve(both)
    lab = connect(Lab, broker=both)
    assert await lab.pid() == service.pid

    first.kill()

    assert await options(lab, timeout=LONG_S, wait_for_ready=True).work_again("after", 0) == service.pid
    assert await connect(Lab, broker=second_address).pid() == service.pid


async def test_service_starts_while_one_of_its_brokers_is_down(processes: Processes, links: None) -> None:
    """A service whose first broker is down serves at the second, and joins the first when it comes."""
    gone, gone_address = processes.broker()
    gone.kill()
    _, address = processes.broker()

    service = processes.serve(f"{gone_address};{address}")

    assert await connect(Lab, broker=address).pid() == service.pid
    processes.broker(port=port_of(gone_address))
    late = options(connect(Lab, broker=gone_address), wait_for_ready=True, timeout=LONG_S)
    assert await late.pid() == service.pid


async def test_broker_that_hangs_is_taken_for_dead(processes: Processes, links: None) -> None:
    """A broker that says nothing for the idle time (SIGSTOP) is taken for dead, and found again when it goes on."""
    broker, address = processes.broker("--idle", "1")
    service = processes.serve(address)
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    once = asyncio.create_task(lab.work("hangs", LONG_S))
    await eventually(lambda: processes.marks("hangs"), "start")

    broker.send_signal(signal.SIGSTOP)
    with pytest.raises(RpcError) as caught:
        await once
    await eventually(lambda: "cancelled" in processes.marks("hangs"), "handler cancelled")
    broker.send_signal(signal.SIGCONT)

    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.may_have_run
    assert "nothing heard" in caught.value.message
    assert await options(lab, wait_for_ready=True).work_again("back", 0) == service.pid
