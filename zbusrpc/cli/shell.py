"""What the server commands share: an event loop that ends on a signal, and the ready line."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson

R = TypeVar("R")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_NOW = 130
"""Exit code of a process that a second signal ended: what shells report for an interrupt."""


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run `main` on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def calm_collector() -> None:
    """Let the garbage collector look less often, in a process that serves.

    What waits for the disk are many small objects that live for some turns: with the default thresholds the collector
    looks at all of them over and over (a produce of one message: 24 us, and 12 us with these).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def stop_event(on_second: Callable[[], None] | None = None) -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets; a second one ends the process at once.

    Args:
        on_second: What is to be done before that.
    """
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            if on_second is not None:
                on_second()
            os._exit(EXIT_NOW)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
        else:
            loop.add_signal_handler(number, on_signal)
    return stop


def announce(facts: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Print that a server is ready: one JSON line for machines, or lines for people."""
    text = orjson.dumps({"event": "ready", "pid": os.getpid(), **facts}).decode() if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
