"""Hints: which name somebody may have meant that there is not, so often at most.

A guess costs up to three milliseconds, which is more than a hundred calls: a person who reads it gets one, and a
program that asks in a loop, or by a batch, only the refusal.

Pure: time comes in as `now`, in seconds of a monotonic clock.
"""

from collections.abc import Iterable
from typing import Final

from zbusrpc.errors import did_you_mean

PER_SECOND: Final = 20
"""Guesses of all peers together: 6 % of the time, at most."""


class Hints:
    """Guesses names, while there is time for it."""

    __slots__ = ("_left", "_second")

    def __init__(self) -> None:
        self._left, self._second = PER_SECOND, 0

    def has_time(self, now: float) -> bool:
        """Say whether one more answer may hold more than it must, and count it."""
        if int(now) != self._second:
            self._left, self._second = PER_SECOND, int(now)
        self._left -= 1
        return self._left >= 0

    def did_you_mean(self, name: str, names: Iterable[str], now: float) -> str:
        """Return what `errors.did_you_mean` does, or nothing where there was enough of it."""
        return did_you_mean(name, names) if self.has_time(now) else ""
