"""A snapshot: all pending messages of a group as one record, made in slices while the group goes on.

A group may have 100,000 messages in hand, and to describe them takes 50 ms. So they are written down some at each step,
and what has changed meanwhile is written down again behind them, round by round, until that is little: what stands
later in the record counts (see `standing.py`). The record is written as a whole, so that a crash leaves the one before
or this one.

Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.standing import encode, other
from zbusrpc.transport.entries import runs

SNAPSHOT_MIN: Final = 4096
"""Messages that are described in one turn: 2 ms."""
STEP: Final = 16
"""Messages of one step: of a turn (see `slices.py`) some 2000."""
ROUNDS_MAX: Final = 8
"""Where more changes in each round than is written down, that is no help: then the rest is done in one turn."""


class Snapshot:
    """What was written down so far."""

    __slots__ = ("_gone", "_parts", "_pending", "_touched")

    def __init__(self, pending: Mapping[int, Delivery]) -> None:
        self._pending = pending
        self._touched: set[int] = set(pending)
        self._gone: set[int] = set()
        self._parts: dict[str, list[bytes]] = {"fresh": [], "once": [], "others": []}

    def note(self, offsets: Iterable[int]) -> None:
        """Take note that messages have changed."""
        self._touched.update(offsets)

    def steps(self) -> Iterator[int]:
        """Write some messages down at each step, until few are left."""
        for number in range(ROUNDS_MAX):
            left, self._touched = list(self._touched), set()
            for at in range(0, len(left), STEP):
                self._write_down(left[at : at + STEP], is_first=not number)
                yield 0
            if len(self._touched) < SNAPSHOT_MIN:
                return

    def finish(self, position: int) -> dict[str, Any]:
        """Write down what is left, and return the place of a group at `position`."""
        self._write_down(self._touched, is_first=False)
        place: dict[str, Any] = {"next": position}
        for name, parts in self._parts.items():
            if parts:
                place[name] = orjson.Fragment(b"[" + b",".join(parts) + b"]")
        return place | {"done": list(runs(sorted(self._gone))), "full": True}

    def _write_down(self, offsets: Iterable[int], *, is_first: bool) -> None:
        there = [self._pending[offset] for offset in sorted(offsets) if offset in self._pending]
        self._gone.difference_update(delivery.offset for delivery in there)
        if is_first:
            for name, parts in self._parts.items():
                self._add(parts, encode(0, there).get(name, ()))
        else:
            self._gone.update(offset for offset in offsets if offset not in self._pending)
            self._add(self._parts["others"], [other(delivery) for delivery in there])

    def _add(self, parts: list[bytes], entries: Any) -> None:
        if entries:
            parts.append(orjson.dumps(entries)[1:-1])
