"""What a closed connection had sent is forgotten with it, at once: the collector has no part in it."""

import asyncio
import gc
import ssl
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.inprocess import PATIENCE_S, running_broker
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.dialects.http.connection import TextPeer
from zbusrpc.broker.dialects.http.pipeline import Pipeline
from zbusrpc.broker.dialects.native.peer import NativePeer
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.http import HttpDecoder
from zbusrpc.transport.native import Decoder, encode
from zbusrpc.transport.tls import server_context
from zbusrpc.transport.websocket import WebSocket

pytestmark = pytest.mark.anyio

BODY = b"x" * (1024 * 1024)
ROUNDS = 4
HELD_BYTES_MAX = len(BODY)
"""Less than one body: none of the rounds has left its own."""
OF_A_CONNECTION = (NativePeer, Connection, Decoder, TextPeer, HttpDecoder, WebSocket, Pipeline)


def _native(*messages: Message, cut: int = 0) -> bytes:
    chunks: list[bytes | bytearray | memoryview] = []
    encode(hello_message(Hello(name="bare")), chunks)
    for message in messages:
        encode(message, chunks)
    data = b"".join(chunks)
    return data[: len(data) - cut]


def _frame(size: int) -> bytes:
    return b"\x82\xff" + size.to_bytes(8, "big") + bytes(4)


UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SAYS = {
    "half a body by URL": b"POST /produce/x HTTP/1.1\r\nhost: x\r\ncontent-length: 16000000\r\n\r\n" + BODY,
    "half a body of zbus": b"POST / HTTP/1.1\r\ncmd: produce\r\ntopic: x\r\ncontent-length: 16000000\r\n\r\n" + BODY,
    "half a call": b"POST /rpc/x/y HTTP/1.1\r\nhost: x\r\ncontent-length: 16000000\r\n\r\n" + BODY,
    "a topic that is not there": b"POST /produce/x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
    % (len(BODY), BODY),
    "a broken chunk": b"POST /produce/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%bzz\r\n\r\n"
    % (len(BODY), BODY),
    "half a frame of WebSocket": UPGRADE + _frame(len(BODY) * 4) + BODY,
    "a message of WebSocket": UPGRADE + _frame(len(BODY)) + BODY,
    "half a native frame": _native(Message(Kind.REQUEST, 1, b"x", BODY), cut=1000),
    "a native request": _native(Message(Kind.REQUEST, 1, b"x", BODY)),
    "a native frame after a wrong one": _native(Message(Kind.HELLO), Message(Kind.REQUEST, 1, b"x", BODY)),
}


@contextmanager
def _all_forgotten() -> Iterator[None]:
    """Have what is done in between leave neither objects nor bytes, though the collector is off.

    What other tests have left, a connection of the thread behind blocking calls for one, is not looked at.
    """
    gc.collect()
    others = _of_connections()
    gc.disable()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        left = [one for one in _of_connections() if not any(one is other for other in others)]
        assert [type(one).__name__ for one in left] == []
        assert tracemalloc.get_traced_memory()[0] - before < HELD_BYTES_MAX
    finally:
        tracemalloc.stop()
        gc.enable()


def _of_connections() -> list[object]:
    return [one for one in gc.get_objects() if type(one) in OF_A_CONNECTION]


async def _say(server: Server, data: bytes, tls: ssl.SSLContext | None = None) -> None:
    """Say something on a connection of its own, and close that when all of it was read or refused."""
    host, port, _ = parse_addresses(server.broker.name)[0]
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        writer.write(data)
        async with asyncio.timeout(PATIENCE_S):
            writer.transport.set_write_buffer_limits(0)
            await writer.drain()
    except ConnectionError:
        pass
    writer.transport.abort()
    del reader
    async with asyncio.timeout(PATIENCE_S):
        while server.turns.peers or server.arrivals or server.quotas.taken:  # noqa: ASYNC110 - they end by themselves
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("says", SAYS)
async def test_a_closed_connection_leaves_nothing(says: str) -> None:
    async with running_broker() as server:
        await _assert_forgotten(server, SAYS[says])


@pytest.mark.parametrize("says", ["half a body by URL", "half a frame of WebSocket", "half a native frame"])
async def test_so_does_one_with_tls(says: str, tmp_path: Path) -> None:
    ca, theirs = trustme.CA(), ssl.create_default_context()
    ca.configure_trust(theirs)
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    async with running_broker(tls=server_context(str(tmp_path / "own.pem"), None)) as server:
        await _assert_forgotten(server, SAYS[says], theirs)


async def _assert_forgotten(server: Server, data: bytes, tls: ssl.SSLContext | None = None) -> None:
    await _say(server, data, tls)
    with _all_forgotten():
        for _ in range(ROUNDS):
            await _say(server, data, tls)
        await asyncio.sleep(0)
    assert server.input.used == server.output.used == 0


async def test_a_client_forgets_what_a_broker_had_begun_to_say() -> None:
    said = _native(Message(Kind.REPLY, 1, b"x", BODY), cut=1000)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as broker:
        port = broker.sockets[0].getsockname()[1]
        await _listen(port)
        with _all_forgotten():
            for _ in range(ROUNDS):
                await _listen(port)
            await asyncio.sleep(0)


async def _listen(port: int) -> None:
    """Hear what the broker says until it ends, as a client."""
    receiver = Listener()
    receiver.connection = Connection(receiver, Hello(name="bare"), is_client=True)
    await asyncio.get_running_loop().create_connection(lambda: receiver.connection, "127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S):
        await receiver.closed.wait()


class Listener:
    """The receiver of a client's connection, which it holds."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.connection: Connection

    def connection_opened(self, hello: Hello) -> None: ...

    def message_received(self, message: Message) -> None: ...

    def turn_ended(self, held_bytes: int) -> None: ...

    def congestion_changed(self, is_congested: bool) -> None: ...

    def connection_closed(self, error: object) -> None:
        self.closed.set()
