"""An RPC topic: a bounded queue of calls and the consumers that share it.

A call goes to the consumer with the most credit; among equals, to the one that waited longest. When nobody has
credit, calls wait in the order they came. Consumers with credit stand in buckets, one for each number of credits,
so that choosing one costs the same with one instance and with a thousand.

Pure: nothing here sends; `broker.py` does with the pairs of call and consumer that come out.
"""

from collections import OrderedDict, defaultdict

from zbusrpc.broker.session import Call, Consumer


class Topic:
    """The calls that wait for one service, and its instances."""

    __slots__ = ("_buckets", "_highest", "consumers", "queue")

    def __init__(self) -> None:
        self.consumers: dict[int, Consumer] = {}
        """The instances, by session number."""
        self.queue: OrderedDict[Call, None] = OrderedDict()
        """Calls that wait, the next one first."""
        self._buckets: defaultdict[int, dict[Consumer, None]] = defaultdict(dict)
        self._highest = 0

    @property
    def is_unused(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self.consumers and not self.queue

    # -- consumers ---------------------------------------------------------------------------------------

    def join(self, consumer: Consumer) -> None:
        """Let `consumer` take part."""
        self.consumers[consumer.session.number] = consumer
        self._enter(consumer)

    def leave(self, consumer: Consumer) -> None:
        """Give `consumer` nothing more; what it works on stays its own."""
        self._buckets[consumer.credit].pop(consumer, None)
        self.consumers.pop(consumer.session.number, None)

    def take_consumer(self) -> Consumer | None:
        """Return the least loaded consumer, with one credit taken from it, or None when all are busy."""
        bucket = self._buckets[self._highest]
        while not bucket:
            if self._highest == 0:
                return None
            self._highest -= 1
            bucket = self._buckets[self._highest]
        consumer = next(iter(bucket))
        del bucket[consumer]
        consumer.credit -= 1
        if consumer.credit:
            self._buckets[consumer.credit][consumer] = None
        return consumer

    def give_credit(self, consumer: Consumer) -> None:
        """Return one credit to `consumer`: a request of its window has ended."""
        self._buckets[consumer.credit].pop(consumer, None)
        consumer.credit += 1
        self._enter(consumer)

    def suspend(self, consumer: Consumer) -> None:
        """Give `consumer` nothing until `resume`."""
        self._buckets[consumer.credit].pop(consumer, None)

    def resume(self, consumer: Consumer) -> None:
        """Give `consumer` work again."""
        self._enter(consumer)

    def _enter(self, consumer: Consumer) -> None:
        credit = consumer.credit
        is_member = self.consumers.get(consumer.session.number) is consumer
        if credit and is_member and not consumer.session.is_congested:
            self._buckets[credit][consumer] = None
            self._highest = max(self._highest, credit)

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
