"""Three brokers and a service: how calls find them, share them, and outlive them."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.broker_set import BrokerSet, free_ports, traffic
from tests.support.lab import Lab
from tests.support.native import NativePeer, statistics
from tests.support.processes import Processes
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, options
from zbusrpc.cluster.fleets import fleet_of_loop
from zbusrpc.cluster.selection import Candidate
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio


@pytest.fixture
def brokers(processes: Processes) -> BrokerSet:
    """Run three brokers that track one another."""
    return BrokerSet(processes, 3)


def serve(brokers: BrokerSet, at: int = 0) -> None:
    """Run a Lab that was told of one broker only; return when it serves at all."""
    brokers.processes.serve(brokers.addresses[at])
    brokers.wait_served("Lab", 0, 1, 2)


async def test_service_that_knows_one_broker_serves_at_all(brokers: BrokerSet, links: None) -> None:
    """And a client that knows another one finds it, and uses all three."""
    serve(brokers, at=0)
    lab = connect(Lab, broker=brokers.addresses[2])

    assert await lab.add(1, 2) == 3


async def test_rolling_restart_fails_no_call(brokers: BrokerSet, links: None) -> None:
    """Though they are not idempotent: a broker that ends takes no new ones, and what it has it finishes."""
    serve(brokers)
    lab = connect(Lab, broker=brokers.all)

    async with traffic(lambda: lab.add(1, 2)) as flow:
        for index in range(3):
            await flow.wait_more()
            await asyncio.to_thread(brokers.stop, index)
            await flow.wait_more()
            await asyncio.to_thread(brokers.start, index)
            await asyncio.to_thread(brokers.wait_served, "Lab", 0, 1, 2)
        await flow.wait_more()

    assert not flow.failures


async def test_killed_broker_is_left_at_once(brokers: BrokerSet, links: None) -> None:
    """Idempotent calls go on elsewhere; of the others those fail that were there, and say so."""
    serve(brokers)
    lab = connect(Lab, broker=brokers.all)

    async with traffic(lambda: lab.work_again("w", 0.01)) as safe, traffic(lambda: lab.work("w", 0.01)) as risky:
        await safe.wait_more()
        brokers.kill(0)
        await safe.wait_more()
        await risky.wait_more()

    assert not safe.failures
    assert all(error.code is Code.UNAVAILABLE and error.may_have_run for error in risky.failures)
    assert len(risky.failures) <= 4


async def test_frozen_broker_is_left(brokers: BrokerSet, links: None) -> None:
    """It says nothing and closes nothing; when it goes on it is used again."""
    serve(brokers)
    lab = options(connect(Lab, broker=brokers.all), timeout=15)

    async with traffic(lambda: lab.work_again("w", 0.01)) as flow:
        await flow.wait_more()
        brokers.freeze(1)
        await flow.wait_more(200)
        brokers.thaw(1)
        await flow.wait_more()
        await eventually(lambda: brokers.addresses[1] in brokers.table(0), "the frozen one is known again")

    assert not flow.failures


# -- which broker --------------------------------------------------------------------------------------------


class Everyone:
    """A selector of the application's own: the last broker by address."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], str | bytes | None]] = []

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return the last."""
        self.asked.append(([candidate.address for candidate in candidates], key))
        return candidates[-1:]


def requests_at(brokers: BrokerSet) -> list[int]:
    """Return how many calls each broker was given."""
    return [statistics(address)["requests"] for address in brokers.addresses]


async def calls_at(brokers: BrokerSet, lab: Lab, count: int) -> list[int]:
    """Make some calls, and return how many of them went to each broker."""
    before = requests_at(brokers)
    for _ in range(count):
        await lab.add(1, 2)
    return [after - one for after, one in zip(requests_at(brokers), before, strict=True)]


async def test_calls_find_their_brokers(brokers: BrokerSet, links: None) -> None:
    """All that serve share the calls; a key keeps calls together; a rule may be named, or be the application's own."""
    serve(brokers)
    lab = connect(Lab, broker=brokers.all)
    await lab.add(1, 2)
    fleet = fleet_of_loop(parse_addresses(brokers.all))
    await eventually(lambda: len(fleet.choices(b"Lab")) == 3, "links to all three")

    before = requests_at(brokers)
    await asyncio.gather(*[lab.add(1, 2) for _ in range(500)])
    assert min(after - one for after, one in zip(requests_at(brokers), before, strict=True)) > 0

    homes = []
    for key in ("a", "b", "c", "d", "e", "f", "g", "h"):
        together = await calls_at(brokers, options(lab, key=key), 5)
        assert sorted(together) == [0, 0, 5]
        homes.append(together.index(5))
    assert len(set(homes)) > 1

    assert await calls_at(brokers, connect(Lab, broker=brokers.all, selector="round-robin"), 30) == [10, 10, 10]

    own = Everyone()
    wanted = [30 if address == max(brokers.addresses) else 0 for address in brokers.addresses]
    assert await calls_at(brokers, options(connect(Lab, broker=brokers.all, selector=own), key="k"), 30) == wanted
    assert own.asked == [(sorted(brokers.addresses), "k")] * 30


async def test_broker_without_the_service_is_not_asked(brokers: BrokerSet, links: None) -> None:
    """A service of another language may serve at one only: there calls go, whatever broker the client was told of."""
    with NativePeer(brokers.addresses[1]) as peer:
        peer.subscribe("Echo")
        await eventually(lambda: brokers.consumers(0, "Echo") == {brokers.addresses[1]: 1}, "the other one knows")

        call = asyncio.create_task(connect("Echo", broker=brokers.addresses[0]).echo("x"))
        request = await asyncio.to_thread(peer.receive)
        peer.send(Message(Kind.REPLY, request.id, body=b'{"result":"y"}', session=request.session))

        assert await call == "y"


async def test_nothing_anywhere_is_said_by_one(brokers: BrokerSet, links: None) -> None:
    """With the names of what runs, as ever."""
    serve(brokers)

    with pytest.raises(RpcError, match="did you mean Lab"):
        await connect("Labb", broker=brokers.all).add(1, 2)


async def test_named_brokers_may_all_be_down(processes: Processes, links: None) -> None:
    """Then the text says of each why it cannot be reached."""
    one, other = free_ports(2)

    with pytest.raises(RpcError) as caught:
        await connect(Lab, broker=f"127.0.0.1:{one};127.0.0.1:{other}").add(1, 2)

    assert caught.value.code is Code.UNAVAILABLE
    assert f"127.0.0.1:{one}" in caught.value.message
    assert f"127.0.0.1:{other}" in caught.value.message
    assert caught.value.may_have_run is False
