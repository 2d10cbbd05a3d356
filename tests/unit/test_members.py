"""Methods of every make: those that callers can call, and those that are refused with one line."""

import abc
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NewType, ParamSpec, Protocol, TypeVar

import pytest

from tests.support.inprocess import http_call, running_broker, serving
from zbusrpc import Code, DefinitionError, RpcError, aio, connect, rpc, service
from zbusrpc.service.definition import Color, define
from zbusrpc.service.lifespan import check_target
from zbusrpc.testing import running

P = ParamSpec("P")
R = TypeVar("R")


def watched(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator as most people write it: it is not async, whatever it decorates."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


def remembering(function: Callable[..., Coroutine[Any, Any, int]]) -> Callable[..., Awaitable[int]]:
    """A decorator that returns a coroutine the first time, and the bare value later."""
    known: dict[int, int] = {}

    @functools.wraps(function)
    def wrapper(self: object, number: int) -> Any:
        if number in known:
            return known[number]

        async def run() -> int:
            known[number] = await function(self, number)
            return known[number]

        return run()

    return wrapper


class Binding:
    """A callable that binds as functions do, such as decorators of libraries make."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        functools.update_wrapper(self, function)

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


UserId = NewType("UserId", int)


@service
class Kinds:
    """A method of every make."""

    Limit = list[int]
    Id = UserId
    maximum = 3

    class Nested:
        """A class in a class is data."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def size(self):  # type: ignore[no-untyped-def]
        """A property is data."""
        return 1

    @functools.cached_property
    def weight(self):  # type: ignore[no-untyped-def]
        """So is this."""
        return 1

    @staticmethod
    def static(number: int) -> int:
        return number + 1

    @staticmethod
    async def static_async(number: int) -> int:
        return number + 1

    @classmethod
    def of_class(cls, number: int) -> int:
        assert cls is Kinds
        return number + 1

    @rpc(idempotent=True)
    @staticmethod
    def optioned(number: int) -> int:
        return number + 1

    @functools.cache  # noqa: B019 - an instance lives as long as its process
    def cached(self, number: int) -> int:
        self.calls += 1
        return number + self.calls

    def _sum(self, number: int, other: int) -> int:
        return number + other

    async def _sum_later(self, number: int, *, other: int = 0) -> int:
        return number + other

    partial = functools.partialmethod(_sum, 1)
    partial_async = functools.partialmethod(_sum_later, other=1)

    @watched
    async def watched_async(self, number: int) -> int:
        return number + 1

    @watched
    @watched
    async def watched_twice(self, number: int) -> int:
        return number + 1

    @watched
    def watched_sync(self, number: int) -> int:
        return number + 1

    @remembering
    async def remembered(self, number: int) -> int:
        return number + 1

    def awaitable(self, number: int) -> Awaitable[int]:
        return self._sum_later(number, other=1)

    def coroutine(self, number: int) -> "Coroutine[Any, Any, int]":
        return self._sum_later(number, other=1)

    @Binding
    def bound(self, number: int) -> int:
        return number + 1

    @Binding
    async def bound_async(self, number: int) -> int:
        return number + 1

    def all_of_it(*everything: int) -> int:  # type: ignore[misc]
        return len(everything)


ASYNC = {
    "static_async",
    "partial_async",
    "watched_async",
    "watched_twice",
    "remembered",
    "awaitable",
    "coroutine",
    "bound_async",
}


def test_members_are_methods_or_data() -> None:
    """Whatever is called like a method is one, in its color; data of a class is none."""
    methods = define(Kinds).methods

    public = [name for name, value in vars(Kinds).items() if not name.startswith("_")]
    assert [name for name in public if name not in methods] == ["Limit", "Id", "maximum", "Nested", "size", "weight"]
    assert {name for name, method in methods.items() if method.color is Color.ASYNC} == ASYNC
    assert all(method.signature.return_annotation is int for method in methods.values())
    assert methods["optioned"].options.idempotent


@pytest.mark.anyio
async def test_methods_of_every_make_can_be_called() -> None:
    """By the class, by name and over HTTP, twice each: what is kept after the first call does no harm."""
    async with running_broker() as server, serving(server, Kinds):
        kinds, dynamic = connect(Kinds, broker=server.broker.name), connect("Kinds", broker=server.broker.name)
        for name, method in define(Kinds).methods.items():
            call = getattr(kinds, name)
            is_async = method.color is Color.ASYNC
            assert [await (call if is_async else aio(call))(1) for _ in range(2)] == [2, 2], name
            assert await getattr(dynamic, name)(1) == 2, name
            assert (await http_call(server, f"GET /rpc/Kinds/{name}/1"))[2] == b'{"result":2}', name


class Adder:
    """An object that can be called."""

    def __call__(self, a: int) -> int:
        return a


@functools.singledispatchmethod  # noqa: PLE1520 - put into a class below
def dispatching(self: Any, a: object) -> int: ...  # type: ignore[empty-body]
@functools.cache
async def cached_async(self: Any) -> int: ...  # type: ignore[empty-body]
def hiding(*args, **kwargs): ...  # type: ignore[no-untyped-def]
@watched
async def generating(self: Any) -> Any:
    yield 1


def method(self: Any) -> int: ...  # type: ignore[empty-body]
def keyword_only(*, a: int) -> int: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "add",
            Adder(),
            r"Odd.add is of type Adder, which can be called, and no method; write a def .* or name it _add",
        ),
        ("add", functools.partial(method), r"Odd.add is of type partial, which can be called"),
        ("add", len, r"Odd.add is of type builtin_function_or_method, which can be called"),
        ("add", Adder().__call__, r"Odd.add is of type method, which can be called"),
        ("add", dispatching, r"Odd.add is a singledispatchmethod, .*union"),
        ("add", cached_async, r"Odd.add is an async def in a functools cache"),
        ("add", hiding, r"Odd.add: parameter args has no type; let its decorator use functools.wraps"),
        ("add", generating, r"Odd.add is a generator"),
        ("add", keyword_only, r"Odd.add takes no self"),
        ("_add", rpc(method), r"Odd._add has @rpc, and what begins with _ cannot be called .* name it add"),
        ("_add", staticmethod(rpc(timeout=1)(method)), r"Odd._add has @rpc"),
    ],
)
def test_member_that_would_vanish_is_refused(name: str, value: Any, words: str) -> None:
    """What looks like a method and cannot be one is named, with the reason and the way out."""
    with pytest.raises(DefinitionError, match=words):
        service(type("Odd", (), {name: value, "fine": method}))


