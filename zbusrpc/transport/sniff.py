"""Tells by its first byte which framing a connection speaks, so that all of them share one port."""

from enum import Enum, auto
from typing import Final


class Framing(Enum):
    """What a client speaks."""

    NATIVE = auto()
    HTTP = auto()
    TLS = auto()
    UNKNOWN = auto()


_TLS_HANDSHAKE: Final = 0x16
"""Content type of a TLS record that holds a handshake (RFC 8446, 5.1)."""


def sniff(first: int) -> Framing:
    """Return the framing that begins with the byte `first`.

    A native connection begins with a HELLO, which is short, so the first byte of its length is zero. HTTP
    begins with a method in capital letters (RFC 9110, 9.1).
    """
    if first == 0:
        return Framing.NATIVE
    if ord("A") <= first <= ord("Z"):
        return Framing.HTTP
    if first == _TLS_HANDSHAKE:
        return Framing.TLS
    return Framing.UNKNOWN
