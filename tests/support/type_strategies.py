"""Types drawn from all that pydantic offers, each with a strategy of its values."""

import collections
import dataclasses
import enum
import ipaddress
import itertools
import math
import pathlib
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union, get_args, get_origin
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    HttpUrl,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    create_model,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

Drawn = tuple[Any, st.SearchStrategy[Any]]
"""A type, and its values."""


class Word(enum.Enum):
    YES = "yes"
    ONE = "1"
    DAY = "2024-01-01"


class Number(enum.Enum):
    ONE = 1
    HALF = 0.5


class Rank(enum.IntEnum):
    FIRST = 1
    SECOND = 2


class Colour(enum.StrEnum):
    RED = "red"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Mixed(enum.Enum):
    TRUE = True
    TEXT = "true"
    NOTHING = None


TEXTS = [
    *("", "1", "0", "true", "null", "NaN", "Infinity", "1.5", "1e5", "2024-01-01", "2024-01-01T00:00:00Z", "10:20:30"),
    *(
        "P1D",
        "00000000-0000-0000-0000-000000000001",
        "YWJj",
        "127.0.0.1",
        "::1",
        "http://a/",
        "yes",
        "red",
        "1/2",
        "1j",
    ),
]
"""Texts that look like values of other types."""
TEXT = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ZONES = st.none() | st.just(UTC) | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
INTEGERS = st.integers() | st.sampled_from([0, 1, 2**63, 2**70, -(2**70), 1704067200])
FLOATS = st.floats() | st.sampled_from([0.0, 1.0, 1e16, 1e300, math.inf, -math.inf, math.nan])
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)

KEYS: list[Drawn] = [
    (str, TEXT),
    (int, INTEGERS),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False)),
    (Decimal, DECIMALS),
    (date, st.dates()),
    (datetime, st.datetimes(timezones=ZONES)),
    (timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (Fraction, st.fractions()),
    (Word, st.sampled_from(Word)),
    (Number, st.sampled_from(Number)),
    (Rank, st.sampled_from(Rank)),
    (Literal["a", 1, True], st.sampled_from(["a", 1])),
    (ipaddress.IPv4Address, st.ip_addresses(v=4)),
    (pathlib.PurePosixPath, TEXT.map(pathlib.PurePosixPath)),
    (bytes, st.binary(max_size=8)),
    (type(None), st.none()),
    (Optional[str], st.none() | TEXT),  # noqa: UP045 - a value that a list can hold
    (tuple[int, str], st.tuples(INTEGERS, TEXT)),
    (frozenset[int], st.frozensets(INTEGERS, max_size=2)),
]
"""Types whose values can be hashed: of some no dict can have its keys in JSON."""

LEAVES: list[Drawn] = [
    *KEYS,
    (float, FLOATS),
    (complex, st.complex_numbers(allow_nan=False)),
    (time, st.times(timezones=ZONES)),
    (SecretStr, TEXT.map(SecretStr)),
    (SecretBytes, st.binary(max_size=8).map(SecretBytes)),
    (Secret[date], st.dates().map(Secret[date])),
    (Colour, st.sampled_from(Colour)),
    (Rights, st.sampled_from([Rights.READ, Rights.WRITE, Rights.READ | Rights.WRITE])),
    (Mixed, st.sampled_from(Mixed)),
    (Literal["yes", "2024-01-01", None], st.sampled_from(["yes", "2024-01-01", None])),
    (ipaddress.IPv6Network, st.ip_addresses(v=6).map(ipaddress.IPv6Network)),
    (re.Pattern[str], st.sampled_from(["a.*", "", "[0-9]+"]).map(re.compile)),
    (HttpUrl, st.sampled_from(["http://a.b/", "https://c/d?e=f"]).map(HttpUrl)),
    (AnyUrl, st.sampled_from(["x://y", "mailto:a@b"]).map(AnyUrl)),
    (ByteSize, st.integers(0, 2**70).map(ByteSize)),
    (ZoneInfo, st.sampled_from(["UTC", "Europe/Berlin"]).map(ZoneInfo)),
    (
        Any,
        st.recursive(
            st.none() | st.booleans() | INTEGERS | TEXT,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
            max_leaves=4,
        ),
    ),
]

