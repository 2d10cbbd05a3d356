"""The fleet: brokers that come, go, have two names, say rubbish or nothing; callers that give up; closing meanwhile."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise

import orjson
import pytest

from tests.support.broker_set import fleet_at, free_ports, serving_at, traffic, wait_known
from tests.support.inprocess import running_broker
from tests.support.lab import Lab
from tests.support.sweeps import one_of
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, disconnect, envelope, options
from zbusrpc.broker.assembly.server import Server
from zbusrpc.cluster import endpoint as endpoint_module
from zbusrpc.cluster import endpoints as endpoints_module
from zbusrpc.cluster import fleet as fleet_module
from zbusrpc.cluster.endpoint import Choice, Endpoint
from zbusrpc.cluster.topology import GONE_MAX, Topology
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.native import Decoder, encode
from zbusrpc.transport.topology import ServerChange
from zbusrpc.transport.topology import Topology as Told

pytestmark = pytest.mark.anyio

Answer = Callable[[Message], Iterable[Message]]


# -- brokers of all kinds ------------------------------------------------------------------------------------


@asynccontextmanager
async def joined(*trackers: Server, is_tracker_only: bool = False) -> AsyncIterator[Server]:
    """Run a broker that reports to others."""
    addresses = tuple(parse_addresses(tracker.broker.name)[0] for tracker in trackers)
    server = Server(trackers=addresses, is_tracker_only=is_tracker_only)
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.close()


class Impostor:
    """What listens where a broker should, and says what a test wants it to say."""

    def __init__(self, answer: Answer, address: str = "") -> None:
        self.answer, self.address = answer, address
        self.is_refusing = False
        """Whether it knows no token."""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer each message."""
        self.writers.append(writer)
        decoder = Decoder()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                for message in decoder.feed(data):
                    for reply in self.reply(message):
                        chunks: list[bytes | bytearray | memoryview] = []
                        encode(reply, chunks)
                        writer.write(b"".join(chunks))
        writer.close()

    def reply(self, message: Message) -> Iterable[Message]:
        """Return what is said to a message."""
        if message.kind == Kind.HELLO and self.is_refusing:
            return [Message(Kind.GOODBYE, body=b"UNAUTHENTICATED: no such token")]
        if message.kind == Kind.HELLO:
            return [hello_message(Hello(address=self.address, boot="1"))]
        if message.kind == Kind.PING:
            return [Message(Kind.PONG, message.id)]
        return self.answer(message)

    def cut(self) -> None:
        """Cut all connections."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


@asynccontextmanager
async def posing(answer: Answer, *, address: str | None = None) -> AsyncIterator[tuple[str, Impostor]]:
    """Run an impostor; yield where it is."""
    impostor = Impostor(answer)
    server = await asyncio.start_server(impostor.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    impostor.address = f"{host}:{port}" if address is None else address
    try:
        yield f"{host}:{port}", impostor
    finally:
        await disconnect()
        server.close()
        impostor.cut()


def result(message: Message, value: object) -> list[Message]:
    """Return the reply that says how a message went."""
    return [Message(Kind.REPLY, message.id, body=envelope.result_body(orjson.dumps(value)))]


def telling(*addresses: str, answer_calls: bool = True) -> Answer:
    """Return what a broker says that tells of others, each with a Lab, and answers every call with 3."""
    servers = {address: {"is_full": True, "topics": {"Lab": [1, 0]}} for address in addresses}

    def answer(message: Message) -> list[Message]:
        if message.kind == Kind.TRACK:
            return result(message, {"is_full": True, "version": 1, "servers": servers})
        return result(message, 3) if message.kind == Kind.REQUEST and answer_calls else []

    return answer


def tasks() -> set[asyncio.Task[object]]:
    """Return what runs in this event loop."""
    return asyncio.all_tasks()


# -- which broker ---------------------------------------------------------------------------------------------


async def test_call_goes_to_the_only_broker_of_a_mere_tracker() -> None:
    """Also where nobody serves it: the tracker that was named takes no calls, and is not asked."""
    async with running_broker(is_tracker_only=True) as tracker, joined(tracker) as server:
        await eventually(lambda: server.hub.address in tracker.hub.tracker.registry.servers, "it is listed")
        lab = connect(Lab, broker=tracker.broker.name)

        with pytest.raises(RpcError, match="no instance of service Lab") as refused:
            await lab.add(1, 2)
        assert refused.value.code is Code.UNAVAILABLE

        async with serving_at(tracker.broker.name):
            assert await lab.add(1, 2) == 3
            assert [endpoint.address for endpoint in fleet_at(tracker.broker.name)._endpoints] == [
                tracker.broker.name,
                server.broker.name,
            ]


async def test_tracker_by_another_name_is_linked_once_more_and_let_go() -> None:
    """Brokers report to `localhost`, the client knows 127.0.0.1: the second link is not made again and again."""
    async with running_broker() as tracker:
        port = parse_addresses(tracker.broker.name)[0].port
        server = Server(trackers=parse_addresses(f"localhost:{port}"))
        await server.start("127.0.0.1", 0)
        try:
            fleet = fleet_at(tracker.broker.name)
            await wait_known(fleet, tracker.broker.name, server.broker.name)
            await eventually(lambda: fleet._endpoints._doubles, "the double is found and let go")
            sessions = tracker.broker._last_session
            for _ in range(3):  # each tells something new
                async with serving_at(tracker.broker.name):
                    await eventually(lambda: len(fleet.choices(b"Lab")) == 2, "the service is known")
                await eventually(lambda: not fleet.choices(b"Lab"), "it is gone")

            assert fleet.topology._views[tracker.broker.name].is_linked
            assert tracker.broker._last_session == sessions + 6, "three services, each by both names"
        finally:
            await disconnect()
            await server.close()


async def test_two_seeds_that_are_one_broker_are_one() -> None:
    """The loss of one of the two links does not count as the loss of the tracker."""
    async with running_broker() as server:
        address = parse_addresses(server.broker.name)[0]
        fleet = fleet_at(f"{address};localhost:{address.port}")
        await eventually(lambda: all(seed.is_known for seed in fleet.seeds), "both have answered")
        first, second = fleet.seeds
        assert (first.is_doubled, second.is_doubled) == (False, True)

        second.channel.drop(RpcError(Code.UNAVAILABLE, "a test"))
        assert fleet.topology._views[str(address)].is_linked
        first.channel.drop(RpcError(Code.UNAVAILABLE, "a test"))
        await eventually(lambda: fleet.topology._views[str(address)].is_linked, "it tells again")
        assert await_one(fleet.everyone())


def await_one(found: list[Choice]) -> bool:
    """Say whether there is one broker."""
    return len(found) == 1


async def test_probes_are_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that changes something begins no second series: brokers would be given up after half the time."""
    monkeypatch.setattr(fleet_module, "PROBE_S", 0.02)
    due: list[float] = []

    def probe(endpoint: Endpoint) -> None:
        endpoint.is_suspect = not endpoint.is_suspect
        endpoint._owner.endpoint_changed(endpoint)

    original = fleet_module.Fleet._probe
    monkeypatch.setattr(Endpoint, "probe", probe)
    monkeypatch.setattr(fleet_module.Fleet, "_probe", lambda fleet, at: (due.append(at), original(fleet, at))[1])
    async with running_broker() as one, joined(one) as other:
        fleet = fleet_at(f"{one.broker.name};{other.broker.name}")
        await eventually(lambda: len(due) >= 10, "ten probes")

        assert all(after - before >= 0.02 - 1e-6 for before, after in pairwise(due))
        assert not fleet.is_closed


