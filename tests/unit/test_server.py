"""The broker's server in this process: what hostile, careless and foreign peers may do, and what others notice."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from tests.support.broker_set import free_ports
from tests.support.inprocess import PATIENCE_S, BareClient, bare_client, http, http_call, running_broker, serving
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, mq, options, service
from zbusrpc.broker.assembly import data_directory as node
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.tracker import reporter
from zbusrpc.errors import ZbusError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport import link as link_module
from zbusrpc.transport.address import Address, parse_addresses
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.link import Link
from zbusrpc.transport.native import HEADER

pytestmark = pytest.mark.anyio


class Odd(BaseException):
    """What no handler should raise."""


@service
class Echo:
    async def echo(self, data: str) -> str:
        return data

    async def fail(self, details: Any) -> None:
        raise RpcError(Code.NOT_FOUND, "no", details)

    async def unwritable(self) -> None:
        raise RpcError(Code.NOT_FOUND, "no", object())

    async def odd(self) -> None:
        raise Odd


async def dial(server: Server) -> BareClient:
    host, port, _ = parse_addresses(server.broker.name)[0]
    return BareClient(*await asyncio.open_connection(host, port))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 100,
        b"\0" * 100,
        HEADER.pack(2**24, Kind.HELLO, 0, 0, 0, 0, 0),
        HEADER.pack(5000, Kind.HELLO, 0, 0, 0, 0, 0),
        HEADER.pack(0, Kind.REQUEST, 0, 0, 0, 0, 1),
        HEADER.pack(2, Kind.HELLO, 0, 0, 0, 0, 0) + b"{]",
        b"\x16\x03\x01" + b"x" * 50,
    ],
)
async def test_rubbish_closes_its_own_connection_only(data: bytes) -> None:
    """A peer that sends rubbish is closed; calls of everybody else go on."""
    async with running_broker() as server, serving(server, Echo):
        echo = connect(Echo, broker=server.broker.name)
        assert await echo.echo("before") == "before"

        await http(server, data)

        assert await echo.echo("after") == "after"


async def test_goodbye_tells_why() -> None:
    """A peer that breaks the protocol is told the reason before it is closed."""
    async with running_broker() as server, bare_client(server) as client:
        client.send(Message(Kind.REQUEST, 0, b"Calc"))

        goodbye = await client.receive()

        assert goodbye.kind == Kind.GOODBYE
        assert b"ids must grow" in bytes(goodbye.body)
        with pytest.raises(EOFError):
            await client.receive()


async def test_version_that_nobody_speaks_is_refused() -> None:
    """A client of another protocol version learns which one is spoken."""
    async with running_broker() as server:
        client = await dial(server)
        client.send(hello_message(Hello(version=9)))

        goodbye = await client.receive()

        assert b"version 9, this side 1" in bytes(goodbye.body)
        client.writer.close()


async def test_replies_sent_right_before_the_end_arrive() -> None:
    """An instance that answers everything and hangs up at once has answered everything."""
    async with running_broker() as server, bare_client(server) as caller, bare_client(server) as instance:
        await instance.subscribe("Calc", 200)
        caller.send(*[Message(Kind.REQUEST, number, b"Calc", b"{}") for number in range(1, 201)])
        requests = [await instance.receive() for _ in range(200)]

        instance.send(*[Message(Kind.REPLY, r.id, body=b'{"result":1}', session=r.session) for r in requests])
        instance.writer.close()
        replies = [await caller.receive() for _ in range(200)]

        assert [reply.flags & Flag.ERROR for reply in replies] == [0] * 200


async def test_ping_is_answered_with_its_id() -> None:
    """A PONG carries the id of its PING."""
    async with running_broker() as server, bare_client(server) as client:
        client.send(Message(Kind.PING, 77))

        pong = await client.receive()

        assert (pong.kind, pong.id) == (Kind.PONG, 77)


async def test_silent_peer_is_dropped_and_its_calls_cancelled() -> None:
    """A peer of which nothing is heard for its idle time is taken for dead."""
    async with running_broker() as server, bare_client(server) as instance:
        await instance.subscribe("Calc", 1)
        async with bare_client(server, Hello(idle_s=0.15)) as caller:
            caller.send(Message(Kind.REQUEST, 1, b"Calc"))
            assert (await instance.receive()).kind == Kind.REQUEST

            assert (await instance.receive()).kind == Kind.CANCEL


async def test_request_by_http_that_no_instance_takes_leaves_the_instance_alone() -> None:
    """A body within the limit of HTTP makes a frame over that of the instance: only the caller is refused."""
    async with running_broker(message_bytes_max=10_000) as server, serving(server, Echo):
        echo = connect(Echo, broker=server.broker.name)
        body = b'{"method":"echo","params":["%b"]}' % (b"x" * (10_000 - 31))

        status, _, answer = await http_call(server, "POST /rpc/Echo", body)

        assert (len(body), status) == (10_000, 429)
        assert b"exceeds the limit of 10000 bytes" in answer
        assert server.broker.statistics()["in_flight"] == 0
        assert await echo.echo("x") == "x"
        assert server.broker.services()[0]["instances"][0]["session"] == 1


@pytest.mark.parametrize("value", ["\xff" * 25_000, '"' * 31_000])
async def test_metadata_that_grows_over_the_limit_is_refused(value: str) -> None:
    """Metadata that takes more bytes as JSON than it had in HTTP costs no instance its connection."""
    async with running_broker() as server, serving(server, Echo):
        status, _, _ = await http_call(server, "GET /rpc/Echo/echo/x", Meta_k=value * 2 if "\xff" in value else value)
        again, _, _ = await http_call(server, "GET /rpc/Echo/echo/x")

        assert status in {400, 431, 200}
        assert again == 200
        assert server.broker.services()[0]["instances"][0]["session"] == 1


@pytest.mark.parametrize("value", ["000000000001999999999999", "0", "-1", "x", "4294967296", "1.5", "\xb2"])
async def test_time_limit_that_fits_no_frame_is_refused(value: str) -> None:
    """`Timeout-Ms` is a number that a frame can hold; the instance never sees another."""
    async with running_broker() as server, serving(server, Echo):
        status, _, _ = await http_call(server, "GET /rpc/Echo/echo/x", Timeout_Ms=value)
        again, _, _ = await http_call(server, "GET /rpc/Echo/echo/x", Timeout_Ms="4294967295")

        assert (status, again) == (400, 200)


@pytest.mark.parametrize("details", [{"retry_after_s": "soon"}, {"retry_after_s": 1e308}, {"retry_after_s": None}, [1]])
async def test_strange_details_of_an_error_do_not_break_the_gateway(details: Any) -> None:
    """Whatever a service puts into its error, HTTP carries it."""
    async with running_broker() as server, serving(server, Echo):
        body = orjson.dumps([details])

        status, headers, answer = await http_call(server, "POST /rpc/Echo/fail", body)

        assert (status, orjson.loads(answer)["error"]["details"]) == (404, details)
        assert "retry-after" not in headers


@pytest.mark.parametrize("reply", [b"", b"null", b"[]", b'{"error":{}}', b'{"jsonrpc" :1}', b"\xff"])
@pytest.mark.parametrize("flags", [0, Flag.ERROR])
async def test_foreign_instance_that_answers_rubbish_hurts_its_caller_only(reply: bytes, flags: int) -> None:
    """A reply that is nothing reaches its own caller as something; the others get theirs."""
    async with running_broker() as server, bare_client(server) as instance, serving(server, Echo):
        await instance.subscribe("Bad", 5)
        asked = asyncio.create_task(http_call(server, "POST /rpc/Bad", b'{"jsonrpc":"2.0","id":1,"method":"x"}'))
        request = await instance.receive()
        other = asyncio.create_task(http_call(server, "GET /rpc/Echo/echo/x"))

        instance.send(Message(Kind.REPLY, request.id, body=reply, session=request.session, flags=flags))

        assert (await asked)[0] == 200
        assert (await other)[0] == 200


async def test_error_that_cannot_be_written_still_ends_its_call() -> None:
    """A handler's error without a form in JSON is INTERNAL at the caller, at once."""
    async with running_broker() as server, serving(server, Echo, concurrency=1):
        echo = options(connect(Echo, broker=server.broker.name), timeout=PATIENCE_S)

        for _ in range(3):  # with one place: none may be lost
            with pytest.raises(RpcError) as caught:
                await echo.unwritable()
            assert caught.value.code is Code.INTERNAL

        assert await echo.echo("x") == "x"


