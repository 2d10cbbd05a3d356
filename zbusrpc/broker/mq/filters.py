"""Filters: which tags a group wants. The rules are those of zbus 0.8 and 0.11 together.

    a.b      these segments
    a.+.c    any one segment instead of `+`; `*` that is not the last means the same
    a.*      one or more segments instead of `*` that is the last: a.b, a.b.c, not a
    a.#      zero or more segments instead of `#`, which is always the last: a, a.b, a.b.c
    x;y      x or y

Nothing else stands for anything: `ab*` is a segment of that name. What consists of several of these signs, such as
`**`, is refused: somebody means something by it that is not so.

A message without a tag has one empty segment: `*`, `+` and `#` take it.

Pure. A filter is one regular expression without nested repetition, so that no tag makes it slow.
"""

import re
from collections.abc import Callable
from typing import Final

from zbusrpc.errors import Code, RpcError

FILTER_BYTES_MAX: Final = 255
_SIGNS: Final = frozenset("*+#")
_SEGMENT: Final = r"[^.]*"

Matches = Callable[[bytes], object]
"""Whether a tag is wanted: something true or something false."""


def compile_filter(text: str) -> Matches | None:
    """Return what tells whether a tag is wanted, or None where all are.

    Raises:
        RpcError: INVALID_ARGUMENT; the text names the filter and what is wrong.
    """
    if not text or text in {"*", "#"}:
        return None
    size = len(text.encode(errors="replace"))
    if size > FILTER_BYTES_MAX:
        raise RpcError(Code.INVALID_ARGUMENT, f"a filter has at most {FILTER_BYTES_MAX} bytes, this one {size}")
    alternatives = [_alternative(part.strip(), text) for part in text.split(";") if part.strip()]
    if not alternatives:
        raise RpcError(Code.INVALID_ARGUMENT, f"filter {text!r} names no tag: leave it away to take all messages")
    return re.compile("|".join(alternatives).encode(), re.DOTALL).fullmatch


def check_filter(text: str) -> None:
    """See that nobody who writes a filter means by it what it does not say; what is stored already goes on as it did.

    Raises:
        RpcError: INVALID_ARGUMENT; the text names the filter and what is wrong.
    """
    odd = next((one for one in re.split("[.;]", text) if len(one.strip()) > 1 and set(one.strip()) <= _SIGNS), None)
    if odd is not None:
        way = "write + for one segment, * at the end for one or more, # at the end for any number"
        raise RpcError(Code.INVALID_ARGUMENT, f"filter {text!r}: {odd.strip()} is no segment: {way}")


def _alternative(pattern: str, text: str) -> str:
    segments = pattern.split(".")
    if "#" in segments[:-1]:
        raise RpcError(Code.INVALID_ARGUMENT, f"filter {text!r}: # stands for the rest and must be the last segment")
    *before, last = segments
    head = [_SEGMENT if segment in {"+", "*"} else re.escape(segment) for segment in before]
    if last == "#":
        return r"\.".join(head) + r"(?:\..*)?" if head else ".*"
    tail = {"*": ".*", "+": _SEGMENT}.get(last) or re.escape(last)
    return r"\.".join([*head, tail])
