"""The dispatcher: parameters of every kind in, results and errors out."""

import datetime as dt
import inspect
import logging
import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel, Field, field_validator

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import encode_headers
from zbusrpc.service.definition import define, rpc, service
from zbusrpc.service.dispatcher import Dispatcher, Invocation

T = TypeVar("T")
TEXT = encode_headers({"params": "text"})


Moment = tuple[dt.datetime, dt.date, dt.timedelta]


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str
    price: Decimal
    children: list["Item"] = []


class Page(BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Point:
    x: int
    y: int = 0


class Moody(BaseModel):
    value: int

    @field_validator("value")
    @classmethod
    def _fail(cls, value: int) -> int:
        raise KeyError("a validator with a mistake")


@dataclass(eq=False)
class Broke(RpcError):
    code = Code.FAILED_PRECONDITION
    message = "{missing} are missing"
    missing: Decimal


@dataclass(eq=False)
class Unwritable(RpcError):
    code = Code.ABORTED
    thing: object


@service
class Kinds:
    async def add(self, a: int, b: int = 10) -> int:
        return a + b

    async def maybe(self, a: int | None = None) -> int | None:
        return a

    async def model(self, item: Item) -> Item:
        return item

    async def point(self, point: Point) -> Point:
        return point

    async def color(self, color: Color) -> Color:
        return color

    async def moment(
        self, at: dt.datetime, day: dt.date, span: dt.timedelta
    ) -> tuple[dt.datetime, dt.date, dt.timedelta]:
        return at, day, span

    async def exact(self, amount: Decimal) -> Decimal:
        return amount

    async def unique(self, key: uuid.UUID) -> uuid.UUID:
        return key

    async def raw(self, data: bytes) -> bytes:
        return data

    async def page(self, page: Page[int]) -> Page[int]:
        return page

    async def either(self, value: int | str | list[Point]) -> int | str | list[Point]:
        return value

    async def many(self, *values: int) -> list[int]:
        return list(values)

    async def options(self, **values: float) -> dict[str, float]:
        return values

    async def keyword(self, a: int, *, sign: Literal["+", "-"] = "+") -> str:
        return f"{sign}{a}"

    async def positional(self, a: int, b: int = 2, /) -> int:
        return a + b

    async def number(self, x: float) -> float:
        return x

    async def bounded(self, n: Annotated[int, Field(ge=1, le=9)]) -> int:
        return n

    async def anything(self, value: Any) -> Any:
        return value

    async def nothing(self) -> None:
        return None

    async def params(self, params: int) -> int:
        return params

    async def moody(self, moody: Moody) -> None:
        return None

    async def wrong(self) -> int:
        return "no number"  # type: ignore[return-value]

    async def text(self) -> str:
        return "lone \udcff surrogate"

    async def item_wrong(self) -> Item:
        return {"name": 1}  # type: ignore[return-value]

    @rpc(name="renamed")
    async def attribute(self) -> int:
        return 1


dispatcher = Dispatcher(define(Kinds), Kinds())


async def run(invocation: Invocation) -> bytes:
    """Answer as a worker does."""
    try:
        if invocation.error is not None:
            raise invocation.error
        assert invocation.bound is not None
        value = await invocation.bound.function(*invocation.args, **invocation.kwargs)
        return dispatcher.result_body(invocation, value)
    except Exception as error:
        return dispatcher.error_body(invocation, error)


async def call(method: str, params: Any, headers: bytes = b"") -> Any:
    """Return the result, or the error as it would reach a caller."""
    body = envelope.load(await run(dispatcher.prepare(envelope.request_body(method, params), headers)))
    return body["result"] if "result" in body else body["error"]


KEY = "12345678-1234-5678-1234-567812345678"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("add", [1, 2], 3),
        ("add", [1], 11),
        ("add", {"a": 1, "b": 2}, 3),
        ("add", {"a": 1}, 11),
        ("add", [2**70, 1], 2**70 + 1),
        ("add", ["1", 2.0], 3),
        ("maybe", [], None),
        ("maybe", [None], None),
        ("maybe", {"a": 5}, 5),
        (
            "model",
            [{"name": "a", "price": "1.10", "children": [{"name": "b", "price": 2}]}],
            {
                "name": "a",
                "price": "1.10",
                "children": [{"name": "b", "price": "2", "children": []}],
            },
        ),
        ("point", [{"x": 1}], {"x": 1, "y": 0}),
        ("color", ["blue"], "blue"),
        (
            "moment",
            ["2026-01-02T03:04:05Z", "2026-01-02", "PT90S"],
            ["2026-01-02T03:04:05Z", "2026-01-02", "PT1M30S"],
        ),
        ("exact", ["0.10000000000000000000001"], "0.10000000000000000000001"),
        ("unique", [KEY], KEY),
        ("raw", ["_wA="], "_wA="),
        ("raw", ["/wA="], "_wA="),
        ("page", [{"items": [1, "2"]}], {"items": [1, 2]}),
        ("either", [1], 1),
        ("either", ["1"], "1"),
        ("either", [[{"x": 1}]], [{"x": 1, "y": 0}]),
        ("many", [], []),
        ("many", [1, 2, 3], [1, 2, 3]),
        ("options", {"a": 1, "b": 2.5}, {"a": 1.0, "b": 2.5}),
        ("keyword", {"a": 1, "sign": "-"}, "-1"),
        ("keyword", [1], "+1"),
        ("positional", [1], 3),
        ("number", ["NaN"], "NaN"),
        ("number", [math.inf], "Infinity"),
        ("anything", [{"a": [1, None, 2**65]}], {"a": [1, None, 2**65]}),
        ("nothing", [], None),
        ("renamed", [], 1),
    ],
)
async def test_parameters_are_converted_by_their_annotations(method: str, params: Any, result: Any) -> None:
    """Each kind of parameter comes to the handler as its type, and the result goes out as JSON."""
    assert await call(method, params) == result


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "params", "loc", "kind"),
    [
        ("add", [], ["a"], "missing_argument"),
        ("add", [1, 2, 3], [2], "unexpected_positional_argument"),
        ("add", {"a": 1, "c": 2}, ["c"], "unexpected_keyword_argument"),
        ("add", ["x"], [0], "int_parsing"),
        ("add", {"a": 1.5}, ["a"], "int_from_float"),
        ("model", [{"name": "a"}], [0, "price"], "missing"),
        ("color", ["green"], [0], "enum"),
        ("unique", ["x"], [0], "uuid_parsing"),
        ("bounded", [10], [0], "less_than_equal"),
        ("many", [1, "x"], [1], "int_parsing"),
        ("options", {"a": "x"}, ["a"], "float_parsing"),
        ("keyword", [1, "-"], [1], "unexpected_positional_argument"),
        ("positional", {"a": 1}, None, None),
        ("params", {"params": "x"}, ["params"], "int_parsing"),
    ],
)
async def test_wrong_parameters_are_invalid_arguments(method: str, params: Any, loc: Any, kind: str | None) -> None:
    """INVALID_ARGUMENT names place, reason and kind of each mistake."""
    error = await call(method, params)

    assert error["code"] == "INVALID_ARGUMENT"
    assert error["message"].startswith(f"Kinds.{method}: ")
    for problem in error["details"]:
        assert problem.keys() == {"loc", "msg", "type"}
    assert kind is None or (loc, kind) in [(problem["loc"], problem["type"]) for problem in error["details"]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("add", ["1", "2"], 3),
        ("add", {"a": str(2**70), "b": "1"}, 2**70 + 1),
        ("maybe", ["null"], None),
        ("point", ['{"x": 1}'], {"x": 1, "y": 0}),
        ("page", ['{"items": [1180591620717411303425]}'], {"items": [2**70 + 1]}),
        ("either", ["5"], "5"),
        ("options", {"a": "1.5"}, {"a": 1.5}),
        ("many", ["1", "2"], [1, 2]),
        ("anything", ["1"], "1"),
    ],
)
async def test_typed_text_becomes_what_the_types_say(method: str, params: Any, result: Any) -> None:
    """Values that a person typed are converted as text first and, where that does not fit, as JSON."""
    assert await call(method, params, TEXT) == result


