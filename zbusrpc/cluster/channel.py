"""A channel: requests to one broker out, their replies back by number, and what else comes by that link.

A `Channel` belongs to one event loop; all proxies, producers and consumers there share it (see `fleet.py`). A call
whose connection is lost fails with UNAVAILABLE, saying that it may have run.
"""

import asyncio
import os
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from zbusrpc.cluster.loops import begin
from zbusrpc.cluster.policy import lost
from zbusrpc.cluster.timers import DeadlineTimer
from zbusrpc.errors import Code, LinkError, RpcError, ZbusError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.outcome import knowing, not_run
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.backoff import CAP_S
from zbusrpc.transport.connection import Connection
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.link import Link
from zbusrpc.transport.native import CLIENT_MESSAGE_BYTES_MAX, HEADERS_BYTES_MAX, TIMEOUT_MS_MAX, payload_size

FEW: Final = 2
"""Up to so many calls under way, a request is sent at once: it would wait for nobody."""
VERDICT_S: Final = 1.0
"""So much longer than its deadline a call that waits for an instance waits for the broker's word on it. The broker ends
it at that time, and knows whether it has run, and what it waited for; this side would have to guess."""
_CANCEL: Final = int(Kind.CANCEL)
_REQUEST: Final = int(Kind.REQUEST)
_REPLY: Final = int(Kind.REPLY)
_OF_SERVERS: Final = (_REQUEST, _CANCEL)
_WAIT_FOR_READY: Final = int(Flag.WAIT_FOR_READY)

log = get_logger("caller")


class Waiter(Protocol):
    """What is given a reply: a future, or something that knows at once what to do with it."""

    def done(self) -> bool:
        """Say whether the reply is not wanted any more."""
        ...

    def set_result(self, result: Message, /) -> None:
        """The reply came; it may be an error."""

    def set_exception(self, exception: BaseException, /) -> None:
        """There will be no reply: the connection was lost, or the deadline passed."""


class Then:
    """A waiter that does something with the reply, which it always wants; none comes by a link that is lost."""

    def __init__(self, then: Callable[[Message], None]) -> None:
        self._then = then

    def done(self) -> bool:
        """Say no."""
        return False

    def set_result(self, reply: Message, /) -> None:
        """Do it."""
        self._then(reply)

    def set_exception(self, exception: BaseException, /) -> None:
        """Do nothing: whoever watches the link is told."""


class Subscriber(Protocol):
    """What is given the messages of a subscription."""

    def message_received(self, message: Message) -> None:
        """A DELIVER came, or a LEAVE."""

    def link_lost(self, error: ZbusError) -> None:
        """The subscription has ended with its connection."""


class Server(Protocol):
    """What is given the requests of others that come by the present connection."""

    def message_received(self, message: Message) -> None:
        """A REQUEST came, or a CANCEL."""

    def link_lost(self, error: ZbusError) -> None:
        """The connection is gone, and all that came by it with it."""


class Watcher(Protocol):
    """What is told of a channel's link."""

    def channel_opened(self, theirs: Hello) -> None:
        """There is a connection."""

    def channel_lost(self, error: ZbusError) -> None:
        """It is gone; those who wait for replies are told after this."""

    def topology_told(self, message: Message) -> None:
        """A TOPOLOGY came."""

    def congestion_changed(self) -> None:
        """The broker reads too slowly, or has caught up."""

    def channel_ended(self) -> None:
        """It will not be connected any more."""


