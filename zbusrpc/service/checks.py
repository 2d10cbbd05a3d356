"""Checks of what a program gives: one line that names the option, the value and what is wanted.

Pure.
"""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from zbusrpc.errors import UsageError, ZbusError


def check_seconds(what: str, value: Any, error: type[ZbusError] = UsageError) -> None:
    """Refuse what is no time limit: a number greater than 0, and finite.

    Args:
        what: The option, as it is written: `options(timeout`.
        value: What was given.
        error: What to raise.
    """
    if not _is_number(value):
        raise error(f"{what}={value!r}): a time limit is a number of seconds, not {_named(value)}")
    if not 0 < value < math.inf:
        raise error(f"{what}={value}): a time limit is a number greater than 0")


def check_whole(what: str, value: Any, least: int, most: int | None, error: type[ZbusError] = UsageError) -> None:
    """Refuse what is no whole number in these bounds."""
    wanted = f"a whole number, {least} or more" if most is None else f"a whole number in {least}..{most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"{what}={value!r}): {wanted}, not {_named(value)}")
    if value < least or (most is not None and value > most):
        raise error(f"{what}={value}): {wanted}")


def check_kind(what: str, value: Any, kind: type[str | bool], error: type[ZbusError] = UsageError) -> None:
    """Refuse what is no text, or neither True nor False."""
    if not isinstance(value, kind):
        wanted = "a str" if kind is str else "True or False"
        raise error(f"{what}={value!r}): {wanted}, not {_named(value)}")


def check_texts(what: str, value: Any, error: type[ZbusError] = UsageError) -> None:
    """Refuse what is no dict of texts."""
    if not isinstance(value, Mapping):
        raise error(f"{what}={value!r}): a dict of strings, not {_named(value)}")
    if not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise error(f"{what}={dict(value)!r}): names and values are strings")


def check_number(what: str, value: Any) -> None:
    """Refuse what is no number of seconds; none and less have passed already, infinity never does."""
    if not _is_number(value) or value != value:  # noqa: PLR0124 - NaN is not itself
        raise UsageError(f"{what}({value!r}): a number of seconds, not {_named(value)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _named(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