@pytest.mark.anyio
async def test_typed_text_that_fits_nothing_is_an_invalid_argument() -> None:
    """The first reason is the one that is told."""
    error = await call("add", ["one", "{}"], TEXT)

    assert [problem["type"] for problem in error["details"]] == ["int_parsing", "int_parsing"]


@pytest.mark.anyio
async def test_unknown_method_is_unimplemented_with_the_nearest() -> None:
    """A typo finds the method; something else the list of them."""
    assert "did you mean maybe?" in (await call("mayby", []))["message"]
    other = await call("zzzzzzz", [])
    assert other["code"] == "UNIMPLEMENTED"
    assert "it has add, anything, " in other["message"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"method":"add","params":[1,2],"module":"Other"}',
        b'{"method":5}',
        b'{"method":"add","params":7}',
        b"\xff",
        b'{"params":[]}',
    ],
)
async def test_body_that_is_no_request_is_an_invalid_argument(body: bytes) -> None:
    """Nothing that a peer can send is more than an error of its own."""
    answer = envelope.load(await run(dispatcher.prepare(body, b"")))

    assert answer["error"]["code"] == "INVALID_ARGUMENT"


@pytest.mark.anyio
@pytest.mark.parametrize("module", [b'"Kinds"', b'""', b"null"])
async def test_module_may_name_the_service(module: bytes) -> None:
    """zbus clients name the module; ours is the service."""
    body = b'{"module":%b,"method":"add","params":[1,2]}' % module

    assert await run(dispatcher.prepare(body, b"")) == b'{"result":3}'


