"""Waiting for a condition, with a deadline that fails the test: tests depend on what happens, never on how fast."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

WAIT_S = 20.0
"""Far more than anything here takes, so that only what never happens fails."""
POLL_S = 0.01


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """Return what `condition` returns as soon as it is true."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)
    return value


async def eventually(condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """Return what `condition` returns as soon as it is true; other tasks go on meanwhile."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        await anyio.sleep(POLL_S)
    return value
