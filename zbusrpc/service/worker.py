"""The worker: one service instance at its brokers (see `attachment.py`).

It subscribes to the service's topic with a window of `concurrency`, runs a task for each request (a thread for a
`def` method) and sends the reply. A handler is cancelled when its deadline passes or its caller gives the call up.

    start -> serve requests -> drain: leave the group, finish what has started within the grace time, return the rest

Each handler is cancelled once, so that its clean-up may wait for something. After the grace time there is CLEANUP_S
more for that; what has not ended then is cancelled a second time, answered, and given up.

It serves at every broker that those named by the user tell of, also at those that come later.

Promises: every request is answered, returned or reported done exactly once per connection; what the broker gave to
a connection that was lost is cancelled, because the broker has already failed it or given it to another.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from zbusrpc.cluster.endpoint import Endpoint
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.errors import Code, LinkError, RpcError, ZbusError
from zbusrpc.message import Flag, Kind, Message, decode_headers
from zbusrpc.service.attachment import Attachment, Running
from zbusrpc.service.context import Context, ambient_limit
from zbusrpc.service.definition import Definition
from zbusrpc.service.dispatcher import BoundMethod, Dispatcher, Invocation
from zbusrpc.service.interface import interface_of
from zbusrpc.service.watch import Watch, watch_of_loop
from zbusrpc.telemetry import current_call, get_logger, is_tracing, server_span
from zbusrpc.transport.address import Address
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.native import CLIENT_MESSAGE_BYTES_MAX

SETTLE_S: Final = 1.0
"""How long the start waits for further brokers once one has taken the subscription."""
LEAVE_TIMEOUT_S: Final = 1.0
"""How long a broker may take to confirm that it gives this instance nothing more: requests may be on their way."""
CLEANUP_S: Final = 2.0
"""How long handlers that were cancelled at the end of the grace time may clean up."""
GIVE_UP_S: Final = 0.5
"""How long they may take to end once they were cancelled a second time."""
LATE_S: Final = 0.01
"""A nested call that has the deadline of its handler's call may find it passed a little earlier: clocks have ticks."""
PROBE_S: Final = 5.0
"""How often the brokers are asked whether they are there, where there are several: services mostly wait. Callers have
gone on to another broker long before; here a connection that is dead is to be noticed, and none given up in haste,
as what came by it ends with it."""
_ERROR: Final = int(Flag.ERROR)
_REFUSED: Final = int(Flag.ERROR | Flag.NOT_RUN)
_REPLY: Final = int(Kind.REPLY)

