"""An arrival: a connection from the moment it is accepted until its first byte has told who is to carry it on.

    accepted ──room at the door?──> first byte ──> native peer, or text peer
        └── no: cut                     └── neither: closed, as nothing that could be said would be understood

Promises: whatever comes, and whatever does not come within HELLO_TIMEOUT_S, costs nobody else anything; of what was
turned away the log has at most one line.
"""

import asyncio
from typing import TYPE_CHECKING, Final, cast

from zbusrpc.broker.dialects.http.connection import TextPeer
from zbusrpc.broker.dialects.native.peer import NativePeer
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import HELLO_TIMEOUT_S, format_peername
from zbusrpc.transport.sniff import Framing, sniff

if TYPE_CHECKING:
    from zbusrpc.broker.assembly.server import Server

UNKNOWN_HOST: Final = "unknown"
log = get_logger("broker")


class Arrival(asyncio.Protocol):
    """A connection that has not said a byte yet."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_inside = False

    def enter(self, peername: object) -> bool:
        """Take a place at the door; False when the address of the peer has all it may have."""
        host = peername[0] if isinstance(peername, tuple) else UNKNOWN_HOST
        door = self._server.door
        self._is_inside = door.enter(self, host)
        if not self._is_inside and door.is_news(host, asyncio.get_running_loop().time()):
            log.warning("broker.too_many_connections", address=host, limit=door.connections_max)
        return self._is_inside

    def leave(self) -> None:
        """Have nothing to do with the connection any more; again does nothing."""
        self._server.door.leave(self)
        self._server.arrivals.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    # -- what the transport calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._is_inside or self.enter(transport.get_extra_info("peername")):
            self._server.arrivals.add(self)
            self._timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self.close)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._is_inside:
            return
        framing = sniff(data[0])
        if framing is Framing.NATIVE:
            native = NativePeer(self._server)
            self._pass_on(native, native.connection, data)
        elif framing is Framing.HTTP:
            text = TextPeer(self._server)
            self._pass_on(text, text, data)
        else:
            peer = format_peername(self._transport.get_extra_info("peername"))
            log.debug("broker.unknown_framing", peer=peer, looks_like=framing.name.lower())
            self._is_inside = False  # what may still come is not looked at
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()

    def _pass_on(self, peer: NativePeer | TextPeer, protocol: asyncio.Protocol, data: bytes) -> None:
        """Let a peer carry the connection on, and have the place at the door."""
        assert self._transport is not None
        self._server.door.hand_over(self, peer)
        self.leave()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)
