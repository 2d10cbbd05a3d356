"""Peers that send rubbish, stop in the middle, dribble or do not read: they lose their connection, nobody else does."""

import asyncio
import os
import random
import signal
import time
from contextlib import ExitStack

import pytest

from tests.support.fixtures import Site
from tests.support.lab import Lab
from tests.support.native import NativePeer, dial, frame, read_to_end, statistics
from tests.support.processes import Processes
from tests.support.waiting import WAIT_S, eventually, wait_until
from zbusrpc import aio, connect, options
from zbusrpc.message import Kind, Message
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.native import HEADER, Decoder

pytestmark = pytest.mark.anyio

HELLO = frame(hello_message(Hello(name="bad peer")))
LONG_S = 60.0
MIB = 1024 * 1024


def header(size: int, kind: int = Kind.REQUEST, topic: int = 3, number: int = 1) -> bytes:
    """Return the fixed part of a frame."""
    return HEADER.pack(size, kind, 0, topic, 0, 0, number)


BAD_AFTER_HELLO = {
    "huge length": header(2**32 - 1),
    "length over the limit": header(16 * MIB + 1),
    "unknown kind": header(3, kind=0) + b"Lab",
    "kind out of range": header(3, kind=200) + b"Lab",
    "topic beyond the frame": header(3, topic=300) + b"Lab",
    "second hello": HELLO,
    "command of a broker": frame(Message(Kind.SUBSCRIBE, 1, b"", b"{}")),
    "subscription without window": frame(Message(Kind.SUBSCRIBE, 1, b"T", b"{}")),
    "subscription with huge window": frame(Message(Kind.SUBSCRIBE, 1, b"T", b'{"window": 99999}')),
    "subscription that is no JSON": frame(Message(Kind.SUBSCRIBE, 1, b"T", b"\xff")),
    "subscription with a topic that is no text": frame(Message(Kind.SUBSCRIBE, 1, b"\xff", b'{"window": 1}')),
    "ids that do not grow": frame(Message(Kind.REQUEST, 5, b"Lab", b"{}")) * 2,
    "random bytes": random.Random(20240506).randbytes(5000),
    "text": b"hello? is this the broker?\r\n" * 100,
}


@pytest.mark.parametrize("name", BAD_AFTER_HELLO)
async def test_broken_rules_end_that_connection_with_a_reason(shared_site: Site, lab: Lab, name: str) -> None:
    """Whoever breaks the protocol is told why and closed; a call of somebody else goes on meanwhile."""
    running = asyncio.create_task(lab.work(f"beside-{os.getpid()}", 0.05))
    with dial(shared_site.address) as connection:
        connection.sendall(HELLO + BAD_AFTER_HELLO[name])
        answer = await asyncio.to_thread(read_to_end, connection)

    messages = list(Decoder(MIB).feed(answer))
    assert messages[0].kind == Kind.HELLO
    assert messages[-1].kind == Kind.GOODBYE
    assert bytes(messages[-1].body).decode()
    assert await running == shared_site.service.pid


BAD_FROM_THE_START = {
    "random bytes": b"\x00" + random.Random(7).randbytes(2000),
    "huge length": b"\xff\xff\xff\xff" * 10,
    "length over the limit of a hello": header(5000, kind=Kind.HELLO, topic=0),
    "no hello": frame(Message(Kind.PING)),
    "request before the hello": frame(Message(Kind.REQUEST, 1, b"Lab", b"{}")),
    "hello of another protocol": frame(Message(Kind.HELLO, body=b'{"protocol": "mqtt", "version": 1}')),
    "hello of another version": frame(Message(Kind.HELLO, body=b'{"protocol": "zbusrpc", "version": 99}')),
    "hello that is no JSON": frame(Message(Kind.HELLO, body=b"\xff{")),
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(100),
    "lower case": b"get / http/1.1\r\n\r\n",
    "nothing but ones": b"\x01" * 5000,
}


