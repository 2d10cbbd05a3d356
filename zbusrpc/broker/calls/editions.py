"""Editions: the instances of one service by the methods that they have, and which of them can take a call.

While a service is rolled out, or where two teams use one name, its instances differ. Each set of methods is an edition,
with a pool of the instances that have it and a bit that stands for it:

    edition 1   add, div    <── bits 01 ── a call of div
    edition 2   add         <── bits 11 ── a call of add          bits 00 ── a call of what nobody has

An instance that does not tell its methods counts as having all, and so do the instances of further editions where there
are EDITIONS_MAX already. Of a call no more than its method is looked at, and only where that makes a difference.

Pure.
"""

from collections.abc import Collection
from typing import Final

from zbusrpc.broker.calls.call import Instance
from zbusrpc.broker.calls.methods import method_of
from zbusrpc.broker.sessions.credits import CreditPool
from zbusrpc.errors import one_of
from zbusrpc.telemetry import get_logger

EDITIONS_MAX: Final = 8
"""Of one service. Two are usual and four are a mess; waiting calls stand in a line for each set of these (256)."""
TOLD_MAX: Final = 64
"""Of one service: instances that come again and again are told of once, those that are always others not for ever."""

log = get_logger("broker")


class Edition:
    """The instances of a service that have the same methods."""

    __slots__ = ("bit", "last_taken", "methods", "pool")

    def __init__(self, methods: frozenset[str] | None, bit: int) -> None:
        self.methods = methods
        """None for all there could be."""
        self.bit = bit
        self.pool: CreditPool[Instance] = CreditPool()
        self.last_taken = 0
        """When an instance of it was chosen last, in choices."""


class Editions:
    """The editions of one service."""

    __slots__ = ("_choices", "_having", "_told", "all", "any_method")

    def __init__(self) -> None:
        self.all: dict[frozenset[str] | None, Edition] = {}
        """Mostly one, by its methods."""
        self.any_method = 0
        """Bits of those that have every method."""
        self._having: dict[str, int] = {}
        self._choices = 0
        self._told: set[frozenset[str] | None] = set()

    @property
    def differ(self) -> bool:
        """Whether not all instances have the same methods."""
        return len(self.all) > 1

    def join(self, consumer: Instance, *, is_suspended: bool) -> bool:
        """Let an instance take part; say whether it is the first of its edition."""
        methods = consumer.methods
        if methods not in self.all and len(self.all) >= EDITIONS_MAX - 1:
            methods = None  # there is a bit left for those that have all
        is_new = methods not in self.all
        if is_new:
            used = sum(edition.bit for edition in self.all.values())
            free = next(bit for bit in (1 << n for n in range(EDITIONS_MAX)) if not used & bit)
            self.all[methods] = Edition(methods, free)
            self._count()
            self._tell(consumer)
        pool = consumer.pool = self.all[methods].pool
        pool.join(consumer, is_suspended=is_suspended)
        return is_new

    def _tell(self, consumer: Instance) -> None:
        """Warn, once for each set of methods, that instances differ."""
        if consumer.methods in self._told or len(self._told) >= TOLD_MAX:
            return
        missing = self.not_everywhere()
        if missing:
            self._told.add(consumer.methods)
            service, instance = consumer.topic.decode(errors="replace"), consumer.session.name
            log.warning("broker.methods_differ", service=service, instance=instance, methods=one_of(missing))

    def leave(self, consumer: Instance) -> bool:
        """Give an instance nothing more; say whether it was the last of its edition."""
        consumer.pool.leave(consumer)
        emptied = [one for one in self.all.values() if one.pool is consumer.pool and not one.pool.members]
        for edition in emptied:
            del self.all[edition.methods]
            self._count()
        return bool(emptied)

    def _count(self) -> None:
        """Take in that an edition came or went."""
        editions = self.all.values()
        self.any_method = sum(edition.bit for edition in editions if edition.methods is None)
        self._having = {}
        for edition in editions:
            for name in edition.methods or ():
                self._having[name] = self._having.get(name, self.any_method) | edition.bit

    def able(self, body: bytes | bytearray) -> int:
        """Return the bits of the editions that can take a request: none where no instance has its method."""
        if not self._having:
            return self.any_method
        method = method_of(body)
        if method is None:
            return sum(edition.bit for edition in self.all.values())
        return self._having.get(method, self.any_method)

    def bit_of(self, consumer: Instance) -> int:
        """Return the bit of the edition that an instance is of."""
        return next(edition.bit for edition in self.all.values() if edition.pool is consumer.pool)

    def ready(self) -> int:
        """Return the bits of the editions of which an instance would take a call now."""
        return sum(edition.bit for edition in self.all.values() if edition.pool.has_credit())

    def take(self, able: int) -> Instance | None:
        """Return the instance with the most credit of some editions, with one taken from it; None without any."""
        best: Edition | None = None
        most = 0
        for edition in self.all.values():
            credit = edition.pool.most_credit() if edition.bit & able else 0
            if credit > most or (best is not None and credit == most and edition.last_taken < best.last_taken):
                best, most = edition, credit
        if best is None:
            return None
        self._choices += 1
        best.last_taken = self._choices
        return best.pool.take()

    @property
    def methods(self) -> Collection[str]:
        """The methods that any instance has, as far as they are told."""
        return self._having

    def not_everywhere(self) -> list[str]:
        """Return the methods that not all instances have, as far as they are told."""
        if not self.differ:
            return []
        all_bits = sum(edition.bit for edition in self.all.values())
        return sorted(name for name, bits in self._having.items() if bits != all_bits)
