"""A batch: the messages that leave in one frame, from when they are collected until the broker has answered.

It is what waits for the reply (see `Waiter` in `calls.py`): one reply resolves the futures of all its messages. A batch
whose connection was lost goes back to its producer, which sends it again as it is, with the same ids.
"""

import asyncio
from collections.abc import Hashable
from typing import Any, Protocol

import orjson

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Message
from zbusrpc.mq.receipt import Receipt, receipts_of

_ERROR = int(Flag.ERROR)


class Owner(Protocol):
    """What a batch tells its end."""

    def batch_ended(self, batch: "Batch", error: RpcError | None) -> None:
        """All its messages have been told."""

    def batch_lost(self, batch: "Batch") -> None:
        """The connection was lost before an answer came."""


class Batch:
    """Messages that are stored together or not at all."""

    __slots__ = (
        "_owner",
        "body",
        "deadline",
        "entries",
        "futures",
        "ids",
        "is_atomic",
        "is_over",
        "is_unwatched",
        "size",
        "ticks",
        "timeout_s",
        "was_sent",
    )

    def __init__(self, owner: Owner, timeout_s: float, deadline: float) -> None:
        self._owner = owner
        self.timeout_s = timeout_s
        self.deadline = deadline
        self.is_atomic = False
        """Whether the application wants these messages in one frame, however large."""
        self.entries: list[bytes] = []
        self.futures: list[asyncio.Future[Receipt]] = []
        self.size = 0
        self.body = b""
        """The entries as they are sent, once they are."""
        self.ids: set[bytes] = set()
        """Those that the application gave: a frame may not hold one twice."""
        self.ticks: list[tuple[dict[Any, None], Hashable]] = []
        """Where its deadline is watched, and behind it those of single messages."""
        self.was_sent = False
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
        if not self.was_sent:
            self.was_sent = True
            self.body = b"".join(self.entries)
            self.entries = []
        return self.body

    def unwatch(self) -> None:
        """Watch no deadline of its own any more."""
        tick, item = self.ticks[0]
        tick.pop(item, None)

    def fail(self, error: RpcError) -> None:
        """Tell all messages that they failed, each by an error of its own: tasks that raise one must not share it."""
        for future in self.futures:
            if not future.done():
                future.set_exception(RpcError(error.code, error.message, error.details))
                if self.is_unwatched:
                    future.exception()  # flush and close raise it as well
        self._end(error)

    def _end(self, error: RpcError | None) -> None:
        self.is_over = True
        for tick, item in self.ticks:
            tick.pop(item, None)
        self._owner.batch_ended(self, error)

    # -- what the caller calls ---------------------------------------------------------------------------

    def done(self) -> bool:
        """Say whether nobody waits for the answer any more."""
        return self.is_over

    def set_result(self, reply: Message, /) -> None:
        """Tell each message its receipt, or all of them the error."""
        if reply.flags & _ERROR:
            error = envelope.parse_error(reply.body)
            self.fail(RpcError(error.code, error.message, error.details))
            return
        try:
            receipts = receipts_of(orjson.loads(reply.body)["result"], len(self.futures))
        except (ValueError, KeyError, TypeError):
            shown = bytes(reply.body[:80]).decode(errors="replace")
            self.fail(RpcError(Code.INTERNAL, f"unreadable receipt: {shown}", {"may_have_run": True}))
            return
        for future, receipt in zip(self.futures, receipts, strict=True):
            if not future.done():
                future.set_result(receipt)
        self._end(None)

    def set_exception(self, exception: BaseException, /) -> None:
        """Go back to the producer: the connection was lost."""
        self._owner.batch_lost(self)
