"""The codec of a client's method: requests by the annotations, results and errors as their types."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.service.codec import DynamicCodec, TypedCodec
from zbusrpc.service.definition import define, service


@dataclass(eq=False)
class Broke(RpcError):
    code = Code.FAILED_PRECONDITION
    message = "{missing} are missing"
    missing: Decimal


@dataclass(eq=False)
class Picky(RpcError):
    code = Code.ABORTED
    value: int

    def __post_init__(self) -> None:
        raise LookupError("its other side has another version")


@service
class Shop:
    async def buy(self, what: str, count: int = 1, *, price: Decimal = Decimal(0)) -> Decimal:
        return price

    async def total(self, *values: Decimal) -> Decimal:
        return sum(values, Decimal(0))

    async def tags(self, **tags: bytes) -> list[str]:
        return list(tags)


def codec(method: str) -> TypedCodec:
    definition = define(Shop)
    return TypedCodec(definition, definition.methods[method])


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "params"),
    [
        ("buy", ("pen",), {}, ["pen"]),
        ("buy", ("pen", 2), {"price": Decimal("1.50")}, {"what": "pen", "count": 2, "price": "1.50"}),
        ("buy", (), {"what": "pen"}, {"what": "pen"}),
        ("buy", ("pen",), {"colour": b"\xff"}, {"what": "pen", "colour": "_w=="}),
        ("total", (), {}, []),
        ("total", (Decimal("0.10"), Decimal("0.20")), {}, ["0.10", "0.20"]),
        ("tags", (), {"a": b"\xff"}, {"a": "_w=="}),
    ],
)
def test_parameters_are_written_by_position_or_by_name(
    method: str, args: tuple[Any, ...], kwargs: dict[str, Any], params: Any
) -> None:
    """Parameters stand in the request as their types are written; mistakes are left to the service to explain."""
    request = envelope.parse_request(codec(method).encode(args, kwargs))

    assert (request.method, request.params) == (method, params)


@pytest.mark.parametrize(
    ("args", "kwargs"), [(("pen",), {"what": "pen"}), ((object(),), {}), (("\udcff",), {}), (("a", 1, 2), {"x": 1})]
)
def test_parameters_that_cannot_be_written_are_invalid(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What has no form in JSON, or is given twice, is INVALID_ARGUMENT before anything is sent."""
    with pytest.raises(RpcError, match=r"^INVALID_ARGUMENT: Shop\.buy"):
        codec("buy").encode(args, kwargs | ({"price": object()} if "x" in kwargs else {}))


def test_result_is_of_its_type() -> None:
    """The result is what the annotation says."""
    buy = codec("buy")
    buy.encode(("pen",), {})

    assert buy.decode(b'{"result":"1.50"}') == Decimal("1.50")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"result":"x"}', b"\xff"])
def test_unreadable_reply_is_internal(body: bytes) -> None:
    """A reply that is none, or does not fit, is INTERNAL and no other exception."""
    buy, dynamic = codec("buy"), DynamicCodec("Shop", "buy")
    buy.encode(("pen",), {})

    with pytest.raises(RpcError, match="INTERNAL"):
        buy.decode(body)
    with pytest.raises(RpcError, match="INTERNAL"):
        dynamic.decode(body if body != b'{"result":"x"}' else b"{}")


def test_declared_error_is_the_same_class_again() -> None:
    """A declared error comes back as its class with its typed fields."""
    wire = envelope.parse_error(
        envelope.error_body(Broke(Decimal("2.50")), type_name="Broke", details_json=b'{"missing":"2.50"}')
    )

    error = codec("buy").revive(wire)

    assert isinstance(error, Broke)
    assert error.missing == Decimal("2.50")
    assert str(error) == "FAILED_PRECONDITION: 2.50 are missing"


@pytest.mark.parametrize(
    ("type_name", "details"),
    [("Broke", {"other": 1}), ("Broke", None), ("Broke", {"missing": "x"}), ("Picky", {"value": 1}), ("Else", {})],
)
def test_declared_error_of_another_version_keeps_what_is_common(type_name: str, details: Any) -> None:
    """What cannot be revived is an RpcError with code, message and details."""
    wire = envelope.WireError(code=Code.ABORTED, message="m", details=details, type_name=type_name)

    error = codec("buy").revive(wire)

    assert (type(error), error.code, error.message, error.details) == (RpcError, Code.ABORTED, "m", details)


def test_dynamic_codec_takes_json_values_by_position_or_by_name() -> None:
    """Without types values are JSON, integers of any size too."""
    dynamic = DynamicCodec("Shop", "buy")

    assert envelope.load(dynamic.encode((1, "a"), {})) == {"method": "buy", "params": [1, "a"]}
    assert envelope.load(dynamic.encode((), {"a": 1})) == {"method": "buy", "params": {"a": 1}}
    assert dynamic.decode(b'{"result":1180591620717411303425}') == 2**70 + 1
    mixture = {"method": "buy", "params": [1], "named": {"a": 1}}
    assert envelope.load(dynamic.encode((1,), {"a": 1})) == mixture
    with pytest.raises(RpcError, match="INVALID_ARGUMENT"):
        dynamic.encode((object(),), {})
