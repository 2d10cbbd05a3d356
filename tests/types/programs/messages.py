"""Programs that must pass: producers and consumers are generic in the body."""

import asyncio
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, assert_type

from declared import Order
from pydantic import TypeAdapter

from zbusrpc import Consumer, Producer, mq
from zbusrpc.mq import SyncConsumer, SyncProducer, SyncReceivedMessage


def makes() -> None:
    """The type of the bodies is that of `body`; without one a consumer gets bytes and a producer takes anything."""
    assert_type(Producer("orders"), Producer[Any])
    assert_type(Producer("orders", body=Order), Producer[Order])
    assert_type(Consumer("orders"), Consumer[bytes])
    assert_type(Consumer("orders", body=str), Consumer[str])
    assert_type(Consumer("orders", body=Order, group="g", filter="eu.*", lease=5.0, start=17), Consumer[Order])
    assert_type(Consumer("orders", body=list[int]), Consumer[list[int]])
    union: TypeAdapter[Order | int] = TypeAdapter(Order | int)
    assert_type(Consumer("orders", body=union), Consumer[Order | int])
    assert_type(SyncProducer("orders", body=Order), SyncProducer[Order])
    assert_type(SyncConsumer("orders"), SyncConsumer[bytes])


async def produces() -> None:
    """Receipts, futures of them, and lists of them."""
    async with Producer("orders", body=Order) as producer:
        assert_type(producer, Producer[Order])
        receipt = await producer.send(Order("tea", 1), key="42", tag="eu", id="m", headers={"a": "b"}, ttl=1, delay=0.5)
        assert_type(receipt, mq.Receipt)
        assert_type(receipt.offset, int)
        assert_type(receipt.timestamp, datetime)
        assert_type(receipt.durability, mq.Durability)
        assert_type(receipt.is_duplicate, bool)
        assert_type(producer.send_nowait(Order("tea", 1), timeout=1.0), asyncio.Future[mq.Receipt])
        assert_type(await producer.send_pipelined(Order("tea", 1)), asyncio.Future[mq.Receipt])
        receipts = await producer.send_batch([Order("tea", 1), mq.Outgoing(Order("tea", 2), key="k")])
        assert_type(receipts, list[mq.Receipt])
        await producer.flush()


async def consumes() -> None:
    """Messages have the type of the body."""

    async def handle(message: mq.ReceivedMessage[Order]) -> None:
        assert_type(message.body, Order)

    def handle_in_thread(message: mq.ReceivedMessage[Order]) -> None:
        assert_type(message.body.item, str)

    async with Consumer("orders", group="billing", body=Order, start=datetime.now(UTC), auto_ack=True) as consumer:
        async for message in consumer:
            assert_type(message, mq.ReceivedMessage[Order])
            assert_type(message.body, Order)
            assert_type(message.headers, dict[str, str])
            await message.ack(confirmed=True)
            await message.nack(delay=1.0, reason="later")
        assert_type(await consumer.fetch(10, timeout=1.0), list[mq.ReceivedMessage[Order]])
        await consumer.run(handle, concurrency=4)
        await consumer.run(handle_in_thread)


def blocks() -> None:
    """The blocking twins have the same types without awaiting."""

    def handle(message: SyncReceivedMessage[Order]) -> None:
        message.ack(confirmed=True)

    with SyncProducer("orders", body=Order) as producer, SyncConsumer("orders", body=Order) as consumer:
        assert_type(producer.send(Order("tea", 1), key="k"), mq.Receipt)
        assert_type(producer.send_nowait(Order("tea", 1)), Future[mq.Receipt])
        for message in consumer:
            assert_type(message, SyncReceivedMessage[Order])
            message.reject("no")
        assert_type(consumer.fetch(10), list[SyncReceivedMessage[Order]])
        consumer.run(handle)
    assert_type(mq.sync.declare("orders", durability="disk", keep=None), mq.TopicInfo)
    assert_type(mq.sync.topics(match="o"), list[mq.TopicInfo])
    mq.sync.remove("orders", group="billing")


async def administers() -> None:
    """Results have fields with types."""
    assert_type(await mq.declare("orders", keep=60.0, update=True), mq.TopicInfo)
    assert_type(await mq.declare_group("orders", "g", start=mq.LikeGroup("h"), max_attempts=3), mq.GroupInfo)
    assert_type((await mq.topic("orders")).groups, list[mq.GroupInfo])
    for message in await mq.peek("orders", start=mq.AtMessage("m", offset=3)):
        assert_type(message, mq.StoredMessage)
        assert_type(message.due, datetime | None)
    letters = await mq.dead_letters("orders")
    assert_type(letters[0], mq.DeadLetter)
    assert_type(letters[0].reason, str)
    assert_type(await mq.seek("orders", "g", "oldest"), mq.SeekResult)
    assert_type((await mq.retry_dead("orders", offsets=[1])).left, list[mq.LeftLetter])
