"""A cursor: where a group stands, as it is written into the journal and read from it (see `standing.py`).

Pure.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.mq.snapshot import SNAPSHOT_MIN, Snapshot
from zbusrpc.broker.mq.standing import Pending, encode, standing_of
from zbusrpc.transport.entries import runs

Describing = tuple[Iterator[int], Callable[[], dict[str, Any] | None]]


class Cursor:
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
        return {offset: standing_of(delivery) for offset, delivery in self.pending.items()}

    @property
    def is_changed(self) -> bool:
        """Whether `changes` has something to tell."""
        return self._changes.has_any(self.position)

    @property
    def is_large(self) -> bool:
        """Whether describing it is more than a turn should do."""
        return len(self.pending) >= SNAPSHOT_MIN

    def describe(self) -> dict[str, Any]:
        """Return everything a restart needs to know; `changes` goes on from here."""
        return self._described(self._changes.take_all(self.position, self.pending))

    def _described(self, place: dict[str, Any]) -> dict[str, Any]:
        idle = {"idle_s": round(self.idle_s)} if self.idle_s else {}
        payer = {"payer": self.payer} if self.payer is not None else {}
        return {"name": self.name, "options": self.options.model_dump(mode="json"), **idle, **payer, **place}

    def describing(self) -> Describing | None:
        """Begin what `describe` does, in slices: return the steps, and what tells the description then.

        None says that one turn is enough for it. It is described as it is in the end, or as None: then it was moved.
        """
        if not self.is_large:
            return None
        snapshot = self._changes.snapshot = Snapshot(self.pending)
        return snapshot.steps(), partial(self._end_snapshot, snapshot)

    def _end_snapshot(self, snapshot: Snapshot) -> dict[str, Any] | None:
        if self._changes.snapshot is not snapshot:
            return None
        self._changes.note_stored(self.position)
        self._changes.snapshot = None
        return self._described(snapshot.finish(self.position))

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
    is_changed = is_large = False

    def __init__(self, described: dict[str, Any]) -> None:
        self._data = orjson.dumps(described)  # a sixth of what a dictionary takes

    def describe(self) -> dict[str, Any]:
        """Return it."""
        described: dict[str, Any] = orjson.loads(self._data)
        return described

    def changes(self) -> dict[str, Any]:
        """Return it: nothing changes."""
        return self.describe()

    def describing(self) -> None:
        """Do nothing: it is described in one turn."""

    def forget_stored(self) -> None:
        """Do nothing: it is always described in full."""


class Absent:
    """The place of a group whose topic cannot be opened: kept as it was read, for when it can."""

    is_changed = is_large = False

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    def describe(self) -> dict[str, Any]:
        """Return everything a restart needs to know."""
        return describe_said(self._said)

    def changes(self) -> dict[str, Any]:
        """Return everything: nothing changes."""
        return self.describe()

    def describing(self) -> None:
        """Do nothing: it is described in one turn."""

    def forget_stored(self) -> None:
        """Do nothing: it is always described in full."""


class Changes:
    """What changed of a group's place since it was written."""

    __slots__ = ("_is_rewritten", "_position", "_touched", "snapshot")

    def __init__(self) -> None:
        self._touched: dict[int, None] = {}
        self._position = -1
        self._is_rewritten = True
        self.snapshot: Snapshot | None = None
        """What is told of changes; it is void once the whole place is another."""

    def touch(self, offset: int) -> None:
        """Take note that a message became pending, is so in another way, or is done."""
        self._touched[offset] = None

    def rewrite(self) -> None:
        """Write the whole place next."""
        self._touched.clear()
        self._is_rewritten = True
        self.snapshot = None

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
        place = encode(position, [pending[offset] for offset in touched if offset in pending])
        done = [offset for offset in touched if offset < stored and offset not in pending]
        return place | ({"done": list(runs(done))} if done else {})

    def take_all(self, position: int, pending: Mapping[int, Delivery]) -> dict[str, Any]:
        """Return the whole place."""
        self._note_taken(position)
        return encode(position, [pending[offset] for offset in sorted(pending)]) | {"full": True}

    def _note_taken(self, position: int) -> None:
        if self.snapshot is not None:
            self.snapshot.note(self._touched)
        self._touched = {}
        self._position = position
        self._is_rewritten = False
