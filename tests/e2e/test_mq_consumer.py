"""The consumer against a real broker: messages and their answers, bodies, leases, lost connections, ends."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from tests.support.processes import Processes, port_of
from tests.support.relay import Relay, relaying
from tests.support.waiting import WAIT_S, eventually
from zbusrpc import Code, Consumer, Producer, RpcError, UsageError, disconnect, mq
from zbusrpc.mq import ReceivedMessage
from zbusrpc.testing import running_broker

pytestmark = pytest.mark.anyio

TOPIC, GROUP = "orders", "billing"


class Order(BaseModel):
    """A body with fields."""

    item: str
    count: int = 1


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[str]:
    """Run a broker that stores topics."""
    async with running_broker(data_dir=tmp_path) as address:
        yield address


@pytest.fixture
async def relay(broker: str) -> AsyncIterator[Relay]:
    """Run a relay to the broker."""
    async with relaying(broker) as running:
        yield running


async def store(broker: str, *bodies: Any, **options: Any) -> None:
    """Store messages."""
    async with Producer(TOPIC, broker=broker) as producer:
        for body in bodies:
            producer.send_nowait(body, **options)


async def group_of(broker: str, name: str = GROUP) -> mq.GroupInfo:
    """Return what the broker tells about a group."""
    groups = (await mq.topic(TOPIC, broker=broker)).groups
    return next(group for group in groups if group.name == name)


async def settled(broker: str, **expected: int) -> mq.GroupInfo:
    """Return what the broker tells about the group, once it is as expected."""
    async with asyncio.timeout(WAIT_S):
        while True:
            group = await group_of(broker)
            if all(getattr(group, name) == value for name, value in expected.items()):
                return group
            await asyncio.sleep(0.01)


async def settled_at(broker: str, name: str) -> None:
    """Return when a group has begun a message."""
    while True:
        groups = {group.name: group for group in (await mq.topic(TOPIC, broker=broker)).groups}
        if name in groups and groups[name].begun:
            return
        await asyncio.sleep(0.02)


async def deserted(broker: str, name: str) -> None:
    """Return when nobody consumes a group any more."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if not (await group_of(broker, name)).consumers:
                return
            await asyncio.sleep(0.01)


async def take(consumer: Consumer[Any], count: int) -> list[Any]:
    """Return the bodies of the next messages, acknowledged."""
    taken = []
    async with asyncio.timeout(WAIT_S):
        while len(taken) < count:
            message = await anext(consumer)
            await message.ack()
            taken.append(message.body)
    return taken


# -- messages ------------------------------------------------------------------------------------------------


async def test_message_has_all_that_was_said_of_it(broker: str) -> None:
    """Body, key, tag, id, headers, place and time are those of the producer and the broker."""
    async with Producer(TOPIC, broker=broker) as producer:
        receipt = await producer.send(b"\xff\x00", key="42", tag="eu.new", id="m1", headers={"trace": "x"})
    async with Consumer(TOPIC, group=GROUP, broker=broker) as consumer:
        message = await anext(consumer)

    assert (message.body, message.key, message.tag, message.id) == (b"\xff\x00", "42", "eu.new", "m1")
    assert message.headers == {"trace": "x"}
    assert (message.topic, message.offset, message.attempt) == (TOPIC, 0, 1)
    assert message.timestamp == receipt.timestamp
    assert abs(datetime.now(UTC) - message.timestamp) < timedelta(minutes=1)
    assert repr(message) == f"<message m1 of topic orders at 0 on {broker}, attempt 1>"


async def test_what_was_acknowledged_does_not_come_again(broker: str) -> None:
    """The next consumer of the group goes on behind it; another group begins at the start."""
    await store(broker, "a", "b", "c")
    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        assert await take(consumer, 2) == ["a", "b"]

    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        assert await take(consumer, 1) == ["c"]
    async with Consumer(TOPIC, group="other", body=str, broker=broker) as consumer:
        assert await take(consumer, 3) == ["a", "b", "c"]
    assert (await settled(broker, lag=0)).counters["acked"] == 3


async def test_consumers_of_a_group_share_its_messages(broker: str) -> None:
    """Each message goes to one of them, and both get some."""
    seen: Counter[int] = Counter()
    async with (
        Consumer(TOPIC, group=GROUP, window=4, broker=broker) as first,
        Consumer(TOPIC, group=GROUP, window=4, broker=broker) as second,
    ):
        await store(broker, *(str(number) for number in range(40)))

        async def work(number: int, consumer: Consumer[bytes]) -> None:
            async for message in consumer:
                seen[number] += 1
                await asyncio.sleep(0.001)
                await message.ack()

        tasks = [asyncio.create_task(work(number, consumer)) for number, consumer in enumerate((first, second))]
        await settled(broker, lag=0)
        for task in tasks:
            task.cancel()

    assert seen[0] + seen[1] == 40
    assert min(seen[0], seen[1]) > 5


