"""A broker is taken out, by `zbusrpc broker drain` or by SIGTERM: what is under way finishes, and the rest goes on."""

import asyncio
import signal

import pytest

from tests.support.broker_set import BrokerSet, traffic
from tests.support.lab import Lab
from tests.support.native import NativePeer, statistics
from tests.support.processes import LAB, Process, Processes
from tests.support.tokens import secret_of, write_tokens
from tests.support.waiting import eventually
from zbusrpc import Code, Consumer, Producer, RpcError, connect, mq, options, service
from zbusrpc.message import Kind, Message
from zbusrpc.testing import running
from zbusrpc.transport.topology import Topology, parse_topology

pytestmark = pytest.mark.anyio

LONG_S = 60.0


def drain(processes: Processes, broker: Process, address: str, by: str) -> Process:
    """Begin to take a broker out; return the process whose end is that of the draining."""
    if by == "signal":
        broker.send_signal(signal.SIGTERM)
        return broker
    return processes.zbusrpc("broker", "drain", address)


@service
class Gate:
    """A service with calls that end when the test says so."""

    def __init__(self) -> None:
        self.waiting = 0
        self.opened = asyncio.Event()

    async def wait(self) -> str:
        """Return when the gate is open."""
        self.waiting += 1
        await self.opened.wait()
        return "waited"

    async def add(self, a: int, b: int) -> int:
        """Return the sum at once."""
        return a + b


@pytest.mark.parametrize("by", ["signal", "command"])
async def test_calls_finish_or_go_elsewhere(processes: Processes, links: None, by: str) -> None:
    """Calls in flight get their results and new ones go to the other broker; trackers say that this one drains, and
    clients of zbus lose it at once."""
    brokers, own = BrokerSet(processes, 2), Gate()
    async with running(own, broker=brokers.all):
        await asyncio.to_thread(brokers.wait_served, "Gate", 0, 1)
        gate = options(connect(Gate, broker=brokers.all), timeout=LONG_S)
        waits: list[asyncio.Task[str]] = []
        while not all(statistics(address)["in_flight"] for address in brokers.addresses):
            waits.append(asyncio.create_task(gate.wait()))
            await eventually(lambda: own.waiting == len(waits), "start of the call")
        async with traffic(lambda: gate.add(1, 2)) as flow:
            ended = drain(processes, brokers[0], brokers.addresses[0], by)
            await eventually(lambda: state_of(brokers, 0, 1) == "draining", "the tracker knows")
            table = brokers.table(1)
            await flow.wait_more()
            is_running = brokers[0].is_running
            own.opened.set()
            results = await asyncio.gather(*waits)

    assert not flow.failures
    assert set(results) == {"waited"}
    assert is_running
    assert set(table) == {brokers.addresses[1]}
    assert await asyncio.to_thread(ended.wait_exit) == 0
    assert await asyncio.to_thread(brokers[0].wait_exit) == 0


def state_of(brokers: BrokerSet, index: int, tracker: int) -> str:
    """Return what a tracker tells native clients of a broker."""
    with NativePeer(brokers.addresses[tracker]) as peer:
        peer.send(Message(Kind.TRACK, 1))
        told: Topology = parse_topology(peer.receive().body, is_reply=True)
    server = told.servers.get(brokers.addresses[index])
    return server.state if server is not None else "gone"


async def test_lone_broker_refuses_what_has_not_run(processes: Processes, links: None) -> None:
    """Calls to a lone broker that drains have not run; whoever waits for its end is told when it takes too long, and
    SIGTERM to a broker that drains by command is its first signal."""
    (broker, address), own = processes.broker("--grace", "60"), Gate()
    async with running(own, broker=address):
        gate = options(connect(Gate, broker=address), timeout=LONG_S)
        call = asyncio.create_task(gate.wait())
        await eventually(lambda: own.waiting, "start")

        late = processes.zbusrpc("broker", "drain", address, "--timeout", "0")
        await eventually(lambda: "calls and messages under way: 1" in late.errors, "what is under way")
        refusal = await refusal_of(gate)
        code = await asyncio.to_thread(late.wait_exit)
        broker.send_signal(signal.SIGTERM)
        own.opened.set()
        result = await call

    assert (refusal.code, refusal.may_have_run) == (Code.UNAVAILABLE, False)
    assert code == 1
    assert "is still there after 0 s" in late.errors
    assert result == "waited"
    assert await asyncio.to_thread(broker.wait_exit) == 0


async def refusal_of(gate: Gate) -> RpcError:
    """Call until a call is refused, and return the error."""
    while True:
        try:
            await gate.add(1, 2)
        except RpcError as error:
            return error


@pytest.mark.parametrize("by", ["signal", "command"])
async def test_message_that_is_handled_is_acknowledged(processes: Processes, links: None, by: str) -> None:
    """A stored message that a consumer has is done with before the end; those that wait stay for later."""
    brokers = BrokerSet(processes, 1)
    address = brokers.all
    async with Producer("orders", broker=address) as producer:
        for number in range(3):
            producer.send_nowait(number)

    async with Consumer("orders", group="billing", broker=address, window=1) as consumer:
        message = await anext(consumer)
        ended = drain(processes, brokers[0], address, by)
        await eventually(lambda: not brokers.table(0), "it takes no connections any more")
        await message.ack()
        assert await asyncio.to_thread(ended.wait_exit) == 0
        assert await asyncio.to_thread(brokers[0].wait_exit) == 0
    await asyncio.to_thread(brokers.start, 0)

    (group,) = (await mq.topic("orders", broker=address)).groups
    assert message.body == b"0"
    assert (group.lag, group.in_flight) == (2, 0)


async def test_drain_needs_the_right_to(processes: Processes, links: None) -> None:
    """Only who may do everything may take a broker out: others are told, and it stays."""
    tokens = {"ops": [{"operations": ["admin"], "topics": ["*"]}], "shop": [{"operations": ["*"], "topics": ["*"]}]}
    file = write_tokens(processes.directory / "tokens.toml", tokens)
    broker, address = processes.broker("--tokens", str(file))

    refused = processes.run("broker", "drain", address, ZBUSRPC_TOKEN=secret_of("shop"))
    is_running = broker.is_running
    allowed = processes.run("broker", "drain", address, "--json", ZBUSRPC_TOKEN=secret_of("ops"))

    assert refused[0] == 1
    assert refused[2].startswith("zbusrpc: PERMISSION_DENIED: ")
    assert is_running
    assert allowed[0] == 0
    assert '"ended":true' in allowed[1]
    assert broker.wait_exit() == 0


async def test_broker_in_a_service_is_not_drained(processes: Processes, links: None) -> None:
    """It ends with its program, and says so."""
    service = processes.zbusrpc("serve", LAB, "--json", ZBUSRPC_PORT="0")
    address = service.wait_ready()["broker"]

    code, _, errors = processes.run("broker", "drain", address)

    assert code == 1
    assert "ends with the program that it is part of" in errors
    assert errors.count("\n") == 1
    assert await connect(Lab, broker=address).add(1, 2) == 3


def test_drain_of_nothing_is_one_line(processes: Processes) -> None:
    """An address where nobody listens, several, and options of a broker are told in one line each."""
    mistakes = {
        ("drain", "127.0.0.1:1"): (1, "nothing listens there"),
        ("drain", "a:1;b:2"): (1, "names several brokers"),
        ("--port", "1", "drain", "a:1"): (2, "--port is for a broker that is run"),
    }
    for arguments, (code, line) in mistakes.items():
        found, _, errors = processes.run("broker", *arguments)
        assert found == code
        assert line in errors
        assert errors.count("\n") == 1
