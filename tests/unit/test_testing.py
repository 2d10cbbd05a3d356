"""zbusrpc.testing: services run for a test in its own event loop."""

import asyncio
import threading
from types import TracebackType

import anyio
import pytest

from zbusrpc import Code, DefinitionError, LinkError, RpcError, UsageError, aio, connect, context, options, service
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.testing import running, running_broker

pytestmark = pytest.mark.anyio


@service
class Calc:
    """Arithmetic, with a memory of whether it is open."""

    def __init__(self) -> None:
        self.is_open = False

    async def __aenter__(self) -> "Calc":
        self.is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open = False

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b

    async def identity(self) -> int:
        """Name the instance."""
        await anyio.sleep(0.05)
        return id(self)

    async def opened(self) -> bool:
        """Say whether the instance is entered."""
        return self.is_open

    def thread(self) -> str:
        """Name the thread."""
        return threading.current_thread().name

    async def fail(self) -> None:
        """Fail in an unexpected way."""
        raise ZeroDivisionError("no way")


@service
class Sum:
    """A service that calls another one."""

    async def of(self, numbers: list[int]) -> int:
        """Add up by calls to Calc."""
        calc, total = connect(Calc), 0
        for number in numbers:
            total = await calc.add(total, number)
        return total

    async def who(self) -> str:
        """Say who calls."""
        return context().metadata.get("who", "")


async def test_class_is_served_and_called() -> None:
    """A service class needs one line to be called as in production."""
    async with running(Calc) as calc:
        result = await calc.add(1, 2)

    assert result == 3


async def test_instance_is_served_as_it_is() -> None:
    """An instance that the test made is the one that answers."""
    mine = Calc()

    async with running(mine) as calc:
        identity = await calc.identity()

    assert identity == id(mine)


async def test_factory_makes_each_instance() -> None:
    """Several instances of a factory share the calls."""

    def make() -> Calc:
        return Calc()

    async with running(make, instances=2, concurrency=1) as calc:
        identities = await asyncio.gather(calc.identity(), calc.identity())

    assert len(set(identities)) == 2


async def test_context_manager_is_entered_and_left() -> None:
    """Start-up and shut-down of a service run around the block."""
    mine = Calc()

    async with running(mine) as calc:
        assert await calc.opened()

    assert not mine.is_open


async def test_def_method_runs_in_thread_and_is_called_by_aio() -> None:
    """A blocking method is awaited by its twin, and runs in a thread of the worker."""
    async with running(Calc) as calc:
        name = await aio(calc.thread)()

    assert name.startswith("Calc")


async def test_blocking_call_from_thread_leaves_no_connection() -> None:
    """A thread may block on the proxy; the next block's broker gets a new connection."""
    for _ in range(2):
        async with running(Calc) as calc:
            assert await anyio.to_thread.run_sync(calc.thread)


async def test_services_meet_at_one_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service under test finds another one at the broker that ZBUSRPC_BROKER names."""
    async with running_broker() as broker, running(Calc, broker=broker), running(Sum, broker=broker) as total:
        monkeypatch.setenv("ZBUSRPC_BROKER", broker)

        assert await total.of([1, 2, 3]) == 6


async def test_proxy_takes_options() -> None:
    """What is yielded is a proxy like any other."""
    async with running(Sum) as total:
        assert await options(total, metadata={"who": "tester"}).who() == "tester"


async def test_errors_are_those_of_production() -> None:
    """Wrong arguments and failures come back as they do over the network."""
    async with running(Calc) as calc:
        with pytest.raises(RpcError) as invalid:
            await calc.add("x", 2)  # type: ignore[arg-type]
        with pytest.raises(RpcError) as failed:
            await calc.fail()

    assert invalid.value.code is Code.INVALID_ARGUMENT
    assert failed.value.code is Code.INTERNAL
    assert failed.value.details is None


async def test_dev_gives_callers_the_traceback() -> None:
    """With dev=True an unexpected error says where it happened."""
    async with running(Calc, dev=True) as calc:
        with pytest.raises(RpcError, match="no way") as failed:
            await calc.fail()

    assert "ZeroDivisionError" in failed.value.details["traceback"]


async def test_limits_of_broker_can_be_set() -> None:
    """A test can make the queue as short as it needs."""
    async with (
        running_broker(limits=Limits(queue_calls_max=1)) as broker,
        running(Calc, broker=broker, concurrency=1) as calc,
    ):
        results = await asyncio.gather(*[calc.identity() for _ in range(3)], return_exceptions=True)

    refused = [result for result in results if isinstance(result, RpcError)]
    assert [error.code for error in refused] == [Code.RESOURCE_EXHAUSTED]


async def test_nothing_is_left_running() -> None:
    """When the block is left, no task of it is left, and its broker is gone."""
    before = asyncio.all_tasks()

    async with running_broker() as broker, running(Calc, broker=broker) as calc:
        await calc.add(1, 2)

    assert asyncio.all_tasks() == before
    with pytest.raises(RpcError) as gone:
        await connect(Calc, broker=broker).add(1, 2)
    await close_fleets()
    assert gone.value.code is Code.UNAVAILABLE


async def test_error_in_block_closes_everything() -> None:
    """A failing test leaves nothing behind either."""
    before = asyncio.all_tasks()

    with pytest.raises(AssertionError):
        async with running(Calc):
            raise AssertionError

    assert asyncio.all_tasks() == before


async def test_unreachable_broker_is_named() -> None:
    """A broker that is not there is an error at once, and nothing is left running."""
    before = asyncio.all_tasks()

    with pytest.raises(LinkError, match="localhost:1"):
        async with running(Calc, broker="localhost:1"):
            pass

    assert asyncio.all_tasks() == before


async def test_mistakes_are_named() -> None:
    """What cannot be served, or not several times, is one clear line."""
    with pytest.raises(DefinitionError, match="int is no service"):
        async with running(int):
            pass
    with pytest.raises(UsageError, match="not one instance of Calc"):
        running(Calc(), instances=2)
    with pytest.raises(UsageError, match="a whole number, 1 or more"):
        running(Calc, instances=0)
