"""Proxies look like the service that they stand for, to people, to `inspect` and to libraries."""

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import pydoc
import warnings
import weakref
from typing import Any
from unittest import mock

import pytest

from zbusrpc import Code, RpcError, aio, blocking, connect, options, rpc, service
from zbusrpc.cluster.selection import SELECTORS, LeastLoaded
from zbusrpc.testing import running, running_broker


class Own(LeastLoaded):
    """A selector of the application."""


@service
class Calc:
    """Arithmetic over the bus."""

    maximum = 3
    nothing = None

    class Nested:
        """A class in a class."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def size(self) -> int:
        """Data of an instance."""
        return 1

    async def add(self, a: int, b: int = 2) -> int:
        """Return the sum."""
        return a + b

    @rpc(name="times")
    def mul(self, a: int, *, b: int = 2) -> int:
        """Return the product."""
        return a * b

    @staticmethod
    async def neg(a: int) -> int:
        """Return the negative."""
        return -a

    async def flaky(self) -> int:
        """Fail the first time."""
        self.calls += 1
        if self.calls == 1:
            raise RpcError(Code.ABORTED, "not yet")
        return self.calls


calc = connect(Calc)
named = connect("Calc")


@pytest.mark.parametrize(
    ("method", "is_async"),
    [
        (calc.add, True),
        (calc.neg, True),
        (calc.mul, False),
        (aio(calc.mul), True),
        (blocking(calc.add), False),
        (named.add, True),
        (blocking(named.add), False),
        (options(calc, timeout=1.0).add, True),
        (functools.partial(calc.add, 1), True),
        (functools.partial(calc.mul, 1), False),
    ],
)
def test_what_is_awaited_is_a_coroutine_function(method: Any, is_async: bool) -> None:
    """Libraries that ask `inspect` or asyncio how to call it are told the truth."""
    assert inspect.iscoroutinefunction(method) is is_async
    assert asyncio.iscoroutinefunction(method) is is_async


@pytest.mark.parametrize("name", ["add", "mul", "neg"])
def test_method_describes_itself_as_in_the_class(name: str) -> None:
    """Signature, annotations, documentation and names are those of the method, bound."""
    method, original = getattr(calc, name), getattr(Calc(), name)

    assert inspect.signature(method) == inspect.signature(original)
    assert method.__annotations__ == inspect.get_annotations(original)
    assert inspect.getdoc(method) == inspect.getdoc(original)
    assert (method.__name__, method.__qualname__, method.__module__) == (name, f"Calc.{name}", __name__)
    assert repr(method) == f"<method Calc.{name} of a proxy>"
    assert inspect.getdoc(original) in pydoc.render_doc(method, renderer=pydoc.plaintext)


def test_help_of_a_proxy_is_that_of_the_class() -> None:
    """It names the class and its methods, with their documentation."""
    text = pydoc.render_doc(calc, renderer=pydoc.plaintext)

    assert "Arithmetic over the bus." in text
    assert "async add(self, a: int, b: int = 2) -> int" in text
    assert {"add", "mul", "neg", "flaky"} <= set(dir(calc))
    assert not {"size", "calls"} & set(dir(calc))


def test_method_can_be_wrapped_and_named() -> None:
    """A decorator takes over what it says of itself."""

    @functools.wraps(calc.add)
    async def wrapper(*args: Any, **kwargs: Any) -> int:
        return 0

    assert (wrapper.__name__, inspect.signature(wrapper)) == ("add", inspect.signature(Calc().add))
    assert inspect.signature(functools.partial(calc.add, 1)) == inspect.signature(functools.partial(Calc().add, 1))


def test_proxy_is_taken_for_an_instance() -> None:
    """Containers and validators that look at the class find it; what is not its type stays so."""
    assert isinstance(calc, Calc)
    assert not isinstance(named, Calc)
    assert isinstance(mock.create_autospec(calc).add, mock.AsyncMock)
    assert not callable(calc)


def test_data_of_the_class_is_there_and_that_of_instances_is_named() -> None:
    """Constants and classes are the same at the caller; what is only in the service is refused in one line."""
    assert (calc.maximum, calc.Nested, calc.nothing) == (3, Calc.Nested, None)
    for name, words in [
        ("size", "size of service Calc is data, and a proxy has methods: write one that returns it"),
        ("calls", "service Calc has no method calls; it has add, flaky, mul, neg"),
        ("ad", "service Calc has no method ad; did you mean add?"),
        ("_add", "service Calc has no method _add"),
        ("__wrapped__", "service Calc has no method __wrapped__"),
    ]:
        with pytest.raises(AttributeError) as raised:
            getattr(calc, name)
        assert str(raised.value).startswith(words)


@pytest.mark.parametrize("name", ["__wrapped__", "_private", "__await__", "__aenter__", "_is_coroutine"])
def test_what_libraries_look_for_is_no_method_of_a_service(name: str) -> None:
    """A proxy by name has public methods only: names that Python and libraries ask for are no calls."""
    assert not hasattr(named, name)


@pytest.mark.parametrize("proxy", [calc, named])
def test_proxy_that_is_not_made_yet_has_nothing(proxy: Any) -> None:
    """What goes past the constructor, as some that copy do, finds no methods and no other error."""
    empty = type(proxy).__new__(type(proxy))

    assert not any(hasattr(empty, name) for name in ("other", "__setstate__", "_private"))


ALL = [calc, named, options(calc, timeout=2.0, metadata={"a": "b"}, key="k", caller="me")]
ALL += [connect(Calc, broker="mq1:1;tls://mq2:2", selector=name) for name in SELECTORS]
METHODS = [calc.add, calc.mul, aio(calc.mul), blocking(calc.add), named.add, options(calc, retries=3).neg]


@pytest.mark.parametrize("value", ALL + METHODS)
def test_proxies_and_methods_are_values(value: Any) -> None:
    """Copied and pickled they are equal, and of the same kind; they can be referred to weakly."""
    for again in (copy.copy(value), copy.deepcopy(value), copy.deepcopy([value])[0], pickle.loads(pickle.dumps(value))):
        assert (again, hash(again), type(again), repr(again)) == (value, hash(value), type(value), repr(value))
    assert weakref.ref(value)() is value


def test_proxies_that_call_otherwise_are_not_equal() -> None:
    """Options, service and kind of proxy count."""
    others = [*ALL, *METHODS, connect(Calc, selector=Own()), connect(Calc, selector=Own()), connect("Other")]

    assert len(set(others)) == len(others)
    assert connect(Calc) == calc
    assert connect("Calc").add == named.add


@pytest.mark.parametrize("proxy", [calc, named])
def test_attributes_of_a_proxy_cannot_be_set(proxy: Any) -> None:
    """An option that is set as an attribute, or a private name, is refused with the way out."""
    for name, value in [("timeout", 5.0), ("_service", "x"), ("__doc__", "x"), ("add", 5)]:
        with pytest.raises(AttributeError, match=rf"{name} of <proxy of service Calc> cannot be set; options\(proxy"):
            setattr(proxy, name, value)
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del proxy.add
    with pytest.raises(AttributeError, match="cannot be set"):
        calc.ad = print  # type: ignore[attr-defined]


@pytest.mark.anyio
@pytest.mark.parametrize("proxy", [connect(Calc), connect("Calc")])
async def test_method_can_be_replaced_in_a_test(proxy: Any) -> None:
    """`mock.patch.object` makes the mock that fits the color, and puts the method back."""
    original = proxy.add
    with mock.patch.object(proxy, "add") as add:
        add.return_value = 7
        assert await proxy.add(1, 2) == 7
        assert isinstance(add, mock.AsyncMock)
    assert proxy.add is original
    with mock.patch.object(calc, "mul") as mul:
        assert not isinstance(mul, mock.AsyncMock)


def test_forgotten_await_names_the_method() -> None:
    """Python's own warning says which call has not been made."""
    for call, name in [(calc.add, "Calc.add"), (aio(calc.mul), "Calc.mul"), (named.sub, "Calc.sub")]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(1)
            gc.collect()
        assert f"coroutine '{name}' was never awaited" in [str(warning.message) for warning in caught]


@pytest.mark.anyio
async def test_unpickled_proxy_calls_as_the_first_one() -> None:
    """A proxy and its methods connect again, with their options."""
    async with running_broker() as broker, running(Calc, broker=broker):
        proxy = options(connect(Calc, broker=broker, selector="round-robin"), timeout=5.0)
        for again in (pickle.loads(pickle.dumps(proxy)), copy.deepcopy(proxy)):
            assert await again.add(1) == 3
        assert await pickle.loads(pickle.dumps(aio(proxy.mul)))(2, b=5) == 10
        assert await pickle.loads(pickle.dumps(connect("Calc", broker=broker).add))(1, b=5) == 6


@pytest.mark.anyio
async def test_libraries_await_what_is_to_be_awaited() -> None:
    """Starlette's background tasks make the call, and tenacity makes it again."""
    import tenacity
    from starlette import background

    server = Calc()
    async with running(server) as proxy:
        tasks = background.BackgroundTasks()
        tasks.add_task(proxy.neg, 1)
        with pytest.raises(RpcError, match="not yet"):
            await background.BackgroundTask(proxy.flaky)()
        await tasks()
        server.calls = 0
        patient = tenacity.retry(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_none())(proxy.flaky)
        assert await patient() == 2
