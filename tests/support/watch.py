"""A watch over a broker: how long somebody else waits, and how much memory it takes, while something is done to it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from tests.support.processes import Process

P = TypeVar("P")


class Watch:
    """What was seen."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        """The longest that a good client has waited for its answer."""
        self.grown_bytes = 0
        """The most memory that the broker has taken beyond what it had."""


@contextmanager
def watching(
    broker: Process, peer: AbstractContextManager[P], ask: Callable[[P], object], *, every_s: float = 0.005
) -> Iterator[Watch]:
    """Have a good peer ask something all the time, and look at the broker's memory."""
    watch, over, before = Watch(), threading.Event(), broker.memory_bytes

    def look() -> None:
        with peer as good:
            while not over.is_set():
                began = time.monotonic()
                ask(good)
                watch.longest_s = max(watch.longest_s, time.monotonic() - began)
                watch.grown_bytes = max(watch.grown_bytes, broker.memory_bytes - before)
                time.sleep(every_s)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
