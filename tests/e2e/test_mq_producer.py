"""The producer against a real broker: receipts, order, batches, duplicates, lost connections, bounds and errors."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.support.processes import Processes, port_of
from tests.support.relay import Relay, relaying
from tests.support.waiting import WAIT_S, eventually
from zbusrpc import Code, Producer, RpcError, UsageError, deadline, disconnect, mq
from zbusrpc.mq import Receipt
from zbusrpc.testing import running_broker

pytestmark = pytest.mark.anyio

TOPIC = "orders"


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


async def bodies(broker: str, topic: str = TOPIC) -> list[str]:
    """Return what is stored, as text."""
    return [message.body.decode() for message in await mq.peek(topic, count=1000, broker=broker)]


# -- receipts and order --------------------------------------------------------------------------------------


async def test_receipt_tells_where_when_and_how_safe(broker: str) -> None:
    """A receipt has the offset, the time in UTC, and the durability of the topic; the topic is made by the way."""
    async with Producer(TOPIC, broker=broker) as producer:
        first = await producer.send(b"a")
        second = await producer.send(b"b")

    assert (first.offset, second.offset) == (0, 1)
    assert first.durability == "disk"
    assert not first.is_duplicate
    assert abs(datetime.now(UTC) - first.timestamp) < timedelta(minutes=1)
    assert "offset=0, durability='disk'" in repr(first)


async def test_everything_said_of_a_message_is_stored(broker: str) -> None:
    """Body, key, tag, id, headers, time to live and delay arrive as they were given."""
    async with Producer(TOPIC, broker=broker, body=Order) as producer:
        await producer.send(
            Order(item="tea"), key="42", tag="eu.new", id="m1", headers={"trace": "x"}, ttl=3600, delay=60.0
        )

    (stored,) = await mq.peek(TOPIC, broker=broker)
    assert stored.body == b'{"item":"tea","count":1}'
    assert (stored.key, stored.tag, stored.id) == ("42", "eu.new", "m1")
    assert stored.headers == {"content-type": "application/json", "trace": "x"}
    assert stored.due is not None
    assert stored.expiry is not None
    assert abs(stored.due - stored.timestamp - timedelta(seconds=60)) < timedelta(seconds=1)
    assert abs(stored.expiry - stored.timestamp - timedelta(hours=1)) < timedelta(seconds=1)


async def test_bytes_text_and_json_say_what_they_are(broker: str) -> None:
    """The header content-type tells text and JSON; bytes have none."""
    async with Producer(TOPIC, broker=broker) as producer:
        await producer.send_batch([b"\xff", "ä", {"a": 1}, Order(item="tea")])

    stored = await mq.peek(TOPIC, broker=broker)
    assert [one.body for one in stored] == [b"\xff", "ä".encode(), b'{"a":1}', b'{"item":"tea","count":1}']
    types = [one.headers.get("content-type") for one in stored]
    assert types == [None, "text/plain", "application/json", "application/json"]


async def test_messages_are_stored_in_the_order_they_were_handed_in(broker: str) -> None:
    """Whichever way messages are handed in, and whatever has to wait, they are stored in that order."""
    async with Producer(TOPIC, broker=broker, in_flight_max=5) as producer:
        tasks = [asyncio.create_task(producer.send(str(number))) for number in range(20)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(producer.send_batch([f"{number}a", f"{number}b"])) for number in range(20, 22)]
        await asyncio.gather(*tasks)
        for number in range(22, 60):
            await producer.send_pipelined(str(number))
        await producer.flush()
        producer.send_nowait("60")

    numbers = [str(number) for number in range(20)] + ["20a", "20b", "21a", "21b"]
    assert await bodies(broker) == numbers + [str(number) for number in range(22, 61)]


async def test_messages_of_one_turn_leave_in_one_frame(relay: Relay) -> None:
    """What is handed in before the loop turns is answered together; a message alone does not wait for others."""
    async with Producer(TOPIC, broker=relay.address) as producer:
        await producer.send(b"declared")
        relay.hold_answers()
        before = relay.sent
        futures = [producer.send_nowait(b"x" * 10) for _ in range(100)]
        await eventually(lambda: relay.sent > before, "frame")
        await asyncio.sleep(0.02)

        overhead = relay.sent - before - 100 * (30 + 10)
        relay.release()
        receipts = await asyncio.gather(*futures)

    assert [receipt.offset for receipt in receipts] == list(range(1, 101))
    assert overhead < 100 * 20  # an id each, and one head; a frame for each would need 24 bytes more


async def test_many_large_messages_are_several_frames(broker: str) -> None:
    """More bytes than a frame takes, and single messages above it, are stored in order."""
    sizes = [100_000] * 5 + [1_000_000, 10, 300_000]
    async with Producer(TOPIC, broker=broker) as producer:
        futures = [producer.send_nowait(bytes(size)) for size in sizes]
        receipts = await asyncio.gather(*futures)

    assert [receipt.offset for receipt in receipts] == list(range(len(sizes)))
    assert [one.size for one in await mq.peek(TOPIC, body_bytes_max=0, broker=broker)] == sizes


# -- batches and duplicates ----------------------------------------------------------------------------------


async def test_batch_has_a_receipt_for_each_message(broker: str) -> None:
    """Bodies and `Outgoing` may be mixed; an empty batch needs no broker."""
    async with Producer(TOPIC, broker=broker) as producer:
        receipts = await producer.send_batch(["a", mq.Outgoing("b", key="k", tag="t", id="m"), "c"])

        assert [receipt.offset for receipt in receipts] == [0, 1, 2]
        assert await producer.send_batch([]) == []

    stored = await mq.peek(TOPIC, broker=broker)
    assert (stored[1].key, stored[1].tag, stored[1].id) == ("k", "t", "m")


async def test_batch_with_one_bad_message_stores_none(broker: str) -> None:
    """If one message cannot be sent, or two have one id, nothing of the batch is stored."""
    async with Producer(TOPIC, broker=broker) as producer:
        await producer.send("first")
        with pytest.raises(RpcError, match="the tag of 300 bytes exceeds the limit of 255 bytes"):
            await producer.send_batch(["a", mq.Outgoing("b", tag="t" * 300)])
        with pytest.raises(RpcError, match="two messages of a batch have the same id"):
            await producer.send_batch([mq.Outgoing("a", id="m"), mq.Outgoing("b", id="m")])

    assert await bodies(broker) == ["first"]


async def test_batch_that_is_too_large_stores_none(tmp_path: Path) -> None:
    """A batch is one frame: above the broker's limit it is refused, whether that is known already or not."""
    async with running_broker(data_dir=tmp_path, message_bytes_max=2048) as broker:
        for _ in range(2):
            async with Producer(TOPIC, broker=broker) as producer:
                for _ in range(2):
                    with pytest.raises(RpcError, match="exceeds the limit of 2042 bytes") as caught:
                        await producer.send_batch([bytes(1000)] * 3)
                    assert caught.value.code is Code.RESOURCE_EXHAUSTED
                    assert not caught.value.may_have_run
                await producer.send("later")

        assert await bodies(broker) == ["later", "later"]


