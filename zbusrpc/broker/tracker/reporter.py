"""The reporter: keeps a link to one tracker, and tells it what the teller says.

    link opens ──> told (see `teller.py`) ──> lost ──> dialled again, at least every REDIAL_S

A tracker that cannot be reached, or knows another token, costs the broker nothing but a line in the log. The broker
that finds itself at the other end has no need to report, and stops.

Promises: cancelling `run` tells the tracker that the broker ends.
"""

import asyncio
from typing import Final

from zbusrpc.broker.tracker.teller import Teller
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.errors import ZbusError
from zbusrpc.message import Kind, Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.link import Link
from zbusrpc.transport.topology import Report, encode

TOKEN_REFUSED_S: Final = 30.0
"""A tracker may read its tokens again."""
REDIAL_S: Final = 0.4
"""A tracker that is back knows all brokers within a second."""
UNREACHABLE_S: Final = 2.0
"""Brokers of a set that start together, or one that is restarted, are there by then; who is not is worth a line."""

log = get_logger("tracker")


class Reporter:
    """What one tracker is told of a broker."""

    def __init__(self, tracker: Tracker, target: Address, hello: Hello) -> None:
        """Prepare to report.

        Args:
            tracker: Of the broker itself: it knows what to tell.
            target: The tracker that is told.
            hello: What is said first.
        """
        self._target = target
        self._hello = hello
        self._loop = loop = asyncio.get_running_loop()
        self._link = self._new_link()
        self._teller = Teller(tracker, str(target), self._send, now=loop.time, later=loop.call_later)

    def _new_link(self) -> Link:
        return Link((self._target,), self, self._hello, wait_s_max=REDIAL_S)

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            while not self._teller.is_self:
                running = [self._loop.create_task(step) for step in (self._link.run(), self._watch())]
                try:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._say_goodbye()
                    for task in running:
                        task.cancel()
                    await asyncio.gather(*running, return_exceptions=True)
                if self._teller.is_self:
                    return
                log.error("tracker.token_refused", tracker=str(self._target), reason=str(self._link.error))
                await asyncio.sleep(TOKEN_REFUSED_S)
                self._link = self._new_link()
        finally:
            self._teller.lost()

    async def _watch(self) -> None:
        """Say once that the tracker cannot be reached, and once that it can be again; end where it is the broker."""
        since: float | None = None
        is_said = False
        while not self._teller.is_self:
            await self._link.wait_next_attempt()
            now = self._loop.time()
            if self._link.connection is not None:
                if is_said:
                    log.info("tracker.reached", tracker=str(self._target))
                since, is_said = None, False
            elif since is None:
                since = now
            elif not is_said and now - since >= UNREACHABLE_S and not self._teller.is_self:
                is_said = True
                log.warning("tracker.unreachable", tracker=str(self._target), reason=str(self._link.error))

    def tell(self, report: Report) -> None:
        """Tell what has changed."""
        self._teller.tell(report)

    def _send(self, message: Message) -> None:
        self._link.send(message)

    def _say_goodbye(self) -> None:
        connection = self._link.connection
        if connection is not None and self._teller.is_open:
            connection.send_now(Message(Kind.REPORT, body=encode(Report(is_leaving=True))))
            self._teller.lost()

    # -- what the link calls -----------------------------------------------------------------------------

    def link_opened(self, theirs: Hello) -> None:
        self._teller.opened(theirs)
        if self._teller.is_self:
            self._loop.call_soon(self._link.stop)
        else:
            log.debug("tracker.joined", tracker=str(self._target))

    def link_lost(self, error: ZbusError) -> None:
        if self._teller.is_open:
            log.warning("tracker.link_lost", tracker=str(self._target), reason=str(error))
        self._teller.lost()

    def congestion_changed(self, is_congested: bool) -> None:
        """Do nothing: a tracker that does not read is dropped by its link."""

    def message_received(self, message: Message) -> None:
        self._teller.take(message)
