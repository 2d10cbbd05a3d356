"""Calls to a lone broker that ends: nobody waits for what will not come, and whoever wants to wait is served later."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.support.broker_set import fleet_at, serving_at
from tests.support.inprocess import running_broker
from tests.support.lab import Lab
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, disconnect, options
from zbusrpc.broker.assembly.server import Server
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("wait_for_ready", [False, True])
async def test_no_connection_is_waited_for_after_the_end(wait_for_ready: bool) -> None:
    """Such as by the lane of a producer that had something left when the broker was let go."""
    async with running_broker() as server:
        channel = fleet_at(server.broker.name).seeds[0].channel
        await eventually(lambda: channel.connection is not None, "there is a connection")
        await disconnect()

        with pytest.raises(RpcError) as ended:
            async with asyncio.timeout(5):
                await channel.wait_connection(None, wait_for_ready=wait_for_ready)

        assert ended.value.code is Code.UNAVAILABLE
        assert ended.value.may_have_run is False


@pytest.mark.parametrize("is_served", [False, True])
async def test_call_that_waits_for_an_instance_outlives_the_restart_of_a_lone_broker(is_served: bool) -> None:
    """Whether it waits there when the draining begins or comes then: it has not run, and there is time yet."""
    one, other = Server(), Server()
    address = await one.start("127.0.0.1", 0)
    lab = options(connect(Lab, broker=address), wait_for_ready=True, timeout=20)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(other.close)
        stack.push_async_callback(one.close)
        stack.push_async_callback(disconnect)
        if is_served:
            await stack.enter_async_context(serving_at(address))
            assert await lab.add(1, 2) == 3
            one.broker.drain()
        call = asyncio.create_task(lab.add(3, 4))
        await eventually(lambda: one.broker.calls.counters.requests == 1 + is_served, "the call has come")
        await one.close()
        await other.start("127.0.0.1", parse_addresses(address)[0].port)
        if not is_served:
            await stack.enter_async_context(serving_at(address))

        assert await call == 7
