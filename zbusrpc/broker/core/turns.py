"""Turns of the event loop: what the core decides for all peers within one leaves at its end, in one write for each.

    a peer's message ──> `receive` ──> the core decides ──> outboxes ──> `flush`: `Peer.send`

The core's time is that of the broker's clock: uvloop's has whole milliseconds, and stands still within a turn, which is
too coarse to time calls. But the loop's timers follow the same clock, so that what is due can be told to them.

Promises: a fault at one peer keeps nothing from the others.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from zbusrpc.broker.access.rights import Rights
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.sessions.session import BYTES_MAX, Session
from zbusrpc.message import Message
from zbusrpc.telemetry import get_logger

log = get_logger("broker")


class Peer(Protocol):
    """What carries one session's messages, whatever the framing."""

    def send(self, messages: list[Any]) -> None:
        """Write to the peer what stood in its session's outbox."""

    def close(self, reason: str) -> None:
        """Tell the peer why, and close."""


class Place(Protocol):
    """What a connection holds until its end, so that there are not too many."""

    def leave(self) -> None:
        """Give it back; again does nothing."""


class Turns:
    """The peers of a broker, and the loop in which they are served."""

    def __init__(self, broker: Broker, now: Callable[[], float]) -> None:
        """Serve nobody yet.

        Args:
            broker: The core.
            now: Seconds of the system's monotonic clock.
        """
        self.broker = broker
        self._now = now
        self.anonymous: Rights | None = None
        """The rights of whoever shows no token; None where no tokens are configured."""
        self.peers: dict[int, Peer] = {}
        """Who carries which session, by its number."""
        self._places: dict[int, Place] = {}
        self._loop = asyncio.get_running_loop()
        self._is_flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None

    def close(self) -> None:
        """Watch no deadline any more."""
        if self._timer is not None:
            self._timer.cancel()

    # -- what peers call ---------------------------------------------------------------------------------

    def connect(
        self, name: str, peer: Peer, place: Place, message_bytes_max: int = BYTES_MAX, rights: Rights | None = None
    ) -> Session:
        """Begin a session that `peer` carries, which takes messages up to a size.

        Args:
            place: What it holds among connections; it is left when the session ends.
            rights: Those of the token that was shown; without one the session has the rights of everybody.
        """
        session = self.broker.connect(name, message_bytes_max)
        session.rights = rights or self.anonymous
        self.peers[session.number], self._places[session.number] = peer, place
        return session

    def receive(self, session: Session, message: Message) -> None:
        """Let the core carry out a message; `flush` when those that came together are done.

        Raises:
            ProtocolError: the peer must not send this.
        """
        self.broker.receive(session, message, self._now())

    def set_congested(self, session: Session, is_congested: bool) -> None:
        """Tell the core that a peer reads too slowly, or has caught up."""
        if session.number in self.peers:
            self.broker.set_congested(session, is_congested, self._now())
            self.flush()

    def disconnect(self, session: Session) -> None:
        """End a session whose connection is gone; again does nothing."""
        peer = self.peers.pop(session.number, None)
        if peer is not None:
            self._places.pop(session.number).leave()
            self.broker.disconnect(session, self._now())
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
                peer = self.peers.get(session.number)
                if peer is None:
                    continue
                try:
                    peer.send(messages)
                except Exception:  # a fault there must not keep the others from their messages
                    log.exception("broker.send_failed", peer=repr(peer))
                    peer.close("internal error of the broker")
        if self.broker.next_expiry() != self._timer_at:
            self._arm_timer()

    def later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
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
            self.broker.expire(self._now())
        finally:
            self._timer_at = None
            self.flush()
