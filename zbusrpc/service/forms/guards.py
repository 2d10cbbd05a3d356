"""Guards: what a value is asked before it is written, where its type alone does not say whether it is read back equal.

A definition tells most: what can never be read back equal is refused there (see `equality.py`). Some types take values
of which only some are, and a value shows that only when it is there: an instance of a subclass, whose further fields
would be dropped; a datetime where a date stands; what is no JSON value under `Any`; infinity beside strings. A guard
looks at such a value and refuses it in one line.

A position that takes anything of this kind gets one guard for all: a set of exact types that pass, the classes whose
subclasses do not, and a test for each exact type that needs one. That is one Python call for a value (0.1 us); types
that cannot go wrong (numbers, strings, their lists) get none.

Pure: no event loop, no clock.
"""

import cmath
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

_MARK: Final = "NotEqualError: "
_MINUTE: Final = timedelta(minutes=1)

Test = Callable[[Any], None]
"""Raises `NotEqualError`, its text a reason that follows the value's place."""
Guard = Callable[[Any], Any]
"""Returns the value that it is given, or raises `NotEqualError`."""


class NotEqualError(ValueError):
    """A value would not be read back equal."""


def guard(place: str, passes: frozenset[type], bases: tuple[type, ...], tests: Mapping[type, Test]) -> Guard:
    """Return the guard of a place.

    Args:
        place: For errors.
        passes: Exact types that need no question.
        bases: Classes whose subclasses would come out as the class.
        tests: What to ask, by exact type.
    """

    def ask(value: Any) -> Any:
        kind = type(value)
        if kind in passes:
            return value
        test = tests.get(kind)
        if test is not None:
            _ask(test, value, place)
        elif isinstance(value, bases):
            _refuse_subclass(value, bases, place)
        return value

    return ask


def guard_reason(error: Exception) -> str:
    """Return in one line why a guard refused a value; nothing where something else is wrong with it."""
    text = " ".join(str(error).split())
    if isinstance(error, NotEqualError):
        return text
    return text.rpartition(_MARK)[2] if _MARK in text else ""


@contextmanager
def noting() -> Iterator[list[NotEqualError]]:
    """Note what guards refuse: pydantic writes a union's value by another member then, and says nothing."""
    noted: list[NotEqualError] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


_noted: Final[ContextVar[list[NotEqualError] | None]] = ContextVar("_noted", default=None)


def _refuse(place: str, reason: object) -> NotEqualError:
    error = NotEqualError(f"{place}: {reason}")
    noted = _noted.get()
    if noted is not None:
        noted.append(error)
    return error


def _ask(test: Test, value: Any, place: str) -> None:
    try:
        test(value)
    except NotEqualError as error:
        raise _refuse(place, error) from None


def _refuse_subclass(value: Any, bases: Iterable[type], place: str) -> None:
    """Refuse an instance of a subclass; one of a generic model's other parametrization is the same model."""
    kind = type(value)
    if _origin(kind) in {_origin(base) for base in bases}:
        return
    base = next(base for base in bases if isinstance(value, base))
    name = "list" if base is Sequence else base.__name__  # that is what a sequence is in JSON
    raise _refuse(place, f"{_article(kind.__name__)} would come out as {_article(name)}; annotate what you give")


def _origin(kind: type) -> type:
    metadata: Any = getattr(kind, "__pydantic_generic_metadata__", None)
    return (metadata and metadata["origin"]) or kind


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


# -- tests of exact types ------------------------------------------------------------------------------------


def finite(value: float) -> None:
    """Refuse infinities and NaN, where their JSON, a string, would be read as one."""
    if not math.isfinite(value):
        raise NotEqualError(f"{value} is written as a string, and would come out as one beside strings")


def finite_in_strict_mode(value: float) -> None:
    """Refuse infinities and NaN, which strict mode does not read from the strings that JSON has for them."""
    if not math.isfinite(value):
        raise NotEqualError(f"{value} has no number in JSON, and strict mode takes no string for it")


def whole_minutes(value: datetime | time) -> None:
    """Refuse a time zone of the times before time zones: JSON has hours and minutes of an offset."""
    zone = value.tzinfo
    if zone is None or zone is UTC:
        return
    offset = value.utcoffset()
    if offset is not None and offset % _MINUTE:
        raise NotEqualError(f"{value!s} has an offset of parts of a minute, which is lost in JSON; give it in UTC")


