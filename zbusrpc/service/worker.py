"""The worker: one service instance at its brokers (see `post.py`).

It subscribes to the service's topic with a window of `concurrency`, runs a task for each request (a thread for a
`def` method) and sends the reply. A handler is cancelled when its deadline passes or its caller gives the call up.

    start -> serve requests -> drain: leave the group, finish what has started within the grace time, return the rest

It serves at every broker that those named by the user tell of, also at those that come later.

Promises: every request is answered, returned or reported done exactly once per connection; what the broker gave to
a connection that was lost is cancelled, because the broker has already failed it or given it to another.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from zbusrpc.cluster.admission import Admission
from zbusrpc.cluster.topology import Topology
from zbusrpc.errors import Code, RpcError, ZbusError
from zbusrpc.message import Flag, Kind, Message, decode_headers
from zbusrpc.service.context import Context, ambient_deadline
from zbusrpc.service.definition import Definition
from zbusrpc.service.dispatcher import BoundMethod, Dispatcher, Invocation
from zbusrpc.service.interface import interface_of
from zbusrpc.service.post import Post
from zbusrpc.telemetry import current_call, get_logger, is_tracing, server_span
from zbusrpc.transport.address import Address, address_named
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.native import CLIENT_MESSAGE_BYTES_MAX
from zbusrpc.transport.topology import Topology as Told

SETTLE_S: Final = 1.0
"""How long the start waits for further brokers once one has taken the subscription."""
LEAVE_TIMEOUT_S: Final = 1.0
"""How long a broker may take to confirm that it gives this instance nothing more: requests may be on their way."""
POSTS_MAX: Final = 128
"""Brokers besides those that were named: each takes a file descriptor, and a tracker may tell of far more."""
_ERROR: Final = int(Flag.ERROR)
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
        hello: Hello | None = None,
    ) -> None:
        self.definition = definition
        self.concurrency = concurrency or definition.concurrency
        self._dispatcher = Dispatcher(definition, instance, dev=dev)
        self.interface = interface_of(definition)
        """What brokers are told of the methods, as JSON, or nothing."""
        self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix=definition.name)
        self._in_threads: set[asyncio.Future[Any]] = set()
        own = hello or Hello(name=definition.name, message_bytes_max=CLIENT_MESSAGE_BYTES_MAX)
        self._hello, self._seeds = own, dict.fromkeys(brokers)
        self._posts: dict[Address, Post] = {}
        self._tasks: dict[Post, asyncio.Task[None]] = {}
        self._attempts: dict[Post, asyncio.Task[ZbusError | None]] = {}
        self._topology = Topology()
        self._admission = Admission(self._seeds, log, "worker.broker_without_tls")
        self._is_closing = False
        self.refused: asyncio.Future[ZbusError | None] = asyncio.get_running_loop().create_future()
        """Ends with the reason when no broker knows the token any more: nothing is served then, for good."""
        self.has_stuck_threads = False
        """Whether `def` methods were still running when `close` gave up on them: they keep the process alive."""

    async def start(self) -> None:
        """Begin to serve; returns once all brokers that answer soon have taken the subscription, and one has.

        Raises:
            LinkError: no broker can be reached; nothing is left running.
            RpcError: the broker refused the subscription.
        """
        for seed in self._seeds:
            self._open(seed, is_seed=True)
        while running := [attempt for attempt in self._attempts.values() if not attempt.done()]:
            patience_s = SETTLE_S if self._is_serving else None
            done, _ = await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
        if not self._is_serving:
            errors = [attempt.result() for attempt in self._attempts.values()]
            await self.close()
            raise next(error for error in errors if error is not None)

    @property
    def _is_serving(self) -> bool:
        return any(post.is_subscribed for post in self._posts.values())

    async def close(self, grace_s: float = 0.0) -> None:
        """Leave the group, let what has started finish for `grace_s` seconds, return the rest, and end."""
        self._is_closing = True
        until = time.monotonic() + grace_s
        posts = list(self._posts.values())
        await asyncio.wait([post.leave() for post in posts], timeout=LEAVE_TIMEOUT_S)
        while (tasks := self._unfinished()) and time.monotonic() < until:
            await asyncio.wait(tasks, timeout=until - time.monotonic())
        for post in posts:
            post.return_all()
        if tasks := self._unfinished():
            await asyncio.wait(tasks, timeout=1.0)
        await asyncio.sleep(0)  # the last replies leave before the connection does
        ending = [*self._tasks.values(), *self._attempts.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.has_stuck_threads = bool(self._in_threads)

    # -- brokers -----------------------------------------------------------------------------------------

    def _open(self, broker: Address, *, is_seed: bool) -> None:
        """Begin to serve at a broker."""
        post = self._posts[broker] = Post(self, broker, self._hello, is_seed=is_seed)
        self._tasks[post] = task = asyncio.create_task(post.link.run())
        self._attempts[post] = asyncio.create_task(post.wait_settled())
        task.add_done_callback(self._note_end)

    def is_served(self, address: str) -> bool:
        """Whether a broker gives requests already."""
        return any(post.is_subscribed and post.address == address for post in self._posts.values())

    def told(self, post: Post, told: Told) -> None:
        """Take in what a broker tells of all brokers, and serve at new ones."""
        self._topology.told(post.address, told)
        self._follow_topology()

    def post_lost(self, post: Post) -> None:
        """Take note that a link is gone: another one may lead to the same broker."""
        if self._is_closing:
            return
        self._topology.lost(post.address)
        for other in self._posts.values():
            if other is not post and other.address == post.address:
                other.subscribe()
        self._follow_topology()

    def _follow_topology(self) -> None:
        """Serve at all brokers that there are, and let go of those that are gone."""
        if self._is_closing:
            return
        for broker, post in list(self._posts.items()):
            if not post.is_seed and post.link.connection is None and post.address not in self._topology.brokers:
                del self._posts[broker]
                self._attempts.pop(post).cancel()
                self._tasks.pop(post).cancel()
        there = {post.address for post in self._posts.values()}
        for address, broker_ in self._topology.brokers.items():
            if address in there or broker_.state != "live" or address_named(address) in self._posts:
                continue
            dialled = self._admission.admits(address)
            if dialled is not None and len(self._posts) - len(self._seeds) < POSTS_MAX:
                self._open(dialled, is_seed=False)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Tell when no broker is left: each of them has refused the token."""
        posts = list(self._posts.values())
        errors = [post.link.error for post in posts if post.link.is_refused]
        if errors and len(errors) == len(posts) and not self.refused.done():
            log.error("worker.token_refused", service=self.definition.name, reason=str(errors[0]))
            self.refused.set_result(errors[0])

    def _unfinished(self) -> list[asyncio.Task[None]]:
        return [running.task for post in self._posts.values() for running in post.running.values() if running.task]

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
