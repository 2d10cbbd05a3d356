"""Producers and consumers whose connections are cut and held back, at random: nothing is lost or mixed up."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.relay import Relay, relaying
from tests.support.waiting import eventually
from zbusrpc import Consumer, Producer, mq
from zbusrpc.testing import running_broker

pytestmark = pytest.mark.anyio

TOPIC, MESSAGES, PRODUCERS = "orders", 400, 2


@pytest.mark.parametrize("seed", range(3))
async def test_messages_survive_cuts_on_both_sides(tmp_path: Path, seed: int) -> None:
    """Each message is stored once, in the order of its producer, and handed out at least once."""
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    async with (
        running_broker(data_dir=tmp_path) as broker,
        relaying(broker) as to_producers,
        relaying(broker) as to_consumers,
        consumer(to_consumers.address) as first,
        consumer(to_consumers.address) as second,
    ):
        cutting = asyncio.create_task(cut_at_random([to_producers, to_consumers], chance))
        consuming = [asyncio.create_task(run(first, seen)), asyncio.create_task(loop_over(second, seen))]
        await asyncio.gather(*[produce(to_producers.address, name, chance) for name in range(PRODUCERS)])
        await eventually(lambda: len(seen) == PRODUCERS * MESSAGES, f"all messages, with seed {seed}", timeout_s=60)
        for task in (cutting, *consuming):
            task.cancel()
        await asyncio.gather(cutting, *consuming, return_exceptions=True)

        stored = [message.body.decode() for message in await mq.peek(TOPIC, count=1000, broker=broker)]

    for name in range(PRODUCERS):
        own = [body for body in stored if body.startswith(f"{name}-")]
        assert own == [f"{name}-{number}" for number in range(MESSAGES)], f"seed {seed}"


async def cut_at_random(relays: list[Relay], chance: random.Random) -> None:
    """Cut connections, some after nothing came through for a while."""
    while True:
        await asyncio.sleep(chance.random() * 0.1)
        relay = chance.choice(relays)
        if chance.random() < 0.5:
            chance.choice([relay.hold_answers, relay.hold_requests])()
            await asyncio.sleep(chance.random() * 0.02)
        relay.cut()


async def produce(broker: str, name: int, chance: random.Random) -> None:
    """Send messages in every way, some with a key."""
    async with Producer(TOPIC, broker=broker, in_flight_max=chance.choice([1, 10, 100])) as producer:
        for number in range(MESSAGES):
            body, way = f"{name}-{number}", chance.random()
            if way < 0.05:
                await producer.send_batch([mq.Outgoing(body, key=str(name))])
            elif way < 0.1:
                await producer.send(body)
                await asyncio.sleep(chance.random() * 0.01)
            else:
                await producer.send_pipelined(body, key=str(name) if way < 0.5 else None)


def consumer(broker: str) -> Consumer[str]:
    """Return a consumer to whom messages may come again and again."""
    return Consumer(TOPIC, group="g", body=str, broker=broker, backoff=0.01, max_attempts=1000)


async def run(own: Consumer[str], seen: Counter[str]) -> None:
    """Let handlers have messages."""

    async def handle(message: mq.ReceivedMessage[str]) -> None:
        await asyncio.sleep(0)
        seen[message.body] += 1

    await own.run(handle)


async def loop_over(own: Consumer[str], seen: Counter[str]) -> None:
    """Acknowledge messages one by one."""
    async for message in own:
        seen[message.body] += 1
        await message.ack()
