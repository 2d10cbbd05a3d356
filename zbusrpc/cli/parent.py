"""The parent: what keeps a process as its child (see `children.py`), as the child sees it.

    child ── lines of JSON ──> a pipe whose descriptor the child is told by `--parent N`
    child <── standard input, which ends when the parent does

The pipe is nobody else's: what services print goes where the user's standard output leads.
"""

import asyncio
import os
import threading
from contextlib import suppress
from typing import Any, Final

import orjson

OPTION: Final = "--parent"
"""Of the commands that a parent starts."""


class Parent:
    """The process that keeps this one."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of the pipe to it: programs that this one starts do not get it."""
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor

    def tell(self, facts: dict[str, Any], *, is_last: bool = False) -> None:
        """Tell it something, and after the last of all let go of the pipe; that it has ended is no mistake."""
        with suppress(BrokenPipeError):
            os.write(self._descriptor, orjson.dumps(facts) + b"\n")
        if is_last:
            os.close(self._descriptor)

    def stop_with(self, stop: asyncio.Event) -> None:
        """Set `stop` when it has ended, however it has."""
        loop = asyncio.get_running_loop()

        def wait() -> None:
            with suppress(OSError):
                while os.read(0, 1024):
                    pass
            with suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait, daemon=True, name="parent").start()