@pytest.mark.anyio
async def test_jsonrpc_request_is_answered_in_jsonrpc() -> None:
    """Results and errors take the form of JSON-RPC 2.0, with the id and without loss in integers."""
    good = b'{"jsonrpc":"2.0","id":1180591620717411303425,"method":"add","params":[1180591620717411303424,1]}'
    bad = b'{"jsonrpc":"2.0","id":"x","method":"add","params":["?"]}'

    answer = envelope.load(await run(dispatcher.prepare(good, b"")))
    refusal = envelope.load(await run(dispatcher.prepare(bad, b"")))

    assert answer == {"jsonrpc": "2.0", "result": 2**70 + 1, "id": 2**70 + 1}
    assert (refusal["id"], refusal["error"]["code"]) == ("x", -32602)
    assert refusal["error"]["data"]["code"] == "INVALID_ARGUMENT"


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["wrong", "item_wrong", "text"])
async def test_result_that_does_not_fit_is_internal(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets INTERNAL, and the log says what was wrong."""
    error = await call(method, [])

    assert error["code"] == "INTERNAL"
    assert "returned something that is not" in error["message"]
    assert "service.result_misfit" in caplog.text


@pytest.mark.anyio
async def test_validator_with_a_mistake_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    """A model whose validator fails in its own way is a fault of the service, and the call is still answered."""
    error = await call("moody", [{"value": 1}])

    assert (error["code"], "KeyError" in caplog.text) == ("INTERNAL", True)


def answer_to(error: Exception, *, dev: bool = False) -> Any:
    some = Dispatcher(define(Kinds), Kinds(), dev=dev)
    return envelope.load(some.error_body(some.prepare(b'{"method":"add","params":[1]}', b""), error))["error"]


def test_declared_error_travels_with_its_class_and_fields() -> None:
    """Code, message, class and typed fields are on the wire."""
    assert answer_to(Broke(Decimal("2.50"))) == {
        "code": "FAILED_PRECONDITION",
        "message": "2.50 are missing",
        "type": "Broke",
        "details": {"missing": "2.50"},
    }


def test_unexpected_error_is_internal_without_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The caller learns nothing of the inside; the log has the traceback once."""
    assert answer_to(ValueError("secret")) == {
        "code": "INTERNAL",
        "message": "Kinds.add failed; the service's log says why",
    }
    assert caplog.text.count("secret") == 1


def test_unexpected_error_shows_its_traceback_in_dev_mode() -> None:
    """In dev mode the caller gets the traceback."""
    error = answer_to(ValueError("secret"), dev=True)

    assert error["message"] == "Kinds.add: ValueError: secret"
    assert "ValueError: secret" in error["details"]["traceback"]


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot say")


@pytest.mark.parametrize(
    "error",
    [
        RpcError(Code.NOT_FOUND, "file \udcff"),
        RpcError(Code.NOT_FOUND, "x", object()),
        Unwritable(object()),
        ValueError("\udcff"),
        BadText(),
    ],
)
@pytest.mark.parametrize("dev", [False, True])
def test_error_that_cannot_be_written_is_still_answered(
    error: Exception, dev: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error whose text or fields have no form in JSON is INTERNAL: a call is never left without an answer."""
    monkeypatch.setattr(logging.getLogger("zbusrpc.service"), "disabled", True)  # xdist cannot carry surrogates

    assert answer_to(error, dev=dev)["code"] in {"INTERNAL", "NOT_FOUND"}


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [b'{"params":', b'{"params":1}', b'["params"]'])
async def test_unreadable_headers_are_an_invalid_argument(headers: bytes) -> None:
    """Headers that break the protocol hurt their own call only."""
    assert (await call("add", [1, 2], headers))["code"] == "INVALID_ARGUMENT"


def test_every_method_of_the_service_was_called() -> None:
    """The service above has no method that its tests forgot."""
    source = inspect.getsource(inspect.getmodule(run))  # type: ignore[arg-type]
    assert all(f'"{name}"' in source for name in define(Kinds).methods)


@pytest.mark.anyio
async def test_method_name_that_is_none_is_refused_before_it_is_compared() -> None:
    """Sixteen MiB of letters cost the service no more than their reading, and do not come back in the answer."""
    error = await call("x" * 16 * 1024 * 1024, [])

    assert error["code"] == "INVALID_ARGUMENT"
    assert error["message"] == "a method's name has 255 letters at most, not 16777216"


@pytest.mark.anyio
async def test_very_many_wrong_arguments_are_counted_and_not_told() -> None:
    """Looking at each of a million would keep the service busy for a minute."""
    error = await call("add", ["x"] * 100_000)

    assert error["message"].endswith(" things are wrong with its arguments")
    assert error["details"] == []