@pytest.mark.parametrize("value", [Adder(), property(lambda self: 1), Adder, 7])
def test_options_are_for_methods_only(value: Any) -> None:
    """@rpc above anything else is refused."""
    with pytest.raises(DefinitionError, match="@rpc decorates a method, not "):
        rpc(value)


class Late(RpcError):
    code = Code.ABORTED


class Later(RpcError):
    code = Code.ABORTED


class Contract(Protocol):
    @rpc(name="look", timeout=2.0, idempotent=True, deprecated="use see", errors=(Late,))
    async def view(self, a: int, b: int = 0, *, c: int = 0) -> int: ...


class Between(Contract):
    async def view(self, a: int, b: int = 0, *, c: int = 0, d: int = 0) -> int:
        return a


def test_override_has_the_options_of_what_it_overrides() -> None:
    """Name, time limit, idempotency, deprecation and errors are those of the contract, unless others are given."""

    @service
    class Plain(Between):
        async def view(self, a: int, b: int = 0, *, c: int = 0, d: int = 0) -> int:
            return a

    @service
    class Other(Between):
        @rpc(timeout=5.0, idempotent=False, errors=(Later,))
        async def view(self, a: int, b: int = 0, *, c: int = 0, d: int = 0) -> int:
            return a

    plain, other = define(Plain).methods["look"].options, define(Other).methods["look"].options
    assert (plain.timeout, plain.idempotent, plain.deprecated, plain.errors) == (2.0, True, "use see", (Late,))
    assert (other.timeout, other.idempotent, other.deprecated, other.errors) == (5.0, False, "use see", (Later, Late))


