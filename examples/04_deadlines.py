"""Deadlines and cancellation: both reach the handler, and calls of a handler inherit what is left."""

import asyncio

from zbusrpc import RpcError, connect, context, deadline, options, service
from zbusrpc.testing import running, running_broker


@service
class Slow:
    """Sleeps, and says how it ended."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def sleep(self, seconds: float) -> str:
        """Return after some time."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "slept"

    async def time_left(self) -> float:
        """Return the seconds until the deadline of this call."""
        return context().time_left or 0.0


@service
class Front:
    """Passes calls on."""

    def __init__(self, broker: str) -> None:
        self._slow = connect(Slow, broker=broker)

    async def time_left(self) -> float:
        """Return what a call made from here has left."""
        return await self._slow.time_left()


async def main() -> None:
    """Let calls run out of time, and give one up."""
    slow_instance = Slow()
    async with (
        running_broker() as broker,
        running(slow_instance, broker=broker) as slow,
        running(Front(broker), broker=broker) as front,
    ):
        print("in time:", await options(slow, timeout=2.0).sleep(0.01))
        try:
            with deadline(0.2):  # for all calls of the block together
                await slow.sleep(0.05)
                await slow.sleep(30)
        except RpcError as error:
            print("too late:", error.code)

        task = asyncio.create_task(slow.sleep(30))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0.05)
        print("handlers cancelled:", slow_instance.cancelled)

        left = await options(front, timeout=3.0).time_left()
        print("a nested call inherits the deadline:", 2.0 < left <= 3.0)


asyncio.run(main())
