"""Methods: which of them an instance says it has, and which one a request names.

A request is not parsed for that: clients write the method first. Pure: bytes and values in, names out.
"""

import re
from typing import Final

import orjson

METHODS_MAX: Final = 1000
"""Names that an instance may tell; one with more counts as having all."""
METHOD_BYTES_MAX: Final = 255
"""Longest name that is told, as a service's."""
BEGINNING_BYTES: Final = 2048
"""Of a request, in which its method mostly stands; the fields before it are short."""
PARSED_BYTES_MAX: Final = 4096
"""A request whose method stands elsewhere is parsed up to this size (20 us). Of a longer one the method is not known:
it goes to any instance."""

_BEGINNING: Final = re.compile(
    rb"""\s*\{\s*(?:"(?:jsonrpc|id|module)"\s*:\s*(?:"[^"\\]*"|-?\d+|null)\s*,\s*)*"""
    rb""""method"\s*:\s*"([^"\\]{1,255})"\s*[,}]"""
)
"""How clients begin a request: the method first, or behind the short fields of JSON-RPC."""


def methods_of(about: dict[str, object]) -> frozenset[str] | None:
    """Return the methods that an instance tells of, or None where it tells none, or tells them in no usable way."""
    told = about.get("methods")
    if not isinstance(told, list) or not 1 <= len(told) <= METHODS_MAX:
        return None
    if not all(isinstance(name, str) and len(name.encode()) <= METHOD_BYTES_MAX for name in told):
        return None
    return frozenset(told)


def method_of(body: bytes | bytearray) -> str | None:
    """Return the method that a request names; None where that cannot be told."""
    found = _BEGINNING.match(body, 0, BEGINNING_BYTES)
    if found is not None:
        return found[1].decode(errors="replace")
    if len(body) > PARSED_BYTES_MAX:
        return None
    try:
        method = orjson.loads(body)["method"]
    except (ValueError, TypeError, KeyError):
        return None
    return method if isinstance(method, str) else None
