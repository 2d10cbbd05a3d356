"""A credit pool: consumers that share work, the one with the most credit first; among equals, who waited longest.

Consumers with credit stand in buckets, one for each number of credits, so that choosing one costs the same with
one consumer and with a thousand. Consumers without credit, and those that were suspended, stand nowhere.

Pure. Whoever changes the credit of a member does it here.
"""

from collections import defaultdict
from typing import Generic, Protocol, TypeVar


class HasCredit(Protocol):
    """What a pool needs to know of its members."""

    credit: int
    """How many more it would take now."""


C = TypeVar("C", bound=HasCredit)


class CreditPool(Generic[C]):
    """The consumers of one topic or group, by credit."""

    __slots__ = ("_buckets", "_highest", "_suspended", "members")

    def __init__(self) -> None:
        self.members: dict[C, None] = {}
        """Everybody who takes part, with or without credit."""
        self._suspended: set[C] = set()
        self._buckets: defaultdict[int, dict[C, None]] = defaultdict(dict)
        self._highest = 0

    def join(self, member: C, *, is_suspended: bool = False) -> None:
        """Let `member` take part."""
        self.members[member] = None
        if is_suspended:
            self._suspended.add(member)
        self.give(member, 0)

    def leave(self, member: C) -> None:
        """Give `member` nothing more; again does nothing."""
        self._buckets[member.credit].pop(member, None)
        self._suspended.discard(member)
        self.members.pop(member, None)

    def has_credit(self) -> bool:
        """Say whether `take` would return somebody."""
        while not self._buckets[self._highest]:
            if self._highest == 0:
                return False
            self._highest -= 1
        return True

    def most_credit(self) -> int:
        """Return the credit of the member that `take` would return, or 0 when nobody has any."""
        return self._highest if self.has_credit() else 0

    def take(self) -> C | None:
        """Return the member with the most credit, with one taken from it, or None when nobody has any."""
        bucket = self._buckets[self._highest]
        while not bucket:
            if self._highest == 0:
                return None
            self._highest -= 1
            bucket = self._buckets[self._highest]
        member = next(iter(bucket))
        del bucket[member]
        member.credit -= 1
        if member.credit:
            self._buckets[member.credit][member] = None
        return member

    def give(self, member: C, count: int = 1) -> None:
        """Return credit to `member`."""
        self._buckets[member.credit].pop(member, None)
        member.credit = credit = member.credit + count
        if credit > 0 and member in self.members and member not in self._suspended:
            self._buckets[credit][member] = None
            self._highest = max(self._highest, credit)

    def withdraw(self, member: C, count: int) -> None:
        """Take credit from `member` that it does not want to use any more."""
        self.give(member, -count)

    def suspend(self, member: C) -> None:
        """Give `member` nothing until `resume`."""
        self._buckets[member.credit].pop(member, None)
        self._suspended.add(member)

    def resume(self, member: C) -> None:
        """Give `member` work again."""
        self._suspended.discard(member)
        self.give(member, 0)
