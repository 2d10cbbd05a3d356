"""The reporter: how a broker tells one tracker that it lives, and what it has.

    link opens ──> everything ──> a heartbeat every HEARTBEAT_S, what changes at once, everything every REFRESH_S
        ^                └── refused: said in the log, and tried again in REFUSED_S
        └── lost: dialled again, at least every REDIAL_S

A tracker that cannot be reached, or knows another token, costs the broker nothing but a line in the log. The broker
that finds itself at the other end has no need to report, and stops.

Promises: what a tracker is told is in order; cancelling `run` tells it that the broker ends.
"""

import asyncio
from typing import Final

from pydantic_core import from_json

from zbusrpc import envelope
from zbusrpc.broker.tracker.registry import HEARTBEAT_S
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.errors import Code, ZbusError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.link import Link
from zbusrpc.transport.topology import Report, encode

REFRESH_S: Final = 30.0
"""As brokers of zbus do: depths and lags, which are not told as they change, are never older."""
REFUSED_S: Final = 5.0
TOKEN_REFUSED_S: Final = 30.0
"""A tracker may read its tokens again."""
REDIAL_S: Final = 0.4
"""A tracker that is back knows all brokers within a second."""

log = get_logger("tracker")


class Reporter:
    """What one tracker is told of a broker."""

    def __init__(self, tracker: Tracker, target: Address, hello: Hello) -> None:
        """Prepare to report.

        Args:
            tracker: Of the broker itself: it knows what to tell.
            target: The tracker that is told.
        """
        self._tracker = tracker
        self._target = target
        self._hello = hello
        self._loop = asyncio.get_running_loop()
        self._link = Link((target,), self, hello, wait_s_max=REDIAL_S)
        self._timer: asyncio.TimerHandle | None = None
        self._refresh_at = 0.0
        self._last_id = 0
        self._seen = 0
        self._is_self = self._is_refused = False

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            while not self._is_self:
                running = self._loop.create_task(self._link.run())
                try:
                    await asyncio.wait([running])
                finally:
                    self._say_goodbye()
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                if self._is_self:
                    return
                log.error("tracker.token_refused", tracker=str(self._target), reason=str(self._link.error))
                await asyncio.sleep(TOKEN_REFUSED_S)
                self._link = Link((self._target,), self, self._hello, wait_s_max=REDIAL_S)
        finally:
            self._stop_timer()

    def tell(self, report: Report) -> None:
        """Tell what has changed."""
        if self._link.connection is not None and not self._is_refused and not self._is_self:
            self._link.send(Message(Kind.REPORT, body=encode(report)))

    def _say_goodbye(self) -> None:
        connection = self._link.connection
        if connection is not None and not self._is_self:
            connection.send_now(Message(Kind.REPORT, body=encode(Report(is_leaving=True))))

    # -- what the link calls -----------------------------------------------------------------------------

    def link_opened(self, theirs: Hello) -> None:
        self._is_self = theirs.address == self._tracker.own.address and theirs.boot == self._tracker.own.boot
        self._is_refused = False
        if self._is_self:
            self._loop.call_soon(self._link.stop)
            return
        log.debug("tracker.joined", tracker=str(self._target))
        self._report_all()
        self._beat()

    def link_lost(self, error: ZbusError) -> None:
        self._stop_timer()
        if not self._is_self:
            log.warning("tracker.link_lost", tracker=str(self._target), reason=str(error))

    def congestion_changed(self, is_congested: bool) -> None:
        """Do nothing: a tracker that does not read is dropped by its link."""

    def message_received(self, message: Message) -> None:
        """Take note of the answer to a report of everything."""
        if message.kind != Kind.REPLY:
            return
        if message.flags & Flag.ERROR:
            self._note_refusal(envelope.parse_error(message.body))
            return
        result = from_json(message.body)["result"]
        self._is_refused = False
        self._seen = max(self._seen, int(result["version"]))
        self._tracker.note_version(int(result["known"]))

    def _note_refusal(self, error: envelope.WireError) -> None:
        """Report everything: at once to a tracker that has forgotten this broker, later to one that wants no report."""
        self._is_refused = True
        if error.code is Code.FAILED_PRECONDITION:
            self._refresh_at = 0.0
            return
        self._refresh_at = self._loop.time() + REFUSED_S
        log.warning("tracker.report_refused", tracker=str(self._target), reason=error.message)

    # -- what is told ------------------------------------------------------------------------------------

    def _report_all(self) -> None:
        self._refresh_at = self._loop.time() + REFRESH_S
        self._last_id += 1
        self._link.send(Message(Kind.REPORT, self._last_id, body=encode(self._tracker.own_report(self._seen))))

    def _beat(self) -> None:
        """Say that the broker lives, or everything where it is time for that."""
        if self._loop.time() >= self._refresh_at:
            self._report_all()
        elif not self._is_refused:
            self._last_id += 1
            self._link.send(Message(Kind.REPORT, self._last_id))
        self._timer = self._loop.call_later(HEARTBEAT_S, self._beat)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