async def less(self: Any, a: int) -> int: ...  # type: ignore[empty-body]
async def renamed(self: Any, x: int, b: int = 0, *, c: int = 0) -> int: ...  # type: ignore[empty-body]
async def stricter(self: Any, a: int, b: int, *, c: int = 0) -> int: ...  # type: ignore[empty-body]
async def without_name(self: Any, a: int, b: int = 0) -> int: ...  # type: ignore[empty-body]
async def by_position(self: Any, a: int, b: int = 0, /, *, c: int = 0) -> int: ...  # type: ignore[empty-body]
async def needing(self: Any, a: int, b: int = 0, *, c: int = 0, d: int) -> int: ...  # type: ignore[empty-body]
async def more(self: Any, a: int, b: int = 0, e: int = 0, *, c: int = 0, **d: int) -> int: ...  # type: ignore[empty-body]
async def anything(self: Any, *args: int, **kwargs: int) -> int: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("function", [less, renamed, stricter, without_name, by_position, needing])
def test_override_that_cannot_take_the_calls_is_refused(function: Any) -> None:
    """Callers of the contract are other programs: a call that they may make must not fail."""
    with pytest.raises(DefinitionError, match=r"Odd.view does not take the calls of \w+.view, which it overrides: "):
        service(type("Odd", (Between,), {"view": function}))


def plainly(self: Any, a: int, b: int = 0, *, c: int = 0) -> int: ...  # type: ignore[empty-body]
def as_promise(self: Any, a: int, b: int = 0, *, c: int = 0, d: int = 0) -> "Awaitable[int]": ...  # type: ignore[empty-body]


def test_override_of_another_colour_is_refused() -> None:
    """Who awaits the contract's method awaits that of any service that has it."""
    with pytest.raises(
        DefinitionError, match=r"Odd\.view is def, and \w+\.view, which it overrides, async def; make it"
    ):
        service(type("Odd", (Between,), {"view": plainly}))
    service(type("Promising", (Between,), {"view": as_promise}))


@pytest.mark.parametrize("function", [more, anything])
def test_override_may_take_more(function: Any) -> None:
    """More parameters than the contract has are no harm."""
    service(type("Wide", (Contract,), {"view": function}))


@pytest.mark.parametrize("value", [None, 7, Adder, property(lambda self: 1)])
def test_method_hidden_by_data_is_refused(value: Any) -> None:
    """A method of a base does not vanish."""
    with pytest.raises(DefinitionError, match=r"Odd\.view hides the method Between\.view; give it another name"):
        service(type("Odd", (Between,), {"view": value}))


def test_abstract_class_is_a_contract_and_no_instance() -> None:
    """It can be connected to, and is refused by one line where it is to be served."""

    @service
    class Shape(abc.ABC):
        @abc.abstractmethod
        async def area(self) -> int:
            """Return the area."""

    assert list(define(Shape).methods) == ["area"]
    with pytest.raises(DefinitionError, match=r"Shape is abstract \(area\); serve a subclass"):
        check_target(Shape)


@pytest.mark.anyio
async def test_contract_and_its_service_meet() -> None:
    """A caller that knows the contract reaches the service that implements it under its name."""

    @service(name="Shapes")
    class Shapes(abc.ABC):
        @rpc(name="size")
        @abc.abstractmethod
        async def area(self, side: int) -> int:
            """Return the area."""

    @service(name="Shapes")
    class Squares(Shapes):
        async def area(self, side: int) -> int:
            return side * side

    async with running_broker() as server, serving(server, Squares):
        assert await connect(Shapes, broker=server.broker.name).area(3) == 9


@pytest.mark.anyio
async def test_wrapped_method_keeps_its_errors() -> None:
    """An error that a coroutine raises behind a decorator reaches the caller as it is."""

    @service
    class Failing:
        @watched
        async def fail(self) -> int:
            raise Late("too late")

    async with running(Failing) as failing:
        with pytest.raises(Late, match="too late"):
            await failing.fail()
