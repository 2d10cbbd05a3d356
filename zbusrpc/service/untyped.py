"""Untyped values: what is written by its runtime type, because nothing says what it is to be.

That is so for `connect("Name")` and for producers without a body type. Who reads it has the type: a tuple is a list on
the way, and a tuple again where one is annotated. Models and dataclasses are written as their class says.

Pure.
"""

import functools
from dataclasses import is_dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import from_json

from zbusrpc.errors import DefinitionError
from zbusrpc.long_integers import long_integer_in
from zbusrpc.service.forms.form import Write
from zbusrpc.service.forms.guards import NotEqualError
from zbusrpc.service.schema import value_form

CLASSES_MAX: Final = 256
"""Classes whose forms are kept: a program has a few, and one that makes classes as it goes must not fill memory."""
_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})


def plain(value: Any) -> Any:
    """Return a value with its models and dataclasses as the JSON values that they are written as, secrets uncovered.

    Raises:
        NotEqualError: a class has no form in JSON, or an instance would not be read back equal.
        pydantic_core.PydanticSerializationError: likewise.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, BaseModel) or is_dataclass(kind):
        cls: Any = kind
        return _read(kind, _writer(cls)(value))
    return plain(value.get_secret_value()) if hasattr(kind, "get_secret_value") else value


def _read(kind: type, data: bytes) -> Any:
    """Return what an instance is as a JSON value."""
    try:
        return from_json(data)
    except ValueError as error:
        raise NotEqualError(f"{kind.__name__}: {long_integer_in(data, str(error)) or error}") from None


@functools.lru_cache(maxsize=CLASSES_MAX)
def _writer(cls: type) -> Write:
    try:
        return value_form(cls, cls.__name__).writer()
    except DefinitionError as error:
        raise NotEqualError(str(error)) from None
