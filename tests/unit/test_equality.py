"""Equality: what a client writes, a service reads equal, or it is refused in one line with the way out."""

import collections
import dataclasses
import enum
import fractions
import ipaddress
import math
import pathlib
import re
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    AnyUrl,
    Base64Bytes,
    Base64Str,
    Base64UrlBytes,
    Base64UrlStr,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    HttpUrl,
    ImportString,
    Json,
    PrivateAttr,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    computed_field,
    field_serializer,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypeAliasType, TypedDict

from tests.support.type_strategies import Rank, Rights
from zbusrpc.errors import DefinitionError
from zbusrpc.service import untyped
from zbusrpc.service.definition import define, service
from zbusrpc.service.forms.form import Form, check_type
from zbusrpc.service.forms.guards import WRITE_ERRORS, NotEqualError, alike, guard_reason
from zbusrpc.service.interface import interface_of
from zbusrpc.service.schema import value_form

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Name(enum.StrEnum):
    ANN = "ann"


class Corner(enum.Enum):
    ORIGIN = (0, 0)


class Aliased(BaseModel):
    both: int = Field(alias="theBoth")
    read: int = Field(1, validation_alias="toRead")
    write: int = Field(2, serialization_alias="toWrite")
    apart: int = Field(3, validation_alias="in", serialization_alias="out")
    choice: int = Field(4, validation_alias=AliasChoices("first", AliasPath("second", 0)))
    deep: int = Field(5, validation_alias=AliasPath("down", "there"))


class Swapped(BaseModel):
    """Each is read by the name that the other one is written by."""

    a: int = Field(validation_alias="b", serialization_alias="a")
    b: int = Field(validation_alias="a", serialization_alias="b")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    first_name: str
    born_on: date


class NamesOnly(Camel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)


class Secrets(BaseModel):
    text: SecretStr
    data: SecretBytes
    number: Secret[int]
    perhaps: SecretStr | None = None


class Numbers(BaseModel):
    ratio: float
    data: bytes = b"\xff"


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: int

    @computed_field
    @property
    def area(self) -> int:
        return self.side**2


class Point(BaseModel):
    x: int


class Twin(BaseModel):
    x: int


class Named(Point):
    name: str


class Loose(Point):
    name: str = ""


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: int = 0


class Painted(BaseModel):
    color: Color


class Dyed(BaseModel):
    color: Color


class Lettered(BaseModel):
    kind: str


class Kitten(Cat):
    age: int


class Shade(NamedTuple):
    color: Color


class Hue(NamedTuple):
    color: Color


class Renamed(BaseModel):
    kind: Literal["renamed"] = Field("renamed", serialization_alias="theKind")


class Free(BaseModel):
    value: Any = None
    table: dict[str, Any] = {}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Private(BaseModel):
    x: int = 1
    _count: int = PrivateAttr(0)
    _seen: list[int] = PrivateAttr(default_factory=list)


class ByYear(BaseModel):
    at: datetime

    @field_serializer("at")
    def write(self, value: datetime) -> str:
        return value.strftime("%Y")


class ByText(BaseModel):
    at: datetime

    @field_serializer("at")
    def write(self, value: datetime) -> str:
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    ratio: float = 1.0
    at: datetime | None = None
    numbers: set[int] = set()
    by_number: dict[int, Color] = {}


class Hex(BaseModel):
    model_config = ConfigDict(ser_json_bytes="hex")  # and nothing of how they are read

    data: bytes


class Values(BaseModel):
    model_config = ConfigDict(use_enum_values=True)

    color: Color = Color.RED


class Box(BaseModel, Generic[T]):
    value: T


class Tree(BaseModel):
    value: int
    children: "list[Tree]" = []
    by_name: "dict[str, Tree | int]" = {}


class Holder(BaseModel):
    point: SerializeAsAny[Point]


class Pair(NamedTuple):
    secret: SecretStr
    ratio: float = 1.0


class Row(TypedDict, total=False):
    number: int
    data: bytes


@dataclasses.dataclass
class Order:
    item: str
    ratio: float = math.inf
    data: bytes = b"\xfe"


@dataclasses.dataclass
class Gift(Order):
    wrapped: bool = True


@dataclasses.dataclass(eq=False)
class Identity:
    number: int


