"""Messages: a producer, two groups that each get all of them, and what becomes of one that cannot be handled."""

import asyncio
import tempfile

from pydantic import BaseModel

from zbusrpc import Consumer, Producer, mq
from zbusrpc.testing import running_broker


class Order(BaseModel):
    """What travels, as JSON."""

    customer: str
    cents: int


async def bill(broker: str) -> None:
    """Take every order; one that is wrong goes to the dead letters, with the reason."""
    async with Consumer("orders", group="billing", body=Order, broker=broker) as consumer:
        for _ in range(3):
            message = await anext(consumer)
            if message.body.cents < 0:
                await message.reject("a price is not negative")
            else:
                print("billed", message.body.customer, message.body.cents)
                await message.ack()


async def count_europe(broker: str) -> None:
    """Take the orders with a certain tag; this group knows nothing of the other."""
    async with Consumer("orders", group="europe", filter="eu.*", body=Order, broker=broker) as consumer:
        message = await anext(consumer)
        print("europe:", message.body.customer, "tag", message.tag, "offset", message.offset)
        await message.ack()


async def main() -> None:
    """Produce three orders, consume them twice, look at the dead letters."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_broker(data_dir=directory) as broker:
            async with Producer("orders", body=Order, broker=broker) as producer:
                receipt = await producer.send(Order(customer="ada", cents=250), key="ada", tag="us.new")
                print("stored at offset", receipt.offset, "level", receipt.durability)
                await producer.send(Order(customer="bob", cents=100), key="bob", tag="eu.new")
                await producer.send(Order(customer="eve", cents=-1), key="eve", tag="us.new")
            await bill(broker)
            await count_europe(broker)
            async with Consumer("orders.dlq", group="watch", body=Order, broker=broker) as watch:
                await anext(watch)  # a dead-letter topic is a topic like others; this waits until the letter is there
            for letter in await mq.dead_letters("orders", broker=broker):
                print("dead letter:", letter.offset, letter.reason)


if __name__ == "__main__":
    asyncio.run(main())