async def test_several_tasks_share_a_consumer(broker: str) -> None:
    """Each message goes to one task, also when tasks that wait are cancelled; none is lost."""
    got: list[str] = []
    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:

        async def work() -> None:
            message = await anext(consumer)
            got.append(message.body)
            await message.ack()

        for round_number in range(20):
            tasks = [asyncio.create_task(work()) for _ in range(4)]
            await asyncio.sleep(0)
            await store(broker, *(f"{round_number}-{number}" for number in range(3)))
            tasks[round_number % 4].cancel()
            await asyncio.wait(tasks, timeout=0.01)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        left = [message.body for message in await consumer.fetch(100, timeout=0.05)]

    assert sorted(got + left) == sorted(f"{a}-{b}" for a in range(20) for b in range(3))


async def test_loop_over_messages_that_are_there_lets_others_run(broker: str) -> None:
    """A long run of messages does not keep the event loop from everything else."""
    await store(broker, *[b""] * 1000)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with Consumer(TOPIC, group=GROUP, window=1000, broker=broker) as consumer:
        await asyncio.sleep(0.05)
        counting = asyncio.create_task(count_turns())
        for _ in range(1000):
            await (await anext(consumer)).ack()
        counting.cancel()

    assert turns >= 10


async def test_filter_and_start_are_those_of_a_new_group(broker: str) -> None:
    """Only tags that the filter takes, from the place on."""
    async with Producer(TOPIC, broker=broker) as producer:
        for number, tag in enumerate(["eu.a", "us.a", "eu.b", "eu.c.d"]):
            await producer.send(str(number), tag=tag)

    async with Consumer(TOPIC, group=GROUP, body=str, filter="eu.*", start=1, broker=broker) as consumer:
        assert await take(consumer, 2) == ["2", "3"]
    with pytest.raises(RpcError, match="exists with filter") as caught:
        async with Consumer(TOPIC, group=GROUP, filter="us.*", broker=broker):
            pass
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_nameless_group_begins_with_the_newest_and_goes(broker: str) -> None:
    """Without a group the consumer has its own, and sees what is sent while it is there."""
    await store(broker, "before")
    async with Consumer(TOPIC, body=str, broker=broker) as consumer:
        await store(broker, "now")
        assert await take(consumer, 1) == ["now"]
        assert consumer.group.startswith("auto-")

    assert (await mq.topic(TOPIC, broker=broker)).groups == []


# -- answers -------------------------------------------------------------------------------------------------


async def test_refused_message_comes_again(broker: str) -> None:
    """After the delay that was asked for, as the next attempt."""
    await store(broker, "a")
    async with Consumer(TOPIC, group=GROUP, broker=broker) as consumer:
        first = await anext(consumer)
        await first.nack(delay=0.01, reason="no stock")
        second = await anext(consumer)

        assert (first.attempt, second.attempt, second.offset) == (1, 2, 0)
        with pytest.raises(RpcError, match="delay = -1: write 0 or more seconds"):
            await second.nack(delay=-1)
        await second.ack(confirmed=True)
    assert (await group_of(broker)).lag == 0


async def test_rejected_message_goes_to_the_dead_letters(broker: str) -> None:
    """With the reason, the group and where it was; from there it can be retried."""
    await store(broker, "a", "b")
    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        for number in range(2):
            await (await anext(consumer)).reject(f"bad {number} \ud800")
        await settled(broker, lag=0)
        letters = await mq.dead_letters(TOPIC, broker=broker)
        assert [(one.body, one.reason, one.group, one.attempts, one.failed_offset) for one in letters] == [
            (b"a", "bad 0 ?", GROUP, 1, 0),
            (b"b", "bad 1 ?", GROUP, 1, 1),
        ]
        assert letters.topic == "orders.dlq"

        assert (await mq.retry_dead(TOPIC, offsets=[letters[1].offset], broker=broker)).retried == 1
        assert await take(consumer, 1) == ["b"]
        assert await mq.purge_dead(TOPIC, broker=broker) == 1
        assert len(await mq.dead_letters(TOPIC, broker=broker)) == 0


async def test_released_message_was_no_attempt(broker: str) -> None:
    """It comes again at once, as if it had not been delivered."""
    await store(broker, "a")
    async with Consumer(TOPIC, group=GROUP, window=0, broker=broker) as consumer:
        for _ in range(3):
            (message,) = await consumer.fetch(1)
            assert message.attempt == 1
            await message.release()
        await settled(broker, lag=1, in_flight=0, waiting=1)


async def test_first_answer_counts(broker: str) -> None:
    """What is said afterwards does nothing."""
    await store(broker, "a")
    async with Consumer(TOPIC, group=GROUP, broker=broker) as consumer:
        message = await anext(consumer)
        assert not message.is_answered
        await message.ack()
        await message.nack()
        await message.reject()
        await message.extend()
        await message.ack(confirmed=True)

        assert message.is_answered
        assert (await settled(broker, lag=0)).counters["acked"] == 1


