"""An instance that dies, hangs or leaves in the middle of calls: who takes over, and who is told what."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.fixtures import Site
from tests.support.lab import Lab
from tests.support.native import NativePeer, statistics
from tests.support.processes import LAB, Processes
from tests.support.waiting import WAIT_S, eventually, wait_until
from zbusrpc import Code, RpcError, connect, envelope, options
from zbusrpc.broker.sessions.limits import ATTEMPTS_MAX
from zbusrpc.message import Kind, Message

pytestmark = pytest.mark.anyio

LONG_S = 60.0


async def test_idempotent_call_moves_to_another_instance(site: Site, own_lab: Lab) -> None:
    """After kill -9 in the middle of an idempotent call, another instance runs it and the caller gets its result."""
    other = site.processes.serve(site.address)
    call = asyncio.create_task(options(own_lab, timeout=LONG_S).work_until("moved", 2))
    await eventually(lambda: site.processes.marks("moved"), "start")
    (victim,) = site.processes.pids("moved", "started")

    os.kill(victim, signal.SIGKILL)

    assert await call == 2
    survivor = other.pid if victim == site.service.pid else site.service.pid
    assert site.processes.pids("moved", "started") == [victim, survivor]


async def test_other_call_fails_at_once_and_is_not_repeated(site: Site, own_lab: Lab) -> None:
    """After kill -9 a call that is not idempotent is UNAVAILABLE at once, says it may have run, and is not repeated."""
    site.processes.serve(site.address)
    call = asyncio.create_task(options(own_lab, timeout=LONG_S, retries=5).work("once", LONG_S))
    await eventually(lambda: site.processes.marks("once"), "start")
    began = time.monotonic()

    os.kill(site.processes.pids("once", "started")[0], signal.SIGKILL)
    with pytest.raises(RpcError) as caught:
        await call

    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.may_have_run
    assert "may have run" in caught.value.message
    assert time.monotonic() - began < WAIT_S
    assert site.processes.marks("once") == ["started"]
    assert await own_lab.add(1, 2) == 3


async def test_idempotent_call_fails_when_no_other_instance_is_left(site: Site, own_lab: Lab) -> None:
    """When the last instance dies, its idempotent calls are UNAVAILABLE at once: nobody is there to run them."""
    call = asyncio.create_task(options(own_lab, timeout=LONG_S).work_again("last", LONG_S))
    await eventually(lambda: site.processes.marks("last"), "start")

    site.service.kill()
    with pytest.raises(RpcError) as caught:
        await call

    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.may_have_run


async def test_idempotent_call_waits_for_a_new_instance_when_asked(site: Site, own_lab: Lab) -> None:
    """With wait_for_ready, an idempotent call whose only instance died waits for the next one."""
    call = asyncio.create_task(options(own_lab, timeout=LONG_S, wait_for_ready=True).work_until("waits", 2))
    await eventually(lambda: site.processes.marks("waits"), "start")

    site.service.kill()
    await eventually(lambda: statistics(site.address)["queued"] == 1, "call back in the queue")
    site.processes.serve(site.address)

    assert await call == 2


async def test_waiting_calls_of_a_dead_instance_go_to_another(processes: Processes, links: None) -> None:
    """Calls that wait when an instance dies are served by another, idempotent or not: they have not run."""
    _, address = processes.broker()
    processes.serve(address, "--concurrency", "1")
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    first = asyncio.create_task(lab.work("first", LONG_S))
    await eventually(lambda: processes.marks("first"), "start of the first")
    waiting = [asyncio.create_task(lab.work(f"waiting-{number}", 0)) for number in range(5)]
    await eventually(lambda: statistics(address)["queued"] == 5, "queue")
    other = processes.zbusrpc("serve", LAB, "--broker", address, "--concurrency", "1", "--json")

    os.kill(processes.pids("first", "started")[0], signal.SIGKILL)
    results = await asyncio.gather(first, *waiting, return_exceptions=True)

    assert isinstance(results[0], RpcError)
    is_served = [result == other.pid for result in results[1:]]
    has_not_run = [isinstance(result, RpcError) and not result.may_have_run for result in results[1:]]
    assert all(served or unrun for served, unrun in zip(is_served, has_not_run, strict=True))


async def test_call_that_kills_its_instances_is_given_up(processes: Processes, links: None) -> None:
    """An idempotent call that each instance dies of is given to a few only, then fails."""
    _, address = processes.broker()
    for _ in range(ATTEMPTS_MAX + 1):
        processes.serve(address)
    call = asyncio.create_task(options(connect(Lab, broker=address), timeout=LONG_S).work_again("poison", LONG_S))

    for attempt in range(ATTEMPTS_MAX):
        await eventually(lambda n=attempt: len(processes.marks("poison")) == n + 1, f"attempt {attempt + 1}")  # type: ignore[misc]
        os.kill(processes.pids("poison", "started")[-1], signal.SIGKILL)
    with pytest.raises(RpcError) as caught:
        await call

    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.details["attempts"] == ATTEMPTS_MAX
    assert len(processes.marks("poison")) == ATTEMPTS_MAX


async def test_instance_that_hangs_is_taken_for_dead(processes: Processes, links: None) -> None:
    """An instance that says nothing for the idle time (SIGSTOP) is dropped, and its calls end as if it had died."""
    _, address = processes.broker("--idle", "2")
    hanging = processes.serve(address)
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    once = asyncio.create_task(lab.work("hangs", LONG_S))
    again = asyncio.create_task(lab.work_until("hangs-again", 2))
    await eventually(lambda: processes.marks("hangs") and processes.marks("hangs-again"), "start of both")
    processes.serve(address)

    hanging.send_signal(signal.SIGSTOP)

    assert await again == 2
    with pytest.raises(RpcError) as caught:
        await once
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.may_have_run


async def test_instance_that_was_dropped_comes_back(processes: Processes, links: None) -> None:
    """An instance that was dropped while it hung cancels what it worked on and subscribes again by itself."""
    _, address = processes.broker("--idle", "2")
    service = processes.serve(address)
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    call = asyncio.create_task(lab.work("frozen", LONG_S))
    await eventually(lambda: processes.marks("frozen"), "start")
    service.send_signal(signal.SIGSTOP)
    with pytest.raises(RpcError):
        await call

    service.send_signal(signal.SIGCONT)

    assert await options(lab, wait_for_ready=True).pid() == service.pid
    await eventually(lambda: "cancelled" in processes.marks("frozen"), "cancelled handler")


def test_service_that_gives_up_a_call_silently_is_reported(site: Site) -> None:
    """A service that reports a live call as done, without a reply, leaves no caller hanging."""
    with NativePeer(site.address) as quitter, NativePeer(site.address) as caller:
        quitter.subscribe("Quitter")
        caller.request(1, "Quitter", b"{}")
        request = quitter.receive()
        quitter.send(Message(Kind.DONE, request.id, session=request.session))
        error = envelope.parse_error(caller.receive().body)

    assert error.code is Code.UNAVAILABLE
    assert error.details["may_have_run"] is True


def test_service_that_returns_a_call_for_ever_holds_nobody_up(site: Site) -> None:
    """A service that hands every call back gets it three times; then the caller learns that it has not run."""

    def return_all(lazy: NativePeer) -> None:
        for message in lazy.messages():
            if message.kind == Kind.REQUEST:
                lazy.send(Message(Kind.RETURN, message.id, session=message.session))

    with NativePeer(site.address) as lazy, NativePeer(site.address) as caller, ThreadPoolExecutor(1) as threads:
        lazy.subscribe("Lazy")
        returning = threads.submit(return_all, lazy)
        caller.request(1, "Lazy", b"{}")
        error = envelope.parse_error(caller.receive().body)
        lazy.hang_up()
        returning.result()

    assert error.code is Code.UNAVAILABLE
    assert error.details["may_have_run"] is False
    wait_until(lambda: statistics(site.address)["in_flight"] == 0, "nothing in flight")


async def test_instance_that_blocks_its_loop_is_named_and_its_call_not_repeated(
    processes: Processes, links: None
) -> None:
    """Its broker takes it for dead: what is not idempotent may have run, and only what is idempotent runs elsewhere."""
    _, address = processes.broker("--idle", "1")
    first = processes.serve(address, "--concurrency", "1")
    other = processes.serve(address, "--concurrency", "1")
    lab = options(connect(Lab, broker=address), timeout=LONG_S, retries=5)

    with pytest.raises(RpcError) as caught:
        await lab.hog("once", 3.0)
    assert await options(lab, wait_for_ready=True).hog_elsewhere("again", 3.0) in {first.pid, other.pid}

    assert (caught.value.code, caught.value.may_have_run) == (Code.UNAVAILABLE, True)
    await eventually(lambda: processes.marks("once") == ["started", "finished"], "end of the first")
    await eventually(lambda: len(processes.marks("again")) == 2, "end of the second")
    lines = first.log("service.loop_blocked") + other.log("service.loop_blocked")
    assert {line["method"] for line in lines} == {"Lab.hog", "Lab.hog_elsewhere"}
    assert all("lab.py" in line["where"] for line in lines)
