"""What one peer sent wrongly is found out by the peer itself, and never by whoever it was for."""

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support.inprocess import BareClient, bare_client, http_call, running_broker
from tests.support.neighbours import NATIVE_SERVICE, TOPIC, ZBUS_SERVICE, open_neighbours, text_peer
from tests.support.text_wire import body_of, command, status_of
from zbusrpc import envelope
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.entries import encode_entry

pytestmark = pytest.mark.anyio

BAD_HEADERS = [b"{bad", b"\xff\xfe", b"[]", b'{"a":1}', b'{"a":{"b":"c"}}', b"null", b"[" * 3000]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Run a broker that stores."""
    async with running_broker(data_dir=str(tmp_path)) as server:
        yield server


def code_of(message: Message) -> Code:
    return envelope.parse_error(message.body).code


@pytest.mark.parametrize("headers", BAD_HEADERS)
@pytest.mark.parametrize("service", [ZBUS_SERVICE, NATIVE_SERVICE])
async def test_call_with_bad_headers_fails_at_its_caller(server: Server, service: str, headers: bytes) -> None:
    """The service does not see it, whatever it speaks, and its connection stays."""
    async with open_neighbours(server) as good, bare_client(server) as caller:
        caller.send(Message(Kind.REQUEST, 1, service.encode(), b"{}", headers))

        assert code_of(await caller.receive()) is Code.INVALID_ARGUMENT

        await good.check()


@pytest.mark.parametrize("headers", BAD_HEADERS)
async def test_message_with_bad_headers_is_not_stored(server: Server, headers: bytes) -> None:
    """Its producer hears so; what comes next is consumed."""
    async with open_neighbours(server) as good, bare_client(server) as producer:
        entry = encode_entry(0, 0, 0, b"", b"", b"", headers, b"body")
        producer.send(Message(Kind.PRODUCE, 1, TOPIC.encode(), entry))

        assert code_of(await producer.receive()) is Code.INVALID_ARGUMENT

        await good.check()


@pytest.mark.parametrize("headers", BAD_HEADERS)
async def test_bad_headers_that_were_stored_reach_consumers_as_none(server: Server, headers: bytes) -> None:
    """A message of an earlier version is delivered in every dialect, and shown."""
    async with open_neighbours(server) as good, text_peer(server) as consumer, text_peer(server) as socket:
        await socket.upgrade()
        topic = server.hub.topic(TOPIC)
        assert topic is not None
        topic.append([Record(b"old", headers=headers) for _ in range(2)], lambda offset, error: None)

        assert body_of(await consumer.ask(command("consume", topic=TOPIC))) == b"old"
        assert body_of(await socket.ask(command("consume", topic=TOPIC))) == b"old"
        status, _, shown = await http_call(server, f"GET /api/topics/{TOPIC}/messages?start=oldest")
        assert (status, b"old" in shown) == (200, True)

        await good.check()


BAD_REPLIES = [
    b"",
    b"{bad",
    b"\xff",
    b"null",
    b'{"error":7}',
    b'{"error":{"code":[],"message":{}}}',
    b'{"error":{"code":"NOT_FOUND","message":"m","details":{"retry_after_s":1e999}}}',
    b'{"error":{"code":"NOT_FOUND","message":"m","details":{"retry_after_s":true}}}',
    b'{"error":{"code":"NOT_FOUND","message":7,"details":' + b"1" * 5000 + b"}}",
    b'{"jsonrpc"',
    b"[" * 5000,
]


@pytest.mark.parametrize("is_error", [False, True])
@pytest.mark.parametrize("body", BAD_REPLIES)
async def test_bad_reply_is_answered_in_every_dialect(server: Server, body: bytes, is_error: bool) -> None:
    """Whatever an instance makes of a call, its caller gets one answer and its connection goes on."""
    flags = Flag.ERROR if is_error else 0
    async with open_neighbours(server) as good, bare_client(server) as service, text_peer(server) as caller:
        await service.subscribe("Odd", 4)
        for request in _calls():
            caller.send(request)
            await _answer(service, body, flags)
            assert status_of(await caller.receive()) > 0
        assert status_of(await caller.ask(command("ping"))) == 200

        await good.check()


def _calls() -> list[bytes]:
    """Return a call in each dialect of text."""
    batch = orjson.dumps([{"jsonrpc": "2.0", "id": 1, "method": "m"}])
    head = f"POST /rpc/Odd HTTP/1.1\r\nhost: x\r\ncontent-length: {len(batch)}\r\n\r\n".encode()
    zbus = [command("rpc", b"{}", topic="Odd", version=version) for version in ("0.8.0", "0.11.0")]
    return [b"GET /rpc/Odd/m HTTP/1.1\r\nhost: x\r\n\r\n", head + batch, *zbus]


async def _answer(service: BareClient, body: bytes, flags: int) -> None:
    asked = await service.receive()
    assert asked.kind == Kind.REQUEST
    service.send(Message(Kind.REPLY, asked.id, b"", body, flags=flags, session=asked.session))


ODD_RESULTS = [b'{"result":%b}' % (b"9" * 30), b'{"error":%b}' % (b"9" * 30), b'{"error":{"a":1e999}}', b"[" * 5000]


@pytest.mark.parametrize("body", ODD_RESULTS)
@pytest.mark.parametrize("version", ["0.8.0", "0.11.0"])
async def test_odd_result_of_a_zbus_service_is_answered(server: Server, body: bytes, version: str) -> None:
    """Numbers of more than 64 bits, infinities and deep lists: the caller gets an answer, the service stays."""
    async with open_neighbours(server) as good, text_peer(server) as service:
        assert status_of(await service.ask(command("declare", topic="Odd", topic_mask="2"))) == 200
        for target in ("/rpc/Odd/m", "/Odd/m/n"):
            service.send(command("consume", topic="Odd"))
            async with text_peer(server) as caller:
                caller.send(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                head = (await service.receive()).split(b"\r\n\r\n")[0].decode()
                lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
                service.send(command("route", body, recver=lines["sender"], id=lines["origin_id"], version=version))
                assert status_of(await caller.receive()) > 0

        await good.check()