# -- brokers that say rubbish, or nothing ---------------------------------------------------------------------


RUBBISH = [b"", b"rubbish", b'{"result":[]}', b'{"result":{"version":-1}}', b'{"result":{"version":1,"servers":7}}']


@pytest.mark.parametrize("body", RUBBISH)
async def test_rubbish_in_answer_to_track(body: bytes) -> None:
    """Nothing is known of other brokers then, and calls go to the one that was named."""

    def answer(message: Message) -> list[Message]:
        if message.kind == Kind.TRACK:
            return [Message(Kind.REPLY, message.id, body=body), Message(Kind.TOPOLOGY, body=body)]
        return result(message, 3)

    async with posing(answer) as (address, impostor):
        lab = connect(Lab, broker=address)
        assert [await lab.add(1, 2) for _ in range(3)] == [3, 3, 3]
        assert len(impostor.writers) == 1, "the connection was not lost"


async def test_broker_that_never_answers_track() -> None:
    """Others are used meanwhile; where there is no other, calls wait for it until their deadline."""
    async with posing(lambda message: []) as (mute, _):
        with pytest.raises(RpcError) as late:
            await options(connect(Lab, broker=mute), timeout=0.2).add(1, 2)
        assert late.value.code is Code.DEADLINE_EXCEEDED
        assert not late.value.may_have_run

        async with running_broker() as server, serving_at(server.broker.name):
            assert await connect(Lab, broker=f"{mute};{server.broker.name}").add(1, 2) == 3


