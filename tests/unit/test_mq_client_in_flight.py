"""What a producer has in flight: bounds, order of those who wait, and those who give up."""

import asyncio

import pytest

from zbusrpc.mq.in_flight import InFlight

pytestmark = pytest.mark.anyio


def waiting(in_flight: InFlight, count: int, admitted: list[int]) -> "list[asyncio.Task[None]]":
    """Let tasks wait for room for one message each, and note in which order they get it."""

    async def wait(number: int) -> None:
        await in_flight.wait(1, 10)
        admitted.append(number)

    return [asyncio.create_task(wait(number)) for number in range(count)]


async def test_is_full_at_either_bound() -> None:
    """By number or by bytes; the last message may exceed the bytes."""
    in_flight = InFlight(3, 100)
    in_flight.take(2, 10)
    assert not in_flight.is_full
    in_flight.take(1, 10)
    assert in_flight.is_full
    assert str(in_flight) == "3 of 3 messages, 20 of 100 bytes"
    in_flight.give(1, 10)
    assert not in_flight.is_full
    in_flight.take(0, 500)
    assert in_flight.is_full


async def test_those_who_wait_are_let_in_in_order_and_not_overtaken() -> None:
    """As many as there is room for; nobody else while they are on their way."""
    in_flight, admitted = InFlight(2, 1000), list[int]()
    in_flight.take(2, 20)
    tasks = waiting(in_flight, 3, admitted)
    await asyncio.sleep(0)

    in_flight.give(1, 10)
    assert in_flight.is_full
    in_flight.give(1, 10)
    await asyncio.sleep(0)
    assert admitted == [0, 1]
    in_flight.give(2, 20)
    assert in_flight.is_full  # one is let in and has not run yet
    await asyncio.sleep(0)

    assert admitted == [0, 1, 2]
    assert not in_flight.is_full
    assert (in_flight.messages, in_flight.bytes) == (1, 10)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("is_admitted", [False, True])
async def test_who_gives_up_takes_no_room(is_admitted: bool) -> None:
    """Before being let in, or in the same turn: the next one gets the room."""
    in_flight, admitted = InFlight(1, 1000), list[int]()
    in_flight.take(1, 10)
    tasks = waiting(in_flight, 2, admitted)
    await asyncio.sleep(0)

    if is_admitted:
        in_flight.give(1, 10)
    tasks[0].cancel()
    await asyncio.sleep(0)
    if not is_admitted:
        in_flight.give(1, 10)
    await asyncio.sleep(0.001)

    assert admitted == [1]
    assert (in_flight.messages, in_flight.bytes) == (1, 10)
    in_flight.give(1, 10)
    assert not in_flight.is_full
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_bytes_hold_back_who_waits() -> None:
    """Room by number alone is not enough."""
    in_flight, admitted = InFlight(10, 100), list[int]()
    in_flight.take(1, 500)
    tasks = waiting(in_flight, 1, admitted)
    in_flight.take(0, 0)
    await asyncio.sleep(0)
    in_flight.give(0, 100)
    await asyncio.sleep(0)
    assert admitted == []

    in_flight.give(1, 400)
    await asyncio.gather(*tasks)

    assert admitted == [0]
