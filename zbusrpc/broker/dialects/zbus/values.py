"""Values of zbus headers: numbers and truths in the spellings of all its clients. Pure."""

from collections.abc import Callable
from typing import TypeVar

from zbusrpc.bounds import OFFSET, Bound
from zbusrpc.errors import Code, RpcError

T = TypeVar("T")


def is_true(text: str) -> bool:
    """Whether a header says yes: `true`, `True`, `1`, as the languages write it."""
    return text.lower() in {"1", "t", "true"}


def wants_ack(headers: dict[str, str]) -> bool:
    """Whether a request wants to be told of its success."""
    ack = headers.get("ack")
    return ack is None or is_true(ack)


def number_of(headers: dict[str, str], name: str, bound: Bound = OFFSET) -> int | None:
    """Return the number in a header, or None where there is none.

    Raises:
        RpcError: INVALID_ARGUMENT: it is no number within its bound.
    """
    return _read(headers, name, bound.whole)


def seconds_of(headers: dict[str, str], name: str, bound: Bound) -> float | None:
    """Return the seconds in a header, or None where there is none.

    Raises:
        RpcError: INVALID_ARGUMENT: they are no number within their bound.
    """
    return _read(headers, name, bound.seconds)


def _read(headers: dict[str, str], name: str, read: Callable[[str], T]) -> T | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        return read(text)
    except ValueError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"{name}: {error}") from None
