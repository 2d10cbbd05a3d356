"""The text port of a broker without sockets: blocks of bytes go in, what would be written comes out.

A `Port` runs one broker; each `talk` is a connection of its own that says what a test has made up. Afterwards it is
seen that nothing of it is left, and that a second connection, which was there before, goes on.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from tests.support.text_wire import command
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.dialects.http.connection import TextPeer
from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.storage.commit import Durability

TURNS = 6
"""What a request makes happen at once has happened after so many turns of the loop."""
TOPICS_MAX = 30
PATIENCE_S = 20.0
PAUSE = b""
"""In place of a block: what has come is answered now."""
GOOD, SERVICE = "good", "GoodService"
"""The topic of the second connection, and the service that a third one is."""


class Pipe(asyncio.Transport):
    """A transport whose other end is the test."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.written = bytearray()
        self._loop = asyncio.get_running_loop()
        self._is_closing = self._is_paused = False
        self._held: list[bytes] = []
        place = server.quotas.enter("127.0.0.1")
        assert place is not None
        self.peer = TextPeer(server, place)
        self.peer.connection_made(self)

    def feed(self, data: bytes) -> None:
        """Let the broker read a block, now or when it wants to."""
        self._held.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._held and not self._is_paused and not self._is_closing:
            self.peer.data_received(self._held.pop(0))

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._loop.call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def _lose(self) -> None:
        self.peer.connection_lost(None)


class Port:
    """A broker's text port."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        """What went wrong within the broker, and nobody else has noticed."""
        self._directory = TemporaryDirectory()
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self.faults.append(repr(context)))
        self._handler = _Collector(self.faults)
        logging.getLogger("zbusrpc").addHandler(self._handler)
        self._run(self._start())

    async def _start(self) -> None:
        self._server = Server(data_dir=self._directory.name, durability=Durability.MEMORY)
        await self._server.start("127.0.0.1", 0)
        self._good = Pipe(self._server)
        self._service = Pipe(self._server)
        await self._ask(command("declare", topic=GOOD))
        await self._ask(command("declare", topic=SERVICE, topic_mask="2"))
        self._service.feed(command("consume", topic=SERVICE))
        await self._settle()

    def close(self) -> None:
        """End the broker."""
        self._run(self._server.close())
        self._loop.close()
        logging.getLogger("zbusrpc").removeHandler(self._handler)
        self._directory.cleanup()

    def _run(self, doing: Any) -> Any:
        return self._loop.run_until_complete(doing)

    # -- one connection ----------------------------------------------------------------------------------

    def talk(self, blocks: list[bytes], *, congested: frozenset[int] = frozenset()) -> bytes:
        """Say something, hang up, and return what was answered until then.

        Args:
            blocks: As they come from the network.
            congested: The numbers of those before which the peer stops to read, or reads again.
        """
        answer: bytes = self._run(self._talk(blocks, congested))
        return answer

    async def _talk(self, blocks: list[bytes], congested: frozenset[int]) -> bytes:
        pipe = Pipe(self._server)
        try:
            await self._say(pipe, blocks, congested)
            await self._check_good()
        finally:
            answer = bytes(pipe.written)
            pipe.close()
            await self._settle()
        await self._eventually(lambda: not self._left_behind())
        await self._tidy()
        assert not self.faults, self.faults
        return answer

    async def _say(self, pipe: Pipe, blocks: list[bytes], congested: frozenset[int]) -> None:
        is_congested = False
        for number, block in enumerate([*blocks, PAUSE]):
            if (number in congested or (block == PAUSE and is_congested)) and not pipe.is_closing():
                is_congested = not is_congested and block != PAUSE
                pipe.peer.pause_writing() if is_congested else pipe.peer.resume_writing()
            if block == PAUSE:
                await self._settle()
                if not is_congested:  # a request may wait for the disk, with others behind it
                    await self._eventually(
                        lambda: pipe.is_closing() or (not pipe._held and pipe.peer._pipeline.is_free)
                    )
                    await self._settle()
            else:
                pipe.feed(block)
                await asyncio.sleep(0)

    async def _settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def _eventually(self, condition: Callable[[], bool]) -> None:
        until = self._loop.time() + PATIENCE_S
        while not condition():
            assert self._loop.time() < until, self._left_behind()
            await asyncio.sleep(0)

    def _left_behind(self) -> list[str]:
        """Return what is there beside the good connection."""
        hub, calls = self._server.hub, self._server.broker.calls
        sessions = self._server.broker.statistics()["sessions"]
        own = [self._good.peer, self._service.peer]
        left = [f"{sessions} sessions"] if sessions != len(own) else []
        dialects = [peer._dialect for peer in own]
        left += [f"session {name}" for name, dialect in hub._sessions.items() if dialect not in dialects]
        left += [f"subscriber {dialect.name}" for dialect in hub._subscribers]
        served = [name for name, topic in calls.topics.items() if topic.consumers and name != SERVICE.encode()]
        left += [f"consumers of {name!r}" for name in served]
        for topic in hub.queues.store.topics.values():
            members = [(group.name, one) for group in topic.groups.values() for one in group.pool.members]
            left += [f"consumer of {name}" for name, one in members if one.session not in sessions_of(own)]
        return left

    async def _check_good(self) -> None:
        """See that the good connection's messages come and go, and that its calls are answered by the service."""
        answer = await self._ask(command("produce", b"precious", topic=GOOD))
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        answer = await self._ask(command("consume", topic=GOOD))
        assert answer.endswith(b"\r\n\r\nprecious"), answer
        self._good.written.clear()
        self._service.written.clear()
        self._good.feed(command("rpc", b"{}", topic=SERVICE, id="call"))
        await self._eventually(lambda: bool(self._service.written))
        head = bytes(self._service.written).partition(b"\r\n\r\n")[0].decode().split("\r\n")
        asked = dict(line.split(": ", 1) for line in head[1:])
        route = command("route", b'{"result":7}', recver=asked["sender"], id=asked["origin_id"])
        self._service.feed(route + command("consume", topic=SERVICE))
        await self._eventually(lambda: bool(self._good.written))
        assert b'"result":7' in self._good.written, bytes(self._good.written)

    async def _ask(self, request: bytes) -> bytes:
        self._good.written.clear()
        self._good.feed(request)
        await self._eventually(lambda: bool(self._good.written))
        return bytes(self._good.written)

    async def _tidy(self) -> None:
        """Remove what was declared, now and then."""
        store = self._server.hub.queues.store
        if len(store.topics) > TOPICS_MAX:
            for topic in [one for one in store.topics.values() if one.name not in {GOOD, SERVICE}]:
                store.remove_topic(topic, lambda error: None)
        await self._settle()


def sessions_of(peers: list[TextPeer]) -> list[Session]:
    """Return the sessions of text connections."""
    return [peer._session for peer in peers]


class _Collector(logging.Handler):
    """Keeps what the broker logs as its own faults."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._faults.append(self.format(record))


@contextmanager
def open_port() -> Iterator[Port]:
    """Run a broker."""
    port = Port()
    try:
        yield port
    finally:
        port.close()