@dataclasses.dataclass
class Doubled:
    number: int
    twice: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.number


@dataclasses.dataclass
class Initial:
    number: int
    more: dataclasses.InitVar[int] = 1


JSON = TypeAliasType("JSON", "dict[str, JSON] | list[JSON] | str | int | float | bool | None")  # type: ignore[misc]

EQUAL: list[tuple[Any, list[Any]]] = [
    (Aliased, [Aliased(theBoth=9, toRead=8, write=7, **{"in": 6}, first=5, down={"there": 4})]),  # type: ignore[arg-type]
    (Swapped, [Swapped(a=1, b=2)]),
    (list[Camel], [[Camel(firstName="Ann", bornOn=date(2024, 1, 1))]]),
    (NamesOnly, [NamesOnly(first_name="Ann", born_on=date(2024, 1, 1))]),
    (Secrets, [Secrets(text="a", data=b"\xff", number=5, perhaps="b"), Secrets(text="", data=b"", number=0)]),  # type: ignore[arg-type]
    (SecretStr | int | None, [SecretStr("a"), 5, None]),
    (Numbers, [Numbers(ratio=math.inf), Numbers(ratio=-math.inf, data=b"text"), Numbers(ratio=math.nan)]),
    (Square, [Square(side=2)]),
    (Color | int | None, [Color.RED, 5, None]),
    (Level | str, [Level.LOW, "LOW", "1"]),
    (Rank | None, [Rank.FIRST, None]),
    (Rights, [Rights.READ, Rights.READ | Rights.WRITE]),
    (dict[Color, int], [{Color.RED: 1}]),
    (dict[Level, int], [{Level.LOW: 1, Level.HIGH: 2}]),
    (dict[Literal[1, 2], str], [{1: "a", 2: "b"}]),
    (dict[int, int] | None, [{1: 2}, None]),
    (dict[float, int], [{1.5: 1, math.inf: 2, 1e300: 3}]),
    (dict[bool, int], [{True: 1, False: 0}]),
    (dict[datetime, int], [{datetime(2024, 1, 1, tzinfo=UTC): 1}]),
    (dict[uuid.UUID, int], [{uuid.UUID(int=5): 1}]),
    (dict[fractions.Fraction, complex], [{fractions.Fraction(1, 3): 2j}]),
    (int | float, [1, 1.0, math.inf, 2**70]),
    (bool | int | str | float | None, [True, 1, "1", "true", 1.0, None]),
    (date | datetime | timedelta | uuid.UUID, [date(2024, 1, 1), datetime(2024, 1, 1), timedelta(1), uuid.UUID(int=1)]),
    (Decimal | int | float, [Decimal("1.50"), 1, 1.0]),
    (datetime | int, [datetime(2024, 1, 1), 1704067200]),
    (list[int] | list[str], [[1], ["1"], []]),
    (dict[str, int] | dict[str, str], [{"a": 1}, {"a": "1"}, {}]),
    (list[int] | int | dict[str, int], [[1], 1, {"a": 1}]),
    (Literal["all"] | list[str], ["all", ["all"]]),
    (Literal["a", 1] | str | int, ["a", 1, "b", 2]),
    (ipaddress.IPv4Address | ipaddress.IPv6Address, [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]),
    (Point | Named, [Point(x=1), Named(x=1, name="a")]),
    (Named | Point, [Point(x=1), Named(x=1, name="a")]),
    (Cat | Dog, [Cat(), Dog(tricks=1)]),
    (Cat | Kitten, [Cat(), Kitten(age=1)]),
    (list[Literal["a"]] | list[str], [["a"], ["b"]]),
    (tuple[Literal["a"], int] | tuple[str, int], [("a", 1), ("b", 1)]),
    (tuple[Literal["a"], int] | tuple[Literal["b"], str], [("a", 1), ("b", "1")]),
    (Point | list[Point] | str | None, [Point(x=1), [Point(x=1)], [], "x", None]),
    (Point | dict[str, list[int]], [Point(x=1), {"x": [1]}, {}]),
    (Annotated[Cat | Dog, Field(discriminator="kind")], [Cat(), Dog(tricks=2)]),
    (Annotated[Cat | Renamed, Field(discriminator="kind")], [Cat(), Renamed()]),
    (Free, [Free(value=[1, {"a": None}, "x"]), Free(value=Name.ANN), Free(table={"a": 1.5})]),
    (Open, [Open(), Open(a=1, b=["x"])]),  # type: ignore[call-arg]
    (Private, [Private()]),
    (ByText, [ByText(at=datetime(2024, 2, 1, 5))]),
    (Strict, [Strict(ratio=1.5, at=datetime(2024, 1, 1), numbers={1}, by_number={1: Color.RED})]),
    (Hex, [Hex(data=b"\xff")]),
    (Values, [Values(color=Color.GREEN)]),
    (Box[date], [Box[date](value=date(2024, 1, 1))]),
    (Tree, [Tree(value=1, children=[Tree(value=2)], by_name={"a": Tree(value=3), "b": 4})]),
    (RootModel[list[int]], [RootModel[list[int]]([1])]),
    (Holder, [Holder(point=Point(x=1))]),
    (Pair, [Pair(SecretStr("a"), math.inf)]),
    (Row, [{}, {"number": 1}, {"number": 1, "data": b"\xff"}]),
    (Order, [Order("tea"), Order("tea", 1.5, b"")]),
    (Identity, [Identity(1)]),
    (Doubled, [Doubled(1)]),
    (Sequence[int], [[1], []]),
    (Sequence[int] | str, [[1], "ab"]),
    (Mapping[str, int], [{"a": 1}]),
    (collections.OrderedDict[str, int], [collections.OrderedDict(b=1, a=2)]),
    (collections.defaultdict[str, list[int]], [collections.defaultdict(list, a=[1])]),
    (collections.Counter[str], [collections.Counter("aab")]),
    (collections.deque[Decimal], [collections.deque([Decimal("0.10")])]),
    (tuple[int, ...], [(1, 2), ()]),
    (frozenset[tuple[int, str]], [frozenset({(1, "a")})]),
    (Json[list[int]], [[1, 2]]),
    (pathlib.Path, [pathlib.Path("a/b")]),
    (re.Pattern[str], [re.compile("a.*")]),
    (HttpUrl, [HttpUrl("http://a.b/c?d=e")]),
    (ByteSize, [ByteSize(1024)]),
    (Base64Bytes, [b"abc"]),
    (JSON, [{"a": [1, 1.5, "x", None, True, {}]}]),
    (Annotated[int, BeforeValidator(int)] | str, [5, "x"]),
    (datetime, [datetime(2024, 6, 1, tzinfo=ZoneInfo("Europe/Berlin")), datetime.max, datetime.min]),
    (timedelta, [timedelta.max, timedelta.min, timedelta(microseconds=-1)]),
    (time, [time(1, 2, 3, 4), time(1, tzinfo=UTC)]),
]


