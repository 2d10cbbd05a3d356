"""A work queue: handlers run at the same time, but one after the other for the same key; failures come again."""

import asyncio
import tempfile

from zbusrpc import Code, Consumer, Producer, RpcError
from zbusrpc.mq import ReceivedMessage
from zbusrpc.testing import running_broker

done: list[str] = []
all_done = asyncio.Event()
failed: list[str] = []


async def handle(message: ReceivedMessage[str]) -> None:
    """Work on one message: returning acknowledges it, raising brings it back."""
    if message.body == "b2" and message.attempt == 1:
        failed.append(message.body)
        raise RpcError(Code.UNAVAILABLE, "the printer is out of paper")
    await asyncio.sleep(0.01)
    done.append(message.body)
    if len(done) == 12:
        all_done.set()


async def main() -> None:
    """Hand out twelve jobs, nine of them of three customers, to four handlers."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_broker(data_dir=directory) as broker:
            async with Producer("jobs", body=str, broker=broker) as producer:
                await producer.send_batch(["x1", "x2", "x3"])  # all of them are stored, or none
                for number in (1, 2, 3):
                    for customer in "abc":
                        await producer.send(f"{customer}{number}", key=customer)
            async with Consumer("jobs", group="workers", body=str, backoff=0.05, broker=broker) as consumer:
                runner = asyncio.create_task(consumer.run(handle, concurrency=4))
                await all_done.wait()
                runner.cancel()
    for customer in "abc":
        print("in order:", *[job for job in done if job.startswith(customer)])
    print("came again:", *failed)


if __name__ == "__main__":
    asyncio.run(main())
