"""A link: a connection to a broker that opens itself again.

Whoever runs a link keeps `run` in a task. It dials the addresses in order until one answers, stays while that
connection lives, and begins again after a wait that grows (see `backoff.py`). Its user is told of every opening
and loss, and may ask to `hurry` the next dial.

Promises: at most one connection at a time; cancelling `run` closes it; while it is down `send` raises.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol

from zbusrpc.config import DEFAULT_PORT, client_security
from zbusrpc.errors import FrameTooLargeError, LinkError, TokenRefusedError, ZbusError, did_you_mean
from zbusrpc.message import Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.backoff import CAP_S, Backoff
from zbusrpc.transport.connection import CLOSE_TIMEOUT_S, Connection
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.tls import client_context, explain_tls

DIAL_GAP_S = 0.02
"""Between two dials at least, however many calls are in a hurry: a broker that is down must not be hammered."""
DIAL_TIMEOUT_S = 5.0
"""For the TCP connection and the exchange of HELLOs together."""
TLS_ALERT: Final = 0x15
"""What a broker that speaks TLS answers to anything else begins with (RFC 8446, 5.1): here the length of a frame."""
OTHERS: Final = {
    b"SSH-": "an SSH server",
    b"-ERR": "a Redis server",
    b"-DEN": "a Redis server",
    b"220 ": "a mail or FTP server",
    b"220-": "a mail or FTP server",
    b"AMQP": "an AMQP broker",
    b"INFO": "a NATS server",
}
"""Who it is whose first answer begins so: what people run beside a broker, and may name by mistake."""

log = get_logger("link")


class LinkUser(Protocol):
    """Whoever a link tells what happens on it."""

    def link_opened(self, theirs: Hello) -> None:
        """A connection is open; anything may be sent."""

    def message_received(self, message: Message) -> None:
        """A message came."""

    def congestion_changed(self, is_congested: bool) -> None:
        """The broker reads too slowly, or has caught up."""

    def link_lost(self, error: ZbusError) -> None:
        """The connection is gone; what was sent on it may or may not have arrived."""


class Link:
    """A connection to the first of some brokers that answers, kept open."""

    def __init__(
        self, addresses: tuple[Address, ...], user: LinkUser, hello: Hello, *, wait_s_max: float = CAP_S
    ) -> None:
        """Prepare a link; the token and TLS are those of the environment and `zbusrpc.toml`.

        Args:
            addresses: Where the broker may be reached, in the order in which they are tried.
            user: Who is told.
            hello: What is said first.
            wait_s_max: Longest wait between two dials.

        Raises:
            ConfigError: they, or a file that they name, cannot be used.
        """
        security = client_security()
        self._addresses = tuple(address._replace(tls=address.tls or security.tls) for address in addresses)
        has_tls = any(address.tls for address in self._addresses)
        self._tls = client_context(security) if has_tls else None
        self._user = user
        self._hello = hello if hello.token else hello.model_copy(update={"token": security.token})
        self._loop = asyncio.get_running_loop()
        self.connection: Connection | None = None
        """The open connection, or None while the link is down."""
        self._dialled: _Dialled | None = None
        self._outcome: asyncio.Future[ZbusError | None] = self._loop.create_future()
        self._closed = asyncio.Event()
        self._attempt: asyncio.Future[None] = self._loop.create_future()
        self._hurry = asyncio.Event()
        self._wait_s_max = wait_s_max
        self._is_stopped = self._has_ended = False
        self.error: ZbusError | None = None
        """Why the link is down, where it is known."""
        self.name = ";".join(str(address) for address in self._addresses)
        """The brokers it may be connected to, for people."""

    @property
    def is_refused(self) -> bool:
        """Whether a broker does not know the token, so that `run` has given up."""
        return isinstance(self.error, TokenRefusedError)

    async def run(self) -> None:
        """Keep the link open until cancelled, or until a broker does not know the token."""
        backoff = Backoff(cap_s=self._wait_s_max)
        try:
            while not self._is_stopped:
                await self._dial()
                if self.is_refused:
                    return
                self._end_attempt()
                if self.connection is not None:
                    backoff.reset()
                    await self._closed.wait()
                    if self._is_stopped:
                        return
                self._hurry.clear()
                await asyncio.sleep(DIAL_GAP_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_s()):  # wait_for loses cancellations (Python 3.11)
                        await self._hurry.wait()
        except Exception as error:
            self.error = LinkError(f"the link to {self.name} has failed: {error}")
            raise
        except GeneratorExit:  # the loop was dropped, and this goes with it: nothing can be said there any more
            self.connection = None
            raise
        finally:
            self._has_ended = True
            self.error = self.error or LinkError(f"the link to {self.name} was closed")
            self._end_attempt()
            if self.connection is not None:
                self.connection.close()

    async def wait_attempt(self) -> None:
        """Return when the link is open or the dial that runs or comes next has failed, or at once after the end.

        Why there is no connection is in `error`.
        """
        if self.connection is None and not self._has_ended:
            self._hurry.set()
            await asyncio.shield(self._attempt)

    async def wait_next_attempt(self) -> None:
        """Return when the dial that comes next in its own time has ended."""
        await asyncio.shield(self._attempt)

    def stop(self) -> None:
        """Close the connection, if there is one, and let `run` end."""
        self._is_stopped = True
        self._hurry.set()
        if self.connection is not None:
            self.connection.close()

    def drop(self, error: ZbusError) -> None:
        """Give the connection up as if it had been lost, and dial again."""
        if self.connection is not None:
            self.connection.fail(error)

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            LinkError: the link is down.
        """
        if self.connection is None:
            raise self.error or LinkError(f"not connected to {self.name}")
        self.connection.send(message)

    def _end_attempt(self) -> None:
        """Wake whoever waits for this dial, and let others wait for the next."""
        if not self._attempt.done():
            self._attempt.set_result(None)
        self._attempt = self._loop.create_future()

    async def _dial(self) -> None:
        """Try each address once; afterwards the link is open or `error` is set."""
        for address in self._addresses:
            self._outcome = self._loop.create_future()
            self._closed.clear()
            self._dialled = dialled = _Dialled(self)
            connection = dialled.connection = Connection(dialled, self._hello, is_client=True)
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    await self._connect(connection, address)
                    error: Exception | None = await self._outcome
            except (OSError, TimeoutError, ValueError) as dial_error:  # the last is for a host name that is none
                error = dial_error
            except asyncio.CancelledError:
                connection.abandon()
                raise
            if error is None:
                return
            self._dialled = None  # what it still says is of no interest
            connection.close()
            kind = TokenRefusedError if isinstance(error, TokenRefusedError) else LinkError
            self.error = kind(explain(address, error))
            log.debug("link.unreachable", broker=str(address), error=str(self.error))

    async def _connect(self, connection: Connection, address: Address) -> None:
        """Open a connection to one broker, encrypted where that is wanted."""
        host, port, tls = address
        factory, context = partial(_itself, connection), self._tls if tls else None
        timeout_s = CLOSE_TIMEOUT_S if tls else None
        connect = partial(self._loop.create_connection, factory, ssl=context, ssl_shutdown_timeout=timeout_s)
        try:
            await connect(host, port)
        except RuntimeError:  # no thread looks the name up: the interpreter ends, or has as many as it may
            await _connect_to_first(lambda one: connect(one, port, server_hostname=host if tls else None), host, port)

    # -- what the dialled connection calls ---------------------------------------------------------------

    def _opened(self, dialled: "_Dialled", hello: Hello) -> None:
        if dialled is not self._dialled:
            return
        self.connection = dialled.connection
        self.error = None
        self._user.link_opened(hello)
        if not self._outcome.done():
            self._outcome.set_result(None)

    def _ended(self, dialled: "_Dialled", error: ZbusError | None) -> None:
        if dialled is not self._dialled:
            return
        self._closed.set()
        reason = error or LinkError(f"the link to {self.name} was closed")
        if self.connection is None:
            if not self._outcome.done():
                self._outcome.set_result(reason)
            return
        self.connection = None
        self.error = LinkError(f"the connection to broker {self.name} was lost: {reason}")
        if isinstance(reason, LinkError):
            self.error.last_request = reason.last_request
        self._user.link_lost(self.error)


