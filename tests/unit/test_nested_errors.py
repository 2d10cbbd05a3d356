"""Errors that a handler let pass out of calls of its own: a fault of the outer service, which has run."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.inprocess import http_call, serving
from tests.support.inprocess import running_broker as running_server
from zbusrpc import Code, RpcError, aio, blocking, connect, deadline, mq, options, rpc, service
from zbusrpc.broker.assembly.server import Server
from zbusrpc.testing import running, running_broker

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class SoldOut(RpcError):
    """An error that `Stock` declares and `Shop` passes on, because its module shows it."""

    code = Code.FAILED_PRECONDITION
    message = "{item} is sold out"
    item: str


@service
class Stock:
    """What the shop calls."""

    async def take(self, item: str, count: int = 1) -> int:
        """Take something off the shelf."""
        if item == "rare":
            raise SoldOut(item=item)
        if item == "secret":
            raise RpcError(Code.PERMISSION_DENIED, "not for you", {"may_have_run": False, "lost": True})
        return count

    async def wait(self) -> None:
        """Take for ever."""
        await asyncio.sleep(60)


class Till:
    """Counts what ran."""

    def __init__(self) -> None:
        self.charges = 0


till = Till()


@service
class Shop:
    """Charges, and then calls `Stock` in many ways."""

    def __init__(self, broker: str) -> None:
        self.stock = connect(Stock, broker=broker)
        self.untyped = connect("Stock", broker=broker)
        self.broker = broker

    async def buy(self, item: str) -> int:
        """Let the error of the call pass."""
        till.charges += 1
        return await self.stock.take(item)

    def buy_in_thread(self, item: str) -> int:
        """Let the error of a blocking call pass."""
        till.charges += 1
        return blocking(self.stock.take)(item)

    async def buy_in_group(self, item: str) -> int:
        """Let a group with one error pass."""
        till.charges += 1
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.stock.take(item))
        return task.result()

    async def buy_two_in_group(self, item: str) -> None:
        """Let a group with two errors pass."""
        till.charges += 1
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self.stock.take(item))

    async def buy_later(self, item: str) -> int:
        """Raise what a call had ended with, some time after it."""
        till.charges += 1
        (result,) = await asyncio.gather(self.stock.take(item), return_exceptions=True)
        if isinstance(result, BaseException):
            raise result
        return result

    async def buy_untyped(self, item: str) -> Any:
        """Let the error of a call without types pass."""
        till.charges += 1
        return await self.untyped.take(item)

    async def misuse(self, item: str) -> Any:
        """Call with wrong arguments."""
        till.charges += 1
        return await self.untyped.take(item, "many")

    async def misname(self, item: str) -> Any:
        """Call what there is not."""
        till.charges += 1
        return await self.untyped.steal(item)

    async def store(self, item: str) -> None:
        """Send a message to a broker that stores none."""
        till.charges += 1
        async with mq.Producer("sales", broker=self.broker) as producer:
            await producer.send(item.encode())

    async def regret(self, item: str) -> int:
        """Say it in its own words."""
        try:
            return await self.stock.take(item)
        except RpcError as error:
            raise RpcError(Code.UNAVAILABLE, "the shop is closed", error.details) from error

    async def regret_in_group(self) -> None:
        """Say it in its own words, from a task of a group."""

        async def close() -> None:
            raise RpcError(Code.NOT_FOUND, "no such shop")

        async with asyncio.TaskGroup() as group:
            group.create_task(close())

    async def wait(self) -> None:
        """Wait as long as the caller does."""
        await options(self.stock, timeout=60.0).wait()

    async def wait_in_group(self) -> None:
        """Wait as long as the caller does, in a group."""
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(options(self.stock, timeout=60.0).wait())

    async def wait_briefly(self) -> None:
        """Wait less than the caller does."""
        with deadline(0.05):
            await self.stock.wait()

    @rpc(idempotent=True)
    async def look(self, item: str) -> int:
        """Do what may be done again."""
        till.charges += 1
        return await self.stock.take(item)


@pytest.fixture(autouse=True)
def empty_till() -> None:
    till.charges = 0


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A shop at a broker that has no stock."""
    async with running_broker() as broker, running(lambda: Shop(broker), broker=broker) as proxy:
        yield proxy


@pytest.fixture
async def full_shop() -> AsyncIterator[Shop]:
    """A shop at a broker that has a stock."""
    async with (
        running_broker() as broker,
        running(Stock, broker=broker),
        running(lambda: Shop(broker), broker=broker) as proxy,
    ):
        yield proxy


