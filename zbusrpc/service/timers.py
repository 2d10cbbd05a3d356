"""Deadlines with a timer: calls a function for each thing whose time has come, with one timer of the loop."""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from zbusrpc.deadlines import Deadlines

T = TypeVar("T", bound=Hashable)


class DeadlineTimer(Generic[T]):
    """Watches deadlines by `time.monotonic()` and tells of each that has passed."""

    __slots__ = ("_armed_at", "_deadlines", "_loop", "_on_due", "_timer")

    def __init__(self, on_due: Callable[[T], None]) -> None:
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._deadlines: Deadlines[T] = Deadlines()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = float("inf")

    def add(self, item: T, deadline: float) -> None:
        """Tell of `item` once `deadline` has passed."""
        self._deadlines.add(item, deadline)
        if deadline < self._armed_at:
            self._arm()

    def remove(self, item: T, deadline: float) -> None:
        """Forget `item`, which was added with `deadline`."""
        self._deadlines.remove(item, deadline)

    def close(self) -> None:
        """Tell of nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self.close()
        next_at = self._deadlines.next_at()
        self._armed_at = float("inf") if next_at is None else next_at
        if next_at is not None:
            self._timer = self._loop.call_later(max(0.0, next_at - time.monotonic()), self._fire)

    def _fire(self) -> None:
        for item in self._deadlines.due(time.monotonic()):
            self._on_due(item)
        self._arm()
