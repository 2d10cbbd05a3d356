"""The client: options that travel with a call, and letting go of connections."""

import pytest

from zbusrpc import context, disconnect, options, service
from zbusrpc.testing import running, running_broker

pytestmark = pytest.mark.anyio


@service
class Desk:
    """Tells who calls."""

    async def who(self) -> str:
        """Return the caller."""
        return context().caller

    async def attempt(self) -> int:
        """Return the attempt."""
        return context().attempt

    async def length(self, text: str) -> int:
        """Return the length."""
        return len(text)


async def test_caller_is_who_it_says_it_is() -> None:
    """`options(caller=...)` is what the handler finds; without it there is the session's number."""
    async with running(Desk) as desk:
        named = options(desk, caller="billing")

        assert await named.who() == "billing"
        assert (await desk.who()).startswith("session ")


async def test_calls_go_on_after_disconnect() -> None:
    """The connection is closed, and the next call opens another one."""
    async with running(Desk) as desk:
        before = await desk.who()

        await disconnect()

        assert await desk.who() != before


async def test_the_brokers_limit_counts_for_clients_and_services() -> None:
    """A broker that takes more than 16 MiB does so for typed calls, too."""
    async with running_broker(message_bytes_max=40_000_000) as address, running(Desk, broker=address) as desk:
        assert await desk.length("x" * 20_000_000) == 20_000_000
