"""A durable service: its requests are stored, wait while nobody serves, and survive a restart of the broker."""

import asyncio
import tempfile

from zbusrpc import connect, service
from zbusrpc.testing import running, running_broker


@service(durable=True)
class Bank:
    """Transfers that must not get lost. They may run twice, so each has a number that makes it one transfer."""

    def __init__(self) -> None:
        self.transfers: dict[str, int] = {}

    async def transfer(self, number: str, cents: int) -> int:
        """Move money once, and return the sum of all transfers."""
        await asyncio.sleep(0.2)
        self.transfers[number] = cents
        return sum(self.transfers.values())


async def main() -> None:
    """Call while nobody serves; who comes later carries it out."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_broker(data_dir=directory) as broker:
            async with running(Bank, broker=broker):
                pass  # from now on the broker stores what is asked of Bank, also while nobody serves it
            call = asyncio.create_task(connect(Bank, broker=broker).transfer("t-1", 250))
            await asyncio.sleep(0.1)
            print("waits while nobody serves:", not call.done())
            async with running(Bank, broker=broker):
                print("transferred:", await call)


if __name__ == "__main__":
    asyncio.run(main())
