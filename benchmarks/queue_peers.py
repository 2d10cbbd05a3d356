"""The peer of the queue benchmark: a JetStream file stream through nats-py, one process for each role.

A publisher keeps so many publishes under way and awaits each acknowledgement; a consumer pulls and acknowledges. Each
is run on asyncio's own event loop, as the documentation has it, and on uvloop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

STREAM = "BENCH"
FETCH = 256


async def connect(port: int) -> Any:
    """Return a client of the NATS server at `port`."""
    import nats

    return await nats.connect(f"nats://127.0.0.1:{port}")


async def publish_per_s(port: int, body: bytes, in_flight: int, seconds: float) -> float:
    """Return acknowledged publishes a second with `in_flight` of them under way."""
    client = await connect(port)
    jetstream = client.jetstream()
    await jetstream.add_stream(name=STREAM, subjects=["bench"], storage="file")
    count = await _keep_busy(lambda: jetstream.publish("bench", body), in_flight, seconds)
    await client.close()
    return count / seconds


async def consume_per_s(port: int, messages: int) -> float:
    """Return messages a second that one consumer pulls and acknowledges."""
    client = await connect(port)
    subscription = await client.jetstream().pull_subscribe("bench", durable="bench", stream=STREAM)
    begin, count = time.perf_counter(), 0
    while count < messages:
        for message in await subscription.fetch(FETCH, timeout=5):
            await message.ack()
            count += 1
    elapsed = time.perf_counter() - begin
    await client.close()
    return count / elapsed


async def _keep_busy(act: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> int:
    """Do `act` over and over in `in_flight` tasks, and return how often it was done."""
    until, count = time.perf_counter() + seconds, 0

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await act()
            count += 1

    await asyncio.gather(*[work() for _ in range(in_flight)])
    return count
