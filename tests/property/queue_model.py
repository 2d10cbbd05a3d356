"""A small independent model of a topic and its groups: dictionaries that say what may be delivered to whom, and when.

The model does not predict who gets what; it is shown each delivery and says whether that was right. What must not be
lost it knows too: `owed` names the messages that a group has a right to.
"""

from dataclasses import dataclass, field

ATTEMPTS_MAX = 3
LEASE_S = 10.0


@dataclass
class ModelMessage:
    """One message of the topic."""

    key: str
    delay_s: float
    produced_s: float
    due_ms: int
    expiry_ms: int


@dataclass
class ModelGroup:
    """One group: what it is done with, and what it has handed out."""

    start: int
    """It has a right to what is not below."""
    done: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    """Rejected, or refused at the last attempt; or that may be so, because the last lease has ended."""
    attempts: dict[int, int] = field(default_factory=dict)
    holder: dict[int, object] = field(default_factory=dict)
    """Who was given a message last, until somebody else was or that one left."""
    until_s: dict[int, float] = field(default_factory=dict)
    """Until when it may have it alone."""
    busy: set[int] = field(default_factory=set)
    """Handed out and not done: no other message with that key may come."""
    last_first: dict[object, int] = field(default_factory=dict)
    """By consumer: the last message without key and delay that it was given for the first time."""
    is_unsure: bool = False
    """Whether a crash may have taken back the last attempts."""

    def copy_of(self, offset: int) -> tuple[bool, bool, int, float]:
        """Return what is known of a message, for `put_back`."""
        return offset in self.done, offset in self.dead, self.attempts.get(offset, 0), self.until_s.get(offset, 0.0)

    def put_back(self, offset: int, copy: tuple[bool, bool, int, float]) -> None:
        """Know of a message what was known before."""
        is_done, is_dead, self.attempts[offset], self.until_s[offset] = copy
        (self.done.add if is_done else self.done.discard)(offset)
        (self.dead.add if is_dead else self.dead.discard)(offset)

    def forget_in_flight(self) -> None:
        """Take note of a restart."""
        self.holder.clear()
        self.until_s.clear()
        self.busy.clear()
        self.last_first.clear()


class QueueModel:
    """What is known of a topic."""

    def __init__(self) -> None:
        self.messages: dict[int, ModelMessage] = {}
        self.ids: dict[str, int] = {}
        self.groups: dict[str, ModelGroup] = {}
        self.latest_ms = 0
        """The latest that the wall clock has shown."""

    def deliver(self, name: str, consumer: object, offset: int, attempt: int, now_s: float, now_ms: int) -> None:
        """Look whether a delivery was right, and take note of it."""
        group, message = self.groups[name], self.messages[offset]
        self.latest_ms = max(self.latest_ms, now_ms)
        assert offset >= group.start, "below the place of the group"
        assert offset not in group.done, "acknowledged before"
        assert not group.until_s.get(offset, 0.0) > now_s, "another consumer has it"
        assert self.latest_ms >= message.due_ms or now_s >= message.produced_s + message.delay_s, "before its time"
        assert not 0 < message.expiry_ms <= now_ms, "after its time"
        assert attempt <= ATTEMPTS_MAX
        had = group.attempts.get(offset, 0)
        assert attempt == had + 1 or (group.is_unsure and attempt <= had), f"attempt {attempt} after {had}"
        self._check_order(group, consumer, offset, now_s, is_first=offset not in group.attempts)
        group.attempts[offset] = attempt
        group.holder[offset] = consumer
        group.until_s[offset] = now_s + LEASE_S
        group.busy.add(offset)

    def _check_order(self, group: ModelGroup, consumer: object, offset: int, now_s: float, *, is_first: bool) -> None:
        message = self.messages[offset]
        if not message.key:
            if is_first and not message.delay_s and not group.is_unsure:
                assert offset > group.last_first.get(consumer, -1), "out of order"
                group.last_first[consumer] = offset
            return
        for number, other in self.messages.items():
            is_over = number in group.done or number in group.dead or self._may_be_dead(group, number, now_s)
            if number == offset or other.key != message.key or is_over or 0 < other.expiry_ms <= self.latest_ms:
                continue
            assert number not in group.busy, f"key {message.key}: {number} is not done"
            assert number > offset or number < group.start or other.delay_s, f"key {message.key}: {number} comes first"

    def _may_be_dead(self, group: ModelGroup, offset: int, now_s: float) -> bool:
        return group.attempts.get(offset, 0) >= ATTEMPTS_MAX and group.until_s.get(offset, 0.0) <= now_s

    def leave(self, consumer: object) -> None:
        """Take note that a consumer has gone."""
        for group in self.groups.values():
            for offset in [offset for offset, holder in group.holder.items() if holder is consumer]:
                del group.holder[offset]
                group.until_s.pop(offset, None)

    def owed(self, name: str) -> set[int]:
        """Return the messages that a group is not done with, and that have not expired."""
        group = self.groups[name]
        return {
            offset
            for offset, message in self.messages.items()
            if offset >= group.start and offset not in group.done and not 0 < message.expiry_ms <= self.latest_ms
        }
