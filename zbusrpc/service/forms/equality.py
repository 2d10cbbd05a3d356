"""Equality: which types come out of JSON as they went in, and how they are written so that they do.

pydantic writes what a reader can do without, and reads what fits: left alone, a model's secrets become stars, infinity
becomes null, a `datetime` beside `str` comes back as a string. Here the schema that pydantic makes of a type is
walked before it is used.

- What loses something and can be helped is changed: a field has one name (`wire_names.py`), bytes are base64 and
  infinities strings in models too, secrets are written as what they hide, computed fields are left out.
- What cannot be helped is refused in one line that names the place, the type and the way out.
- Where it depends on the value, a guard asks it as it is written (`guards.py`).
- Where it depends on functions of the user, such as a serializer of his own, what was written is read back and
  compared, which costs as much again.

A validator of the user's own may change what it validates: that is what it is for.

Pure: core schemas in, core schemas out.
"""

from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final, NoReturn

from pydantic_core import MISSING

from zbusrpc.errors import DefinitionError
from zbusrpc.service.forms import finite, guards
from zbusrpc.service.forms.core_schemas import (
    ANY,
    ARRAYS,
    OBJECTS,
    RECORDS,
    Schema,
    config_of,
    fields_of,
    function_name,
    is_byte_size,
    is_finite,
    is_known_text,
    is_secret,
    is_sequence,
    last_name,
    may_refuse,
    named_fields,
    shown,
    shown_whole,
)
from zbusrpc.service.forms.facts import facts_of, guarded
from zbusrpc.service.forms.finite import CONFIG
from zbusrpc.service.forms.unions import Judge, UndecidedError
from zbusrpc.service.forms.wire_names import read_paths, wire_name, with_wire_name

Node = dict[str, Any]
"""A core schema that is being made."""

_PYTHON_ONLY: Final = {
    "is-instance": ("an instance of a class that pydantic does not know", "make it a dataclass or a pydantic model"),
    "is-subclass": ("a class", "give its name"),
    "callable": ("a function", "give the name of what is to be done"),
    "generator": ("an iterable", "use list[...]"),
    "ellipsis": ("an ellipsis", "use None"),
    "invalid": ("a type without values", "use another one"),
}
"""What has no form in JSON, and the way out."""
_TEMPORAL: Final = frozenset({"date", "datetime", "time", "timedelta"})
_KEYS: Final = _TEMPORAL | frozenset(
    {"str", "int", "float", "bool", "decimal", "uuid", "fraction", "complex", "url", "multi-host-url", "path", "text"}
    | {"ip_v4_address_validator", "ip_v6_address_validator"}
)
"""Types whose texts, as keys of a JSON object, are read back."""
_MAPPING: Final = "GenerateSchema._mapping_schema.<locals>.<lambda>"
"""What writes a defaultdict: its dict does as well."""