async def test_message_with_a_known_id_is_stored_once(broker: str) -> None:
    """Sending an id again, later or in the same turn, tells where the first one is."""
    async with Producer(TOPIC, broker=broker) as producer:
        first, second, third = await asyncio.gather(
            producer.send("a", id="m"), producer.send("b"), producer.send("a", id="m")
        )
        again = await producer.send("a", id="m")

    assert [first.is_duplicate, second.is_duplicate] == [False, False]
    assert [third.is_duplicate, again.is_duplicate] == [True, True]
    assert first.offset == third.offset == again.offset
    assert sorted(await bodies(broker)) == ["a", "b"]


async def test_duplicate_inside_a_batch_does_not_shift_the_others(broker: str) -> None:
    """Receipts of a batch name each message's own place."""
    async with Producer(TOPIC, broker=broker) as producer:
        await producer.send("m", id="m")
        receipts = await producer.send_batch(["a", mq.Outgoing("m", id="m"), "b"])

    assert [(receipt.offset, receipt.is_duplicate) for receipt in receipts] == [(1, False), (0, True), (2, False)]


# -- lost connections ----------------------------------------------------------------------------------------


async def test_message_whose_answer_was_lost_is_stored_once(broker: str, relay: Relay) -> None:
    """A connection that is lost between storing and answering: sent again, and told as a duplicate."""
    async with Producer(TOPIC, broker=relay.address) as producer:
        await producer.send("0")
        relay.hold_answers()
        futures = [asyncio.create_task(producer.send(str(number))) for number in range(1, 4)]
        async with asyncio.timeout(WAIT_S):
            while len(await bodies(broker)) < 4:  # noqa: ASYNC110 - the broker tells of no events
                await asyncio.sleep(0.01)

        relay.cut()
        receipts = await asyncio.gather(*futures)

    assert [(receipt.offset, receipt.is_duplicate) for receipt in receipts] == [(1, True), (2, True), (3, True)]
    assert await bodies(broker) == ["0", "1", "2", "3"]


