"""The default broker: which one is meant where none is named, and when that is found out."""

from pathlib import Path

import pytest

from zbusrpc import ConfigError, connect, options, service
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.mq import Consumer, Producer, topics
from zbusrpc.testing import running, running_broker

pytestmark = pytest.mark.anyio


@service
class Clock:
    """Tells where it is."""

    def __init__(self, zone: str = "") -> None:
        self._zone = zone

    async def zone(self) -> str:
        """Return its time zone."""
        return self._zone


EARLY = connect(Clock)
"""Made as a module is imported, long before a test runs."""
EARLY_BY_NAME = options(connect("Clock"), timeout=9.0)


@pytest.mark.parametrize("zone", ["first", "second"])
async def test_proxy_of_a_module_calls_the_broker_that_a_test_sets(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ZBUSRPC_BROKER` says at the first call in an event loop counts, not what it said at the import."""
    async with running_broker() as address, running(Clock(zone), broker=address):
        monkeypatch.setenv("ZBUSRPC_BROKER", address)

        assert await EARLY.zone() == zone
        assert await EARLY_BY_NAME.zone() == zone

        await close_fleets()


async def test_producer_and_consumer_look_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made before the broker is named, they store and read there."""
    producer, consumer = Producer[str]("early"), Consumer[str]("early", group="g", body=str)
    async with running_broker(data_dir=tmp_path) as address:
        monkeypatch.setenv("ZBUSRPC_BROKER", address)

        async with producer, consumer:
            await producer.send("here")
            found = [message.body for message in await consumer.fetch(1)]

        assert found == ["here"]
        assert [topic.name for topic in await topics()] == ["early"]
        await close_fleets()


async def test_wrong_default_is_named_by_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that is no address is a mistake in one line, whatever uses it first."""
    monkeypatch.setenv("ZBUSRPC_BROKER", "here:many")

    for use in (EARLY.zone(), Producer[str]("early").send("x"), Consumer[str]("early").start(), topics()):
        with pytest.raises(ConfigError, match="here:many"):
            await use
