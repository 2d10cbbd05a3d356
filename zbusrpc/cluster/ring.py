"""The ring: which of several brokers a key belongs to, so that most keys stay where they are when brokers come and go.

Consistent hashing (Karger et al., 1997). Each broker stands at VIRTUAL_NODES places of a circle of 2**64 points, which
its address alone decides; a key belongs to the broker at the first place at or after the key's own point.

          0 ──b──a────c───a──b─────c──a── 2**64
                    ^key: c

Pure. Promises: every process puts a key at the same broker, whatever its version of Python and the order of the
brokers; a broker that leaves gives up only its own keys, and one that joins takes about 1/n from all.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

VIRTUAL_NODES: Final = 160
"""As many as ketama, memcached's ring, has. Of ten brokers the one that is worst off is mostly within 15 % of an equal
share, and was never more than 27 % off in a hundred sets of addresses."""
RINGS_MAX: Final = 256
"""Rings kept, one for each set of brokers that serves some topic. One of ten brokers has 16 KB and takes 0.7 ms to
make."""

_BLOCK: Final = struct.Struct(">8Q")
"""One digest is eight points, which makes a ring in a fifth of the time."""


class Ring:
    """Where the keys of a set of brokers belong."""

    __slots__ = ("_places", "_points")

    def __init__(self, addresses: Sequence[str]) -> None:
        """Place the brokers.

        Args:
            addresses: one or more, each once, in any order.
        """
        nodes = sorted(
            (point, address, place) for place, address in enumerate(addresses) for point in _points_of(address)
        )
        self._points = array("Q", (point for point, _, _ in nodes))  # a list takes five times the memory
        self._places = array("H", (place for _, _, place in nodes))

    def place_of(self, key: str | bytes) -> int:
        """Return which of the addresses the key belongs to, as its index; text is the same key as its UTF-8."""
        found = bisect_left(self._points, _point_of(key))
        return self._places[found] if found < len(self._places) else self._places[0]


@lru_cache(maxsize=RINGS_MAX)
def ring_of(addresses: tuple[str, ...]) -> Ring:
    """Return the ring of these addresses, made once."""
    return Ring(addresses)


def _point_of(key: str | bytes) -> int:
    data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return int.from_bytes(blake2b(data, digest_size=8).digest())


def _points_of(address: str) -> list[int]:
    blocks = (f"{address}#{number}".encode() for number in range(VIRTUAL_NODES // 8))
    return [point for block in blocks for point in _BLOCK.unpack(blake2b(block).digest())]
