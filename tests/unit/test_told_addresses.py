"""Addresses that brokers tell of: to which of them clients and services show their token, and to how many."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.broker_set import fleet_at, serving_at
from tests.support.inprocess import running_broker
from tests.support.lab import Lab
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, disconnect
from zbusrpc.broker.assembly.server import Server
from zbusrpc.cli.watching import Watch
from zbusrpc.cluster import endpoints as endpoints_module
from zbusrpc.errors import LinkError
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.tls import server_context
from zbusrpc.transport.topology import Report, ServerFacts, TopicFacts

pytestmark = pytest.mark.anyio


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return what a broker speaks TLS with, which clients of this test trust."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    monkeypatch.setenv("ZBUSRPC_TLS_CA", str(tmp_path / "ca.pem"))
    return server_context(str(tmp_path / "own.pem"), None)


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Listen without TLS; yield the address, and what the first bytes of each connection were."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}", heard
    finally:
        server.close()


def tell_of(server: Server, addresses: Iterable[str]) -> None:
    """Have a broker tell of others, each with a Lab, as somebody with the right `track_pub` can."""
    for address in addresses:
        facts = ServerFacts(address=address, boot="1", trackers=(address,))
        report = Report(is_full=True, server=facts, topics={"Lab": TopicFacts(consumers=1)})
        server.hub.tracker.take(server.broker.connect("liar"), report, None, is_leased=False)


async def test_who_names_brokers_with_tls_shows_no_token_without(tls: ssl.SSLContext) -> None:
    """What a tracker tells of is not dialled in the clear: by calls, services and `zbusrpc top` alike."""
    async with running_broker(tls=tls) as server, listener() as (plain, heard):
        address = f"tls://{server.broker.name}"
        tell_of(server, [plain])
        async with serving_at(address), Watch(parse_addresses(address)) as watch:
            assert await connect(Lab, broker=address).add(1, 2) == 3
            await eventually(lambda: plain in fleet_at(address).topology.brokers, "the client is told")
            assert [await connect(Lab, broker=address).add(1, 2) for _ in range(3)] == [3, 3, 3]
            await watch.wait_first()

            assert heard == []
            assert list(watch.views) == [server.broker.name]
        await disconnect()


async def test_who_names_a_broker_without_tls_is_led_to_others_without() -> None:
    """There is nothing to hide from anybody then."""
    async with running_broker() as server, listener() as (plain, heard):
        tell_of(server, [plain])
        fleet = fleet_at(server.broker.name)
        await eventually(lambda: fleet.choices(b"Lab") or heard, "it is dialled")
        await disconnect()


async def test_service_serves_at_no_more_brokers_than_it_has_files_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker may tell of ten thousand."""
    monkeypatch.setattr(endpoints_module, "ENDPOINTS_MAX", 3)
    async with running_broker() as server:
        tell_of(server, [f"127.0.0.1:{port}" for port in range(1, 20)])
        async with serving_at(server.broker.name) as worker:
            assert worker._fleet is not None
            endpoints = worker._fleet._endpoints
            await eventually(lambda: len(endpoints) == 4, "three besides the one that was named")


async def test_service_keeps_one_link_to_an_address_that_leads_to_another_broker() -> None:
    """It is not dialled again with each change, with the earlier link left open."""
    async with running_broker() as server:
        port = parse_addresses(server.broker.name)[0].port
        tell_of(server, [f"localhost:{port}"])
        async with serving_at(server.broker.name) as worker:
            assert worker._fleet is not None
            endpoints = worker._fleet._endpoints
            await eventually(lambda: endpoints._doubles, "it is dialled once, and let go")
            sessions = server.broker._last_session
            for number in range(5):
                tell_of(server, [f"127.0.0.1:{number + 1}"])
                await eventually(lambda number=number: len(endpoints) == number + 2, "the news came")

            assert server.broker._last_session == sessions + 5, "the liar's, and none of the service"


async def test_service_that_is_told_rubbish_serves_on() -> None:
    """A tracker that tells what nobody can read may yet be a good broker."""
    async with running_broker() as server, serving_at(server.broker.name):
        for session in list(server.broker._sessions.values()):
            server.broker.send(session, Message(Kind.TOPOLOGY, body=b'{"servers": 7}'))
        server.turns.flush()

        assert await connect(Lab, broker=server.broker.name).add(1, 2) == 3
        assert server.broker._last_session == 2, "the service has not come back: it never went"


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "."])
async def test_host_that_cannot_be_one_is_a_broker_that_cannot_be_reached(host: str) -> None:
    """For calls and services at once, and not a fault of the link."""
    with pytest.raises(RpcError, match="is no host name") as refused:
        await connect(Lab, broker=f"{host}:1").add(1, 2)
    assert refused.value.code is Code.UNAVAILABLE

    with pytest.raises(LinkError, match="is no host name"):
        async with serving_at(f"{host}:1"):
            pass
    await disconnect()