NAMES = ["first_name", "x", "class_", "value"]
CONFIGS: list[ConfigDict] = [
    {},
    {"alias_generator": to_camel},
    {"extra": "forbid"},
    {"extra": "allow"},
    {"strict": True},
    {"frozen": True},
    {"validate_by_name": True, "validate_by_alias": False},
    {"ser_json_bytes": "hex", "val_json_bytes": "hex"},
    {"ser_json_inf_nan": "null"},
    {"serialize_by_alias": True, "populate_by_name": True},
]
ALIASES: list[dict[str, Any]] = [
    {},
    {},
    {"alias": "{}Alias"},
    {"validation_alias": "{}In"},
    {"serialization_alias": "{}Out"},
    {"validation_alias": "{}In", "serialization_alias": "{}Out"},
]
_numbers = itertools.count()


class Computing(BaseModel):
    """What the drawn models derive from: one of them computes a field, and refuses fields that it does not know."""

    @computed_field
    @property
    def computed(self) -> str:
        return "computed"


@st.composite
def records(draw: st.DrawFn, inner: st.SearchStrategy[Drawn]) -> Drawn:
    """Draw a model, a dataclass, a typed dict or a named tuple of one to three fields."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    drawn = {name: draw(inner) for name in names}
    name, values = (
        f"Drawn{next(_numbers)}",
        st.fixed_dictionaries({field: value for field, (_, value) in drawn.items()}),
    )
    kind = draw(st.sampled_from(["model", "model", "dataclass", "typed dict", "named tuple"]))
    types = {field: annotation for field, (annotation, _) in drawn.items()}
    if kind == "dataclass":
        made: Any = dataclasses.make_dataclass(name, list(types.items()))
        return made, values.map(lambda fields: made(**fields))
    if kind == "typed dict":
        return TypedDict(name, types), values  # type: ignore[operator]
    if kind == "named tuple":
        made = NamedTuple(name, list(types.items()))  # type: ignore[misc]
        return made, values.map(lambda fields: made(**fields))
    config, is_computing = draw(st.sampled_from(CONFIGS)), draw(st.booleans())
    fields: dict[str, Any] = {}
    for field, annotation in types.items():
        alias = {key: text.format(field) for key, text in draw(st.sampled_from(ALIASES)).items()}
        fields[field] = (annotation, Field(**alias))
    base = {"__base__": Computing} if is_computing else {}
    made = create_model(name, **base, **fields)
    made.model_config.update(config)
    made.model_rebuild(force=True)
    return made, values.map(lambda fields: made.model_construct(**fields))


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[Drawn]) -> Drawn:
    """Draw a list, a tuple, a dict or their like."""
    kind = draw(st.sampled_from(["list", "tuple", "pair", "dict", "deque", "set", "sequence", "mapping", "root"]))
    annotation, values = draw(inner)
    lists = st.lists(values, max_size=3)
    if kind in {"dict", "mapping"}:
        key, keys = draw(st.sampled_from(KEYS))
        dicts = st.dictionaries(keys, values, max_size=2)
        return (dict[key, annotation] if kind == "dict" else Mapping[key, annotation]), dicts
    if kind == "set":
        annotation, values = draw(st.sampled_from(KEYS))
        return set[annotation], st.sets(values, max_size=3)
    if kind == "pair":
        other, others = draw(inner)
        return tuple[annotation, other], st.tuples(values, others)
    if kind == "root":
        root = RootModel[annotation]
        return root, values.map(root.model_construct)
    return {
        "list": (list[annotation], lists),
        "sequence": (Sequence[annotation], lists),
        "tuple": (tuple[annotation, ...], lists.map(tuple)),
        "deque": (collections.deque[annotation], lists.map(collections.deque)),
    }[kind]


@st.composite
def unions(draw: st.DrawFn, inner: st.SearchStrategy[Drawn]) -> Drawn:
    """Draw a union of two or three."""
    members = draw(st.lists(inner, min_size=2, max_size=3))
    annotation = Union[tuple(member for member, _ in members)]  # noqa: UP007 - of types that are drawn
    kinds = set(get_args(annotation)) - {type(None)}
    if get_origin(annotation) is Union and len(kinds) > 1 and draw(st.integers(0, 9)) == 0:
        annotation = Annotated[annotation, Field(union_mode="left_to_right")]
    return annotation, st.one_of([values for _, values in members])


def types() -> st.SearchStrategy[Drawn]:
    """Draw a type with its values."""
    return st.recursive(
        st.sampled_from(LEAVES), lambda inner: records(inner) | containers(inner) | unions(inner), max_leaves=5
    )
