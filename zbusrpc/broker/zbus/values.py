"""Values of zbus headers: numbers and truths in the spellings of all its clients. Pure."""

from zbusrpc.errors import Code, RpcError


def is_true(text: str) -> bool:
    """Whether a header says yes: `true`, `True`, `1`, as the languages write it."""
    return text.lower() in {"1", "t", "true"}


def wants_ack(headers: dict[str, str]) -> bool:
    """Whether a request wants to be told of its success."""
    ack = headers.get("ack")
    return ack is None or is_true(ack)


def number_of(headers: dict[str, str], name: str, highest: int = 2**63 - 1) -> int | None:
    """Return the number in a header, or None where there is none.

    Raises:
        RpcError: INVALID_ARGUMENT: it is no number from 0 to `highest`.
    """
    text = headers.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or int(text) > highest:
        raise RpcError(Code.INVALID_ARGUMENT, f"{name}: {text:.40} is no number from 0 to {highest}")
    return int(text)


def seconds_of(headers: dict[str, str], name: str, highest: float) -> float | None:
    """Return the seconds in a header, or None where there is none.

    Raises:
        RpcError: INVALID_ARGUMENT: they are no number from 0 to `highest`.
    """
    text = headers.get(name)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= highest:
        raise RpcError(Code.INVALID_ARGUMENT, f"{name}: {text:.40} is no number of seconds from 0 to {highest:g}")
    return seconds
