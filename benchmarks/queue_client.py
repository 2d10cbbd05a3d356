"""Our side of the queue benchmark: producers and consumers through the public API."""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from zbusrpc import Consumer, Producer, mq
from zbusrpc.cluster.fleets import close_fleets

TOPIC = "bench"


async def produce_tasks_per_s(address: str, body: bytes, in_flight: int, seconds: float) -> float:
    """Return acknowledged messages a second of `in_flight` tasks that each await their receipt."""
    async with Producer(TOPIC, broker=address) as producer:
        await producer.send(body)
        count = await keep_busy(lambda: producer.send(body), in_flight, seconds)
    await close_fleets()
    return count / seconds


async def produce_pipelined_per_s(address: str, body: bytes, in_flight: int, seconds: float) -> float:
    """Return acknowledged messages a second of one task with so many unanswered."""
    async with Producer(TOPIC, broker=address, in_flight_max=in_flight) as producer:
        await producer.send(body)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            for _ in range(100):
                await producer.send_pipelined(body)
            count += 100
        await producer.flush()
        elapsed = time.perf_counter() - begin
    await close_fleets()
    return count / elapsed


async def produce_batches_per_s(address: str, body: bytes, size: int, in_flight: int, seconds: float) -> float:
    """Return acknowledged messages a second in atomic batches, so many batches at a time."""
    batch = [body] * size
    async with Producer(TOPIC, broker=address, in_flight_max=2 * size * in_flight) as producer:
        await producer.send(body)
        count = await keep_busy(lambda: producer.send_batch(batch), in_flight, seconds)
    await close_fleets()
    return count * size / seconds


async def keep_busy(act: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> int:
    """Do `act` over and over in `in_flight` tasks, and return how often it was done."""
    until, count = time.perf_counter() + seconds, 0

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await act()
            count += 1

    await asyncio.gather(*[work() for _ in range(in_flight)])
    return count


async def consume_per_s(address: str, messages: int) -> float:
    """Return messages a second that one consumer with a window of 256 takes and acknowledges."""
    count = 0
    async with Consumer(TOPIC, group="window", broker=address, window=256) as consumer:
        begin = time.perf_counter()
        async for message in consumer:
            await message.ack()
            count += 1
            if count >= messages:
                break
        elapsed = time.perf_counter() - begin
    await close_fleets()
    return count / elapsed


async def fetch_per_s(address: str, messages: int, size: int) -> float:
    """Return messages a second that one consumer pulls by `size` and acknowledges."""
    count = 0
    async with Consumer(TOPIC, group="fetch", broker=address, window=0) as consumer:
        begin = time.perf_counter()
        while count < messages:
            fetched = await consumer.fetch(size, timeout=5)
            for message in fetched:
                await message.ack()
            count += len(fetched)
        elapsed = time.perf_counter() - begin
    await close_fleets()
    return count / elapsed


async def fill(address: str, body: bytes, messages: int) -> list[float]:
    """Store so many messages in batches, and return the rate of each of a hundred parts."""
    rates = []
    part = messages // 100
    batch = [body] * 500
    async with Producer(TOPIC, broker=address, in_flight_max=4000) as producer:
        await producer.send(body)
        for _ in range(100):
            begin = time.perf_counter()
            for _ in range(part // 2000):
                await asyncio.gather(*[producer.send_batch(batch) for _ in range(4)])
            rates.append((part // 2000) * 2000 / (time.perf_counter() - begin))
    await close_fleets()
    return rates


async def seek_ms(address: str, messages: int) -> dict[str, float]:
    """Return the median and the worst time of seeks by offset and by time, with the first message read there."""
    chance = random.Random(1)
    info = await mq.topic(TOPIC, broker=address)
    (first,) = await mq.peek(TOPIC, start=0, count=1, broker=address)
    (last,) = await mq.peek(TOPIC, start=info.next_offset - 1, count=1, broker=address)
    span = (last.timestamp - first.timestamp).total_seconds()
    by_offset, by_time = [], []
    for _ in range(200):
        begin = time.perf_counter()
        await mq.peek(TOPIC, start=chance.randrange(info.next_offset), count=1, broker=address)
        by_offset.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        start = first.timestamp + timedelta(seconds=chance.random() * span)
        await mq.peek(TOPIC, start=start, count=1, broker=address)
        by_time.append(time.perf_counter() - begin)
    await close_fleets()
    return {
        name: round(value * 1000, 3)
        for name, value in {
            "offset_p50": statistics.median(by_offset),
            "offset_max": max(by_offset),
            "time_p50": statistics.median(by_time),
            "time_max": max(by_time),
        }.items()
    }


async def declare_many(address: str, count: int) -> None:
    """Declare topics with one group and one message each."""
    for first in range(0, count, 200):
        names = [f"topic-{number}" for number in range(first, min(first + 200, count))]
        await asyncio.gather(*[mq.declare(name, broker=address) for name in names])
        await asyncio.gather(*[mq.declare_group(name, "group", broker=address) for name in names])
        producers = [Producer(name, broker=address) for name in names]
        await asyncio.gather(*[producer.send(b"x") for producer in producers])
        await asyncio.gather(*[producer.close() for producer in producers])
    await close_fleets()


async def latency_us(address: str, body: bytes, rate: int, seconds: float, options: dict[str, Any]) -> dict[str, float]:
    """Return p50 and p99 of single produces at a steady rate."""
    await mq.declare(TOPIC, broker=address, **options)
    latencies: list[float] = []
    async with Producer(TOPIC, broker=address) as producer:

        async def one() -> None:
            begin = time.perf_counter()
            await producer.send(body)
            latencies.append(time.perf_counter() - begin)

        tasks, begin = set(), time.perf_counter()
        while (now := time.perf_counter()) < begin + seconds:
            due = int((now - begin) * rate) - len(latencies) - len(tasks)
            for _ in range(due):
                task = asyncio.create_task(one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
    info = await mq.topic(TOPIC, broker=address)
    await close_fleets()
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "p50_us": round(cuts[49] * 1e6),
        "p99_us": round(cuts[98] * 1e6),
        "messages": len(latencies),
        "segments_removed": int(info.start_offset > 0),
    }
