"""Neighbours: peers of every dialect at a broker in this process, who must not notice what somebody else does there.

async with open_neighbours(server) as good:
    ...                                 # somebody sends something wrong, large or in great number
    await good.check()                  # a topic, a zbus service, a native one and a WebSocket work as before
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.support.inprocess import PATIENCE_S, BareClient, bare_client
from tests.support.text_wire import BINARY, UPGRADE, body_of, command, frame, status_of
from zbusrpc.broker.assembly.server import Server
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses

TOPIC, ZBUS_SERVICE, NATIVE_SERVICE = "stored", "ZbusGood", "NativeGood"
RPC_MASK = "2"
"""Of a topic that a service of zbus has declared."""


class TextPeer:
    """A text connection that reads whole answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.is_socket = False
        """Whether it speaks WebSocket."""

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.writer.write(frame(BINARY, request) if self.is_socket else request)

    async def receive(self) -> bytes:
        """Return the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            if self.is_socket:
                return await self._receive_frame()
            head = await self.reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            return head + await self.reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return its answer."""
        self.send(request)
        return await self.receive()

    async def upgrade(self) -> None:
        """Go on with WebSocket."""
        assert (await self.ask(UPGRADE)).startswith(b"HTTP/1.1 101 ")
        self.is_socket = True

    async def _receive_frame(self) -> bytes:
        first = await self.reader.readexactly(2)
        size = first[1] & 127
        if size >= 126:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
        return await self.reader.readexactly(size)


@asynccontextmanager
async def text_peer(server: Server) -> AsyncIterator[TextPeer]:
    """Connect a text peer."""
    host, port, _ = parse_addresses(server.broker.name)[0]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield TextPeer(reader, writer)
    finally:
        writer.close()


class Neighbours:
    """The peers, and what they do."""

    def __init__(self, native: BareClient, zbus: TextPeer, socket: TextPeer, service: TextPeer) -> None:
        self._native, self._zbus, self._socket, self._service = native, zbus, socket, service
        self._count = 1

    async def begin(self) -> None:
        """Declare and serve what they use."""
        await self._socket.upgrade()
        assert status_of(await self._zbus.ask(command("declare", topic=TOPIC))) == 200
        assert status_of(await self._service.ask(command("declare", topic=ZBUS_SERVICE, topic_mask=RPC_MASK))) == 200
        await self._native.subscribe(NATIVE_SERVICE, 4)
        self._service.send(command("consume", topic=ZBUS_SERVICE))

    async def check(self) -> None:
        """See that everything works, by connections that were there before."""
        self._count += 1
        text = b"message %d" % self._count
        assert status_of(await self._zbus.ask(command("produce", text, topic=TOPIC))) == 200
        assert body_of(await self._socket.ask(command("consume", topic=TOPIC))) == text
        await self._check_zbus_service()
        await self._check_native_service()

    async def _check_zbus_service(self) -> None:
        body = orjson.dumps({"method": "add", "params": [self._count]})
        self._zbus.send(command("rpc", body, topic=ZBUS_SERVICE, id="x"))
        asked = await self._service.receive()
        assert body_of(asked) == body, asked
        sender, id_ = _header(asked, b"sender"), _header(asked, b"origin_id")
        self._service.send(command("route", b'{"result":%d}' % self._count, recver=sender, id=id_))
        self._service.send(command("consume", topic=ZBUS_SERVICE))
        assert b'"result":%d' % self._count in await self._zbus.receive()

    async def _check_native_service(self) -> None:
        self._zbus.send(command("rpc", b"{}", topic=NATIVE_SERVICE))
        asked = await self._native.receive()
        assert asked.kind == Kind.REQUEST
        self._native.send(Message(Kind.REPLY, asked.id, body=b'{"result":7}', session=asked.session))
        assert b'"result":7' in await self._zbus.receive()


def _header(message: bytes, name: bytes) -> str:
    lines = message.split(b"\r\n\r\n")[0].split(b"\r\n")
    return next(line.partition(b": ")[2].decode() for line in lines if line.startswith(name + b":"))


@asynccontextmanager
async def open_neighbours(server: Server, **options: Any) -> AsyncIterator[Neighbours]:
    """Connect peers that notice when something is wrong; the server has a data directory."""
    async with (
        bare_client(server, **options) as native,
        text_peer(server) as zbus,
        text_peer(server) as socket,
        text_peer(server) as service,
    ):
        neighbours = Neighbours(native, zbus, socket, service)
        await neighbours.begin()
        await neighbours.check()
        yield neighbours