class Channel:
    """The calls of one event loop to one broker."""

    def __init__(
        self, broker: Address, watcher: Watcher, *, hello: Hello | None = None, wait_s_max: float = CAP_S
    ) -> None:
        """Begin to open a connection.

        Args:
            broker: Where it is.
            watcher: Who is told of the link.
            hello: What is said first; None for the name of the program.
            wait_s_max: Longest wait between two dials.
        """
        self.loop = asyncio.get_running_loop()
        self.is_closed = False
        """Whether a new channel is to be made: after a fork, or at the end of the loop."""
        self.subscribers: dict[int, Subscriber] = {}
        """Who consumes by the present connection, by the number of the subscription."""
        self.server: Server | None = None
        """Who serves by the present connection."""
        self._pending: dict[int, Waiter] = {}
        self._deadlines: DeadlineTimer[int] = DeadlineTimer(self._expire)
        self._writers: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        """Calls that wait until the broker has read enough of those before them."""
        self._last_id = 0
        self._watcher = watcher
        self._link = Link((broker,), self, hello or _hello_of_program(), wait_s_max=wait_s_max)
        self._task = begin(self.loop, self._link.run())
        self._task.add_done_callback(self._note_end)

    @property
    def connection(self) -> Connection | None:
        """The open connection, or None while there is none."""
        return self._link.connection

    @property
    def error(self) -> ZbusError | None:
        """Why there is no connection, where it is known."""
        return self._link.error

    @property
    def is_over(self) -> bool:
        """Whether this caller will not be connected any more; who calls again makes another one."""
        return self.is_closed or self._link.is_refused

    @property
    def is_refused(self) -> bool:
        """Whether the broker does not know the token."""
        return self._link.is_refused

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody waits for a reply, for messages or for requests."""
        return bool(self._pending or self.subscribers or self.server is not None)

    def drop(self, error: ZbusError) -> None:
        """Give the connection up as lost, and dial again."""
        self._link.drop(error)

    async def wait_attempt(self) -> None:
        """Return when there is a connection, or the dial that runs or comes next has failed; see `error`."""
        await self._link.wait_attempt()

    @property
    def is_ready(self) -> bool:
        """Whether there is a connection that takes more, and nobody waits for that."""
        connection = self._link.connection
        return connection is not None and not connection.is_congested and not self._writers

    def request(
        self, message: Message, deadline: float | None, *, wait_for_ready: bool = False
    ) -> Coroutine[Any, Any, Message]:
        """Send a request and return its reply, which may be an error; to be awaited at once.

        Args:
            deadline: When to give up, by `time.monotonic()`.
            wait_for_ready: Wait for a broker until then, too.

        Raises:
            RpcError: UNAVAILABLE, DEADLINE_EXCEEDED or RESOURCE_EXHAUSTED, before or after it was sent.
            asyncio.CancelledError: the caller gave up; the service is told.
        """
        connection = self._link.connection
        if connection is None or connection.is_congested or self._writers:
            return self._request_later(message, deadline, wait_for_ready=wait_for_ready)
        return self.exchange(message, deadline, connection)

    async def _request_later(self, message: Message, deadline: float | None, *, wait_for_ready: bool) -> Message:
        connection = await self.wait_connection(deadline, wait_for_ready=wait_for_ready)
        return await self.exchange(message, deadline, connection)

    async def exchange(self, message: Message, deadline: float | None, connection: Connection) -> Message:
        """Send a request by `connection` and no other, and return its reply, which may be an error.

        Raises:
            RpcError: as of `request`.
        """
        if connection is not self._link.connection:
            raise lost(f"{self._link.error}; the call was not sent", may_have_run=False)
        if payload_size(message) > connection.message_bytes_max or len(message.header_bytes) > HEADERS_BYTES_MAX:
            raise too_large(message, connection.message_bytes_max)
        if deadline is not None:
            left_ms = round((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                raise expired(message.topic)
            if message.kind == _REQUEST:
                message.timeout_ms = min(left_ms, TIMEOUT_MS_MAX)
                if message.flags & _WAIT_FOR_READY:
                    deadline += VERDICT_S
        future: asyncio.Future[Message] = self.loop.create_future()
        request_id = self.begin(message, future, connection, is_urgent=len(self._pending) < FEW)
        tick = self._deadlines.add(request_id, deadline) if deadline is not None else None
        try:
            return await future
        except asyncio.CancelledError:
            is_wanted = self._pending.pop(request_id, None) is not None and connection is self._link.connection
            if is_wanted and message.kind == _REQUEST:
                connection.send(Message(_CANCEL, request_id))
            raise
        finally:
            if tick is not None:
                tick.pop(request_id, None)

    def begin(self, message: Message, waiter: Waiter, connection: Connection, *, is_urgent: bool) -> int:
        """Send a request by the open `connection`, and return its number; `waiter` is given the reply.

        The size of the message and the deadline are the caller's to watch.
        """
        self._last_id = message.id = request_id = self._last_id + 1
        self._pending[request_id] = waiter
        if is_urgent:
            connection.send_now(message)
        else:
            connection.send(message)
        return request_id

    async def close(self) -> None:
        """Close the connection; pending calls end as if it had been lost."""
        self.is_closed = True
        self._deadlines.close()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def wait_connection(self, deadline: float | None, *, wait_for_ready: bool) -> Connection:
        """Return the connection once it is open and takes another request.

        Raises:
            RpcError: UNAVAILABLE or DEADLINE_EXCEEDED; nothing was sent.
        """
        if self._link.connection is None:
            await self._open(deadline, wait_for_ready=wait_for_ready)
        if self._writers or (self._link.connection is not None and self._link.connection.is_congested):
            await self._wait_writable(deadline)
        if self._link.connection is None:
            raise not_run(Code.UNAVAILABLE, f"{self._link.error}; the call was not sent")
        return self._link.connection

    async def _open(self, deadline: float | None, *, wait_for_ready: bool) -> None:
        """Wait for the connection: for one try, or until the deadline.

        Raises:
            RpcError: UNAVAILABLE with the reason, or DEADLINE_EXCEEDED.
        """
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await self._link.wait_attempt()
                while wait_for_ready and self._link.connection is None and not self.is_over:
                    await self._link.wait_next_attempt()
        except TimeoutError:
            reason = self._link.error or f"no answer from broker {self._link.name}"
            raise not_run(Code.DEADLINE_EXCEEDED, f"the deadline passed: {reason}") from None
        if self._link.connection is None:
            code = Code.UNAUTHENTICATED if self._link.is_refused else Code.UNAVAILABLE
            raise not_run(code, str(self._link.error))

    async def _wait_writable(self, deadline: float | None) -> None:
        """Wait until it is this call's turn to be sent to a broker that reads too slowly.

        Raises:
            RpcError: DEADLINE_EXCEEDED; nothing was sent.
        """
        writer: asyncio.Future[None] = self.loop.create_future()
        self._writers[writer] = None
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await writer
        except TimeoutError:
            message = f"the deadline passed while broker {self._link.name} was too busy to take the request"
            raise not_run(Code.DEADLINE_EXCEEDED, message) from None
        finally:
            self._writers.pop(writer, None)

    def _wake_writer(self) -> None:
        """Let the first of those that wait send, and the others one by one as long as the broker keeps up."""
        connection = self._link.connection
        if self._writers and (connection is None or not connection.is_congested):
            writer = next(iter(self._writers))
            del self._writers[writer]
            if not writer.done():
                writer.set_result(None)
            self.loop.call_soon(self._wake_writer)

    def _expire(self, request_id: int) -> None:
        waiter = self._pending.pop(request_id, None)
        if waiter is not None and not waiter.done():
            message = "the deadline of this call passed before its result came"
            waiter.set_exception(knowing(Code.DEADLINE_EXCEEDED, message, may_have_run=True))

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self.is_closed = True
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("caller.link_failed", broker=self._link.name, reason=repr(fault))
        self._watcher.channel_ended()

    # -- what the link calls -----------------------------------------------------------------------------

    def link_opened(self, theirs: Hello) -> None:
        self._watcher.channel_opened(theirs)

    def message_received(self, message: Message) -> None:
        waiter = self._pending.pop(message.id, None) if message.kind == _REPLY else None
        if waiter is None:
            self._receive_unasked(message)
        elif not waiter.done():  # a reply to a call that has ended is dropped
            waiter.set_result(message)

    def _receive_unasked(self, message: Message) -> None:
        """Pass on requests, and what belongs to a subscription; what comes late is dropped."""
        subscriber = self.subscribers.get(message.session)
        if message.kind == _REPLY:
            return
        if message.kind in _OF_SERVERS:
            if self.server is not None:
                self.server.message_received(message)
        elif subscriber is not None:
            subscriber.message_received(message)
        elif message.kind == Kind.TOPOLOGY:
            self._watcher.topology_told(message)

    def congestion_changed(self, is_congested: bool) -> None:
        self._watcher.congestion_changed()
        self._wake_writer()

    def link_lost(self, error: ZbusError) -> None:
        self._watcher.channel_lost(error)
        self._wake_writer()
        pending, self._pending = self._pending, {}
        subscribers, self.subscribers = self.subscribers, {}
        last_request = error.last_request if isinstance(error, LinkError) else None
        for request_id, waiter in pending.items():
            if not waiter.done():
                may_have_run = last_request is None or request_id <= last_request
                has = "may have run" if may_have_run else "has not run"
                waiter.set_exception(lost(f"{error}; the call {has}", may_have_run=may_have_run))
        for subscriber in subscribers.values():
            subscriber.link_lost(error)
        server, self.server = self.server, None
        if server is not None:
            server.link_lost(error)


def _hello_of_program() -> Hello:
    name = f"{os.path.basename(sys.argv[0]) or 'python'}[{os.getpid()}]@{socket.gethostname()}"
    return Hello(name=name[:255], message_bytes_max=CLIENT_MESSAGE_BYTES_MAX)


def too_large(message: Message, limit: int) -> RpcError:
    """Return the error for a request that is not sent because of its size or that of its metadata."""
    what, size = "request", payload_size(message)
    if size <= limit:
        what, size, limit = "metadata", len(message.header_bytes), HEADERS_BYTES_MAX
    text = f"the {what} of {size} bytes exceeds the limit of {limit} bytes; it was not sent"
    return not_run(Code.RESOURCE_EXHAUSTED, text, {"size": size, "limit": limit})


def expired(topic: bytes) -> RpcError:
    """Return the error for a call whose deadline has passed."""
    what = f"call to {topic.decode(errors='replace')}" if topic else "command"
    message = f"the deadline passed before the {what} was sent"
    return not_run(Code.DEADLINE_EXCEEDED, message)
