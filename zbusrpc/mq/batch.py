"""A batch: the messages that leave in one frame, from when they are collected until the broker has answered.

It is what waits for the reply (see `Waiter` in `cluster/channel.py`): one reply resolves the futures of all its
messages. A batch that was not answered is *parted*: others take its place, with the same messages and ids, wherever
they are to go now. What is still said to the old one is not heard.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import orjson

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Message
from zbusrpc.mq.outgoing import entries_of, key_of
from zbusrpc.mq.receipt import Receipt, receipts_of
from zbusrpc.outcome import knowing, like

_ERROR = int(Flag.ERROR)


class Owner(Protocol):
    """What a batch tells its end."""

    def batch_ended(self, batch: "Batch", error: RpcError | None) -> None:
        """All its messages have been told."""

    def late(self, batch: "Batch") -> RpcError:
        """Return the error for a message whose time has passed."""
        ...

    def batch_lost(self, batch: "Batch") -> None:
        """The connection was lost before an answer came."""

    def batch_refused(self, batch: "Batch", error: RpcError) -> None:
        """The broker has not stored it, and another one may."""


P = TypeVar("P", bound=Owner)


class Timed:
    """A message with less time than its batch, wherever it is now."""

    __slots__ = ("batch", "future")

    def __init__(self, batch: "Batch", future: asyncio.Future[Receipt]) -> None:
        self.batch, self.future = batch, future


class Batch:
    """Messages that are stored together or not at all."""

    __slots__ = (
        "began",
        "deadline",
        "entries",
        "futures",
        "ids",
        "is_atomic",
        "is_over",
        "is_unwatched",
        "may_be_stored",
        "owner",
        "size",
        "ticks",
        "timeout_s",
        "was_sent",
    )

    def __init__(self, owner: Owner, timeout_s: float, deadline: float) -> None:
        self.owner = owner
        """Which lane it is in."""
        self.timeout_s = timeout_s
        self.deadline = deadline
        self.is_atomic = False
        """Whether the application wants these messages in one frame, however large."""
        self.entries: list[bytes] = []
        self.futures: list[asyncio.Future[Receipt]] = []
        self.size = 0
        self.began = 0.0
        """When it was sent last."""
        self.ids: set[bytes] = set()
        """Those that the application gave: a frame may not hold one twice."""
        self.ticks: list[tuple[dict[Any, None], Hashable]] = []
        """Where its deadline is watched, and behind that those of single messages."""
        self.was_sent = False
        self.may_be_stored = False
        """Whether it was sent to a broker that was lost before it answered: then no later error denies it."""
        self.is_over = False
        self.is_unwatched = False
        """Whether the application may not look at one of the futures."""

    def add(self, entry: bytes, future: asyncio.Future[Receipt]) -> None:
        """Add a message."""
        self.entries.append(entry)
        self.futures.append(future)
        self.size += len(entry)

    def seal(self) -> bytes:
        """Return what is to be sent; nothing is added from now on."""
        self.was_sent = True
        if len(self.entries) != 1:
            self.entries = [b"".join(self.entries)]
        return self.entries[0]

    def parted(self, place: Callable[[bytes], P]) -> list[tuple[P, "Batch"]]:
        """Return batches that take the place of this one, with the lanes that they are to go to.

        Args:
            place: Returns the lane for a key, or for messages without one. A batch that the application wants in one
                frame stays whole, and goes where its first key belongs.
        """
        entries = [entry for block in self.entries for entry in entries_of(block)]
        if self.is_atomic:
            owners = [place(key_of(entries[0]))] * len(entries)
        else:
            places = {key: place(key) for key in dict.fromkeys(map(key_of, entries))}
            owners = [places[key_of(entry)] for entry in entries]
        parts = {owner: self._part(owner) for owner in dict.fromkeys(owners)}
        timed = self.timed()
        for owner, entry, future in zip(owners, entries, self.futures, strict=True):
            parts[owner].add(entry, future)
            if future in timed:
                parts[owner].keep_timed(*timed[future])
        self.is_over = True
        self.unwatch()
        return list(parts.items())

    def _part(self, owner: Owner) -> "Batch":
        part = Batch(owner, self.timeout_s, self.deadline)
        self.tell_past_to(part)
        part.is_atomic = self.is_atomic
        return part

    def tell_past_to(self, other: "Batch") -> None:
        """Let a batch that takes messages over know what became of them so far."""
        other.is_unwatched = self.is_unwatched
        other.was_sent, other.may_be_stored = self.was_sent, self.may_be_stored

    def timed(self) -> dict[asyncio.Future[Receipt], tuple[dict[Any, None], Timed]]:
        """Return the messages with less time than the batch, and where that is watched."""
        return {item.future: (tick, item) for tick, item in self.ticks if isinstance(item, Timed)}

    def keep_timed(self, tick: dict[Any, None], item: Timed) -> None:
        """Have a message with less time, which was another batch's."""
        item.batch = self
        self.ticks.append((tick, item))

    def withdraw(self, future: asyncio.Future[Receipt]) -> int:
        """Take a message out that was never sent, so that it is not sent later; return its size."""
        number = self.futures.index(future)
        del self.futures[number]
        size = len(self.entries.pop(number))
        self.size -= size
        if not self.futures:
            self._end(None)
        return size

    def unwatch(self) -> None:
        """Watch no deadline of its own any more."""
        tick, item = self.ticks[0]
        tick.pop(item, None)

    def fail(self, error: RpcError) -> None:
        """Tell all messages that they failed, each by an error of its own: tasks that raise one must not share it."""
        if self.may_be_stored and not error.may_have_run:
            details = error.details if isinstance(error.details, dict) else {}
            text = f"{error.message}; a broker that was lost may have stored it before"
            error = knowing(error.code, text, details, may_have_run=True)
        for future in self.futures:
            if not future.done():
                future.set_exception(like(error))
                if self.is_unwatched:
                    future.exception()  # flush and close raise it as well
        self._end(error)

    def _end(self, error: RpcError | None) -> None:
        self.is_over = True
        for tick, item in self.ticks:
            tick.pop(item, None)
        self.owner.batch_ended(self, error)

    # -- what the caller calls ---------------------------------------------------------------------------

    def done(self) -> bool:
        """Say whether nobody waits for the answer any more."""
        return self.is_over

    def set_result(self, reply: Message, /) -> None:
        """Tell each message its receipt, or all of them the error."""
        if reply.flags & _ERROR:
            error = envelope.error_of(reply)
            if error.code is Code.UNAVAILABLE and not error.may_have_run:
                self.owner.batch_refused(self, error)
            else:
                self.fail(error)
            return
        try:
            receipts = receipts_of(orjson.loads(reply.body)["result"], len(self.futures))
        except (ValueError, KeyError, TypeError):
            shown = bytes(reply.body[:80]).decode(errors="replace")
            self.fail(knowing(Code.INTERNAL, f"unreadable receipt: {shown}", may_have_run=True))
            return
        for future, receipt in zip(self.futures, receipts, strict=True):
            if not future.done():
                future.set_result(receipt)
        self._end(None)

    def set_exception(self, exception: BaseException, /) -> None:
        """Go elsewhere: the connection was lost."""
        self.owner.batch_lost(self)