async def test_auto_ack_acknowledges_when_the_next_is_asked_for(broker: str) -> None:
    """The message of a loop that was left is delivered again, those before it are done."""
    await store(broker, "a", "b", "c", "d")
    async with Consumer(TOPIC, group=GROUP, body=str, auto_ack=True, broker=broker) as consumer:
        async for message in consumer:
            if message.body == "b":
                break
        assert await settled(broker, oldest_offset=1)
        assert len(await consumer.fetch(1)) == 1
        await settled(broker, oldest_offset=2)
        with pytest.raises(UsageError, match="make the consumer without auto_ack"):
            await consumer.run(print)

    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        assert await take(consumer, 2) == ["c", "d"]


async def test_group_without_acknowledgements_is_handed_out_once(broker: str) -> None:
    """Messages are done when they are delivered; more than the window is not sent ahead."""
    await store(broker, *(str(number) for number in range(30)))
    async with Consumer(TOPIC, group=GROUP, body=str, ack=False, window=4, broker=broker) as consumer:
        first = await anext(consumer)
        await first.ack(confirmed=True)
        await first.nack()
        await asyncio.sleep(0.02)
        assert (await group_of(broker)).next_offset <= 8
        rest = [(await anext(consumer)).body for _ in range(29)]
        await store(broker, "later")
        rest.append((await anext(consumer)).body)

    assert rest == [*(str(number) for number in range(1, 30)), "later"]
    assert (await group_of(broker)).lag == 0
    with pytest.raises(RpcError, match="ack"):
        async with Consumer(TOPIC, group=GROUP, broker=broker):
            pass


# -- bodies --------------------------------------------------------------------------------------------------


async def test_bodies_have_the_type_that_was_asked_for(broker: str) -> None:
    """Models, other types that pydantic knows, and unions by way of a TypeAdapter."""
    await store(broker, Order(item="tea", count=2))
    order_or_number: TypeAdapter[Order | int] = TypeAdapter(Order | int)
    for group, body, expected in (
        ("model", Order, Order(item="tea", count=2)),
        ("dict", dict[str, str | int], {"item": "tea", "count": 2}),
        ("union", order_or_number, Order(item="tea", count=2)),
        ("text", str, '{"item":"tea","count":2}'),
        ("bytes", bytes, b'{"item":"tea","count":2}'),
    ):
        consumer: Consumer[Any] = Consumer(TOPIC, group=group, body=body, broker=broker)
        async with consumer:
            assert await take(consumer, 1) == [expected]


async def test_body_that_does_not_fit_is_a_dead_letter(broker: str) -> None:
    """The loop sees only what fits; the others are rejected with one line that says what is wrong."""
    await store(broker, {"item": "tea"}, {"count": "many"}, b"\xff", {"item": "salt"})
    async with Consumer(TOPIC, group=GROUP, body=Order, broker=broker) as consumer:
        assert [order.item for order in await take(consumer, 2)] == ["tea", "salt"]
        await settled(broker, lag=0)
    async with Consumer(TOPIC, group="text", body=str, broker=broker) as consumer:
        assert len(await take(consumer, 3)) == 3

    reasons = [letter.reason for letter in await mq.dead_letters(TOPIC, broker=broker)]
    assert reasons[0] == "the body does not fit Order: item: Field required (and 1 more)"
    assert reasons[1].startswith("the body does not fit Order: Invalid JSON")


async def test_fetch_skips_bodies_that_do_not_fit(broker: str) -> None:
    """It goes on waiting for one that does."""
    await store(broker, "no order", "no order", {"item": "tea"})
    async with Consumer(TOPIC, group=GROUP, body=Order, window=0, broker=broker) as consumer:
        (message,) = await consumer.fetch(2)
        await settled(broker, lag=1)

    assert message.body.item == "tea"


# -- fetch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 256])
async def test_fetch_returns_what_is_there(broker: str, window: int) -> None:
    """Up to so many; none after the timeout; and those that come while it waits."""
    await store(broker, *"abc")
    async with Consumer(TOPIC, group=GROUP, body=str, window=window, broker=broker) as consumer:
        first = await consumer.fetch(2)
        second = await consumer.fetch(2)
        none = await consumer.fetch(2, timeout=0.01)
        at_once = await consumer.fetch(2, timeout=0)
        waiting = asyncio.create_task(consumer.fetch(2))
        await asyncio.sleep(0.01)
        await store(broker, "d")
        last = await waiting

    assert ["".join(one.body for one in part) for part in (first, second, none, at_once, last)] == [
        "ab",
        "c",
        "",
        "",
        "d",
    ]


async def test_cancelled_fetch_loses_no_message(broker: str) -> None:
    """What the broker sends for it is there for the next one."""
    async with Consumer(TOPIC, group=GROUP, body=str, window=0, broker=broker) as consumer:
        waiting = asyncio.create_task(consumer.fetch(2))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.wait([waiting])
        await store(broker, "a")

        assert [message.body for message in await consumer.fetch(2)] == ["a"]