def names_of_types(case: tuple[Any, Any]) -> str:
    return str(case[0]).replace("tests.unit.test_equality.", "")


@pytest.mark.parametrize("case", EQUAL, ids=names_of_types)
def test_value_comes_out_as_it_went_in(case: tuple[Any, list[Any]]) -> None:
    """The value that is read is equal to the one that was written, and of its type."""
    annotation, values = case
    form = value_form(annotation, "value")

    for value in values:
        found = form.validator.validate_json(form.writer()(value))
        assert type(found) is type(value)
        assert alike(value, found)


REFUSED: list[tuple[Any, str]] = [
    (str | datetime, "JSON does not tell str from datetime"),
    (datetime | str, "JSON does not tell datetime from str"),
    (Level | int, "JSON does not tell Level from int"),
    (Rank | int, "JSON does not tell Rank from int"),
    (Name | str, "JSON does not tell Name from str"),
    (Rights | int, "JSON does not tell Rights from int"),
    (set[int] | list[int], "JSON does not tell set from list"),
    (tuple[int, ...] | list[int], "JSON does not tell tuple from list"),
    (bytes | str, "JSON does not tell bytes from str"),
    (Decimal | str, "JSON does not tell Decimal from str"),
    (uuid.UUID | str, "JSON does not tell"),
    (timedelta | time, "JSON does not tell timedelta from time"),
    (pathlib.Path | str, "JSON does not tell"),
    (HttpUrl | str, "JSON does not tell a URL from str"),
    (SecretStr | str, "JSON does not tell"),
    (SecretStr | Literal["a"], "JSON does not tell str from"),
    (Secret[int] | Literal[1, 2] | None, "JSON does not tell int from"),
    (RootModel[int] | Literal[1], "JSON does not tell int from"),
    (Point | Twin, r"JSON does not tell Point from Twin, .*; tell them apart by a Literal field"),
    (Point | Loose, "JSON does not tell Point from Loose"),
    (Painted | Dyed, r"JSON does not tell Painted from Dyed, .*; tell them apart by a Literal field"),
    (list[Painted | Dyed], "JSON does not tell Painted from Dyed"),
    (dict[str, Painted] | dict[str, Dyed], r"JSON does not tell dict\[str, Painted\] from dict\[str, Dyed\]"),
    (Lettered | Cat, "JSON does not tell Lettered from Cat"),
    (Annotated[Lettered | Cat, Field(union_mode="left_to_right")], "JSON does not tell Cat from Lettered"),
    (Shade | Hue, "JSON does not tell Shade from Hue"),
    (tuple[Color, int] | tuple[Color, str], r"JSON does not tell tuple\[Color, str\] from tuple\[Color, int\]"),
    (tuple[Color] | list[Color], "JSON does not tell tuple from list"),
    (Point | dict[str, Any], "JSON does not tell"),
    (Point | dict[str, str], "JSON does not tell dict from Point"),
    (RootModel[int | None] | None, "JSON does not tell None from"),
    (list[set[int] | list[int]], "JSON does not tell set from list"),
    (dict[str | None, int], "a type that may be None is not read back from the text that a dict's key is"),
    (dict[int | str, int], "a union is not read back"),
    (dict[tuple[int, int], int], "tuple is not read back"),
    (dict[bytes, int], "bytes is not read back"),
    (dict[Rights, int], "Rights is not read back"),
    (list[date] | list[str], r"JSON does not tell list\[date\] from list\[str\]"),
    (dict[str, uuid.UUID] | dict[str, str], r"JSON does not tell dict\[str, UUID\] from dict\[str, str\]"),
    (Literal[Level.LOW], r"<Level.LOW: 1> is not read back from JSON; use Level, or 1 in its place"),
    (Corner, r"<Corner.ORIGIN: \(0, 0\)> is not read back from JSON"),
    (Initial, "Initial.more: an InitVar is not kept"),
    (Iterable[int], r"an iterable has no form in JSON; use list\[...\]"),
    (Callable[[], int], "a function has no form in JSON"),
    (type[int], "a class has no form in JSON"),
    (Hashable, "has no form in JSON"),
    (re.Pattern[bytes], "a pattern of bytes"),
    (ImportString[Any], "would make the other side import a module"),
]


