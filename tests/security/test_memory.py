"""What peers make a broker keep is counted in bytes, for each and for all, before and after a token was shown."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from tests.support.inprocess import bare_client, http, running_broker
from tests.support.neighbours import TOPIC, open_neighbours, text_peer
from tests.support.text_wire import BINARY, CONT, UPGRADE, command, frame, get, status_of
from tests.support.waiting import eventually
from zbusrpc import envelope
from zbusrpc.broker.access.rights import Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.sessions.limits import ABOUT_BYTES_MAX, SERVICES_PER_SESSION_MAX, SUBSCRIBE_BYTES_MAX
from zbusrpc.broker.sessions.memory import SMALL_BYTES, Input, Output
from zbusrpc.errors import Code
from zbusrpc.message import Kind, Message
from zbusrpc.transport.connection import OUTBOX_HIGH_BYTES
from zbusrpc.transport.native import HEADER

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
BODY = 4 * MIB


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Run a broker that stores."""
    async with running_broker(data_dir=str(tmp_path)) as server:
        yield server


@pytest.fixture
def traced() -> Iterator[None]:
    """Count what is kept in memory."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


class Peer:
    """Whoever is told to wait, or is cut off."""

    def __init__(self) -> None:
        self.is_held_back = self.is_cut_off = False

    def hold_back(self, is_held_back: bool) -> None:
        self.is_held_back = is_held_back

    def cut_off(self) -> None:
        self.is_cut_off = True


def test_where_input_is_used_up_only_the_first_goes_on() -> None:
    """And the next when that one is done; none waits for ever."""
    input_, peers = Input(10 * MIB), [Peer() for _ in range(4)]
    for peer in peers:
        input_.hold(peer, 3 * MIB)
    assert [peer.is_held_back for peer in peers] == [False, False, False, True]
    for peer in peers[:3]:
        input_.hold(peer, 4 * MIB)
    assert [peer.is_held_back for peer in peers] == [False, True, True, True]

    done = []
    while len(done) < 4:
        peer = next(one for one in peers if one not in done and not one.is_held_back)
        input_.hold(peer, 0)
        done.append(peer)

    assert (input_.used, [peer.is_held_back for peer in peers]) == (0, [False] * 4)


def test_small_parts_are_not_counted() -> None:
    """There are as many as there are connections."""
    input_, peer = Input(0), Peer()

    input_.hold(peer, SMALL_BYTES)

    assert (input_.used, peer.is_held_back) == (0, False)


def test_where_output_is_used_up_the_one_with_most_is_cut_off() -> None:
    """The others are sent what they wait for."""
    output, peers = Output(10 * MIB), [Peer() for _ in range(4)]
    for size, peer in zip((1, 6, 2, 2), peers, strict=True):
        output.hold(peer, size * MIB)

    assert [peer.is_cut_off for peer in peers] == [False, True, False, False]
    assert output.used == 5 * MIB
    for peer in peers:
        output.hold(peer, 0)
    assert output.used == 0


def partial(dialect: str) -> bytes:
    """Return a message of which the last byte is missing."""
    body = b"x" * (BODY - 1)
    if dialect == "http":
        return f"POST /produce/x HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY}\r\n\r\n".encode() + body
    if dialect == "zbus":
        return command("produce", b"x" * BODY, topic="x")[:-1]
    if dialect == "websocket":
        return frame(BINARY, b"x" * BODY)[:-1]
    return HEADER.pack(BODY, Kind.REQUEST, 0, 0, 0, 0, 1) + body


@pytest.mark.parametrize("dialect", ["http", "zbus", "websocket", "native"])
async def test_parts_of_messages_have_one_budget(server: Server, dialect: str) -> None:
    """Thirty peers send all but the last byte: some are read from no more, neighbours notice nothing, all may end."""
    server.input.bytes_max = 3 * BODY
    async with open_neighbours(server) as good, AsyncExitStack() as stack:
        data = partial(dialect)
        for _ in range(30):
            if dialect == "native":
                writer = (await stack.enter_async_context(bare_client(server))).writer
            else:
                peer = await stack.enter_async_context(text_peer(server))
                if dialect == "websocket":
                    await peer.upgrade()
                writer = peer.writer
            writer.write(data)
        await eventually(lambda: server.input.used > 3 * BODY, "budget used up")
        for _ in range(3):
            await good.check()
        assert server.input.used <= 3 * BODY + 31 * MIB
    await eventually(lambda: server.input.used == 0, "all gone")


async def test_whoever_waits_gets_its_turn(server: Server) -> None:
    """Twelve large messages at a time, with room for two: all are stored."""
    server.input.bytes_max = 2 * BODY
    async with open_neighbours(server) as good, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(text_peer(server)) for _ in range(12)]
        request = command("produce", b"y" * BODY, topic=TOPIC)

        answers = await asyncio.gather(*(peer.ask(request) for peer in peers))

        assert [status_of(answer) for answer in answers] == [200] * 12
        assert server.input.used == 0
        del good


@pytest.fixture
async def guarded() -> AsyncIterator[Server]:
    """Run a broker that asks for tokens."""
    everything = Rule(operations=frozenset(Operation), topics=("*",))
    async with running_broker(access=Access([Rights("me", (everything,), digest_of("secret"))])) as server:
        yield server


@pytest.mark.parametrize(
    ("line", "status"),
    [("", 413), ("token: wrong\r\n", 413), ("authorization: Bearer wrong\r\n", 413), ("cookie: token=wrong\r\n", 413)],
)
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_large_body_needs_a_token(guarded: Server, line: str, status: int, is_chunked: bool) -> None:
    """It is refused by its head, or where it grows too large: nothing of it is kept."""
    size = "transfer-encoding: chunked\r\n\r\n%x\r\n" if is_chunked else "content-length: %d\r\n\r\n"
    head = f"POST /rpc/Calc/add HTTP/1.1\r\nhost: x\r\n{line}{size % (SMALL_BYTES + 1)}"
    answer = await http(guarded, head.encode() + (b"x" * (SMALL_BYTES + 1) if is_chunked else b""))

    assert status_of(answer) == status
    assert b"exceeds the limit of 65536 bytes" in answer


@pytest.mark.parametrize("where", ["token: secret\r\n", "authorization: Bearer secret\r\n", "url"])
async def test_large_body_with_a_token_is_taken(guarded: Server, where: str) -> None:
    """Wherever the token stands in the head."""
    target, line = ("/rpc/Calc/add?token=secret", "") if where == "url" else ("/rpc/Calc/add", where)
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{line}content-length: {MIB}\r\n\r\n"

    answer = await http(guarded, head.encode() + b"[" + b" " * (MIB - 2) + b"]")

    assert status_of(answer) == 503  # nobody serves it


@pytest.mark.parametrize("how", ["one frame", "fragments", "announced"])
async def test_large_message_of_a_websocket_needs_a_token(guarded: Server, how: str) -> None:
    """It ends the WebSocket by the length that it announces, or where it grows too large."""
    async with text_peer(guarded) as peer:
        await peer.upgrade()
        part = b"x" * (SMALL_BYTES // 2 + 1)
        data = {
            "one frame": frame(BINARY, part + part),
            "fragments": frame(BINARY, part, first=0) + frame(CONT, part),
            "announced": frame(BINARY, size=MIB),
        }[how]
        peer.writer.write(data)

        assert int.from_bytes((await peer.receive())[:2]) == 1009


async def test_large_message_of_a_websocket_with_a_token_is_taken(guarded: Server) -> None:
    """After a message that has shown it, or in a WebSocket that was opened with it."""
    large = command("rpc", b"[" + b" " * MIB + b"]", topic="Calc", token="secret")
    async with text_peer(guarded) as peer:
        await peer.upgrade()
        small = await peer.ask(command("rpc", b"{}", topic="Calc", token="secret"))

        assert status_of(small) == status_of(await peer.ask(large))
    async with text_peer(guarded) as peer:
        assert (await peer.ask(UPGRADE[:-2] + b"token: secret\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        peer.is_socket = True

        assert status_of(await peer.ask(large)) == status_of(small)


async def test_native_peer_without_token_sends_little(guarded: Server) -> None:
    """A frame that is longer ends its connection by the length that it announces."""
    async with bare_client(guarded) as client:
        client.writer.write(HEADER.pack(SMALL_BYTES + 1, Kind.REQUEST, 0, 0, 0, 0, 1))

        assert (await client.receive()).kind == Kind.GOODBYE


async def test_pipelined_requests_for_large_messages_are_read_as_their_answers_are(
    server: Server, traced: None
) -> None:
    """A few KiB of requests, of which nobody reads the answers, keep a few answers and no more."""
    async with open_neighbours(server) as good, text_peer(server) as producer, text_peer(server) as greedy:
        assert status_of(await producer.ask(command("declare", topic="large"))) == 200
        assert status_of(await producer.ask(command("produce", b"z" * BODY, topic="large"))) == 200
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

        greedy.writer.write(b"GET /consume/large?offset=0 HTTP/1.1\r\nhost: x\r\n\r\n" * 200)
        for _ in range(3):
            await good.check()

        assert tracemalloc.get_traced_memory()[1] - before < 6 * BODY + OUTBOX_HIGH_BYTES


@pytest.mark.parametrize("dialect", ["http", "zbus", "websocket"])
@pytest.mark.parametrize("is_read", [True, False])
async def test_whole_requests_that_wait_are_counted(
    server: Server, monkeypatch: pytest.MonkeyPatch, dialect: str, is_read: bool
) -> None:
    """Those behind answers that nobody reads; where the budget is used up, whoever has most of them is cut off."""
    monkeypatch.setattr("zbusrpc.broker.dialects.http.pipeline.REQUEST_BYTES", MIB)
    async with open_neighbours(server) as good, text_peer(server) as producer, text_peer(server) as greedy:
        assert status_of(await producer.ask(command("declare", topic="large"))) == 200
        assert status_of(await producer.ask(command("produce", b"z" * BODY, topic="large"))) == 200
        if dialect == "websocket":
            await greedy.upgrade()
        large = get("/consume/large?offset=0") if dialect == "http" else command("consume", topic="large", offset="0")
        small = get("/query") if dialect == "http" else command("query")
        requests = [large, large] + [small] * 200
        greedy.writer.write(b"".join(frame(BINARY, one) if greedy.is_socket else one for one in requests))

        await eventually(lambda: server.output.used > 100 * MIB, "whole requests are counted")
        await good.check()
        if is_read:
            assert [status_of(await greedy.receive()) for _ in requests] == [200] * len(requests)
        else:
            server.output.bytes_max = 100 * MIB
            other = Peer()
            server.output.hold(other, 2 * BODY)
            server.output.hold(other, 0)
            assert not other.is_cut_off
            await good.check()
        await eventually(lambda: server.output.used == 0, "nothing waits")


async def test_large_request_is_not_read_while_one_before_it_is_carried_out(server: Server) -> None:
    """What waits for a `declare` waits where its sender has it, but for a block."""
    async with text_peer(server) as peer:
        request = command("declare", topic="new") + command("produce", b"x" * BODY, topic="new", ack="true")
        peer.writer.write(request)

        assert [status_of(await peer.receive()), status_of(await peer.receive())] == [200, 200]
    await eventually(lambda: (server.input.used, server.output.used) == (0, 0), "all gone")


async def test_what_an_instance_says_of_itself_has_a_bound(server: Server) -> None:
    """It is kept, and shown to everybody who looks."""
    for about in ({"x": "y" * ABOUT_BYTES_MAX}, {"interface": "y" * SUBSCRIBE_BYTES_MAX}):
        async with bare_client(server) as client:
            client.send(Message(Kind.SUBSCRIBE, 1, b"Calc", orjson.dumps({"window": 1, "about": about})))
            answer = await client.receive()
            assert answer.kind == Kind.GOODBYE
            assert b"unusable SUBSCRIBE" in bytes(answer.body)


async def test_services_of_one_connection_have_a_bound(server: Server) -> None:
    """One more is refused, and serves nothing."""
    async with bare_client(server) as client:
        for number in range(SERVICES_PER_SESSION_MAX + 1):
            client.send(Message(Kind.SUBSCRIBE, number + 1, b"S%d" % number, b'{"window":1}'))
        answers = [await client.receive() for _ in range(SERVICES_PER_SESSION_MAX + 1)]

    assert envelope.parse_error(answers[-1].body).code is Code.RESOURCE_EXHAUSTED
    assert all(b"error" not in bytes(answer.body) for answer in answers[:-1])