class _Dialled:
    """The receiver of one connection: passes on to the link what happens there.

    A connection that was given up may end long after the next one was dialled, and must not be taken for it.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.connection: Connection | None = None
        self.message_received = link._user.message_received

    def connection_opened(self, hello: Hello) -> None:
        self._link._opened(self, hello)

    def turn_ended(self, held_bytes: int) -> None:
        """Do nothing: no client is told."""

    def congestion_changed(self, is_congested: bool) -> None:
        self._link._user.congestion_changed(is_congested)

    def connection_closed(self, error: ZbusError | None) -> None:
        self._link._ended(self, error)


async def _connect_to_first(connect: Callable[[str], Awaitable[Any]], host: str, port: int) -> None:
    """Connect to the first address of a host that answers; the name is looked up here, which blocks the loop.

    Raises:
        OSError: there is no such name, or the last of its addresses did not answer.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for one in hosts[:-1]:
        with contextlib.suppress(OSError):
            await connect(one)
            return
    await connect(hosts[-1])


def _itself(connection: Connection) -> Connection:
    """Return the protocol that asyncio asks a factory for."""
    return connection


def explain(address: Address, error: Exception) -> str:
    """Return one line that says why a broker cannot be reached, and what to do."""
    if isinstance(error, TokenRefusedError):
        return f"broker {address}: {error}; see --token and ZBUSRPC_TOKEN"
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLError):
        reason = explain_tls(cause)
    elif isinstance(error, OSError):
        reason = _explain_system(address, error)
    elif isinstance(error, ValueError):
        reason = f"{address.host!r:.80} is no host name"
    elif isinstance(error, FrameTooLargeError):
        reason = _explain_foreign(address, error.size.to_bytes(4, "big"))
    elif isinstance(error, LinkError):
        reason = _explain_closed(address, "it may want a certificate that it trusts: ZBUSRPC_TLS_CLIENT_CERT")
    else:
        return f"broker {address}: {error}"
    return f"cannot reach broker {address}: {reason}"