async def test_what_was_lost_is_sent_again_before_what_is_new(broker: str, relay: Relay) -> None:
    """Messages handed in while the connection is down follow those that went down with it."""
    async with Producer(TOPIC, broker=relay.address) as producer:
        await producer.send("0")
        relay.hold_requests()
        before = [producer.send_nowait(str(number)) for number in range(1, 4)]
        await asyncio.sleep(0.02)
        relay.cut()
        after = [producer.send_nowait(str(number)) for number in range(4, 8)]
        receipts = await asyncio.gather(*before, *after)

    assert [receipt.offset for receipt in receipts] == list(range(1, 8))
    assert await bodies(broker) == [str(number) for number in range(8)]


async def test_stream_of_messages_survives_cuts(broker: str, relay: Relay) -> None:
    """However often the connection is cut, every message is stored once, and in order."""

    async def cut() -> None:
        for _ in range(5):
            await asyncio.sleep(0.03)
            relay.cut()

    async with Producer(TOPIC, broker=relay.address, in_flight_max=64) as producer:
        await producer.send("0")
        cutting = asyncio.create_task(cut())
        number = 0
        while not cutting.done():
            number += 1
            await producer.send_pipelined(str(number))
            if number % 16 == 0:
                await asyncio.sleep(0.001)
        await producer.flush()

    assert relay.connections >= 3
    page = await mq.peek(TOPIC, count=1000, broker=broker)
    stored = [int(message.body) for message in page]
    while page.next_offset < page.end_offset:
        page = await mq.peek(TOPIC, start=page.next_offset, count=1000, broker=broker)
        stored += [int(message.body) for message in page]
    assert stored == list(range(number + 1))


