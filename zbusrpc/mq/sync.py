"""The blocking twins, for programs without an event loop: `SyncProducer`, `SyncConsumer`, and each function of `mq`.

All of them share the background thread of blocking calls (see `cluster/blocking.py`), and its connections. Threads may
share a producer or a consumer. In a running event loop they raise `UsageError`, and name what to await there.
"""

import asyncio
import concurrent.futures
import functools
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, cast

from pydantic import TypeAdapter
from typing_extensions import TypeVar, Unpack

from zbusrpc.cluster.blocking import run_blocking
from zbusrpc.cluster.selection import Selector
from zbusrpc.mq import admin
from zbusrpc.mq.consumer import FETCH_S, WINDOW, Consumer
from zbusrpc.mq.message import Received
from zbusrpc.mq.options import GroupOptions, StartAt
from zbusrpc.mq.outgoing import MessageOptions, Outgoing
from zbusrpc.mq.producer import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, TIMEOUT_S, Producer
from zbusrpc.mq.receipt import Receipt
from zbusrpc.service.context import Limit, ambient_deadline, ambient_limit

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", default=Any)
T = TypeVar("T", default=bytes)


def _block(
    name: str, instead: str, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run `function` in the background loop, with the deadline of this thread, and return its result."""
    deadline = ambient_deadline()

    async def run() -> R:
        ambient_limit.set(Limit(deadline))
        return await function(*args, **kwargs)

    return run_blocking(name, run, instead=instead)


def _twin(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Return the blocking twin of a function of `mq`."""
    name = function.__name__

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return _block(f"mq.sync.{name}", f"await mq.{name}(...)", function, *args, **kwargs)

    return call


declare = _twin(admin.declare)
declare_group = _twin(admin.declare_group)
topics = _twin(admin.topics)
topic = _twin(admin.topic)
remove = _twin(admin.remove)
empty = _twin(admin.empty)
pause = _twin(admin.pause)
resume = _twin(admin.resume)
seek = _twin(admin.seek)
peek = _twin(admin.peek)
dead_letters = _twin(admin.dead_letters)
retry_dead = _twin(admin.retry_dead)
purge_dead = _twin(admin.purge_dead)
stats = _twin(admin.stats)


class SyncProducer(Generic[A]):
    """A `Producer` whose methods block. In another process, forked or started, it has a connection of its own."""

    def __init__(
        self,
        topic: str,
        *,
        broker: str | None = None,
        body: "type[A] | TypeAdapter[A] | None" = None,
        timeout: float = TIMEOUT_S,
        declare: bool = True,
        in_flight_max: int = IN_FLIGHT_MAX,
        in_flight_bytes_max: int = IN_FLIGHT_BYTES_MAX,
        selector: str | Selector = "least-loaded",
    ) -> None:
        """Make a producer; the arguments and errors are those of `Producer`."""
        self._make: functools.partial[Producer[A]] = functools.partial(
            Producer,
            topic,
            broker=broker,
            body=body,
            timeout=timeout,
            declare=declare,
            in_flight_max=in_flight_max,
            in_flight_bytes_max=in_flight_bytes_max,
            selector=selector,
        )
        self._own, self._process = self._make(), os.getpid()
        self.topic = topic
        """Name of the topic."""

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(SyncProducer, *self._make.args, **self._make.keywords), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _block("SyncProducer", "async with Producer(...)", self._producer.__aexit__, kind, error, traceback)

    def send(self, body: A, *, timeout: float | None = None, **options: Unpack[MessageOptions]) -> Receipt:
        """Store a message, and return its receipt; see `Producer.send`."""
        return self._block("send", self._producer.send, body, timeout=timeout, **options)

    def send_nowait(
        self, body: A, *, timeout: float | None = None, **options: Unpack[MessageOptions]
    ) -> "concurrent.futures.Future[Receipt]":
        """Hand in a message, and return the future of its receipt; see `Producer.send_nowait`."""
        return self._block("send_nowait", self._send_nowait, body, timeout=timeout, **options)

    def send_pipelined(
        self, body: A, *, timeout: float | None = None, **options: Unpack[MessageOptions]
    ) -> "concurrent.futures.Future[Receipt]":
        """Hand in a message as soon as there is room, and return the future of its receipt; see `Producer`."""
        return self._block("send_pipelined", self._send_pipelined, body, timeout=timeout, **options)

    def send_batch(self, messages: "Sequence[A | Outgoing[A]]", *, timeout: float | None = None) -> list[Receipt]:
        """Store messages together or not at all, and return their receipts; see `Producer.send_batch`."""
        return self._block("send_batch", self._producer.send_batch, messages, timeout=timeout)

    def flush(self) -> None:
        """Return when all messages that were handed in have been answered; see `Producer.flush`."""
        self._block("flush", self._producer.flush)

    def close(self) -> None:
        """Flush, and take no more messages; see `Producer.close`."""
        self._block("close", self._producer.close)

    @property
    def _producer(self) -> Producer[A]:
        if self._process != os.getpid():
            self._own, self._process = self._make(), os.getpid()
        return self._own

    @staticmethod
    def _block(name: str, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
        return _block(f"SyncProducer.{name}", f"await Producer.{name}(...)", function, *args, **kwargs)

    async def _send_nowait(
        self, body: A, *, timeout: float | None, **options: Unpack[MessageOptions]
    ) -> "concurrent.futures.Future[Receipt]":
        return _as_concurrent(self._producer.send_nowait(body, timeout=timeout, **options))

    async def _send_pipelined(
        self, body: A, *, timeout: float | None, **options: Unpack[MessageOptions]
    ) -> "concurrent.futures.Future[Receipt]":
        return _as_concurrent(await self._producer.send_pipelined(body, timeout=timeout, **options))


class SyncReceivedMessage(Received[T]):
    """A `ReceivedMessage` whose methods block, and may be called in any thread."""

    __slots__ = ()

    def ack(self, *, confirmed: bool = False) -> None:
        """Say that the message is done; without `confirmed`, nothing is waited for. See `ReceivedMessage.ack`."""
        if confirmed:
            self._block("ack", self._confirm)
        else:
            self._subscription.loop.call_soon_threadsafe(self.ack_nowait)

    def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Say that the message could not be handled and is to come again; see `ReceivedMessage.nack`."""
        self._block("nack", _in_loop, functools.partial(self.nack_nowait, delay=delay, reason=reason))

    def reject(self, reason: str = "") -> None:
        """Say that the message will never be handled; see `ReceivedMessage.reject`."""
        self._block("reject", _in_loop, functools.partial(self.reject_nowait, reason))

    def release(self) -> None:
        """Give the message back as not begun; see `ReceivedMessage.release`."""
        self._block("release", _in_loop, self.release_nowait)

    def extend(self) -> None:
        """Say that work goes on; see `ReceivedMessage.extend`."""
        self._block("extend", _in_loop, self.extend_nowait)

    @staticmethod
    def _block(name: str, function: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kwargs: P.kwargs) -> None:
        _block(f"message.{name}", f"await message.{name}(...) of a Consumer", function, *args, **kwargs)


class SyncConsumer(Generic[T]):
    """A `Consumer` whose methods block: `for message in consumer`. It does not go along into a forked child."""

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
        """Make a consumer; the arguments and errors are those of `Consumer`."""
        self._consumer: Consumer[T] = Consumer(
            topic,
            group=group,
            body=body,
            broker=broker,
            window=window,
            start=start,
            declare=declare,
            update=update,
            auto_ack=auto_ack,
            **options,
        )
        self._consumer.message_type = SyncReceivedMessage
        self.topic = topic
        """Name of the topic."""

    @property
    def group(self) -> str:
        """Name of the group; of one that the broker names, nothing before it was joined."""
        return self._consumer.group

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Join the group, if that was not done yet; see `Consumer.start`."""
        self._block("start", self._consumer.start)

    def close(self) -> None:
        """Leave the group; again does nothing. See `Consumer.close`."""
        self._block("close", self._consumer.close)

    def __iter__(self) -> Iterator[SyncReceivedMessage[T]]:
        """Yield messages until the consumer is closed; see `Consumer`. In bulk, `fetch` takes less time."""
        while (message := self._block("__anext__", self._next)) is not None:
            yield message

    def fetch(self, count: int, *, timeout: float = FETCH_S) -> list[SyncReceivedMessage[T]]:
        """Return up to `count` messages, as soon as there is one; see `Consumer.fetch`."""
        return cast("list[SyncReceivedMessage[T]]", self._block("fetch", self._consumer.fetch, count, timeout=timeout))

    def run(self, handler: Callable[[SyncReceivedMessage[T]], object], *, concurrency: int = 16) -> None:
        """Give each message to a handler, in one of so many threads, until the consumer is closed; see `Consumer`."""
        self._block("run", self._consumer.run, cast("Any", handler), concurrency=concurrency)

    async def _next(self) -> SyncReceivedMessage[T] | None:
        try:
            return cast("SyncReceivedMessage[T]", await self._consumer.__anext__())
        except StopAsyncIteration:
            return None

    @staticmethod
    def _block(name: str, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
        return _block(f"SyncConsumer.{name}", f"await Consumer.{name}(...)", function, *args, **kwargs)


async def _in_loop(act: Callable[[], None]) -> None:
    """Do what must be done in the event loop."""
    act()


def _as_concurrent(future: "asyncio.Future[Receipt]") -> "concurrent.futures.Future[Receipt]":
    """Return a future that threads can wait for."""
    result: concurrent.futures.Future[Receipt] = concurrent.futures.Future()

    def copy(done: "asyncio.Future[Receipt]") -> None:
        error = done.exception()
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(done.result())

    future.add_done_callback(copy)
    return result