log = get_logger("worker")


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
        logs_calls: bool = False,
        hello: Hello | None = None,
    ) -> None:
        self.definition = definition
        self.concurrency = concurrency or definition.concurrency
        self.logs_calls = logs_calls
        """Whether the end of each call is a line of the log."""
        self._dispatcher = Dispatcher(definition, instance, dev=dev)
        self.interface = interface_of(definition)
        """What brokers are told of the methods, as JSON, or nothing."""
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix=definition.name)
        self._in_threads: set[asyncio.Future[Any]] = set()
        own = hello or Hello(name=definition.name, message_bytes_max=CLIENT_MESSAGE_BYTES_MAX)
        self._hello, self._seeds = own, brokers
        self._fleet: Fleet | None = None
        self._attachments: dict[Endpoint, Attachment] = {}
        self._changed = asyncio.Event()
        self._is_closing = False
        self._watch: Watch | None = None
        self.refused: asyncio.Future[ZbusError | None] = self._loop.create_future()
        """Ends with the reason when no broker knows the token any more: nothing is served then, for good."""
        self.has_stuck_calls = False
        """Whether handlers were still running when `close` gave up on them: they keep the process alive."""

    async def start(self, *, waits: bool = False) -> None:
        """Begin to serve; returns once all brokers that answer soon have taken the subscription, and one has.

        Args:
            waits: Whether to wait for the first broker for as long as it takes.

        Raises:
            LinkError: no broker can be reached, or none knows the token; nothing is left running.
            RpcError: the broker refused the subscription.
        """
        self._fleet = fleet = Fleet(self._seeds, hello=self._hello, probe_s=PROBE_S)
        fleet.listeners[self] = self._attach_all
        try:
            while not self._is_serving:
                self._changed.clear()
                if not self._attachments:
                    await self._attach_first(fleet, waits=waits)
                await self._changed.wait()
                self._check_refusals(fleet)
        except ZbusError:
            await self.close()
            raise
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await fleet.settle()
                while any(attachment.is_settling for attachment in self._attachments.values()):
                    self._changed.clear()
                    await self._changed.wait()
        self._watch = watch_of_loop()
        self._watch.enter(self)

    async def _attach_first(self, fleet: Fleet, *, waits: bool) -> None:
        """Ask a broker for requests once one can be reached.

        Raises:
            LinkError: none can, or none knows the token, or there are trackers only.
        """
        name = self.definition.name
        try:
            endpoint = await self._wait_first(fleet, wait_for_ready=False)
        except ZbusError as error:
            if not waits or fleet.is_refused:
                raise
            log.warning("worker.waits_for_broker", service=name, reason=str(error))
            endpoint = await self._wait_first(fleet, wait_for_ready=True)
        if not self._attachments and endpoint.is_mere_tracker:
            reason = LinkError(f"tracker {endpoint.address} takes no services itself, and no broker reports to it")
            if not waits:
                raise reason
            log.warning("worker.waits_for_broker", service=name, reason=str(reason))
            await self._changed.wait()
        elif not self._attachments:
            self._attach(endpoint)

    async def _wait_first(self, fleet: Fleet, *, wait_for_ready: bool) -> Endpoint:
        """Return a broker: after one try, or once one can be reached.

        Raises:
            LinkError: none can, or none knows the token.
        """
        try:
            return await fleet.wait_endpoint(self.definition.name.encode(), None, wait_for_ready=wait_for_ready)
        except RpcError as error:
            raise _reason(fleet, error) from None

    def _check_refusals(self, fleet: Fleet) -> None:
        """Raise the reason where all brokers that there are refuse."""
        errors = [attachment.error for attachment in self._attachments.values()]
        if errors and None not in errors and not fleet.is_linking():
            raise next(error for error in errors if error is not None)

    @property
    def _is_serving(self) -> bool:
        return any(attachment.is_subscribed for attachment in self._attachments.values())

    async def close(self, grace_s: float = 0.0) -> None:
        """Leave the group, let what has started finish for `grace_s` seconds, return the rest, and end.

        What does not end although it was cancelled is given up: see `has_stuck_calls`.
        """
        self._is_closing = True
        if self._fleet is not None:
            self._fleet.listeners.pop(self, None)
        watch, self._watch = self._watch, None
        until = time.monotonic() + grace_s
        attachments = list(self._attachments.values())
        if attachments:
            await asyncio.wait([attachment.leave() for attachment in attachments], timeout=LEAVE_TIMEOUT_S)
        await self._wait_unfinished(until)
        for attachment in attachments:
            attachment.return_all()
        if stuck := await self._wait_unfinished(time.monotonic() + CLEANUP_S):
            for attachment in attachments:
                attachment.abandon_all()
            _, stuck = await asyncio.wait(stuck, timeout=GIVE_UP_S)
        await asyncio.sleep(0)  # the last replies leave before the connection does
        if self._fleet is not None:
            await self._fleet.close()
        if watch is not None:
            watch.leave(self)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.has_stuck_calls = bool(stuck or self._in_threads)

    async def _wait_unfinished(self, until: float) -> set[asyncio.Task[None]]:
        """Wait for all handlers to end, and return the tasks of those that have not in time."""
        while (tasks := {running.task for running in self.unfinished() if running.task}) and time.monotonic() < until:
            await asyncio.wait(tasks, timeout=until - time.monotonic())
        return tasks

    def unfinished(self) -> list[Running]:
        """Return the requests whose handlers have not ended."""
        return [running for attachment in list(self._attachments.values()) for running in attachment.unfinished()]

    # -- brokers -----------------------------------------------------------------------------------------

    def _attach_all(self) -> None:
        """Serve at all brokers that there are, and let go of those that are gone."""
        fleet = self._fleet
        if self._is_closing or fleet is None:
            return
        for choice in fleet.everyone():
            self._attach(choice.endpoint)
        for endpoint, attachment in list(self._attachments.items()):
            if not fleet.knows(endpoint) and not attachment.unfinished():
                del self._attachments[endpoint]
        if fleet.is_refused and not self._is_serving and not self.refused.done():
            self.refused.set_result(reason := _reason(fleet))
            log.error("worker.token_refused", service=self.definition.name, reason=str(reason))
        self._changed.set()

    def _attach(self, endpoint: Endpoint) -> None:
        """Ask a broker for requests, unless another link leads to it."""
        attachments = self._attachments.values()
        if any(attachment.connection and attachment.endpoint.address == endpoint.address for attachment in attachments):
            return
        attachment = self._attachments.get(endpoint)
        if attachment is None:
            attachment = self._attachments[endpoint] = Attachment(self, endpoint)
        attachment.attach()

    def attachment_changed(self) -> None:
        """Take note that a broker gives requests, or does no more: another link may lead to it."""
        self._attach_all()

    async def run(self, running: Running, message: Message) -> Message:
        """Run one request's handler and return the reply.

        Raises:
            asyncio.CancelledError: the handler was cancelled; there is no reply.
            KeyboardInterrupt: somebody wants the program to end.
        """
        invocation = self._dispatcher.prepare(message.body, message.header_bytes)
        bound = invocation.bound
        running.method = method = invocation.method
        call = Context(message, self.definition.name, method, running.deadline)
        current_call.set(call)
        if bound is None or invocation.error is not None:
            error = invocation.error or RpcError(Code.INTERNAL, "nothing to run")
            body, flags = self._dispatcher.error_body(invocation, error), _REFUSED
            return Message(_REPLY, message.id, b"", body, b"", flags, 0, message.session)
        ambient_limit.set(call)
        flags = 0
        try:
            if is_tracing():
                value = await self._run_traced(bound, invocation, running, message)
            elif bound.is_async:
                running.limit = call
                value = await bound.function(*invocation.args, **invocation.kwargs)
            else:
                value = await self._run_in_thread(bound.function, invocation, running)
            body = self._dispatcher.result_body(invocation, value)
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not self._loop.is_running():
                raise  # the loop is gone, and this coroutine is being cleared away
            is_late = running.deadline is not None and time.monotonic() >= running.deadline - LATE_S
            body, flags = self._dispatcher.error_body(invocation, error, is_late=is_late), _ERROR
        finally:
            call.is_over = True
        return Message(_REPLY, message.id, b"", body, b"", flags, 0, message.session)

    async def _run_traced(self, bound: BoundMethod, invocation: Invocation, running: Running, message: Message) -> Any:
        """Run a method within a span that continues the caller's trace."""
        with server_span(self.definition.name, bound.method.name, decode_headers(message.header_bytes)):
            if not bound.is_async:
                return await self._run_in_thread(bound.function, invocation, running)
            running.limit = ambient_limit.get()
            return await bound.function(*invocation.args, **invocation.kwargs)

    async def _run_in_thread(self, function: Callable[..., Any], invocation: Invocation, running: Running) -> Any:
        """Run a `def` method in a thread. A thread cannot be stopped: cancelled, this still waits for its end."""
        waiting = self._threads.submit(_outcome, contextvars.copy_context(), function, invocation)
        future = asyncio.wrap_future(waiting)
        self._in_threads.add(future)
        future.add_done_callback(self._in_threads.discard)
        try:
            value, error = await asyncio.shield(future)
        except asyncio.CancelledError:
            if waiting.cancel():  # no thread was free until now
                running.has_started = False
            else:
                await asyncio.wait([future])
            raise
        if error is None:
            return value
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise error
        # What would end a coroutine or a task, and not be an error in it: in a thread it is one as any other.
        raise RuntimeError(f"the method raised {type(error).__name__}") from error


def _reason(fleet: Fleet, error: RpcError | None = None) -> ZbusError:
    """Return why the brokers that the user has named cannot be reached."""
    reasons = (seed.channel.error for seed in fleet.seeds)
    return next((reason for reason in reasons if reason is not None), LinkError(error.message if error else ""))


def _outcome(
    context: contextvars.Context, function: Callable[..., Any], invocation: Invocation
) -> tuple[Any, BaseException | None]:
    """Run a function in a thread, and return what it returned or raised: no future takes every exception."""
    try:
        return context.run(function, *invocation.args, **invocation.kwargs), None
    except BaseException as error:
        return None, error
