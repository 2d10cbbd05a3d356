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


def check_name(what: str, value: Any, error: type[ZbusError] = UsageError) -> None:
    """Refuse what is no name: one or more characters that are seen."""
    check_kind(what, value, str, error)
    if not _is_seen(value):
        raise error(f"{what}={value!r}): a name is one character or more, without blanks and control characters")


def check_line(what: str, value: Any, error: type[ZbusError] = UsageError) -> None:
    """Refuse what is no text on one line: it stands in logs, and in headers of other protocols."""
    check_kind(what, value, str, error)
    if not value.isprintable():
        raise error(f"{what}={value!r}): a text on one line, without control characters")


def check_metadata(what: str, value: Any, error: type[ZbusError] = UsageError) -> None:
    """Refuse what is no dict of texts by names."""
    if not isinstance(value, Mapping):
        raise error(f"{what}={value!r}): a dict of strings, not {_named(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise error(f"{what}={dict(value)!r}): names and values are strings")
        if not _is_seen(name):
            wanted = "a name is one character or more, without blanks and control characters"
            raise error(f"{what}={dict(value)!r}): {wanted}, not {name!r}")
        if not _is_unicode(text):
            raise error(f"{what}={dict(value)!r}): the value of {name} has no form in UTF-8")


def _is_seen(name: str) -> bool:
    return name != "" and name.isprintable() and not any(letter.isspace() for letter in name)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_number(what: str, value: Any) -> None:
    """Refuse what is no number of seconds; none and less have passed already, infinity never does."""
    if not _is_number(value) or value != value:  # noqa: PLR0124 - NaN is not itself
        raise UsageError(f"{what}({value!r}): a number of seconds, not {_named(value)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _named(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
