"""Deadlines and cancellation: who gives up, who is told, and what never runs."""

import asyncio
import random
import signal
import time
import urllib.request
from contextlib import suppress

import pytest

from tests.support.fixtures import Site, open_site
from tests.support.lab import Lab
from tests.support.native import NativePeer, dial, statistics
from tests.support.processes import Processes
from tests.support.waiting import eventually, wait_until
from zbusrpc import Code, RpcError, aio, connect, deadline, envelope, options
from zbusrpc.message import Flag, Kind, Message

pytestmark = pytest.mark.anyio

LONG_S = 60.0
"""A handler that is not stopped would take this long: longer than any test waits."""


@pytest.fixture
def narrow(processes: Processes) -> Site:
    """Run a Lab that works on one call at a time."""
    return open_site(processes, "--concurrency", "1")


async def test_deadline_in_the_queue_never_reaches_a_handler(narrow: Site, links: None) -> None:
    """A call whose deadline passes while it waits is DEADLINE_EXCEEDED, dropped by the broker, and never runs."""
    lab = connect(Lab, broker=narrow.address)
    first = asyncio.create_task(options(lab, timeout=LONG_S).work("first", 1.0))
    await eventually(lambda: narrow.processes.marks("first"), "start of the first")

    with pytest.raises(RpcError) as caught:
        await options(lab, timeout=0.2).work("second", 0)

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await eventually(lambda: statistics(narrow.address)["expired"] == 1, "dropped by the broker")
    assert statistics(narrow.address)["queued"] == 0
    await first
    await lab.work("third", 0)
    assert narrow.processes.marks("second") == []


def test_broker_says_that_a_call_expired_in_the_queue(narrow: Site) -> None:
    """A caller that keeps no time of its own is told by the broker, which knows that the call has not run."""
    with NativePeer(narrow.address) as peer:
        peer.request(1, "Lab", envelope.request_body("work", ["first", LONG_S]))
        wait_until(lambda: narrow.processes.marks("first"), "start of the first")
        peer.request(2, "Lab", envelope.request_body("work", ["second", 0]), timeout_ms=50)
        reply = peer.receive()

    error = envelope.parse_error(reply.body)
    assert reply.id == 2
    assert error.code is Code.DEADLINE_EXCEEDED
    assert error.details["may_have_run"] is False


async def test_deadline_in_the_handler_cancels_it(shared_site: Site, lab: Lab) -> None:
    """A call whose deadline passes in the handler is DEADLINE_EXCEEDED, and the handler's task is cancelled."""
    began = time.monotonic()
    with pytest.raises(RpcError) as caught:
        await options(lab, timeout=0.2).work("too-slow", LONG_S)

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - began >= 0.2
    await eventually(lambda: "cancelled" in shared_site.processes.marks("too-slow"), "cancelled handler")


async def test_default_deadline_is_ten_seconds(lab: Lab) -> None:
    """A call that names no time limit has ten seconds, and the handler knows it."""
    assert 9.0 < await lab.time_left() <= 10.0


async def test_deadline_in_a_thread_frees_the_caller(lab: Lab) -> None:
    """A blocked `def` handler cannot be stopped, but its caller is free when the deadline passes."""
    with pytest.raises(RpcError) as caught:
        await aio(options(lab, timeout=0.1).block)("thread", 1.0)

    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_nested_call_inherits_what_is_left(lab: Lab) -> None:
    """A call made inside a handler has no more time than its caller has left, whatever it asks for."""
    proxy = options(lab, timeout=5.0)

    assert 3.0 < await proxy.relayed_time(LONG_S) <= 5.0
    assert 3.0 < await aio(proxy.relayed_time_from_thread)(LONG_S) <= 5.0


async def test_deadline_reaches_through_a_nested_call(shared_site: Site, lab: Lab) -> None:
    """When the outer deadline passes, the handler of the nested call is cancelled, too."""
    with pytest.raises(RpcError) as caught:
        await options(lab, timeout=0.4).relay("nested", LONG_S, LONG_S)

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await eventually(lambda: "cancelled" in shared_site.processes.marks("nested"), "cancelled nested handler")


async def test_deadline_block_limits_all_calls_in_it(lab: Lab) -> None:
    """Calls within `with deadline(...)` end together; an inner, longer limit changes nothing."""
    with deadline(0.3), deadline(LONG_S), pytest.raises(RpcError) as caught:
        await options(lab, timeout=LONG_S).work("limited", LONG_S)

    assert caught.value.code is Code.DEADLINE_EXCEEDED


# -- the caller gives up -------------------------------------------------------------------------------------


async def test_cancelled_caller_cancels_the_handler(shared_site: Site, lab: Lab) -> None:
    """Cancelling the task that waits for a call cancels the handler's task."""
    call = asyncio.create_task(options(lab, timeout=LONG_S).work("given-up", LONG_S))
    await eventually(lambda: shared_site.processes.marks("given-up"), "start")

    call.cancel()

    with suppress(asyncio.CancelledError):
        await call
    await eventually(lambda: "cancelled" in shared_site.processes.marks("given-up"), "cancelled handler")
    assert await lab.add(1, 2) == 3


async def test_cancellation_reaches_through_a_nested_call(shared_site: Site, lab: Lab) -> None:
    """A cancelled handler gives up the call that it waits for itself."""
    call = asyncio.create_task(options(lab, timeout=LONG_S).relay("deep", LONG_S, LONG_S))
    await eventually(lambda: shared_site.processes.marks("deep"), "start")

    call.cancel()

    await eventually(lambda: "cancelled" in shared_site.processes.marks("deep"), "cancelled nested handler")