async def test_message_waits_for_a_broker_that_restarts(tmp_path: Path) -> None:
    """What is sent while the broker is away is stored when it is back; its topics are those it had."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running_broker(data_dir=tmp_path))
        producer = Producer(TOPIC, broker=broker)
        await producer.send("before")
        await stack.aclose()

        sending = asyncio.create_task(producer.send("while away"))
        await asyncio.sleep(0.1)
        assert not sending.done()
        await stack.enter_async_context(running_broker(data_dir=tmp_path, port=port_of(broker)))
        receipt = await sending
        await producer.close()

        assert receipt.offset == 1
        assert await bodies(broker) == ["before", "while away"]


async def test_acknowledged_messages_survive_kill_9(processes: Processes, tmp_path: Path, links: None) -> None:
    """A broker that is killed while messages stream in has all that were answered, once and in order."""
    first, address = processes.broker("--data-dir", str(tmp_path / "data"))
    async with Producer(TOPIC, broker=address) as producer:
        await producer.send("0")
        futures = []
        for number in range(1, 3000):
            futures.append(await producer.send_pipelined(str(number)))
            if number == 1500:
                await futures[0]
                first.kill()
                processes.broker("--data-dir", str(tmp_path / "data"), port=port_of(address))
        receipts = await asyncio.gather(*futures)

    assert [receipt.offset for receipt in receipts] == list(range(1, 3000))
    assert (await mq.topic(TOPIC, broker=address)).messages == 3000


# -- time limits ---------------------------------------------------------------------------------------------


async def test_time_limit_without_an_answer_leaves_it_open(relay: Relay) -> None:
    """A message that was sent and not answered in time may be stored, says the error."""
    async with Producer(TOPIC, broker=relay.address) as producer:
        await producer.send("0")
        relay.hold_answers()
        with pytest.raises(RpcError, match=r"topic orders may or may not be stored") as caught:
            await producer.send("1", timeout=0.05)

        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert caught.value.may_have_run
        relay.release()
        await producer.send("2")


async def test_time_limit_without_a_broker_says_that_nothing_was_sent() -> None:
    """A message that could not be sent in time is not stored, and the error says why."""
    producer = Producer(TOPIC, broker="127.0.0.1:1", timeout=0.1)

    with pytest.raises(
        RpcError, match=r"was not sent in time: cannot reach broker 127.0.0.1:1: nothing listens"
    ) as caught:
        await producer.send("1")

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert not caught.value.may_have_run
    await producer.close()


async def send_pipelined(producer: Producer) -> Receipt:
    """Hand a message in, and wait for its receipt."""
    return await (await producer.send_pipelined("late", timeout=0.1))


WAYS = {
    "send": lambda producer: producer.send("late", timeout=0.1),
    "send_nowait": lambda producer: producer.send_nowait("late", timeout=0.1),
    "send_pipelined": send_pipelined,
    "send_batch": lambda producer: producer.send_batch(["late", "late too"], timeout=0.1),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_not_sent_in_time_is_not_sent_when_the_broker_comes(
    processes: Processes, tmp_path: Path, way: str
) -> None:
    """The error says that it was not sent, and that holds; what was handed in beside it is sent."""
    broker, address = processes.broker("--data-dir", str(tmp_path / "data"))
    broker.kill()
    broker.wait_exit()
    async with Producer(TOPIC, broker=address) as producer:
        patient = [producer.send_nowait("patient")]
        with pytest.raises(RpcError) as caught:
            await WAYS[way](producer)
        patient += [producer.send_nowait("patient too")]

        processes.broker("--data-dir", str(tmp_path / "data"), port=port_of(address))
        await asyncio.gather(*patient)
        with suppress(RpcError):
            await producer.flush()

    assert not caught.value.may_have_run
    assert await bodies(address) == ["patient", "patient too"]


async def test_each_message_has_its_own_time_limit(relay: Relay) -> None:
    """Messages of one turn end each at its own time, longer or shorter than the producer's."""
    async with Producer(TOPIC, broker=relay.address, timeout=0.2) as producer:
        await producer.send("0")
        relay.hold_answers()
        begin = time.monotonic()
        ended: dict[str, float] = {}

        async def send(name: str, timeout: float | None) -> None:
            try:
                await producer.send(name, timeout=timeout)
            except RpcError:
                ended[name] = time.monotonic() - begin

        tasks = [asyncio.create_task(send(*one)) for one in (("usual", None), ("short", 0.05), ("long", 20.0))]
        await asyncio.wait(tasks[:2])
        relay.release()
        await asyncio.wait(tasks)

    assert list(ended) == ["short", "usual"]
    assert ended["short"] < 0.2 <= ended["usual"]


async def test_deadline_of_the_block_counts(relay: Relay) -> None:
    """`deadline(...)` limits sending as it limits calls."""
    async with Producer(TOPIC, broker=relay.address) as producer:
        await producer.send("0")
        relay.hold_answers()
        with deadline(0.05), pytest.raises(RpcError) as caught:
            await producer.send("1")

        assert caught.value.code is Code.DEADLINE_EXCEEDED
        relay.release()


# -- bounds --------------------------------------------------------------------------------------------------


