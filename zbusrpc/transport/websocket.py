"""The server's side of a WebSocket (RFC 6455) without I/O: frames by the `websockets` library, whole messages by us.

The library parses and checks frames and answers pings and close frames; here fragments are joined as they come, text
is checked to be UTF-8, and answers leave in the frame type that the peer itself uses.

Promises: any split of the bytes yields the same messages; what a peer can fill is one message and one frame;
whatever a peer does wrong closes with the code that the RFC has for it, after the messages before it were yielded.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Final

from websockets.datastructures import Headers
from websockets.frames import DATA_OPCODES, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from zbusrpc.transport.http import HttpError

VERSION: Final = "13"
"""The only one that left the drafts (RFC 6455, 4.1)."""
CONTROL_BYTES_MAX: Final = 125
"""Payload of a ping, pong or close frame (RFC 6455, 5.5)."""
REASON_BYTES_MAX: Final = CONTROL_BYTES_MAX - 2
"""What the code leaves of a close frame."""
HANDSHAKE_HEADERS: Final = ("connection", "upgrade", "sec-websocket-key", "sec-websocket-version")
"""All that is looked at. An offer of extensions or subprotocols is not, so none is agreed."""


class WebSocket:
    """The server's side of one WebSocket connection; `data_to_send` has what is to be written after each call."""

    def __init__(self, message_bytes_max: int) -> None:
        self._protocol = _MessageProtocol(message_bytes_max)
        self._response = b""

    def open(self, target: bytes, method: str, headers: Mapping[str, str]) -> None:
        """Answer an upgrade request, with header names in lower case. Whoever calls has checked its origin.

        Raises:
            HttpError: 405 where the method is not GET, 426 for another version, 400 for a bad key.
        """
        if method != "GET":
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"a WebSocket opens with GET, not {method}")
        version = headers.get("sec-websocket-version", "")
        if version != VERSION:
            reason = f"WebSocket version {version or 'none'} is not supported; send Sec-WebSocket-Version: {VERSION}"
            raise HttpError(HTTPStatus.UPGRADE_REQUIRED, reason)
        known = Headers({name: headers[name] for name in HANDSHAKE_HEADERS if name in headers})
        response = self._protocol.accept(Request(target.decode("latin-1"), known))
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            raise HttpError(HTTPStatus(response.status_code), f"no WebSocket: {self._protocol.handshake_exc}")
        del response.headers["Date"]  # A 101 need not have it, and this module does not look at clocks.
        self._response = response.serialize()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes, text or binary; nothing once the connection is closing."""
        if not self.is_closing:
            yield from self._protocol.receive_messages(data)

    def end(self) -> None:
        """Forget what has come: the connection is gone, and nothing is fed any more."""
        self._protocol.end()

    def send(self, message: bytes) -> None:
        """Send a message: as text if the peer's last one was text and this one can be, otherwise as binary.

        Binary is what the 0.8 broker always sends, so every client of it reads that, and any bytes may stand in it;
        Java and browsers talk in text and get text. After closing has begun nothing is sent.
        """
        if self.is_closing:
            return
        if self._protocol.is_text and _is_utf8(message):
            self._protocol.send_text(message)
        else:
            self._protocol.send_binary(message)

    def ping(self) -> None:
        """Ask the peer for a sign of life; its pong is bytes that come in, nothing else."""
        if not self.is_closing:
            self._protocol.send_ping(b"")

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Say goodbye; closing twice is fine. A reason that is too long is cut."""
        if not self.is_closing:
            self._protocol.send_close(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore"))

    def data_to_send(self) -> bytes:
        """Return what is to be written now, and forget it."""
        response, self._response = self._response, b""
        return response + b"".join(self._protocol.data_to_send())

    @property
    def message_bytes_max(self) -> int:
        """How large a message may be."""
        return self._protocol.message_bytes_max

    @message_bytes_max.setter
    def message_bytes_max(self, size: int) -> None:
        self._protocol.allow(size)

    @property
    def is_closing(self) -> bool:
        """Whether a close frame was sent or received: write what there is to send, then close the transport."""
        return self._protocol.state is not State.OPEN

    @property
    def has_peer_closed(self) -> bool:
        """Whether the peer has said goodbye: it sends nothing more."""
        return self._protocol.close_rcvd is not None

    @property
    def held_bytes(self) -> int:
        """What has come of a message that is not whole."""
        return self._protocol.held_bytes

    @property
    def is_partial(self) -> bool:
        """Whether part of a message or of a frame is waiting for the rest."""
        return self._protocol.is_partial


class _MessageProtocol(ServerProtocol):
    """The library's protocol, with fragments joined inside of its parser.

    So no frame is kept, and a message that is wrong fails the connection just where a wrong frame would.
    """

    def __init__(self, message_bytes_max: int) -> None:
        # The library subtracts what it has of a message from the limit, for control frames too: leave room for one.
        super().__init__(state=State.OPEN, max_size=message_bytes_max + CONTROL_BYTES_MAX)
        self.is_text = False
        """Whether the last message was text."""
        self.message_bytes_max = message_bytes_max
        self._messages: list[bytes] = []
        self._fragments = bytearray()
        self._is_in_message = False
        self._frame_bytes = 0
        """What has come of an unfinished frame."""

    def allow(self, message_bytes_max: int) -> None:
        self.max_message_size = message_bytes_max + CONTROL_BYTES_MAX
        self.message_bytes_max = message_bytes_max

    @property
    def is_partial(self) -> bool:
        return self._frame_bytes > 0 or self._is_in_message

    @property
    def held_bytes(self) -> int:
        return self._frame_bytes + len(self._fragments)

    def receive_messages(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes."""
        self._frame_bytes += len(data)
        self.receive_data(data)
        messages, self._messages = self._messages, []
        return messages

    def end(self) -> None:
        """Let go of the parser, which refers to this, and of the errors that refer to where they were raised."""
        self.parser.close()
        self.parser_exc = self.handshake_exc = None
        self.reader.buffer.clear()
        self._fragments.clear()

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame from the parser."""
        super().recv_frame(frame)
        self.events.clear()
        self._frame_bytes = len(self.reader.buffer)
        if frame.opcode not in DATA_OPCODES:
            return
        if frame.opcode is not Opcode.CONT:
            self.is_text = frame.opcode is Opcode.TEXT
        if len(self._fragments) + len(frame.data) > self.message_bytes_max:
            self.fail(CloseCode.MESSAGE_TOO_BIG, f"the message exceeds the limit of {self.message_bytes_max} bytes")
            return
        self._fragments += frame.data
        self._is_in_message = not frame.fin
        if frame.fin:
            self._finish()

    def _finish(self) -> None:
        message, self._fragments = bytes(self._fragments), bytearray()
        if self.is_text and not message.isascii():
            message.decode()  # The parser makes a close frame of what this raises.
        self._messages.append(message)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
