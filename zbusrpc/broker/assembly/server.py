"""The server: the shell around a broker core that gives it a port, a clock and connections.

Every connection begins with a byte that tells its framing; from then on a native peer or an HTTP peer carries it
and owns one session of the core. What the core decides within one turn of the event loop is collected and leaves
in one write per connection.

The core's clock is the system's monotonic one, which that of the loop follows: uvloop's has whole milliseconds, and
stands still within a turn, which is too coarse to time calls.

Promises: a peer that sends rubbish loses its own connection and nothing else; `close` drains before it ends.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from zbusrpc.broker.access.logins import Logins
from zbusrpc.broker.access.rights import Access, Rights
from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.assembly.data_directory import Node
from zbusrpc.broker.assembly.usage import own_usage
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.dialects.http.origins import Origins
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.dialects.zbus.reporter import TextReporter
from zbusrpc.broker.listeners.advertise import advertised
from zbusrpc.broker.listeners.arrival import Arrival
from zbusrpc.broker.listeners.quotas import Door
from zbusrpc.broker.listeners.tls_listener import TlsListener, listening_sockets
from zbusrpc.broker.monitor.monitor import Monitor
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.memory import INPUT_BYTES_MAX, Input, Output
from zbusrpc.broker.sessions.session import BYTES_MAX, Session
from zbusrpc.broker.sessions.telling import tell_one
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.descriptors import connections_of, raise_limit
from zbusrpc.broker.storage.handles import OPEN_FILES_MAX
from zbusrpc.broker.tracker.reporter import Reporter
from zbusrpc.broker.tracker.reporting import Announcer, Reporting
from zbusrpc.config import IDLE_S, MESSAGE_BYTES_MAX
from zbusrpc.errors import ConfigError
from zbusrpc.message import Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello

log = get_logger("broker")

BACKLOG: int = 1024
"""Connections that may wait to be accepted: a thousand clients that reconnect at once must not be refused."""
DRAIN_POLL_S = 0.02


class Peer(Protocol):
    """What carries one session's messages, whatever the framing."""

    def send(self, messages: list[Any]) -> None:
        """Write to the peer what stood in its session's outbox."""

    def close(self, reason: str) -> None:
        """Tell the peer why, and close."""


