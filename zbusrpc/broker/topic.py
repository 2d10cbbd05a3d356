"""An RPC topic: a bounded queue of calls and the consumers that share it.

A call goes to the consumer with the most credit. When nobody has credit, calls wait in the order they came.

Pure: nothing here sends; `calls.py` does with the pairs of call and consumer that come out.
"""

from collections import OrderedDict

from zbusrpc.broker.call_statistics import CallStatistics
from zbusrpc.broker.credits import CreditPool
from zbusrpc.broker.session import Call, Consumer


class Topic:
    """The calls that wait for one service, and its instances."""

    __slots__ = ("consumers", "pool", "queue", "statistics")

    def __init__(self) -> None:
        self.consumers: dict[int, Consumer] = {}
        """The instances, by session number."""
        self.pool: CreditPool[Consumer] = CreditPool()
        """The same, by credit."""
        self.queue: OrderedDict[Call, None] = OrderedDict()
        """Calls that wait, the next one first."""
        self.statistics = CallStatistics()

    @property
    def is_unused(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self.consumers and not self.queue

    # -- consumers ---------------------------------------------------------------------------------------

    def join(self, consumer: Consumer) -> None:
        """Let `consumer` take part."""
        self.consumers[consumer.session.number] = consumer
        consumer.statistics = self.statistics
        self.pool.join(consumer, is_suspended=consumer.session.is_congested)

    def leave(self, consumer: Consumer) -> None:
        """Give `consumer` nothing more; what it works on stays its own."""
        self.pool.leave(consumer)
        self.consumers.pop(consumer.session.number, None)

    # -- calls -------------------------------------------------------------------------------------------

    def put(self, call: Call, *, is_first: bool = False) -> None:
        """Let `call` wait, last in line or (when an instance failed it) first."""
        self.queue[call] = None
        if is_first:
            self.queue.move_to_end(call, last=False)

    def discard(self, call: Call) -> None:
        """Take `call`, which is waiting, out of the queue wherever it stands."""
        del self.queue[call]

    def take_call(self) -> Call | None:
        """Return the next call, taken out of the queue, or None when none waits."""
        if not self.queue:
            return None
        call, _ = self.queue.popitem(last=False)
        return call
