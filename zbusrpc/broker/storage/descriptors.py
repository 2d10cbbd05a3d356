"""Descriptors: a few that storage keeps for itself, for the moment in which a process has no others.

That a process has no descriptor left (EMFILE), or the machine (ENFILE), is no fault of a disk: it passes, and must
neither close a log nor lose what was acknowledged. So some stand ready: one is given up where a file cannot be opened
without, and taken back when there is one again.
"""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

RESERVED: Final = 16
"""Files that a broker opens before it closes one: what four threads sync, and what the loop writes meanwhile."""
NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})
OTHERS: Final = 64
"""Descriptors of a process besides connections and files of topics: its loop, its output, trackers, what is read."""

T = TypeVar("T")


class Reserve:
    """Descriptors that stand ready."""

    def __init__(self, count: int = RESERVED) -> None:
        self._count = count
        self._held: list[int] = []
        self._fill()

    def use(self, opening: Callable[[], T]) -> T:
        """Open something, with a descriptor that was kept for it where there is no other.

        Raises:
            OSError: it cannot be opened, for other reasons, or although all that was kept was given up.
        """
        while True:
            try:
                opened = opening()
            except OSError as error:
                if error.errno not in NONE_LEFT or not self._give_up_one():
                    raise
            else:
                if len(self._held) < self._count:
                    self._fill()
                return opened

    def close(self) -> None:
        """Give all of them back, and keep none any more."""
        self._count = 0
        while self._give_up_one():
            pass

    def _give_up_one(self) -> bool:
        try:
            os.close(self._held.pop())
        except IndexError:
            return False
        return True

    def _fill(self) -> None:
        with suppress(OSError):  # two threads that do this at a time keep one or two too many
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))


def raise_limit() -> int | None:
    """Let this process have as many descriptors as it may, and return how many; None where the system sets no limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # a system may say "no limit" and mean another
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def connections_of(descriptors: int | None, files: int) -> int | None:
    """Return how many connections there may be, where files of topics have so many descriptors for themselves."""
    return None if descriptors is None else max(1, descriptors - min(files, descriptors // 2) - RESERVED - OTHERS)
