"""The text reporter: how a broker tells a tracker of zbus that it lives, and what it has.

    connect ──> cmd: tracker ──> cmd: track_pub, live ──> again DEBOUNCE_S after a change, and every REFRESH_S
       ^                                   └── cmd: track_pub, not live: the broker drains or ends
       └── lost or refused: again after REDIAL_S

Such a tracker dials back, and takes the broker for alive as long as that connection lasts; to this broker it is one
more session.

Promises: cancelling `run` tells the tracker that the broker ends.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import orjson

from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.config import client_security
from zbusrpc.errors import LinkError
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.link import DIAL_TIMEOUT_S, explain
from zbusrpc.transport.text import JSON_HEADER, header_line
from zbusrpc.transport.topology import Report

DEBOUNCE_S: Final = 0.1
"""Each report holds everything: changes that come together are one."""
REFRESH_S: Final = 30.0
"""Also a sign of life: servers of zbus close what is silent for three minutes."""
REDIAL_S: Final = 3.0
"""As brokers of zbus do."""
HEAD_BYTES_MAX: Final = 64 * 1024
SHOWN_BYTES_MAX: Final = 200
"""Of a refusal, in the log."""
READ_BYTES: Final = 64 * 1024

log = get_logger("tracker")


class TextReporter:
    """What one tracker of zbus is told of a broker."""

    def __init__(
        self, tracker: Tracker, target: Address, server_info: Callable[[], dict[str, Any]], certificate: str
    ) -> None:
        """Prepare to report.

        Args:
            tracker: Of the broker itself: it knows whether the broker drains.
            target: The tracker that is told.
            server_info: Returns the ServerInfo of the broker as of now.
            certificate: Of the broker, in PEM; "" without TLS.
        """
        self._tracker, self._target = tracker, target
        self._server_info, self._certificate = server_info, certificate
        token = client_security().token.get_secret_value()
        self._head = f"connection: Keep-Alive\r\nack: false\r\n{header_line('token', token)}"
        self._changed = asyncio.Event()
        self._said = ""
        """What the log said last of a tracker that cannot be reached: once is enough."""

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                await self._report()
            except LinkError as error:
                self._warn(str(error))
            except OSError as error:  # TimeoutError is one
                self._warn(explain(self._target, error))
            await asyncio.sleep(REDIAL_S)

    def tell(self, report: Report) -> None:
        """Take note that something has changed."""
        self._changed.set()

    def _warn(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            log.warning("tracker.unreachable", tracker=f"zbus://{self._target}", reason=reason)

    async def _report(self) -> None:
        """Report on one connection.

        Raises:
            OSError: it cannot be opened, or is broken.
            LinkError: it has ended, or the tracker refuses the broker.
        """
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*self._target[:2], limit=HEAD_BYTES_MAX)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await self._ask(reader, writer)
            self._said = ""
            log.debug("tracker.joined", tracker=f"zbus://{self._target}")
            await self._keep_telling(reader, writer)
        finally:
            writer.close()

    async def _ask(self, reader: StreamReader, writer: StreamWriter) -> None:
        """See that there is a tracker."""
        self._send(writer, "tracker")
        status, text = await _read_message(reader)
        if status >= 400:
            raise LinkError(f"it does not track: {status} {text}")

    async def _keep_telling(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Tell everything now, after each change and at intervals, until the connection ends."""
        listening = asyncio.create_task(self._listen(reader))
        listening.add_done_callback(lambda _: self._changed.set())
        try:
            while not listening.done():
                self._changed.clear()
                self._tell_all(writer, is_live=self._tracker.own.state == "live")
                self._send(writer, "heartbeat")
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):  # wait_for of Python 3.11 may lose a cancellation here
                        await self._changed.wait()
                    await asyncio.sleep(DEBOUNCE_S)
            listening.result()
        finally:
            listening.cancel()
            if not writer.is_closing():
                self._tell_all(writer, is_live=False)

    async def _listen(self, reader: StreamReader) -> None:
        """Read until the connection ends; what the tracker says is a refusal, if anything."""
        while True:
            status, text = await _read_message(reader)
            if status >= 400:
                log.warning("tracker.report_refused", tracker=f"zbus://{self._target}", reason=f"{status} {text}")

    def _tell_all(self, writer: StreamWriter, *, is_live: bool) -> None:
        event: dict[str, Any] = {"serverInfo": self._server_info(), "live": is_live}
        if self._certificate:
            event["certificate"] = self._certificate
        self._send(writer, "track_pub", orjson.dumps(event))

    def _send(self, writer: StreamWriter, command: str, body: bytes = b"") -> None:
        form = JSON_HEADER if body else ""
        head = f"cmd: {command}\r\nid: {uuid4().hex}\r\n{form}{self._head}content-length: {len(body)}\r\n\r\n"
        writer.write(f"GET / HTTP/1.1\r\n{head}".encode() + body)


async def _read_message(reader: StreamReader) -> tuple[int, str]:
    """Read a response; return its status, and the beginning of its body.

    Raises:
        LinkError: the connection has ended, or it is no response.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status, size = int(first.split(" ")[1]), int(headers.get("content-length", "0"))
    except asyncio.IncompleteReadError:
        raise LinkError("it closed the connection") from None
    except (asyncio.LimitOverrunError, ValueError, IndexError):
        raise LinkError("it is no tracker of zbus: leave zbus:// away") from None
    shown = b""
    while size > 0:
        block = await reader.read(min(size, READ_BYTES))
        if not block:
            raise LinkError("it closed the connection")
        size -= len(block)
        shown = (shown + block)[:SHOWN_BYTES_MAX] if len(shown) < SHOWN_BYTES_MAX else shown
    return status, shown.decode(errors="replace")
