"""A tracker as zbus 0.8 has it: it dials back to servers that report, and lists each while that connection lasts."""

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.support.zbus_topology import check_server, key_of

Request = tuple[dict[str, str], bytes]


class OldTracker:
    """Lists the servers that report by `track_pub`."""

    def __init__(self, token: str = "") -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        """What each said last, by its key."""
        self.requests: list[dict[str, str]] = []
        """Headers of all that came."""
        self.certificates: dict[str, str] = {}
        self.events = 0
        """How many reports came that a server lives."""
        self._token = token
        self._server: asyncio.Server | None = None
        self._dialled: dict[str, asyncio.Task[None]] = {}
        self._writers: set[StreamWriter] = set()
        self.address = ""

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """End all connections."""
        assert self._server is not None
        self._server.close()
        for task in self._dialled.values():
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._dialled.values(), return_exceptions=True)
        self.servers.clear()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                headers, body = await _read(reader)
                self.requests.append(headers)
                if self._token and headers.get("token") != self._token:
                    writer.write(_answer(403, headers["id"], b"token is not allowed"))
                elif headers["cmd"] == "tracker":
                    writer.write(_answer(200, headers["id"], json.dumps({"serverTable": self.servers}).encode()))
                elif headers["cmd"] == "track_pub":
                    self._take(json.loads(body))
        self._writers.discard(writer)
        writer.close()

    def _take(self, event: dict[str, Any]) -> None:
        info = check_server(event["serverInfo"])
        key = key_of(info["serverAddress"])
        if event.get("certificate"):
            self.certificates[key] = event["certificate"]
        if not event["live"]:
            if key in self._dialled:
                self._dialled[key].cancel()
            return
        self.events += 1
        if key not in self._dialled:
            self._dialled[key] = asyncio.create_task(self._watch(key, info))
        elif key in self.servers and self.servers[key]["infoVersion"] < info["infoVersion"]:
            self.servers[key] = info

    async def _watch(self, key: str, info: dict[str, Any]) -> None:
        """Dial back, and list the server as long as that connection lasts."""
        host, _, port = info["serverAddress"]["address"].rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            self._writers.add(writer)
            self.servers[key] = info
            writer.write(b"GET / HTTP/1.1\r\ncmd: heartbeat\r\ncontent-length: 0\r\n\r\n")
            while await reader.read(65536):
                pass
        except OSError:
            pass
        finally:
            self.servers.pop(key, None)
            self._dialled.pop(key, None)


async def _read(reader: StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    assert first == "GET / HTTP/1.1"
    headers = {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
    return headers, await reader.readexactly(int(headers["content-length"]))


def _answer(status: int, id_: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} x\r\nid: {id_}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def old_tracker(token: str = "") -> AsyncIterator[OldTracker]:
    """Run a tracker of zbus on a free port."""
    tracker = OldTracker(token)
    await tracker.start()
    try:
        yield tracker
    finally:
        await tracker.close()
