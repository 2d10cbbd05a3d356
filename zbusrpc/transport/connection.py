"""A native connection: frames in, frames out, with a heartbeat and a bound on everything.

Messages that are sent within one turn of the event loop leave in one write. The connection answers pings,
notices a silent or stalled peer and closes itself on bytes that break the protocol; every other message goes to
its receiver. Broker, client and service use the same class; only the client side pings, and only the broker side
stops reading from a peer that does not read (a client always reads, or the two could wait for each other).

Promises: `Receiver.connection_opened` is called once the peer has said a valid HELLO, `connection_closed` exactly
once at the end, messages in the order of the wire and only between the two. Nothing here awaits.
"""

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol, cast

from zbusrpc.errors import LinkError, ProtocolError, ZbusError
from zbusrpc.message import LINK_KINDS_MAX, Kind, Message
from zbusrpc.transport.hello import Hello, hello_message, parse_hello
from zbusrpc.transport.native import HELLO_BYTES_MAX, LARGE_BODY_BYTES, Decoder, encode

OUTBOX_HIGH_BYTES: Final = 1024 * 1024
"""From here on a peer counts as congested: it is given no new work, and the broker stops reading from it."""
OUTBOX_BYTES_MAX: Final = 256 * 1024 * 1024
"""From here on the broker drops a peer that does not read: sixteen of the largest messages."""
HELLO_TIMEOUT_S: Final = 10.0
"""A peer that has not said HELLO by then is dropped."""
TICKS_PER_IDLE: Final = 3
"""A quiet client pings so many times before the other side would call it dead."""
PARTIAL_TICKS_MAX: Final = 6
"""A frame that is incomplete for so many ticks (60 s by default) comes from a peer that means harm."""
MESSAGES_PER_TURN: Final = 16
"""How many messages are handled before other connections have their turn and what was decided leaves.

It also keeps client, broker and service busy at the same time: when each handled all it had received before the next
saw any of it, two of three would always wait (46,000 calls/s instead of 67,000 with 128 in flight on two cores).
"""
WIDE_KINDS: Final = frozenset({Kind.QUERY, Kind.COMMAND, Kind.TRACK, Kind.REPORT})
"""What these take may grow with all that the broker has: each has a turn of its own."""
LARGE_STEP_BITS: Final = 10
"""Each KiB of a body counts as a message of a turn: a frame of many messages is as much work as they are."""
BACKLOG_BLOCKS_MAX: Final = 4
"""Received blocks (of up to 256 KiB) that wait to be handled before no more are read."""
_STEPS: Final = tuple(MESSAGES_PER_TURN if kind in WIDE_KINDS else 1 for kind in range(max(Kind) + 1))
"""By kind, how many messages of a turn one counts as."""
CLOSE_TIMEOUT_S: Final = 2.0
"""How long the last bytes may take to leave before the connection is cut."""


class Receiver(Protocol):
    """Whoever a connection tells what happens on it."""

    def connection_opened(self, hello: Hello) -> Hello | None:
        """The peer said HELLO; on the broker's side, return the HELLO to answer with."""

    def message_received(self, message: Message) -> None:
        """A command or an answer came."""

    def turn_ended(self, held_bytes: int) -> None:
        """All messages that a broker handles in this turn have been given to `message_received`; clients are not told.

        So many bytes have come of a frame that is not whole.
        """

    def congestion_changed(self, is_congested: bool) -> None:
        """The peer reads too slowly, or has caught up."""

    def connection_closed(self, error: ZbusError | None) -> None:
        """The connection has ended; `error` is None when this side closed it."""