async def test_send_nowait_is_bounded_by_messages_and_bytes(relay: Relay) -> None:
    """Past the bound it raises at once, and names what is in flight; when answers come there is room again."""
    async with Producer(TOPIC, broker=relay.address, in_flight_max=10, in_flight_bytes_max=3000) as producer:
        await producer.send("0")
        relay.hold_answers()
        for _ in range(10):
            producer.send_nowait(b"")
        with pytest.raises(RpcError, match=r"10 of 10 messages, \d+ of 3000 bytes; await send_pipelined") as caught:
            producer.send_nowait(b"")
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert not caught.value.may_have_run
        relay.release()
        await producer.flush()

        relay.hold_answers()
        producer.send_nowait(bytes(3000))
        with pytest.raises(RpcError, match="1 of 10 messages"):
            producer.send_nowait(b"")
        relay.release()


async def test_send_pipelined_waits_for_room_only(relay: Relay) -> None:
    """Within the bound it returns without an answer; past it, it waits for one, and a time limit ends that."""
    async with Producer(TOPIC, broker=relay.address, in_flight_max=2) as producer:
        await producer.send("0")
        relay.hold_answers()
        futures = [await producer.send_pipelined(str(number)) for number in (1, 2)]
        with pytest.raises(RpcError, match="too much is in flight, 2 of 2 messages") as caught:
            await producer.send_pipelined("late", timeout=0.02)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        third = asyncio.create_task(producer.send_pipelined("3"))
        await asyncio.sleep(0.02)
        assert not third.done()
        relay.release()
        futures.append(await third)

        assert [(await future).offset for future in futures] == [1, 2, 3]


async def test_cancelled_wait_for_room_sends_nothing(broker: str, relay: Relay) -> None:
    """A message whose sender gives up before there is room is not sent, and takes no room."""
    async with Producer(TOPIC, broker=relay.address, in_flight_max=1) as producer:
        await producer.send("0")
        relay.hold_answers()
        waiting = [asyncio.create_task(producer.send(text)) for text in ("1", "given up", "2")]
        await asyncio.sleep(0.01)
        waiting[1].cancel()
        await asyncio.sleep(0)
        relay.release()
        await asyncio.gather(*waiting, return_exceptions=True)
        await producer.send("3")

    assert await bodies(broker) == ["0", "1", "2", "3"]


async def test_cancelled_send_leaves_the_others_alone(broker: str, relay: Relay) -> None:
    """Whoever gives up after the message was sent does not disturb those that left with it."""
    async with Producer(TOPIC, broker=relay.address) as producer:
        await producer.send("0")
        relay.hold_answers()
        tasks = [asyncio.create_task(producer.send(str(number))) for number in range(1, 4)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        await asyncio.sleep(0)
        relay.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[1], asyncio.CancelledError)
    assert [result.offset for result in results if isinstance(result, mq.Receipt)] == [1, 3]
    assert await bodies(broker) == ["0", "1", "2", "3"]


async def test_frames_are_cut_to_a_small_limit(tmp_path: Path) -> None:
    """Messages that were collected before the broker's limit was known are stored; too large ones are not."""
    async with (
        running_broker(data_dir=tmp_path, message_bytes_max=2048) as broker,
        Producer(TOPIC, broker=broker) as producer,
    ):
        futures = [asyncio.create_task(producer.send(text)) for text in ("a" * 1500, "b" * 3000, "c" * 1500)]
        results = await asyncio.gather(*futures, return_exceptions=True)

        assert isinstance(results[1], RpcError)
        assert results[1].code is Code.RESOURCE_EXHAUSTED
        shown = [await mq.peek(TOPIC, start=offset, count=1, body_bytes_max=0, broker=broker) for offset in (0, 1)]
        assert [message.size for page in shown for message in page] == [1500, 1500]
        with pytest.raises(RpcError, match="exceeds the limit of 2042 bytes; it was not sent"):
            producer.send_nowait("b" * 3000)


# -- errors and ends -----------------------------------------------------------------------------------------


