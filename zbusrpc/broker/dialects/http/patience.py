"""Patience: how long a text connection may be silent, or leave a request incomplete.

Pure: time comes in as ticks.
"""

from enum import Enum, auto
from typing import Final

IDLE_TICKS_MAX: Final = 6
"""An HTTP connection without requests is closed after a minute."""
ZBUS_IDLE_TICKS_MAX: Final = 18
"""One of zbus after three: its clients send a heartbeat each minute at least."""
PARTIAL_TICKS_MAX: Final = 3
"""A request that is incomplete for half a minute is answered 408; so long a full line may not move."""
PING_TICKS: Final = 3
"""A WebSocket that was silent so long is sent a ping; an event stream gets a comment."""


class Verdict(Enum):
    """What is to be done about a connection."""

    NOTHING = auto()
    SHOW_LIFE = auto()
    END_PARTIAL = auto()
    END_IDLE = auto()


class Patience:
    """Counts the ticks of one connection."""

    __slots__ = ("_idle", "_partial", "_ticks")

    def __init__(self) -> None:
        self._ticks = self._idle = self._partial = 0

    def note_block(self) -> None:
        """Take note that something has come."""
        self._idle = 0

    def note_whole(self) -> None:
        """Take note that a request has come to its end, or that one was answered."""
        self._partial = 0

    def tick(self, *, is_partial: bool, is_waiting: bool, is_zbus: bool) -> Verdict:
        """Say what is to be done about a connection that may have sent a part, or wait for an answer."""
        self._ticks += 1
        self._idle = 0 if is_waiting else self._idle + 1
        self._partial = self._partial + 1 if is_partial else 0
        if self._partial >= PARTIAL_TICKS_MAX:
            return Verdict.END_PARTIAL
        if self._idle >= (ZBUS_IDLE_TICKS_MAX if is_zbus else IDLE_TICKS_MAX):
            return Verdict.END_IDLE
        return Verdict.SHOW_LIFE if self._ticks % PING_TICKS == 0 else Verdict.NOTHING
