"""A durable service for tests: its handlers note what happens to them, as those of the Lab do."""

import asyncio
import os

from tests.support.lab import mark
from zbusrpc import service

DURABLE = "tests.support.durable:Payments"


@service(durable=True)
class Payments:
    """Requests that must not get lost."""

    async def pay(self, name: str, seconds: float = 0.0) -> int:
        """Note the start, work for a while, note the end, and say which process did it."""
        mark(name, "started")
        await asyncio.sleep(seconds)
        mark(name, "finished")
        return os.getpid()
