"""Statistics of a service's calls: how many ended, how many with an error, and how long they took.

Latencies are counted in buckets that grow by a fifth, so that a quantile is right to about a tenth. What stands for the
last seconds is the difference to a mark that is 5 to 10 seconds old.

Pure: the time comes in. Counting one call takes about 0.25 us.
"""

from bisect import bisect_left
from itertools import pairwise
from typing import Final, NamedTuple

BUCKETS_PER_OCTAVE: Final = 4
BOUNDS_S: Final = tuple(32e-6 * 2 ** (step / BUCKETS_PER_OCTAVE) for step in range(22 * BUCKETS_PER_OCTAVE + 1))
"""Upper bounds of the buckets, from 32 us to 134 s; what takes longer is in one more."""
MARK_S: Final = 5.0
"""A mark is set so often; two are kept."""


class Window(NamedTuple):
    """The calls of the last seconds."""

    calls: int
    errors: int
    buckets: list[int]

    @property
    def error_rate(self) -> float:
        """Share of the calls that ended with an error."""
        return self.errors / self.calls if self.calls else 0.0

    def quantile_ms(self, share: float) -> float | None:
        """Return how long a share of the calls took at most, in ms; None without calls."""
        left = share * sum(self.buckets)
        if not left:
            return None
        number = 0
        for number, count in enumerate(self.buckets):  # noqa: B007 - the last one counts, where the sum is not reached
            left -= count
            if left <= 0:
                break
        upper = BOUNDS_S[min(number, len(BOUNDS_S) - 1)]
        lower = BOUNDS_S[number - 1] if number else 0.0
        return float(f"{(lower + upper) / 2 * 1000:.3g}")


class CallStatistics:
    """What was counted of one service."""

    __slots__ = ("_mark", "_mark_at", "_older", "buckets", "calls", "errors", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        """That have ended."""
        self.errors = 0
        """Of those: with an error."""
        self.seconds = 0.0
        """What the calls took that were answered, together."""
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        """Those that were answered, by how long that took."""
        self._mark = self._older = Window(0, 0, list(self.buckets))
        self._mark_at = 0.0

    def note_reply(self, latency_s: float, now: float, *, is_error: bool) -> None:
        """Count a call that an instance has answered."""
        if now >= self._mark_at:
            self._set_mark(now)
        self.calls += 1
        if is_error:
            self.errors += 1
        self.seconds += latency_s
        self.buckets[bisect_left(BOUNDS_S, latency_s)] += 1

    def note_refusal(self) -> None:
        """Count a call that the broker itself has ended, such as one whose deadline has passed."""
        self.calls += 1
        self.errors += 1

    def window(self, now: float) -> Window:
        """Return the calls of the last 5 to 10 seconds."""
        if now >= self._mark_at:
            self._set_mark(now)
        before = self._older
        buckets = [count - old for count, old in zip(self.buckets, before.buckets, strict=True)]
        return Window(self.calls - before.calls, self.errors - before.errors, buckets)

    def _set_mark(self, now: float) -> None:
        is_late = now >= self._mark_at + MARK_S
        mark = Window(self.calls, self.errors, list(self.buckets))
        self._older = mark if is_late else self._mark
        self._mark, self._mark_at = mark, now + MARK_S


def octaves(buckets: list[int]) -> list[tuple[float, int]]:
    """Return upper bounds in seconds with how many calls took no longer: one for every factor of 2."""
    ends = range(0, len(BOUNDS_S), BUCKETS_PER_OCTAVE)
    found, total = [(BOUNDS_S[0], buckets[0])], buckets[0]
    for first, last in pairwise(ends):
        total += sum(buckets[first + 1 : last + 1])
        found.append((BOUNDS_S[last], total))
    return found
