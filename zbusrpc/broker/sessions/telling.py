"""Telling: several who wait are told, one after the other, and a fault of one keeps nothing from the next.

Who waits is mostly a session's request. What one of them does with what it is told may fail, for a fault of ours; the
others' answers, and what is to be done after them, must not depend on it. Pure.
"""

from collections.abc import Callable, Iterable
from typing import Any

from zbusrpc.telemetry import get_logger

log = get_logger("broker")


def tell_all(waiting: Iterable[Callable[..., object]], *said: Any) -> None:
    """Tell all the same; a fault of one goes to the log."""
    for tell in waiting:
        tell_one(tell, *said)


def tell_one(tell: Callable[..., object], *said: Any) -> None:
    """Tell one something; a fault of it goes to the log."""
    try:
        tell(*said)
    except Exception:
        log.exception("broker.telling_failed", who=repr(tell)[:200])