async def test_call_cancelled_in_the_queue_never_runs(narrow: Site, links: None) -> None:
    """A call that is given up while it waits leaves the queue at once."""
    lab = options(connect(Lab, broker=narrow.address), timeout=LONG_S)
    first = asyncio.create_task(lab.work("first", LONG_S))
    await eventually(lambda: narrow.processes.marks("first"), "start of the first")
    second = asyncio.create_task(lab.work("second", 0))
    await eventually(lambda: statistics(narrow.address)["queued"] == 1, "second in the queue")

    second.cancel()

    await eventually(lambda: statistics(narrow.address)["queued"] == 0, "empty queue")
    first.cancel()
    assert await lab.add(1, 2) == 3
    assert narrow.processes.marks("second") == []


@pytest.mark.parametrize("gives_up_by", ["cancelling", "deadline"])
async def test_calls_given_up_at_any_moment_leave_no_trace(processes: Processes, links: None, gives_up_by: str) -> None:
    """However many calls are given up at whatever moment, every place of the service is free again afterwards."""
    site = open_site(processes, "--concurrency", "4")
    lab = connect(Lab, broker=site.address)
    rng = random.Random(2024)
    await lab.add(0, 0)

    async def give_up(number: int) -> None:
        limit_s = rng.uniform(0.0001, 0.05)
        with suppress(TimeoutError, RpcError):
            if gives_up_by == "deadline":
                await options(lab, timeout=limit_s).work(f"stray-{number}", rng.choice([0, 0.01, LONG_S]))
            else:
                async with asyncio.timeout(limit_s):
                    await lab.work(f"stray-{number}", rng.choice([0, 0.01, LONG_S]))

    await asyncio.gather(*[give_up(number) for number in range(400)])

    await eventually(lambda: statistics(site.address)["in_flight"] == 0, "nothing in flight")
    assert statistics(site.address)["queued"] == 0
    all_places = asyncio.gather(*[lab.work(f"place-{number}", 0.5) for number in range(4)])
    await eventually(lambda: statistics(site.address)["in_flight"] == 4, "all places in use")
    assert await all_places == [site.service.pid] * 4


CALLER = """
import sys
from tests.support.lab import Lab
from zbusrpc import blocking, connect, options
blocking(options(connect(Lab, broker=sys.argv[1]), timeout=60).work)(sys.argv[2], 60)
"""


def test_killed_caller_cancels_the_handler(site: Site) -> None:
    """When the calling process dies, the handler's task is cancelled."""
    caller = site.processes.python(CALLER, site.address, "orphan")
    wait_until(lambda: site.processes.marks("orphan"), "start")

    caller.kill()

    wait_until(lambda: "cancelled" in site.processes.marks("orphan"), "cancelled handler")
    wait_until(lambda: statistics(site.address)["in_flight"] == 0, "free place")


def test_interrupted_blocking_caller_cancels_the_handler(site: Site) -> None:
    """Ctrl-C in a blocking call ends the call and its handler, and the program at once."""
    caller = site.processes.python(CALLER, site.address, "interrupted")
    wait_until(lambda: site.processes.marks("interrupted"), "start")

    caller.send_signal(signal.SIGINT)

    wait_until(lambda: "cancelled" in site.processes.marks("interrupted"), "cancelled handler")
    caller.wait_exit()
    assert "KeyboardInterrupt" in caller.errors


def test_http_caller_that_hangs_up_cancels_the_handler(shared_site: Site) -> None:
    """Closing the HTTP connection in the middle of a call cancels its handler."""
    connection = dial(shared_site.address)
    connection.sendall(b"GET /rpc/Lab/work/hung-up/60 HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: shared_site.processes.marks("hung-up"), "start")

    connection.close()

    wait_until(lambda: "cancelled" in shared_site.processes.marks("hung-up"), "cancelled handler")


def test_timeout_header_limits_an_http_call(shared_site: Site) -> None:
    """`Timeout-Ms` is the deadline of a call over HTTP; 504 is what its end looks like."""
    request = urllib.request.Request(
        f"http://{shared_site.address}/rpc/Lab/work/http-slow/60", headers={"Timeout-Ms": "100"}
    )

    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request):
        pass

    with caught.value as response:
        assert response.code == 504
    wait_until(lambda: "cancelled" in shared_site.processes.marks("http-slow"), "cancelled handler")


# -- late replies --------------------------------------------------------------------------------------------


def test_late_reply_is_dropped_and_counted(site: Site) -> None:
    """A reply that comes after its call has ended reaches nobody and is counted."""
    with NativePeer(site.address) as stubborn, NativePeer(site.address) as caller:
        stubborn.subscribe("Stubborn")
        caller.request(1, "Stubborn", b'{"method":"any"}')
        request = stubborn.receive()
        caller.send(Message(Kind.CANCEL, 1))
        assert stubborn.receive().kind == Kind.CANCEL
        stubborn.send(Message(Kind.REPLY, request.id, body=b'{"result":"late"}', session=request.session))
        caller.request(2, "Stubborn", b'{"method":"any"}')
        request = stubborn.receive()
        stubborn.send(Message(Kind.REPLY, request.id, body=b'{"result":"in time"}', session=request.session))
        answer = caller.receive()

    assert (answer.id, bytes(answer.body)) == (2, b'{"result":"in time"}')
    assert statistics(site.address)["late_replies"] == 1


def test_reply_to_a_call_that_was_never_made_is_dropped(site: Site) -> None:
    """A service that answers what nobody asked hurts nobody."""
    with NativePeer(site.address) as liar:
        liar.subscribe("Liar")
        for number in range(5):
            liar.send(Message(Kind.REPLY, number, body=b"x", session=number, flags=int(Flag.ERROR)))

        counted = liar.query()["statistics"]

    assert counted["late_replies"] == 5