class Connection(asyncio.Protocol):
    """One side of a native connection, over any asyncio transport."""

    def __init__(self, receiver: Receiver, hello: Hello, *, is_client: bool) -> None:
        self._receiver = receiver
        self._ours = hello
        self._is_client = is_client
        self._decoder = Decoder(HELLO_BYTES_MAX)
        self._loop = asyncio.get_running_loop()
        self._handle = self._receive_hello
        self._backlog: deque[Iterator[Message]] = deque()
        self._is_reading_paused = self._is_held_back = False
        self._outbox: list[Message] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: ZbusError | None = None
        self._is_open = False
        """Whether commands and answers go to the receiver: between the HELLO and the end."""
        self._on_message = receiver.message_received
        self._heard = self._sent = False
        self._silent_ticks = self._congested_ticks = self._partial_ticks = 0
        self._completed_before = self._waiting_before = 0
        self.is_congested = False
        """Whether the peer reads too slowly: hold back what can wait."""
        self.message_bytes_max = hello.message_bytes_max
        """Largest payload that both sides take."""
        self.blocks_received = 0
        """How often something was heard."""
        self.peername = ""
        """Address of the peer, for people."""

    # -- the life of the transport -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._handle == self._ignore:  # it was given up while it was dialled: nobody would ever close it
            cast("asyncio.Transport", transport).abort()
            return
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=OUTBOX_HIGH_BYTES)
        self.peername = format_peername(transport.get_extra_info("peername"))
        self._timer = self._loop.call_later(HELLO_TIMEOUT_S, self._hello_missing)
        if self._is_client:
            self.send(hello_message(self._ours))

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self.blocks_received += 1
        self._backlog.append(self._decoder.feed(data))
        if len(self._backlog) == 1:
            self._receive_some()
        elif len(self._backlog) == BACKLOG_BLOCKS_MAX:
            self._adjust_reading()

    def _receive_some(self, left: int = MESSAGES_PER_TURN) -> None:
        """Handle the messages of one turn, and leave the rest to the next."""
        try:
            while self._backlog and left > 0:
                for message in self._backlog[0]:
                    if message.kind > LINK_KINDS_MAX and self._is_open:
                        self._on_message(message)
                    else:
                        self._handle(message)
                    left -= _STEPS[message.kind] + (len(message.body) >> LARGE_STEP_BITS)
                    if left <= 0:
                        self._loop.call_soon(self._receive_some)
                        break
                else:
                    self._backlog.popleft()
        except (ProtocolError, LinkError) as error:
            self._backlog.clear()
            self.fail(error.with_traceback(None))  # which holds what was received
        except BaseException:  # a fault of ours must not leave a connection that hears nothing any more
            self._backlog.clear()
            self.fail(LinkError("internal error"))
            raise
        if not self._is_client:
            self._receiver.turn_ended(self._decoder.held_bytes)
        if self._is_reading_paused:
            self._adjust_reading()

    def _take_late(self, message: Message) -> None:
        """Take what came before the end, but what may take long and only its sender would hear of."""
        if message.kind not in WIDE_KINDS:
            self._receiver.message_received(message)

    @property
    def waiting_bytes(self) -> int:
        """What was written and the peer has not read, about."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def limit_input(self, message_bytes_max: int) -> None:
        """Take no payload that is larger, from now on."""
        self._decoder.message_bytes_max = message_bytes_max

    def hold_back(self, is_held_back: bool) -> None:
        """Read no more, or go on."""
        self._is_held_back = is_held_back
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        """Read unless there is enough to handle, or (the broker) the peer itself does not read."""
        if self._transport is None or self._transport.is_closing():
            return
        stalls = self.is_congested and not self._is_client
        self._is_reading_paused = stalls or self._is_held_back or len(self._backlog) >= BACKLOG_BLOCKS_MAX
        if self._is_reading_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> None:
        """Let the transport close itself."""

    def pause_writing(self) -> None:
        self.is_congested = True
        self._congested_ticks = 0
        self._adjust_reading()
        self._receiver.congestion_changed(True)

    def resume_writing(self) -> None:
        self.is_congested = False
        self._adjust_reading()
        self._receiver.congestion_changed(False)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._on_message = self._take_late
        self._receive_some(sys.maxsize)  # what came before the end counts
        was_closing, self._transport = self._handle == self._ignore, None
        self._stop_receiving()
        error, self._error = self._error, None
        if error is None and not was_closing:
            error = LinkError(f"{self.peername} closed the connection" + (f": {exc}" if exc else ""))
            error.__cause__ = exc
        receiver, self._receiver = self._receiver, _NOBODY
        receiver.connection_closed(error)
        self._forget()

    def _forget(self) -> None:
        """Let go of what was received, and of whoever was told of it: memory must not wait for the collector."""
        self._receiver, self._on_message = _NOBODY, _NOBODY.message_received
        self._decoder = Decoder(0)
        self._backlog.clear()
        self._outbox.clear()

    # -- sending -----------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send `message` at the end of this turn of the event loop; after the end of the connection, drop it.

        The size of the message is the caller's to check, against `message_bytes_max`.
        """
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(message)
        if len(message.body) >= LARGE_BODY_BYTES:
            self._flush()  # congestion must show before the next one is sent

    def send_now(self, message: Message) -> None:
        """Send `message` without waiting for others of this turn: for a peer that has little else to do."""
        if self._outbox:
            self._outbox.append(message)
        else:
            self.write([message])

    def write(self, messages: list[Message]) -> None:
        """Write `messages` now, in one go."""
        if self._transport is None:
            return
        self._sent = True
        chunks: list[bytes | bytearray | memoryview] = []
        for message in messages:
            encode(message, chunks)
        if len(chunks) == 1:
            self._transport.write(chunks[0])
        elif len(chunks) > len(messages):
            self._transport.writelines(chunks)  # long bodies, each a chunk of its own, are not copied
        else:
            self._transport.write(b"".join(chunks))
        if self.is_congested and not self._is_client and self._transport.get_write_buffer_size() > OUTBOX_BYTES_MAX:
            self.fail(LinkError(f"{self.peername} does not read: over {OUTBOX_BYTES_MAX} bytes wait for it"))

    def close(self, reason: str = "", last_request: int = 0) -> None:
        """Say GOODBYE, send what is waiting and close; the peer has 2 s to take it.

        Args:
            reason: For people.
            last_request: The id of the last request that this side took.
        """
        if self._transport is None or self._handle == self._ignore:
            self._stop_receiving()
            return
        self._stop_receiving()
        self.write([*self._outbox, Message(Kind.GOODBYE, last_request, body=reason.encode())])
        self._outbox.clear()
        if self._transport is not None:
            self._transport.close()
            self._restart_timer(CLOSE_TIMEOUT_S, self._transport.abort)

    def abandon(self) -> None:
        """Close without a word, where a dial was cancelled: a transport that uvloop has closed takes no write."""
        transport, self._transport = self._transport, None
        self._stop_receiving()
        self._outbox.clear()
        if self._timer is not None:
            self._timer.cancel()
        if transport is not None:
            transport.abort()

    def fail(self, error: ZbusError) -> None:
        """Close because of the peer's fault and tell it why, without waiting for it."""
        if self._error is not None or self._transport is None:
            return
        self._error = error
        if isinstance(error, ProtocolError):
            self.close(str(error))
        else:
            self._stop_receiving()
            self._transport.abort()

    def _flush(self) -> None:
        messages, self._outbox = self._outbox, []
        self.write(messages)

    # -- what concerns the connection itself -------------------------------------------------------------

    def _receive_hello(self, message: Message) -> None:
        theirs = parse_hello(message)
        self.message_bytes_max = min(self._ours.message_bytes_max, theirs.message_bytes_max)
        self._decoder.message_bytes_max = self._ours.message_bytes_max
        self._handle = self._receive
        self._is_open = True
        tick_s = min(self._ours.idle_s, theirs.idle_s) / TICKS_PER_IDLE
        self._restart_timer(tick_s, self._tick, tick_s)
        answer = self._receiver.connection_opened(theirs)
        if answer is not None:
            self.write([hello_message(answer)])

    def _receive(self, message: Message) -> None:
        if message.kind == Kind.PING:
            self.send(Message(Kind.PONG, message.id))
        elif message.kind == Kind.GOODBYE:
            reason = bytes(message.body).decode(errors="replace")
            error = LinkError(f"{self.peername} closed the connection" + (f": {reason}" if reason else ""))
            error.last_request = message.id or None
            self.fail(error)
        elif message.kind == Kind.HELLO:
            raise ProtocolError("HELLO comes once, and first")

    def _stop_receiving(self) -> None:
        self._handle = self._ignore
        self._is_open = False

    @staticmethod
    def _ignore(message: Message) -> None:
        """Drop what still comes while the connection closes."""

    def _hello_missing(self) -> None:
        self.fail(ProtocolError(f"no HELLO within {HELLO_TIMEOUT_S:g} s"))

    def _tick(self, tick_s: float) -> None:
        """Notice a peer that is silent, stalled or dribbling; ping when this side was quiet."""
        self._silent_ticks = 0 if self._heard or self.is_congested or self._is_held_back else self._silent_ticks + 1
        waiting = self._transport.get_write_buffer_size() if self.is_congested and self._transport else 0
        self._congested_ticks = self._congested_ticks + 1 if waiting and waiting >= self._waiting_before else 0
        self._waiting_before = waiting
        is_dribbling = self._decoder.is_partial and self._decoder.completed == self._completed_before
        self._partial_ticks = self._partial_ticks + 1 if is_dribbling and not self._is_held_back else 0
        self._completed_before = self._decoder.completed
        if self._silent_ticks >= TICKS_PER_IDLE:
            self.fail(LinkError(f"nothing heard from {self.peername} for {tick_s * TICKS_PER_IDLE:g} s"))
        elif self._congested_ticks > TICKS_PER_IDLE:
            self.fail(LinkError(f"{self.peername} has not read for {tick_s * TICKS_PER_IDLE:g} s"))
        elif self._partial_ticks > PARTIAL_TICKS_MAX:
            self.fail(ProtocolError(f"a frame is incomplete for {tick_s * PARTIAL_TICKS_MAX:g} s"))
        else:
            if self._is_client and not self._sent:
                self.send(Message(Kind.PING))
            self._heard = self._sent = False
            self._restart_timer(tick_s, self._tick, tick_s)

    def _restart_timer(self, delay_s: float, callback: "object", *args: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, callback, *args)  # type: ignore[arg-type]


class _Nobody:
    """The receiver of a connection that has ended."""

    def connection_opened(self, hello: Hello) -> None:
        """Do nothing, as all of them."""

    def message_received(self, message: Message) -> None: ...

    def turn_ended(self, held_bytes: int) -> None: ...

    def congestion_changed(self, is_congested: bool) -> None: ...

    def connection_closed(self, error: ZbusError | None) -> None: ...


_NOBODY: Final = _Nobody()


def format_peername(peername: object) -> str:
    """Return a socket's address as `host:port`, or a word where there is none."""
    if isinstance(peername, tuple) and len(peername) >= 2:
        host = f"[{peername[0]}]" if ":" in str(peername[0]) else peername[0]
        return f"{host}:{peername[1]}"
    return str(peername) if peername else "unknown"


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the system find out about peers that vanish while they wait for a message."""
    connected = transport.get_extra_info("socket")
    if connected is not None and connected.family in {socket.AF_INET, socket.AF_INET6}:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
