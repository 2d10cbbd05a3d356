"""The teller: what one tracker is told of a broker, and when.

    opened ──> everything ──> a heartbeat every HEARTBEAT_S, what changes at once, everything every REFRESH_S
                   └── refused: forgotten: everything at the next heartbeat; else: again REFUSED_S after the last time

The broker that finds itself at the other end tells nothing. What the tracker may have told of brokers by now is
reckoned from its last answer and the time since, so that a tracker whose clock was set back goes on from there.

Pure: time and timers come from outside. Promises: what is told on one connection is in order, and a change is either
in what is told in full or told by itself afterwards.
"""

from collections.abc import Callable
from typing import Any, Final

from zbusrpc import envelope
from zbusrpc.broker.tracker.registry import HEARTBEAT_S
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.errors import Code
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.topology import LEARNT_MAX, Report, encode, parse_noted

REFRESH_S: Final = 30.0
"""As brokers of zbus do: depths and lags, which are not told as they change, are never older."""
REFUSED_S: Final = 5.0
"""Two processes that fight for an address change places no more often."""

log = get_logger("tracker")


class Teller:
    """Tells one tracker of a broker."""

    def __init__(
        self,
        tracker: Tracker,
        target: str,
        send: Callable[[Message], None],
        *,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        """Prepare to tell.

        Args:
            tracker: Of the broker itself: it knows what to tell.
            target: Who is told, for people.
            send: Sends a message while the connection is open.
            now: Seconds of a monotonic clock.
            later: Has something done after a while, and returns what can be cancelled.
        """
        self._tracker, self._target, self._send = tracker, target, send
        self._now, self._later = now, later
        self._timer: Any = None
        self._told_at = self._refresh_at = 0.0
        """When everything was told last, and when it is to be told next."""
        self._told_version = 0
        self._last_id = 0
        self._seen = 0
        """The last version that the tracker is known to have told."""
        self._seen_at = 0.0
        self._is_refused = False
        self.is_self = False
        """Whether the broker itself is at the other end."""
        self.is_open = False
        """Whether there is a connection."""

    def opened(self, theirs: Hello) -> None:
        """Begin to tell: there is a connection."""
        own = self._tracker.own
        self.is_self = (theirs.address, theirs.boot) == (own.address, own.boot)
        self.is_open = not self.is_self
        if self.is_open:
            self._tell_all()
            self._timer = self._later(HEARTBEAT_S, self._beat)

    def lost(self) -> None:
        """Note that there is no connection any more."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tell(self, report: Report) -> None:
        """Tell what has changed."""
        if self.is_open and not self._is_refused:
            self._send(Message(Kind.REPORT, body=encode(report)))

    def take(self, message: Message) -> None:
        """Take note of what the tracker answers."""
        if message.kind != Kind.REPLY:
            return
        if message.flags & Flag.ERROR:
            self._note_refusal(envelope.parse_error(message.body))
            return
        noted = parse_noted(message.body)
        if noted is None:
            return
        if noted.version < LEARNT_MAX:
            self._seen, self._seen_at = noted.version, self._now()
        self._tracker.note_version(noted.known)
        if self._told_version <= noted.known < LEARNT_MAX:  # to others it would look old
            self._refresh_at = self._now()

    def _note_refusal(self, error: envelope.WireError) -> None:
        self._is_refused = True
        if error.code is Code.FAILED_PRECONDITION:
            self._refresh_at = self._now()
            return
        self._refresh_at = self._told_at + REFUSED_S
        log.warning("tracker.report_refused", tracker=self._target, reason=error.message)

    def _beat(self) -> None:
        """Say that the broker lives, or everything where it is time for that."""
        self._timer = self._later(HEARTBEAT_S, self._beat)
        if self._now() >= self._refresh_at:
            self._tell_all()
        elif not self._is_refused:
            self._last_id += 1
            self._send(Message(Kind.REPORT, self._last_id))

    def _tell_all(self) -> None:
        now = self._now()
        since_ms = int((now - self._seen_at) * 1000) if self._seen else 0
        report = self._tracker.own_report(min(self._seen + since_ms, LEARNT_MAX - 1))
        self._told_at, self._refresh_at = now, now + REFRESH_S
        self._told_version, self._is_refused = report.version, False
        self._last_id += 1
        self._send(Message(Kind.REPORT, self._last_id, body=encode(report)))
