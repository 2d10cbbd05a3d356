"""Clients that are refused while they still send: they read why, and do not keep the broker for long."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.inprocess import running_broker
from tests.support.text_wire import BINARY, UPGRADE, command, frame, status_of
from tests.support.waiting import WAIT_S, eventually
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.dialects.http import lingering
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LARGE = 24 * MIB
"""More than the systems of both ends keep: who sends this is sending when the answer comes."""
POST = b"POST /produce/T HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Run a broker that takes small messages."""
    async with running_broker(message_bytes_max=MIB) as server:
        yield server


async def dial(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a broker."""
    host, port, _ = parse_addresses(server.broker.name)[0]
    return await asyncio.open_connection(host, port)


async def send_all_then_read(server: Server, head: bytes, body: bytes) -> bytes:
    """Do what HTTP libraries do: look for an answer when everything was sent, and then read all there is."""
    reader, writer = await dial(server)
    async with asyncio.timeout(WAIT_S):
        writer.write(head)
        for at in range(0, len(body), MIB):
            writer.write(body[at : at + MIB])
            await writer.drain()
        answer = await reader.read()
    writer.close()
    return answer


REFUSED = {
    "a length": (POST + b"content-length: %d\r\n\r\n" % LARGE, b"x" * LARGE, 413),
    "chunks": (POST + CHUNKED, b"100000\r\n%b\r\n" % (b"x" * MIB) * 24 + b"0\r\n\r\n", 413),
    "a call": (b"POST /rpc/Calc/add HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % LARGE, b" " * LARGE, 413),
    "a client of zbus": (b"GET / HTTP/1.1\r\ncmd: produce\r\ncontent-length: %d\r\n\r\n" % LARGE, b"x" * LARGE, 413),
    "an expectation that is not waited for": (
        POST + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % LARGE,
        b"x" * LARGE,
        413,
    ),
    "a head": (POST + b"x-own: ", b"x" * LARGE, 431),
    "a target": (b"GET /", b"x" * LARGE, 414),
    "what is no HTTP": (b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"x" * LARGE, 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_whoever_sends_all_before_it_reads_is_told(server: Server, name: str) -> None:
    """The connection is not reset under what the client has not read yet."""
    head, body, status = REFUSED[name]

    answer = await send_all_then_read(server, head, body)

    assert status_of(answer) == status
    await eventually(lambda: not server.turns.peers, "the connection is gone")


async def test_websocket_that_sends_too_much_is_told(server: Server) -> None:
    """The close frame arrives behind what it still sends."""
    large = frame(BINARY, command("produce", b"x" * (LARGE - 1024), topic="T"), mask=b"")

    answer = await send_all_then_read(server, UPGRADE + large[:2], large[2:])

    frames = answer.partition(b"\r\n\r\n")[2]
    assert frames[0] == 0x88
    assert int.from_bytes(frames[2:4]) in {1002, 1009}


async def test_answers_before_the_refusal_arrive(server: Server) -> None:
    """They are in the same write, or before it."""
    head = command("ping", id="1") + command("ping", id="2") + REFUSED["a client of zbus"][0]

    answer = await send_all_then_read(server, head, b"x" * LARGE)

    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"HTTP/1.1 413 ") == 1


async def test_who_never_ends_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes that it sends in vain."""
    monkeypatch.setattr(lingering, "LINGER_BYTES_MAX", 4 * MIB)
    monkeypatch.setattr(lingering, "QUIET_S", WAIT_S)
    _, writer = await dial(server)
    writer.write(REFUSED["chunks"][0] + b"ffffffff\r\n")

    async def send_on() -> None:
        while True:
            writer.write(b"x" * MIB)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_on(), WAIT_S)
    writer.close()


@pytest.mark.parametrize("is_dribbling", [False, True])
async def test_who_does_not_close_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch, is_dribbling: bool
) -> None:
    """Soon where nothing more comes, and in the end where a little does, again and again."""
    monkeypatch.setattr(lingering, "QUIET_S", 0.02 if is_dribbling else 0.2)
    monkeypatch.setattr(lingering, "LINGER_S", 0.2 if is_dribbling else WAIT_S)
    reader, writer = await dial(server)
    writer.write(REFUSED["a length"][0])
    assert status_of(await reader.read()) == 413

    async with asyncio.timeout(WAIT_S):
        while server.turns.peers:
            if is_dribbling:
                writer.write(b"x")
            await asyncio.sleep(0.001)
    writer.close()
