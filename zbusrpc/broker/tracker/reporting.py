"""Reporting: the reporters of a broker, one for each of its trackers."""

import asyncio

from zbusrpc.broker.tracker.reporter import Reporter
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.topology import Report


class Reporting:
    """Tells all trackers of a broker."""

    def __init__(self, tracker: Tracker, targets: tuple[Address, ...]) -> None:
        """Begin to report.

        Args:
            tracker: Of the broker itself, which knows what to tell.
            targets: Trackers; the broker may be among them.
        """
        hello = Hello(name=f"broker {tracker.own.address}"[:255])
        self._reporters = [Reporter(tracker, target, hello) for target in targets]
        self._tasks = [asyncio.create_task(reporter.run()) for reporter in self._reporters]
        tracker.on_own_change = self._tell

    async def close(self) -> None:
        """Tell the trackers that the broker ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tell(self, report: Report) -> None:
        for reporter in self._reporters:
            reporter.tell(report)