async def test_handler_that_raises_what_is_no_exception_still_ends_its_call() -> None:
    """A BaseException out of a handler is INTERNAL at the caller, at once, and its place is free again."""
    async with running_broker() as server, serving(server, Echo, concurrency=1):
        echo = connect(Echo, broker=server.broker.name)

        with pytest.raises(RpcError, match=r"Echo\.odd failed"):
            await echo.odd()

        assert await echo.echo("x") == "x"


async def test_metadata_over_the_limit_is_not_sent() -> None:
    """The caller gets RESOURCE_EXHAUSTED, and its connection lives."""
    async with running_broker() as server, serving(server, Echo):
        echo = connect(Echo, broker=server.broker.name)

        with pytest.raises(RpcError, match=r"metadata of .* exceeds the limit of 65536") as caught:
            await options(echo, metadata={"k": "x" * 70_000}).echo("x")

        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert await echo.echo("x") == "x"


async def test_time_limit_of_years_is_no_mistake() -> None:
    """A limit beyond what a frame can hold is sent as the longest there is."""
    async with running_broker() as server, serving(server, Echo):
        assert await options(connect(Echo, broker=server.broker.name), timeout=1e9).echo("x") == "x"


async def test_listing_shows_what_runs() -> None:
    """`GET /rpc` and `GET /rpc/Echo` list services with their instances."""
    async with running_broker() as server, serving(server, Echo):
        status, _, body = await http_call(server, "GET /rpc/Echo/")
        missing, _, _ = await http_call(server, "GET /rpc/Nothing")

        (listed,) = orjson.loads(body)["result"]
        assert (status, missing) == (200, 404)
        assert listed["instances"][0]["methods"] == ["echo", "fail", "unwritable", "odd"]


