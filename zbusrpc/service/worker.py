"""The worker: one service instance at its brokers.

It subscribes to the service's topic with a window of `concurrency`, runs a task for each request (a thread for a
`def` method) and sends the reply. A handler is cancelled when its deadline passes or its caller gives the call up.

    start -> serve requests -> drain: leave the group, finish what has started within the grace time, return the rest

Promises: every request is answered, returned or reported done exactly once per connection; what the broker gave to
a connection that was lost is cancelled, because the broker has already failed it or given it to another.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import orjson

from zbusrpc import envelope
from zbusrpc.cluster.timers import DeadlineTimer
from zbusrpc.errors import Code, RpcError, ZbusError
from zbusrpc.message import Flag, Kind, Message, decode_headers
from zbusrpc.service.context import Context, ambient_deadline
from zbusrpc.service.definition import Definition
from zbusrpc.service.dispatcher import BoundMethod, Dispatcher, Invocation
from zbusrpc.service.interface import interface_of
from zbusrpc.telemetry import current_call, get_logger, is_tracing, server_span
from zbusrpc.transport.address import Address
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.link import Link
from zbusrpc.transport.native import CLIENT_MESSAGE_BYTES_MAX, payload_size

FEW: Final = 2
"""With fewer calls running, a reply is sent at once: it would wait for nobody."""
LEAVE_TIMEOUT_S: Final = 1.0
"""How long a broker may take to confirm that it gives this instance nothing more: requests may be on their way."""
_ERROR: Final = int(Flag.ERROR)
_REPLY: Final = int(Kind.REPLY)
_SUBSCRIBE_ID: Final = 1
_UNSUBSCRIBE_ID: Final = 2

log = get_logger("worker")


class Running:
    """A request that is being worked on."""

    __slots__ = (
        "connection",
        "deadline",
        "flags",
        "has_started",
        "is_cancelled",
        "is_expired",
        "is_returned",
        "key",
        "task",
        "tick",
    )

    def __init__(self, message: Message, deadline: float | None, connection: Connection | None) -> None:
        self.key = (message.session, message.id)
        self.connection = connection
        """Where it came from: only there its end means something."""
        self.flags = message.flags
        self.deadline = deadline
        self.tick: dict[Running, None] | None = None
        """Where its deadline is watched."""
        self.task: asyncio.Task[None] | None = None
        self.has_started = False
        """Whether the task has begun: one that is cancelled before never does."""
        self.is_cancelled = False
        """The caller gave it up, or the connection that it came by is gone."""
        self.is_expired = False
        self.is_returned = False
        """The grace time is over."""


class Worker:
    """One service instance, serving at each of its brokers."""

    def __init__(
        self,
        definition: Definition,
        instance: object,
        brokers: tuple[Address, ...],
        *,
        concurrency: int | None = None,
        dev: bool = False,
        hello: Hello | None = None,
    ) -> None:
        self.definition = definition
        self.concurrency = concurrency or definition.concurrency
        self._dispatcher = Dispatcher(definition, instance, dev=dev)
        self.interface = interface_of(definition)
        """What brokers are told of the methods."""
        self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix=definition.name)
        self._in_threads: set[asyncio.Future[Any]] = set()
        own = hello or Hello(name=definition.name, message_bytes_max=CLIENT_MESSAGE_BYTES_MAX)
        self._posts = [_Post(self, broker, own) for broker in brokers]
        self._tasks: list[asyncio.Task[None]] = []
        self.refused: asyncio.Future[ZbusError | None] = asyncio.get_running_loop().create_future()
        """Ends with the reason when no broker knows the token any more: nothing is served then, for good."""
        self.has_stuck_threads = False
        """Whether `def` methods were still running when `close` gave up on them: they keep the process alive."""

    async def start(self) -> None:
        """Begin to serve; returns once a broker has taken the subscription.

        Raises:
            LinkError: no broker can be reached; nothing is left running.
            RpcError: the broker refused the subscription.
        """
        self._tasks = [asyncio.create_task(post.link.run()) for post in self._posts]
        for task in self._tasks:
            task.add_done_callback(self._note_end)
        attempts = [asyncio.create_task(post.wait_subscribed()) for post in self._posts]
        await asyncio.wait(attempts)
        errors = [attempt.result() for attempt in attempts]
        if all(error is not None for error in errors):
            await self.close()
            raise next(error for error in errors if error is not None)

    async def close(self, grace_s: float = 0.0) -> None:
        """Leave the group, let what has started finish for `grace_s` seconds, return the rest, and end."""
        until = time.monotonic() + grace_s
        await asyncio.wait([post.leave() for post in self._posts], timeout=LEAVE_TIMEOUT_S)
        while (tasks := self._unfinished()) and time.monotonic() < until:
            await asyncio.wait(tasks, timeout=until - time.monotonic())
        for post in self._posts:
            post.return_all()
        if tasks := self._unfinished():
            await asyncio.wait(tasks, timeout=1.0)
        await asyncio.sleep(0)  # the last replies leave before the connection does
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.has_stuck_threads = bool(self._in_threads)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Tell when no broker is left: each of them has refused the token."""
        errors = [post.link.error for post in self._posts if post.link.is_refused]
        if len(errors) == len(self._posts) and not self.refused.done():
            log.error("worker.token_refused", service=self.definition.name, reason=str(errors[0]))
            self.refused.set_result(errors[0])

    def _unfinished(self) -> list[asyncio.Task[None]]:
        return [running.task for post in self._posts for running in post.running.values() if running.task]

    async def run(self, invocation: Invocation, message: Message, deadline: float | None) -> Message:
        """Run one request's handler and return the reply.

        Raises:
            asyncio.CancelledError: the handler was cancelled; there is no reply.
        """
        bound = invocation.bound
        name = bound.method.name if bound else ""
        current_call.set(Context(message, self.definition.name, name, deadline))
        ambient_deadline.set(deadline)
        flags = 0
        try:
            if bound is None or invocation.error is not None:
                raise invocation.error or RpcError(Code.INTERNAL, "nothing to run")
            if is_tracing():
                value = await self._run_traced(bound, invocation, message)
            elif bound.is_async:
                value = await bound.function(*invocation.args, **invocation.kwargs)
            else:
                value = await self._run_in_thread(bound.function, invocation)
            body = self._dispatcher.result_body(invocation, value)
        except Exception as error:
            body, flags = self._dispatcher.error_body(invocation, error), _ERROR
        return Message(_REPLY, message.id, b"", body, b"", flags, 0, message.session)

    def prepare(self, message: Message) -> Invocation:
        """Return what a request asks for."""
        return self._dispatcher.prepare(message.body, message.header_bytes)

    async def _run_traced(self, bound: BoundMethod, invocation: Invocation, message: Message) -> Any:
        """Run a method within a span that continues the caller's trace."""
        with server_span(self.definition.name, bound.method.name, decode_headers(message.header_bytes)):
            if bound.is_async:
                return await bound.function(*invocation.args, **invocation.kwargs)
            return await self._run_in_thread(bound.function, invocation)

    async def _run_in_thread(self, function: Callable[..., Any], invocation: Invocation) -> Any:
        """Run a `def` method in a thread. A thread cannot be stopped: cancelled, this still waits for its end."""
        run = contextvars.copy_context().run
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: run(function, *invocation.args, **invocation.kwargs)
        )
        self._in_threads.add(future)
        future.add_done_callback(self._in_threads.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # has been seen: nobody waits for it any more
            raise


class _Post:
    """A worker's place at one broker."""

    def __init__(self, worker: Worker, broker: Address, hello: Hello) -> None:
        self._worker = worker
        self._topic = worker.definition.name.encode()
        self._loop = asyncio.get_running_loop()
        self._deadlines: DeadlineTimer[Running] = DeadlineTimer(self._expire)
        self._is_leaving = False
        self._subscribed: asyncio.Future[ZbusError | None] = self._loop.create_future()
        self._left: asyncio.Future[None] = self._loop.create_future()
        self.running: dict[tuple[int, int], Running] = {}
        self.link = Link((broker,), self, hello)

    async def wait_subscribed(self) -> ZbusError | None:
        """Return None once the broker has taken the subscription, or why it cannot be reached or refused."""
        await self.link.wait_attempt()
        if self.link.connection is None:
            return self.link.error
        return await self._subscribed

    # -- what the link calls -----------------------------------------------------------------------------

    def link_opened(self, theirs: Hello) -> None:
        if self._is_leaving:
            return
        about: dict[str, Any] = {
            "version": self._worker.definition.version,
            "methods": list(self._worker.definition.methods),
        }
        about |= {"durable": True} if self._worker.definition.durable else {}
        about |= {"interface": self._worker.interface} if self._worker.interface is not None else {}
        body = orjson.dumps({"window": self._worker.concurrency, "about": about})
        self.link.send(Message(Kind.SUBSCRIBE, _SUBSCRIBE_ID, self._topic, body))

    def link_lost(self, error: ZbusError) -> None:
        if self._is_leaving:
            self._note_left()
        else:
            log.warning("worker.link_lost", service=self._worker.definition.name, reason=str(error))
        lost, self.running = self.running, {}  # a broker that restarted counts sessions from 1 again
        for running in lost.values():
            self._cancel(running)

    def congestion_changed(self, is_congested: bool) -> None:
        """Do nothing: what a service has to send is bounded by its window."""

    def message_received(self, message: Message) -> None:
        if message.kind == Kind.REQUEST:
            self._begin(message)
        elif message.kind == Kind.CANCEL:
            running = self.running.get((message.session, message.id))
            if running is not None:
                self._cancel(running)
        elif message.kind == Kind.REPLY and message.id == _SUBSCRIBE_ID:
            self._note_subscription(message)
        elif message.kind == Kind.REPLY and message.id == _UNSUBSCRIBE_ID:
            self._note_left()

    def _note_subscription(self, message: Message) -> None:
        refusal: ZbusError | None = None
        if message.flags & _ERROR:
            error = envelope.parse_error(message.body)
            refusal = RpcError(error.code, error.message, error.details)
            log.error("worker.refused", service=self._worker.definition.name, reason=error.message)
        else:
            log.debug("worker.subscribed", service=self._worker.definition.name, broker=self.link.name)
        if not self._subscribed.done():
            self._subscribed.set_result(refusal)

    # -- requests ----------------------------------------------------------------------------------------

    def _begin(self, message: Message) -> None:
        if self._is_leaving:
            self._send(Message(Kind.RETURN, message.id, session=message.session), self.link.connection)
            return
        deadline = time.monotonic() + message.timeout_ms / 1000 if message.timeout_ms else None
        running = Running(message, deadline, self.link.connection)
        self.running[running.key] = running
        if deadline is not None:
            running.tick = self._deadlines.add(running, deadline)
        running.task = self._loop.create_task(self._work(running, message))

    async def _work(self, running: Running, message: Message) -> None:
        """Run one request and send what has to be said about it."""
        running.has_started = True
        try:
            reply = await self._worker.run(self._worker.prepare(message), message, running.deadline)
        except asyncio.CancelledError:
            reply = self._reply_to_cancelled(running)
        except BaseException as error:  # such as SystemExit: its caller gets an answer before it goes its way
            failure = RpcError(Code.INTERNAL, f"the handler raised {type(error).__name__}")
            self._end(running, _error_reply(message.id, message.session, failure))
            raise
        self._end(running, reply)

    def _end(self, running: Running, reply: Message) -> None:
        """Forget a request and say the one thing that has to be said about it."""
        if self.running.get(running.key) is running:
            del self.running[running.key]
        if running.tick is not None:
            running.tick.pop(running, None)
        if running.is_cancelled:
            session, message_id = running.key
            reply = Message(Kind.DONE, message_id, session=session)
        self._send(reply, running.connection)

    def _reply_to_cancelled(self, running: Running) -> Message:
        """Return what ends a call whose handler was stopped before it had a result."""
        name = self._worker.definition.name
        session, message_id = running.key
        if running.is_expired:
            error = RpcError(Code.DEADLINE_EXCEEDED, f"the deadline of this call to {name} passed in the handler")
        elif running.is_returned and running.flags & Flag.IDEMPOTENT:
            return Message(Kind.RETURN, message_id, session=session)
        elif running.is_returned:
            error = RpcError(
                Code.UNAVAILABLE,
                f"the instance of {name} shut down during this call; it may have run",
                {"may_have_run": True},
            )
        else:  # the handler cancelled itself
            error = RpcError(Code.INTERNAL, f"the handler of {name} was cancelled from inside the service")
        return _error_reply(message_id, session, error)

    def _expire(self, running: Running) -> None:
        running.is_expired = True
        self._stop(running)

    def _cancel(self, running: Running) -> None:
        running.is_cancelled = True
        self._stop(running)

    def _stop(self, running: Running) -> None:
        assert running.task is not None
        running.task.cancel()
        if not running.has_started:
            self._end(running, self._reply_to_cancelled(running))

    def _send(self, message: Message, connection: Connection | None) -> None:
        """Send the end of a request to where the request came from; if that is gone, nobody wants it."""
        if connection is None or connection is not self.link.connection:
            return
        size = payload_size(message)
        if size > connection.message_bytes_max:
            what = f"the reply of {size} bytes exceeds the limit of {connection.message_bytes_max} bytes"
            message = _error_reply(message.id, message.session, RpcError(Code.RESOURCE_EXHAUSTED, what))
        if len(self.running) < FEW:
            connection.send_now(message)
        else:
            connection.send(message)

    # -- the end -----------------------------------------------------------------------------------------

    def leave(self) -> asyncio.Future[None]:
        """Take nothing more: what still comes is returned at once. The future ends when nothing comes any more."""
        self._is_leaving = True
        connection = self.link.connection
        if connection is not None:
            connection.send(Message(Kind.UNSUBSCRIBE, _UNSUBSCRIBE_ID, self._topic))
        else:
            self._note_left()
        return self._left

    def _note_left(self) -> None:
        if not self._left.done():
            self._left.set_result(None)

    def return_all(self) -> None:
        """Stop what has not finished, and watch no deadline any more."""
        for running in list(self.running.values()):
            running.is_returned = True
            self._stop(running)
        self._deadlines.close()


def _error_reply(message_id: int, session: int, error: RpcError) -> Message:
    return Message(_REPLY, message_id, b"", envelope.error_body(error), b"", _ERROR, 0, session)
