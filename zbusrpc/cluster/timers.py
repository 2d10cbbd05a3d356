"""Deadlines with a timer: calls a function for each thing whose time has come, with one timer of the loop."""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from zbusrpc.deadlines import Deadlines

T = TypeVar("T", bound=Hashable)


class DeadlineTimer(Deadlines[T]):
    """Watches deadlines by `time.monotonic()` and tells of each that has passed."""

    __slots__ = ("_armed_at", "_loop", "_on_due", "_timer")

    def __init__(self, on_due: Callable[[T], None]) -> None:
        super().__init__()
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at: float | None = None

    def close(self) -> None:
        """Tell of nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _first_tick_changed(self) -> None:
        next_at = self.next_at
        if next_at is not None and next_at != self._armed_at:
            self.close()
            self._armed_at = next_at
            self._timer = self._loop.call_later(max(0.0, next_at - time.monotonic()), self._fire)

    def _fire(self) -> None:
        self._armed_at = None
        for item in self.due(time.monotonic()):
            self._on_due(item)
        self._first_tick_changed()
