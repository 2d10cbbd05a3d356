"""Quotas: how many connections each address may have.

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


class Quotas:
    """The connections of each address."""

    def __init__(self, connections_max: int, all_max: int | None = None) -> None:
        """Let in up to so many connections of one address, and of all together."""
        self.connections_max, self.all_max = connections_max, all_max
        self.taken = 0
        """Places that are held, by all addresses together."""
        self._count: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def enter(self, address: str) -> "Place | None":
        """Return a place, or None when the address, or all together, have all they may have."""
        network = _network(address)
        is_full = self.all_max is not None and self.taken >= self.all_max
        if is_full or self._count[network] >= self.connections_max:
            return None
        self._count[network] += 1
        self.taken += 1
        return Place(self, network)

    def give_back(self, network: str) -> None:
        """Take a place back; see `Place.leave`."""
        self.taken -= 1
        self._count[network] -= 1
        if not self._count[network]:
            del self._count[network]

    def is_news(self, address: str, now: float) -> bool:
        """Say whether the log should tell that an address was turned away."""
        network = _network(address)
        if now - self._told.get(network, -TOLD_EVERY_S) < TOLD_EVERY_S:
            return False
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told[network] = now
        return True


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        numbers = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(numbers.ipv4_mapped) if numbers.ipv4_mapped else numbers.packed[:8].hex()


class Place:
    """The place of one connection."""

    __slots__ = ("_network", "_quotas")

    def __init__(self, quotas: Quotas, network: str) -> None:
        self._quotas: Quotas | None = quotas
        self._network = network

    def leave(self) -> None:
        """Give it back; again does nothing."""
        if self._quotas is not None:
            quotas, self._quotas = self._quotas, None
            quotas.give_back(self._network)
