"""Lingering: the last of a connection that the broker closes while its peer may still be sending.

    answers that are known soon ──> the end of what the broker says ──> what still comes is read and dropped ──> closed

A system that is sent bytes for a connection which was closed resets it, and the peer's then drops what its program has
not read yet: the reason why it was closed. So the peer is let come to the end, or to see that there is no use in it.
"""

import asyncio
from typing import Final

LAST_ANSWERS_S: Final = 0.5
"""Answers to what came before may still leave for so long, where their order is free."""
LINGER_S: Final = 30.0
"""A body of 16 MiB takes so long at 5 Mbit/s."""
QUIET_S: Final = 2.0
"""Who sends nothing for so long has come to the end, or is gone."""
LINGER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Four times the largest message: programs that read no answer before all is sent do not send more by mistake."""


class Lingering:
    """Lets one connection end."""

    def __init__(self, transport: asyncio.Transport, answers_s: float = 0.0) -> None:
        """Begin; what is written in the next `answers_s` seconds still leaves."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._until = self._loop.time() + answers_s + LINGER_S
        self._bytes = self._seen_bytes = 0
        self.is_mute = False
        """Whether nothing can be written any more."""
        if answers_s:
            self._loop.call_later(answers_s, self._fall_silent)
        else:
            self._fall_silent()

    def drop(self, size: int) -> None:
        """Take note of bytes that came and are not looked at."""
        self._bytes += size
        if self._bytes > LINGER_BYTES_MAX:
            self._transport.close()

    def _fall_silent(self) -> None:
        self.is_mute = True
        if not self._transport.is_closing():
            try:
                if self._transport.can_write_eof():  # TLS has no such thing: its peers read how long the answer is
                    self._transport.write_eof()
            except OSError:  # the peer has gone: there is nothing to wait for
                self._transport.close()
                return
            self._loop.call_later(QUIET_S, self._look)

    def _look(self) -> None:
        is_quiet, self._seen_bytes = self._bytes == self._seen_bytes, self._bytes
        if is_quiet or self._loop.time() >= self._until:
            self._transport.close()
        else:
            self._loop.call_later(QUIET_S, self._look)
