"""Arguments: whatever a type checker accepts as a call arrives as it was written, by every way to call."""

import json
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Required, TypedDict, Unpack

import pytest
from pydantic import Field

from tests.support.inprocess import http_call, running_broker, serving
from zbusrpc import Code, DefinitionError, RpcError, connect, envelope, service
from zbusrpc.service.codec import TypedCodec
from zbusrpc.service.definition import define
from zbusrpc.service.dispatcher import Dispatcher
from zbusrpc.testing import running

pytestmark = pytest.mark.anyio


class Options(TypedDict, total=False):
    day: Required[date]
    price: "Decimal"
    a: bytes


def seen(*values: Any) -> Any:
    """Return what a method was called with as JSON values: under Any nothing else comes out as it went in."""
    return envelope.load(envelope.dump(values))


@service
class Every:
    """Parameters of every kind; each method returns what it was called with."""

    async def rest(self, *rest: date, price: Decimal = Decimal(0)) -> Any:
        return seen(rest, price)

    async def rest_and_more(self, a: int, *rest: int, k: date, **more: bytes) -> Any:
        return seen(a, rest, k, more)

    async def positional(self, a: date, b: int = 2, /, c: int = 3, *, k: Decimal) -> Any:
        return seen(a, b, c, k)

    async def hidden(self, a: int, /, **a_too: date) -> Any:
        return seen(a, a_too)

    async def hidden_default(self, a: int = 1, /, **more: int) -> Any:
        return seen(a, more)

    async def unpacked(self, a: int, /, **options: Unpack[Options]) -> Any:
        return seen(a, options)

    async def names(this, self: int, cls: int, method: int, args: int, kwargs: int, timeout: int) -> Any:  # noqa: N805
        return seen(self, cls, method, args, kwargs, timeout)

    async def more_names(this, params: int, *, named: int, module: int, service: int, body: int) -> Any:  # noqa: N805
        return seen(params, named, module, service, body)

    async def open(this, /, self: int, **kwargs: int) -> Any:  # noqa: N805
        return seen(self, kwargs)


DAY, PRICE = date(2026, 1, 2), Decimal("1.50")
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("rest", (), {}),
    ("rest", (DAY, DAY), {}),
    ("rest", (DAY, DAY), {"price": PRICE}),
    ("rest", (), {"price": PRICE}),
    ("rest_and_more", (1,), {"k": DAY}),
    ("rest_and_more", (1, 2, 3), {"k": DAY}),
    ("rest_and_more", (1, 2), {"k": DAY, "rest": b"\xff", "more": b""}),
    ("rest_and_more", (), {"a": 1, "k": DAY, "x": b"x"}),
    ("positional", (DAY,), {"k": PRICE}),
    ("positional", (DAY, 5), {"k": PRICE, "c": 7}),
    ("positional", (DAY, 5, 6), {"k": PRICE}),
    ("hidden", (1,), {}),
    ("hidden", (1,), {"a": DAY, "b": DAY}),
    ("hidden_default", (), {}),
    ("hidden_default", (), {"b": 2}),
    ("hidden_default", (), {"a": 2}),
    ("hidden_default", (5,), {"a": 2}),
    ("unpacked", (1,), {"day": DAY}),
    ("unpacked", (1,), {"day": DAY, "price": PRICE, "a": b"\xff"}),
    ("names", (1, 2, 3, 4, 5, 6), {}),
    ("names", (1, 2), {"method": 3, "args": 4, "kwargs": 5, "timeout": 6}),
    ("names", (), {"self": 1, "cls": 2, "method": 3, "args": 4, "kwargs": 5, "timeout": 6}),
    ("more_names", (1,), {"named": 2, "module": 3, "service": 4, "body": 5}),
    ("more_names", (), {"params": 1, "named": 2, "module": 3, "service": 4, "body": 5}),
    ("open", (), {"self": 1, "args": 2, "kwargs": 3, "cls": 4}),
]


async def test_call_arrives_as_it_was_written() -> None:
    """A typed caller, one by name and one over HTTP: each gets what a plain call of the class returns."""
    async with running_broker() as server, serving(server, Every):
        every, dynamic = connect(Every, broker=server.broker.name), connect("Every", broker=server.broker.name)
        for method, args, kwargs in CALLS:
            expected = await getattr(Every(), method)(*args, **kwargs)

            assert await getattr(every, method)(*args, **kwargs) == expected, (method, args, kwargs)
            assert await getattr(dynamic, method)(*args, **kwargs) == expected, (method, args, kwargs)
            body = envelope.request_body(method, list(args), kwargs)
            status, _, reply = await http_call(server, "POST /rpc/Every", body)
            assert (status, envelope.load(reply)["result"]) == (200, expected), (method, args, kwargs)


