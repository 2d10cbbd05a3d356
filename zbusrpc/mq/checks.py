"""Checks of what a program hands in: one line that names the value and what it should be, before anything is sent.

Pure.
"""

import math
from typing import Any, NoReturn

from zbusrpc.errors import UsageError


def check_count(what: str, value: Any, least: int, most: int | None = None) -> None:
    """See that a value is a whole number within bounds.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"in {least}..{most}"
        raise UsageError(f"{what}={value!r:.80}: a whole number, {bounds}")


def check_seconds(what: str, value: Any) -> None:
    """See that a value is a number of seconds from 0 on.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UsageError(f"{what}={value!r:.80}: a number of seconds, 0 or more")


def check_handler(handler: Any) -> None:
    """See that a value can be called with a message.

    Raises:
        UsageError: it cannot.
    """
    if not callable(handler):
        raise UsageError(f"run({handler!r:.80}): give it a function that takes a message")


def refuse_to_pickle(what: str, instead: str) -> NoReturn:
    """Refuse to take something along into another process.

    Raises:
        UsageError: it says what to do instead.
    """
    raise UsageError(f"{what} stays in its process; {instead}")


def list_of_offsets(offsets: Any) -> list[int] | None:
    """Return offsets as they go over the wire.

    Raises:
        UsageError: they are none.
    """
    if offsets is None:
        return None
    if isinstance(offsets, int | str | bytes):
        raise UsageError(f"offsets={offsets!r:.80}: a list of offsets, such as [{offsets!r:.80}]")
    return list(offsets)