async def test_pulling_consumer_is_sent_no_more_than_it_asks_for(broker: str) -> None:
    """With window 0 what was not asked for is there for others; looping over it is a mistake."""
    await store(broker, *"abc")
    async with Consumer(TOPIC, group=GROUP, window=0, broker=broker) as consumer:
        await consumer.fetch(1)
        with pytest.raises(UsageError, match="is for fetch"):
            await anext(consumer)

        assert (await group_of(broker)).in_flight == 1


async def test_fetch_waits_for_a_broker_that_is_away(broker: str, relay: Relay) -> None:
    """A lost connection is made again; if that takes too long, the error says so."""
    await store(broker, *"ab")
    async with Consumer(TOPIC, group=GROUP, body=str, window=0, broker=relay.address) as consumer:
        (first,) = await consumer.fetch(1)
        await first.ack(confirmed=True)
        relay.cut()
        (second,) = await consumer.fetch(1)
        assert second.body == "b"
        waiting = asyncio.create_task(consumer.fetch(1))
        await asyncio.sleep(0.02)
        relay.cut()
        await store(broker, "c")
        assert [message.body for message in await waiting] in (["b"], ["c"])

        await relay.close()
        with pytest.raises(RpcError, match="was not reached in time") as caught:
            await consumer.fetch(5, timeout=0.05)
        assert caught.value.code is Code.UNAVAILABLE


# -- run -----------------------------------------------------------------------------------------------------


