"""Lines of standard input, as they come: read by a thread, so that the event loop never waits for a pipe or a person.

Promises: no more than a few blocks and one line are in memory; whoever iterates may be cancelled at any time.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from typing import Final

from zbusrpc.cli.units import size_text
from zbusrpc.errors import ConfigError

STDIN: Final = 0
BLOCK_BYTES: Final = 64 * 1024
BLOCKS_MAX: Final = 8
"""So many may wait for the event loop."""


class Lines:
    """The lines of standard input, without their ends."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._loop = asyncio.get_running_loop()
        self._blocks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._room = threading.Semaphore(BLOCKS_MAX)
        self._is_ended = False
        self._number = 1
        threading.Thread(target=self._read, daemon=True).start()  # nobody can wake a thread that reads a terminal

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield lines until there are no more.

        Raises:
            ConfigError: a line is too long, or standard input cannot be read.
        """
        rest = bytearray()
        while block := await self._next_block():
            rest += block
            if b"\n" in block:
                *whole, rest = rest.split(b"\n")
                for line in whole:
                    self._check(line)
                    yield bytes(line)
                    self._number += 1
            self._check(rest)
        if rest:
            yield bytes(rest)

    def _check(self, line: bytearray) -> None:
        if len(line) > self._line_bytes_max:
            limit = size_text(self._line_bytes_max)
            raise ConfigError(f"line {self._number} is longer than {limit}, the limit of a message (message_bytes_max)")

    def end(self) -> None:
        """Let the iteration end, whatever may still come."""
        self._is_ended = True
        self._blocks.put_nowait(b"")

    async def _next_block(self) -> bytes:
        block = await self._blocks.get()
        self._room.release()
        if isinstance(block, OSError):
            raise ConfigError(f"cannot read standard input: {(block.strerror or str(block)).lower()}")
        return b"" if self._is_ended else block

    def _read(self) -> None:
        block: bytes | OSError = b"?"
        while block and not isinstance(block, OSError):
            self._room.acquire()
            try:
                block = os.read(STDIN, BLOCK_BYTES)
            except OSError as error:
                block = error
            try:
                self._loop.call_soon_threadsafe(self._blocks.put_nowait, block)
            except RuntimeError:  # the loop has ended
                return
