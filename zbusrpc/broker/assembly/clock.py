"""The clock of a broker: the time on the wall as it was at the start, and what has passed since.

The clock on the wall may be set, by hand or by whoever keeps it: then a message that was to wait an hour would come at
once, a time to live would be over, ids would be forgotten. So it is looked at once, when the broker starts; from then
on a clock is followed that does not jump, and goes on while the machine sleeps. What is stored is in this time, and so
all waits keep their length. Where the clock on the wall differs, it is followed slowly, by SLEW at most, so that the
times that people see come right.

What is not stored goes by `now`, the system's monotonic clock, which that of the loop follows: calls, leases, logins.
This is the one place where a broker is given its time; below, it comes in as `now` and `now_ms`.

Promises: time never goes back, and never goes by SLEW faster or slower than it passes.
"""

import time
from collections.abc import Callable
from typing import Final

SLEW: Final = 1000
"""One part in so many: of an hour's wait 3.6 s; a clock that was wrong by an hour is right after 42 days."""
LOOK_NS: Final = 1_000_000_000
"""How often the clock on the wall is looked at."""


def _passed_ns() -> int:
    """Return what has passed, by a clock that does not jump; on Linux the one that goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


if not hasattr(time, "CLOCK_BOOTTIME"):
    _passed_ns = time.monotonic_ns


class Clock:
    """Time in ms since 1970 that does not jump, and seconds for what is not stored."""

    __slots__ = ("_looked_ns", "_offset_ns", "_passed_ns", "_wall_ns", "now")

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        passed_ns: Callable[[], int] = _passed_ns,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = now
        """Return seconds since some moment; they stand still while the machine sleeps, where the system's do."""
        self._wall_ns, self._passed_ns = wall_ns, passed_ns
        self._looked_ns = passed_ns()
        self._offset_ns = wall_ns() - self._looked_ns

    def now_ms(self) -> int:
        """Return ms since 1970."""
        passed_ns = self._passed_ns()
        if passed_ns - self._looked_ns >= LOOK_NS:
            self._follow(passed_ns)
        return (passed_ns + self._offset_ns) // 1_000_000

    def _follow(self, passed_ns: int) -> None:
        """Come nearer to the clock on the wall."""
        step_ns = (passed_ns - self._looked_ns) // SLEW
        behind_ns = self._wall_ns() - (passed_ns + self._offset_ns)
        self._offset_ns += max(-step_ns, min(step_ns, behind_ns))
        self._looked_ns = passed_ns
