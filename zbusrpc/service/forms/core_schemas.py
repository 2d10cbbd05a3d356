"""Core schemas: what one node of the schema that pydantic makes of a type says of itself.

pydantic describes a type to its core as nested dicts (pydantic_core.core_schema). Types that the core does not know,
such as paths, addresses and secrets, are told by functions of pydantic's own that read and write them.

Pure: values in, values out.
"""

import inspect
from collections.abc import Callable, Mapping
from enum import Flag
from typing import Any, Final

Schema = Mapping[str, Any]

ANY: Final[Schema] = {"type": "any"}
ARRAYS: Final = frozenset({"list", "set", "frozenset", "deque", "tuple", "named-tuple"})
OBJECTS: Final = frozenset({"dict", "frozendict", "ordered-dict", "counter"})
RECORDS: Final = frozenset({"model", "dataclass", "typed-dict"})
"""What has fields that are written by name."""

_FUNCTIONS: Final = frozenset({"function-plain", "function-wrap", "function-after", "function-before"})


def function_of(node: Schema) -> Any:
    """Return the function of a validator or a serializer; None where it has none."""
    function = node.get("function")
    if isinstance(function, Mapping):  # a validator's stands beside whether it takes an info
        function = function["function"]
    return getattr(function, "func", function)


def function_name(node: Schema) -> str:
    """Return the qualified name of a node's function."""
    function = function_of(node)
    return str(getattr(function, "__qualname__", "")) if is_of_pydantic(function) else ""


def is_of_pydantic(function: Any) -> bool:
    """Whether a function is one of pydantic's own."""
    module = str(getattr(function, "__module__", ""))
    return module == "pydantic" or module.startswith("pydantic.")


def is_known_text(schema: Schema) -> bool:
    """Whether it is a type of pydantic's own that is text by functions: a path, an address, a pattern."""
    ser = schema.get("serialization")
    if ser is None:
        return False
    if schema["type"] == "lax-or-strict":
        return last_name(ser) in {"ser_path", "ser_ip"}
    if schema["type"] not in _FUNCTIONS or not is_of_pydantic(function_of(schema)):
        return False
    return ser["type"] == "to-string" or is_of_pydantic(function_of(ser)) or is_pattern(schema)


def is_byte_size(schema: Schema) -> bool:
    """Whether it is a number of bytes, which is written by `int`."""
    return function_of(schema.get("serialization", {})) is int and is_of_pydantic(function_of(schema))


def is_pattern(schema: Schema) -> bool:
    """Whether it is a regular expression."""
    return function_name(schema).startswith("pattern_")


def is_secret(schema: Schema) -> bool:
    """Whether it is written as stars by pydantic."""
    return function_name(schema.get("serialization", {})) in {"_serialize_secret_field", "_serialize_secret"}


def is_sequence(schema: Schema) -> bool:
    """Whether it takes any kind of sequence, and reads a list."""
    return function_name(schema.get("serialization", {})) == "serialize_sequence_via_list"


def class_of_url(schema: Schema) -> set[type]:
    """Return the class of a URL; nothing where it is another type, or pydantic does not tell."""
    if last_name(schema) != "wrap_val":
        return set()
    held = inspect.getclosurevars(function_of(schema)).nonlocals
    return {value for value in held.values() if isinstance(value, type)}


def last_name(node: Schema) -> str:
    """Return the last part of the name of a node's function."""
    return function_name(node).rpartition(".")[2]


def is_finite(schema: Schema) -> bool:
    """Whether it has a few values, all of them known."""
    return schema["type"] == "literal" or (schema["type"] == "enum" and not issubclass(schema["cls"], Flag))


def fields_of(record: Schema) -> dict[str, Any]:
    """Return the fields of a model, dataclass or typed dict by name, past validators of the whole."""
    return named_fields(_inner(record))


def named_fields(inner: Schema) -> dict[str, Any]:
    """Return the fields of the schema that has them, by name."""
    fields = inner["fields"]
    return fields if isinstance(fields, dict) else {field["name"]: field for field in fields}


def _inner(record: Schema) -> Schema:
    inner = record if record["type"] == "typed-dict" else record["schema"]
    while "fields" not in inner:
        inner = inner["schema"]
    return inner


def config_of(record: Schema) -> Mapping[str, Any]:
    """Return the configuration that a model, dataclass or typed dict has of its own."""
    return record.get("config") or {}


def extra_of(record: Schema) -> str:
    """Return what becomes of fields that a record does not name: ignore, forbid or allow."""
    chosen = record.get("extra_behavior") or _inner(record).get("extra_behavior")
    return str(chosen or config_of(record).get("extra_fields_behavior") or "ignore")


def shown(schema: Schema) -> str:
    """Return what to call a type in an error."""
    kind = schema["type"]
    if "cls" in schema:
        return str(getattr(schema["cls"], "__name__", schema["cls"]))
    if kind == "literal":
        return f"Literal[{', '.join(map(repr, schema['expected']))}]"
    if is_known_text(schema):
        name = last_name(schema.get("lax_schema", schema)) or last_name(schema["serialization"])
        return {"ser_path": "a path", "wrap_val": "a URL"}.get(name, name.removesuffix("_validator").replace("_", " "))
    return str(_NAMES.get(kind) or schema.get("cls_name") or kind)


def shown_whole(schema: Schema, atom: Callable[[Schema], Schema]) -> str:
    """Return what to call an array or a dict in an error, with what it holds; `atom` unwraps a type."""
    schema = atom(schema)
    items = schema.get("items_schema", [])
    parts = [*(items if isinstance(items, list) else [items]), schema.get("keys_schema"), schema.get("values_schema")]
    held = ", ".join(shown_whole(part, atom) for part in parts if part is not None)
    return f"{shown(schema)}[{held}]" if held else shown(schema)


_BOUNDS: Final = frozenset(
    {"ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "now_op", "tz_constraint"}
    | {"max_digits", "decimal_places", "allowed_schemes", "host_required", "version", "ascii_only"}
    | {"strip_whitespace", "to_lower", "to_upper"}
)
_SETTINGS: Final = frozenset(
    {"str_min_length", "str_max_length", "str_strip_whitespace", "str_to_lower", "str_to_upper"}
)


def may_refuse(schema: Schema, config: Mapping[str, Any]) -> bool:
    """Whether what a type writes of its values may be refused as it is read, or read as another one."""
    kind = schema["type"]
    if kind == "float":
        return not schema.get("allow_inf_nan", config.get("allow_inf_nan", True)) or not _BOUNDS.isdisjoint(schema)
    if kind == "decimal":
        return not schema.get("allow_inf_nan", False) or not _BOUNDS.isdisjoint(schema)
    if kind in _FUNCTIONS:
        return not is_known_text(schema) or last_name(schema).startswith("decode")
    if kind == "union" and schema.get("mode") == "left_to_right":  # str takes the member of an enum, and makes it text
        return True
    if kind == "str" and any(config.get(setting) for setting in _SETTINGS):
        return True
    return any(schema.get(bound) is not None for bound in _BOUNDS & schema.keys())


_NAMES: Final = {
    "any": "Any",
    "none": "None",
    "decimal": "Decimal",
    "uuid": "UUID",
    "nullable": "a type that may be None",
    "union": "a union",
}
