"""A consume group: one place in a topic's log, what is in flight from it, and what comes again.

Messages are read in the order of the log. What does not pass the filter, or has expired, is done at once. A message
whose time has not come waits aside; one whose key is in flight waits behind it. All others go to the consumer with the
most credit. A message is done when it is acknowledged. Until then it comes again: at once and first in line when its
consumer leaves, after a growing wait when its lease ends or it is refused, and not at all after `max_attempts`: then it
is `dead`, and whoever drives the group puts it into the dead-letter topic.

    dispatch           hands out what can be handed out
    ack, nack, extend  what consumers say
    expire             what time does; `next_at` says when
    changes            what is to be stored, so that a restart goes on here; see place.py

Promises: a message that is not done is in `pending` or will be read; messages with one key are in flight one at a
time, in the order of the log; what is kept in memory is bounded by PENDING_MAX deliveries, whatever consumers do.

Pure: time comes in, records come from `fetch`, randomness from `jitter`.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final

from zbusrpc.broker.mq.deliveries import Deliveries, Load
from zbusrpc.broker.mq.delivery import Delivery, State
from zbusrpc.broker.mq.filters import compile_filter
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.mq.pace import Pace
from zbusrpc.broker.mq.pending_room import PendingRoom
from zbusrpc.broker.mq.subscription import Subscription
from zbusrpc.broker.sessions.credits import CreditPool
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record

DISPATCH_MAX: Final = 256
"""Messages that a group hands out before others have their turn."""
EXPIRE_MAX: Final = 1024
"""Messages of a group whose time has come that are looked at before others have their turn: 3 ms."""
DISPATCH_BYTES_MAX: Final = 1024 * 1024
"""About so many bytes of them: then a consumer that does not read must have shown it before it gets more."""

Fetch = Callable[[int], list[Record] | None]
"""Return some records from an offset on; none where there are no more before the end that may be read, None while they
are on their way."""
Handout = tuple[Subscription, Delivery, Record]
Act = Callable[[Delivery], None]


class Group(Deliveries):
    """One consume group of one topic."""

    def __init__(
        self,
        topic_name: str,
        name: str,
        options: GroupOptions,
        position: int,
        *,
        key: bytes,
        fetch: Fetch,
        start: Callable[[], int],
        end: Callable[[], int],
        load: Load,
        jitter: Callable[[], float],
        room: PendingRoom,
        consumed: dict["Group", None],
    ) -> None:
        super().__init__(name, options, position, start=start, load=load, jitter=jitter)
        self.topic_name = topic_name
        self.key = key
        """Names it in the journal."""
        self.pool: CreditPool[Subscription] = CreditPool()
        """The consumers."""
        self.in_flight = 0
        """Messages that they have."""
        self.moves = 0
        """How often it was moved: what was handed out before is another delivery than what is after."""
        self.satisfied: dict[Subscription, None] = {}
        """Those with a pull that ends as soon as there is nothing more to hand out."""
        self._room, self._consumed = room, consumed
        self.was_used = False
        """Whether somebody has taken part since this was last looked at."""
        self.is_gone = False
        """Whether it was removed."""
        self.has_more = False
        """Whether the last `dispatch` ended before everything was handed out that could be."""
        self.is_reading = False
        """Whether the last `dispatch` ended because messages are on their way from the store."""
        self._fetch, self._end = fetch, end
        self._matches = compile_filter(options.filter)
        self._buffer: deque[Record] = deque()
        self.pace = Pace(self.pool)
        """Who has more than it begins."""

    def set_options(self, options: GroupOptions) -> None:
        """Have other options from now on; a filter applies to what is read from now on."""
        self._matches = compile_filter(options.filter)
        self.options = options

    # -- consumers ---------------------------------------------------------------------------------------

    def join(self, consumer: Subscription) -> None:
        """Let a consumer take part."""
        self.was_used = True
        self._consumed[self] = None
        self.pool.join(consumer, is_suspended=consumer.session.is_congested)

    def leave(self, consumer: Subscription, seen: int = sys.maxsize) -> None:
        """Give a consumer nothing more; what it has goes to others, first in line.

        Of the messages that were sent to it, it has `seen` so many: those on their way do not count as attempts, nor
        do those that it has not begun.
        """
        self.dismiss(consumer)
        for delivery in consumer.had.values():
            delivery.consumer = None
            if delivery.state is State.IN_FLIGHT and (delivery.number > seen or not delivery.is_begun):
                self._put_back(delivery)
            elif delivery.state is State.IN_FLIGHT:
                self._fail(delivery, "its consumer left", 0.0, 0, delay_ms=0)
        consumer.had.clear()
        self.in_flight -= consumer.in_flight
        consumer.in_flight = 0

    def dismiss(self, consumer: Subscription) -> None:
        """Give a consumer nothing more, whatever becomes of what it has."""
        self.pool.leave(consumer)
        self.satisfied.pop(consumer, None)
        if not self.pool.members:
            self._consumed.pop(self, None)
            self._buffer.clear()

    # -- handing out -------------------------------------------------------------------------------------

    def dispatch(self, now: float, now_ms: int) -> list[Handout]:
        """Return who gets what now: some of it; `has_more` says whether to come back.

        Raises:
            ReadFailedError: the disk did not give a message; nothing has changed.
        """
        handouts: list[Handout] = []
        self.has_more = self.is_reading = False
        if self.options.paused:
            return handouts
        if not self._learn_keys():
            self.has_more = True
            return handouts
        pool, until, needs_ack = self.pool, now + self.options.lease_ms / 1000, self.options.ack
        room, count_max = DISPATCH_BYTES_MAX, min(DISPATCH_MAX, self._in_flight_room())
        while len(handouts) < count_max and room > 0 and pool.has_credit():
            try:
                found = self._next(now, now_ms)
            except StorageError:
                if handouts:  # they go out first, and who comes back for more meets the error
                    self.has_more = True
                    return handouts
                raise
            if found is None:
                self.pace.watch(now)
                return handouts
            consumer = pool.take()
            assert consumer is not None
            delivery, record = found
            delivery.attempts += 1
            self.counters.delivered += 1
            room -= len(record.body) + len(record.headers)
            handouts.append((consumer, delivery, record))
            if needs_ack and consumer.is_answering:
                if delivery.consumer is not None:
                    del delivery.consumer.had[delivery.offset]
                delivery.state, delivery.consumer, delivery.is_begun = State.IN_FLIGHT, consumer, consumer.is_silent
                consumer.had[delivery.offset] = delivery
                consumer.in_flight += 1
                self.in_flight += 1
                self._leases.begin(delivery, until)
                self._changes.touch(delivery.offset)
            else:
                self.counters.acked += 1
                self._finish(delivery)
                if consumer.window:
                    pool.give(consumer)
        self.has_more = pool.has_credit() and self._in_flight_room() > 0
        return handouts

    def _in_flight_room(self) -> int:
        """Return how many more messages may be handed out before one is answered."""
        limit = self.options.in_flight_max
        return sys.maxsize if limit is None else limit - self.in_flight

    def _next(self, now: float, now_ms: int) -> tuple[Delivery, Record] | None:
        """Return the next message that may be handed out now."""
        again = self._next_again(now_ms) if self._waiting else None
        if again is not None:
            return again
        while self._buffer or self._fill():
            record = self._buffer.popleft()
            if record.offset > self.position:
                self._count_missing(self.position, record.offset)
            self.position = record.offset + 1
            if self._matches is not None and not self._matches(record.tag):
                self.counters.skipped += 1
            elif not self._has_expired(record, now_ms):
                delivery = Delivery(record.offset, record.key, State.WAITING)
                self.pending[record.offset] = delivery
                if record.due_ms > now_ms:
                    self._delay(delivery, now, record.due_ms, record.due_ms - now_ms)
                elif not record.key or self._take_key(delivery, record):
                    return delivery, record
        return None

    def _fill(self) -> bool:
        """Read on; False when there is nothing, or no room."""
        if self._room.has_room(self):
            records = self._fetch(self.position)
            self.is_reading = records is None
            if records:
                self._buffer.extend(records)
            elif records is not None:
                self._pass_missing(self._end())  # what stood there last is removed, damaged, or compacted
        return bool(self._buffer)

    def note_removed(self) -> None:
        """Pass what retention has removed, although nobody consumes."""
        if not self._buffer:
            self._pass_missing(self._start())

    def _pass_missing(self, offset: int) -> None:
        if offset > self.position:
            self._count_missing(self.position, offset)
            self.position = offset

    # -- what consumers say ------------------------------------------------------------------------------

    def ack(self, consumer: Subscription, first: int, last: int) -> int:
        """Take note that messages are done, and return how many it concerned."""
        count = self._answer(consumer, first, last, self._finish)
        self.counters.acked += count
        return count

    def nack(
        self, consumer: Subscription, first: int, last: int, reason: str, delay_ms: int | None, now: float, now_ms: int
    ) -> int:
        """Let messages come again, after `delay_ms` or the back-off, and return how many it concerned."""
        reason = reason or "refused by its consumer"
        fail = partial(self._fail, reason=reason, now=now, now_ms=now_ms, delay_ms=delay_ms)
        return self._answer(consumer, first, last, fail, is_late_fine=False)

    def release(self, consumer: Subscription, first: int, last: int) -> int:
        """Let messages that were not begun come again, first in line, as if they had not been handed out."""
        return self._answer(consumer, first, last, self._put_back, is_late_fine=False, is_progress=False)

    def reject(self, consumer: Subscription, first: int, last: int, reason: str) -> int:
        """Let messages be dead."""
        reason = reason or "rejected by its consumer"
        return self._answer(consumer, first, last, lambda delivery: self._bury(delivery, reason))

    def note_begun(self, consumer: Subscription, first: int, last: int) -> int:
        """Take note that messages were begun, and return of how many it was not known."""
        count = 0
        for delivery in self._had(consumer, first, last, is_late_fine=False):
            if not delivery.is_begun:
                delivery.is_begun = True
                consumer.begun += 1
                self._changes.touch(delivery.offset)
                count += 1
        consumer.begun_max = max(consumer.begun_max, consumer.begun)
        self._forgive(consumer)
        return count

    def extend(self, consumer: Subscription, first: int, last: int, now: float) -> int:
        """Let leases begin anew, and return of how many messages."""
        until, count = now + self.options.lease_ms / 1000, 0
        for delivery in self._had(consumer, first, last, is_late_fine=False):
            self._leases.begin(delivery, until)
            count += 1
        self._forgive(consumer)
        return count

    def _had(self, consumer: Subscription, first: int, last: int, *, is_late_fine: bool) -> Iterator[Delivery]:
        """Yield the messages in a range, see `ranges.py`, that `consumer` has or, where that is fine, had last."""
        pending = self.pending
        for offset in range(first, last + 1):
            delivery = pending.get(offset)
            if delivery is None or delivery.consumer is not consumer or delivery.state is State.DEAD:
                self.counters.late += 1
            elif is_late_fine or delivery.state is State.IN_FLIGHT:
                yield delivery

    def _answer(
        self,
        consumer: Subscription,
        first: int,
        last: int,
        act: Act,
        *,
        is_late_fine: bool = True,
        is_progress: bool = True,
    ) -> int:
        """Do what an answer asks for, give the credit back that the messages took, and return how many they were."""
        count = freed = begun = 0
        for delivery in self._had(consumer, first, last, is_late_fine=is_late_fine):
            if delivery.state is State.IN_FLIGHT:
                freed += 1
                begun += delivery.is_begun
            act(delivery)
            count += 1
        consumer.in_flight -= freed
        self.in_flight -= freed
        if not consumer.is_silent:
            consumer.begun -= begun
        if freed and consumer.window:
            self._give_credit(consumer, freed, is_progress=is_progress)
        self._forgive(consumer)
        return count

    def _give_credit(self, consumer: Subscription, freed: int, *, is_progress: bool) -> None:
        """Give credit back for messages; for what is given back because it was asked for, none for now."""
        if is_progress:
            consumer.answered += freed
            more = min(consumer.withheld, freed)
            consumer.withheld -= more
            self.pool.give(consumer, freed + more)
            return
        held = min(consumer.recalled, freed)
        consumer.recalled -= held
        consumer.withheld += held
        if freed > held:
            self.pool.give(consumer, freed - held)

    def _forgive(self, consumer: Subscription) -> None:
        """Give a consumer that answers again the credit back that was kept because its leases had ended."""
        if consumer.overdue:
            overdue, consumer.overdue = consumer.overdue, 0
            self.pool.give(consumer, overdue)

    def _keep_back(self, consumer: Subscription) -> None:
        """Give a consumer nothing until it answers again."""
        if consumer.window and consumer.credit:
            consumer.overdue += consumer.credit
            self.pool.withdraw(consumer, consumer.credit)

    def refuse(self, consumer: Subscription, delivery: Delivery, reason: str) -> None:
        """Let a message be dead that was handed out and cannot be sent to its consumer."""
        if self.options.ack:
            delivery.consumer = None
            del consumer.had[delivery.offset]
            consumer.in_flight -= 1
            self.in_flight -= 1
        else:  # its key was freed, and others may have it
            delivery.key = b""
            self._undo(delivery)
        if self.options.ack or not consumer.window:
            self.pool.give(consumer)
        self._bury(delivery, reason)
        self.has_more = True

    # -- what time does ----------------------------------------------------------------------------------

    def next_at(self) -> float | None:
        """Return when `expire` should be called next, or None when nothing waits for a time."""
        at, look_at = super().next_at(), self.pace.at
        return look_at if at is None else at if look_at is None else min(at, look_at)

    def expire(self, now: float, now_ms: int) -> None:
        """Let messages come again whose lease has ended, and those come whose time has: EXPIRE_MAX at most.

        Where there are more, `next_at` is over already.
        """
        if self.pace.at is not None and self.pace.at <= now:
            self.pace.look(now)
        for delivery in self._leases.ended(now, EXPIRE_MAX):
            consumer = delivery.consumer
            assert consumer is not None
            consumer.in_flight -= 1
            self.in_flight -= 1
            consumer.overdue += bool(consumer.window)
            if delivery.is_begun:
                consumer.begun -= not consumer.is_silent
                self._fail(delivery, "its lease ended", now, now_ms, delay_ms=None)
            else:  # even what only lies in its buffer it does not renew: it hangs as a whole
                self._put_back(delivery)
                self._keep_back(consumer)
        for late in islice(self._delays.ended(now), EXPIRE_MAX):
            late.due_ms = 0
            if late.attempts or not late.key or self._take_key(late, None):
                self._wait(late)

    # -- moving ------------------------------------------------------------------------------------------

    def seek(self, position: int) -> None:
        """Go on from `position`; what is pending or in flight is forgotten."""
        self.position = position
        self.moves += 1
        self._buffer.clear()
        self.forget_all()
        self.in_flight = 0
        for consumer in list(self.pool.members):
            if consumer.window:
                self.pool.give(consumer, consumer.window - consumer.credit)
            consumer.in_flight = consumer.begun = consumer.overdue = consumer.withheld = consumer.recalled = 0
            consumer.had.clear()

    def settle(self, offsets: Iterable[int]) -> None:
        """Be done with messages that nobody was given, wherever they stand."""
        super().settle(offsets)
        self._buffer.clear()
