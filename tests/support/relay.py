"""A relay between clients and a broker: holds back what either says, and cuts connections, when a test wants it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.transport.address import parse_addresses


class Relay:
    """Passes bytes on in both directions."""

    def __init__(self, target: str) -> None:
        self._target = parse_addresses(target)[0]
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._stranded = asyncio.Event()
        self._answers, self._requests = asyncio.Event(), asyncio.Event()
        self._answers.set()
        self._requests.set()
        self.address = ""
        self.connections = 0
        """How many there were."""
        self.sent = self.answered = 0
        """Bytes that clients, and the broker, have sent."""

    def hold_answers(self) -> None:
        """Let nothing of the broker reach the clients, until `release`."""
        self._answers.clear()

    def hold_requests(self) -> None:
        """Let nothing of the clients reach the broker, until `release`."""
        self._requests.clear()

    def release(self) -> None:
        """Pass on what was held, and what comes."""
        self._answers.set()
        self._requests.set()

    def cut(self) -> None:
        """Cut all connections; what was held is lost. New ones may be made."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()
        self.release()

    def strand(self) -> None:
        """Cut the clients off for good, and leave their connections to the broker open until `cut`."""
        assert self._server is not None
        self._server.close()
        self._stranded.set()
        for writer in self._clients:
            writer.transport.abort()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        """Cut everything and listen no more."""
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self._clients.add(writer)
        try:
            to_reader, to_writer = await asyncio.open_connection(self._target.host, self._target.port)
            self._writers.add(to_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, to_writer, self._requests, is_request=True))
                both.create_task(self._pass(to_reader, writer, self._answers, is_request=False))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event, *, is_request: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if is_request:
                    self.sent += len(data)
                else:
                    self.answered += len(data)
                await gate.wait()
                writer.write(data)
        if self._stranded.is_set():
            await asyncio.Event().wait()
        writer.transport.abort()
        raise ConnectionError


@asynccontextmanager
async def relaying(target: str) -> AsyncIterator[Relay]:
    """Run a relay to a broker; clients use `relay.address`."""
    relay = Relay(target)
    await relay.start()
    try:
        yield relay
    finally:
        await close_fleets(parse_addresses(relay.address))
        await relay.close()
