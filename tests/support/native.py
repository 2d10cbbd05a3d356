"""A peer that speaks the native protocol by hand over a plain socket, so that tests can break its rules."""

import socket
from collections.abc import Iterator

import orjson
from pydantic import SecretStr

from tests.support.waiting import WAIT_S
from zbusrpc.config import MESSAGE_BYTES_MAX
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.native import Decoder, encode


def dial(address: str) -> socket.socket:
    """Return a TCP connection to a broker."""
    broker = parse_addresses(address)[0]
    return socket.create_connection((broker.host, broker.port), timeout=WAIT_S)


def frame(message: Message) -> bytes:
    """Return a message as bytes."""
    chunks: list[bytes | bytearray | memoryview] = []
    encode(message, chunks)
    return b"".join(chunks)


def read_to_end(connection: socket.socket) -> bytes:
    """Return everything until the other side closes; a reset is an end, too."""
    data = b""
    try:
        while block := connection.recv(65536):
            data += block
    except ConnectionResetError:
        pass
    return data


class NativePeer:
    """A client or service that does only what a test says."""

    def __init__(self, address: str, token: str = "") -> None:
        self.socket = dial(address)
        self._incoming = self._read()
        self.send(hello_message(Hello(name="test peer", token=SecretStr(token))))
        assert self.receive().kind == Kind.HELLO

    def __enter__(self) -> "NativePeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: Message) -> None:
        """Send a message."""
        self.socket.sendall(frame(message))

    def receive(self) -> Message:
        """Return the next message."""
        return next(self._incoming)

    def messages(self) -> Iterator[Message]:
        """Yield what comes until the connection ends."""
        yield from self._incoming

    def hang_up(self) -> None:
        """End the connection, also for a thread that reads from it."""
        self.socket.shutdown(socket.SHUT_RDWR)

    def subscribe(self, service: str, window: int = 1) -> None:
        """Serve a topic."""
        self.send(Message(Kind.SUBSCRIBE, 1, service.encode(), orjson.dumps({"window": window, "about": {}})))
        assert self.receive().kind == Kind.REPLY

    def request(self, number: int, service: str, body: bytes, timeout_ms: int = 10_000, flags: int = 0) -> None:
        """Send a call."""
        self.send(Message(Kind.REQUEST, number, service.encode(), body, flags=flags, timeout_ms=timeout_ms))

    def query(self) -> dict[str, dict[str, int]]:
        """Return what the broker says of itself."""
        self.send(Message(Kind.QUERY, 2**40))
        return orjson.loads(self.receive().body)["result"]

    def _read(self) -> Iterator[Message]:
        decoder = Decoder(MESSAGE_BYTES_MAX)
        while block := self.socket.recv(65536):
            yield from decoder.feed(block)


def statistics(address: str) -> dict[str, int]:
    """Return the broker's counters and sizes."""
    with NativePeer(address) as peer:
        return peer.query()["statistics"]