def _explain_foreign(address: Address, opening: bytes) -> str:
    """Say who listens there, by the first bytes of its answer, which were taken for the length of a frame."""
    if opening[0] == TLS_ALERT:
        return f"it speaks TLS: write tls://{address}"
    if opening == b"HTTP":
        return "it speaks HTTP alone, as web servers and brokers of zbus do; name the port of a zbusrpc broker"
    who = OTHERS.get(opening)
    return f"it is {who or f'no broker: its answer begins with {opening!r}'}; name the port of a zbusrpc broker"


def _explain_system(address: Address, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host name {address.host} is unknown{did_you_mean(address.host, ['localhost'])}"
    if isinstance(error, ConnectionRefusedError):
        is_here = address.host in {"localhost", "127.0.0.1", "::1"}
        return f"nothing listens there{f'; start one with: {_command(address)}' if is_here else ''}"
    if isinstance(error, TimeoutError):
        return f"no answer within {DIAL_TIMEOUT_S:g} s"
    if isinstance(error, ConnectionError):
        return _explain_closed(address, "it may speak no TLS")
    return (error.strerror or str(error)).lower()


def _command(address: Address) -> str:
    return "zbusrpc broker" + (f" --port {address.port}" if address.port != DEFAULT_PORT else "")


def _explain_closed(address: Address, guess: str) -> str:
    """Say that the broker hung up, and why it may have; with TLS, `guess` is that."""
    hint = guess if address.tls else f"if it speaks TLS, write tls://{address}"
    return f"it closed the connection before it said anything; {hint}"