@pytest.mark.parametrize("name", BAD_FROM_THE_START)
def test_garbage_is_closed_at_once(shared_site: Site, name: str) -> None:
    """A connection that does not begin as it should is closed, and no session ever began."""
    with dial(shared_site.address) as connection:
        connection.sendall(BAD_FROM_THE_START[name])
        answer = read_to_end(connection)

    assert all(message.kind == Kind.GOODBYE for message in Decoder(MIB).feed(answer))
    assert shared_site.broker.is_running


def test_protocol_error_is_logged_with_its_peer(site: Site) -> None:
    """The broker's log says who broke which rule, once."""
    with dial(site.address) as connection:
        connection.sendall(HELLO + header(2**32 - 1))
        read_to_end(connection)
        peer = f"127.0.0.1:{connection.getsockname()[1]}"

    (line,) = wait_until(lambda: site.broker.log("broker.protocol_error"), "log line")
    assert line["peer"] == peer
    assert "4294967295 bytes exceeds the limit" in line["error"]
    assert line["level"] == "warning"


def test_huge_length_costs_no_memory(site: Site) -> None:
    """The limit is tested on the length, before anything is stored for it; promised bytes are not set aside."""
    memory_before = site.broker.memory_bytes
    with ExitStack() as connections:
        for _ in range(50):
            connections.enter_context(dial(site.address)).sendall(HELLO + header(15 * MIB) + b"Lab" + b"x" * 100_000)

        wait_until(lambda: statistics(site.address)["sessions"] >= 50, "all connected")
        assert site.broker.memory_bytes - memory_before < 50 * MIB


@pytest.mark.parametrize("cut", [1, 10, len(HELLO) - 1, len(HELLO), len(HELLO) + 1, len(HELLO) + 30])
def test_half_a_frame_and_a_hang_up_leave_nothing(shared_site: Site, cut: int) -> None:
    """A peer that hangs up in the middle of a frame leaves no session and no call behind."""
    before = statistics(shared_site.address)["requests"]
    whole = HELLO + frame(Message(Kind.REQUEST, 1, b"Lab", b"x" * 100))
    for _ in range(3):
        with dial(shared_site.address) as connection:
            connection.sendall(whole[:cut])

    wait_until(lambda: statistics(shared_site.address)["sessions"] <= 3, "no session left")
    assert statistics(shared_site.address)["requests"] == before


def test_frame_that_never_ends_is_given_up(processes: Processes) -> None:
    """A peer that dribbles one frame for ever (slow loris) is closed with a reason, though it is never silent."""
    _, address = processes.broker("--idle", "0.6")
    with dial(address) as connection:
        connection.sendall(HELLO + header(1000))
        connection.settimeout(0.05)
        answer = b""
        until = time.monotonic() + WAIT_S
        while b"incomplete" not in answer:
            assert time.monotonic() < until, answer
            try:
                connection.sendall(b"x")
                answer += connection.recv(4096)
            except TimeoutError:
                continue

    assert list(Decoder(MIB).feed(answer))[-1].kind == Kind.GOODBYE


def test_silent_peer_is_given_up(processes: Processes) -> None:
    """A peer that says nothing, not even a ping, is closed after the idle time."""
    _, address = processes.broker("--idle", "0.5")
    with dial(address) as connection:
        connection.sendall(HELLO)

        answer = read_to_end(connection)

    assert next(Decoder(MIB).feed(answer)).kind == Kind.HELLO


def test_peer_that_pings_is_kept(processes: Processes) -> None:
    """A peer that only pings stays connected for longer than the idle time."""
    _, address = processes.broker("--idle", "1")
    with NativePeer(address) as peer:
        for number in range(10):
            time.sleep(0.2)
            peer.send(Message(Kind.PING, number))
            assert peer.receive().kind == Kind.PONG

        assert peer.query()["statistics"]["sessions"] == 1


