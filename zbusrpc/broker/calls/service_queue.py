"""A service queue: the calls of one service that wait, in bounds, and the instances that share them.

A call goes to the instance with the most credit. When nobody has credit, calls wait in the order they came.

Where instances differ in their methods (see `editions.py`), or a call waits for a method that none of them has, calls
are routed: each waits in the line of those that the same editions can take, and the oldest goes first among the lines
of the editions that have credit. Whoever waits for a method that is busy, or not there, holds up nobody else.

Pure: nothing here sends; `calls.py` does with the pairs of call and instance that come out.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from zbusrpc.broker.calls.call import Call, Instance
from zbusrpc.broker.calls.editions import Editions
from zbusrpc.broker.calls.statistics import CallStatistics
from zbusrpc.broker.sessions.credits import CreditPool
from zbusrpc.errors import ProtocolError
from zbusrpc.message import Flag

_WAIT_FOR_READY: Final = int(Flag.WAIT_FOR_READY)


class ServiceQueue:
    """The calls that wait for one service, and its instances."""

    __slots__ = (
        "_first",
        "_last",
        "_lines",
        "_places",
        "consumers",
        "editions",
        "is_routed",
        "payer",
        "pool",
        "queue",
        "statistics",
    )

    def __init__(self, payer: int = 0) -> None:
        self.payer = payer
        """Of whose share it takes; see `shares.py`."""
        self.consumers: dict[int, Instance] = {}
        """The instances, by session number."""
        self.editions = Editions()
        """The same, by the methods they have."""
        self.pool: CreditPool[Instance] = CreditPool()
        """The same, by credit; where calls are routed only those of one edition."""
        self.is_routed = False
        """Whether it matters for which method a call is."""
        self.queue: OrderedDict[Call, None] = OrderedDict()
        """Calls that wait, the next one first."""
        self.statistics = CallStatistics()
        self._lines: dict[int, OrderedDict[Call, int]] = {}
        """Where calls are routed: the same calls with their numbers, by the bits of the editions that can take them."""
        self._places: dict[Call, int] = {}
        """The line in which each stands."""
        self._first = self._last = 0

    @property
    def is_unused(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self.consumers and not self.queue

    # -- consumers ---------------------------------------------------------------------------------------

    def join(self, consumer: Instance) -> bool:
        """Let `consumer` take part; say whether it is the first with its methods."""
        self.consumers[consumer.session.number] = consumer
        consumer.statistics = self.statistics
        is_new = self.editions.join(consumer, is_suspended=consumer.session.is_congested)
        if is_new:
            self._route()
        return is_new

    def widen(self, consumer: Instance, window: int) -> None:
        """Give `consumer` a larger window: it may have begun with a small one, for old work that has ended now.

        Raises:
            ProtocolError: it is not larger.
        """
        if window <= consumer.window or consumer.is_pulling:
            name = consumer.topic.decode(errors="replace")
            raise ProtocolError(f"session {consumer.session.number} serves {name} already")
        more, consumer.window = window - consumer.window, window
        consumer.pool.give(consumer, more)

    def leave(self, consumer: Instance) -> None:
        """Give `consumer` nothing more; what it works on stays its own."""
        self.consumers.pop(consumer.session.number, None)
        if self.editions.leave(consumer):
            self._route()

    def take(self) -> Instance | None:
        """Return a consumer that can take one of the calls that wait, with one credit taken from it; or None."""
        if not self.is_routed:
            return self.pool.take()
        ready = self.editions.ready()
        heads = [(next(iter(line.values())), able) for able, line in self._lines.items() if able & ready]
        return self.editions.take(min(heads)[1]) if heads else None

    def take_able(self, call: Call) -> Instance | None:
        """Return a consumer that can take a call that came now, with one credit taken from it; or None."""
        return self.editions.take(self.editions.able(call.message.body))

    def is_able(self, body: bytes | bytearray) -> bool:
        """Whether there is an instance with the method that a request names, as far as they tell."""
        return bool(self.editions.able(body))

    # -- calls -------------------------------------------------------------------------------------------

    def put(self, call: Call, *, is_first: bool = False) -> None:
        """Let `call` wait, last in line or (when an instance failed it) first."""
        self.queue[call] = None
        if is_first:
            self.queue.move_to_end(call, last=False)
        if self.is_routed:
            self._line_up(call, is_first=is_first)
        elif call.message.flags & _WAIT_FOR_READY and self.consumers and not self.is_able(call.message.body):
            self._route()

    def discard(self, call: Call) -> None:
        """Take `call`, which is waiting, out of the queue wherever it stands."""
        del self.queue[call]
        if self.is_routed:
            able = self._places.pop(call)
            line = self._lines[able]
            del line[call]
            if not line:
                del self._lines[able]
                if not able or not self.queue:
                    self._route()

    def take_call(self, consumer: Instance) -> Call | None:
        """Return the next call for a consumer, taken out of the queue, or None when none waits for it."""
        if not self.is_routed:
            return self.queue.popitem(last=False)[0] if self.queue else None
        bit = self.editions.bit_of(consumer)
        heads = [next(iter(line.items())) for able, line in self._lines.items() if able & bit]
        if not heads:
            return None
        call, _ = min(heads, key=lambda head: head[1])
        self.discard(call)
        return call

    def unserved(self) -> Collection[Call]:
        """Return the calls that wait for what no consumer has."""
        if not self.consumers:
            return list(self.queue)
        return list(self._lines.get(0, ()))

    def is_unserved(self, call: Call) -> bool:
        """Whether a call that waits does so for what no consumer has."""
        return not self.consumers or self._places.get(call) == 0

    # -- lines -------------------------------------------------------------------------------------------

    def _route(self) -> None:
        """See anew whether it matters for which method a call is, and where each stands."""
        editions = self.editions.all.values()
        self.pool = next((edition.pool for edition in editions), self.pool)
        self.is_routed = bool(editions) and (len(editions) > 1 or bool(self.queue))
        self._lines.clear()
        self._places.clear()
        if self.is_routed:
            for call in self.queue:
                self._line_up(call)
            if len(editions) == 1 and 0 not in self._lines:  # the one there is can take them all
                self.is_routed = False
                self._lines.clear()
                self._places.clear()

    def _line_up(self, call: Call, *, is_first: bool = False) -> None:
        able = self._places[call] = self.editions.able(call.message.body)
        line = self._lines.get(able)
        if line is None:
            line = self._lines[able] = OrderedDict()
        if is_first:
            self._first -= 1
            line[call] = self._first
            line.move_to_end(call, last=False)
        else:
            self._last += 1
            line[call] = self._last
