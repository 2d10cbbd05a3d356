"""A place: one text session in one consume group, with its requests that wait for a message each.

    wait        a `consume` waits; one of the zbus kind replaces the one that waits already (its client has given up)
    take        a stored message was handed out: it answers the first that waits
    take_call   the same for a call, where the topic is a service's
    drop        a request waits no more

A message is handed over when it is written to a live connection; where the group's mask asks for acknowledgement, when
its consumer says so. Until then it is the group's, and comes again.

Pure: answers leave through their exchange.
"""

from collections import deque
from typing import TYPE_CHECKING, Protocol

from zbusrpc.broker.access.rights import Rights
from zbusrpc.broker.calls.call import Instance
from zbusrpc.broker.dialects.http import sse
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.zbus.acknowledging import DELIVERY_ID, delivery_id
from zbusrpc.broker.dialects.zbus.masks import Mask
from zbusrpc.broker.dialects.zbus.stored import head_of
from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record
from zbusrpc.telemetry import get_logger

if TYPE_CHECKING:
    from zbusrpc.broker.dialects.zbus.session import ZbusSession

log = get_logger("mq")

STREAM_WINDOW = 256
"""Credit of a consumer that is sent messages as they come; what its connection cannot take stops it."""


class Timer(Protocol):
    """What rings later."""

    def cancel(self) -> None:
        """Let it not ring."""


