"""Long integers: those of more digits than parsers convert, because that takes time that grows with their square.

JSON may hold them, and writers write them; a parser then refuses the whole text, with the line and column at which it
stopped. Here is found which value that was: the text before it is parsed once more, and what would come next is it.

Pure.
"""

import re
import tomllib
from typing import Any, Final

from pydantic_core import from_json

from zbusrpc.errors import cut

DIGITS_MAX: Final = 4300
"""Of pydantic's parser, and of Python's unless it is told otherwise (`sys.set_int_max_str_digits`)."""
LINES_MAX: Final = 100_000
"""In a text of more lines the value is not looked for: finding a line that far down takes 10 ms."""

_STOPPED: Final = re.compile(r"^(?:Invalid JSON: )?number out of range at line (\d+) column (\d+)")
_RUN: Final = re.compile(rb"\d*")
_DIGITS: Final = b"0123456789"
_LONG_IN_TOML: Final = re.compile(rf"(?<![\w.\"'])\d(?:_?\d){{{DIGITS_MAX},}}")
_MARK: Final = "\0"
"""Put in the place of the integer."""


class LongIntegerError(ValueError):
    """An integer for which a text was not read; as text it says where it stands and what is wrong with it."""

    def __init__(self, digits: int, place: tuple[str | int, ...], before: Any = None) -> None:
        self.place = place
        """Names and positions that lead to it; nothing where that is not known."""
        self.before = before
        """The value that it stands in, as far as it had been read."""
        self.reason = f"an integer of {digits} digits, and {DIGITS_MAX} are the most"
        """What is wrong with it."""
        where = cut(".".join(map(str, place)))
        super().__init__(f"{where}: {self.reason}" if where else self.reason)


def long_integer_in(data: bytes | bytearray, reason: str) -> LongIntegerError | None:
    """Return the integer because of which JSON was refused; None where that was something else.

    Args:
        data: The text.
        reason: What pydantic says of it.
    """
    stopped = _STOPPED.match(reason)
    if stopped is None or int(stopped[1]) > LINES_MAX:
        return None
    at = _offset(data, int(stopped[1]), int(stopped[2]))
    head = data[: at if data[at - 1 : at].isdigit() else at - 1].rstrip(
        _DIGITS
    )  # one digit too many is seen at its end
    run = _RUN.match(data, len(head))
    assert run is not None
    try:
        before = from_json(head.removesuffix(b"-") + b'"\\u0000"', allow_partial=True)
    except ValueError:
        return None
    place: list[Any] = []
    inner = before
    while inner and isinstance(inner, dict | list):
        place.append(next(reversed(inner)) if isinstance(inner, dict) else len(inner) - 1)
        inner = inner[place[-1]]
    return LongIntegerError(len(run[0]), tuple(place) if inner == _MARK else (), before)


def check_json(data: bytes) -> None:
    """See that JSON which was written just now has no integer that its readers refuse.

    Raises:
        LongIntegerError: it has one.
    """
    if len(data) <= DIGITS_MAX or not _has_long_run(data):
        return
    try:
        from_json(data)
    except ValueError as error:
        raise long_integer_in(data, str(error)) or error from None


def load_toml(text: str) -> dict[str, Any]:
    """Return what a text in TOML says.

    Raises:
        tomllib.TOMLDecodeError: it cannot be read.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        found = _LONG_IN_TOML.search(text)
        if found is None:
            raise tomllib.TOMLDecodeError(str(error)) from None
        long, line = LongIntegerError(len(found[0].replace("_", "")), ()), text.count("\n", 0, found.start()) + 1
        raise tomllib.TOMLDecodeError(f"{long} (at line {line})") from None


def _offset(data: bytes | bytearray, line: int, column: int) -> int:
    """Return the place of a line and column, which are counted from 1, and mean the byte before."""
    start = 0
    for _ in range(line - 1):
        start = data.index(b"\n", start) + 1
    return start + column


def _has_long_run(data: bytes) -> bool:
    """Whether there are more digits in a row than are read: then one of them is at a multiple of so many bytes."""
    for at in range(DIGITS_MAX, len(data), DIGITS_MAX + 1):
        if data[at] in _DIGITS:
            left, right = data[at - DIGITS_MAX : at], data[at : at + DIGITS_MAX + 1]
            digits = len(left) - len(left.rstrip(_DIGITS)) + len(right) - len(right.lstrip(_DIGITS))
            if digits > DIGITS_MAX:
                return True
    return False
