"""Text peers that dribble, fall silent, hang up in the middle or want more than a session may have."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.inprocess import PATIENCE_S, running_broker
from tests.support.text_wire import BINARY, PING, PONG, UPGRADE, command, frame, get
from tests.support.waiting import eventually
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.dialects.http import connection as text_peer
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.storage.commit import Durability

pytestmark = pytest.mark.anyio

TICK_S = 0.02
LINE = b"POST /produce/T HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the broker lose its patience five hundred times as fast."""
    monkeypatch.setattr(text_peer, "TICK_S", TICK_S)


@asynccontextmanager
async def broker(directory: Path, **limits: int) -> AsyncIterator[Server]:
    """Run a broker that stores topics."""
    options: dict[str, Any] = {"data_dir": str(directory / "data"), "durability": Durability.MEMORY}
    async with running_broker(limits=Limits(**limits), **options) as server:
        yield server


class Peer:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, *data: bytes) -> None:
        """Send bytes."""
        self._writer.write(b"".join(data))

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the next message."""
        self.send(request)
        return await self.receive()

    async def receive(self) -> bytes:
        """Return the next message."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return head + await self._reader.readexactly(int(length or b"0"))

    async def rest(self) -> bytes:
        """Return what comes until the broker closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def dribble(self, data: bytes) -> bytes:
        """Send one byte after the other until the broker answers or closes; return what it said until it closes."""
        async with asyncio.timeout(PATIENCE_S):
            answer = asyncio.create_task(self.rest())
            for byte in data * 10_000:
                if answer.done():
                    break
                self.send(bytes([byte]))
                await asyncio.sleep(TICK_S / 4)
            return await answer

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@asynccontextmanager
async def peer_of(server: Server) -> AsyncIterator[Peer]:
    """Connect."""
    host, _, port = server.broker.name.rpartition(":")
    peer = Peer(*await asyncio.open_connection(host, int(port)))
    try:
        yield peer
    finally:
        await peer.close()


def sessions(server: Server) -> int:
    return server.broker.statistics()["sessions"]


# -- dribbling and silent ------------------------------------------------------------------------------------

DRIBBLED = {
    "method": (b"", b"GET"),
    "target": (b"GET /", b"x"),
    "header": (LINE, b"x-own: 1\r\n"),
    "body": (LINE + b"content-length: 1000000\r\n\r\n", b"x"),
    "chunk": (LINE + b"transfer-encoding: chunked\r\n\r\nFFFFF\r\n", b"x"),
    "chunk size": (LINE + b"transfer-encoding: chunked\r\n\r\n", b"0"),
}


@pytest.mark.parametrize("name", DRIBBLED)
async def test_a_request_that_never_ends_is_given_up(name: str, fast: None, tmp_path: Path) -> None:
    """Whatever part of it comes byte by byte, its connection is closed, mostly with 408; another one goes on."""
    start, byte = DRIBBLED[name]
    async with broker(tmp_path) as server, peer_of(server) as slow, peer_of(server) as good:
        slow.send(start)
        dribbling = asyncio.create_task(slow.dribble(byte))
        while not dribbling.done():
            assert (await good.ask(get("/ping"))).endswith(b"OK")

        answer = await dribbling
        await eventually(lambda: sessions(server) <= 1, "session gone")  # the other one is idle now, and may go, too

    assert answer == b"" or answer.split(b" ")[1] in {b"408", b"400", b"414", b"431"}


async def test_a_client_of_zbus_that_dribbles_is_told_in_its_own_way(fast: None, tmp_path: Path) -> None:
    """The reason is plain text, and header names are in lower case."""
    async with broker(tmp_path) as server, peer_of(server) as slow:
        await slow.ask(command("ping"))

        slow.send(b"GET / HTTP/1.1\r\nx-own: ")
        answer = await slow.dribble(b"x")

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: ")


async def test_half_a_request_behind_one_that_waits_is_given_up(fast: None, tmp_path: Path) -> None:
    """The connection is closed though nothing can be said before the first has its answer."""
    async with broker(tmp_path) as server, peer_of(server) as slow:
        await slow.ask(get("/declare/T"))
        slow.send(get("/consume/T"), b"GET /pi")

        assert await slow.rest() == b""
        await eventually(lambda: sessions(server) == 0, "session gone")


async def test_a_websocket_message_that_never_ends_is_given_up(fast: None, tmp_path: Path) -> None:
    """It is closed with a reason, though bytes come all the time."""
    async with broker(tmp_path) as server, peer_of(server) as slow:
        await slow.ask(UPGRADE)
        slow.send(frame(BINARY, b"x", size=100_000))

        answer = await slow.dribble(b"x")

    assert b"incomplete for too long" in answer


async def test_silent_connections_are_closed(fast: None, tmp_path: Path) -> None:
    """One of HTTP soon, one of zbus later, one that waits for a message never."""
    async with broker(tmp_path) as server, peer_of(server) as http, peer_of(server) as zbus, peer_of(server) as waiting:
        await http.ask(get("/declare/T"))
        await zbus.ask(command("ping"))
        waiting.send(command("consume", topic="T", id="c"))

        assert await http.rest() == b""
        assert await zbus.rest() == b""
        async with peer_of(server) as producer:
            await producer.ask(command("produce", b"x", topic="T"))
            assert (await waiting.receive()).endswith(b"x")


async def test_a_silent_websocket_is_asked_for_a_sign_of_life(fast: None, tmp_path: Path) -> None:
    """One that answers pings stays open; one that does not is closed."""
    async with broker(tmp_path) as server, peer_of(server) as alive, peer_of(server) as dead:
        await alive.ask(UPGRADE)
        await dead.ask(UPGRADE)
        for _ in range(20):
            alive.send(frame(PONG))
            await asyncio.sleep(TICK_S)
        await eventually(lambda: sessions(server) <= 1, "the dead one is gone")

        assert PING | 0x80 in await dead.rest()


async def test_a_full_line_that_does_not_move_is_given_up(fast: None, tmp_path: Path) -> None:
    """A client that pipelines more than is read, and hangs up, is found out though its connection is not read."""
    async with broker(tmp_path) as server, peer_of(server) as good:
        await good.ask(get("/declare/T"))
        async with peer_of(server) as peer:
            peer.send(get("/consume/T") * 5000)
            await eventually(lambda: sessions(server) == 2, "connected")

        await eventually(lambda: sessions(server) == 1, "session gone")
        await good.ask(get("/produce/T?body=precious"))
        assert (await good.ask(get("/consume/T"))).endswith(b"precious")


# -- too much for one session --------------------------------------------------------------------------------


async def test_a_session_has_a_limit_of_groups_to_consume(tmp_path: Path) -> None:
    """Beyond it is told 429; leaving one makes room, and hanging up leaves nothing behind."""
    async with broker(tmp_path, subscriptions_per_session_max=3) as server, peer_of(server) as peer:
        for number in range(4):
            await peer.ask(command("declare", topic="T", consume_group=f"g{number}"))
        for number in range(3):
            peer.send(command("consume", topic="T", consume_group=f"g{number}", id=f"{number}"))

        refusal = await peer.ask(command("consume", topic="T", consume_group="g3", id="3"))
        peer.send(command("unconsume", topic="T", consume_group="g0"))
        peer.send(command("consume", topic="T", consume_group="g3", id="again"))
        accepted = await peer.ask(command("produce", b"x", topic="T", id="p"))

        assert refusal.startswith(b"HTTP/1.1 429 ")
        assert b"id: 3\r\n" in refusal
        assert accepted.startswith(b"HTTP/1.1 200 ")


async def test_topics_and_groups_have_a_limit(tmp_path: Path) -> None:
    """Beyond it is told 429, and removing one makes room."""
    async with broker(tmp_path, topics_max=2, groups_per_topic_max=2) as server, peer_of(server) as peer:
        answers = [await peer.ask(command("declare", topic=f"T{number}", id="d")) for number in range(3)]
        groups = [await peer.ask(command("declare", topic="T0", consume_group=f"g{n}", id="d")) for n in range(3)]
        await peer.ask(command("remove", topic="T1"))
        after = await peer.ask(command("declare", topic="T2", id="d"))

    assert [int(answer.split(b" ")[1]) for answer in answers] == [200, 200, 429]
    assert [int(answer.split(b" ")[1]) for answer in groups] == [200, 429, 429]
    assert after.startswith(b"HTTP/1.1 200 ")


async def test_calls_of_a_session_have_a_limit(tmp_path: Path) -> None:
    """Beyond it is told 429 at once; those before it wait on."""
    async with broker(tmp_path, calls_per_session_max=2) as server, peer_of(server) as service, peer_of(server) as peer:
        await service.ask(command("declare", topic="S", topic_mask="2"))
        service.send(command("consume", topic="S", id="c"))
        await eventually(lambda: server.broker.calls.topics.get(b"S"), "service")
        peer.send(*(command("rpc", b"{}", topic="S", id=f"{number}") for number in range(3)))

        refusal = await peer.receive()

    assert refusal.startswith(b"HTTP/1.1 429 ")
    assert b"id: 2\r\n" in refusal


@pytest.mark.parametrize("cut", [1, 5, 20, 60, 100])
async def test_half_a_request_and_a_hang_up_leave_nothing(tmp_path: Path, cut: int) -> None:
    """Neither a session nor a message."""
    async with broker(tmp_path) as server, peer_of(server) as good:
        await good.ask(command("declare", topic="T"))
        for request in (command("produce", b"x" * 100, topic="T"), UPGRADE + frame(BINARY, command("ping"))):
            async with peer_of(server) as peer:
                peer.send(request[:cut])

        await eventually(lambda: sessions(server) == 1, "sessions gone")
        assert b'"messageDepth":0' in await good.ask(command("query", topic="T"))