class Walk:
    """One walk over the schema of a type."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.must_read_back = False
        """Whether what is written has to be read back, because functions of the user write it."""
        self.has_unions = False
        self.has_guards = False
        """With both, pydantic may write a member of a union that a guard refuses in another way."""
        self.has_json = False
        """Whether there is JSON within strings, which pydantic writes only where it is told that it will be read."""
        self.has_checks = False
        """Whether validation may refuse what serialization writes: there are bounds, or validators."""
        self._raw: dict[str, Schema] = {}
        self._walked: dict[str, Node] = {}
        self._config: Mapping[str, Any] = CONFIG
        self._is_finite = False
        self._judge = Judge(self._resolve, lambda: list(self._raw.values()))

    def run(self, schema: Schema) -> Node:
        """Return the schema to write and to read by.

        Raises:
            DefinitionError: a value could come out as another one.
        """
        walked = self._position(schema, "")
        if not self._walked:
            return walked
        return {"type": "definitions", "schema": walked, "definitions": list(self._walked.values())}

    def _refuse(self, place: str, reason: str, way_out: str) -> NoReturn:
        where = f"{self._what}, {place}" if place else self._what
        raise DefinitionError(f"{where}: {reason}; {way_out}")

    # -- the walk --------------------------------------------------------------------------------------------

    def _position(self, schema: Schema, place: str) -> Node:
        """Return the schema of a place where values stand: a parameter, a field, the items of a list."""
        if schema["type"] == "definitions":
            self._raw |= {definition["ref"]: definition for definition in schema["definitions"]}
            schema = schema["schema"]
        walked = self._walk(schema, place)
        is_strict = bool(self._config.get("strict"))
        facts = facts_of(schema, self._resolve, is_strict=is_strict, takes_infinity=self._takes_infinity)
        asked = guarded(walked, facts, place or self._what)
        self.has_guards = self.has_guards or asked is not walked
        return asked

    def _takes_infinity(self, schema: Schema) -> bool:
        return self._is_finite or self._judge.takes_infinity(schema)

    def _walk(self, schema: Schema, place: str) -> Node:
        kind = schema["type"]
        self.has_checks = self.has_checks or may_refuse(schema, self._config)
        if "serialization" in schema:
            schema, is_done = self._serialized(schema, place)
            if is_done:
                return dict(schema)
        if kind in _PYTHON_ONLY:
            reason, way_out = _PYTHON_ONLY[kind]
            self._refuse(place, f"{reason} has no form in JSON", way_out)
        walk = getattr(self, f"_walk_{kind.replace('-', '_')}", None)
        if walk is not None:
            walked: Node = walk(schema, place)
            return walked
        if "schema" in schema:  # function-after, custom-error ...
            return {**schema, "schema": self._walk(schema["schema"], place)}
        if kind in _TEMPORAL:
            self._check_temporal(schema, place)
        elif kind == "function-plain":
            self.must_read_back = True
        return dict(schema)

    def _serialized(self, schema: Schema, place: str) -> tuple[Schema, bool]:
        """Return a schema that names its own way to be written, and whether nothing below needs a look."""
        ser = schema["serialization"]
        name = function_name(ser)
        plain = {key: value for key, value in schema.items() if key != "serialization"}
        if ser["type"].startswith("include-exclude"):
            self._refuse(place, "include and exclude leave something out", "use a type that has what you want")
        if name == "ImportString._serialize":
            self._refuse(place, "an ImportString would make the other side import a module", "use str")
        if is_secret(schema):
            return self._secret(plain, place), True
        if ser["type"] == "any" or is_sequence(schema) or name == _MAPPING:
            return plain, False
        if is_known_text(schema):
            if last_name(schema) == "pattern_bytes_validator":
                self._refuse(place, "a pattern of bytes is not read back from JSON", "use Pattern[str]")
            return schema, True
        self.must_read_back = self.must_read_back or not is_byte_size(schema)
        return schema, False

    def _secret(self, schema: Schema, place: str) -> Node:
        """Return the schema of a secret that is written as what it hides."""
        inner = self._position(schema["json_schema"]["schema"], place)
        uncover = {"type": "function-plain", "function": _uncover, "info_arg": True, "return_schema": inner}
        return {**schema, "json_schema": {**schema["json_schema"], "schema": inner}, "serialization": uncover}

    def _walk_definition_ref(self, schema: Schema, place: str) -> Node:
        ref = schema["schema_ref"]
        if ref not in self._walked:
            self._walked[ref] = {}  # it is on its way
            outer = self._config, self._is_finite
            self._config, self._is_finite = CONFIG, False
            self._walked[ref] = self._walk(self._raw[ref], place)
            self._config, self._is_finite = outer
        return dict(schema)

    def _resolve(self, schema: Schema) -> Schema:
        while schema["type"] == "definition-ref":
            schema = self._raw[schema["schema_ref"]]
        return schema

    # -- containers ------------------------------------------------------------------------------------------

    def _walk_list(self, schema: Schema, place: str) -> Node:
        return {**schema, "items_schema": self._position(schema.get("items_schema", ANY), place)}

    _walk_set = _walk_frozenset = _walk_deque = _walk_list

    def _walk_tuple(self, schema: Schema, place: str) -> Node:
        return {**schema, "items_schema": [self._position(item, place) for item in schema["items_schema"]]}

    def _walk_named_tuple(self, schema: Schema, place: str) -> Node:
        name = schema["cls"].__name__
        fields = [
            {**field, "schema": self._position(field["schema"], f"{name}.{field['name']}")}
            for field in schema["fields"]
        ]
        return {**schema, "fields": fields}

    def _walk_dict(self, schema: Schema, place: str) -> Node:
        keys = self._key(schema.get("keys_schema", ANY), place)
        return {**schema, "keys_schema": keys, "values_schema": self._position(schema.get("values_schema", ANY), place)}

    _walk_frozendict = _walk_ordered_dict = _walk_counter = _walk_dict

    def _key(self, schema: Schema, place: str) -> Node:
        """Return the schema of a dict's keys, which are text in JSON."""
        atom, kind = self._judge.atom(schema), self._judge.kind(schema)
        if kind == "any":
            self.has_guards = True
            ask = {"type": "function-plain", "function": guards.text_key(place or self._what)}
            return {"type": "str", "serialization": {**ask, "return_schema": {"type": "str"}}}
        keys: Node | None = None
        if is_finite(atom):
            keys = finite.as_keys(self._walk(schema, place), atom)
        elif kind in _KEYS:
            keys = self._position(schema, place)
        if keys is None:
            self._refuse(place, f"{shown(atom)} is not read back from the text that a dict's key is in JSON", "use str")
        return keys

    def _walk_default(self, schema: Schema, place: str) -> Node:
        inner = schema["schema"]
        if inner["type"] == "missing-sentinel" and schema.get("default") is MISSING:
            return {**schema, "schema": {**inner, "schema": self._walk(inner["schema"], place)}}
        return {**schema, "schema": self._walk(inner, place)}

    def _walk_missing_sentinel(self, schema: Schema, place: str) -> Node:
        self._refuse(place, "MISSING has no form in JSON where it is not the default of a field", "use None")

    def _walk_json_or_python(self, schema: Schema, place: str) -> Node:
        return {**schema, "json_schema": self._walk(schema["json_schema"], place)}

    def _walk_lax_or_strict(self, schema: Schema, place: str) -> Node:
        lax, strict = (self._walk(schema[key], place) for key in ("lax_schema", "strict_schema"))
        return {**schema, "lax_schema": lax, "strict_schema": strict}

    def _walk_chain(self, schema: Schema, place: str) -> Node:
        return {**schema, "steps": [self._walk(step, place) for step in schema["steps"]]}

    def _walk_json(self, schema: Schema, place: str) -> Node:
        """Return the schema of JSON within a string, which in Python stands for itself."""
        self.has_json = True
        inner = schema.get("schema", ANY)
        walked = {**schema, "schema": self._position(inner, place)}
        return {"type": "json-or-python", "json_schema": walked, "python_schema": inner}

    def _walk_arguments(self, schema: Schema, place: str) -> Node:
        parameters = [
            {**item, "schema": self._position(item["schema"], f"parameter {item['name']}")}
            for item in schema["arguments_schema"]
        ]
        walked = {**schema, "arguments_schema": parameters}
        for rest in schema.keys() & {"var_args_schema", "var_kwargs_schema"}:
            walked[rest] = self._position(schema[rest], "the further parameters")
        return walked

    # -- unions ----------------------------------------------------------------------------------------------

    def _walk_nullable(self, schema: Schema, place: str) -> Node:
        if self._resolve(schema["schema"])["type"] not in {"any", "none", "literal", "union", "nullable"}:
            with suppress(UndecidedError):  # None is read first, and only a serializer of the user writes another null
                self._check_members({"type": "union", "choices": [{"type": "none"}, schema["schema"]]}, place)
        return {**schema, "schema": self._walk(schema["schema"], place)}

    def _walk_union(self, schema: Schema, place: str) -> Node:
        self._check_union(schema, place)
        self.has_unions = True
        outer, self._is_finite = self._is_finite, self._takes_infinity(schema)
        choices = [
            (self._walk(choice[0], place), choice[1]) if isinstance(choice, tuple) else self._walk(choice, place)
            for choice in schema["choices"]
        ]
        self._is_finite = outer
        return {**schema, "choices": choices}

    def _check_union(self, schema: Schema, place: str) -> None:
        try:
            self._check_members(schema, place)
        except UndecidedError:
            self.must_read_back = True

    def _check_members(self, schema: Schema, place: str) -> None:
        confused = self._judge.confusion(schema)
        if confused is None:
            return
        one, other = map(shown, confused)
        if one == other and confused[0]["type"] in ARRAYS | OBJECTS:  # it is what they hold that makes the difference
            one, other = (shown_whole(atom, self._judge.atom) for atom in confused)
        way_out = "use one of them, or fields of a model"
        if all(atom["type"] in RECORDS for atom in confused):
            way_out = "tell them apart by a Literal field that each has, and Field(discriminator=...)"
        self._refuse(place, f"JSON does not tell {one} from {other}, and a value could come out as the other", way_out)

    def _walk_tagged_union(self, schema: Schema, place: str) -> Node:
        self.has_unions = True
        walked = {**schema, "choices": {tag: self._walk(choice, place) for tag, choice in schema["choices"].items()}}
        discriminator = schema["discriminator"]
        if callable(discriminator):
            self.must_read_back = True
            return walked
        paths = [[path] if isinstance(path, str) else path for path in _listed(discriminator)]
        names = {path[0] for path in paths}
        wires = dict.fromkeys(wire for choice in schema["choices"].values() for wire in self._wires(choice, names))
        return {**walked, "discriminator": [*([wire] for wire in wires if wire not in names), *paths]}

    def _wires(self, choice: Schema, names: set[Any]) -> list[str]:
        """Return how the fields of a model are called in JSON that go by one of some names."""
        atom = self._judge.atom(choice)
        if atom["type"] not in RECORDS:
            return []
        config = config_of(atom)
        return [
            wire_name(name, field, config)
            for name, field in fields_of(atom).items()
            if name in names or any(path[0] in names for path in read_paths(name, field, config))
        ]

    # -- records ---------------------------------------------------------------------------------------------

    def _walk_model(self, schema: Schema, place: str) -> Node:
        name = str(schema.get("cls_name") or getattr(schema.get("cls"), "__name__", "a typed dict"))
        outer = self._config, self._is_finite
        self._config, self._is_finite = self._merged(config_of(schema), name), False
        walked = {**schema, "config": self._config}
        if schema.get("root_model"):
            walked["schema"] = self._position(schema["schema"], name)
        elif "schema" in schema:
            walked["schema"] = self._walk(schema["schema"], name)
            if schema["type"] == "dataclass" and len(schema["fields"]) > len(fields_of(schema)):
                self.must_read_back = True  # pydantic neither writes nor reads a field that is no parameter
        else:
            walked = self._walk_fields(walked, name)
        self._config, self._is_finite = outer
        return walked

    _walk_dataclass = _walk_typed_dict = _walk_model

    def _walk_fields(self, schema: Schema, owner: str) -> Node:
        """Return the fields of a model, dataclass or typed dict; computed ones are computed where they are wanted."""
        fields = named_fields(schema)
        wires = [wire_name(name, field, self._config) for name, field in fields.items()]
        if twice := [wire for wire in wires if wires.count(wire) > 1]:
            self._refuse(owner, f"two fields are called {twice[0]} in JSON", "give each an alias of its own")
        walked = {name: self._field(name, field, owner) for name, field in fields.items()}
        changed = {**schema, "fields": walked if isinstance(schema["fields"], dict) else list(walked.values())}
        changed.pop("computed_fields", None)
        if (schema.get("extra_behavior") or self._config.get("extra_fields_behavior")) == "allow":
            changed["extras_schema"] = self._position(schema.get("extras_schema", ANY), f"a further field of {owner}")
            self.must_read_back = self.must_read_back or schema["type"] != "model-fields"
        return changed

    _walk_model_fields = _walk_dataclass_args = _walk_fields

    def _field(self, name: str, field: Schema, owner: str) -> Node:
        place = f"{owner}.{name}"
        if field.get("serialization_exclude"):
            self._refuse(place, "exclude=True leaves it out", "leave exclude away, or the field")
        if field.get("init_only"):
            self._refuse(place, "an InitVar is not kept, so it cannot be written", "make it a field")
        if "serialization_exclude_if" in field:
            self.must_read_back = True
        return {**with_wire_name(name, field, self._config), "schema": self._position(field["schema"], place)}

    def _merged(self, config: Mapping[str, Any], owner: str) -> Node:
        """Return the configuration of a model with what keeps its values equal."""
        written, read = config.get("ser_json_bytes"), config.get("val_json_bytes")
        if written and read and written != read:
            self._refuse(owner, f"bytes are written as {written} and read as {read}", "give both the same value")
        form = written or read or CONFIG["val_json_bytes"]
        return {**config, **CONFIG, "ser_json_bytes": form, "val_json_bytes": form, "serialize_by_alias": True}

    # -- values ----------------------------------------------------------------------------------------------

    def _check_temporal(self, schema: Schema, place: str) -> None:
        as_number = self._config.get("ser_json_temporal", "iso8601") != "iso8601"
        if as_number or (schema["type"] == "timedelta" and self._config.get("ser_json_timedelta") == "float"):
            setting = "ser_json_temporal" if as_number else "ser_json_timedelta"
            self._refuse(place, f"{schema['type']} as a number ({setting}) is not exact", f"leave {setting} out")

    def _walk_literal(self, schema: Schema, place: str) -> Node:
        for value in finite.first_lost(schema):
            way_out = "give it a str or an int as its value"
            if schema["type"] == "literal" and isinstance(value, Enum):  # pydantic reads a text for one, and no number
                way_out = f"use {type(value).__name__}, or {value.value!r} in its place"
            self._refuse(place, f"{value!r} is not read back from JSON", way_out)
        return dict(schema)

    _walk_enum = _walk_literal


def _listed(discriminator: Any) -> list[Any]:
    return [discriminator] if isinstance(discriminator, str) else list(discriminator)


def _uncover(value: Any, info: Any) -> Any:
    """Return what a secret hides. It takes `info`, so that published schemas do not call it for a default."""
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value
