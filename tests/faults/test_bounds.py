"""Full queues, messages over the limit, and callers who send more than anybody takes: refused, and memory stays."""

import asyncio
from collections import Counter

import pytest

from tests.support.fixtures import Site, open_site
from tests.support.lab import Lab
from tests.support.native import NativePeer, dial, frame, statistics
from tests.support.processes import Processes
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, envelope, options
from zbusrpc.message import Kind, Message
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.native import Decoder

pytestmark = pytest.mark.anyio

LONG_S = 60.0
MIB = 1024 * 1024


async def test_full_queue_refuses_at_once(processes: Processes, links: None) -> None:
    """When a client's share of a queue is, the next call is RESOURCE_EXHAUSTED, has not run, and says when to retry."""
    site = open_site(processes, "--concurrency", "1", broker=("--queue-calls-max", "6"))
    lab = options(connect(Lab, broker=site.address), timeout=LONG_S)
    running = [asyncio.create_task(lab.work("running", LONG_S))]
    await eventually(lambda: processes.marks("running"), "start")
    waiting = [asyncio.create_task(lab.add(number, 1)) for number in range(3)]
    await eventually(lambda: statistics(site.address)["queued"] == 3, "full queue")

    with pytest.raises(RpcError) as caught:
        await lab.add(1, 2)

    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.retry_after_s == 0.5
    assert not caught.value.may_have_run
    assert "is used up: 3 of 6 calls that may wait for service" in caught.value.message
    running[0].cancel()
    assert await asyncio.gather(*waiting) == [1, 2, 3]


async def test_retries_wait_for_room_in_the_queue(processes: Processes, links: None) -> None:
    """With retries, a call that found the queue full is tried again after the time that the broker named."""
    site = open_site(processes, "--concurrency", "1", broker=("--queue-calls-max", "1"))
    lab = options(connect(Lab, broker=site.address), timeout=LONG_S)
    running = asyncio.create_task(lab.work("running", LONG_S))
    await eventually(lambda: processes.marks("running"), "start")
    waiting = asyncio.create_task(lab.add(0, 1))
    await eventually(lambda: statistics(site.address)["queued"] == 1, "full queue")
    patient = asyncio.create_task(options(lab, retries=5).add(1, 2))
    await eventually(lambda: statistics(site.address)["refused"] == 1, "first refusal")

    running.cancel()

    assert await patient == 3
    assert await waiting == 1


async def test_queued_bytes_are_bounded(processes: Processes, links: None) -> None:
    """However much is sent to a service that takes nothing, the broker keeps a share of its limit at most."""
    broker, address = processes.broker(ZBUSRPC_QUEUED_BYTES_MAX=str(4 * MIB))
    processes.serve(address, "--concurrency", "1")
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    running = asyncio.create_task(lab.work("running", LONG_S))
    await eventually(lambda: processes.marks("running"), "start")
    memory_before = broker.memory_bytes
    text = "x" * (MIB // 4)

    calls = [asyncio.create_task(lab.length(text)) for _ in range(200)]
    await eventually(lambda: sum(call.done() for call in calls) >= 185, "refusals")

    assert statistics(address)["queued_bytes"] <= 2 * MIB
    assert broker.memory_bytes - memory_before < 40 * MIB
    running.cancel()
    outcomes = Counter(
        result.code if isinstance(result, RpcError) else result
        for result in await asyncio.gather(*calls, return_exceptions=True)
    )
    assert set(outcomes) == {Code.RESOURCE_EXHAUSTED, len(text)}
    assert outcomes[len(text)] == 7  # half of the limit is one connection's


async def test_too_large_request_is_not_sent(processes: Processes, links: None) -> None:
    """A request over the limit is RESOURCE_EXHAUSTED at the caller, naming size and limit; the link stays."""
    site = open_site(processes, broker=("--message-bytes-max", "4096"))
    lab = connect(Lab, broker=site.address)
    requests_before = statistics(site.address)["requests"]
    session = (await lab.call_id()).partition("-")[0]

    with pytest.raises(RpcError) as caught:
        await lab.length("x" * 4096)

    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert not caught.value.may_have_run
    assert caught.value.details["limit"] == 4096
    assert f"the request of {caught.value.details['size']} bytes exceeds the limit of 4096 bytes" in str(caught.value)
    assert statistics(site.address)["requests"] == requests_before + 1
    assert (await lab.call_id()).partition("-")[0] == session


async def test_request_of_the_limit_passes(processes: Processes, links: None) -> None:
    """The limit counts the payload as it is framed: up to it a request passes, one byte more does not."""
    site = open_site(processes, broker=("--message-bytes-max", "4096"))
    lab = connect(Lab, broker=site.address)
    most = 4096 - len(b"Lab") - len(envelope.request_body("length", [""]))

    assert await lab.length("x" * most) == most
    with pytest.raises(RpcError, match="4097 bytes exceeds the limit of 4096"):
        await lab.length("x" * (most + 1))


async def test_too_large_reply_is_not_sent(processes: Processes, links: None) -> None:
    """A reply over the limit becomes RESOURCE_EXHAUSTED, naming size and limit; service and caller go on."""
    site = open_site(processes, broker=("--message-bytes-max", "4096"))
    lab = connect(Lab, broker=site.address)

    with pytest.raises(RpcError) as caught:
        await lab.fill(5000)

    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert "the reply of 5013 bytes exceeds the limit of 4096 bytes" in caught.value.message
    assert await lab.fill(10) == "x" * 10
    assert site.service.log("worker.link_lost") == []


async def test_default_limit_is_16_mib(lab: Lab) -> None:
    """Without settings, requests and replies of nearly 16 MiB pass and longer ones do not, in both directions."""
    limit = 16 * MIB

    assert await lab.length("x" * (limit - 100)) == limit - 100
    assert len(await lab.fill(limit - 100)) == limit - 100
    for too_large in (lab.length("x" * limit), lab.fill(limit)):
        with pytest.raises(RpcError, match=f"exceeds the limit of {limit} bytes"):
            await too_large
    assert await lab.add(1, 2) == 3


def test_too_long_reply_of_a_careless_service_is_not_passed_on(site: Site) -> None:
    """A caller that takes less than the service sends gets an error in place of the reply, not a broken link."""
    with NativePeer(site.address) as careless, dial(site.address) as small:
        careless.subscribe("Careless")
        small.sendall(frame(hello_message(Hello(message_bytes_max=1000))))
        small.sendall(frame(Message(Kind.REQUEST, 1, b"Careless", b"{}", timeout_ms=5000)))
        request = careless.receive()
        careless.send(Message(Kind.REPLY, request.id, body=b"x" * 2000, session=request.session))
        decoder = Decoder(MIB)
        replies: list[Message] = []
        while len(replies) < 2:
            replies += decoder.feed(small.recv(65536))

    error = envelope.parse_error(replies[1].body)
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "reply of 2000 bytes exceeds the limit of 1000 bytes" in error.message
