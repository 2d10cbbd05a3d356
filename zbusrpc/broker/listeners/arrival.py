"""An arrival: a connection from the moment it is accepted until its first bytes have told who is to carry it on.

    accepted ──is there a place?──> first bytes ──> the dialect that claims them
        └── no: cut                     └── none does: closed, as nothing that could be said would be understood

Promises: whatever comes, and whatever does not come within HELLO_TIMEOUT_S, costs nobody else anything; of what was
turned away the log has at most one line.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol, cast

from zbusrpc.broker.dialects.seams import Claim, Dialect
from zbusrpc.broker.listeners.quotas import Place, Quotas
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import HELLO_TIMEOUT_S, format_peername
from zbusrpc.transport.sniff import sniff

FIRST_BYTES_MAX: Final = 64
"""By so many each dialect knows its own."""
UNKNOWN_HOST: Final = "unknown"
log = get_logger("broker")


class House(Protocol):
    """Where connections arrive."""

    quotas: Quotas
    arrivals: "set[Arrival]"
    """Connections that have not said who carries them on."""

    @property
    def dialects(self) -> Iterable[Dialect]:
        """Return what is spoken here, in the order in which connections are offered."""
        ...


class Arrival(asyncio.Protocol):
    """A connection that nobody has claimed yet."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._place: Place | None = None
        self._first = b""

    def enter(self, peername: object) -> bool:
        """Take a place; False when the address of the peer has all it may have."""
        host = peername[0] if isinstance(peername, tuple) else UNKNOWN_HOST
        quotas = self._house.quotas
        self._place = quotas.enter(host)
        if self._place is None and quotas.is_news(host, asyncio.get_running_loop().time()):
            log.warning("broker.too_many_connections", address=host, limit=quotas.connections_max)
        return self._place is not None

    def leave(self) -> None:
        """Have nothing to do with the connection any more, and no place; again does nothing."""
        self._house.arrivals.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._place is not None:
            self._place.leave()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    # -- what the transport calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._place is not None or self.enter(transport.get_extra_info("peername")):
            self._house.arrivals.add(self)
            self._timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self.close)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._place is None:
            return
        self._first += data
        claims = ((dialect, dialect.claims(self._first)) for dialect in self._house.dialects)
        dialect, claim = next(((one, claim) for one, claim in claims if claim is not Claim.NO), (None, Claim.NO))
        if dialect is not None and claim is Claim.YES:
            self._pass_on(dialect, self._place, self._transport)
        elif claim is Claim.NO or len(self._first) > FIRST_BYTES_MAX:
            peer = format_peername(self._transport.get_extra_info("peername"))
            log.debug("broker.unknown_framing", peer=peer, looks_like=sniff(self._first[0]).name.lower())
            self.leave()
            self._place = None  # what may still come is not looked at
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()

    def _pass_on(self, dialect: Dialect, place: Place, transport: asyncio.Transport) -> None:
        """Let a dialect carry the connection on, and have the place."""
        self._place = None
        self.leave()
        protocol = dialect.open(place)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._first)
