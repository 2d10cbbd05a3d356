"""Back-off: how long to wait before the next try, doubling up to a cap, with jitter.

The jitter is full (a random share of the whole wait), so that a thousand clients which lost the same broker do
not come back together; AWS Architecture Blog, "Exponential Backoff and Jitter", compares the kinds.
"""

import random
from typing import Final

FIRST_S: Final = 0.05
CAP_S: Final = 2.0
"""No peer stays away longer than this after the other is back."""
FLOOR_S: Final = 0.01


class Backoff:
    """The waits of one peer between its tries."""

    def __init__(self, first_s: float = FIRST_S, cap_s: float = CAP_S, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._tries = 0
        self._rng = rng or random.Random()

    def reset(self) -> None:
        """Begin again with the shortest wait: a try succeeded."""
        self._tries = 0

    def next_s(self) -> float:
        """Return the seconds to wait before the next try."""
        bound: float = min(self._cap_s, self._first_s * 2.0 ** min(self._tries, 30))
        self._tries += 1
        return max(FLOOR_S, bound * self._rng.random())
