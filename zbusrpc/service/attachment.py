"""The attachment: a worker's place at one broker.

    link opens ──> SUBSCRIBE ──> requests, each a task ──> replies ──> leave, or the link is lost, until it is back

Whatever asks for a handler's end (its deadline, its caller, a lost link, the shutdown), it is cancelled once; its place
is free for the next request when it has really ended, a thread too.

Promises: every request is answered, returned or reported done exactly once per connection; what came by a connection
that was lost is cancelled.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import orjson

from zbusrpc import envelope
from zbusrpc.cluster.channel import Then
from zbusrpc.cluster.endpoint import Endpoint
from zbusrpc.cluster.timers import DeadlineTimer
from zbusrpc.errors import Code, RpcError, ZbusError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.outcome import knowing
from zbusrpc.service.context import Limit
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.native import payload_size

if TYPE_CHECKING:
    from zbusrpc.service.worker import Worker

FEW: Final = 2
"""With fewer calls running, a reply is sent at once: it would wait for nobody."""
_ERROR: Final = int(Flag.ERROR)
_NOT_RUN: Final = int(Flag.NOT_RUN)

log = get_logger("worker")
access_log = get_logger("access")
"""Its lines are all written, however many there are: see `log_lines.py`."""


class Running:
    """A request that is being worked on."""

    __slots__ = (
        "connection",
        "deadline",
        "flags",
        "has_started",
        "is_cancelled",
        "is_expired",
        "is_over",
        "is_returned",
        "is_stopped",
        "key",
        "limit",
        "method",
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
        self.method = ""
        """What runs, as soon as that is known."""
        self.limit: Limit | None = None
        """What limits the calls of a handler that can be told to stop; it is lifted for its clean-up."""
        self.has_started = False
        """Whether the handler has begun: one that is stopped before never does."""
        self.is_stopped = False
        """Whether it was told to end: by whatever it is, it is told once."""
        self.is_cancelled = False
        """The caller gave it up, or the connection that it came by is gone."""
        self.is_expired = False
        self.is_returned = False
        """The grace time is over."""
        self.is_over = False
        """Whether its end has been said."""


class Attachment:
    """A worker's place at one broker."""

    def __init__(self, worker: "Worker", endpoint: Endpoint) -> None:
        """Prepare; `attach` begins."""
        self._worker = worker
        self.endpoint = endpoint
        """The broker."""
        self.service = worker.definition.name
        self._topic = worker.definition.name.encode()
        self._loop = asyncio.get_running_loop()
        self._deadlines: DeadlineTimer[Running] = DeadlineTimer(self._expire)
        self.connection: Connection | None = None
        """By which it serves, or has asked to."""
        self.error: RpcError | None = None
        """Why the broker gives nothing by that connection."""
        self.is_subscribed = False
        """Whether the broker gives it requests."""
        self._is_leaving = self._is_asking_later = False
        self._window = 0
        """How many requests the broker was told to give at a time."""
        self._left: asyncio.Future[None] = self._loop.create_future()
        self.running: dict[tuple[int, int], Running] = {}
        self._left_over: set[Running] = set()
        """What came by a connection that is gone, and still cleans up."""

    @property
    def is_settling(self) -> bool:
        """Whether the broker has yet to say whether it gives requests."""
        return self.connection is not None and not self.is_subscribed and self.error is None

    # -- taking part -------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Have the broker give requests by the connection that there is now, unless it was asked for that."""
        connection = self.endpoint.connection
        if connection is None or connection is self.connection or self._is_leaving:
            return
        self.connection, self.error, self._window = connection, None, 0
        self.endpoint.channel.server = self
        self._ask()

    def _ask(self) -> None:
        """Ask for requests for all places that are free: what came by a lost connection may hold some."""
        connection, window = self.connection, self._worker.concurrency - len(self._left_over)
        self._is_asking_later = window < 1
        if connection is None or self._is_leaving or window <= self._window:
            return
        about = {} if self._window else self._about(connection)
        self._window = window
        body = orjson.dumps({"window": window, "about": about})
        asked = Then(lambda reply: self._note_subscription(reply, connection))
        message = Message(Kind.SUBSCRIBE, 0, self._topic, body)
        self.endpoint.channel.begin(message, asked, connection, is_urgent=True)

    def _about(self, connection: Connection) -> dict[str, Any]:
        """Return what the broker is told of the service."""
        definition, interface = self._worker.definition, self._worker.interface
        about: dict[str, Any] = {"version": definition.version, "methods": list(definition.methods)}
        about |= {"durable": True} if definition.durable else {}
        if len(interface) in range(1, connection.message_bytes_max // 2):
            about["interface"] = orjson.Fragment(interface)
        return about

    def _note_subscription(self, reply: Message, connection: Connection) -> None:
        if connection is not self.connection:
            return
        if reply.flags & _ERROR:
            self.error = envelope.error_of(reply)
            log.error("worker.refused", service=self.service, reason=self.error.message)
        elif not self.is_subscribed:
            self.is_subscribed = True
            log.debug("worker.subscribed", service=self.service, broker=self.endpoint.address)
        self._worker.attachment_changed()

    # -- what the channel calls --------------------------------------------------------------------------

    def message_received(self, message: Message) -> None:
        if message.kind == Kind.REQUEST:
            self._begin(message)
        else:
            running = self.running.get((message.session, message.id))
            if running is not None:
                self._cancel(running)

    def link_lost(self, error: ZbusError) -> None:
        self.connection, self.is_subscribed, self._is_asking_later, self._window = None, False, False, 0
        if self._is_leaving:
            self._note_left()
        else:
            log.warning("worker.link_lost", service=self.service, reason=str(error))
        lost, self.running = self.running, {}  # a broker that restarted counts sessions from 1 again
        self._left_over.update(lost.values())
        for running in lost.values():
            self._cancel(running)
        self._worker.attachment_changed()

    # -- requests ----------------------------------------------------------------------------------------

    def _begin(self, message: Message) -> None:
        if self._is_leaving:
            untouched = Message(Kind.RETURN, message.id, flags=_NOT_RUN, session=message.session)
            self._send(untouched, self.connection)
            return
        deadline = time.monotonic() + message.timeout_ms / 1000 if message.timeout_ms else None
        running = Running(message, deadline, self.connection)
        self.running[running.key] = running
        if deadline is not None:
            running.tick = self._deadlines.add(running, deadline)
        running.task = self._loop.create_task(self._work(running, message))

    async def _work(self, running: Running, message: Message) -> None:
        """Run one request and send what has to be said about it, whatever comes of it."""
        running.has_started = True
        began = time.monotonic() if self._worker.logs_calls else 0.0
        try:
            reply = await self._worker.run(running, message)
        except asyncio.CancelledError:
            reply = self._reply_to_cancelled(running)
        except BaseException as error:  # KeyboardInterrupt, or SystemExit from a model's validator
            failure = RpcError(Code.INTERNAL, f"{self._name_of(running)} failed: {type(error).__name__}")
            self._end(running, envelope.error_reply(message.id, failure, message.session))
            if isinstance(error, KeyboardInterrupt):  # somebody wants the program to end
                name = self._worker.definition.name
                log.exception("worker.interrupted", service=name, method=running.method, why="the method raised it")
                raise
            log.exception("worker.failed", service=self._worker.definition.name)
            return
        self._end(running, reply)
        if self._worker.logs_calls:
            self._log_call(running, reply, began)

    def _log_call(self, running: Running, reply: Message, began: float) -> None:
        """Log that a call has ended, and how: what people call an access log."""
        code = "CANCELED" if running.is_cancelled else envelope.code_of_reply(reply)
        code = "RETURNED" if reply.kind == Kind.RETURN else code
        ms = round((time.monotonic() - began) * 1000, 1)
        access_log.info("service.call", service=self._worker.definition.name, method=running.method, code=code, ms=ms)

    def _end(self, running: Running, reply: Message) -> None:
        """Forget a request and say the one thing that has to be said about it."""
        if running.is_over:
            return
        running.is_over = True
        if self.running.get(running.key) is running:
            del self.running[running.key]
        elif running in self._left_over:
            self._left_over.discard(running)
            if self._window or self._is_asking_later:
                self._ask()
        if running.tick is not None:
            running.tick.pop(running, None)
        if running.is_cancelled:
            session, message_id = running.key
            reply = Message(Kind.DONE, message_id, session=session)
        self._send(reply, running.connection)

    def _name_of(self, running: Running) -> str:
        """Return what is called, as far as that was read."""
        name = self._worker.definition.name
        return f"{name}.{running.method}" if running.method else name

    def _reply_to_cancelled(self, running: Running) -> Message:
        """Return what ends a call whose handler was stopped before it had a result."""
        name, may_have_run = self._worker.definition.name, running.has_started
        session, message_id = running.key
        if running.is_expired:
            where = "in the handler" if may_have_run else "before the handler began"
            text = f"the deadline of this call to {name} passed {where}"
            error = knowing(Code.DEADLINE_EXCEEDED, text, may_have_run=may_have_run)
        elif running.is_returned and (running.flags & Flag.IDEMPOTENT or not may_have_run):
            return Message(Kind.RETURN, message_id, flags=0 if may_have_run else _NOT_RUN, session=session)
        elif running.is_returned:
            text = f"the instance of {name} shut down during this call; it may have run"
            error = knowing(Code.UNAVAILABLE, text, may_have_run=True)
        else:
            if not running.is_stopped:
                log.error("service.cancelled_itself", service=name, method=running.method)
            error = RpcError(
                Code.INTERNAL, f"the handler of {self._name_of(running)} was cancelled from inside the service"
            )
        return envelope.error_reply(message_id, error, session)

    def _expire(self, running: Running) -> None:
        running.is_expired = True
        self._stop(running)

    def _cancel(self, running: Running) -> None:
        running.is_cancelled = True
        self._stop(running)

    def _stop(self, running: Running) -> None:
        """Cancel a request's task, once: a second cancellation would cut off the clean-up after the first."""
        if running.is_stopped:
            return
        assert running.task is not None
        running.is_stopped = True
        if running.limit is not None:
            running.limit.is_over = True
        running.task.cancel()
        if not running.has_started:
            self._end(running, self._reply_to_cancelled(running))

    def _send(self, message: Message, connection: Connection | None) -> None:
        """Send the end of a request to where the request came from; if that is gone, nobody wants it."""
        if connection is None or connection is not self.connection:
            return
        size = payload_size(message)
        if size > connection.message_bytes_max:
            what = f"the reply of {size} bytes exceeds the limit of {connection.message_bytes_max} bytes"
            message = envelope.error_reply(message.id, RpcError(Code.RESOURCE_EXHAUSTED, what), message.session)
        if len(self.running) < FEW:
            connection.send_now(message)
        else:
            connection.send(message)

    # -- the end -----------------------------------------------------------------------------------------

    def leave(self) -> asyncio.Future[None]:
        """Take nothing more: what still comes is returned at once. The future ends when nothing comes any more."""
        self._is_leaving = True
        if self.connection is not None:
            message, left = Message(Kind.UNSUBSCRIBE, 0, self._topic), Then(lambda _: self._note_left())
            self.endpoint.channel.begin(message, left, self.connection, is_urgent=True)
        else:
            self._note_left()
        return self._left

    def _note_left(self) -> None:
        if not self._left.done():
            self._left.set_result(None)

    def unfinished(self) -> list[Running]:
        """Return what has not ended."""
        return [*self.running.values(), *self._left_over]

    def return_all(self) -> None:
        """Stop what has not finished, and watch no deadline any more."""
        for running in list(self.running.values()):
            running.is_returned = True
            self._stop(running)
        self._deadlines.close()

    def abandon_all(self) -> None:
        """Say the end of what has not ended in spite of that, and cancel it again: nobody waits for it any more."""
        for running in self.unfinished():
            running.is_returned = True
            self._end(running, self._reply_to_cancelled(running))
            assert running.task is not None
            running.task.cancel()
