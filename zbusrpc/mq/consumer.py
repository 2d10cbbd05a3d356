"""The consumer: messages of one topic and group, one by one or by the handful, for an application that answers each.

    CONSUME ──> DELIVER into a buffer ──> async for, fetch or run ──> ack, nack, reject

The broker sends messages ahead, up to `window` unanswered ones. When the connection is lost the consumer joins its
group again by itself; what it had is delivered again, to it or to others. Where there are several brokers it is a
consumer of its group at each of them, and joins new ones as they appear (see `memberships.py`).

Promises: a message is handed out once for each delivery, and a cancelled wait loses none; what was not handed out when
the consumer closes is given back as not begun; what is kept in memory is bounded by `window` for each broker.
"""

import asyncio
import time
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Self, cast

from pydantic import TypeAdapter
from typing_extensions import TypeVar, Unpack

from zbusrpc.config import CONCURRENCY_MAX
from zbusrpc.errors import UsageError
from zbusrpc.mq.bodies import BodyError, reader_of
from zbusrpc.mq.checks import check_count, check_handler, check_seconds, refuse_to_pickle
from zbusrpc.mq.handlers import Handler, run_handlers
from zbusrpc.mq.memberships import Memberships
from zbusrpc.mq.message import Received, ReceivedMessage
from zbusrpc.mq.naming import brokers_of, topic_bytes
from zbusrpc.mq.options import GroupOptions, StartAt, start_to_wire, to_wire
from zbusrpc.mq.subscription import Subscription
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.entries import Entry
from zbusrpc.transport.naming import one_spelling

WINDOW: Final = 256
WINDOW_MAX: Final = CONCURRENCY_MAX
"""As docs/protocol.md has it, also for one `fetch`."""
FETCH_S: Final = 5.0
"""How long `fetch` waits for a first message unless told otherwise."""
TAKEN_PER_TURN: Final = 64
TURN_S: Final = 0.01
"""Messages that are there are handed out without a turn of the event loop; after so many, or so long, acknowledgements
leave and others have their turn."""
BLOCKED_S: Final = 5.0
"""A loop body that has kept the event loop to itself for so long is named in the log, once."""

log = get_logger("consumer")

T = TypeVar("T", default=bytes)