class Server:
    """A broker that listens on a port."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        idle_s: float = IDLE_S,
        data_dir: str | None = None,
        durability: Durability = Durability.DISK,
        access: Access | None = None,
        tls: ssl.SSLContext | None = None,
        allow_origins: tuple[str, ...] = (),
        advertise: str | None = None,
        certificate: str = "",
        trackers: tuple[Address, ...] = (),
        zbus_trackers: tuple[Address, ...] = (),
        is_tracker_only: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        limits = limits or Limits()
        self.broker = Broker(limits=limits)
        self.access = access
        """Who may do what; None lets everybody do everything."""
        self.tls = tls
        """With it, every connection is encrypted."""
        self.origins = Origins(allow_origins, has_tokens=access is not None)
        """Which web pages may use the broker."""
        self.logins = Logins(monotonic)
        """Who is logged in by the page."""
        connections_max = connections_of(raise_limit(), OPEN_FILES_MAX if data_dir is not None else 0)
        self.door = Door(limits.connections_per_address_max, connections_max)
        """Where connections take their places."""
        self.input, self.output = Input(max(INPUT_BYTES_MAX, 2 * message_bytes_max)), Output()
        """What all peers together make this broker keep."""
        self._clock = Clock()
        self.hub = Hub(self.broker, now=monotonic, now_ms=self._clock.now_ms, later=self._later)
        """What text sessions share."""
        self.hub.is_tls, self.hub.certificate = tls is not None, certificate
        self._advertise = advertise
        self.arrivals: set[Arrival] = set()
        """Connections that have not said a byte yet."""
        self.monitor = Monitor(self.hub, usage=own_usage, logins=self.logins)
        self.monitor.on_logout = self._end_login
        """What people are shown."""
        self._allow_origins = allow_origins
        self._host = ""
        self.message_bytes_max = message_bytes_max
        self.hello = Hello(message_bytes_max=message_bytes_max, idle_s=idle_s)
        self._listener: asyncio.Server | TlsListener | None = None
        self._peers: dict[int, Peer] = {}
        self._is_flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self.data_dir = data_dir
        """Where stored topics are kept, or None."""
        self._durability = durability
        self._trackers, self._zbus_trackers = trackers, zbus_trackers
        self._is_tracker_only = is_tracker_only
        self._reporting: Reporting | None = None
        self._node: Node | None = None

    async def start(self, host: str, port: int) -> str:
        """Open the data directory, listen, and return the address as `host:port`; port 0 takes a free one.

        Raises:
            ConfigError: the directory cannot be used or the address not be listened on; the text says why.
        """
        if self.data_dir is not None:
            node = Node(self.broker, self.data_dir, self._durability, self._clock)
            await node.open()
            node.scheduler.after, self._node = self.flush, node
        try:
            self._listener = await self._listen(host, port)
        except OSError as error:
            await self._close_node()
            reason = (error.strerror or str(error)).rpartition(": ")[2]  # asyncio puts the address before it
            raise ConfigError(f"cannot listen on {host}:{port}: {reason.lower()}") from None
        bound = self._listener.sockets[0].getsockname()[1]
        self.broker.name = str(Address(host, bound))
        self.logins.listen_on(bound)
        self._host = host
        self.hub.address = advertised(self._advertise, host, bound)
        self._begin_tracking()
        self._note_access()
        return self.broker.name

    def _begin_tracking(self) -> None:
        """Tell of this broker, by the address at which it is reached, to whoever asks and to its trackers."""
        self.hub.attach(tuple(map(str, self._trackers)), is_tracker_only=self._is_tracker_only)
        if self._is_tracker_only:
            self.broker.serve_nothing()
        own = self.hub.tracker.own
        self.hello = self.hello.model_copy(update={"address": own.address, "boot": own.boot})
        tracker, hello = self.hub.tracker, Hello(name=f"broker {own.address}"[:255])
        announcers: list[Announcer] = [Reporter(tracker, target, hello) for target in self._trackers]
        for target in self._zbus_trackers:
            announcers.append(TextReporter(tracker, target, lambda: self.hub.server_info(None), self.hub.certificate))
        self._reporting = Reporting(tracker, announcers)

    async def _listen(self, host: str, port: int) -> asyncio.Server | TlsListener:
        def arrive() -> Arrival:
            return Arrival(self)

        if self.tls is not None:
            return TlsListener(await listening_sockets(host, port, BACKLOG), self.tls, arrive)
        return await self._loop.create_server(arrive, host, port, backlog=BACKLOG, reuse_address=True)

    async def close(self, grace_s: float = 0.0) -> None:
        """Drain, and end: take nothing new, give what is under way `grace_s` seconds, say goodbye.

        Trackers and clients are told first, so that they go elsewhere.
        """
        if self._listener is not None:
            self._listener.close()
        self.broker.drain()
        if self._reporting is not None:
            self.hub.tracker.set_state("draining")
            self.flush()
        until = self._loop.time() + grace_s
        while self.broker.unfinished() and self._loop.time() < until:  # noqa: ASYNC110 - no events there
            await asyncio.sleep(DRAIN_POLL_S)
        if self._reporting is not None:
            await self._reporting.close()
        for peer in list(self._peers.values()):
            tell_one(peer.close, "the broker is shutting down")
        for arrival in list(self.arrivals):
            arrival.close()
        until = self._loop.time() + 1.0
        while self._peers and self._loop.time() < until:  # noqa: ASYNC110 - each needs a turn of the loop
            await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(self._listener, TlsListener):
            await self._listener.wait_closed()
        await self._close_node()

    async def _close_node(self) -> None:
        if self._node is not None:
            node, self._node = self._node, None
            await node.close()

    def replace_access(self, access: Access) -> None:
        """Let other rules hold from now on, also for sessions that there are.

        A session whose token is gone is closed, and so is one that consumes or serves what it may not any more.
        """
        self.access = access
        self._note_access()
        logins = self.logins.renew(access)
        self.hub.renew(access)
        self.monitor.live.renew(access)
        for number, reason in self.broker.replace_access(access, logins).items():
            peer = self._peers.get(number)
            if peer is not None:
                tell_one(peer.close, reason)

    def _end_login(self, rights: Rights, by: Session) -> None:
        """Close the connections that go on by a login which was ended, but that on which it was."""
        for number in self.broker.sessions_of(rights):
            peer = self._peers.get(number)
            if peer is not None and number != by.number:
                tell_one(peer.close, "logged out")

    def _note_access(self) -> None:
        name = (self._advertise or "").rpartition(":")[0] or self._advertise or ""
        self.monitor.access = self.access
        self.origins = Origins(
            self._allow_origins,
            self._host,
            has_tokens=self.access is not None,
            advertised_host=name,
            machine=socket.gethostname(),
            of_set=self.monitor.origins,
        )

    # -- what peers call ---------------------------------------------------------------------------------

    def connect(
        self, name: str, peer: Peer, message_bytes_max: int = BYTES_MAX, rights: Rights | None = None
    ) -> Session:
        """Begin a session that `peer` carries, which takes messages up to a size.

        Args:
            rights: Those of the token that was shown; without one the session has the rights of everybody.
        """
        session = self.broker.connect(name, message_bytes_max)
        session.rights = rights or (self.access.anonymous if self.access is not None else None)
        self._peers[session.number] = peer
        return session

    def receive(self, session: Session, message: Message) -> None:
        """Let the core carry out a message; `flush` when those that came together are done.

        Raises:
            ProtocolError: the peer must not send this.
        """
        self.broker.receive(session, message, monotonic())

    def set_congested(self, session: Session, is_congested: bool) -> None:
        """Tell the core that a peer reads too slowly, or has caught up."""
        if session.number in self._peers:
            self.broker.set_congested(session, is_congested, monotonic())
            self.flush()

    def disconnect(self, session: Session) -> None:
        """End a session whose connection is gone; again does nothing."""
        peer = self._peers.pop(session.number, None)
        if peer is not None:
            self.door.leave(peer)
            self.broker.disconnect(session, monotonic())
            self.flush()

    # -- effects -----------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Flush when this turn of the loop has received what it can: one for many peers."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what the core left in the outboxes, one write for each peer."""
        self._is_flush_due = False
        self.broker.settle()
        while self.broker.dirty:  # what a text peer is sent may make it send
            dirty, self.broker.dirty = self.broker.dirty, []
            for session in dirty:
                messages, session.outbox = session.outbox, []
                peer = self._peers.get(session.number)
                if peer is None:
                    continue
                try:
                    peer.send(messages)
                except Exception:  # a fault there must not keep the others from their messages
                    log.exception("broker.send_failed", peer=repr(peer))
                    peer.close("internal error of the broker")
        if self.broker.next_expiry() != self._timer_at:
            self._arm_timer()

    def _later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `callback` after a while, and send what it leaves."""
        return self._loop.call_later(delay_s, self._ring, callback)

    def _ring(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        finally:
            self.flush()

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self.broker.next_expiry()
        if self._timer_at is not None:
            self._timer = self._loop.call_at(self._timer_at, self._expire)

    def _expire(self) -> None:
        try:
            self.broker.expire(monotonic())
        finally:
            self._timer_at = None
            self.flush()