class Listener:
    """A user of a link that counts."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.losses: list[ZbusError] = []

    def link_opened(self, theirs: Hello) -> None:
        self.opened.set()

    def message_received(self, message: Message) -> None:
        """Nothing is asked for."""

    def link_lost(self, error: ZbusError) -> None:
        self.losses.append(error)


async def test_link_goes_on_to_the_next_broker_when_one_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that accepts and hangs costs one dial; its late end is not taken for the end of the next link."""
    monkeypatch.setattr(link_module, "DIAL_TIMEOUT_S", 0.1)
    writers: list[asyncio.StreamWriter] = []
    hung = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = hung.sockets[0].getsockname()[1]
    async with running_broker() as server:
        user = Listener()
        link = Link((Address("127.0.0.1", port), *parse_addresses(server.broker.name)), user, Hello())
        task = asyncio.create_task(link.run())

        async with asyncio.timeout(PATIENCE_S):
            await user.opened.wait()
        for _ in range(20):
            await asyncio.sleep(0)

        assert link.connection is not None
        assert user.losses == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for writer in writers:
        writer.close()
    hung.close()
    await hung.wait_closed()


async def test_link_that_cannot_be_opened_says_what_to_do() -> None:
    """Nothing listens: the error names the address and the command."""
    async with running_broker() as server:
        address = parse_addresses(server.broker.name)
    link = Link(address, Listener(), Hello())
    task = asyncio.create_task(link.run())

    await link.wait_attempt()

    assert "nothing listens there; start one with: zbusrpc broker" in str(link.error)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_dial_may_be_cancelled_at_any_moment(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A link that ends while it dials ends without an error: also where the loop has closed what was just opened."""
    faults: list[object] = []

    async def dial_and_cancel() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with running_broker() as server:
            for turns in range(60):
                link = Link(parse_addresses(server.broker.name), Listener(), Hello())
                task = asyncio.create_task(link.run())
                for _ in range(turns % 20):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(dial_and_cancel())
    assert faults == []


async def test_start_that_takes_long_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each few seconds a line has the topics that are open, of how many; one of a moment has none."""
    caplog.set_level(logging.INFO, "zbusrpc.broker")
    async with running_broker(data_dir=str(tmp_path)) as server:
        for name in ("orders", "mails"):
            await mq.declare(name, broker=server.broker.name)
    assert "broker.starting" not in caplog.text

    monkeypatch.setattr(node, "SAID_EVERY_S", 0.0)
    async with running_broker(data_dir=str(tmp_path)):
        pass

    lines = [line for line in caplog.messages if line.startswith("broker.starting")]
    assert [line.split()[2:] for line in lines[-2:]] == [[f"topics={n}", "of=2", "calls=0"] for n in (1, 2)]


async def test_tracker_that_stays_away_is_told_once_and_again_when_it_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each; the broker that finds itself among its trackers says nothing of it."""
    monkeypatch.setattr(reporter, "UNREACHABLE_S", 0.05)
    monkeypatch.setattr(reporter, "REDIAL_S", 0.02)
    caplog.set_level(logging.INFO, "zbusrpc.tracker")
    ours, theirs = free_ports(2)
    trackers = parse_addresses(f"127.0.0.1:{ours};127.0.0.1:{theirs}")
    async with running_broker(port=ours, trackers=trackers):
        await eventually(lambda: caplog.messages, "a line")
        async with running_broker(port=theirs):
            await eventually(lambda: len(caplog.messages) > 1, "another line")

    unreachable, reached = caplog.messages[:2]
    assert unreachable.startswith(f"tracker.unreachable tracker='127.0.0.1:{theirs}'")
    assert reached == f"tracker.reached tracker='127.0.0.1:{theirs}'"
    assert f"127.0.0.1:{ours}" not in caplog.text