async def test_tracker_that_tells_of_ten_thousand_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than some are dialled, and calls go on at those that are there."""
    monkeypatch.setattr(endpoints_module, "ENDPOINTS_MAX", 20)
    closed = free_ports(1)[0]
    many = [f"127.{1 + n // 250}.0.{1 + n % 250}:{closed}" for n in range(10_000)]
    async with posing(telling()) as (address, impostor):
        impostor.answer = telling(*many, address)
        lab = connect(Lab, broker=address)
        for _ in range(5):
            assert await lab.add(1, 2) == 3
        assert len(fleet_at(address)._endpoints) <= 21


async def test_broker_that_refused_the_token_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seldom, though calls go on elsewhere meanwhile: it may have read its tokens again."""
    monkeypatch.setattr(fleet_module, "PROBE_S", 0.01)
    monkeypatch.setattr(endpoint_module, "RENEW_S", 5 * fleet_module.PROBE_S)
    async with posing(telling()) as (address, impostor), posing(telling()) as (strict, refusing):
        impostor.answer, refusing.answer = telling(address, strict), telling(strict)
        refusing.is_refusing = True
        lab, fleet = connect(Lab, broker=address), fleet_at(address)
        assert await lab.add(1, 2) == 3
        await eventually(lambda: len(refusing.writers) >= 3, "the token is shown again")
        assert [choice.address for choice in fleet.choices(b"Lab")] == [address]

        refusing.is_refusing = False
        await eventually(lambda: len(fleet.choices(b"Lab")) == 2, "it is used")
        assert await lab.add(1, 2) == 3


CUT_DIAL = "Connection._flush"
"""uvloop closes the transport of a dial that is cancelled and does not tell the connection, which writes to it."""
HOSTILE = [
    "",
    ":",
    "no port",
    "host:0",
    "host:70000",
    "[::1",
    "http://x/:80",
    "x" * 200 + ":1",
    "-:1",
    "tls://:1",
    "*:1",
]


async def test_addresses_that_lead_nowhere_on_purpose() -> None:
    """Those that are none are not dialled; the others fail by themselves."""
    async with posing(telling()) as (address, impostor):
        impostor.answer = telling(address, "0.0.0.0:1", "255.255.255.255:1", *HOSTILE)
        lab = connect(Lab, broker=address)

        assert [await lab.add(1, 2) for _ in range(3)] == [3, 3, 3]


async def test_address_that_leads_to_another_broker_is_not_dialled_forever() -> None:
    """A tracker tells of it, and who is there says that it is somebody who is linked already."""
    async with posing(telling()) as (address, impostor):
        port = address.rpartition(":")[2]
        impostor.answer = telling(address, f"localhost:{port}")
        lab = connect(Lab, broker=address)
        fleet = fleet_at(address)
        assert await lab.add(1, 2) == 3
        await eventually(lambda: fleet._endpoints._doubles, "it is found out")
        for _ in range(10):
            fleet.topology_changed()
            assert await lab.add(1, 2) == 3

        assert len(impostor.writers) == 2
        assert [choice.address for choice in fleet.choices(b"Lab")] == [address]


