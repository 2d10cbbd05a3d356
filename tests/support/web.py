"""A web client that does only what a test says: HTTP by hand over a plain socket, long polls and event streams too."""

import re
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import orjson

from tests.support.native import dial
from tests.support.waiting import wait_until

NO_BODY = {100, 204, 304}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""
    head: bytes = b""
    """Status line and headers as they came."""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class Web:
    """One connection."""

    def __init__(self, address: str) -> None:
        self.socket = dial(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._body: bytes | None = None
        """What has come of a body in chunks, while that is what comes."""

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.socket.close()

    # -- requests ----------------------------------------------------------------------------------------

    def send(self, line: str, body: bytes = b"", **headers: str) -> None:
        """Send a request, such as `GET /ping`; `_` in names of headers stands for `-`."""
        self.socket.sendall(request(line, body, **headers))

    def ask(self, line: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request, and return its answer."""
        self.send(line, body, **headers)
        return self.receive(is_head=line.startswith("HEAD "))

    # -- answers -----------------------------------------------------------------------------------------

    def receive(self, *, is_head: bool = False) -> Answer:
        """Return the next answer, of a HEAD request without its body.

        Raises:
            EOFError: the broker has closed the connection.
        """
        head = self.receive_until(b"\r\n\r\n")
        first, *lines = head[:-4].decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        length = 0 if is_head or status in NO_BODY else int(headers["content-length"])
        return Answer(status=status, headers=headers, body=self._take(length), head=head)

    def receive_head(self) -> bytes:
        """Return the head of an answer whose body has no length; what is received then is that body."""
        head = self.receive_until(b"\r\n\r\n")
        self._body = b"" if b"\r\ntransfer-encoding: chunked\r\n" in head.lower() else None
        return head

    def receive_event(self) -> dict[str, str]:
        """Return the fields of the next server-sent event; several lines of data as one."""
        fields: dict[str, str] = {}
        while not fields:
            text = self.receive_until(b"\n\n")[:-2].decode()
            for line in text.split("\n"):
                name, _, value = line.partition(": ")
                if name and name != ":":
                    fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        return fields

    def receive_until(self, end: bytes) -> bytes:
        """Return what comes up to and with `end`."""
        if self._body is not None:
            while end not in self._body:
                chunk = self._take_chunk()
                if not chunk:
                    raise EOFError(f"the body ends after {self._body[-200:]!r}")
                self._body += chunk
            taken, _, self._body = self._body.partition(end)
            return taken + end
        while end not in self._received:
            self._read()
        taken, _, self._received = self._received.partition(end)
        return taken + end

    def _take_chunk(self) -> bytes:
        """Return the next chunk; nothing for the last, after which there is no body any more."""
        body, self._body = self._body, None
        size = int(self.receive_until(b"\r\n"), 16)
        data = self._take(size + 2)
        assert data.endswith(b"\r\n")
        self._body = body if size else None
        return data[:-2]

    @property
    def is_body_at_end(self) -> bool:
        """Whether the body that comes in chunks ends here; waits for one or the other."""
        return self._body == b"" and not self._take_chunk()

    @property
    def is_at_end(self) -> bool:
        """Whether the broker says no more, but for the end of a body, and closes the connection; waits for it."""
        try:
            if self._body is not None and not self.is_body_at_end:
                return False
            return not self._received and not self._read()
        except EOFError:
            return True

    def _take(self, count: int) -> bytes:
        blocks, size = [self._received], len(self._received)
        while size < count:
            block = self.socket.recv(1 << 20)
            if not block:
                raise EOFError
            blocks.append(block)
            size += len(block)
        data = b"".join(blocks)
        self._received = data[count:]
        return data[:count]

    def _read(self) -> bytes:
        try:
            block = self.socket.recv(65536)
        except ConnectionResetError:
            block = b""
        if not block:
            raise EOFError(f"closed after {self._received[-200:]!r}")
        self._received += block
        return block

    # -- the end -----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """End the connection as a machine does that lost its power and came back: by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def request(line: str, body: bytes = b"", **headers: str) -> bytes:
    """Return a request as bytes."""
    fields = {"Host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body or line.startswith("POST "):
        fields.setdefault("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{line} HTTP/1.1\r\n{lines}\r\n".encode() + body


class WebLab:
    """A broker as one looks at it by HTTP, with a connection for each request."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, line: str, body: bytes = b"", **headers: str) -> Answer:
        """Send one request, and return its answer."""
        with Web(self.address) as web:
            return web.ask(line, body, **headers)

    def declare(self, topic: str, *groups: str) -> None:
        """Make a topic, and groups of it."""
        for path in (topic, *(f"{topic}/{group}" for group in groups)):
            assert self.ask(f"GET /declare/{path}").status == 200

    def produce(self, topic: str, *bodies: str | bytes) -> None:
        """Store messages in order."""
        with Web(self.address) as web:
            for body in bodies:
                answer = web.ask(f"POST /produce/{topic}", body.encode() if isinstance(body, str) else body)
                assert re.fullmatch(r"\d+", answer.text), answer

    def group(self, topic: str, group: str = "") -> dict[str, Any]:
        """Return what the broker says of a group."""
        info: dict[str, Any] = self.ask(f"GET /query/{topic}/{group or topic}").json
        return info

    def wait_consumers(self, topic: str, count: int, group: str = "") -> None:
        """Wait until a group has so many consumers."""
        wait_until(lambda: self.group(topic, group)["consumerCount"] == count, f"{count} consumers of {topic}")
