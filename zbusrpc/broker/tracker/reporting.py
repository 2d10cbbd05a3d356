"""Reporting: the reporters of a broker, one for each of its trackers."""

import asyncio
from collections.abc import Callable
from typing import Any

from zbusrpc.broker.dialects.zbus.reporter import TextReporter
from zbusrpc.broker.tracker.reporter import Reporter
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.topology import Report


class Reporting:
    """Tells all trackers of a broker."""

    def __init__(
        self,
        tracker: Tracker,
        targets: tuple[Address, ...],
        zbus_targets: tuple[Address, ...] = (),
        *,
        server_info: Callable[[], dict[str, Any]],
        certificate: str = "",
    ) -> None:
        """Begin to report.

        Args:
            tracker: Of the broker itself, which knows what to tell.
            targets: Trackers; the broker may be among them.
            zbus_targets: Trackers of zbus.
            server_info: Returns what those are told.
            certificate: Of the broker, in PEM, for those.
        """
        hello = Hello(name=f"broker {tracker.own.address}"[:255])
        self._reporters: list[Reporter | TextReporter] = [
            *(Reporter(tracker, target, hello) for target in targets),
            *(TextReporter(tracker, target, server_info, certificate) for target in zbus_targets),
        ]
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
