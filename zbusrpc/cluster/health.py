"""The health of one broker as one client sees it: what a call there is likely to cost.

    cost = (calls in flight + 1) * latency / weight

*Latency* is a moving average that rises at once to the worst (a "peak EWMA", as in Finagle) and fades with DECAY_S,
also while nobody calls: so a slow broker is tried again. While calls are in flight and none ends, the time since the
last sign of life counts as a latency, and fades likewise: a frozen broker gets hardly any work long before its link is
found dead, and one whose only call takes hours is not forgotten. A broker that *returns* weighs little at first: its
caches are cold, and it may be gone again in a moment.

Pure: time comes in as `now`, in seconds of any clock that never goes back. Promises: a cost is above 0, and reading it
changes nothing.
"""

from math import exp
from typing import Final

DECAY_S: Final = 10.0
"""After this a latency counts a third. Finagle's default; a broker ten times slower is tried again after 23 s."""
WARM_UP_S: Final = 5.0
WARM_UP_WEIGHT: Final = 0.1
"""What a broker weighs in the moment of its return; from there to 1 in a straight line over WARM_UP_S."""
LATENCY_MIN_S: Final = 0.000_1
"""No broker counts as quicker, so that calls in flight decide where latencies are unknown or faded. About half a call
over loopback."""
FAILURE_FACTOR: Final = 10.0
FAILURE_MAX_S: Final = 1.0
"""A failure counts as ten times the latency so far, up to a second: a broker that fails quickly must not look quick."""


class Health:
    """What a client measures of one broker."""

    __slots__ = ("_is_lost", "_latency_s", "_since", "_warm_at", "in_flight")

    in_flight: int
    """Calls begun and not ended."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._latency_s = 0.0
        self._since = 0.0  # when the latency was true; with calls in flight also the last sign of life
        self._warm_at = 0.0
        self._is_lost = False

    def begun(self, now: float) -> None:
        """Take note of a call that goes there; `ended` must follow once, whatever becomes of it."""
        if not self.in_flight:
            self._latency_s *= self._faded(now)
            self._since = now
        self.in_flight += 1

    def ended(self, now: float, latency_s: float, is_ok: bool) -> None:
        """Take note that a call is over.

        Args:
            now: the time.
            latency_s: how long it took.
            is_ok: False where the broker failed the call. An error that the service answered with is an answer.
        """
        self.in_flight -= 1
        if not is_ok:
            known_s = max(self._latency_s, LATENCY_MIN_S)
            latency_s = max(latency_s, min(known_s * FAILURE_FACTOR, FAILURE_MAX_S))
        excess_s = self._latency_s - latency_s
        self._latency_s = latency_s + excess_s * self._faded(now) if excess_s > 0 else latency_s
        self._since = now

    def opened(self, now: float) -> None:
        """Take note of a link: after `lost` it is a return, which begins with a small weight and nothing known."""
        if self._is_lost:
            self._is_lost = False
            self._warm_at = now + WARM_UP_S
            self._latency_s = 0.0
            self._since = now

    def lost(self, now: float) -> None:
        """Take note that the link is gone."""
        self._is_lost = True

    def cost(self, now: float) -> float:
        """Return what the next call is likely to cost: seconds, multiplied for the calls before it. Lower is better."""
        latency_s = self._latency_s
        if self.in_flight and now - self._since > latency_s:
            latency_s = now - self._since
        latency_s *= self._faded(now)
        cost = (self.in_flight + 1) * (latency_s if latency_s > LATENCY_MIN_S else LATENCY_MIN_S)
        return cost if now >= self._warm_at else cost / self._weight(now)

    def _faded(self, now: float) -> float:
        """Return what is left of 1 since the latency was true."""
        return exp((self._since - now) / DECAY_S) if now > self._since else 1.0

    def _weight(self, now: float) -> float:
        left = (self._warm_at - now) / WARM_UP_S
        return max(WARM_UP_WEIGHT, 1.0 - (1.0 - WARM_UP_WEIGHT) * left)
