"""Selection: which of the brokers that serve a topic take the next call or message.

A `Selector` is asked for every call and message while there are two or more brokers to choose from. Those shipped:

    least-loaded      the cheaper of two taken at random; a key always goes to the same broker         (the default)
    consistent-hash   the same rule under the name that says what keys get
    most-consumers    where most consumers of the topic are                                            (zbus)
    round-robin       one after the other
    random            any
    all               every one: a producer sends to all of them

Two at random (Mitzenmacher, 2001) come close to the best of all, and a thousand clients do not all run to the same
broker in the moment when it is the idlest.

Pure. Promises: what is returned was among the candidates; a choice never waits and costs below 2 us, with a key as well
(2 virtual CPUs, Python 3.11; benchmarks/selection.py).
"""

import random
from collections.abc import Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar, cast

from zbusrpc.cluster.ring import ring_of
from zbusrpc.errors import UsageError, did_you_mean, one_of


class Candidate(Protocol):
    """A broker that may be chosen for a topic."""

    @property
    def address(self) -> str:
        """As the broker advertises it; no two are the same."""

    @property
    def consumers(self) -> int:
        """Live consumers of the topic there; for a producer it may be 0."""

    @property
    def cost(self) -> float:
        """How long a call is expected to wait there: lower is better."""


Chosen = TypeVar("Chosen", bound=Candidate)


class Selector(Protocol):
    """A rule of choice. An application may write its own: a class with this method."""

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return those to use, the best first: a call goes to the first, a message to all that are returned.

        Args:
            candidates: two or more, in the order of their addresses. (The rules shipped here take a single one too,
                for a rule that leaves some out before it asks another.)
            key: what should stay together goes by the same key; None where it does not matter.
        """


class LeastLoaded:
    """The cheaper of two taken at random, and with a key the broker at the key's place on the ring."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = (rng or random.Random()).random

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return one broker."""
        if key is not None:
            ring = ring_of(tuple([candidate.address for candidate in candidates]))
            return (candidates[ring.place_of(key)],)
        one, other = self._two_of(len(candidates))
        first, second = candidates[one], candidates[other]
        return (first,) if first.cost <= second.cost else (second,)

    def _two_of(self, n: int) -> tuple[int, int]:
        """Return two different numbers below n, in random order; twice 0 where n is 1."""
        one = int(self._random() * n)
        return one, (one + 1 + int(self._random() * (n - 1))) % n


class ConsistentHash(LeastLoaded):
    """The broker at the key's place on the ring; without a key the cheaper of two taken at random."""


class MostConsumers:
    """The broker with most consumers of the topic, of equal ones the first: what clients of zbus do."""

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return one broker."""
        return (max(candidates, key=attrgetter("consumers")),)


class RoundRobin:
    """One broker after the other. Use one instance for each topic: two that take turns would halve the brokers."""

    def __init__(self) -> None:
        self._turns = count()

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return one broker."""
        return (candidates[next(self._turns) % len(candidates)],)


class Random:
    """Any broker, each as likely as the others."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = (rng or random.Random()).random

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return one broker."""
        return (candidates[int(self._random() * len(candidates))],)


class All:
    """Every broker: a message is sent to all of them, a call to the first."""

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return all brokers."""
        return candidates


SELECTORS: Final[dict[str, type[Selector]]] = {
    "least-loaded": LeastLoaded,
    "most-consumers": MostConsumers,
    "round-robin": RoundRobin,
    "all": All,
    "random": Random,
    "consistent-hash": ConsistentHash,
}


def select_by(selector: Selector, candidates: Sequence[Chosen], key: str | bytes | None) -> Sequence[Chosen]:
    """Return what a selector selects.

    Raises:
        UsageError: it fails, or selects nothing or what was not among the candidates.
    """
    try:
        chosen: Any = selector.select(candidates, key)
        is_wrong = not len(chosen) or chosen[0] is None
        for one in chosen:
            is_wrong |= one not in candidates
    except Exception as error:
        name = type(selector).__name__
        reason = str(error).partition("\n")[0]
        raise UsageError(f"selector {name} failed: {type(error).__name__}: {reason}") from error
    if is_wrong:
        name = type(selector).__name__
        raise UsageError(f"selector {name} returned {chosen!r:.200}; return a list of one or more of the candidates")
    return cast("Sequence[Chosen]", chosen)


def selector_of(selector: str | Selector) -> Selector:
    """Return a new selector of this name, or the selector itself.

    Raises:
        UsageError: there is no such name, or it cannot select.
    """
    if isinstance(selector, str):
        if selector not in SELECTORS:
            hint = did_you_mean(selector, SELECTORS) or f"; there are {one_of(SELECTORS)}"
            raise UsageError(f"there is no selector {selector!r}{hint}")
        return SELECTORS[selector]()
    if isinstance(selector, type):
        raise UsageError(f"selector {selector.__name__} is a class; give an instance of it: {selector.__name__}()")
    if not callable(getattr(selector, "select", None)):
        raise UsageError(
            f"selector {selector!r} has no method select(candidates, key); or give a name: {one_of(SELECTORS)}"
        )
    return selector