async def test_topic_that_is_not_to_be_declared_must_exist(broker: str) -> None:
    """With declare=False the broker's NOT_FOUND comes through, until somebody else has made the topic."""
    async with Producer(TOPIC, broker=broker, declare=False) as producer:
        with pytest.raises(RpcError, match="there is no topic orders") as caught:
            await producer.send("1")
        assert caught.value.code is Code.NOT_FOUND
        await mq.declare(TOPIC, durability="memory", broker=broker)

        assert (await producer.send("1")).durability == "memory"


async def test_topic_that_was_removed_is_made_again(broker: str) -> None:
    """The first message after the removal tells it, the next makes the topic anew."""
    async with Producer(TOPIC, broker=broker) as producer:
        await producer.send("1")
        await mq.remove(TOPIC, broker=broker)
        with pytest.raises(RpcError) as caught:
            await producer.send("2")

        assert caught.value.code is Code.NOT_FOUND
        assert (await producer.send("3")).offset == 0


async def test_broker_without_data_directory_refuses() -> None:
    """Every message is told why nothing can be stored."""
    async with running_broker() as broker, Producer(TOPIC, broker=broker) as producer:
        results = await asyncio.gather(*[producer.send("1") for _ in range(3)], return_exceptions=True)

        assert {result.code for result in results if isinstance(result, RpcError)} == {Code.FAILED_PRECONDITION}
        with pytest.raises(RpcError, match="data"):
            await producer.send("1")


async def test_close_raises_what_nobody_may_have_looked_at(broker: str) -> None:
    """Futures may be thrown away: flush and close tell the first error once; what `send` raised is not told again."""
    producer = Producer(TOPIC, broker=broker, declare=False)
    with pytest.raises(RpcError):
        await producer.send("told")
    await producer.flush()
    producer.send_nowait("not told")
    with pytest.raises(RpcError) as caught:
        await producer.flush()
    assert caught.value.code is Code.NOT_FOUND
    await producer.flush()
    await producer.send_pipelined("not told")

    with pytest.raises(RpcError):
        await producer.close()
    await producer.close()


async def test_leaving_the_block_waits_for_the_answers(broker: str) -> None:
    """What was handed in is stored when the block is left."""
    async with Producer(TOPIC, broker=broker) as producer:
        futures = [producer.send_nowait(str(number)) for number in range(100)]

    assert all(future.done() for future in futures)
    assert len(await bodies(broker)) == 100


async def test_leaving_by_an_exception_waits_for_nothing(relay: Relay) -> None:
    """What is not answered then ends with CANCELED, and says whether it may be stored."""
    with suppress(ZeroDivisionError):
        async with Producer(TOPIC, broker=relay.address) as producer:
            await producer.send("0")
            relay.hold_answers()
            sent = producer.send_nowait("sent")
            await asyncio.sleep(0.01)
            unsent = producer.send_nowait("unsent")
            raise ZeroDivisionError

    errors = [future.exception() for future in (sent, unsent)]
    assert [error.may_have_run for error in errors if isinstance(error, RpcError)] == [True, False]
    with pytest.raises(UsageError, match="the producer of topic orders is closed"):
        producer.send_nowait("late")


async def test_reconnecting_after_disconnect(broker: str) -> None:
    """Who closes the loop's connections does not break producers: they open another one."""
    async with Producer(TOPIC, broker=broker) as producer:
        await producer.send("0")
        await disconnect()

        assert (await producer.send("1")).offset == 1


def test_producer_needs_a_loop_and_stays_in_it() -> None:
    """Without a loop, and in another loop than its own, it raises an error that names the fix."""
    producer = Producer(TOPIC, broker="127.0.0.1:1", timeout=0.01)
    with pytest.raises(UsageError, match=r"without one use mq\.SyncProducer"):
        producer.send_nowait("1")

    async def send() -> None:
        with pytest.raises(RpcError):
            await producer.send("1")

    asyncio.run(send())

    async def send_elsewhere() -> None:
        with pytest.raises(UsageError, match="belongs to another event loop"):
            await producer.send("1")

    asyncio.run(send_elsewhere())