async def test_run_acknowledges_what_a_handler_has_done(broker: str) -> None:
    """Async handlers run side by side, up to the limit, until the consumer is closed."""
    await store(broker, *(str(number) for number in range(50)))
    running = most = 0

    async def handle(message: mq.ReceivedMessage[str]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        run = asyncio.create_task(consumer.run(handle, concurrency=5))
        await settled(broker, lag=0)
        await consumer.close()
        await run

    assert most == 5


@pytest.mark.parametrize("is_async", [False, True])
async def test_run_refuses_what_a_handler_failed_at(broker: str, is_async: bool) -> None:
    """The exception's text is the reason; after the last attempt the message is a dead letter."""
    await store(broker, "good", "bad")
    handled: Counter[str] = Counter()

    def handle(message: mq.ReceivedMessage[str]) -> None:
        handled[message.body] += 1
        if message.body == "bad":
            raise ValueError("no stock")

    async def handle_async(message: mq.ReceivedMessage[str]) -> None:
        handle(message)

    async with Consumer(TOPIC, group=GROUP, body=str, max_attempts=2, backoff=0.01, broker=broker) as consumer:
        run = asyncio.create_task(consumer.run(handle_async if is_async else handle))
        await settled(broker, lag=0)
        run.cancel()
        await asyncio.wait([run])

    assert handled == {"good": 1, "bad": 2}
    (letter,) = await mq.dead_letters(TOPIC, broker=broker)
    assert letter.reason == "ValueError: no stock (attempt 2 of 2)"


async def test_handler_may_answer_for_itself(broker: str) -> None:
    """What it has rejected is not acknowledged when it returns, and a handler that cancels itself has failed."""
    await store(broker, "reject", "cancel")

    async def handle(message: mq.ReceivedMessage[str]) -> None:
        if message.body == "reject":
            await message.reject("by hand")
        else:
            raise asyncio.CancelledError

    async with Consumer(TOPIC, group=GROUP, body=str, max_attempts=1, broker=broker) as consumer:
        run = asyncio.create_task(consumer.run(handle, concurrency=1))
        await settled(broker, lag=0)
        await consumer.close()
        await run

    reasons = [letter.reason for letter in await mq.dead_letters(TOPIC, broker=broker)]
    assert reasons == ["by hand", "the handler cancelled itself (attempt 1 of 1)"]


async def test_messages_with_one_key_are_handled_one_after_the_other(broker: str) -> None:
    """However many handlers there are: in order, and never two at a time."""
    async with Producer(TOPIC, broker=broker) as producer:
        for number in range(30):
            producer.send_nowait(str(number), key=f"key {number % 3}")
    order: dict[str, list[int]] = {}
    busy: set[str] = set()

    async def handle(message: mq.ReceivedMessage[str]) -> None:
        assert message.key not in busy
        busy.add(message.key)
        await asyncio.sleep(0.001)
        order.setdefault(message.key, []).append(int(message.body))
        busy.discard(message.key)

    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await settled(broker, lag=0)
        await consumer.close()
        await run

    assert order == {f"key {key}": list(range(key, 30, 3)) for key in range(3)}


async def test_run_ends_with_the_error_of_the_broker(broker: str) -> None:
    """When the group is removed, handlers that run finish, and then run raises."""
    await store(broker, "a")
    finished = asyncio.Event()

    async def handle(message: mq.ReceivedMessage[bytes]) -> None:
        await mq.remove(TOPIC, group=GROUP, broker=broker)
        await asyncio.sleep(0.02)
        finished.set()

    async with Consumer(TOPIC, group=GROUP, broker=broker) as consumer:
        with pytest.raises(RpcError, match="group billing of topic orders was removed"):
            await consumer.run(handle)

    assert finished.is_set()


# -- leases --------------------------------------------------------------------------------------------------


async def test_lease_of_what_waits_here_is_renewed(broker: str) -> None:
    """A message that waits in the buffer for longer than its lease comes as the first attempt, and only once."""
    await store(broker, "a", "b", "c")
    async with Consumer(TOPIC, group=GROUP, body=str, lease=0.15, broker=broker) as consumer:
        slow = await anext(consumer)
        for _ in range(3):
            await asyncio.sleep(0.1)
            await slow.extend()
        await slow.ack(confirmed=True)
        rest = [await anext(consumer) for _ in range(2)]
        for message in rest:
            await message.ack(confirmed=True)

    assert [(message.body, message.attempt) for message in rest] == [("b", 1), ("c", 1)]
    assert (await group_of(broker)).counters["redelivered"] == 0


async def test_late_confirmation_is_told(broker: str) -> None:
    """A message whose lease has ended was given to another: a confirmed acknowledgement raises ABORTED."""
    await store(broker, "a")
    options: dict[str, Any] = {"group": GROUP, "lease": 0.1, "backoff": 0.0, "broker": broker}
    async with Consumer(TOPIC, **options) as slow, Consumer(TOPIC, **options) as other:
        waiting = asyncio.create_task(anext(other))
        first = asyncio.create_task(anext(slow))
        done, _ = await asyncio.wait([first, waiting], return_when=asyncio.FIRST_COMPLETED)
        message = done.pop().result()
        again = (await asyncio.wait_for(first, WAIT_S), await asyncio.wait_for(waiting, WAIT_S))
        with pytest.raises(RpcError, match="could not be acknowledged: its lease had ended") as caught:
            await message.ack(confirmed=True)

    assert caught.value.code is Code.ABORTED
    assert sorted(one.attempt for one in again) == [1, 2]


@pytest.mark.parametrize("is_confirmed", [False, True])
async def test_answer_is_for_what_came_again_meanwhile_too(broker: str, *, is_confirmed: bool) -> None:
    """A message whose lease ended over a slow loop is here twice: once it is acknowledged it does not come."""
    await store(broker, "a")
    async with Consumer(TOPIC, group=GROUP, body=str, lease=0.1, backoff=0, window=4, broker=broker) as consumer:
        slow = await anext(consumer)
        await eventually(lambda: consumer._membership.buffered, "the same message again")
        await slow.ack(confirmed=is_confirmed)
        await store(broker, "b")
        after = await asyncio.wait_for(anext(consumer), WAIT_S)
        await after.ack(confirmed=True)
        group = await settled(broker, lag=0)

    assert (after.body, after.attempt) == ("b", 1)
    assert group.counters["acked"] == 2


# -- closing -------------------------------------------------------------------------------------------------


async def test_closing_gives_back_what_was_not_handed_out(broker: str) -> None:
    """It comes as the first attempt; what was handed out and not answered as the second."""
    await store(broker, "a", "b", "c")
    consumer = Consumer(TOPIC, group=GROUP, body=str, broker=broker)
    async with consumer:
        assert (await anext(consumer)).body == "a"
    await consumer.close()

    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as following:
        messages = [await anext(following) for _ in range(3)]
    assert [(message.body, message.attempt) for message in messages] == [("a", 2), ("b", 1), ("c", 1)]
    with pytest.raises(UsageError, match="the consumer of topic orders is closed"):
        await consumer.start()


async def test_closing_ends_loops(broker: str) -> None:
    """Whoever waits for a message is let go."""
    await store(broker)
    async with Consumer(TOPIC, group=GROUP, broker=broker) as consumer:
        loops = [asyncio.create_task(list_of(consumer)) for _ in range(3)]
        await asyncio.sleep(0.01)
        await consumer.close()

        assert await asyncio.gather(*loops) == [[], [], []]


async def list_of(consumer: Consumer[bytes]) -> list[bytes]:
    """Return what a loop gets."""
    return [message.body async for message in consumer]


async def test_exclusive_group_is_taken_over(broker: str) -> None:
    """A second consumer is refused, and is let in when the first has closed."""
    await store(broker, "a")
    async with Consumer(TOPIC, group=GROUP, exclusive=True, broker=broker):
        with pytest.raises(RpcError, match="group billing of topic orders is exclusive") as caught:
            await Consumer(TOPIC, group=GROUP, exclusive=True, broker=broker).start()
        assert caught.value.code is Code.FAILED_PRECONDITION

    async with Consumer(TOPIC, group=GROUP, exclusive=True, broker=broker) as following:
        assert await take(following, 1) == [b"a"]


async def test_removed_topic_ends_the_loop_with_its_error(broker: str) -> None:
    """Those that wait, and those that ask later, get NOT_FOUND."""
    await store(broker)
    async with Consumer(TOPIC, group=GROUP, broker=broker) as consumer:
        waiting = asyncio.create_task(anext(consumer))
        await asyncio.sleep(0.01)
        await mq.remove(TOPIC, broker=broker)
        errors = [await refusal(waiting), await refusal(asyncio.create_task(anext(consumer)))]
        errors.append(await refusal(asyncio.create_task(consumer.fetch(1))))

    assert [error.code for error in errors] == [Code.NOT_FOUND] * 3
    assert "topic orders was removed" in errors[0].message


async def refusal(task: "asyncio.Task[Any]") -> RpcError:
    """Return the error that a task ends with."""
    with pytest.raises(RpcError) as caught:
        await asyncio.wait_for(task, WAIT_S)
    return caught.value


async def test_what_is_not_to_be_declared_must_exist(broker: str) -> None:
    """With declare=False neither topic nor group is made."""
    consumer = Consumer(TOPIC, group=GROUP, declare=False, broker=broker)
    with pytest.raises(RpcError, match="there is no topic orders"):
        await consumer.start()
    await mq.declare(TOPIC, broker=broker)
    with pytest.raises(RpcError, match="topic orders has no group billing"):
        await consumer.start()
    await mq.declare_group(TOPIC, GROUP, broker=broker)

    await consumer.start()
    await consumer.close()


async def test_broker_that_is_not_there_is_told_at_once() -> None:
    """Starting names the broker and the fix."""
    with pytest.raises(RpcError, match=r"cannot reach broker 127\.0\.0\.1:1: nothing listens there") as caught:
        await Consumer(TOPIC, group=GROUP, broker="127.0.0.1:1").start()

    assert caught.value.code is Code.UNAVAILABLE


async def test_cancelled_start_leaves_nobody_behind(broker: str, relay: Relay) -> None:
    """Who gives up joining is no member when the answer comes, and may try again."""
    await store(broker, "a")
    consumer = Consumer(TOPIC, group=GROUP, broker=relay.address)
    await mq.declare_group(TOPIC, GROUP, broker=relay.address)
    relay.hold_answers()
    starting = asyncio.create_task(consumer.start())
    before = relay.answered
    await eventually(lambda: relay.answered > before, "answer")
    starting.cancel()
    await asyncio.wait([starting])
    relay.release()

    async with asyncio.timeout(WAIT_S):
        while (await group_of(broker)).consumers:  # noqa: ASYNC110 - the broker tells of no events
            await asyncio.sleep(0.01)
    assert (await anext(consumer)).body == b"a"
    await consumer.close()


async def test_closing_while_joining_leaves_nobody_behind(broker: str, relay: Relay) -> None:
    """Whoever closes a consumer before the broker has let it in gets a consumer that is closed."""
    await store(broker, "a")
    consumer = Consumer(TOPIC, group=GROUP, broker=relay.address)
    await mq.declare_group(TOPIC, GROUP, broker=relay.address)
    relay.hold_answers()
    starting = asyncio.create_task(consumer.start())
    before = relay.answered
    await eventually(lambda: relay.answered > before, "answer")
    await consumer.close()
    relay.release()
    await starting

    assert (await group_of(broker)).consumers == []
    with pytest.raises(StopAsyncIteration):
        await anext(consumer)


# -- lost connections ----------------------------------------------------------------------------------------


async def test_consumer_joins_again_by_itself(broker: str, relay: Relay) -> None:
    """After a cut it goes on: what was not acknowledged comes again, late acknowledgements are ignored or told."""
    await store(broker, "a", "b", "c")
    async with Consumer(TOPIC, group=GROUP, body=str, broker=relay.address) as consumer:
        assert await take(consumer, 1) == ["a"]
        await settled(broker, oldest_offset=1)
        late = await anext(consumer)
        await settled(broker, begun=1)
        relay.cut()
        again = await anext(consumer)
        while again.offset != late.offset:  # the end of the connection may be noticed after one more
            again = await anext(consumer)
        await late.ack()
        late.is_answered = False
        with pytest.raises(RpcError, match="the connection that it came by is gone") as caught:
            await late.ack(confirmed=True)
        assert caught.value.code is Code.ABORTED
        await again.ack(confirmed=True)

    assert (late.body, again.body, again.attempt) == ("b", "b", 2)


async def test_consumer_goes_on_after_disconnect(broker: str) -> None:
    """Who closes the loop's connections does not break consumers: whoever waits, or asks next, joins again."""
    await store(broker)
    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        waiting = asyncio.create_task(take(consumer, 1))
        await asyncio.sleep(0.01)
        await disconnect()
        await store(broker, "a")
        assert await waiting == ["a"]
        await consumer.fetch(1, timeout=0)

        await disconnect()
        await store(broker, "b")
        assert [message.body for message in await consumer.fetch(1)] == ["b"]


async def test_nameless_group_misses_nothing_over_a_cut(broker: str, relay: Relay) -> None:
    """It is joined again under the name that it had."""
    await store(broker)
    async with Consumer(TOPIC, body=str, broker=relay.address) as consumer:
        name = consumer.group
        await store(broker, "a")
        assert await take(consumer, 1) == ["a"]
        await asyncio.sleep(0.02)
        relay.cut()
        await store(broker, "b")
        taken = await take(consumer, 1)
        while taken == ["a"]:
            taken = await take(consumer, 1)

        assert (taken, consumer.group) == (["b"], name)
        options = (await group_of(broker, name)).options
        assert options["delete_on_exit"]


@pytest.mark.parametrize("taken", [0, 2])
async def test_nameless_consumer_that_was_away_too_long_goes_on_where_it_was(
    broker: str, relay: Relay, taken: int
) -> None:
    """Its group has gone meanwhile: the one that is made then begins with what was not done, and not at the oldest."""
    await store(broker, "old", "old", "old")
    async with Consumer(TOPIC, body=str, broker=relay.address) as consumer:
        name = consumer.group
        if taken:
            await store(broker, "a", "b", "c")
            assert await take(consumer, taken) == ["a", "b"]
            await anext(consumer)  # it is in hand when the link is lost
        relay.cut()
        relay.hold_requests()
        await deserted(broker, name)
        await mq.remove(TOPIC, group=name, broker=broker)
        await store(broker, "d")
        relay.release()

        expected = ["c", "d"] if taken else ["d"]
        assert await take(consumer, len(expected)) == expected


async def test_nameless_consumer_reads_all_of_a_topic_that_was_made_anew(broker: str, relay: Relay) -> None:
    """A place behind the end of the topic is one of a topic that is gone: all of the new one is new."""
    await store(broker, "old", "old", "old")
    async with Consumer(TOPIC, body=str, broker=relay.address) as consumer:
        relay.cut()
        relay.hold_requests()
        await deserted(broker, consumer.group)
        await mq.remove(TOPIC, broker=broker)
        await store(broker, "new")
        relay.release()

        assert await take(consumer, 1) == ["new"]


@pytest.mark.parametrize("window", [0, 8])
@pytest.mark.parametrize("needs_ack", [True, False])
async def test_group_that_is_moved_goes_on_at_the_new_place(broker: str, window: int, needs_ack: bool) -> None:
    """Nothing of what a consumer had in its buffer comes after the move, and late answers settle nothing."""
    bodies = [str(number) for number in range(20)]
    await store(broker, *bodies)
    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker, window=window, ack=needs_ack) as consumer:
        (held,) = await consumer.fetch(1)
        moved = await mq.seek(TOPIC, GROUP, 10, broker=broker)
        back = await mq.seek(TOPIC, GROUP, "oldest", broker=broker)
        seen = [held.body]
        while len(seen) < 22 and (messages := await consumer.fetch(20, timeout=WAIT_S)):
            held.ack_nowait()
            for message in messages:
                if message.body == "0":
                    seen = []
                seen.append(message.body)
                await message.ack(confirmed=True)
            if seen == bodies:
                break

        assert seen == bodies
        assert (moved.offset, back.offset, back.passed) == (10, 0, 0)
        assert moved.passed == (10 if needs_ack else 9 if not window else moved.passed)


