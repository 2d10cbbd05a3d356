"""Deliveries: what a group has read and is not done with, and what becomes of each.

A message is done when it is acknowledged, or when its time to live has ended. Until then it comes again, after a wait
or at once, and not at all after `max_attempts`: then it is `dead`, and whoever drives the group puts it into the
dead-letter topic. Messages with one key wait for one another.

Promises: every change is in `changes` (see cursor.py); messages with one key are handed out one at a time, in the order
of the log.

Pure: time comes in, records come from `load`, randomness from `jitter`.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Final

from zbusrpc.broker.mq.counters import GroupCounters
from zbusrpc.broker.mq.cursor import Cursor
from zbusrpc.broker.mq.delays import Delays
from zbusrpc.broker.mq.delivery import Delivery, State
from zbusrpc.broker.mq.keys import KeyOrder
from zbusrpc.broker.mq.leases import PRUNE_MIN, Leases
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.mq.standing import Pending
from zbusrpc.broker.storage.record import Record

PASS_STEP: Final = 16
"""Messages that are passed, or restored, at one step: of a turn (see `slices.py`) some 2000, 3 ms."""
LEARN_MAX: Final = 256
"""Messages whose keys are learnt in one turn: each is a seek where they lie far apart."""

_ASIDE: Final = (State.HELD, State.DELAYED, State.DEAD)

Load = Callable[[int], Record | None]
"""Return the record at an offset, or None where it is gone."""


class Deliveries(Cursor):
    """The messages that a group has in hand."""

    def __init__(
        self,
        name: str,
        options: GroupOptions,
        position: int,
        *,
        start: Callable[[], int],
        load: Load,
        jitter: Callable[[], float],
    ) -> None:
        super().__init__(name, options, position)
        self.dead: list[tuple[Delivery, str]] = []
        """What used up its attempts, and why: to be taken by whoever drives the group."""
        self.counters = GroupCounters()
        self._start, self._load, self._jitter = start, load, jitter
        self._waiting: list[int] = []  # a heap of offsets
        self._delays = Delays()
        self._leases = Leases()
        self._keys = KeyOrder()
        self._unlearned: deque[int] = deque()  # offsets of which the key is not known, rising
        self._aside = dict.fromkeys(_ASIDE, 0)
        self._oldest = 0  # nothing below it is pending
        self._left_behind = 0  # pending below `_start_seen`, which is not above `position`
        self._start_seen = 0

    # -- what there is -----------------------------------------------------------------------------------

    def count_in(self, state: State) -> int:
        """Return how many of the messages that are neither in flight nor waiting are in a state."""
        return self._aside[state]

    def oldest(self) -> int:
        """Return the lowest offset that the group is not done with."""
        pending, first = self.pending, self._oldest
        if not pending:
            return self.position
        for offset in range(first, min(self.position, first + len(pending)) + 1):
            if offset in pending:
                break
        else:  # they are far apart
            offset = min(pending)
        self._oldest = offset
        return offset

    def count_from(self, start: int) -> int:
        """Return how many of its messages lie at `start`, before which the log has no more, or behind it.

        What retention passes is looked at once, and not with each listing.
        """
        if start >= self.position:
            return 0
        seen = self._start_seen
        if seen < start:
            between = range(seen, start)
            self._left_behind += (
                sum(offset in self.pending for offset in between)
                if len(between) < len(self.pending)
                else sum(offset in between for offset in self.pending)
            )
            self._start_seen = start
        return len(self.pending) - self._left_behind

    def _take_in(self, delivery: Delivery) -> Delivery:
        """Have a message in hand that lies behind."""
        self._left_behind += delivery.offset < self._start_seen
        self.pending[delivery.offset] = delivery
        self._oldest = min(self._oldest, delivery.offset)
        return delivery

    def _undo(self, delivery: Delivery) -> None:
        """Have a message in hand again that counted as done when it was handed out."""
        self.counters.acked -= 1
        self._take_in(delivery)

    def _move(self, delivery: Delivery, state: State) -> None:
        """Let a message be in another state."""
        if delivery.state in self._aside:
            self._aside[delivery.state] -= 1
        if state in self._aside:
            self._aside[state] += 1
        delivery.state = state

    # -- what comes again --------------------------------------------------------------------------------

    def _next_again(self, now_ms: int) -> tuple[Delivery, Record] | None:
        """Return the first of those that wait to be handed out again."""
        while self._waiting:
            delivery = self.pending.get(self._waiting[0])
            if delivery is None or delivery.state is not State.WAITING:
                heappop(self._waiting)
                continue
            record = self._keys.take_record(delivery) or self._load(delivery.offset)
            heappop(self._waiting)  # not before the disk has given it
            if record is None:
                self._count_missing(delivery.offset, delivery.offset + 1)
                self._finish(delivery)
            elif not delivery.is_lifted and self._has_expired(record, now_ms):
                self._finish(delivery)
            else:
                self.counters.redelivered += delivery.attempts > 0
                return delivery, record
        return None

    def _count_missing(self, first: int, end: int) -> None:
        """Count messages from `first` to before `end` that are not there any more."""
        removed = max(0, min(end, self._start()) - first)
        self.counters.removed += removed
        self.counters.compacted += end - first - removed

    # -- what becomes of messages ------------------------------------------------------------------------

    def finish(self, delivery: Delivery) -> None:
        """Take note that a dead message is stored where it belongs, or was dropped."""
        if self.pending.get(delivery.offset) is delivery:
            self._finish(delivery)

    def _finish(self, delivery: Delivery) -> None:
        del self.pending[delivery.offset]
        if delivery.offset < self._start_seen:
            self._left_behind -= 1
        if delivery.consumer is not None:
            del delivery.consumer.had[delivery.offset]
            delivery.consumer = None
        if delivery.state in self._aside:
            self._aside[delivery.state] -= 1
        delivery.until = 0.0
        self._changes.touch(delivery.offset)
        following = self._keys.free(delivery.key) if delivery.key else None
        if following is not None:
            self._wait(following)

    def _fail(self, delivery: Delivery, reason: str, now: float, now_ms: int, *, delay_ms: float | None) -> None:
        if delivery.attempts >= self.options.max_attempts:
            self._bury(delivery, f"{reason} (attempt {delivery.attempts} of {self.options.max_attempts})")
            return
        if delay_ms is None:
            delay_ms = self.options.longest_wait_ms(delivery.attempts) * (0.5 + self._jitter() / 2)
        if delay_ms > 0:
            self._delay(delivery, now, now_ms + round(delay_ms), delay_ms)
        else:
            self._wait(delivery)

    def _put_back(self, delivery: Delivery) -> None:
        delivery.attempts -= 1
        self._wait(delivery)

    def _bury(self, delivery: Delivery, reason: str) -> None:
        self._move(delivery, State.DEAD)
        self.counters.dead += 1
        self._changes.touch(delivery.offset)
        self.dead.append((delivery, reason))

    def _has_expired(self, record: Record, now_ms: int) -> bool:
        has_expired = 0 < record.expiry_ms <= now_ms
        self.counters.expired += has_expired
        return has_expired

    def _delay(self, delivery: Delivery, now: float, due_ms: int, delay_ms: float) -> None:
        delivery.due_ms = due_ms
        self._move(delivery, State.DELAYED)
        self._delays.begin(delivery, now + delay_ms / 1000)
        self._changes.touch(delivery.offset)

    def _wait(self, delivery: Delivery) -> None:
        self._move(delivery, State.WAITING)
        heappush(self._waiting, delivery.offset)
        self._changes.touch(delivery.offset)

    # -- what is tried again, and what is over -----------------------------------------------------------

    def take_back(self, offset: int) -> None:
        """Deliver a message again that counts as done because it was sent, and did not come."""
        if self.is_done(offset):
            self.counters.acked -= 1
            self.revive(offset)

    def revive(self, offset: int) -> None:
        """Deliver a message again that is done, as if it had never been handed out."""
        if offset < self.position and offset not in self.pending:
            if self._unlearned:
                self._wait(self._take_in(Delivery(offset, b"", State.WAITING)))
                insort(self._unlearned, offset)
                return
            record = self._load(offset)
            delivery = self._take_in(Delivery(offset, record.key if record else b"", State.WAITING))
            if not delivery.key or self._take_key(delivery, record):
                self._wait(delivery)

    def try_again(self, offset: int) -> None:
        """Deliver a message again that the group has passed, whatever its time to live."""
        self.revive(offset)
        self.pending[offset].is_lifted = True
        self._changes.touch(offset)

    def settle(self, offsets: Iterable[int]) -> None:
        """Be done with messages that nobody was given, wherever they stand."""
        done = set(offsets)
        for _ in self.passing(max(done, default=-1) + 1):
            pass
        for offset in done & self.pending.keys():
            self._finish(self.pending[offset])
        if len(self._waiting) > 2 * len(self.pending) + PRUNE_MIN:
            self._waiting = sorted(offset for offset in self._waiting if offset in self.pending)

    def passing(self, until: int) -> Iterator[int]:
        """Pass messages before `until` that nobody was given, some at each step: then they wait."""
        while self.position < until:
            for offset in range(self.position, min(until, self.position + PASS_STEP)):
                self.pending[offset] = delivery = Delivery(offset, b"", State.WAITING)
                self._wait(delivery)
                self.position = offset + 1
            yield 0

    # -- what time does ----------------------------------------------------------------------------------

    def next_at(self) -> float | None:
        """Return when `expire` should be called next, or None when nothing waits for a time."""
        times = [self._leases.next_at(), self._delays.next_at()]
        return min((at for at in times if at is not None), default=None)

    # -- keys --------------------------------------------------------------------------------------------

    def _take_key(self, delivery: Delivery, record: Record | None) -> bool:
        """Take the key of a message, or let it be held behind others; False then."""
        self._changes.touch(delivery.offset)
        if self._keys.take(delivery, record):
            return True
        self._move(delivery, State.HELD)
        return False

    def _learn_keys(self) -> bool:
        """After a restart: find out which keys are busy, before anything is handed out; False while some are left.

        Raises:
            ReadFailedError: the disk did not give a message; it is tried again with the next call.
        """
        unlearned = self._unlearned
        for _ in range(LEARN_MAX):
            if not unlearned:
                return True
            delivery = self.pending.get(unlearned[0])
            if delivery is not None and delivery.state is not State.DEAD:
                record = self._load(delivery.offset)
                if record is not None and record.key and not self._keys.learn(delivery, record.key):
                    self._move(delivery, State.HELD)
            unlearned.popleft()
        return not unlearned

    # -- after a restart, and when it is moved -----------------------------------------------------------

    def forget_all(self) -> None:
        """Have nothing in hand any more."""
        self._waiting.clear()
        self._delays.clear()
        self._leases.clear()
        self._keys.clear()
        self._unlearned.clear()
        self.pending.clear()
        self._aside = dict.fromkeys(_ASIDE, 0)
        self._oldest = self._left_behind = self._start_seen = 0
        self._changes.rewrite()

    def restore(self, pending: Pending, now: float, now_ms: int) -> None:
        """Take over what was pending before a restart: offsets with their attempts and due times."""
        for _ in self.restoring(pending, now, now_ms):
            pass

    def restoring(self, pending: Pending, now: float, now_ms: int) -> Iterator[int]:
        """Do what `restore` does, some of it at each step: nothing is to be asked of the group before all are done."""
        offsets = sorted(pending)
        for number, offset in enumerate(offsets):
            attempts, due_ms, is_lifted = pending[offset]
            delivery = self._take_in(Delivery(offset, b"", State.WAITING, attempts))
            delivery.is_lifted = is_lifted
            if attempts >= self.options.max_attempts:
                self._bury(delivery, f"all {attempts} attempts are used up")
            elif due_ms > now_ms:
                self._delay(delivery, now, due_ms, due_ms - now_ms)
            else:
                self._wait(delivery)
            if number % PASS_STEP == PASS_STEP - 1:
                yield 0
        self._unlearned = deque(offsets)
