"""A subscription: one CONSUME on one connection, the messages that came for it, and what is said about them.

    begin ──> DELIVER into `buffer` ──> whoever takes them from there
       └────> acknowledge, refuse, extend, release ──> leave, or the connection is lost, or the broker ends it

While messages wait in the buffer, their lease is renewed (see `leases.py`): whoever gets one has two thirds of it left.
Acknowledgements of one turn of the event loop leave in one frame, as runs of offsets.

The broker counts as attempts what was handed to the application. It is told of a message that is not answered within
BEGUN_S; and before the message is handed out where it may be one that ends its consumer in no time: one that came
before, or one of the first, as those come first that a lost consumer had. So a fast application says nothing of it, and
a message that kills each of its consumers is found out while those behind it lose nothing.

Promises: `ended` is told once; after the end the buffer is empty and nothing is sent any more.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from struct import Struct
from typing import Any, Final, Literal

import orjson

from zbusrpc import envelope
from zbusrpc.cluster.channel import Channel
from zbusrpc.config import TIMEOUT_S
from zbusrpc.errors import Code, RpcError, ZbusError
from zbusrpc.message import Kind, Message
from zbusrpc.mq.commands import result_of
from zbusrpc.mq.doubles import Doubles
from zbusrpc.mq.leases import Leases, Sign
from zbusrpc.mq.outgoing import milliseconds
from zbusrpc.outcome import of_command
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.entries import Entry, decode_entries, encode_ranges, runs

LEAVE_TIMEOUT_S: Final = 1.0
"""How long a broker may take to confirm that it gives nothing more."""
SEEN: Final = Struct(">Q")
"""How many messages have come: those on their way do not count as attempts."""
REASON_CHARACTERS_MAX: Final = 1024
"""The broker keeps no more of a reason."""
BEGUN_S: Final = 0.01
"""An application that answers faster leaves nothing to tell of."""
OWED_MAX: Final = 1000
"""Refused messages that are remembered where a group is made anew when its consumer was away too long."""
RANGES_MAX: Final = 10_000
"""In one NACK, by docs/protocol.md."""

Then = Literal["retry", "release", "dead"]
_DELIVER: Final = int(Kind.DELIVER)


class Subscription:
    """What one consumer gets by one connection."""

    def __init__(
        self,
        channel: Channel,
        connection: Connection,
        topic: str,
        *,
        on_filled: Callable[[int], None],
        on_moved: Callable[["Subscription"], None],
    ) -> None:
        """Prepare to join.

        Args:
            on_filled: Told how many messages came.
            on_moved: Told what goes on in place of this one, whose group was moved.
        """
        self.topic = topic
        self.broker = connection.peername
        """Where it comes from, for people: offsets are those of one broker."""
        self.group = ""
        """The group, as the broker calls it."""
        self.needs_ack = True
        """Whether messages are to be answered."""
        self.buffer: deque[Entry] = deque()
        """What came and was not taken."""
        self.place = 0
        """Once it is over: where a group goes on that is made anew; nothing of what was not done comes before."""
        self.is_over = False
        self.ended: asyncio.Future[RpcError | None] = channel.loop.create_future()
        """Why the broker has ended it, or None for any other end."""
        self.channel = channel
        self.loop = channel.loop
        """Where all this happens."""
        self._connection = connection
        self._on_filled, self._on_moved = on_filled, on_moved
        self._next = 0  # behind the last that came
        self.leases = Leases(self.loop, self)
        """What keeps what is here its own."""
        self._live_until: dict[int, float] = {}  # when the broker is to be asked whether a message still lives
        self._owed: dict[int, None] = {}  # refused, and not come again, while the place counts
        self._keeps_place = False
        self._doubles = Doubles()
        self._asked_at = 0.0  # when joining began
        self._trouble = "the connection that it came by is gone; it is delivered again"
        self._number = 0
        self._received = 0
        self._begun: asyncio.Future[None] = channel.loop.create_future()
        self._acknowledged: list[int] = []
        self._open: dict[int, bool] = {}  # handed out and not answered, and whether the broker was told
        self._telling: asyncio.TimerHandle | None = None
        self._careful = 0  # so many messages are told of before they are handed out

    async def begin(self, fields: dict[str, Any]) -> None:
        """Join the group; messages come from then on.

        Raises:
            RpcError: the broker refuses, or the connection was lost.
        """
        self._asked_at, self._careful = self.loop.time(), fields["window"]
        self._keeps_place = fields["group"] is None or bool(fields.get("delete_on_exit"))
        message = Message(Kind.CONSUME, 0, self.topic.encode(), envelope.dump({**fields, "says_begun": True}))
        self.channel.begin(message, self, self._connection, is_urgent=True)
        await self._begun

    # -- what the caller calls: the answer to CONSUME ----------------------------------------------------

    def done(self) -> bool:
        """Say no: an answer that comes late must be undone."""
        return False

    def set_result(self, reply: Message, /) -> None:
        """Begin: messages may follow in the same block. If nobody waits any more, leave again."""
        try:
            result = result_of(reply)
            self._number, self.group, self.needs_ack = result["subscription"], result["group"], result["ack"]
            lease_s, self._next = result["lease_ms"] / 1000, result["next"]
        except (RpcError, KeyError, TypeError) as error:
            refusal = (
                error if isinstance(error, RpcError) else of_command(Code.INTERNAL, "unreadable answer to CONSUME")
            )
            self.set_exception(refusal)
            return
        if self._begun.done():
            self._send(Kind.LEAVE, SEEN.pack(0))
            return
        self.channel.subscribers[self._number] = self
        self._begun.set_result(None)
        if self.needs_ack:
            self.leases.begin(lease_s, self._asked_at)

    def set_exception(self, exception: BaseException, /) -> None:
        """Tell that there is no subscription."""
        self.is_over = True
        if not self._begun.done():
            self._begun.set_exception(exception)

    # -- what the caller calls: messages -----------------------------------------------------------------

    def message_received(self, message: Message) -> None:
        """Take messages in, or the end.

        Raises:
            ProtocolError: the broker sent what are no messages; the connection is closed for it.
        """
        if message.kind == _DELIVER:
            entries = decode_entries(message.body)
            self._received += len(entries)
            if self.leases.is_awaiting_sign:
                self._release(entries)
                return
            if entries[0].first < self._next:  # what comes again comes first
                entries = self._doubles.sift(entries, self._open)
            if message.timeout_ms:
                at = self.loop.time() + message.timeout_ms / 1000
                self._live_until.update((entry.first, at) for entry in entries)
            self.buffer.extend(entries)
            self._next = max(self._next, *(entry.first + 1 for entry in entries))
            if self._owed:
                for entry in entries:
                    self._owed.pop(entry.first, None)
            self._on_filled(len(entries))
        elif message.kind == Kind.RECALL:
            self._give_back(min(int.from_bytes(message.body, "big"), len(self.buffer)))
        elif message.kind == Kind.MOVED:
            self._move(message)
        elif message.kind == Kind.LEAVE:
            self._end(envelope.error_of(message))

    def _move(self, message: Message) -> None:
        """Let another subscription go on: the group was moved, and what is here must neither come nor be answered."""
        said = orjson.loads(message.body)
        successor = Subscription(
            self.channel, self._connection, self.topic, on_filled=self._on_filled, on_moved=self._on_moved
        )
        successor.group, successor.needs_ack = self.group, self.needs_ack
        successor._number, successor._next, successor._careful = said["subscription"], said["next"], self._careful
        successor._keeps_place = self._keeps_place
        successor._begun.set_result(None)
        self.channel.subscribers[successor._number] = successor
        if successor.needs_ack:
            successor.leases.begin(self.leases.lease_s, self.leases.awake_at)
        self._trouble = "its group was moved; it is delivered again if it comes behind that place"
        self._on_moved(successor)
        self._end(None)

    def link_lost(self, error: ZbusError) -> None:
        """End: the broker gives to others what was here."""
        self._end(None)

    def _end(self, refusal: RpcError | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.channel.subscribers.pop(self._number, None)
        self.place = min([self._next, *self._open, *self._owed, *(entry.first for entry in self.buffer)])
        self.buffer.clear()
        self._live_until.clear()
        self.leases.end()
        if self._telling is not None:
            self._telling.cancel()
        if not self.ended.done():
            self.ended.set_result(refusal)

    # -- what is said of messages ------------------------------------------------------------------------

    def needs_care(self, entry: Entry) -> bool:
        """Say whether there is anything to do before a message is handed out."""
        return bool(self._live_until) or self.is_risky(entry) or self.loop.time() > self.leases.kept_until

    def is_risky(self, entry: Entry) -> bool:
        """Say whether a message may be one that ends its consumer, so that `tell_begun` comes before it is begun."""
        return self.needs_ack and (self._careful > 0 or entry.attempts > 1)

    def tell_begun(self, offsets: list[int]) -> None:
        """Tell the broker now that messages are handed out; it is on its way with the next turn of the event loop."""
        if self.is_over or not self.needs_ack:
            return
        self._careful = max(0, self._careful - len(offsets))
        self._open.update(dict.fromkeys(offsets, True))
        messages = [Message(Kind.BEGUN, 0, b"", encode_ranges(sorted(offsets)), session=self._number)]
        if self._acknowledged:  # what was done before must not count again, if this one ends everything
            done, self._acknowledged = self._acknowledged, []
            messages.insert(0, Message(Kind.ACK, 0, b"", encode_ranges(sorted(done)), session=self._number))
        self._connection.write(messages)

    def note_begun(self, offset: int) -> None:
        """Take note that a message is handed out: the broker is told if it is not answered soon."""
        if self.needs_ack and offset not in self._open:
            self._open[offset] = False
            if self._telling is None:
                self._telling = self.loop.call_later(BEGUN_S, self._tell_open)

    def _tell_open(self) -> None:
        self._telling = None
        offsets = [offset for offset, is_told in self._open.items() if not is_told]
        if offsets:
            self._open.update(dict.fromkeys(offsets, True))
            self._send(Kind.BEGUN, encode_ranges(sorted(offsets)))

    def acknowledge(self, offset: int) -> None:
        """Say at the end of this turn that a message is done."""
        self._note_answered(offset)
        if not self._acknowledged:
            self.channel.loop.call_soon(self.flush)
        self._acknowledged.append(offset)

    def flush(self) -> None:
        """Say with what else leaves in this turn what was acknowledged."""
        offsets, self._acknowledged = self._acknowledged, []
        if offsets:
            self._send(Kind.ACK, encode_ranges(sorted(offsets)))

    def flush_now(self) -> None:
        """Say now what was acknowledged: before this turn ends."""
        offsets, self._acknowledged = self._acknowledged, []
        if offsets and not self.is_over and self.needs_ack:
            self._connection.write([Message(Kind.ACK, 0, b"", encode_ranges(sorted(offsets)), session=self._number)])

    async def confirm(self, offset: int) -> None:
        """Say that a message is done, and wait for the broker's answer.

        Raises:
            RpcError: ABORTED: it was given to another; DEADLINE_EXCEEDED, UNAVAILABLE: there is no answer.
        """
        if not self.needs_ack:
            return
        what = f"the message of topic {self.topic} at offset {offset} could not be acknowledged"
        if self.is_over:
            raise of_command(Code.ABORTED, f"{what}: {self._trouble}")
        self._note_answered(offset)
        self.flush()
        message = Message(Kind.ACK, 0, b"", encode_ranges([offset]), session=self._number)
        self._doubles.begin_confirming(offset)
        try:
            reply = await self.channel.exchange(message, time.monotonic() + TIMEOUT_S, self._connection)
        finally:
            self._doubles.end_confirming(offset)
        if not result_of(reply):
            raise of_command(Code.ABORTED, f"{what}: its lease had ended; it is or was delivered again")

    def refuse(self, offset: int, then: Then, delay: float | None, reason: str) -> None:
        """Say that a message is not done."""
        self._note_answered(offset)
        if then == "retry":
            self._note_owed(offset)
        self._nack([(offset, offset)], then, delay, reason)

    def _note_answered(self, offset: int) -> None:
        self._open.pop(offset, None)
        self._doubles.drop(offset, self.buffer)

    def _note_owed(self, offset: int) -> None:
        if self._keeps_place:
            self._owed[offset] = None
            if len(self._owed) > OWED_MAX:
                del self._owed[next(iter(self._owed))]

    def waiting(self) -> Iterable[int]:
        """Return the offsets of what came and was not taken."""
        return (entry.first for entry in self.buffer)

    def extend(self, offsets: Iterable[int]) -> None:
        """Renew the lease of messages."""
        self._send(Kind.EXTEND, encode_ranges(sorted(offsets)))

    def take_back(self, entries: list[Entry]) -> None:
        """Put messages back into the buffer that were taken and will not be handed out now."""
        if not self.is_over:
            for entry in reversed(entries):
                self._open.pop(entry.first, None)
                self.buffer.appendleft(entry)
            self._on_filled(len(entries))

    def release_buffer(self) -> None:
        """Give back what was not taken."""
        self._give_back(len(self.buffer))

    def release_old(self, taken: Entry) -> bool:
        """Give a message back that was taken, if its lease or time to live is over, and all others of which that is so.

        Whether it has expired the broker decides; here is known when that may be so of what came together.
        """
        now = self.loop.time()
        if now > self.leases.kept_until:  # this process stood still, and others have been given what is here
            self._release([taken, *self.buffer])
            self.buffer.clear()
            return True
        if not self._live_until:
            return False
        if self._live_until.pop(taken.first, now + 1) > now:
            return False
        kept = [entry for entry in self.buffer if self._live_until.get(entry.first, now + 1) > now]
        old = [entry for entry in self.buffer if self._live_until.get(entry.first, now + 1) <= now]
        self.buffer.clear()
        self.buffer.extend(kept)
        self._release([taken, *old])
        return True

    def _give_back(self, count: int) -> None:
        """Give back what came last."""
        self._release([self.buffer.pop() for _ in range(count)])

    def _release(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._live_until.pop(entry.first, None)
            self._note_owed(entry.first)
        ranges = iter(list(runs(sorted(entry.first for entry in entries))))
        while part := list(islice(ranges, RANGES_MAX)):
            self._nack(part, "release", None, "")

    async def leave(self) -> None:
        """Give back what was not taken, and leave the group. A broker that does not answer is not waited for long."""
        if self.is_over:
            return
        self.flush()
        self.release_buffer()
        self._end(None)
        message = Message(Kind.LEAVE, body=SEEN.pack(self._received), session=self._number)
        with suppress(RpcError):
            await self.channel.exchange(message, time.monotonic() + LEAVE_TIMEOUT_S, self._connection)

    async def pull(self, count: int, timeout_s: float, patience_s: float) -> None:
        """Have up to `count` messages delivered, and return when they are in the buffer.

        Args:
            timeout_s: How long the broker waits for the first.
            patience_s: How much longer its answer may take.

        Raises:
            RpcError: the connection was lost, or there was no answer.
        """
        message = Message(Kind.PULL, body=envelope.dump({"max": count}), session=self._number)
        message.timeout_ms = math.ceil(timeout_s * 1000)
        deadline = time.monotonic() + timeout_s + patience_s
        result_of(await self.channel.exchange(message, deadline, self._connection))

    def ask(self, sign: Sign) -> None:
        """Have the broker answer in its turn: a renewal of nothing says nothing else."""
        message = Message(Kind.EXTEND, 0, b"", b"", session=self._number)
        self.channel.begin(message, sign, self._connection, is_urgent=False)

    def _nack(self, ranges: list[tuple[int, int]], then: Then, delay: float | None, reason: str) -> None:
        shown = reason[:REASON_CHARACTERS_MAX].encode(errors="replace").decode()  # an error's text may be no UTF-8
        fields: dict[str, Any] = {"ranges": ranges, "then": then, "reason": shown}
        if delay is not None:
            fields["delay_ms"] = milliseconds("delay", delay, 0)
        self._send(Kind.NACK, envelope.dump(fields))

    def _send(self, kind: Kind, body: bytes = b"") -> None:
        """Send what needs no answer; after the end, nobody wants it."""
        if (not self.is_over and self.needs_ack) or kind is Kind.LEAVE:
            self._connection.send(Message(kind, 0, b"", body, session=self._number))