async def test_exclusive_consumer_waits_for_its_own_shadow(broker: str, relay: Relay) -> None:
    """A connection that only its consumer knows to be lost does not keep it out of its own group."""
    await store(broker, "a")
    async with (
        relaying(broker) as second_way,
        Consumer(TOPIC, group=GROUP, exclusive=True, body=str, broker=f"{relay.address};{second_way.address}") as own,
    ):
        assert await take(own, 1) == ["a"]
        relay.strand()
        waiting = asyncio.create_task(take(own, 1))
        await eventually(lambda: second_way.connections, "another try")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        relay.cut()
        await store(broker, "b")

        assert await waiting in (["a"], ["b"])


async def test_consumer_survives_kill_9_of_the_broker(processes: Processes, tmp_path: Path, links: None) -> None:
    """A broker that is killed and comes back delivers every message at least once to the same consumer."""
    first, address = processes.broker("--data-dir", str(tmp_path / "data"))
    await store(address, *(str(number) for number in range(300)))
    seen: Counter[str] = Counter()
    async with Consumer(TOPIC, group=GROUP, body=str, broker=address) as consumer:
        async with asyncio.timeout(WAIT_S):
            async for message in consumer:
                seen[message.body] += 1
                await message.ack()
                if message.body == "150" and seen["150"] == 1:
                    await message.ack(confirmed=True)
                    first.kill()
                    processes.broker("--data-dir", str(tmp_path / "data"), port=port_of(address))
                if len(seen) == 300:
                    break

    assert set(seen) == {str(number) for number in range(300)}


