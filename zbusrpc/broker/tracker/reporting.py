"""Reporting: tells everybody who keeps track of this broker what it is and has, for as long as it runs."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.transport.topology import Report


class Announcer(Protocol):
    """Makes a broker known in one place: to a tracker, or in another registry."""

    async def run(self) -> None:
        """Announce until cancelled, and say then that the broker ends."""

    def tell(self, report: Report) -> None:
        """Take note of what has changed."""


class Reporting:
    """All announcers of a broker."""

    def __init__(self, tracker: Tracker, announcers: Iterable[Announcer]) -> None:
        """Begin to announce.

        Args:
            tracker: Of the broker itself, which knows what to tell.
            announcers: Who tells it, and whom.
        """
        self._announcers = list(announcers)
        self._tasks = [asyncio.create_task(announcer.run()) for announcer in self._announcers]
        tracker.on_own_change = self._tell

    async def close(self) -> None:
        """Have it told that the broker ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tell(self, report: Report) -> None:
        for announcer in self._announcers:
            announcer.tell(report)
