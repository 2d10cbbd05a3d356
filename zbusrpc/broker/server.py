"""The server: the shell around a broker core that gives it a port, a clock and connections.

Every connection begins with a byte that tells its framing; from then on a native peer or an HTTP peer carries it
and owns one session of the core. What the core decides within one turn of the event loop is collected and leaves
in one write per connection.

Promises: a peer that sends rubbish loses its own connection and nothing else; `close` drains before it ends.
"""

import asyncio
from typing import Protocol

from zbusrpc.broker.broker import Broker
from zbusrpc.broker.http_peer import HttpPeer
from zbusrpc.broker.limits import Limits
from zbusrpc.broker.native_peer import NativePeer
from zbusrpc.broker.node import Node
from zbusrpc.broker.session import BYTES_MAX, Session
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.config import IDLE_S, MESSAGE_BYTES_MAX
from zbusrpc.errors import ConfigError
from zbusrpc.message import Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.connection import HELLO_TIMEOUT_S
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.sniff import Framing, sniff

log = get_logger("broker")

BACKLOG: int = 1024
"""Connections that may wait to be accepted: a thousand clients that reconnect at once must not be refused."""
DRAIN_POLL_S = 0.02


class Peer(Protocol):
    """What carries one session's messages, whatever the framing."""

    def send(self, messages: list[Message]) -> None:
        """Write messages of the core to the peer."""

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
    ) -> None:
        self.broker = Broker(limits=limits)
        self.message_bytes_max = message_bytes_max
        self.hello = Hello(message_bytes_max=message_bytes_max, idle_s=idle_s)
        self._loop = asyncio.get_running_loop()
        self._listener: asyncio.Server | None = None
        self._peers: dict[int, Peer] = {}
        self._unknown: set[asyncio.BaseTransport] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self.data_dir = data_dir
        """Where stored topics are kept, or None."""
        self._durability = durability
        self._node: Node | None = None

    async def start(self, host: str, port: int) -> str:
        """Open the data directory, listen, and return the address as `host:port`; port 0 takes a free one.

        Raises:
            ConfigError: the directory cannot be used or the address not be listened on; the text says why.
        """
        if self.data_dir is not None:
            self._node = Node(self.broker, self.data_dir, self._durability)
            self._node.scheduler.after = self.flush
        try:
            self._listener = await self._loop.create_server(
                lambda: _Arrival(self), host, port, backlog=BACKLOG, reuse_address=True
            )
        except OSError as error:
            await self._close_node()
            reason = (error.strerror or str(error)).rpartition(": ")[2]  # asyncio puts the address before it
            raise ConfigError(f"cannot listen on {host}:{port}: {reason.lower()}") from None
        bound = self._listener.sockets[0].getsockname()[1]
        self.broker.name = str(Address(host, bound))
        return self.broker.name

    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more connections and calls, give those in flight `grace_s` seconds, say goodbye and end."""
        if self._listener is not None:
            self._listener.close()
        self.broker.calls.is_draining = True
        until = self._loop.time() + grace_s
        while self.broker.statistics()["in_flight"] and self._loop.time() < until:  # noqa: ASYNC110 - no events there
            await asyncio.sleep(DRAIN_POLL_S)
        for peer in list(self._peers.values()):
            peer.close("the broker is shutting down")
        for transport in list(self._unknown):
            transport.close()
        until = self._loop.time() + 1.0
        while self._peers and self._loop.time() < until:  # noqa: ASYNC110 - each needs a turn of the loop
            await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
        await self._close_node()

    async def _close_node(self) -> None:
        if self._node is not None:
            node, self._node = self._node, None
            await node.close()

    # -- what peers call ---------------------------------------------------------------------------------

    def connect(self, name: str, peer: Peer, message_bytes_max: int = BYTES_MAX) -> Session:
        """Begin a session that `peer` carries, which takes messages up to a size."""
        session = self.broker.connect(name, message_bytes_max)
        self._peers[session.number] = peer
        return session

    def receive(self, session: Session, message: Message) -> None:
        """Let the core carry out a message; `flush` when those that came together are done.

        Raises:
            ProtocolError: the peer must not send this.
        """
        self.broker.receive(session, message, self._loop.time())

    def set_congested(self, session: Session, is_congested: bool) -> None:
        """Tell the core that a peer reads too slowly, or has caught up."""
        if session.number in self._peers:
            self.broker.set_congested(session, is_congested, self._loop.time())
            self.flush()

    def disconnect(self, session: Session) -> None:
        """End a session whose connection is gone; again does nothing."""
        if self._peers.pop(session.number, None) is not None:
            self.broker.disconnect(session, self._loop.time())
            self.flush()

    # -- effects -----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what the core left in the outboxes, one write for each peer."""
        if self.broker.queues is not None:
            self.broker.queues.settle()
        self.broker.settle()
        dirty, self.broker.dirty = self.broker.dirty, []
        for session in dirty:
            messages, session.outbox = session.outbox, []
            peer = self._peers.get(session.number)
            if peer is not None:
                self._send(peer, messages)
        if self.broker.next_expiry() != self._timer_at:
            self._arm_timer()

    def _send(self, peer: Peer, messages: list[Message]) -> None:
        """Write to one peer; a fault there must not keep the others from their messages."""
        try:
            peer.send(messages)
        except Exception:
            log.exception("broker.send_failed", peer=repr(peer))
            peer.close("internal error of the broker")

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self.broker.next_expiry()
        if self._timer_at is not None:
            self._timer = self._loop.call_at(self._timer_at, self._expire)

    def _expire(self) -> None:
        self.broker.expire(self._loop.time())
        self._timer_at = None
        self.flush()


class _Arrival(asyncio.Protocol):
    """A connection that has not said a byte yet."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server._unknown.add(transport)
        self._timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, transport.close)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._forget()
        framing = sniff(data[0])
        if framing is Framing.NATIVE:
            protocol: asyncio.Protocol = NativePeer(self._server).connection
        elif framing is Framing.HTTP:
            protocol = HttpPeer(self._server)
        else:
            self._transport.close()  # nothing that such a peer would understand could be said
            return
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    def _forget(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        if self._transport is not None:
            self._server._unknown.discard(self._transport)
