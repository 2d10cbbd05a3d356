"""A running broker whose machine's clock is set: nothing that waits comes early, late or never."""

import time
from pathlib import Path

import pytest

from tests.support.inprocess import running_broker
from zbusrpc import Consumer, Producer
from zbusrpc.broker.assembly.clock import Clock

pytestmark = pytest.mark.anyio

HOUR_NS = 3600 * 1_000_000_000


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS])
async def test_clock_that_is_set_changes_no_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jump_ns: int) -> None:
    """A delay that nobody has read yet, a time to live and the duplicate window stay as long as they were."""
    set_ns = 0
    monkeypatch.setattr("zbusrpc.broker.assembly.server.Clock", lambda: Clock(lambda: time.time_ns() + set_ns))
    async with running_broker(data_dir=str(tmp_path)) as server:
        broker = server.broker.name
        async with Producer("orders", broker=broker) as producer:
            await producer.send("later", delay=600)
            await producer.send("mortal", ttl=600, id="a")
            await producer.send("soon", delay=0.3)

            set_ns = jump_ns
            again = await producer.send("mortal", ttl=600, id="a")
            async with Consumer("orders", group="billing", broker=broker) as consumer:
                bodies = [(await anext(consumer)).body for _ in range(2)]

            assert bodies == [b"mortal", b"soon"]
            assert again.is_duplicate
