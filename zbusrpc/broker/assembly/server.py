"""The server: a whole broker with a port, put together from its parts.

    listener ──> arrival ──the first bytes──> the dialect that claims them ──> a peer, which has a session of the core

What happens within one turn of the event loop is in `core/turns.py`.

Promises: a peer that sends rubbish loses its own connection and nothing else; `close` drains before it ends.
"""

import asyncio
import socket
import ssl

from zbusrpc.broker.access.logins import Logins
from zbusrpc.broker.access.rights import Access, Rights
from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.assembly.data_directory import DataDirectory
from zbusrpc.broker.assembly.usage import own_usage
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.core.turns import Turns
from zbusrpc.broker.dialects.http.dialect import HttpDialect
from zbusrpc.broker.dialects.http.origins import Origins
from zbusrpc.broker.dialects.native.peer import NativeDialect
from zbusrpc.broker.dialects.seams import Dialect
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.dialects.zbus.reporter import TextReporter
from zbusrpc.broker.listeners.advertise import advertised
from zbusrpc.broker.listeners.arrival import Arrival
from zbusrpc.broker.listeners.quotas import Quotas
from zbusrpc.broker.listeners.tls_listener import TlsListener, listening_sockets
from zbusrpc.broker.monitor.monitor import Monitor
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.memory import INPUT_BYTES_MAX, Input, Output
from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.sessions.telling import tell_one
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.descriptors import connections_of, raise_limit
from zbusrpc.broker.storage.handles import OPEN_FILES_MAX
from zbusrpc.broker.tracker.reporter import Reporter
from zbusrpc.broker.tracker.reporting import Announcer, Reporting
from zbusrpc.config import IDLE_S, MESSAGE_BYTES_MAX
from zbusrpc.errors import ConfigError
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello

BACKLOG: int = 1024
"""Connections that may wait to be accepted: a thousand clients that reconnect at once must not be refused."""
DRAIN_POLL_S = 0.02


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
        self._clock = Clock()
        limits = limits or Limits()
        self.broker = Broker(limits=limits)
        self.access = access
        """Who may do what; None lets everybody do everything."""
        self.tls = tls
        """With it, every connection is encrypted."""
        self.origins = Origins(allow_origins, has_tokens=access is not None)
        """Which web pages may use the broker."""
        self.logins = Logins(self._clock.now)
        """Who is logged in by the page."""
        connections_max = connections_of(raise_limit(), OPEN_FILES_MAX if data_dir is not None else 0)
        self.quotas = Quotas(limits.connections_per_address_max, connections_max)
        """Where connections take their places."""
        self.input, self.output = Input(max(INPUT_BYTES_MAX, 2 * message_bytes_max)), Output()
        """What all peers together make this broker keep."""
        self.turns = Turns(self.broker, self._clock.now)
        """Where peers meet the core."""
        self.hub = Hub(self.broker, now=self._clock.now, now_ms=self._clock.now_ms, later=self.turns.later)
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
        self.dialects: list[Dialect] = [NativeDialect(self), HttpDialect(self)]
        """What is spoken on the port: whichever claims the first bytes of a connection has it."""
        self.data_dir = data_dir
        """Where stored topics are kept, or None."""
        self._durability = durability
        self._trackers, self._zbus_trackers = trackers, zbus_trackers
        self._is_tracker_only = is_tracker_only
        self._reporting: Reporting | None = None
        self._data_directory: DataDirectory | None = None

    async def start(self, host: str, port: int) -> str:
        """Open the data directory, listen, and return the address as `host:port`; port 0 takes a free one.

        Raises:
            ConfigError: the directory cannot be used or the address not be listened on; the text says why.
        """
        if self.data_dir is not None:
            data_directory = DataDirectory(self.broker, self.data_dir, self._durability, self._clock)
            await data_directory.open()
            data_directory.scheduler.after, self._data_directory = self.turns.flush, data_directory
        try:
            self._listener = await self._listen(host, port)
        except OSError as error:
            await self._close_data_directory()
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
            self.turns.flush()
        until = self._loop.time() + grace_s
        while self.broker.unfinished() and self._loop.time() < until:  # noqa: ASYNC110 - no events there
            await asyncio.sleep(DRAIN_POLL_S)
        if self._reporting is not None:
            await self._reporting.close()
        for peer in list(self.turns.peers.values()):
            tell_one(peer.close, "the broker is shutting down")
        for arrival in list(self.arrivals):
            arrival.close()
        until = self._loop.time() + 1.0
        while self.turns.peers and self._loop.time() < until:  # noqa: ASYNC110 - each needs a turn of the loop
            await asyncio.sleep(0)
        self.turns.close()
        if isinstance(self._listener, TlsListener):
            await self._listener.wait_closed()
        await self._close_data_directory()

    async def _close_data_directory(self) -> None:
        if self._data_directory is not None:
            data_directory, self._data_directory = self._data_directory, None
            await data_directory.close()

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
            peer = self.turns.peers.get(number)
            if peer is not None:
                tell_one(peer.close, reason)

    def _end_login(self, rights: Rights, by: Session) -> None:
        """Close the connections that go on by a login which was ended, but that on which it was."""
        for number in self.broker.sessions_of(rights):
            peer = self.turns.peers.get(number)
            if peer is not None and number != by.number:
                tell_one(peer.close, "logged out")

    def _note_access(self) -> None:
        name = (self._advertise or "").rpartition(":")[0] or self._advertise or ""
        self.monitor.access = self.access
        self.turns.anonymous = self.access.anonymous if self.access is not None else None
        self.origins = Origins(
            self._allow_origins,
            self._host,
            has_tokens=self.access is not None,
            advertised_host=name,
            machine=socket.gethostname(),
            of_set=self.monitor.origins,
        )