async def error_of(call: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value


WAYS = ["buy", "buy_in_thread", "buy_in_group", "buy_two_in_group", "buy_later", "buy_untyped", "misname"]


@pytest.mark.parametrize("way", WAYS)
async def test_handler_whose_call_found_nobody_runs_once(shop: Shop, way: str) -> None:
    """The inner call has not run; the outer has, and is not tried again whatever the caller allows."""
    method = getattr(options(shop, retries=3, wait_for_ready=True), way)

    error = await error_of(aio(method)("pen"))

    assert (error.code, error.may_have_run, till.charges) == (Code.INTERNAL, True, 1)
    assert error.details["cause"]["code"] == "UNAVAILABLE"
    assert error.details["cause"]["service"] == "Stock"


async def test_handler_runs_once_at_two_brokers() -> None:
    """Another broker is not asked to run again what has run."""
    async with running_broker() as first, running_broker() as second:
        both = f"{first};{second}"
        async with running(lambda: Shop(first), broker=both):
            shop = options(connect(Shop, broker=both), retries=3)
            for _ in range(5):
                assert (await error_of(shop.buy("pen"))).code is Code.INTERNAL

    assert till.charges == 5


async def test_idempotent_handler_is_not_repeated_for_a_fault_of_its_own(shop: Shop) -> None:
    """INTERNAL is nothing that another try would mend."""
    await error_of(options(shop, retries=3).look("pen"))

    assert till.charges == 1


@pytest.mark.parametrize(
    ("way", "item", "code", "called"),
    [
        ("misuse", "pen", "INVALID_ARGUMENT", "take"),
        ("misname", "pen", "UNIMPLEMENTED", "steal"),
        ("buy", "secret", "PERMISSION_DENIED", "take"),
        ("buy_in_thread", "secret", "PERMISSION_DENIED", "take"),
        ("buy_in_group", "secret", "PERMISSION_DENIED", "take"),
        ("wait_briefly", "", "DEADLINE_EXCEEDED", "wait"),
    ],
)
async def test_error_of_a_nested_call_is_no_fault_of_the_caller(
    full_shop: Shop, way: str, item: str, code: str, called: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is INTERNAL outside, and its cause stands in the details and in the log."""
    with caplog.at_level(logging.ERROR):
        error = await error_of(aio(getattr(full_shop, way))(*([item] if item else [])))

    cause = error.details["cause"]
    assert error.code is Code.INTERNAL
    assert (cause["service"], cause["method"], cause["code"]) == ("Stock", called, code)
    assert cause["message"] in error.message
    assert any("service.failed" in line and code in line for line in caplog.messages)


async def test_failed_command_of_the_message_queue_is_no_fault_of_the_caller(shop: Shop) -> None:
    """A message that could not be stored is a fault of the service that wanted it stored."""
    error = await error_of(shop.store("pen"))

    assert error.code is Code.INTERNAL
    assert error.details["cause"]["code"] == "FAILED_PRECONDITION"
    assert "service" not in error.details["cause"]


@pytest.mark.parametrize("way", ["buy", "buy_in_thread", "buy_in_group"])
async def test_error_that_the_outer_service_declares_passes(full_shop: Shop, way: str) -> None:
    """An error that both declare is the same to the caller, with its fields."""
    error = await error_of(aio(getattr(full_shop, way))("rare"))

    assert isinstance(error, SoldOut)
    assert error.item == "rare"


async def test_error_that_is_raised_on_purpose_passes_and_has_run(shop: Shop) -> None:
    """Details that speak of another call say nothing about this one."""
    error = await error_of(options(shop, retries=2).regret("pen"))

    assert (error.code, error.message) == (Code.UNAVAILABLE, "the shop is closed")
    assert error.details["may_have_run"] is False
    assert error.may_have_run


async def test_error_that_is_raised_on_purpose_in_a_group_passes(shop: Shop) -> None:
    """A group of one error says what that says."""
    error = await error_of(shop.regret_in_group())

    assert (error.code, error.message) == (Code.NOT_FOUND, "no such shop")


@pytest.mark.parametrize("way", ["wait", "wait_in_group"])
async def test_inherited_deadline_is_the_callers(full_shop: Shop, way: str) -> None:
    """A nested call that ended with the caller's own deadline is no fault of the service."""
    for _ in range(5):
        error = await error_of(getattr(options(full_shop, timeout=0.05), way)())

        assert error.code is Code.DEADLINE_EXCEEDED


# -- over HTTP -----------------------------------------------------------------------------------------------


async def shop_answers(server: Server, line: str, body: bytes = b"") -> Any:
    _, _, text = await http_call(server, line, body)
    return json.loads(text)["error"]


async def test_http_callers_are_told_what_has_not_run() -> None:
    """`may_have_run` stands beside the code where it is known to be false, and nowhere else."""
    async with running_server() as server, serving(server, lambda: Shop(server.broker.name)):
        nested = await shop_answers(server, "GET /rpc/Shop/buy/pen")
        meant = await shop_answers(server, "GET /rpc/Shop/regret/pen")
        wrong = await shop_answers(server, "POST /rpc/Shop/buy", b"[1]")
        nobody = await shop_answers(server, "GET /rpc/Shopp/buy/pen")

    assert (nested["code"], nested.get("may_have_run")) == ("INTERNAL", None)
    assert (meant["code"], meant.get("may_have_run")) == ("UNAVAILABLE", None)
    assert (wrong["code"], wrong["may_have_run"]) == ("INVALID_ARGUMENT", False)
    assert (nobody["code"], nobody["may_have_run"]) == ("UNAVAILABLE", False)


@pytest.mark.parametrize(
    ("method", "params", "number", "has_not_run"),
    [("buy", ["pen"], -32603, None), ("buy", [1], -32602, False), ("bye", [], -32601, False)],
)
async def test_jsonrpc_callers_are_told_what_has_not_run(
    method: str, params: list[Any], number: int, has_not_run: bool | None
) -> None:
    """In JSON-RPC it stands among the data, with the number of the outer error."""
    request = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).encode()
    async with running_server() as server, serving(server, lambda: Shop(server.broker.name)):
        error = await shop_answers(server, "POST /rpc/Shop", request)

    assert (error["code"], error["data"].get("may_have_run")) == (number, has_not_run)
