"""Producers, consumers and commands of plain topics over several brokers, each a process of its own."""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.support.broker_set import BrokerSet
from tests.support.processes import Processes
from tests.support.queue_load import Load, end
from tests.support.queue_peer import QueuePeer
from tests.support.waiting import eventually, wait_until
from zbusrpc import Code, Consumer, Producer, RpcError, mq
from zbusrpc.cluster.fleets import close_fleets, fleet_of_loop
from zbusrpc.mq.message import ReceivedMessage
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio

TOPIC, GROUP = "orders", "all"
LEFT_WITHIN_S = 3.0
"""A broker that answers nothing is left within two seconds; one more is for a busy machine."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerSet]:
    """Run three brokers for all tests that harm none; each has a topic of its own."""
    with Processes(tmp_path_factory.mktemp("shared")) as processes:
        own = BrokerSet(processes, 3)
        own.wait_known(0, 1, 2)
        yield own


@pytest.fixture
async def brokers(processes: Processes) -> AsyncIterator[BrokerSet]:
    """Run three brokers that know each other."""
    own = BrokerSet(processes, 3)
    await asyncio.to_thread(own.wait_known, 0, 1, 2)
    yield own
    await close_fleets()


class Flow:
    """A producer that sends until it is stopped, a consumer that acknowledges all, and what became of it."""

    def __init__(self, address: str, topic: str = TOPIC) -> None:
        self._address, self._topic = address, topic
        self._stack = AsyncExitStack()
        self._is_over = False
        self.stored: list[str] = []
        """Bodies that have a receipt."""
        self.longest_s = 0.0
        self.bodies: dict[str, set[str]] = defaultdict(set)
        """The ids by which each body came."""
        self.by_key: dict[str, list[str]] = defaultdict(list)

    async def __aenter__(self) -> "Flow":
        consumer = await self._stack.enter_async_context(
            Consumer(self._topic, group=GROUP, body=str, broker=self._address)
        )
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(consumer.run(self._handle))
        self._stack.push_async_callback(consumer.close)
        self._producing = tasks.create_task(self._produce())
        return self

    async def _produce(self) -> None:
        async with Producer(self._topic, broker=self._address, body=str) as producer:
            number = 0
            while not self._is_over:
                body, began = f"{number:06}", time.monotonic()
                await producer.send(body, key=f"k{number % 16}" if number % 2 else None)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.stored.append(body)
                number += 1
                await asyncio.sleep(0.001)

    async def _handle(self, message: ReceivedMessage[str]) -> None:
        if message.body not in self.bodies and message.key:
            self.by_key[message.key].append(message.body)
        self.bodies[message.body].add(message.id)

    async def wait_more(self, count: int = 100) -> None:
        """Return when so many more messages have been stored, and as many have come."""
        stored, come = len(self.stored) + count, len(self.bodies) + count
        await eventually(lambda: len(self.stored) >= stored and len(self.bodies) >= come, f"{count} more messages")

    async def finish(self) -> None:
        """Stop sending, and return when all that was stored has come."""
        self._is_over = True
        await self._producing
        await eventually(lambda: self.bodies.keys() >= {*self.stored}, "all that was stored")

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await self._stack.aclose()


async def counts(brokers: BrokerSet, topic: str = TOPIC) -> list[int]:
    """Return how many messages each broker has."""
    found = {one.broker: one.messages for one in await mq.topics(match=topic, broker=brokers.all)}
    return [found.get(address, 0) for address in brokers.addresses]


async def served(brokers: BrokerSet, *indexes: int, topic: str = TOPIC) -> None:
    """Return when those brokers have a consumer, and all of them know."""
    await asyncio.to_thread(brokers.wait_served, topic, *indexes)


async def test_messages_are_spread_and_keys_stay_in_order(shared: BrokerSet, links: None) -> None:
    """One address leads to all brokers: each has a share, and messages of one key come in order from one of them."""
    async with Flow(shared.addresses[0], "spread") as flow:
        await served(shared, 0, 1, 2, topic="spread")
        await flow.wait_more(50)
        flow.by_key.clear()  # the first ones were sent while brokers came

        await flow.wait_more(400)
        await flow.finish()
    assert all(len(ids) == 1 for ids in flow.bodies.values())
    assert len(flow.by_key) == 8
    assert all(bodies == sorted(bodies) for bodies in flow.by_key.values())
    assert min(await counts(shared, "spread")) > 30


async def test_selectors_of_a_producer(shared: BrokerSet, links: None) -> None:
    """By "all" each message is stored everywhere, by "round-robin" frames in turn; keys stay together even so."""
    await mq.declare("selected", broker=shared.all)
    fleet = fleet_of_loop(parse_addresses(shared.all))
    await eventually(lambda: len(fleet.choices(b"selected")) == 3, "the topic known to be everywhere")
    async with Producer("selected", broker=shared.all, selector="all") as producer:
        await producer.send("one")
        await producer.send_batch(["two", "three"])
        await producer.send("with a key", key="k")
    assert await counts(shared, "selected") == [4, 4, 4]

    async with Producer("selected", broker=shared.all, selector="round-robin") as producer:
        for _ in range(6):
            await producer.send("in turn")
        assert await counts(shared, "selected") == [6, 6, 6]
        for _ in range(6):
            await producer.send("with a key", key="k")
    assert sorted(await counts(shared, "selected")) == [6, 6, 12]


async def test_frozen_broker_is_left_and_used_again(brokers: BrokerSet) -> None:
    """No message waits longer than three seconds; when the broker goes on, what is repeated has the same id."""
    async with Flow(brokers.all) as flow:
        await served(brokers, 0, 1, 2)
        await flow.wait_more()
        brokers.freeze(1)
        await flow.wait_more(500)
        brokers.thaw(1)
        before = (await counts(brokers))[1]
        while (await counts(brokers))[1] < before + 20:
            await flow.wait_more(20)
        await flow.finish()
    assert flow.longest_s < LEFT_WITHIN_S
    assert all(len(ids) == 1 for ids in flow.bodies.values())


async def test_brokers_come_and_go(brokers: BrokerSet) -> None:
    """A broker that joins later gets the topic, a consumer and messages; sending goes on when one ends or is killed."""
    await asyncio.to_thread(brokers.stop, 2)
    async with Flow(brokers.addresses[0]) as flow:
        await served(brokers, 0, 1)
        await asyncio.to_thread(brokers.start, 2)
        await served(brokers, 0, 1, 2)
        while not (await counts(brokers))[2]:
            await flow.wait_more(20)
        await asyncio.to_thread(brokers.stop, 2)
        await flow.wait_more()
        brokers.kill(1)
        await flow.wait_more()
        await asyncio.to_thread(brokers.start, 1)
        await asyncio.to_thread(brokers.start, 2)
        await flow.finish()
    assert flow.longest_s < LEFT_WITHIN_S
    assert all(len(ids) == 1 for ids in flow.bodies.values())


async def test_draining_broker_gives_back_and_is_left(brokers: BrokerSet) -> None:
    """What a consumer has in its hands is answered, what it has not begun is given back, and producers go elsewhere."""
    ending = brokers.addresses[2]
    async with Producer(TOPIC, broker=ending, body=str) as producer:
        await producer.send_batch([str(number) for number in range(50)])
    async with Consumer(TOPIC, group=GROUP, broker=brokers.all, body=str) as consumer:
        await served(brokers, 0, 1, 2)
        (begun,) = await consumer.fetch(1)
        brokers[2].send_signal(signal.SIGTERM)
        fleet = fleet_of_loop(parse_addresses(brokers.all))
        await eventually(lambda: fleet.topology.brokers[ending].state == "draining", "draining")
        async with Producer(TOPIC, broker=brokers.all, body=str) as producer:
            await producer.send("elsewhere")
        (other,) = await consumer.fetch(1)
        assert other.body == "elsewhere"
        await other.ack()

        assert brokers[2].is_running
        await begun.ack(confirmed=True)
        assert await asyncio.to_thread(brokers[2].wait_exit) == 0
        await asyncio.to_thread(brokers.start, 2)
        came = [message async for message in first(consumer, 49)]
    assert {message.body for message in came} == {str(number) for number in range(50)} - {begun.body}
    assert all(message.attempt == 1 for message in came)


async def first(consumer: Consumer[str], count: int) -> AsyncIterator[ReceivedMessage[str]]:
    """Yield so many messages, acknowledged."""
    for _ in range(count):
        message = await anext(consumer)
        await message.ack(confirmed=True)
        yield message


async def test_brokers_take_turns(shared: BrokerSet, links: None) -> None:
    """However much waits at one: a slow consumer takes a message of each in turn."""
    topic = "turns"
    await mq.declare(topic, broker=shared.all)
    await eventually(lambda: all(len(shared.consumers(one, topic)) == 3 for one in range(3)), "all know of the topic")
    for address, count in zip(shared.addresses, (30, 3, 3), strict=True):
        with QueuePeer(address) as peer:
            peer.produce(topic, *[f"{address} {number}" for number in range(count)])
    assert await counts(shared, topic) == [30, 3, 3]
    async with Consumer(topic, group="g", body=str, broker=shared.all) as consumer:
        await eventually(lambda: consumer._membership.buffered == 36, "all messages are here")
        first = [(await anext(consumer)).body.split()[0] for _ in range(9)]

    assert sorted(first) == sorted(shared.addresses * 3)


async def test_window_0_asks_all_brokers(shared: BrokerSet, links: None) -> None:
    """`fetch` of a consumer that gets nothing ahead finds what is stored at any broker, and nothing twice."""
    for index, address in enumerate(shared.addresses):
        await mq.declare("asked", broker=address)
        async with Producer("asked", broker=address, body=str) as producer:
            await asyncio.gather(*[producer.send(f"{index}-{number}") for number in range(5)])
    async with Consumer("asked", group=GROUP, broker=shared.all, window=0, body=str) as consumer:
        bodies: list[str] = []
        while len(bodies) < 15:
            for message in await consumer.fetch(4):
                bodies.append(message.body)
                await message.ack(confirmed=True)
        assert await consumer.fetch(4, timeout=0) == []
    assert len(set(bodies)) == 15


def test_ledger_holds_when_brokers_die(processes: Processes) -> None:
    """A broker is killed while messages are produced and consumed: what was acknowledged comes when it is back."""
    brokers = BrokerSet(processes, 3)
    brokers.wait_known(0, 1, 2)
    load = Load(processes, brokers.all)
    consumer = load.consume(TOPIC, GROUP)
    brokers.wait_served(TOPIC, 0, 1, 2)
    producer = load.produce(TOPIC, label="a")
    load.grow(50_000)
    for victim in (0, 1):
        brokers.kill(victim)
        load.grow(50_000)
        brokers.start(victim)
        load.grow(20_000)
    end(producer)
    wait_until(lambda: not load.ledger.verdict(TOPIC, GROUP).lost, "all that was acknowledged")
    end(consumer)

    verdict = load.ledger.verdict(TOPIC, GROUP)
    assert verdict.acked > 300
    assert not verdict.unexpected
    assert not verdict.torn


async def test_commands_concern_the_brokers_that_are_named(brokers: BrokerSet) -> None:
    """Listings put together what all have; what concerns offsets wants one broker; one that is away is left out."""
    first, second, third = brokers.addresses
    assert (await mq.declare(TOPIC, broker=f"{first};{second}")).is_new
    await mq.declare("single", broker=second)
    for address in (first, second):
        async with Producer(TOPIC, broker=address, declare=False) as producer:
            await asyncio.gather(*[producer.send("x") for _ in range(3)])

    found = await mq.topics(broker=brokers.all)
    assert [(one.name, one.broker) for one in found] == [
        *sorted((TOPIC, address) for address in (first, second)),
        ("single", second),
    ]
    assert (await mq.topic(TOPIC, broker=brokers.all)).messages == 6
    assert (await mq.stats(broker=brokers.all))["topics"] == 3
    with pytest.raises(RpcError, match=f"topic orders is at several brokers: {first}, {second}; name one"):
        await mq.peek(TOPIC, broker=brokers.all)
    assert len(await mq.peek("single", broker=brokers.all)) == 0
    listing = await asyncio.to_thread(brokers.processes.run, "topics", TOPIC, "--broker", brokers.all)
    lines = [line.split() for line in listing[1].splitlines()]
    assert [(words[0], words[-1]) for words in lines] == [
        ("TOPIC", "BROKER"),
        *sorted((TOPIC, address) for address in (first, second)),
    ]
    assert await mq.empty(TOPIC, broker=brokers.all) == 6

    brokers.kill(0)
    await mq.remove(TOPIC, broker=brokers.all)
    assert [one.name for one in await mq.topics(broker=brokers.all)] == ["single"]
    with pytest.raises(RpcError, match=f"cannot reach broker {first}.*{second}: there is no topic orders") as caught:
        await mq.remove(TOPIC, broker=brokers.all)
    assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(RpcError, match=f"{third}: there is no topic orders") as caught:
        await mq.remove(TOPIC, broker=f"{second};{third}")
    assert caught.value.code is Code.NOT_FOUND