class Consumer(Generic[T]):
    """Takes messages of one topic, as one of the consumers of a group.

    Use it as `async with Consumer("orders", group="billing") as consumer`, or call `close` at the end. It belongs to
    the event loop that uses it first, where several tasks may share it: each message goes to one of them.
    """

    message_type: type[Received[Any]] = ReceivedMessage
    """What is made of each message; the blocking twin has another."""

    def __init__(
        self,
        topic: str,
        *,
        group: str | None = None,
        body: type[T] | TypeAdapter[T] | None = None,
        broker: str | None = None,
        window: int = WINDOW,
        start: StartAt | None = None,
        declare: bool = True,
        update: bool = False,
        auto_ack: bool = False,
        **options: Unpack[GroupOptions],
    ) -> None:
        """Make a consumer. Nothing is opened before it is entered or first used.

        Args:
            topic: Name of the topic.
            group: Name of the group, whose consumers share its messages. Without one the consumer has a group of its
                own at each broker, which begins with the newest message and goes when the consumer leaves.
            body: Type of the bodies, by default bytes as they came; str is read from UTF-8, all else from JSON by
                pydantic. A body that does not fit is rejected: its message goes to the dead letters, with the reason.
            broker: Brokers as `host:port;host2:port`, which tell of others; by default those that `connect` uses.
            window: So many messages of each broker may be here unanswered, up to 4096; 0 is for `fetch` alone: then the
                brokers send what is asked for.
            start: Where the group begins if it is new: by default with the oldest message.
            declare: Make the topic and the group, with these options, at every broker where they do not exist. Without
                it the consumer joins only where the topic is.
            update: Change options of the group that differ: for options that have changed in the program since the
                group was made. Needs the right to declare.
            auto_ack: Acknowledge a message when the next one is asked for: for one loop, and one that cannot fail.
            options: See `GroupOptions`. They are for a new group; one that exists must be as they say, unless `update`
                has them changed. A group is one for each broker: `exclusive` lets in one consumer at each.

        Raises:
            UsageError: an argument cannot be used.
            ConfigError: `broker` is no address.
            DefinitionError: `body` is a type that has no form in JSON.
        """
        check_count("window", window, 0, WINDOW_MAX)
        if group is not None and not isinstance(group, str):
            raise UsageError(f"group={group!r:.80}: a group is named by a str")
        if update and not declare:
            raise UsageError("update=True changes the group that is declared: leave declare=False away")
        topic_bytes(topic)
        self.topic = topic
        """Name of the topic."""
        needs_ack = options.get("ack", True)
        fields = {"ack": True, **to_wire(options, GroupOptions), "group": group, "create": declare}
        fields["window"] = window if needs_ack else 0
        if start is not None:
            fields["start"] = start_to_wire(start)
        self._membership = Memberships(
            one_spelling(topic),
            brokers_of(broker),
            fields,
            declares=declare,
            updates=update,
            ahead=0 if needs_ack else window,
        )
        self._window = window
        self._read = reader_of(body)
        self._auto_ack = auto_ack
        self._handed_out: list[ReceivedMessage[T]] = []
        self._left_in_turn = 0
        self._turn_at = 0.0  # when it began
        self._has_turned = True  # whether others have had their turn since
        self._was_blocked = False

    @property
    def group(self) -> str:
        """Name of the group; of one that the broker names, nothing before it was joined."""
        return self._membership.group

    def __repr__(self) -> str:
        return f"<consumer of topic {self.topic}, group {self.group or '(its own)'}>"

    def __reduce__(self) -> NoReturn:
        refuse_to_pickle(f"the consumer of topic {self.topic}", "make one there")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Join the group, if that was not done yet; entering, iterating and fetching do it, too.

        When this returns one broker is joined; others are joined meanwhile, and what goes wrong there is logged.

        Raises:
            RpcError: UNAVAILABLE: no broker can be reached. NOT_FOUND, FAILED_PRECONDITION and others: all refuse.
            UsageError: the consumer is closed, or belongs to another event loop.
        """
        if self._membership.is_closed:
            raise UsageError(f"the consumer of topic {self.topic} is closed")
        if self._membership.is_foreign():
            raise UsageError(f"the consumer of topic {self.topic} belongs to another event loop; each needs its own")
        await self._membership.join()

    async def close(self) -> None:
        """Leave the group; again does nothing.

        Messages that were not handed out are given back as if they had not been delivered; those that were and have no
        answer are delivered again. Loops over the consumer end.
        """
        await self._membership.leave()

    # -- messages ----------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedMessage[T]:
        """Return the next message; a loop ends when the consumer is closed. Cancelled, no message is lost.

        Raises:
            RpcError: the broker has ended it, for example because the group was removed.
            UsageError: the window is 0.
        """
        if self._handed_out:
            self._acknowledge_handed_out()
        membership = self._membership
        while True:
            self._left_in_turn -= 1
            if self._left_in_turn < 0 or not membership.buffer or time.monotonic() >= self._turn_at + TURN_S:
                if not await self._wait():
                    raise StopAsyncIteration
            elif membership.is_spread:
                membership.turn()  # a slow handler must not stay with one broker while others wait
            subscription, entry = membership.take()
            if subscription.needs_care(entry) and not await self._prepare(subscription, entry):
                continue
            message = self._hand_out(subscription, entry)
            if message is not None:
                if self._auto_ack:
                    self._handed_out.append(message)
                return message

    async def fetch(self, count: int, *, timeout: float = FETCH_S) -> list[ReceivedMessage[T]]:
        """Return up to `count` messages, as soon as there is one; none when the time is over.

        Cancelled, no message is lost: what comes for it is there for the next one.

        Args:
            count: 1 to 4096.
            timeout: Seconds to wait for the first; 0 takes what is there.

        Raises:
            RpcError: the broker has ended it, or cannot be reached in this time.
            UsageError: as of `start`, or a value cannot be used.
        """
        check_count("fetch: count", count, 1, WINDOW_MAX)
        check_seconds("fetch: timeout", timeout)
        await self.start()
        self._acknowledge_handed_out()
        deadline = time.monotonic() + timeout
        messages: list[ReceivedMessage[T]] = []
        while not messages and await self._fill(count, deadline):
            taken: dict[Subscription, list[Entry]] = {}
            left = count
            while left and self._membership.turn():
                while left and self._membership.buffer:
                    subscription, entry = self._membership.take()
                    if not subscription.release_old(entry):
                        taken.setdefault(subscription, []).append(entry)
                        left -= 1
            await self._announce(taken)
            for subscription, entries in taken.items():
                if not subscription.is_over:
                    handed_out = [self._hand_out(subscription, entry) for entry in entries]
                    messages += [message for message in handed_out if message is not None]
            if time.monotonic() >= deadline:
                break
        if self._auto_ack:
            self._handed_out += messages
        return messages

    async def run(self, handler: Handler[T], *, concurrency: int = 16) -> None:
        """Give each message to a handler, until the consumer is closed.

        A handler that returns has its message acknowledged. One that raises has it refused, with the exception's text
        as reason: it comes again after the group's back-off, and goes to the dead letters at last. A handler may give
        an answer of its own before it returns, such as `await message.reject("...")`. Messages with the same key are
        handled one after the other. While a handler works the lease of its message is renewed, so that nobody else gets
        it; that an `async def` handler has blocked the event loop for longer than the lease is told in the log.

        Cancelled, running handlers are cancelled, and their messages are delivered again.

        Args:
            handler: An `async def` function runs in the event loop, any other one in a thread, which cannot be
                cancelled.
            concurrency: So many messages are handled at a time.

        Raises:
            RpcError: the broker has ended it; handlers that ran have finished.
            UsageError: as of `start`, or the window is 0.
        """
        check_handler(handler)
        check_count("run: concurrency", concurrency, 1)
        if self._auto_ack:
            raise UsageError("run() acknowledges by itself: make the consumer without auto_ack")
        await self.start()
        await run_handlers(self, handler, concurrency)

    # -- steps that several share ------------------------------------------------------------------------

    async def _wait(self) -> bool:
        """Let others have their turn, and return when there is a message; False when there will be none."""
        if not self._window:
            raise UsageError("a Consumer(window=0) is for fetch(): give it a window to loop over its messages")
        if self._membership.buffer:
            await self._turn()
        if self._membership.subscription is None and not self._membership.is_closed:
            await self.start()
        is_filled = await self._membership.wait_filled()
        self._begin_turn()
        return is_filled

    async def _turn(self) -> None:
        """Let acknowledgements leave and others have their turn."""
        now = time.monotonic()
        self._membership.note_taken()
        if now >= self._turn_at + TURN_S:
            self._membership.flush()  # the body may take as long again
            if now >= self._turn_at + BLOCKED_S and not self._has_turned:
                self._warn_blocked(now - self._turn_at)
        await asyncio.sleep(0)

    def _begin_turn(self) -> None:
        self._left_in_turn, self._turn_at = TAKEN_PER_TURN, time.monotonic()
        if self._has_turned:
            self._has_turned = False
            asyncio.get_running_loop().call_soon(self._note_turn)

    def _note_turn(self) -> None:
        self._has_turned = True

    def _warn_blocked(self, seconds: float) -> None:
        if not self._was_blocked:
            self._was_blocked = True
            hint = "await in it, or give run() a `def` handler: leases and the connection are kept by the event loop"
            log.warning("consumer.loop_blocked", topic=self.topic, seconds=round(seconds, 1), hint=hint)

    async def _prepare(self, subscription: Subscription, entry: Entry) -> bool:
        """Do what is to be done before a message is handed out; False where it must not be."""
        if subscription.release_old(entry):
            return False
        if subscription.is_risky(entry):
            await self._announce({subscription: [entry]})
        return not subscription.is_over  # else it is delivered again

    async def _announce(self, taken: dict[Subscription, list[Entry]]) -> None:
        """Tell brokers what is handed out next, before it is; cancelled, no message is lost."""
        for subscription, entries in taken.items():
            subscription.tell_begun([entry.first for entry in entries])
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            for subscription, entries in taken.items():
                subscription.take_back(entries)
            raise

    async def _fill(self, count: int, deadline: float) -> bool:
        """Return True when there are messages to look for, False when the time is over."""
        membership = self._membership
        if membership.turn():
            return True
        if not self._window:
            return await membership.pull(count, deadline)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await membership.wait_filled()
        except TimeoutError:
            return membership.turn()

    def _hand_out(self, subscription: Subscription, entry: Entry) -> ReceivedMessage[T] | None:
        """Return a message, or None for one whose body does not fit: that is rejected."""
        subscription.note_begun(entry.first)
        body: Any = entry.body
        if self._read is not None:
            try:
                body = self._read(body)
            except BodyError as error:
                log.warning("consumer.rejected", topic=self.topic, offset=entry.first, reason=str(error))
                subscription.refuse(entry.first, "dead", None, str(error))
                return None
        return cast("ReceivedMessage[T]", self.message_type(subscription, entry, body))

    def _acknowledge_handed_out(self) -> None:
        for message in self._handed_out:
            message.ack_nowait()
        self._handed_out.clear()
