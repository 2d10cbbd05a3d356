"""The sender: a producer's lane to one broker, with the batches that are on their way there, in order.

    add ──> batch of this turn ──> unsent ──> one PRODUCE frame each: sent ──> answered
                                     │                                 │
                                     └──> given up, with what is sent: connection lost, or the broker refuses

While the broker reads too slowly, batches wait, and a task sends them when it can. Which lane a message takes, and
where batches go that a lane gives up, is for `routing.py`. A lane without a broker keeps what has nowhere to go.

Promises: frames leave in the order in which their messages were added; every message is told exactly one end: its
receipt, an error of the broker, or that its time has passed. Its room is given back then.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from zbusrpc.cluster.endpoint import Endpoint
from zbusrpc.cluster.loops import begin
from zbusrpc.cluster.policy import lost
from zbusrpc.cluster.timers import DeadlineTimer
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.mq.batch import Batch, Timed
from zbusrpc.mq.commands import declare_by
from zbusrpc.mq.in_flight import InFlight
from zbusrpc.mq.receipt import Receipt
from zbusrpc.outcome import knowing, not_run
from zbusrpc.service.context import ambient_deadline
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import Connection

FRAME_BYTES_MAX: Final = 256 * 1024
"""A frame takes no more messages from here on: with 100-byte messages, a longer one gains nothing."""
FRAME_MESSAGES_MAX: Final = 32
"""So that broker and producer are busy at the same time: with 128 in flight in one frame, one of the two always waits
(160,000 messages/s, and 250,000 in frames of 32)."""
_PRODUCE: Final = int(Kind.PRODUCE)

log = get_logger("producer")


class Terms:
    """What holds for all lanes of a producer."""

    def __init__(self, topic: bytes, in_flight: InFlight, *, timeout_s: float, declares: bool) -> None:
        self.topic = topic
        self.name = topic.decode()
        self.in_flight = in_flight
        self.timeout_s = timeout_s
        self.declares = declares
        """Whether the topic is made where it does not exist."""
        self.failure: RpcError | None = None
        """The first error of a message that the application may not look at, until it is told otherwise."""
        self.deadlines: DeadlineTimer[Batch | Timed] = DeadlineTimer(self._expire)

    def _expire(self, item: "Batch | Timed") -> None:
        if isinstance(item, Batch):
            item.fail(item.owner.late(item))
            return
        future, batch = item.future, item.batch
        if future.done():
            return
        error = batch.owner.late(batch)
        future.set_exception(error)
        if batch.is_unwatched:
            self.failure = self.failure or error
            future.exception()  # flush and close raise it as well
        if not batch.was_sent:  # it says so: then it is never sent
            self.in_flight.give(1, batch.withdraw(future))


class Router(Protocol):
    """Whoever knows the other lanes."""

    def lane_stuck(self, lane: "Sender") -> None:
        """There is something to send in the lane that has no broker."""

    def lane_refused(self, lane: "Sender", error: RpcError) -> None:
        """The broker was lost, or it does not take what the lane has to send."""

    def trouble(self) -> object:
        """Say why there is no broker, where that is known."""


class Sender:
    """The messages of one producer that are on their way to one broker."""

    def __init__(self, terms: Terms, router: Router, endpoint: Endpoint | None) -> None:
        """Make a lane.

        Args:
            terms: What holds for all lanes of the producer.
            router: Who is told when batches must go elsewhere.
            endpoint: The broker; None where batches wait for one.
        """
        self.loop = asyncio.get_running_loop()
        self.endpoint = endpoint
        self._terms, self._router = terms, router
        self._connection: Connection | None = None
        self._collecting: Batch | None = None
        self._unsent: deque[Batch] = deque()
        self._sent: dict[Batch, None] = {}
        self._reopening: asyncio.Task[None] | None = None
        self._is_flush_due = False

    @property
    def has_batches(self) -> bool:
        """Whether anything is not answered."""
        return bool(self._sent or self._unsent)

    @property
    def is_collecting(self) -> bool:
        """Whether the frame of this turn has room for more."""
        return self._collecting is not None and len(self._collecting.futures) < FRAME_MESSAGES_MAX

    # -- messages come -----------------------------------------------------------------------------------

    def check_size(self, size: int) -> None:
        """See that an entry is not too large, where the limit is known yet.

        Raises:
            RpcError: RESOURCE_EXHAUSTED.
        """
        if self._connection is not None and size > self._size_max(self._connection):
            raise too_large(size, self._size_max(self._connection))

    def add(
        self, entry: bytes, given_id: bytes, timeout_s: float | None, *, is_unwatched: bool = False
    ) -> asyncio.Future[Receipt]:
        """Add a message to the frame of this turn, and return the future of its receipt."""
        batch = self._collecting
        if (
            batch is None
            or len(batch.futures) >= FRAME_MESSAGES_MAX
            or batch.size + len(entry) > FRAME_BYTES_MAX
            or (given_id and given_id in batch.ids)
            or (timeout_s is not None and timeout_s > batch.timeout_s)
        ):
            batch = self._collecting = self._begin_batch(max(self._terms.timeout_s, timeout_s or 0.0))
        future: asyncio.Future[Receipt] = self.loop.create_future()
        batch.add(entry, future)
        if given_id:
            batch.ids.add(given_id)
        if is_unwatched:
            batch.is_unwatched = True
        ambient = ambient_deadline()
        if timeout_s is not None or ambient is not None:
            own = time.monotonic() + (timeout_s or self._terms.timeout_s)
            self._watch(batch, Timed(batch, future), own if ambient is None else min(own, ambient))
        return future

    def add_batch(self, entries: Sequence[bytes], timeout_s: float | None) -> Batch:
        """Add messages as a frame of their own."""
        self._collecting = None
        batch = self._begin_batch(timeout_s or self._terms.timeout_s)
        batch.is_atomic = True
        for entry in entries:
            batch.add(entry, self.loop.create_future())
        return batch

    def _begin_batch(self, timeout_s: float) -> Batch:
        batch = Batch(self, timeout_s, time.monotonic() + timeout_s)
        self._watch(batch, batch, batch.deadline)
        self._unsent.append(batch)
        return batch

    def take(self, batch: Batch) -> None:
        """Add a batch that another lane has given up."""
        batch.ticks.insert(0, (self._terms.deadlines.add(batch, batch.deadline), batch))
        self._collecting = None
        self._unsent.append(batch)

    def give_up(self) -> list[Batch]:
        """Return all that was not answered, in order, for others to take; what still comes for it is not heard."""
        batches = self.batches()
        for batch in self._sent:
            batch.may_be_stored = True
            self._note_end(batch, is_ok=False)
        self._sent, self._collecting = {}, None
        self._unsent.clear()
        return batches

    def _watch(self, batch: Batch, item: Batch | Timed, deadline: float) -> None:
        batch.ticks.append((self._terms.deadlines.add(item, deadline), item))

    # -- frames leave ------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what is there at the end of this turn."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is there, or let a task do it as soon as the connection takes it."""
        self._is_flush_due = False
        self._collecting = None
        if self._reopening is None and not self._send_unsent():
            if self.endpoint is None:
                self._router.lane_stuck(self)
            else:
                self._reopening = begin(self.loop, self._reopen(self.endpoint))

    def _send_unsent(self) -> bool:
        """Send as much as the connection takes; return whether that is all."""
        while self._unsent:
            endpoint, connection = self.endpoint, self._connection
            if endpoint is None or connection is None:
                return False
            channel = endpoint.channel
            if channel.connection is not connection or not channel.is_ready:
                return False
            self._send(self._unsent.popleft(), endpoint, connection)
        return True

    def _send(self, batch: Batch, endpoint: Endpoint, connection: Connection) -> None:
        limit = self._size_max(connection)
        if batch.size <= limit:
            self._sent[batch] = None
            batch.began = now = self.loop.time()
            endpoint.health.begun(now)
            message = Message(_PRODUCE, 0, self._terms.topic, batch.seal())
            endpoint.channel.begin(message, batch, connection, is_urgent=True)
        elif batch.is_atomic or len(batch.futures) == 1:
            batch.fail(too_large(batch.size, limit))
        else:  # it was collected before the limit was known
            self._unsent.extendleft(reversed(self._split(batch)))

    def _split(self, batch: Batch) -> list[Batch]:
        """Return the messages of a batch, each as a batch of its own."""
        batch.unwatch()
        singles, timed = [], batch.timed()
        for entry, future in zip(batch.entries, batch.futures, strict=True):
            single = Batch(self, batch.timeout_s, batch.deadline)
            batch.tell_past_to(single)
            single.add(entry, future)
            self._watch(single, single, single.deadline)
            if future in timed:
                single.keep_timed(*timed[future])
            singles.append(single)
        return singles

    def _size_max(self, connection: Connection) -> int:
        return connection.message_bytes_max - len(self._terms.topic)

    async def _reopen(self, endpoint: Endpoint) -> None:
        """Send what is unsent as soon as the connection takes it."""
        try:
            while not self._send_unsent():
                try:
                    await self._open(endpoint)
                except RpcError as error:
                    self._router.lane_refused(self, error)
        finally:
            self._reopening = None

    async def _open(self, endpoint: Endpoint) -> None:
        """Wait until the connection takes more, and the broker has the topic.

        Raises:
            RpcError: UNAVAILABLE: the connection was lost. Any other: the broker refuses.
        """
        channel = endpoint.channel
        connection = await channel.wait_connection(None, wait_for_ready=False)
        if connection is not self._connection:
            if self._terms.declares:
                await declare_by(channel, connection, self._terms.name)
            self._connection = connection

    def fail_unsent(self, error: RpcError) -> None:
        """Tell all messages that were not sent why they will not be."""
        for batch in list(self._unsent):
            batch.fail(error)

    # -- messages end ------------------------------------------------------------------------------------

    def batch_lost(self, batch: Batch) -> None:
        """Let all go elsewhere: the connection was lost."""
        if batch in self._sent:
            self._router.lane_refused(self, lost("the connection was lost", may_have_run=True))

    def batch_refused(self, batch: Batch, error: RpcError) -> None:
        """Let all go elsewhere: the broker takes nothing more."""
        if batch in self._sent:
            self._router.lane_refused(self, error)

    def batch_ended(self, batch: Batch, error: RpcError | None) -> None:
        """Forget a batch whose messages have all been told."""
        if batch is self._collecting:
            self._collecting = None
        if batch in self._sent:
            del self._sent[batch]
            self._note_end(batch, is_ok=error is None or error.code is not Code.DEADLINE_EXCEEDED)
        else:
            with contextlib.suppress(ValueError):  # it failed as it was to be sent
                self._unsent.remove(batch)
        if error is not None:
            self._note_failure(batch, error)
        self._terms.in_flight.give(len(batch.futures), batch.size)

    def _note_end(self, batch: Batch, *, is_ok: bool) -> None:
        if self.endpoint is not None:
            now = self.loop.time()
            self.endpoint.health.ended(now, now - batch.began, is_ok)

    def _note_failure(self, batch: Batch, error: RpcError) -> None:
        if error.code is Code.NOT_FOUND:  # the topic was removed: the next frame is preceded by another declaration
            self._connection = None
        if batch.is_unwatched:
            log.warning("producer.failed", topic=self._terms.name, messages=len(batch.futures), reason=str(error))
            self._terms.failure = self._terms.failure or error

    def late(self, batch: Batch) -> RpcError:
        """Return the error for a message whose time has passed."""
        message = f"the message for topic {self._terms.name}"
        if batch.was_sent:
            text = f"the broker did not answer in time: {message} may or may not be stored"
        else:
            trouble = self.endpoint.channel.error if self.endpoint is not None else self._router.trouble()
            text = f"{message} was not sent in time: {trouble or 'the broker is too busy'}"
        return knowing(Code.DEADLINE_EXCEEDED, text, may_have_run=batch.was_sent)

    def batches(self) -> list[Batch]:
        """Return what was not answered, in order."""
        return [*self._sent, *self._unsent]

    def unanswered(self) -> list[asyncio.Future[Receipt]]:
        """Return the futures of all messages that are to be told yet."""
        return [future for batch in self.batches() for future in batch.futures if not future.done()]

    def stop(self) -> None:
        """Send nothing more, and tell those that are left."""
        if self._reopening is not None:
            self._reopening.cancel()
        for batch in self.batches():
            may = "may or may not be" if batch.was_sent else "is not"
            text = f"the producer of topic {self._terms.name} was closed: the message {may} stored"
            batch.fail(knowing(Code.CANCELED, text, may_have_run=batch.was_sent))


def too_large(size: int, limit: int) -> RpcError:
    """Return the error for messages that exceed what the broker takes."""
    text = f"the message of {size} bytes exceeds the limit of {limit} bytes; it was not sent"
    return not_run(Code.RESOURCE_EXHAUSTED, text, {"size": size, "limit": limit})
