"""A place: where a group stands, as it is written into the journal and read from it.

    {"next": 17, "fresh": [[16, 16]], "once": [[12, 14]], "others": [[15, 3, 1700000000000]], "done": [[3, 9]],
     "full": true}

    next     all messages below it are done, but those that are pending
    fresh    pending, never begun, and due: runs of offsets
    once     pending, begun once, and due
    others   pending: offset, how often it was begun, when it is due (0: at once), and whether its time to live does not
             count (left out: it does)
    done     not pending any more
    full     what is not named here is not pending

Pure.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.transport.entries import runs


class Standing(NamedTuple):
    """How a pending message stands."""

    attempts: int
    """How often a consumer has begun it."""
    due_ms: int
    """When it is due, in ms since 1970; 0 is at once."""
    is_lifted: bool = False
    """Whether its time to live does not count."""


Pending = dict[int, Standing]
"""By offset."""


_FRESH: Final = Standing(0, 0)
_ONCE: Final = Standing(1, 0)


class Place:
    """Where a group stands, and what of it is to be stored."""

    def __init__(self, name: str, options: GroupOptions, position: int) -> None:
        self.name = name
        self.options = options
        self.position = position
        """The next offset to hand out for the first time: all below it are done, or in `pending`."""
        self.pending: dict[int, Delivery] = {}
        """What was read and is not done, by offset."""
        self.payer: int | None = None
        """Whose share of groups it takes; see `shares.py`. None where nobody pays."""
        self.idle_s = 0.0
        """How long nobody has consumed, not counting the time in which the broker was down."""
        self._changes = Changes()

    def is_done(self, offset: int) -> bool:
        """Say whether the group has passed a message and is done with it."""
        return offset < self.position and offset not in self.pending

    def pending_copy(self) -> Pending:
        """Return what is pending, as `restore` of a group takes it."""
        return {offset: _standing(delivery) for offset, delivery in self.pending.items()}

    @property
    def is_changed(self) -> bool:
        """Whether `changes` has something to tell."""
        return self._changes.has_any(self.position)

    def describe(self) -> dict[str, Any]:
        """Return everything a restart needs to know; `changes` goes on from here."""
        place = self._changes.take_all(self.position, self.pending)
        idle = {"idle_s": round(self.idle_s)} if self.idle_s else {}
        payer = {"payer": self.payer} if self.payer is not None else {}
        return {"name": self.name, "options": self.options.model_dump(mode="json"), **idle, **payer, **place}

    def changes(self) -> dict[str, Any]:
        """Return what changed since the last `changes` or `describe`."""
        return self._changes.take(self.position, self.pending)

    def note_stored(self, position: int) -> None:
        """Tell with the next `changes` no more than what changes from now on: the rest was read just now."""
        self._changes.note_stored(position)

    def forget_stored(self) -> None:
        """Tell the whole place with the next `changes`: what was told before did not reach the disk."""
        self._changes.rewrite()


def describe_said(said: dict[str, Any]) -> dict[str, Any]:
    """Return what was read of a group as `describe` tells it."""
    others = [(offset, *standing) for offset, standing in said["pending"].items()]
    kept: dict[str, Any] = {name: said[name] for name in ("name", "options", "next", "payer") if name in said}
    return {**kept, "others": others, "full": True}


class Noted:
    """A description that is kept as it is."""

    __slots__ = ("_data",)
    is_changed = False

    def __init__(self, described: dict[str, Any]) -> None:
        self._data = orjson.dumps(described)  # a sixth of what a dictionary takes

    def describe(self) -> dict[str, Any]:
        """Return it."""
        described: dict[str, Any] = orjson.loads(self._data)
        return described

    def changes(self) -> dict[str, Any]:
        """Return it: nothing changes."""
        return self.describe()

    def forget_stored(self) -> None:
        """Do nothing: it is always described in full."""


class Absent:
    """The place of a group whose topic cannot be opened: kept as it was read, for when it can."""

    is_changed = False

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    def describe(self) -> dict[str, Any]:
        """Return everything a restart needs to know."""
        return describe_said(self._said)

    def changes(self) -> dict[str, Any]:
        """Return everything: nothing changes."""
        return self.describe()

    def forget_stored(self) -> None:
        """Do nothing: it is always described in full."""


class Changes:
    """What changed of a group's place since it was written."""

    __slots__ = ("_is_rewritten", "_position", "_touched")

    def __init__(self) -> None:
        self._touched: dict[int, None] = {}
        self._position = -1
        self._is_rewritten = True

    def touch(self, offset: int) -> None:
        """Take note that a message became pending, is so in another way, or is done."""
        self._touched[offset] = None

    def rewrite(self) -> None:
        """Write the whole place next."""
        self._touched.clear()
        self._is_rewritten = True

    def note_stored(self, position: int) -> None:
        """Take note that all is stored as it is, with the group at `position`."""
        self._note_taken(position)

    def has_any(self, position: int) -> bool:
        """Say whether `take` has something to tell."""
        return bool(self._touched) or self._is_rewritten or position != self._position

    def take(self, position: int, pending: Mapping[int, Delivery]) -> dict[str, Any]:
        """Return what changed since the last `take` or `take_all`."""
        if self._is_rewritten:
            return self.take_all(position, pending)
        touched, stored = sorted(self._touched), self._position
        self._note_taken(position)
        place = _encode(position, [pending[offset] for offset in touched if offset in pending])
        done = [offset for offset in touched if offset < stored and offset not in pending]
        return place | ({"done": list(runs(done))} if done else {})

    def take_all(self, position: int, pending: Mapping[int, Delivery]) -> dict[str, Any]:
        """Return the whole place."""
        self._note_taken(position)
        return _encode(position, [pending[offset] for offset in sorted(pending)]) | {"full": True}

    def _note_taken(self, position: int) -> None:
        self._touched = {}
        self._position = position
        self._is_rewritten = False


def _standing(delivery: Delivery) -> Standing:
    return Standing(delivery.attempts_begun, delivery.due_ms, delivery.is_lifted)


def _encode(position: int, deliveries: list[Delivery]) -> dict[str, Any]:
    fresh: list[int] = []
    once: list[int] = []
    others: list[tuple[int, ...]] = []
    for delivery in deliveries:
        attempts = delivery.attempts_begun
        if delivery.is_lifted:
            others.append((delivery.offset, attempts, delivery.due_ms, True))
        elif attempts > 1 or delivery.due_ms:
            others.append((delivery.offset, attempts, delivery.due_ms))
        else:
            (once if attempts else fresh).append(delivery.offset)
    place: dict[str, Any] = {"next": position}
    place |= {"fresh": list(runs(fresh))} if fresh else {}
    place |= {"once": list(runs(once))} if once else {}
    return place | ({"others": others} if others else {})


def apply(place: dict[str, Any], pending: Pending) -> Pending:
    """Return what is pending after `place`, where `pending` was before."""
    pending = {} if place.get("full") else pending
    for name, standing in (("fresh", _FRESH), ("once", _ONCE)):
        for first, last in place.get(name, ()):
            pending.update(dict.fromkeys(range(first, last + 1), standing))
    for offset, *said in place.get("others", ()):
        pending[offset] = Standing(*said)
    for first, last in place.get("done", ()):
        for offset in range(first, last + 1):
            pending.pop(offset, None)
    return pending
