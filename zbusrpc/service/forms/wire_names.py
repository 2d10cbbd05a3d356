"""Wire names: what the fields of models, dataclasses and typed dicts are called in JSON.

A field has one name on the wire: its serialization alias, or else its plain validation alias, or else its own name.
It is written by that name and read by it first; the other names that pydantic would read it by are read as well.
So a field is read back however its aliases were given, and callers, services and the published schema use one name.

Pure: values of pydantic's core schemas in, names out.
"""

from collections.abc import Mapping
from typing import Any

Path = list[str | int]
"""Where a field is read: a key, and what to follow below it."""


def wire_name(name: str, field: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return what a field is called in JSON."""
    if config.get("validate_by_alias") is False:
        return name
    if alias := field.get("serialization_alias"):
        return str(alias)
    plain = [str(path[0]) for path in _aliases(field) if len(path) == 1]
    return plain[0] if plain else name


def read_paths(name: str, field: Mapping[str, Any], config: Mapping[str, Any]) -> list[Path]:
    """Return all places where a field is looked for, that of its wire name first."""
    by_alias = _aliases(field) if config.get("validate_by_alias") is not False else []
    by_name: list[Path] = [[name]] if config.get("validate_by_name") or not by_alias else []
    first: Path = [wire_name(name, field, config)]
    return [first, *(path for path in [*by_alias, *by_name] if path != first)]


def with_wire_name(name: str, field: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field that is written by its wire name, and read by that first."""
    wire, paths = wire_name(name, field, config), read_paths(name, field, config)
    renamed = {key: value for key, value in field.items() if key not in {"validation_alias", "serialization_alias"}}
    if wire != name:
        renamed["serialization_alias"] = wire
    if paths != [[name]]:
        renamed["validation_alias"] = paths if len(paths) > 1 else wire
    return renamed


def _aliases(field: Mapping[str, Any]) -> list[Path]:
    """Return the validation aliases of a field as paths; core schemas have three forms of them."""
    alias = field.get("validation_alias")
    if alias is None:
        return []
    if isinstance(alias, str):
        return [[alias]]
    return [list(path) for path in alias] if alias and isinstance(alias[0], list) else [list(alias)]