def text_without_flags(value: re.Pattern[Any]) -> None:
    """Refuse a pattern of bytes, or one with flags: only its text is written."""
    if isinstance(value.pattern, bytes):
        raise NotEqualError(f"{value!r} would come out as a pattern of text")
    if re.compile(value.pattern).flags != value.flags:
        raise NotEqualError(f"the flags of {value!r} would be lost; write them into the pattern, as in (?i)")


def keys_among(choices: Iterable[frozenset[str]]) -> Test:
    """Return the test that a dict has no keys but those that a typed dict names."""
    alternatives = tuple(choices)

    def test(value: Mapping[str, Any]) -> None:
        keys = value.keys()
        if not any(keys <= names for names in alternatives):
            extra = sorted(map(repr, keys - frozenset().union(*alternatives))) or sorted(map(repr, keys))
            raise NotEqualError(f"key {extra[0]} is not in the typed dict, and would be lost")

    return test


def private_attributes_of(model: type[BaseModel]) -> Test:
    """Return the test that an instance's private attributes are what a fresh one has."""
    defaults: dict[str, Any] = {
        name: attribute.default if attribute.default_factory is None else attribute.default_factory()
        for name, attribute in model.__private_attributes__.items()
        if attribute.default_factory in {None, list, dict, set}  # any other may make something new each time
    }

    def test(value: BaseModel) -> None:
        private = value.__pydantic_private__ or {}
        for name, default in defaults.items():
            if name in private and private[name] != default:
                raise NotEqualError(f"{name} of {model.__name__} was set, and private attributes do not travel")

    return test


# -- any JSON value ------------------------------------------------------------------------------------------

_PLAIN: Final = frozenset({type(None), bool, int, str})


def any_guard(place: str) -> Guard:
    """Return the guard of a place where any JSON value may stand."""

    def ask(value: Any) -> Any:
        if type(value) not in _PLAIN:
            _ask(_json_value, value, place)
        return value

    return ask


def _json_value(value: Any) -> None:
    """Refuse what JSON does not give back where nothing tells the type: a list, a dict, text and numbers it does."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise NotEqualError(
                    f"a key of a dict under Any is text in JSON, and this is {key!r}; annotate the dict"
                )
            if type(item) not in _PLAIN:
                _json_value(item)
    elif isinstance(value, list):
        for item in value:
            if type(item) not in _PLAIN:
                _json_value(item)
    elif isinstance(value, float):
        finite(value)
    elif not isinstance(value, str | int):
        raise NotEqualError(
            f"{_article(type(value).__name__)} is no JSON value, so under Any it would come out as another type"
        )


def text_key(place: str) -> Guard:
    """Return the guard of a dict's keys where nothing tells their type: JSON has text."""

    def ask(key: Any) -> Any:
        if not isinstance(key, str):
            raise _refuse(place, f"a key is text in JSON, and this is {key!r}; annotate the type of the keys")
        return key

    return ask


# -- after the fact ------------------------------------------------------------------------------------------


def alike(ours: Any, theirs: Any) -> bool:
    """Say whether two values are equal: also NaN, and objects of a class that does not say what is equal."""
    kind = type(ours)
    if kind is not type(theirs):
        return bool(ours == theirs) and isinstance(ours, int | float | type(theirs))
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(alike(item, theirs[key]) for key, item in ours.items())
    return bool(ours == theirs) or _are_nan(ours, theirs) or _have_like_fields(kind, ours, theirs)


def _are_nan(ours: Any, theirs: Any) -> bool:
    return isinstance(ours, float | complex | Decimal) and bool(cmath.isnan(ours) and cmath.isnan(theirs))


def _have_like_fields(kind: Any, ours: Any, theirs: Any) -> bool:
    """Look into objects that say nothing of equality, and into those whose fields may hold NaN."""
    if issubclass(kind, BaseModel):
        if ours.__pydantic_private__ != theirs.__pydantic_private__:
            return False
    elif kind.__eq__ is not object.__eq__ and not hasattr(kind, "__dataclass_fields__"):
        return False
    fields = getattr(kind, "__dataclass_fields__", None) or getattr(ours, "__dict__", {})
    return bool(fields) and all(alike(getattr(ours, name, None), getattr(theirs, name, None)) for name in fields)


WRITE_ERRORS: Final = (PydanticSerializationError, NotEqualError)
"""What writing a value ends with, when it has no form in JSON that is read back equal."""