async def test_consumer_stays_in_its_loop(broker: str) -> None:
    """In another event loop it raises an error that names the fix."""
    await store(broker, "a")
    async with Consumer(TOPIC, group=GROUP, broker=broker) as consumer:

        async def elsewhere() -> None:
            await consumer.fetch(1)

        with pytest.raises(UsageError, match="belongs to another event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"window": 5000}, r"window=5000: a whole number, in 0\.\.4096"),
        ({"lase": 3}, "there is no option lase; did you mean lease"),
        ({"lease": "3"}, "lease='3': a number of seconds"),
        ({"start": "first"}, "start='first'"),
        ({"start": datetime(2026, 1, 1)}, "has no time zone"),
    ],
)
def test_mistakes_are_told_before_anything_is_opened(options: dict[str, Any], reason: str) -> None:
    """What can be known here is not asked of a broker."""
    with pytest.raises(UsageError, match=reason):
        Consumer(TOPIC, group=GROUP, **options)


# -- long handlers and changed options -----------------------------------------------------------------------


async def test_lease_is_renewed_while_a_handler_works(broker: str) -> None:
    """A handler that takes longer than the lease has its message alone, in the event loop and in a thread."""
    await store(broker, "long")
    runs: list[tuple[str, int]] = []

    async def wait(message: ReceivedMessage[str]) -> None:
        runs.append(("task", message.attempt))
        await asyncio.sleep(2.5)

    def block(message: ReceivedMessage[str]) -> None:
        runs.append(("thread", message.attempt))
        time.sleep(2.5)

    async def handle(group: str, handler: Any) -> None:
        options = mq.GroupOptions(lease=1, backoff=0)
        async with Consumer(TOPIC, group=group, body=str, broker=broker, **options) as consumer:
            await consumer.run(handler, concurrency=2)

    async def done(group: str) -> None:
        while True:
            if (await group_of(broker, group)).counters["acked"]:
                return
            await asyncio.sleep(0.02)

    running = [
        asyncio.create_task(handle(group, handler)) for group, handler in (("a", wait), ("a", wait), ("b", block))
    ]
    async with asyncio.timeout(WAIT_S):
        await settled_at(broker, "a")
        await asyncio.gather(done("a"), done("b"))
    for task in running:
        task.cancel()
    await asyncio.wait(running)

    assert sorted(runs) == [("task", 1), ("thread", 1)]


