"""Programs that must pass: connect, aio, blocking, options and running keep the types of the service."""

from contextlib import AbstractAsyncContextManager
from typing import Any, assert_type

from declared import Bank, Calc, InsufficientFunds, Order

from zbusrpc import Code, Context, RpcError, aio, blocking, connect, context, deadline, options
from zbusrpc.testing import running, running_broker


def make_bank() -> Bank:
    """Make an instance, as a factory does."""
    return Bank("EUR")


def connects() -> None:
    """A proxy is an instance of the class."""
    assert_type(connect(Calc), Calc)
    assert_type(connect(Bank, broker="localhost:15555"), Bank)
    anything: Any = connect("Calc")
    print(anything.add(1, 2))


async def awaits(calc: Calc) -> None:
    """An async method is awaited, a blocking one gives its result."""
    assert_type(await calc.add(1, 2), int)
    assert_type(await calc.add(b=2, a=1), int)
    assert_type(await calc.add(1), int)
    assert_type(await calc.bare(), str)
    assert_type(await calc.order(Order("tea", 2)), dict[str, float])
    assert_type(calc.factor(91), list[int])
    assert_type(calc.old(text="x"), bytes | None)


async def changes_colour(calc: Calc) -> None:
    """The other colour of a method has the same parameters and result."""
    assert_type(await aio(calc.factor)(91), list[int])
    assert_type(await aio(calc.factor)(n=91), list[int])
    assert_type(await aio(calc.old)(text="x"), bytes | None)
    assert_type(blocking(calc.add)(1, 2), int)
    assert_type(blocking(calc.add)(1), int)
    assert_type(blocking(calc.order)(Order("tea", 2)), dict[str, float])


async def sets_options(calc: Calc) -> None:
    """options() returns the same type."""
    patient = options(calc, timeout=2.0, retries=3, metadata={"user": "ada"}, wait_for_ready=True)
    assert_type(patient, Calc)
    assert_type(await options(patient, timeout=1.0).add(1, 2), int)
    with deadline(2.0):
        assert_type(await calc.add(1, 2), int)


async def catches(calc: Calc) -> None:
    """A declared error has typed fields, every RpcError a code."""
    try:
        await calc.order(Order("tea", 2))
    except InsufficientFunds as error:
        assert_type(error.missing, int)
        assert_type(error.code, Code)
        assert_type(error.message, str)
    except RpcError as error:
        assert_type(error.code, Code)
        assert_type(error.may_have_run, bool)
        assert_type(error.retry_after_s, float | None)


def asks() -> None:
    """The context of a call is typed."""
    assert_type(context(), Context)
    assert_type(context().metadata, dict[str, str])
    assert_type(context().time_left, float | None)


async def tests() -> None:
    """running() takes a class, a factory or an instance, and yields the service."""
    async with running(Calc) as calc:
        assert_type(calc, Calc)
    async with running(make_bank, instances=2) as bank:
        assert_type(bank, Bank)
    async with running_broker() as broker, running(Bank("EUR"), broker=broker) as bank:
        assert_type(broker, str)
        assert_type(bank, Bank)
    manager: AbstractAsyncContextManager[Calc] = running(Calc)
    print(manager)