@pytest.mark.long
@pytest.mark.parametrize("start", [b"", HELLO[:10], b"GET /rpc HTTP/1.1\r\nHost:"])
def test_connection_that_never_begins_is_given_up(shared_site: Site, start: bytes) -> None:
    """A peer that connects and says nothing, or half of what it should, is closed in half a minute."""
    with dial(shared_site.address) as connection:
        connection.settimeout(45)
        connection.sendall(start)
        answer = read_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 408 ") if start.startswith(b"GET") else b"GOODBYE" not in answer


async def test_many_bad_peers_do_not_disturb_others(site: Site, own_lab: Lab) -> None:
    """While hundreds of peers send rubbish, every call of a good one succeeds on the same connection."""
    rng = random.Random(99)
    session = (await own_lab.call_id()).partition("-")[0]

    def disturb() -> None:
        for _ in range(200):
            with dial(site.address) as connection:
                connection.sendall(rng.choice([b"", HELLO, b"GET "]) + rng.randbytes(rng.randrange(1, 300)))

    disturbing = asyncio.create_task(asyncio.to_thread(disturb))
    results: list[int] = []
    while not disturbing.done():
        results.append(await own_lab.add(1, 2))
    await disturbing

    assert set(results) == {3}
    assert (await own_lab.call_id()).partition("-")[0] == session
    await eventually(lambda: statistics(site.address)["sessions"] == 3, "no session left")


# -- peers that do not read ----------------------------------------------------------------------------------

GREEDY = """
import asyncio, sys
from tests.support.lab import Lab
from zbusrpc import connect, options

async def main():
    lab = options(connect(Lab, broker=sys.argv[1]), timeout=60)
    await lab.add(1, 2)
    print("ready", flush=True)
    while True:
        await asyncio.gather(*[lab.fill(1_000_000) for _ in range(64)])
        print("round", flush=True)

asyncio.run(main())
"""


async def test_stopped_caller_is_dropped_and_costs_bounded_memory(processes: Processes, links: None) -> None:
    """A caller that stops reading (SIGSTOP) amid large replies is dropped; others go on, and memory stays bounded."""
    broker, address = processes.broker("--idle", "2")
    processes.serve(address)
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    greedy = processes.python(GREEDY, address)
    await eventually(lambda: "round" in greedy.output, "large replies")
    memory_before = broker.memory_bytes

    greedy.send_signal(signal.SIGSTOP)
    while statistics(address)["sessions"] > 3:  # service, this test, the question itself
        assert await lab.add(1, 2) == 3
        assert broker.memory_bytes - memory_before < 160 * MIB

    assert await lab.add(1, 2) == 3


def test_caller_that_never_reads_its_replies_is_stopped(processes: Processes) -> None:
    """A caller that sends and never reads is not read from any more: it cannot make the broker grow."""
    broker, address = processes.broker("--idle", "2")
    processes.serve(address)
    memory_before = broker.memory_bytes
    with NativePeer(address) as deaf:
        deaf.socket.settimeout(0.5)
        request = b'{"method":"fill","params":[500000]}'
        for number in range(1, 2000):
            try:
                deaf.request(number, "Lab", request)
            except (TimeoutError, OSError):
                break
            assert broker.memory_bytes - memory_before < 160 * MIB

    wait_until(lambda: statistics(address)["in_flight"] == 0, "its calls ended")
    assert broker.memory_bytes - memory_before < 160 * MIB


async def test_stopped_service_gets_no_more_work(processes: Processes, links: None) -> None:
    """While one instance does not read (SIGSTOP), others work on; what it had moves to them after the idle time."""
    _, address = processes.broker("--idle", "2")
    stopped = processes.serve(address)
    other = processes.serve(address)
    lab = options(connect(Lab, broker=address), timeout=LONG_S)
    await aio(lab.subtract)(1, 1)

    stopped.send_signal(signal.SIGSTOP)
    pids = await asyncio.gather(*[lab.work_again(f"shared-{number}", 0.01) for number in range(50)])

    assert set(pids) == {other.pid}
