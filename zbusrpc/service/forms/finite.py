"""Types of few values: literals and enums, whose values can all be tried.

Pure: core schemas in, core schemas out.
"""

import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

from pydantic_core import CoreConfig, PydanticSerializationError, SchemaSerializer, SchemaValidator, ValidationError

from zbusrpc.service.forms.core_schemas import Schema

CONFIG: Final[CoreConfig] = {"ser_json_bytes": "base64", "val_json_bytes": "base64", "ser_json_inf_nan": "strings"}
"""How every type is written and read, in models too."""

_NO_FORM: Final = (PydanticSerializationError, ValidationError, ValueError, TypeError)


def values_of(schema: Schema) -> list[Any]:
    """Return all values of a literal or an enum."""
    return list(schema["expected"] if schema["type"] == "literal" else schema["members"])


def first_lost(schema: Schema) -> list[Any]:
    """Return the first value that is not read back as it was written, in a list; an empty one where all are."""
    plain: Any = {key: value for key, value in schema.items() if key != "ref"}
    read = SchemaValidator(plain, CONFIG).validate_json
    return [value for value in values_of(schema) if not _comes_back(plain, read, value)][:1]


def misread(schema: Schema, read: Callable[[bytes], Any]) -> Iterator[Any]:
    """Yield the values whose JSON another type reads as something else."""
    return (value for value, found in taken(schema, read) if type(found) is not type(value) or found != value)


def taken(schema: Schema, read: Callable[[bytes], Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the values whose JSON another type reads, each with what it is read as."""
    write = SchemaSerializer({key: value for key, value in schema.items() if key != "ref"}, CONFIG).to_json
    for value in values_of(schema):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(write(value))
        except Exception:  # a validator may raise anything
            continue
        yield value, found


def names_infinity(schema: Schema) -> bool:
    """Whether one of the values is written as an infinity is."""
    written = {value.value if isinstance(value, Enum) else value for value in values_of(schema)}
    return not written.isdisjoint({"Infinity", "-Infinity", "NaN"})


def as_keys(schema: Schema, values: Schema) -> dict[str, Any] | None:
    """Return the schema of a dict's keys that are values of a literal or an enum; None where their texts coincide.

    pydantic writes a key as text, and reads no number from it: here the text is looked up.
    """
    write: Any = SchemaSerializer({"type": "dict", "keys_schema": dict(values)}, CONFIG)
    by_text: dict[str, Any] = {}
    try:
        for value in values_of(values):
            by_text |= dict.fromkeys(write.to_python({value: None}, mode="json"), value)
    except _NO_FORM:
        return None
    if len(by_text) != len(values_of(values)):
        return None
    if all(isinstance(value.value if isinstance(value, Enum) else value, str) for value in values_of(values)):
        return dict(schema)
    look_up: Any = {"type": "no-info", "function": lambda key: by_text.get(key, key) if isinstance(key, str) else key}
    return {"type": "function-before", "function": look_up, "schema": schema}


def _comes_back(schema: Any, read: Callable[[bytes], Any], value: Any) -> bool:
    try:
        found = read(SchemaSerializer(schema, CONFIG).to_json(value))
    except _NO_FORM:
        return False
    return type(found) is type(value) and bool(found == value)