async def test_broker_that_comes_back_by_another_name() -> None:
    """What it was called before is forgotten, though it was lost before it could say so."""
    async with posing(telling(), address="before:1") as (address, impostor):
        impostor.answer = telling("before:1")
        lab, fleet = connect(Lab, broker=address), fleet_at(address)
        assert await lab.add(1, 2) == 3
        assert set(fleet.topology.brokers) == {"before:1"}

        impostor.address, impostor.answer = "after:1", telling("after:1")
        impostor.cut()
        await wait_known(fleet, "after:1")
        assert await lab.add(1, 2) == 3
        assert set(fleet.topology._views) == {"after:1"}


# -- giving up, and closing -----------------------------------------------------------------------------------


async def test_calls_that_are_cancelled_while_they_wait_for_a_broker_leave_nothing() -> None:
    """No task, no slot; and the fleet is as good as before."""
    async with posing(lambda message: []) as (mute, impostor):
        lab, fleet = connect(Lab, broker=mute), fleet_at(mute)
        await eventually(lambda: impostor.writers, "the link")
        before = tasks()
        for turns in range(6):
            calls = [asyncio.create_task(lab.add(1, 2)) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: tasks() <= before, "all tasks have ended")

        impostor.answer = telling(mute)
        impostor.cut()
        assert await options(lab, wait_for_ready=True).add(1, 2) == 3
        assert [seed.health.in_flight for seed in fleet.seeds] == [0]


async def test_fleet_is_closed_while_it_dials() -> None:
    """Those who wait are told, no task is left, and nothing is dialled any more."""
    closed = [f"127.0.0.1:{port}" for port in free_ports(4)]
    async with posing(lambda message: []) as (mute, _), posing(telling(*closed, answer_calls=False)) as (address, _):
        before = tasks()
        seeds = f"{mute};{closed[0]};{address}"
        lab, fleet = options(connect(Lab, broker=seeds), wait_for_ready=True, timeout=20), fleet_at(seeds)
        calls = [asyncio.create_task(lab.add(1, 2)) for _ in range(3)]
        await eventually(lambda: len(fleet._endpoints) == 6, "brokers are dialled that were told of")

        await disconnect()

        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [error.code for error in errors if isinstance(error, RpcError)] == [Code.UNAVAILABLE] * 3
        fleet.topology.told("x:1", Told(version=1, trackers=("y:1",), servers={"z:1": ServerChange()}))
        fleet.topology_changed()
        assert not fleet.everyone()
        await eventually(lambda: not tasks() - before, "all tasks have ended")


