"""The end of text connections: what they were about to be given goes to others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.inprocess import running_broker
from tests.support.text_wire import UPGRADE, command, frame, get
from tests.support.waiting import WAIT_S, eventually
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.dialects.http.connection import TextPeer
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio
STREAM = "accept: text/event-stream"


class Stuck:
    """A transport that was told to close and has not: its peer does not read what is still to be written."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._is_closing = False

    def close(self) -> None:
        """Begin to close."""
        self._is_closing = True

    def is_closing(self) -> bool:
        """Say whether that has begun."""
        return self._is_closing

    def write(self, data: bytes) -> None:
        """Write nothing any more, once that has begun."""
        if not self._is_closing:
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Pipeline:
    """A connection that says what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *requests: bytes) -> None:
        """Send requests."""
        self.writer.write(b"".join(requests))

    async def until(self, end: bytes) -> bytes:
        """Return what comes up to and with `end`."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readuntil(end)

    async def rest(self) -> bytes:
        """Return what comes until the end."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()


class Site:
    """A broker with the topics T and U, and connections to it."""

    def __init__(self, server: Server, opened: AsyncExitStack) -> None:
        self.server = server
        self._opened = opened

    async def line(self, *requests: bytes) -> Pipeline:
        """Open a connection and send requests."""
        host, port, _ = parse_addresses(self.server.broker.name)[0]
        line = Pipeline(*await asyncio.open_connection(host, port))
        self._opened.callback(line.writer.close)
        line.send(*requests)
        return line

    @property
    def topics(self) -> dict[str, Any]:
        """The topics."""
        assert self.server.broker.queues is not None
        return self.server.broker.queues.store.topics  # type: ignore[return-value]

    async def wait_consumer(self, topic: str = "T") -> None:
        """Wait until one consumes a topic."""
        await eventually(lambda: len(self.topics[topic].groups[topic].pool.members) == 1, f"consumer of {topic}")

    @property
    def last_peer(self) -> TextPeer:
        """What carries the latest connection."""
        peer = self.server.turns.peers[max(self.server.turns.peers)]
        assert isinstance(peer, TextPeer)
        return peer


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Run a broker."""
    async with running_broker(data_dir=str(tmp_path / "data")) as server, AsyncExitStack() as opened:
        made = Site(server, opened)
        for name in ("T", "U"):
            await (await made.line(command("declare", topic=name, id="made"))).until(b"id: made")
        yield made


WAYS: dict[str, Callable[[], bytes]] = {
    "poll": lambda: get("/consume/T"),
    "stream": lambda: get("/consume/T", STREAM),
    "zbus": lambda: command("consume", topic="T"),
    "websocket": lambda: UPGRADE + frame(2, command("consume", topic="T")),
}


@pytest.mark.parametrize("way", WAYS)
async def test_consumer_that_is_closing_is_given_nothing(site: Site, way: str) -> None:
    """What comes while it has not ended yet goes to the next one, and is not lost on the way."""
    await site.line(WAYS[way]())
    await site.wait_consumer()
    peer = site.last_peer
    transport = peer._transport
    peer._transport = cast("asyncio.Transport", Stuck(transport))
    peer.close("test")

    other = await site.line(command("consume", topic="T", id="other"), command("produce", b"kept", topic="T"))

    assert await other.until(b"kept")
    peer._transport = transport


async def test_answer_behind_a_stream_that_ends_is_not_lost(site: Site) -> None:
    """Where the connection ends with the stream its turn will not come: the message goes to somebody else."""
    stream = get("/consume/T", STREAM, "connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    line = await site.line(stream, get("/consume/U"))
    await site.wait_consumer("U")
    other = await site.line(command("produce", b"kept", topic="U", id="1"))
    await other.until(b"id: 1")
    await eventually(lambda: site.topics["U"].groups["U"].position == 1, "message is handed out")

    other.send(command("remove", topic="T", id="2"))

    assert (await line.rest()).endswith(b"event: end\ndata: Topic(T) not found\n\n")
    other.send(command("consume", topic="U", id="3"))
    assert await other.until(b"kept")


async def test_stream_shows_that_it_is_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a comment, which is a chunk as events are, again and again; events go on between them."""
    monkeypatch.setattr("zbusrpc.broker.dialects.http.connection.TICK_S", 0.01)
    line = await site.line(get("/consume/T", STREAM))
    await line.until(b"\r\n\r\n")

    assert await line.until(b":\n\n\r\n") == b"3\r\n:\n\n\r\n"
    await site.line(command("produce", b"x", topic="T"))

    assert b"\r\nid: 0\ndata: x\n\n\r\n" in b"\r\n" + await line.until(b"data: x\n\n\r\n")
    assert await line.until(b":\n\n\r\n") == b"3\r\n:\n\n\r\n"


async def test_answer_behind_a_stream_that_ends_has_its_turn(site: Site) -> None:
    """The stream in chunks has an end that the client sees: what comes then answers its next request."""
    line = await site.line(get("/consume/T", STREAM), get("/consume/U"))
    await site.wait_consumer("U")
    other = await site.line(command("produce", b"kept", topic="U", id="1"))
    await other.until(b"id: 1")

    other.send(command("remove", topic="T", id="2"))

    await line.until(b"\r\n0\r\n\r\n")
    assert await line.until(b"kept")


async def test_answer_that_was_given_already_gives_its_message_back(site: Site) -> None:
    """As when a poll is told that the broker is about to end, and a message is found for it in the same turn."""
    await site.line(get("/consume/T"))
    await site.wait_consumer()
    site.last_peer._exchanges[0].data = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"

    other = await site.line(command("produce", b"kept", topic="T"), command("consume", topic="T", id="other"))

    assert await other.until(b"kept")


@pytest.mark.parametrize("group", [{}, {"consume_group": "T"}], ids=["topic", "group"])
async def test_consumer_may_come_back_to_what_was_removed_and_made_again(site: Site, group: dict[str, str]) -> None:
    """Whoever waited is told 404, and what it asks then is about the new topic or group."""
    line, other = await site.line(command("consume", topic="T", id="1")), await site.line()
    await site.wait_consumer()
    for request in (command("remove", topic="T", id="done", **group), command("declare", topic="T", id="done")):
        other.send(request)
        await other.until(b"id: done")
    assert b" 404 " in await line.until(b"not found")

    line.send(command("consume", topic="T", id="2"))
    await site.wait_consumer()
    other.send(command("produce", b"hello", topic="T"))

    assert b"id: 2\r\n" in await line.until(b"hello")


async def test_disk_that_cannot_be_read_is_an_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason goes to who asked, and the connection goes on."""
    line = await site.line(command("produce", b"x", topic="T", id="1"))
    await line.until(b"id: 1")

    def fail(*_: object) -> None:
        raise StorageError("the disk does not answer")

    monkeypatch.setattr(type(site.topics["T"]), "load", fail)
    line.send(command("consume", topic="T", offset="0", id="2"), command("ping", id="3"))

    assert b"id: 2" in await line.until(b"the disk does not answer")
    assert b"id: 3" in await line.until(b"\r\n\r\nOK")
