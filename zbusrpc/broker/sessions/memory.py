"""Memory: what peers make a broker keep, in bytes, of all of them together.

    input     parts of messages that wait for the rest. Where it is used up, nobody is read from but the one that has
              begun first, until it has ended; it has PARTIAL_S for that, as has everybody
    output    what waits for peers that do not read: answers, and the whole requests that wait until those before them
              have their answers. Where it is used up, the one with most of it is cut off

Whole requests are no input: what waits for its own sender must not hold up others that send.

What a peer holds up to SMALL_BYTES is not counted: there are as many as there are connections.

Pure: whoever holds something is told what to do.
"""

from typing import Final, Protocol

SMALL_BYTES: Final = 64 * 1024
"""As much as one reads from a socket at a time. It is also the largest body of somebody who has shown no token to a
broker that asks for one."""
INPUT_BYTES_MAX: Final = 128 * 1024 * 1024
"""Eight of the largest messages on their way in."""
OUTPUT_BYTES_MAX: Final = 512 * 1024 * 1024
"""Twice what one peer may have; see `OUTBOX_BYTES_MAX`."""


class Sender(Protocol):
    """Whoever sends something in parts."""

    def hold_back(self, is_held_back: bool) -> None:
        """Read no more from it, or go on."""


class Reader(Protocol):
    """Whoever is sent something and does not read it."""

    def cut_off(self) -> None:
        """End its connection, and forget what it was to read."""


class Input:
    """Parts of messages."""

    def __init__(self, bytes_max: int = INPUT_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.used = 0
        """Bytes that are held."""
        self._sizes: dict[Sender, int] = {}  # who has begun first comes first
        self._held_back: dict[Sender, None] = {}

    def hold(self, sender: Sender, size: int) -> None:
        """Take note of what a peer has sent of a message that is not whole; of nothing, when it is, or has gone.

        As long as nothing is `used`, there is no need to tell of up to SMALL_BYTES.
        """
        size = size if size > SMALL_BYTES else 0
        if not size and sender not in self._sizes:
            return
        self.used += size - self._sizes.get(sender, 0)
        if size:
            self._sizes[sender] = size
            if self.used > self.bytes_max and sender is not next(iter(self._sizes)):
                self._held_back[sender] = None
                sender.hold_back(True)
        else:
            del self._sizes[sender]
            self._held_back.pop(sender, None)
            self._let_go_on()

    def _let_go_on(self) -> None:
        while self._held_back:
            first = next(iter(self._sizes))
            if self.used <= self.bytes_max:
                first = next(iter(self._held_back))
            elif first not in self._held_back:
                return
            del self._held_back[first]
            first.hold_back(False)
            if self.used > self.bytes_max:
                return


class Output:
    """What waits for those that do not read."""

    def __init__(self, bytes_max: int = OUTPUT_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.used = 0
        """Bytes that wait."""
        self._sizes: dict[Reader, int] = {}

    def hold(self, reader: Reader, size: int) -> None:
        """Take note of how much waits for a peer: nothing, when it reads again, or has gone."""
        if not size and reader not in self._sizes:
            return
        self.used += size - self._sizes.pop(reader, 0)
        if size:
            self._sizes[reader] = size
        while self.used > self.bytes_max and self._sizes:
            most = max(self._sizes, key=self._sizes.__getitem__)
            self.used -= self._sizes.pop(most)
            most.cut_off()
