"""Brokers, workers and bare clients in the process of the test, on free ports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.message import Kind, Message
from zbusrpc.service.lifespan import hosted
from zbusrpc.service.worker import Worker
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.native import Decoder, encode

PATIENCE_S = 10.0
"""How long a test waits for what must come; only a failing test waits so long."""


@asynccontextmanager
async def running_broker(*, port: int = 0, limits: Limits | None = None, **options: Any) -> AsyncIterator[Server]:
    """Run a broker, by default on a free port; `server.broker.name` is its address."""
    server = Server(limits=limits, **options)
    await server.start("127.0.0.1", port)
    try:
        yield server
    finally:
        await close_fleets()
        await server.close()


@asynccontextmanager
async def serving(server: Server, target: Any, **options: Any) -> AsyncIterator[Worker]:
    """Serve `target` at a broker."""
    async with hosted(target) as (definition, instance):
        worker = Worker(definition, instance, parse_addresses(server.broker.name), **options)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.close(1.0)


class BareClient:
    """A native client that says what it is told to, right or wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.messages: list[Message] = []
        self.decoder = Decoder()

    def send(self, *messages: Message) -> None:
        for message in messages:
            chunks: list[Any] = []
            encode(message, chunks)
            self.writer.writelines(chunks)

    async def receive(self) -> Message:
        """Return the next message; EOFError when the broker has closed the connection."""
        while not self.messages:
            async with asyncio.timeout(PATIENCE_S):
                data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self.messages += self.decoder.feed(data)
        return self.messages.pop(0)

    async def subscribe(self, topic: str, window: int) -> None:
        body = orjson.dumps({"window": window})
        self.send(Message(Kind.SUBSCRIBE, 1, topic.encode(), body))
        reply = await self.receive()
        assert reply.kind == Kind.REPLY


@asynccontextmanager
async def bare_client(server: Server, hello: Hello | None = None) -> AsyncIterator[BareClient]:
    """Connect a bare client and exchange HELLOs."""
    host, port, _ = parse_addresses(server.broker.name)[0]
    reader, writer = await asyncio.open_connection(host, port)
    client = BareClient(reader, writer)
    try:
        client.send(hello_message(hello or Hello(name="bare")))
        assert (await client.receive()).kind == Kind.HELLO
        yield client
    finally:
        writer.close()


async def http(server: Server, request: bytes) -> bytes:
    """Send bytes to the broker's port and return everything it answers until it closes or has no more to say."""
    host, port, _ = parse_addresses(server.broker.name)[0]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()


async def http_call(server: Server, line: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Make one HTTP request and return status, headers by lower-case name, and body."""
    fields = {"Host": "test", "Connection": "close", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if body or line.startswith("POST"):
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    answer = await http(server, f"{line} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
    top, _, rest = answer.partition(b"\r\n\r\n")
    first, *others = top.decode("latin-1").split("\r\n")
    parsed = {name.lower(): value.strip() for name, _, value in (other.partition(":") for other in others)}
    return int(first.split(" ")[1]), parsed, rest