@pytest.mark.parametrize("case", REFUSED, ids=names_of_types)
def test_type_that_could_come_out_as_another_is_refused(case: tuple[Any, str]) -> None:
    """The refusal names the place, the type and the way out, before anything is sent."""
    annotation, reason = case

    with pytest.raises(DefinitionError, match=rf"^Shop.buy, parameter what(, |: ).*{reason}") as caught:
        check_type(annotation, "Shop.buy, parameter what")

    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_model_leaves_out_or_writes_in_two_ways_is_refused() -> None:
    """Settings of fields and models that lose something are named with their field."""

    class Left(BaseModel):
        x: int = Field(1, exclude=True)

    class Same(BaseModel):
        x: int = Field(1, serialization_alias="z")
        y: int = Field(1, serialization_alias="z")

    class Seconds(BaseModel):
        model_config = ConfigDict(ser_json_timedelta="float")
        after: timedelta

    class Mixed(BaseModel):
        model_config = ConfigDict(ser_json_bytes="hex", val_json_bytes="base64")
        data: bytes

    for model, reason in {
        Left: "Left.x: exclude=True",
        Same: "Same: two fields are called z",
        Seconds: "Seconds.after: timedelta as a number",
        Mixed: "Mixed: bytes are written as hex and read as base64",
    }.items():
        with pytest.raises(DefinitionError, match=reason):
            check_type(model, "it")


