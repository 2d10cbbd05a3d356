"""The pace of a disk: whether to wait for a sync on the spot, or to have a thread wait.

A thread costs about 0.2 ms to hand a sync over and back. A disk with a cache of its own syncs in a quarter of that, and
then waiting on the spot is better for everybody; on any other disk it would hold up the whole broker.

    on the spot ──one sync took over SLOW_S──> in a thread ──after so many──> one on the spot, to see
                                                              (twice as many after each slow one)

Pure: durations come in. Promises: of a disk that is always slow, one sync in SPELL_MAX is waited for on the spot.
"""

from typing import Final

QUICK_S: Final = 0.000_2
SLOW_S: Final = 0.001
SPELL_MIN: Final = 100
SPELL_MAX: Final = 100_000


class Pace:
    """How quick a disk is."""

    __slots__ = ("_left", "_spell")

    def __init__(self) -> None:
        self._left = 0
        self._spell = SPELL_MIN

    def is_quick(self) -> bool:
        """Whether the next sync is to be waited for on the spot; to be asked once for each."""
        if self._left:
            self._left -= 1
            return False
        return True

    def note(self, seconds: float) -> None:
        """Take note of how long a sync took that was waited for on the spot."""
        if seconds > SLOW_S:
            self._left = self._spell
            self._spell = min(self._spell * 2, SPELL_MAX)
        elif seconds <= QUICK_S and self._spell > SPELL_MIN:
            self._spell -= 1
