"""Attempts of real consumers that are lost in every way: only what their application was handed counts."""

import asyncio
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.processes import Processes, port_of
from tests.support.queue_peer import QueuePeer
from tests.support.relay import relaying
from tests.support.waiting import WAIT_S
from zbusrpc import Consumer, Producer, mq

TOPIC, GROUP = "orders", "billing"
MANY = [f"{number:03}" for number in range(100)]
ATTEMPTS = 3


async def prepared(address: str, *bodies: str) -> None:
    async with Producer(TOPIC, broker=address) as producer:
        await producer.send_batch(bodies)
    await mq.declare_group(TOPIC, GROUP, broker=address, max_attempts=ATTEMPTS, backoff=0, lease=30)


async def begun(address: str, count: int) -> None:
    """Return when the broker knows that so many messages were begun, of all that it has sent."""
    async with asyncio.timeout(WAIT_S):
        while True:
            group = (await mq.topic(TOPIC, broker=address)).groups[0]
            if group.begun == count and group.in_flight == len(MANY):
                return
            await asyncio.sleep(0.01)


async def handed(consumer: Consumer[str], attempt: int) -> None:
    """Return when the first message was handed out that many times; what is left of a lost link may come before."""
    message = await anext(consumer)
    while (message.body, message.attempt) != (MANY[0], attempt):
        message = await anext(consumer)


async def dead(address: str) -> list[str]:
    return [letter.body.decode() for letter in await mq.dead_letters(TOPIC, count=1000, broker=address)]


async def left(address: str) -> list[tuple[str, int]]:
    """Return what a new consumer gets, with the numbers of the delivery."""
    found: list[tuple[str, int]] = []
    async with Consumer(TOPIC, group=GROUP, broker=address, body=str) as consumer:
        while messages := await consumer.fetch(1000, timeout=0.3):
            found += [(message.body, message.attempt) for message in messages]
            for message in messages:
                message.ack_nowait()
    return found


@pytest.mark.anyio
async def test_cut_links_count_for_what_was_begun_alone(processes: Processes, tmp_path: Path, links: None) -> None:
    """However often a link is cut, only the message that was in hand goes to the dead letters."""
    _, address = processes.broker("--data-dir", str(tmp_path / "data"))
    await prepared(address, *MANY)
    async with relaying(address) as relay, Consumer(TOPIC, group=GROUP, broker=relay.address, body=str) as consumer:
        for attempt in range(1, ATTEMPTS + 1):
            async with asyncio.timeout(WAIT_S):
                await handed(consumer, attempt)
                await begun(address, 1)
            relay.cut()

    assert [body for body, attempt in await left(address) if attempt == 1] == MANY[1:]
    assert await dead(address) == MANY[:1]


@pytest.mark.anyio
async def test_kills_of_the_broker_count_for_what_was_begun_alone(
    processes: Processes, tmp_path: Path, links: None
) -> None:
    """However often the broker is killed, only the message that was in hand goes to the dead letters."""
    data = str(tmp_path / "data")
    broker, address = processes.broker("--data-dir", data)
    await prepared(address, *MANY)
    async with Consumer(TOPIC, group=GROUP, broker=address, body=str) as consumer:
        for attempt in range(1, ATTEMPTS + 1):
            async with asyncio.timeout(WAIT_S):
                await handed(consumer, attempt)
                await begun(address, 1)
            with QueuePeer(address) as peer:  # the journal is written with what is confirmed
                other = peer.consume(TOPIC, GROUP, window=1)
                peer.ack(other, 10_000)
            broker.kill()
            broker, _ = processes.broker("--data-dir", data, port=port_of(address))

    assert [body for body, attempt in await left(address) if attempt == 1] == MANY[1:]
    assert await dead(address) == MANY[:1]


def _die_at_poison(address: str) -> None:
    async def consume() -> None:
        async with Consumer(TOPIC, group=GROUP, broker=address, body=str) as consumer:
            async for message in consumer:
                if "poison" in message.body:
                    os._exit(9)
                message.ack_nowait()

    asyncio.run(consume())


@pytest.mark.anyio
@pytest.mark.parametrize("place", [0, 40])
async def test_message_that_kills_its_consumers_in_no_time_is_the_only_dead_letter(
    processes: Processes, tmp_path: Path, links: None, place: int
) -> None:
    """A process that dies in the turn in which it is handed a message has let the broker know which one it was."""
    _, address = processes.broker("--data-dir", str(tmp_path / "data"))
    bodies = [*MANY[:place], "poison", *MANY[place:]]
    await prepared(address, *bodies)
    context = multiprocessing.get_context("forkserver")

    for _ in range(ATTEMPTS):
        process = context.Process(target=_die_at_poison, args=(address,))
        process.start()
        await asyncio.to_thread(process.join, WAIT_S)
        assert process.exitcode == 9
        process.close()

    assert await left(address) == [(body, 1) for body in MANY[place:]]
    assert await dead(address) == ["poison"]


# -- a body that blocks its event loop -----------------------------------------------------------------------


def test_acknowledgements_leave_while_the_body_of_a_loop_blocks(processes: Processes, tmp_path: Path) -> None:
    """A body that never awaits has each message acknowledged before it is handed the next but one."""
    _, address = processes.broker("--data-dir", str(tmp_path / "data"))
    bodies = [str(number) for number in range(5)]

    def wait_acknowledged(count: int) -> None:
        deadline = time.monotonic() + WAIT_S
        with QueuePeer(address) as peer:
            while peer.group(TOPIC, GROUP)["counters"]["acked"] < count:
                assert time.monotonic() < deadline, f"{count} acknowledgements have not come"
                time.sleep(0.005)

    async def consume(pool: ThreadPoolExecutor) -> list[str]:
        await prepared(address, *bodies)
        seen: list[str] = []
        async with Consumer(TOPIC, group=GROUP, broker=address, body=str) as consumer:
            async for message in consumer:
                time.sleep(0.02)  # noqa: ASYNC251 - that is what the test is about
                pool.submit(wait_acknowledged, len(seen)).result()
                seen.append(message.body)
                message.ack_nowait()
                if len(seen) == len(bodies):
                    break
        return seen

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(consume(pool)) == bodies
