"""Text peers that say what they are told to, right or wrong: bare sockets, requests as bytes, frames by hand."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.waiting import WAIT_S

UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x0a\x0b\x0c\x0d"


def command(name: str, body: bytes = b"", **headers: str) -> bytes:
    """Return a request as clients of zbus write it."""
    lines = "".join(f"{header}: {value}\r\n" for header, value in {"cmd": name, **headers}.items())
    return f"GET / HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def get(target: str, *lines: str) -> bytes:
    """Return a request as HTTP clients write it."""
    return "\r\n".join([f"GET {target} HTTP/1.1", "host: localhost", *lines, "", ""]).encode()


def frame(
    opcode: int, payload: bytes = b"", *, first: int = 0x80, size: int | None = None, mask: bytes = MASK
) -> bytes:
    """Return a client's frame; with another first byte, another length than it has, or no mask, if told."""
    length = len(payload) if size is None else size
    bit = 0x80 if mask else 0
    if length < 126:
        head = bytes([first | opcode, bit | length])
    elif length < 65536:
        head = bytes([first | opcode, bit | 126]) + length.to_bytes(2)
    else:
        head = bytes([first | opcode, bit | 127]) + length.to_bytes(8)
    return head + mask + (bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) if mask else payload)


class TextWire:
    """A connection to the broker's port."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=WAIT_S)
        self._buffer = b""

    def send(self, *data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(b"".join(data))

    def receive(self) -> bytes:
        """Return the next message; nothing when the broker has closed the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._read():
                return self._take(len(self._buffer))
        head = self._buffer[: self._buffer.index(b"\r\n\r\n") + 4]
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
        size = len(head) + (int(length[1]) if length is not None else 0)
        while len(self._buffer) < size:
            assert self._read(), self._buffer
        return self._take(size)

    def ask(self, request: bytes) -> bytes:
        """Send a request and return the next message."""
        self.send(request)
        return self.receive()

    def upgrade(self) -> None:
        """Go on with WebSocket."""
        assert self.ask(UPGRADE).startswith(b"HTTP/1.1 101 ")

    def receive_frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame; -1 when the broker has closed the connection."""
        if not self._fill(2):
            return -1, b""
        length = self._buffer[1] & 127
        start = 2 + {126: 2, 127: 8}.get(length, 0)
        assert self._fill(start)
        if start > 2:
            length = int.from_bytes(self._buffer[2:start])
        assert self._fill(start + length)
        data = self._take(start + length)
        return data[0] & 15, data[start:]

    def rest(self) -> bytes:
        """Return everything that comes until the broker closes the connection."""
        while self._read():
            pass
        return self._take(len(self._buffer))

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            if not self._read():
                return False
        return True

    def _read(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        self._buffer += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


@contextmanager
def wire(address: str) -> Iterator[TextWire]:
    """Connect to the broker."""
    connection = TextWire(address)
    try:
        yield connection
    finally:
        connection.close()


def status_of(message: bytes) -> int:
    """Return the status of a message."""
    return int(message.split(b" ", 2)[1]) if message else 0


def body_of(message: bytes) -> bytes:
    """Return the body of a message."""
    return message.partition(b"\r\n\r\n")[2]
