"""The sender: a producer's batches on their way to the broker, in order, whatever happens to the connection.

    add ──> batch of this turn ──> unsent ──> one PRODUCE frame each: sent ──> answered
                                     └───────── connection lost ────────┘

While there is no connection, or the broker reads too slowly, batches wait, and a task sends them when it can. When the
connection is lost, what was not answered is unsent again, before everything newer.

Promises: frames leave in the order in which their messages were added; every message is told exactly one end: its
receipt, an error of the broker, or that its time has passed. Its room is given back then.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from zbusrpc.cluster.caller import Caller
from zbusrpc.cluster.fleet import caller_of_loop
from zbusrpc.cluster.timers import DeadlineTimer
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.mq.batch import Batch
from zbusrpc.mq.commands import declare_by
from zbusrpc.mq.in_flight import InFlight
from zbusrpc.mq.receipt import Receipt
from zbusrpc.service.context import ambient_deadline
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import Address
from zbusrpc.transport.connection import Connection

FRAME_BYTES_MAX: Final = 256 * 1024
"""A frame takes no more messages from here on: with 100-byte messages, a longer one gains nothing."""
FRAME_MESSAGES_MAX: Final = 32
"""So that broker and producer are busy at the same time: with 128 in flight in one frame, one of the two always waits
(160,000 messages/s, and 250,000 in frames of 32)."""
_PRODUCE: Final = int(Kind.PRODUCE)

_Timed = tuple[asyncio.Future[Receipt], Batch]
"""A message with less time than its batch."""

log = get_logger("producer")


class Sender:
    """The messages of one producer that are not answered."""

    def __init__(
        self, topic: bytes, brokers: tuple[Address, ...], in_flight: InFlight, *, timeout_s: float, declares: bool
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.failure: RpcError | None = None
        """The first error of a message that the application may not look at, until it is told otherwise."""
        self._topic = topic
        self._name = topic.decode()
        self._brokers = brokers
        self._timeout_s = timeout_s
        self._declares = declares
        self._in_flight = in_flight
        self._caller: Caller | None = None
        self._connection: Connection | None = None
        self._collecting: Batch | None = None
        self._unsent: deque[Batch] = deque()
        self._sent: dict[Batch, None] = {}
        self._reopening: asyncio.Task[None] | None = None
        self._is_flush_due = False
        self._deadlines: DeadlineTimer[Batch | _Timed] = DeadlineTimer(self._expire)

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
            batch = self._collecting = self._begin_batch(max(self._timeout_s, timeout_s or 0.0))
        future: asyncio.Future[Receipt] = self.loop.create_future()
        batch.add(entry, future)
        if given_id:
            batch.ids.add(given_id)
        if is_unwatched:
            batch.is_unwatched = True
        ambient = ambient_deadline.get()
        if timeout_s is not None or ambient is not None:
            own = time.monotonic() + (timeout_s or self._timeout_s)
            self._watch(batch, (future, batch), own if ambient is None else min(own, ambient))
        return future

    def add_batch(self, entries: Sequence[bytes], timeout_s: float | None) -> Batch:
        """Add messages as a frame of their own."""
        self._collecting = None
        batch = self._begin_batch(timeout_s or self._timeout_s)
        batch.is_atomic = True
        for entry in entries:
            batch.add(entry, self.loop.create_future())
        return batch

    def _begin_batch(self, timeout_s: float) -> Batch:
        batch = Batch(self, timeout_s, time.monotonic() + timeout_s)
        self._watch(batch, batch, batch.deadline)
        self._unsent.append(batch)
        return batch

    def _watch(self, batch: Batch, item: Batch | _Timed, deadline: float) -> None:
        batch.ticks.append((self._deadlines.add(item, deadline), item))

    # -- frames leave ------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what is there at the end of this turn."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is there, or let a task do it as soon as there is a connection that takes it."""
        self._is_flush_due = False
        self._collecting = None
        if self._reopening is None and not self._send_unsent():
            self._reopening = self.loop.create_task(self._reopen())

    def _send_unsent(self) -> bool:
        """Send as much as the connection takes; return whether that is all."""
        while self._unsent:
            caller, connection = self._caller, self._connection
            if caller is None or connection is None or caller.connection is not connection or not caller.is_ready:
                return False
            self._send(self._unsent.popleft(), caller, connection)
        return True

    def _send(self, batch: Batch, caller: Caller, connection: Connection) -> None:
        limit = self._size_max(connection)
        if batch.size <= limit:
            self._sent[batch] = None
            caller.begin(Message(_PRODUCE, 0, self._topic, batch.seal()), batch, connection, is_urgent=True)
        elif batch.is_atomic or batch.was_sent or len(batch.futures) == 1:
            batch.fail(too_large(batch.size, limit))
        else:  # it was collected before the limit was known
            self._unsent.extendleft(reversed(self._split(batch)))

    def _split(self, batch: Batch) -> list[Batch]:
        """Return the messages of a batch, each as a batch of its own."""
        batch.unwatch()
        singles = []
        for entry, future in zip(batch.entries, batch.futures, strict=True):
            single = Batch(self, batch.timeout_s, batch.deadline)
            single.is_unwatched = batch.is_unwatched
            single.add(entry, future)
            self._watch(single, single, single.deadline)
            singles.append(single)
        return singles

    def _size_max(self, connection: Connection) -> int:
        return connection.message_bytes_max - len(self._topic)

    async def _reopen(self) -> None:
        """Send what is unsent as soon as there is a connection that takes it."""
        try:
            while not self._send_unsent():
                try:
                    await self._connect()
                except RpcError as error:
                    if error.code is not Code.UNAVAILABLE:  # a broker is there, and refuses
                        self.fail_unsent(error)
        finally:
            self._reopening = None

    async def _connect(self) -> None:
        """Wait for a connection that takes more, to a broker that has the topic.

        Raises:
            RpcError: UNAVAILABLE: the connection was lost meanwhile. Any other: the broker refuses.
        """
        self._caller = caller = caller_of_loop(self._brokers)
        connection = await caller.wait_connection(None, wait_for_ready=True)
        if connection is not self._connection:
            if self._declares:
                await declare_by(caller, connection, self._name)
            self._connection = connection

    def fail_unsent(self, error: RpcError) -> None:
        """Tell all messages that were not sent why they will not be."""
        for batch in list(self._unsent):
            batch.fail(error)

    # -- messages end ------------------------------------------------------------------------------------

    def batch_lost(self, batch: Batch) -> None:
        """Send again what was not answered: the connection was lost. Told once for each batch."""
        if batch not in self._sent:
            return
        if self._caller is not None and not self._caller.is_closed:  # else it was not lost, but closed here
            log.warning("producer.link_lost", topic=self._name, unanswered=self._in_flight.messages)
        self._unsent.extendleft(reversed(self._sent))
        self._sent = {}
        self.flush()

    def batch_ended(self, batch: Batch, error: RpcError | None) -> None:
        """Forget a batch whose messages have all been told."""
        if batch is self._collecting:
            self._collecting = None
        if batch in self._sent:
            del self._sent[batch]
        else:
            with contextlib.suppress(ValueError):  # it failed as it was to be sent
                self._unsent.remove(batch)
        if error is not None:
            self._note_failure(batch, error)
        self._in_flight.give(len(batch.futures), batch.size)

    def _note_failure(self, batch: Batch, error: RpcError) -> None:
        if error.code is Code.NOT_FOUND:  # the topic was removed: the next frame is preceded by another declaration
            self._connection = None
        if batch.is_unwatched:
            log.warning("producer.failed", topic=self._name, messages=len(batch.futures), reason=str(error))
            self.failure = self.failure or error

    def _expire(self, item: Batch | _Timed) -> None:
        if isinstance(item, Batch):
            item.fail(self._late(item))
            return
        future, batch = item
        if not future.done():
            future.set_exception(self._late(batch))
            if batch.is_unwatched:
                self.failure = self.failure or self._late(batch)

    def _late(self, batch: Batch) -> RpcError:
        if batch.was_sent:
            text = f"the broker did not answer in time: the message for topic {self._name} may or may not be stored"
        else:
            trouble = self._caller and self._caller.error
            text = f"the message for topic {self._name} was not sent in time: {trouble or 'the broker is too busy'}"
        return RpcError(Code.DEADLINE_EXCEEDED, text, {"may_have_run": batch.was_sent})

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
            text = f"the producer of topic {self._name} was closed: the message {may} stored"
            batch.fail(RpcError(Code.CANCELED, text, {"may_have_run": batch.was_sent}))
        self._deadlines.close()


def too_large(size: int, limit: int) -> RpcError:
    """Return the error for messages that exceed what the broker takes."""
    text = f"the message of {size} bytes exceeds the limit of {limit} bytes; it was not sent"
    return RpcError(Code.RESOURCE_EXHAUSTED, text, {"size": size, "limit": limit, "may_have_run": False})