async def test_path_and_query_go_together() -> None:
    """Over HTTP values by position stand in the path, others in the query; as text they become what they are."""
    async with running_broker() as server, serving(server, Every):
        for line, expected in [
            ("rest/2026-01-02/2026-01-02?price=1.50", [["2026-01-02", "2026-01-02"], "1.50"]),
            ("positional/2026-01-02/5?c=7&k=1", ["2026-01-02", 5, 7, "1"]),
            ("hidden/1?a=2026-01-02", [1, {"a": "2026-01-02"}]),
            ("unpacked/1?day=2026-01-02&a=_w==", [1, {"day": "2026-01-02", "a": "_w=="}]),
            ("names/1/2/3/4/5?timeout=6", [1, 2, 3, 4, 5, 6]),
            ("more_names/1?named=2&module=3&service=4&body=5", [1, 2, 3, 4, 5]),
            ("more_names?params=1&named=2&module=3&service=4&body=5", [1, 2, 3, 4, 5]),
        ]:
            status, _, reply = await http_call(server, f"GET /rpc/Every/{line}")
            assert (status, envelope.load(reply).get("result")) == (200, expected), reply


@pytest.mark.parametrize(
    ("method", "params", "named", "loc", "kind"),
    [
        ("rest", ["2026-01-02", "x"], {"price": 1}, [1], "date_from_datetime_parsing"),
        ("rest", ["2026-01-02"], {"price": "x"}, ["price"], "decimal_parsing"),
        ("rest", ["2026-01-02"], {"cost": 1}, ["cost"], "unexpected_keyword_argument"),
        ("rest_and_more", [1], {"x": ""}, ["k"], "missing_argument"),
        ("rest_and_more", [1], {"a": 1, "k": "2026-01-02"}, ["a"], "multiple_argument_values"),
        ("rest_and_more", [1, 2, "x"], {"k": "2026-01-02"}, [2], "int_parsing"),
        ("positional", ["2026-01-02", 1, 2, 3], {"k": 1}, [3], "unexpected_positional_argument"),
        ("positional", ["2026-01-02"], {"b": 1, "k": 1}, ["b"], "unexpected_keyword_argument"),
        ("unpacked", [1], {"price": 1}, ["day"], "missing_argument"),
        ("unpacked", [1], {"day": "x"}, ["day"], "date_from_datetime_parsing"),
        ("rest", {"price": 1}, {"price": 1}, None, None),
        ("rest", [], [1], None, None),
    ],
)
async def test_wrong_mixture_is_named(method: str, params: Any, named: Any, loc: Any, kind: str | None) -> None:
    """What is wrong stands at the position or name that the caller gave."""
    body = json.dumps({"method": method, "params": params, "named": named}).encode()
    invocation = Dispatcher(define(Every), Every()).prepare(body, b"")

    assert isinstance(invocation.error, RpcError)
    assert invocation.error.code is Code.INVALID_ARGUMENT
    if kind is not None:
        assert [(problem["loc"], problem["type"]) for problem in invocation.error.details] == [(loc, kind)]


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "body"),
    [
        ("rest", (DAY,), {}, b'{"method":"rest","params":["2026-01-02"]}'),
        ("rest", (), {"price": PRICE}, b'{"method":"rest","params":{"price":"1.50"}}'),
        ("rest", (DAY,), {"price": PRICE}, b'{"method":"rest","params":["2026-01-02"],"named":{"price":"1.50"}}'),
        ("names", (1,), {"cls": 2}, b'{"method":"names","params":{"self":1,"cls":2}}'),
    ],
)
def test_mixture_goes_by_name_where_it_can(method: str, args: Any, kwargs: Any, body: bytes) -> None:
    """A list or an object is what everybody understands: the third form is for what has no other."""
    codec = TypedCodec(define(Every), define(Every).methods[method])

    assert codec.encode(args, kwargs) == body


SIZES: Any = Field(default_factory=lambda: [20], max_length=2)