async def test_options_that_have_changed_in_the_program_are_changed_by_update(broker: str) -> None:
    """Without it the consumer is refused, in a line that says what to do; with it the group is as the program says."""
    await mq.declare(TOPIC, broker=broker)
    await mq.declare_group(TOPIC, GROUP, broker=broker, max_attempts=3, lease=5)

    with pytest.raises(RpcError) as caught:
        await Consumer(TOPIC, group=GROUP, broker=broker, max_attempts=5).start()
    async with Consumer(TOPIC, group=GROUP, broker=broker, max_attempts=5, update=True):
        options = (await group_of(broker)).options
    async with Consumer(TOPIC, group="new", broker=broker, max_attempts=7, update=True, start="newest"):
        made = await group_of(broker, "new")

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.message == (
        "group billing of topic orders exists with max_attempts = 3, not 5; to change it, say update: "
        "Consumer(..., update=True) does, or: zbusrpc declare-group orders billing --update"
    )
    assert (options["max_attempts"], options["lease"], made.options["max_attempts"]) == (5, 5, 7)


# -- what waits in a buffer ----------------------------------------------------------------------------------


async def test_message_of_a_hanging_consumer_goes_to_an_idle_one(broker: str) -> None:
    """A consumer whose handler hangs gives back what lies in its buffer, and the other one handles all of it."""
    bodies = [str(number) for number in range(100)]
    await store(broker, *bodies)
    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as hanging:
        stuck = await anext(hanging)
        async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as quick:
            seen = await take(quick, 99)
            left = await settled(broker, in_flight=1, begun=1, waiting=0)

    assert sorted([stuck.body, *seen]) == sorted(bodies)
    assert left.counters["redelivered"] == 0


@pytest.mark.parametrize("is_fetching", [False, True])
async def test_message_whose_time_ends_in_a_buffer_is_not_handed_out(broker: str, is_fetching: bool) -> None:
    """Its time to live is looked at once more when it is handed out, and the broker counts it as expired."""
    async with Producer(TOPIC, broker=broker) as producer:
        await producer.send("first")
        await producer.send("short", ttl=0.2)
        await producer.send("long", ttl=60)
        await producer.send("last")
    async with Consumer(TOPIC, group=GROUP, body=str, broker=broker) as consumer:
        assert await take(consumer, 1) == ["first"]
        await settled(broker, next_offset=4)
        await asyncio.sleep(0.25)
        if is_fetching:
            taken = [message.body for message in await consumer.fetch(2)]
            taken += [message.body for message in await consumer.fetch(1)] if len(taken) < 2 else []
        else:
            taken = await take(consumer, 2)
        group = await settled(broker, lag=2 if is_fetching else 0)

    assert sorted(taken) == ["last", "long"]
    assert group.counters["expired"] == 1