class Place:
    """One session in one consume group."""

    def __init__(self, dialect: "ZbusSession", topic: Topic, group: Group) -> None:
        """Take part.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, or FAILED_PRECONDITION where the group is another's alone.
        """
        self.topic, self.group = topic, group
        self.consumer: Instance | None = None
        """Takes the calls of a service, where the topic is one."""
        self._dialect = dialect
        self._waiting: deque[Exchange] = deque()
        self._timers: dict[Exchange, Timer] = {}
        self._stream: Exchange | None = None
        self.subscription = dialect.hub.queues.join(dialect.session, group, 0, sink=self._take)
        mask = group.options.mask or topic.options.mask
        self.subscription.is_answering = bool(mask & Mask.ACK_REQUIRED)

    @property
    def is_waiting(self) -> bool:
        """Whether a request waits."""
        return bool(self._waiting)

    # -- requests ----------------------------------------------------------------------------------------

    def wait(self, exchange: Exchange, rights: Rights | None) -> None:
        """Let a request of somebody with `rights` wait for a message."""
        self.subscription.rights = rights
        if not exchange.is_ordered:
            for number, earlier in enumerate(self._waiting):
                if not earlier.is_ordered:
                    self._stop_timer(earlier)
                    self._waiting[number] = exchange
                    return
        self._waiting.append(exchange)
        self.group.pool.give(self.subscription, 1)
        self._dialect.hub.queues.wake(self.group)
        if self.consumer is not None:
            self._dialect.hub.calls.ask(self.consumer, self._dialect.hub.now())

    def end_after(self, exchange: Exchange, timer: Timer) -> None:
        """Stop `timer` when a waiting request has its answer."""
        if exchange in self._waiting:
            self._timers[exchange] = timer
        else:
            timer.cancel()

    def drop(self, exchange: Exchange) -> bool:
        """Let a request wait no more; say whether it did."""
        if exchange not in self._waiting:
            return False
        self._waiting.remove(exchange)
        self._stop_timer(exchange)
        self._withdraw_stored()
        self._withdraw_call()
        return True

    def abandon(self) -> None:
        """Forget the requests that wait; of those in an ordered line each gets an answer, else none could follow."""
        for exchange in self._waiting:
            self._stop_timer(exchange)
            if exchange.is_ordered:
                exchange.answer(204)
        self._waiting.clear()
        if self._stream is not None:
            self._stream.end_stream()

    def stream(self, exchange: Exchange, rights: Rights | None) -> None:
        """Have an exchange be sent messages as they come: each is done when it is sent."""
        self._stream = exchange
        self.subscription.rights = rights
        self.subscription.is_answering = False
        self.subscription.window = STREAM_WINDOW
        self.group.pool.give(self.subscription, STREAM_WINDOW)
        self._dialect.hub.queues.wake(self.group)

    def end(self, status: int, text: str) -> None:
        """Answer all that wait: there will be no message."""
        while self._waiting:
            exchange = self._waiting.popleft()
            self._stop_timer(exchange)
            exchange.answer_text(status, text)
        if self._stream is not None:
            self._stream.end_stream(sse.farewell(text))

    def close(self) -> None:
        """Let nothing ring any more: the session has ended."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # -- messages ----------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery, record: Record) -> None:
        if self._stream is not None:
            self._stream.stream(sse.event(record))
            return
        if not self._waiting:  # a call has taken the last request in this turn
            self._give_back(delivery.offset, self.group.moves)
            return
        exchange = self._waiting.popleft()
        self._stop_timer(exchange)
        self._withdraw_call()
        head, sender, id_ = head_of(self.topic, self.group.name, delivery, record)
        if sender:
            name = sender.partition(" ")[0]
            if sender == self._dialect.hub.signed(name, record.id):
                self._dialect.hear(name, id_)
        if self.subscription.is_answering:
            head += self._note_given(delivery)
        else:
            moves = self.group.moves
            exchange.on_lost = lambda: self._give_back(delivery.offset, moves)
        exchange.answer(200, record.body, head)

    def _note_given(self, delivery: Delivery) -> str:
        """Take note of a message that is to be acknowledged, and return the line that names this delivery."""
        self.subscription.sent += 1
        delivery.number = self.subscription.sent
        self._dialect.given.note(self.group, delivery)
        return f"{DELIVERY_ID}: {delivery_id(self._dialect.name, delivery)}\r\n"

    def _give_back(self, offset: int, moves: int) -> None:
        """Let a message that nobody got be handed out again, unless its group was moved since (see `Group.moves`)."""
        hub = self._dialect.hub
        if self.subscription.is_answering:
            self.group.release(self.subscription, offset, offset)
            hub.queues.wake(self.group)
        elif not self.group.is_gone and self.group.moves == moves:
            try:
                hub.queues.store.take_back(self.group, offset)
            except StorageError as error:  # the session must end all the same
                log.error("mq.revive_failed", topic=self.topic.name, group=self.group.name, reason=str(error))

    def take_call(self) -> Exchange | None:
        """Return a waiting request to be answered with a call, or None."""
        if not self._waiting:
            return None
        exchange = self._waiting.popleft()
        self._stop_timer(exchange)
        self._withdraw_stored()
        return exchange

    # -- credit ------------------------------------------------------------------------------------------

    def _withdraw_stored(self) -> None:
        if self.subscription.credit > 0:
            self.group.pool.withdraw(self.subscription, 1)

    def _withdraw_call(self) -> None:
        if self.consumer is not None:
            self._dialect.hub.calls.withdraw(self.consumer)

    def serve(self) -> None:
        """Take the calls of the service that the topic is, from now on.

        Raises:
            RpcError: RESOURCE_EXHAUSTED: there are too many services.
        """
        hub, session, name = self._dialect.hub, self._dialect.session, self.topic.name.encode()
        self.consumer = hub.calls.join(session, name, 0, {"dialect": "zbus"}, is_pulling=True)
        for _ in self._waiting:
            hub.calls.ask(self.consumer, hub.now())

    def serves(self, service: bytes) -> bool:
        """Whether it takes the calls of a service."""
        return self.consumer is not None and self.consumer.topic == service

    def stop_serving(self) -> None:
        """Take no more calls; those that were taken may still be answered."""
        if self.consumer is not None:
            hub = self._dialect.hub
            hub.calls.leave(self._dialect.session, self.consumer.topic, hub.now())

    def _stop_timer(self, exchange: Exchange) -> None:
        timer = self._timers.pop(exchange, None)
        if timer is not None:
            timer.cancel()
