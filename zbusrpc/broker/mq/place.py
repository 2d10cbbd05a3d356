"""A place: where a group stands, as it is written into the journal and read from it.

    {"next": 17, "once": [[12, 14]], "others": [[15, 3, 1700000000000]], "done": [[3, 9]], "full": true}

    next     all messages below it are done, but those that are pending
    once     pending, handed out once, and due: runs of offsets
    others   pending: offset, how often it was handed out, when it is due (0: at once)
    done     not pending any more
    full     what is not named here is not pending

Pure.
"""

from collections.abc import Mapping
from typing import Any

from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.transport.entries import runs

Pending = dict[int, tuple[int, int]]
"""Offsets with how often they were handed out, and when they are due in ms since 1970."""


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


def _encode(position: int, deliveries: list[Delivery]) -> dict[str, Any]:
    once, others = [], []
    for delivery in deliveries:
        if delivery.attempts == 1 and not delivery.due_ms:
            once.append(delivery.offset)
        else:
            others.append((delivery.offset, delivery.attempts, delivery.due_ms))
    place: dict[str, Any] = {"next": position}
    place |= {"once": list(runs(once))} if once else {}
    return place | ({"others": others} if others else {})


def apply(place: dict[str, Any], pending: Pending) -> Pending:
    """Return what is pending after `place`, where `pending` was before."""
    pending = {} if place.get("full") else pending
    for first, last in place.get("once", ()):
        pending.update(dict.fromkeys(range(first, last + 1), (1, 0)))
    for offset, attempts, due_ms in place.get("others", ()):
        pending[offset] = (attempts, due_ms)
    for first, last in place.get("done", ()):
        for offset in range(first, last + 1):
            pending.pop(offset, None)
    return pending