@service
class Pages:
    """Defaults that say more."""

    async def page(self, size: int = Field(default=20, ge=1)) -> int:
        return size

    async def annotated(self, size: Annotated[int, Field(ge=1)] = 20) -> int:
        return size

    async def both(self, size: Annotated[int, Field(le=30)] = Field(20, ge=1)) -> int:
        return size

    async def made(self, sizes: list[int] = SIZES) -> list[int]:
        return sizes

    async def aliased(self, page_size: int = Field(default=20, alias="pageSize", ge=1)) -> int:
        return page_size

    async def needed(self, size: int = Field(ge=1)) -> int:
        return size

    async def checked(self, size: int = Field(default="20", validate_default=True)) -> int:
        return size

    async def plain(self, size: int = -1) -> int:
        return size


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "result"),
    [
        ("page", (), {}, 20),
        ("page", (5,), {}, 5),
        ("annotated", (), {}, 20),
        ("both", (), {}, 20),
        ("made", (), {}, [20]),
        ("made", ([1, 2],), {}, [1, 2]),
        ("aliased", (), {}, 20),
        ("aliased", (), {"page_size": 5}, 5),
        ("aliased", (5,), {}, 5),
        ("needed", (5,), {}, 5),
        ("checked", (), {}, 20),
        ("plain", (), {}, -1),
        ("page", (-5,), {}, None),
        ("annotated", (-5,), {}, None),
        ("both", (0,), {}, None),
        ("both", (31,), {}, None),
        ("made", ([1, 2, 3],), {}, None),
        ("aliased", (), {"page_size": 0}, None),
        ("needed", (), {}, None),
        ("needed", (0,), {}, None),
    ],
)
async def test_field_as_default_means_what_it_means_in_a_model(
    method: str, args: Any, kwargs: Any, result: Any
) -> None:
    """Its default, its factory and its bounds count, by the class and by name; None stands for a refusal."""
    async with running(Pages) as pages:
        if result is not None:
            assert await getattr(pages, method)(*args, **kwargs) == result
        else:
            with pytest.raises(RpcError, match="INVALID_ARGUMENT"):
                await getattr(pages, method)(*args, **kwargs)


@pytest.mark.parametrize("named", [{"pageSize": 5}, {"page_size": 5}])
@pytest.mark.parametrize("params", [None, []])
def test_alias_of_a_parameter_is_another_name(named: dict[str, int], params: Any) -> None:
    """Callers in other languages may write the alias, or the name."""
    dispatcher = Dispatcher(define(Pages), Pages())
    request = {"method": "aliased", "params": named} if params is None else {"method": "aliased", "named": named}

    invocation = dispatcher.prepare(json.dumps(request).encode(), b"")

    assert (invocation.error, [*invocation.args, *invocation.kwargs.values()]) == (None, [5])


def test_tuple_of_parameters_is_refused_by_name() -> None:
    """What has no form in a call is refused with the method's name."""

    with pytest.raises(DefinitionError, match=r"Odd\.call, parameter rest: "):

        @service
        class Odd:
            async def call(self, *rest: *tuple[int, str]) -> None: ...


@service
class Collecting:
    async def bound(self, **more: int) -> dict[str, int]:
        return more

    @classmethod
    async def of_class(cls, **more: int) -> dict[str, int]:
        return more

    @staticmethod
    async def static(**more: int) -> dict[str, int]:
        return more

    async def free(self, /, *rest: int, **more: int) -> dict[str, int]:
        return more


@pytest.mark.parametrize(
    ("method", "name", "is_free"),
    [
        ("bound", "self", False),
        ("bound", "cls", True),
        ("of_class", "cls", False),
        ("of_class", "self", True),
        ("static", "self", True),
        ("static", "cls", True),
        ("free", "self", True),
    ],
)
async def test_further_parameter_named_as_the_receiver(method: str, name: str, is_free: bool) -> None:
    """Python cannot take it where `self` can be given by name: the caller is told, and how to free the name."""
    async with running_broker() as server, serving(server, Collecting):
        typed, dynamic = (
            connect(Collecting, broker=server.broker.name),
            connect("Collecting", broker=server.broker.name),
        )
        for proxy in (typed, dynamic):
            if is_free:
                assert await getattr(proxy, method)(**{name: 1, "x": 2}) == {name: 1, "x": 2}
                continue
            with pytest.raises(RpcError, match=rf"INVALID_ARGUMENT: .*own {name} has that name; a / behind it"):
                await getattr(proxy, method)(**{name: 1})
        for body in (
            envelope.request_body(method, {name: 1}),
            envelope.request_body(method, [], {name: 1}),
        ):
            status, _, _ = await http_call(server, "POST /rpc/Collecting", body)
            assert status == (200 if is_free else 400)
