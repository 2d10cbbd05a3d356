"""Rates: what counters have grown by between two ticks, per second.

Pure: the time comes in.
"""

from collections.abc import Callable, Hashable

Rate = Callable[[Hashable, int], float | None]
"""Return how fast a counter grows, by its key and what it has counted; None where that is not known."""


class Rates:
    """The rates of one broker's counters."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._interval_s = 0.0
        self._counts: dict[Hashable, int] = {}
        self._before: dict[Hashable, int] = {}
        self._rates: dict[Hashable, float] = {}

    def begin(self, now: float) -> None:
        """Begin a tick: each counter is then measured once."""
        self._interval_s = now - self._at if self._at is not None else 0.0
        self._at = now
        self._before, self._counts = self._counts, {}
        self._rates = {}

    def measure(self, key: Hashable, count: int) -> float | None:
        """Return the rate of a counter since the tick before; one that was not there then has begun at 0."""
        self._counts[key] = count
        if self._interval_s <= 0:
            return None
        rate = self._rates[key] = round(max(0, count - self._before.get(key, 0)) / self._interval_s, 1)
        return rate

    def last(self, key: Hashable, count: int) -> float | None:
        """Return the rate that the last tick has found."""
        return self._rates.get(key)

    def forget(self) -> None:
        """Begin anew: nobody watches, and so there are no ticks."""
        self.__init__()  # type: ignore[misc]
