"""The door: how many connections each address may have.

An address that is let in holds a place until whoever holds it leaves, so that one client that goes mad, or means harm,
cannot take all the descriptors of the broker. Addresses of IPv6 count by their first 64 bits: whoever has one of them
has them all (RFC 6177).

Pure: time comes in as `now`, in seconds of a monotonic clock.
"""

from collections import Counter
from ipaddress import IPv6Address
from typing import Final

TOLD_EVERY_S: Final = 60.0
"""An address that is turned away is told of in the log no more often."""
TOLD_MAX: Final = 1024
"""Addresses that were told of are remembered up to here; then all are forgotten."""


class Door:
    """The connections of each address."""

    def __init__(self, connections_max: int, all_max: int | None = None) -> None:
        """Let in up to so many connections of one address, and of all together."""
        self.connections_max, self.all_max = connections_max, all_max
        self._count: Counter[str] = Counter()
        self._places: dict[object, str] = {}
        self._told: dict[str, float] = {}

    def enter(self, holder: object, address: str) -> bool:
        """Give `holder` a place; False when the address, or all together, have all they may have."""
        place = _place(address)
        is_full = self.all_max is not None and len(self._places) >= self.all_max
        if is_full or self._count[place] >= self.connections_max:
            return False
        self._count[place] += 1
        self._places[holder] = place
        return True

    def hand_over(self, holder: object, to: object) -> None:
        """Let the place of one holder be that of another."""
        place = self._places.pop(holder, None)
        if place is not None:
            self._places[to] = place

    def leave(self, holder: object) -> None:
        """Give a place back; again does nothing."""
        place = self._places.pop(holder, None)
        if place is None:
            return
        self._count[place] -= 1
        if not self._count[place]:
            del self._count[place]

    def is_news(self, address: str, now: float) -> bool:
        """Say whether the log should tell that an address was turned away."""
        place = _place(address)
        if now - self._told.get(place, -TOLD_EVERY_S) < TOLD_EVERY_S:
            return False
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told[place] = now
        return True


def _place(address: str) -> str:
    if ":" not in address:
        return address
    try:
        numbers = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(numbers.ipv4_mapped) if numbers.ipv4_mapped else numbers.packed[:8].hex()