async def test_disconnect_in_the_middle_of_calls_and_going_on() -> None:
    """Calls under way end with UNAVAILABLE; those after it find the brokers again."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running_broker())
        other = await stack.enter_async_context(joined(one))
        await stack.enter_async_context(serving_at(one.broker.name))
        lab = connect(Lab, broker=one.broker.name)
        await eventually(lambda: len(fleet_at(one.broker.name).choices(b"Lab")) == 2, "both are used")
        await disconnect()
        before = tasks()
        async with traffic(lambda: lab.add(1, 2)) as flow:
            for _ in range(5):
                await flow.wait_more(20)
                await disconnect()
            await flow.wait_more(20)
        await eventually(lambda: len(fleet_at(one.broker.name).choices(b"Lab")) == 2, "both are used again")
        await disconnect()

        assert all(error.code is Code.UNAVAILABLE for error in flow.failures)
        await eventually(lambda: not tasks() - before, "all tasks have ended")
        assert other.broker.name


@pytest.mark.parametrize("seed", one_of(25, range(100)))
async def test_any_trouble_leaves_a_fleet_that_works(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts, new names, lies, silence, refused tokens, and callers that give up, in any order: no fault, no leak."""
    monkeypatch.setattr(fleet_module, "PROBE_S", 0.01)
    monkeypatch.setattr(endpoint_module, "RENEW_S", 5 * fleet_module.PROBE_S)
    monkeypatch.setattr(endpoints_module, "DOUBLE_S", 0.1)
    rng, loop, faults = random.Random(seed), asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: None if CUT_DIAL in repr(context) else faults.append(context))
    async with AsyncExitStack() as stack:
        posed = [await stack.enter_async_context(posing(telling())) for _ in range(4)]
        addresses, impostors = [address for address, _ in posed], [impostor for _, impostor in posed]
        everybody: list[str] = [
            *addresses,
            *[f"localhost:{address.rpartition(':')[2]}" for address in addresses],
            "no port",
        ]
        before = tasks()
        lab = options(connect(Lab, broker=";".join(addresses[:2])), timeout=0.3)
        calls: set[asyncio.Task[int]] = set()

        def disturb(impostor: Impostor) -> None:
            told = rng.sample(everybody, rng.randrange(6))
            impostor.answer = rng.choice([telling(*told), telling(*told, answer_calls=False), lambda message: []])
            impostor.is_refusing = rng.random() < 0.1
            impostor.address = rng.choice(everybody)
            impostor.cut()

        for _ in range(150):
            if rng.random() < 0.3:
                disturb(rng.choice(impostors))
            if calls and rng.random() < 0.3:
                rng.choice(list(calls)).cancel()
            if rng.random() < 0.03:
                await disconnect()
            calls.add(asyncio.ensure_future(lab.add(1, 2)))
            await asyncio.sleep(rng.choice([0, 0, 0.002, 0.01]))
        for call in await asyncio.gather(*calls, return_exceptions=True):
            assert call == 3 or isinstance(call, RpcError | asyncio.CancelledError), call

        for address, impostor in posed:
            impostor.address, impostor.answer, impostor.is_refusing = address, telling(*addresses), False
            impostor.cut()
        fleet = fleet_at(";".join(addresses[:2]))
        await eventually(lambda: [choice.address for choice in fleet.choices(b"Lab")] == sorted(addresses), "all four")
        assert await lab.add(1, 2) == 3
        await disconnect()
        await eventually(lambda: not {task for task in tasks() - before if "serve" not in repr(task)}, "no task")
    loop.set_exception_handler(None)
    assert not faults


# -- what is known --------------------------------------------------------------------------------------------


def there(*addresses: str, **more: object) -> Told:
    """Return that brokers are there."""
    return Told.model_validate({"version": 1, "servers": {address: {} for address in addresses}, **more})


def test_broker_that_left_does_not_come_back_with_the_loss_of_its_tracker() -> None:
    """What it had said of itself is dropped: else it would stand against the tracker's last word."""
    topology = Topology()
    topology.told("t:1", there("b:1", "b:2"))
    topology.told("b:1", there("b:1"))

    topology.lost("b:1")
    topology.told("t:1", Told(version=2, gone=("b:1",)))
    assert set(topology.brokers) == {"b:2"}

    topology.lost("t:1")
    assert set(topology.brokers) == {"b:2"}
    assert set(topology._views) == {"t:1"}


def test_brokers_that_are_gone_are_remembered_up_to_a_bound() -> None:
    """Where each broker that joins has a new address, clients do not grow forever."""
    topology = Topology()
    for n in range(3):
        names = [f"b{n}-{i}:1" for i in range(GONE_MAX // 2)]
        topology.told("t:1", there(*names))
        topology.told("t:1", Told(version=2, gone=tuple(names)))

    assert len(topology._views["t:1"].gone) == GONE_MAX
    assert not topology.brokers


def test_tracker_that_returns_by_another_name_takes_its_table_along() -> None:
    """What it has not confirmed goes when it has heard of all brokers, not before."""
    topology = Topology()
    topology.told("t:1", there("b:1"))
    topology.lost("t:1")
    topology.renamed("t:1", "t:2")
    topology.told("t:2", there("t:2", is_full=True, is_settled=False))
    assert set(topology.brokers) == {"b:1", "t:2"}

    topology.told("t:2", Told(version=2, is_settled=True))
    assert set(topology.brokers) == {"t:2"}
