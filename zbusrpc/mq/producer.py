"""The producer: hands messages to a topic and tells for each that it is stored.

    send, send_nowait, send_pipelined ──> checked, written ──> lane to a broker ──> the receipt of each message
    send_batch ─────────────────────────> a frame of its own ───┘

Messages that are sent within one turn of the event loop leave in one frame, and one answer resolves them all. Where
there are several brokers, each frame goes to one of them, and messages with a key to that of the key; see `routing.py`.
When a broker is lost, or takes no new work, what it has not answered goes to another one, with the same ids.

Promises: one broker stores messages of one producer in the order in which they were handed in. Those with the same key
are all at one broker, until a broker with consumers of the topic comes or goes: then some keys change their place, and
what is at the old one and at the new one has no order. A receipt means what the topic's durability says; a message that
was sent again may be stored at two brokers, with one id. What is kept in memory is bounded by `in_flight_max` and
`in_flight_bytes_max`.
"""

import asyncio
import itertools
import math
import os
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Self

from pydantic import TypeAdapter
from typing_extensions import TypeVar, Unpack

from zbusrpc.cluster.selection import Selector, selector_of
from zbusrpc.config import MIB
from zbusrpc.errors import Code, UsageError
from zbusrpc.mq.bodies import writer_of
from zbusrpc.mq.checks import check_count, refuse_to_pickle
from zbusrpc.mq.in_flight import InFlight
from zbusrpc.mq.naming import brokers_of, topic_bytes
from zbusrpc.mq.outgoing import MessageOptions, Outgoing, key_of, prepare
from zbusrpc.mq.receipt import Receipt
from zbusrpc.mq.routing import Routing
from zbusrpc.mq.sender import Sender, Terms
from zbusrpc.outcome import not_run, of_command
from zbusrpc.service.context import ambient_deadline

TIMEOUT_S: Final = 30.0
"""Longer than a call's: a broker that restarts is waited for."""
IN_FLIGHT_MAX: Final = 1024
IN_FLIGHT_BYTES_MAX: Final = 16 * MIB
LEAST_S: Final = 0.001
"""What is left to a message that got room in the last moment."""

T = TypeVar("T", default=Any)