def private(**attributes: Any) -> Private:
    model = Private()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def doubled_and_changed() -> Doubled:
    value = Doubled(1)
    value.twice = 5
    return value


AT_THE_CALL: list[tuple[Any, Any, str]] = [
    (Point, Named(x=1, name="a"), "value: a Named would come out as a Point"),
    (list[Point], [Named(x=1, name="a")], "a Named would come out as a Point"),
    (Point | int, Named(x=1, name="a"), "a Named would come out as a Point"),
    (Holder, Holder(point=Named(x=1, name="a")), "Holder.point: a Named would come out as a Point"),
    (Order, Gift("tea"), "a Gift would come out as an Order"),
    (date, datetime(2024, 1, 1, 5), "a datetime would come out as a date"),
    (AnyUrl, HttpUrl("http://a/"), "a HttpUrl would come out as an AnyUrl"),
    (Sequence[int], (1, 2), "a tuple would come out as a list"),
    (Sequence[str], "ab", "a str would come out as a list"),
    (Free, Free(value=datetime(2024, 1, 1)), "Free.value: a datetime is no JSON value"),
    (Free, Free(value=(1, 2)), "Free.value: a tuple is no JSON value"),
    (Free, Free(value=math.nan), "Free.value: nan is written as a string"),
    (Free, Free(value={1: 2}), "Free.value: a key of a dict under Any is text"),
    (Free | int, Free(value={1}), "Free.value: a set is no JSON value"),
    (dict[str, Any], {"a": Decimal(1)}, "a Decimal is no JSON value"),
    (dict, {1: 1}, "a key is text in JSON"),
    (list, [b"x"], "a bytes is no JSON value"),
    (Open, Open(day=date(2024, 1, 1)), "a further field of Open: a date is no JSON value"),  # type: ignore[call-arg]
    (Private, private(_count=5), "_count of Private was set"),
    (Private, private(_seen=[1]), "_seen of Private was set"),
    (ByYear, ByYear(at=datetime(2024, 2, 1)), "this ByYear would come out of JSON as another value"),
    (Values, Values(), "this Values would come out of JSON as another value"),
    (Doubled, doubled_and_changed(), "this Doubled would come out of JSON as another value"),
    (float | str, math.inf, "inf is written as a string"),
    (list[float] | list[str], [math.nan], "nan is written as a string"),
    (JSON, [math.inf], "inf is written as a string"),
    (Strict, Strict(ratio=math.inf), "Strict.ratio: inf has no number in JSON"),
    (re.Pattern[str], re.compile("a", re.IGNORECASE), "the flags of"),
    (datetime, datetime(1880, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "an offset of parts of a minute"),
    (Row, {"number": 1, "more": 2}, "key 'more' is not in the typed dict"),
]


@pytest.mark.parametrize("case", AT_THE_CALL, ids=lambda case: f"{names_of_types(case)}-{type(case[1]).__name__}")
def test_value_that_would_come_out_as_another_is_refused(case: tuple[Any, Any, str]) -> None:
    """Where the type does not tell, the value is refused as it is written, in one line with its place."""
    annotation, value, reason = case
    write = value_form(annotation, "value").writer()

    with pytest.raises(WRITE_ERRORS) as caught:
        write(value)

    assert reason in guard_reason(caught.value)
    assert "\n" not in guard_reason(caught.value)
    assert "NotEqualError" not in guard_reason(caught.value)


class Held(BaseModel):
    data: Base64Bytes


def written_result(form: Form, value: Any) -> bytes:
    """Return what a service answers with."""
    take, write = form.result_steps()
    return write(take(value))


RESULTS: list[tuple[Any, list[Any]]] = [
    (Base64Bytes, [b"abcd", b"abc", b"\xff", b""]),
    (Base64Str, ["abcd", "abc", ""]),
    (Base64UrlBytes, [b"abcd", b"\xff\xfe"]),
    (Base64UrlStr, ["abcd"]),
    (list[Base64Bytes], [[b"abcd", b"abc"], []]),
    (dict[str, Base64Bytes] | None, [{"a": b"abcd"}, None]),
    (Held, [Held.model_construct(data=b"abcd")]),
    (Secret[Base64Bytes], [Secret[Base64Bytes](b"abcd")]),
    (Json[list[int]], [[1, 2]]),
    (Json[str], ['"x"', "x", "1"]),
    (ByteSize, [ByteSize(1024)]),
    (Annotated[int, Field(ge=0)], [5]),
    (Annotated[str, BeforeValidator(str.strip)], ["x"]),
    (HttpUrl, [HttpUrl("http://a.b/c")]),
    (Annotated[str | Level, Field(union_mode="left_to_right")], [Level.LOW, "1"]),
]


@pytest.mark.parametrize("case", RESULTS, ids=names_of_types)
def test_result_comes_out_as_it_was_returned(case: tuple[Any, list[Any]]) -> None:
    """Also where validating a value is decoding it."""
    annotation, values = case
    form = value_form(annotation, "result")

    for value in values:
        found = form.validator.validate_json(written_result(form, value))
        assert type(found) is type(value)
        assert alike(value, found)


def test_result_is_what_validation_makes_of_it_once() -> None:
    """What a handler returns may be what its annotation takes; what changes each time is refused."""
    stripped = value_form(Annotated[str, BeforeValidator(str.strip)], "result")
    growing = value_form(Annotated[int, AfterValidator(lambda number: number + 1)], "result of Shop.count")
    bounded = value_form(Annotated[int, Field(ge=0)], "result")

    assert written_result(stripped, " x ") == b'"x"'
    with pytest.raises(
        NotEqualError, match=r"^result of Shop\.count: this int would come out as another value, as its val"
    ):
        written_result(growing, 1)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        written_result(bounded, -1)


def test_names_in_json_are_those_of_the_published_schema() -> None:
    """Each field has one name: it is written by it, read by it, and the schemas of both directions show it."""
    form = value_form(Aliased, "value")
    written = untyped.plain(Aliased(theBoth=1))

    for mode in ("validation", "serialization"):
        assert list(form.json_schema(mode)["properties"]) == list(written)
    assert list(written) == ["theBoth", "toRead", "toWrite", "out", "first", "deep"]


@pytest.mark.parametrize("names", [{"in": 1, "write": 2}, {"out": 1, "toWrite": 2}])
def test_other_names_are_read_as_before(names: dict[str, int]) -> None:
    """What pydantic reads a field by, it still reads it by."""
    found = value_form(Aliased, "value").validator.validate_python({"theBoth": 0, "down": {"there": 7}, **names})

    assert (found.apart, found.write, found.deep) == (1, 2, 7)


def test_published_schema_shows_no_secret() -> None:
    """The default of a secret field stays hidden in the schema that everybody may read."""

    class Login(BaseModel):
        password: SecretStr = SecretStr("hunter2")
        pin: Secret[int] = Secret[int](4711)

    @service
    class Door:
        async def enter(self, login: Login) -> Login:
            return login

    interface = interface_of(define(Door))

    assert b"password" in interface
    assert b"hunter2" not in interface
    assert b"4711" not in interface


def test_untyped_values_are_written_as_their_class_says() -> None:
    """Without a type, models and dataclasses are written by their own: by alias, with their secrets and infinities."""
    values = {
        "camel": [Camel(firstName="Ann", bornOn=date(2024, 1, 1))],
        "secret": SecretStr("a"),
        "model": Secrets(text="b", data=b"\xff", number=1),  # type: ignore[arg-type]
        "order": (Order("tea"),),
    }

    assert untyped.plain(values) == {
        "camel": [{"firstName": "Ann", "bornOn": "2024-01-01"}],
        "secret": "a",
        "model": {"text": "b", "data": "_w==", "number": 1, "perhaps": None},
        "order": [{"item": "tea", "ratio": "Infinity", "data": "_g=="}],
    }


def test_adapter_of_the_user_follows_the_same_rules() -> None:
    """A TypeAdapter as a body is read and written as its type would be."""
    from zbusrpc.mq.bodies import reader_of, writer_of

    body = TypeAdapter(list[Secrets])
    value = [Secrets(text="a", data=b"\xff", number=1)]  # type: ignore[arg-type]
    read = reader_of(body)

    assert read is not None
    assert read(writer_of(body)(value)[0]) == value
    with pytest.raises(DefinitionError, match="JSON does not tell"):
        writer_of(TypeAdapter(str | datetime))