class Producer(Generic[T]):
    """Hands messages to one topic.

    Use it as `async with Producer("orders") as producer`, or call `close` at the end. It belongs to the event loop that
    uses it first, where any number of tasks may share it. Nothing is opened before the first message.
    """

    def __init__(
        self,
        topic: str,
        *,
        broker: str | None = None,
        body: "type[T] | TypeAdapter[T] | None" = None,
        timeout: float = TIMEOUT_S,
        declare: bool = True,
        in_flight_max: int = IN_FLIGHT_MAX,
        in_flight_bytes_max: int = IN_FLIGHT_BYTES_MAX,
        selector: str | Selector = "least-loaded",
    ) -> None:
        """Make a producer.

        Args:
            topic: Name of the topic.
            broker: Brokers as `host:port;host2:port`, which tell of others; by default those that `connect` uses.
            body: Type of the bodies; others are refused, and so is what a consumer of the type would not get equal.
                By default anything goes, written by its class: bytes as they are, str as UTF-8, all else as JSON. A
                consumer without the type then has JSON values (of a tuple a list, of a date its text), which
                `body=Any` refuses.
            timeout: Seconds in which a message is to be stored, reconnecting included, where `send` names none.
            declare: Make the topic, with default options, if it does not exist.
            in_flight_max: So many messages may be unanswered.
            in_flight_bytes_max: So many bytes of them.
            selector: Who chooses among the brokers that have the topic: a name, or an object with the method of
                `Selector`. Messages with a key go to the broker of the key with every name but "all". With "all" each
                message goes to every broker; its receipt is that of the first, and `flush` and `close` raise what went
                wrong at another. What a broker that is lost has not answered is not kept for it.

        Raises:
            UsageError: an argument cannot be used.
            ConfigError: `broker` is no address.
            DefinitionError: `body` is a type that has no form in JSON.
        """
        check_count("in_flight_max", in_flight_max, 1)
        check_count("in_flight_bytes_max", in_flight_bytes_max, 1)
        self.topic = topic
        """Name of the topic."""
        self._topic_bytes, self._brokers = topic_bytes(topic), brokers_of(broker)
        self._timeout_s = _check_timeout(timeout)
        self._declares = declare
        self._write = writer_of(body)
        prefix = os.urandom(6).hex().encode()
        self._make_id = (b"%b-%x" % (prefix, number) for number in itertools.count(1)).__next__
        self._in_flight = InFlight(in_flight_max, in_flight_bytes_max)
        self._selector = selector_of(selector)
        self._routing: Routing | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<producer of topic {self.topic}, in flight: {self._in_flight}>"

    def __reduce__(self) -> NoReturn:
        refuse_to_pickle(f"the producer of topic {self.topic}", "make one there, or hand on a SyncProducer")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self._stop()

    # -- sending -----------------------------------------------------------------------------------------

    async def send(self, body: T, *, timeout: float | None = None, **options: Unpack[MessageOptions]) -> Receipt:
        """Store a message, and return its receipt once it is as safe as its topic promises.

        Cancelled, it is open whether the message is stored.

        Args:
            timeout: Seconds in which it is to be stored, by default the producer's.
            options: `key`, `tag`, `id`, `headers`, `ttl`, `delay`; see `MessageOptions`.

        Raises:
            RpcError: INVALID_ARGUMENT: a value cannot be used. RESOURCE_EXHAUSTED: the message is too large, or the
                broker's disk is full. DEADLINE_EXCEEDED: no answer in time; the text says whether it may be stored.
                Any other: the broker refused it.
            UsageError: the producer is closed, or belongs to another event loop.
        """
        future, lane = await self._hand_in(self._enter(timeout), body, timeout, options)
        if self._in_flight.messages == 1:
            lane.flush()  # there is nobody to wait for
        else:
            lane.flush_soon()
        return await future

    def send_nowait(
        self, body: T, *, timeout: float | None = None, **options: Unpack[MessageOptions]
    ) -> "asyncio.Future[Receipt]":
        """Hand in a message without waiting, and return the future of its receipt; see `send`.

        Nobody has to look at the future: `flush` and `close` raise what went wrong.

        Raises:
            RpcError: RESOURCE_EXHAUSTED: `in_flight_max` messages or `in_flight_bytes_max` bytes are unanswered, or the
                message is too large. INVALID_ARGUMENT: a value cannot be used.
            UsageError: as of `send`.
        """
        lanes, in_flight = self._enter(timeout), self._in_flight
        entry, given_id = prepare(self._write, self._make_id, body, **options)
        size = len(entry)
        lane = lanes.only or lanes.choose(options.get("key"))
        lane.check_size(size)
        if in_flight.is_full:
            text = f"the producer of topic {self.topic} has too much in flight, {in_flight}; await send_pipelined(...)"
            raise not_run(Code.RESOURCE_EXHAUSTED, text)
        in_flight.take(1, size)
        future = lane.add(entry, given_id, timeout, is_unwatched=True)
        if lanes.others:
            lanes.copy([entry], given_id, timeout)
        lane.flush_soon()
        return future

    async def send_pipelined(
        self, body: T, *, timeout: float | None = None, **options: Unpack[MessageOptions]
    ) -> "asyncio.Future[Receipt]":
        """Hand in a message as soon as there is room, and return the future of its receipt.

        This is for many messages in a row: it waits while `in_flight_max` are unanswered, and not for the answer.
        Nobody has to look at the future: `flush` and `close` raise what went wrong. Cancelled, the message was not
        handed in.

        Raises:
            RpcError: as of `send`; DEADLINE_EXCEEDED also where there was no room in time.
            UsageError: as of `send`.
        """
        future, lane = await self._hand_in(self._enter(timeout), body, timeout, options, is_unwatched=True)
        lane.flush_soon()
        return future

    async def send_batch(self, messages: "Sequence[T | Outgoing[T]]", *, timeout: float | None = None) -> list[Receipt]:
        """Store messages together, and return their receipts: all of them are stored or none, through a crash, too.

        Cancelled, it is open whether they are stored.

        Args:
            messages: Bodies, or `Outgoing(body, key=..., ...)`; no two with the same id. They are one frame, so
                together they may not be larger than one message may be. All go to the broker of the first key.
            timeout: Seconds in which they are to be stored, by default the producer's.

        Raises:
            RpcError: as of `send`.
            UsageError: as of `send`.
        """
        lanes = self._enter(timeout)
        if isinstance(messages, str | bytes) or not isinstance(messages, Iterable):
            raise UsageError(f"send_batch({messages!r:.80}): a list of bodies, such as [{messages!r:.80}]")
        prepared = [self._prepare(message) for message in messages]
        if not prepared:
            return []
        entries = [entry for entry, _ in prepared]
        ids = [given_id for _, given_id in prepared if given_id]
        if len(set(ids)) < len(ids):
            raise of_command(Code.INVALID_ARGUMENT, f"topic {self.topic}: two messages of a batch have the same id")
        size, key = sum(map(len, entries)), key_of(entries[0]).decode()
        (lanes.only or lanes.choose(key)).check_size(size)
        timeout = await self._take(len(entries), size, timeout)
        lane = self._lane_of(lanes, key, len(entries), size)
        batch = lane.add_batch(entries, timeout)
        if lanes.others:
            lanes.copy(entries, b"", timeout, is_batch=True)
        lane.flush()
        await asyncio.wait(batch.futures)
        results = await asyncio.gather(*batch.futures, return_exceptions=True)
        return [_raised(result) for result in results]

    def _prepare(self, message: "T | Outgoing[T]") -> tuple[bytes, bytes]:
        if not isinstance(message, Outgoing):
            return prepare(self._write, self._make_id, message)
        one: Outgoing[Any] = message
        fields = (one.body, one.key, one.tag, one.id, one.headers, one.ttl, one.delay)
        return prepare(self._write, self._make_id, *fields)

    async def _hand_in(
        self,
        lanes: Routing,
        body: T,
        timeout: float | None,
        options: MessageOptions,
        *,
        is_unwatched: bool = False,
    ) -> "tuple[asyncio.Future[Receipt], Sender]":
        """Add a message as soon as there is room; return the future of its receipt, and the lane to flush."""
        entry, given_id = prepare(self._write, self._make_id, body, **options)
        size = len(entry)
        lane = lanes.only or lanes.choose(options.get("key"))
        lane.check_size(size)
        if self._in_flight.is_full:
            timeout = await self._take(1, size, timeout)
            lane = self._lane_of(lanes, options.get("key"), 1, size)
        else:
            self._in_flight.take(1, size)
        future = lane.add(entry, given_id, timeout, is_unwatched=is_unwatched)
        if lanes.others:
            lanes.copy([entry], given_id, timeout)
        return future, lane

    # -- the end -----------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Return when all messages that were handed in have been answered.

        Raises:
            RpcError: one of those that `send_nowait` or `send_pipelined` took in since the last flush was not stored,
                whether or not its future said so already.
        """
        lanes = self._routing
        if lanes is None:
            return
        futures = lanes.unanswered()
        if futures:
            await asyncio.wait(futures)
        failure, lanes.terms.failure = lanes.terms.failure, None
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Flush, and take no more messages. Cancelled, what is not answered may or may not be stored.

        Raises:
            RpcError: as of `flush`.
        """
        self._is_closed = True
        try:
            await self.flush()
        finally:
            self._stop()

    def _stop(self) -> None:
        """Take no more messages and wait for nothing."""
        self._is_closed = True
        if self._routing is not None:
            self._routing.stop()

    # -- steps that all share ----------------------------------------------------------------------------

    def _enter(self, timeout: float | None) -> Routing:
        """Return the lanes, made by the first message.

        Raises:
            UsageError: the producer cannot be used, or not here, or not with this time limit.
        """
        if timeout is not None:
            _check_timeout(timeout)
        loop, lanes = asyncio._get_running_loop(), self._routing
        if lanes is not None and lanes.loop is loop and not self._is_closed:
            return lanes
        if self._is_closed:
            raise UsageError(f"the producer of topic {self.topic} is closed")
        if loop is None:
            raise UsageError("a Producer needs a running asyncio event loop; without one use mq.SyncProducer")
        if lanes is not None:
            raise UsageError(f"the producer of topic {self.topic} belongs to another event loop; each needs its own")
        terms = Terms(self._topic_bytes, self._in_flight, timeout_s=self._timeout_s, declares=self._declares)
        self._routing = Routing(terms, self._brokers, self._selector)
        return self._routing

    def _lane_of(self, lanes: Routing, key: str | None, messages: int, size: int) -> "Sender":
        """Return the lane for what has its room already, which is given back where the selector fails."""
        try:
            return lanes.only or lanes.choose(key)
        except UsageError:
            self._in_flight.give(messages, size)
            raise

    async def _take(self, messages: int, size: int, timeout: float | None) -> float | None:
        """Wait for room, and return the time limit that is left, or None for the usual one.

        Raises:
            RpcError: DEADLINE_EXCEEDED: there was none in time.
        """
        if not self._in_flight.is_full:
            self._in_flight.take(messages, size)
            return timeout
        until = time.monotonic() + (self._timeout_s if timeout is None else timeout)
        try:
            async with asyncio.timeout(min(until, ambient_deadline() or until) - time.monotonic()):
                await self._in_flight.wait(messages, size)
        except TimeoutError:
            text = f"the message for topic {self.topic} was not sent in time: too much is in flight, {self._in_flight}"
            raise not_run(Code.DEADLINE_EXCEEDED, text) from None
        return timeout and max(LEAST_S, until - time.monotonic())


def _check_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise UsageError(f"timeout={timeout!r}: a time limit is a number of seconds greater than 0")
    return timeout


def _raised(result: Receipt | BaseException) -> Receipt:
    if isinstance(result, BaseException):
        raise result
    return result
