"""Unions: whether the members of one can be told apart in JSON, whatever their values are.

pydantic tries each member on a JSON value and keeps the one that fits best: first by how many fields it sets, then by
how exactly it fits, then the first in order. So a value comes back as its own member when every other member refuses
its JSON, or fits it worse. What is known here is an upper bound of how well a member fits what another one writes,
and a lower bound of how well it fits its own; where that does not decide, the union is refused.

    EXACT     integers by int, lists by list, literals
    STRICT    text by str, and by all types that are written as text: they tie, and order decides what they are
    LAX       "1" by int, enums by their value
    NO        not at all

The levels are those of pydantic-core, found by trial; tests/property/test_equality.py holds them against it.

Pure: values of pydantic's core schemas in, a verdict out.
"""

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any, Final

from pydantic_core import SchemaValidator

from zbusrpc.service.forms.core_schemas import (
    ANY,
    ARRAYS,
    OBJECTS,
    RECORDS,
    Schema,
    config_of,
    extra_of,
    fields_of,
    function_of,
    is_byte_size,
    is_finite,
    is_known_text,
    is_of_pydantic,
    is_secret,
    last_name,
)
from zbusrpc.service.forms.finite import CONFIG, misread, names_infinity, taken
from zbusrpc.service.forms.wire_names import read_paths, wire_name

Resolve = Callable[[Schema], Schema]
"""Follows a reference to a definition."""

NO, LAX, STRICT, EXACT = range(4)

_NUMBERS: Final = {"none": "null", "bool": "bool", "int": "int", "float": "float"}
_CALENDAR: Final = frozenset({"date", "datetime"})
_TEXTS: Final = {
    "str": STRICT,
    "bytes": STRICT,
    "decimal": STRICT,
    "date": STRICT,
    "datetime": STRICT,
    "time": STRICT,
    "timedelta": STRICT,
    "uuid": EXACT,
    "complex": STRICT,
    "fraction": STRICT,
    "url": LAX,
    "multi-host-url": LAX,
    "path": STRICT,
    "ip_v4_address_validator": STRICT,
    "ip_v6_address_validator": STRICT,
    "text": LAX,
}
"""What is written as text, and how well it fits its own. `text` is any other type of pydantic's."""

_FROM_NUMBERS: Final = _TEXTS.keys() - {"str", "bytes", "date", "datetime", "time", "timedelta", "uuid"} | {"float"}
"""Types that take a number for one of their values as well as its text."""
_SCALARS: Final = _NUMBERS.keys() | _TEXTS.keys() | {"enum"}
_APART: Final = frozenset(
    frozenset(pair)
    for pair in [
        ("date", "datetime"),
        ("date", "time"),
        ("datetime", "time"),
        ("date", "timedelta"),
        ("datetime", "timedelta"),
        *(("uuid", kind) for kind in ("date", "datetime", "time", "timedelta")),
        ("ip_v4_address_validator", "ip_v6_address_validator"),
    ]
)
"""Text types that never take each other's text for their own."""
_NEVER_NUMBERS: Final = frozenset(
    {"date", "datetime", "time", "uuid", "timedelta", "url", "ip_v4_address_validator", "ip_v6_address_validator"}
)
_INFINITE: Final = frozenset({"str", "bytes", "complex", "path", "text", "any"})
"""Types that may take "Infinity" or "NaN"."""

_OWN_ARRAYS: Final = dict.fromkeys(ARRAYS, STRICT) | {"list": EXACT}
_HIDDEN: Final = "zbusrpc_hidden"
_WRAPPERS: Final = frozenset({"default", "custom-error", "function-after"})


class UndecidedError(Exception):
    """A user's own function reads or writes a member: nobody can tell what it takes."""


class Judge:
    """Judges the unions of one schema."""

    def __init__(self, resolve: Resolve, definitions: Callable[[], list[Any]]) -> None:
        self._resolve = resolve
        self._definitions = definitions
        self._open: set[tuple[int, int]] = set()
        self._wholes = 0
        """Around what is compared stand so many pairs of two types: of those, equal parts make no equal values."""
        self._known_hidden: dict[int, tuple[Schema, Schema]] = {}

    def confusion(self, union: Schema) -> tuple[Schema, Schema] | None:
        """Return two members of which one may be read as the other; None where that cannot be.

        Raises:
            UndecidedError: it depends on functions of the user.
        """
        members = list(self.members(union))
        others = [member for member in members if member["type"] != "none"]
        if len(others) > 1 and (greedy := [member for member in others if _writes_anything(member)]):
            return greedy[0], next(member for member in others if member is not greedy[0])
        in_order = union.get("mode") == "left_to_right"
        undecided: UndecidedError | None = None
        for (i, writer), (j, reader) in permutations(enumerate(members), 2):
            if in_order and i < j:
                continue
            try:
                level = self._fit(writer, reader)
            except UndecidedError as error:
                undecided = error
                continue
            if level is not NO and (in_order or level >= self._own(writer)):
                return writer, reader
        if undecided is not None:
            raise undecided
        return None

    def takes_infinity(self, schema: Schema) -> bool:
        """Whether the text of an infinity, which stands for a float, may be read as something else."""
        key = (id(schema), -1)
        if key in self._open:
            return False
        self._open.add(key)
        try:
            return any(map(self._takes_infinity, self.members(schema)))
        finally:
            self._open.discard(key)

    def _takes_infinity(self, atom: Schema) -> bool:
        kind = self.kind(atom)
        if kind in ARRAYS or kind in OBJECTS:
            return any(map(self.takes_infinity, _items(atom)))
        return kind in _INFINITE or (is_finite(atom) and names_infinity(atom))

    # -- shape -----------------------------------------------------------------------------------------------

    def members(self, schema: Schema) -> Iterator[Schema]:
        """Yield what a position may hold, unions within unions laid open."""
        atom = self.atom(schema)
        if atom["type"] == "nullable":
            yield {"type": "none"}
            yield from self.members(atom["schema"])
        elif atom["type"] == "union":
            for choice in atom["choices"]:
                yield from self.members(choice[0] if isinstance(choice, tuple) else choice)
        elif atom["type"] == "tagged-union":
            for choice in atom["choices"].values():
                yield from self.members(choice)
        else:
            yield atom

    def atom(self, schema: Schema) -> Schema:
        """Return what is read in JSON, without what is wrapped around it."""
        is_hidden = False
        while True:
            schema = self._resolve(schema)
            kind = schema["type"]
            is_hidden = is_hidden or is_secret(schema) or bool(schema.get("root_model"))
            if is_known_text(schema) or is_byte_size(schema):
                return schema
            if kind in _WRAPPERS:
                schema = schema["schema"]
            elif kind == "json-or-python":
                schema = schema["json_schema"]
            elif kind == "lax-or-strict":
                schema = schema["lax_schema"]
            elif (kind == "function-wrap" and is_of_pydantic(function_of(schema))) or (
                kind == "model" and schema.get("root_model")
            ):
                schema = schema["schema"]
            else:
                return self._hidden(schema) if is_hidden else schema

    def _hidden(self, atom: Schema) -> Schema:
        """Return an atom that stands in a secret or a root model, and is not equal to one that does not."""
        known = self._known_hidden.get(id(atom))
        if known is None:
            metadata = {**(atom.get("metadata") or {}), _HIDDEN: True}
            known = self._known_hidden[id(atom)] = (atom, {**atom, "metadata": metadata})
        return known[1]

    def kind(self, schema: Schema) -> str:
        """Return the name that the tables know an atom by."""
        atom = self.atom(schema)
        if not is_known_text(atom):
            return str(atom["type"])
        name = last_name(atom.get("lax_schema", atom))
        if name in _TEXTS:
            return name
        return "path" if last_name(atom["serialization"]) == "ser_path" else "text"

    # -- how well a member fits ------------------------------------------------------------------------------

    def _own(self, schema: Schema) -> int:
        """Return how well, at the least, a type fits what it has written."""
        key = (id(schema), 0)
        if key in self._open:
            return EXACT
        self._open.add(key)
        try:
            return min(self._own_of_atom(atom) for atom in self.members(schema))
        finally:
            self._open.discard(key)

    def _own_of_atom(self, atom: Schema) -> int:
        kind = self.kind(atom)
        if kind in _NUMBERS or kind == "literal":
            return EXACT
        if kind in _TEXTS:
            return _TEXTS[kind]
        if kind in ARRAYS:
            return min([_OWN_ARRAYS[kind], *(self._own(item) for item in _items(atom))])
        if kind in OBJECTS:
            keys = {"str": STRICT, "uuid": EXACT}.get(self.kind(atom.get("keys_schema", ANY)), LAX)
            return min(keys, STRICT, self._own(atom.get("values_schema", ANY)))
        return STRICT if kind == "any" else LAX

    def _fit(self, writer: Schema, reader: Schema) -> int:
        """Return how well, at the most, a type fits what another one has written."""
        key = (id(writer), id(reader))
        if key in self._open:
            return EXACT
        self._open.add(key)
        try:
            return max(self._fit_of_atoms(w, r) for w in self.members(writer) for r in self.members(reader))
        finally:
            self._open.discard(key)

    def _fit_of_atoms(self, writer: Schema, reader: Schema) -> int:
        ours, theirs = self.kind(writer), self.kind(reader)
        if "any" in {ours, theirs}:
            return STRICT if theirs == "any" else EXACT
        if is_finite(writer) or is_finite(reader):
            return self._fit_of_values(writer, reader)
        if ours in ARRAYS or ours in OBJECTS or ours in RECORDS:
            are_two = ours != theirs or ours == "named-tuple" or ours in RECORDS
            self._wholes += are_two
            try:
                return (self._fit_of_arrays if ours in ARRAYS else self._fit_of_objects)(writer, reader)
            finally:
                self._wholes -= are_two
        return self._fit_of_text(ours, theirs) if ours in _TEXTS else self._fit_of_number(ours, theirs)

    def _fit_of_number(self, ours: str, theirs: str) -> int:
        if ours not in _NUMBERS and ours != "enum":  # flags are integers
            return _undecided({"type": ours})
        if theirs in ARRAYS or theirs in OBJECTS or theirs in RECORDS:
            return NO
        if theirs not in _NUMBERS and theirs not in _TEXTS:
            return LAX if theirs == "enum" else _undecided({"type": theirs})
        if "none" in {ours, theirs}:
            return EXACT if ours == theirs else NO
        if theirs in {"str", "bytes"}:
            return NO
        return EXACT if ours == theirs else STRICT if theirs in _FROM_NUMBERS else LAX

    def _fit_of_text(self, ours: str, theirs: str) -> int:
        if theirs in _NUMBERS:
            return NO if theirs == "none" or ours in _NEVER_NUMBERS else LAX
        if theirs in _TEXTS:
            return NO if frozenset({ours, theirs}) in _APART else EXACT
        if theirs in ARRAYS or theirs in OBJECTS or theirs in RECORDS:
            return NO
        return LAX if theirs == "enum" else _undecided({"type": theirs})

    def _fit_of_arrays(self, writer: Schema, reader: Schema) -> int:
        ours, theirs = self.kind(writer), self.kind(reader)
        if theirs not in ARRAYS:
            return NO if theirs in _SCALARS or theirs in OBJECTS or theirs in RECORDS else _undecided(reader)
        mine, other = _length(writer), _length(reader)
        if mine is not None and other is not None:
            if mine != other:
                return NO
            return self._fit_of_items(list(zip(_items(writer), _items(reader), strict=True)), _OWN_ARRAYS[theirs])
        if not mine and not other and ours != theirs:
            return EXACT  # both may be empty, and [] is read as either
        fits = [self._fit(w, r) for w in _items(writer) for r in _items(reader)]
        return min(_OWN_ARRAYS[theirs], max(fits, default=EXACT))

    def _fit_of_items(self, pairs: list[tuple[Schema, Schema]], whole: int) -> int:
        """Return how well one item after the other fits; arrays whose items are all equal are equal."""
        if not self._wholes and all(w == r or self._fit(w, r) is NO for w, r in pairs):
            return NO
        self._wholes += 1
        try:
            return min([whole, *(self._fit(w, r) for w, r in pairs)])
        finally:
            self._wholes -= 1

    def _fit_of_objects(self, writer: Schema, reader: Schema) -> int:
        theirs = self.kind(reader)
        if theirs in _SCALARS or (theirs in ARRAYS and theirs != "named-tuple"):
            return NO
        if theirs not in OBJECTS and theirs not in RECORDS:
            return _undecided(reader)
        if config_of(reader).get("coerce_numbers_to_str"):
            return EXACT  # then its strings take numbers
        return self._fit_of_record(writer, reader) if writer["type"] in RECORDS else self._fit_of_dict(writer, reader)

    def _fit_of_dict(self, writer: Schema, reader: Schema) -> int:
        values = writer.get("values_schema", ANY)
        if reader["type"] in RECORDS:  # a dict's values are all of one type, and a field that is required may take none
            needed = [field["schema"] for _, field, required in self._fields(reader) if required]
            return NO if any(self._fit(values, field) is NO for field in needed) else EXACT
        if writer["type"] != reader["type"]:
            return EXACT  # both may be empty, and {} is read as either
        return min(STRICT, self._fit(values, reader.get("values_schema", ANY)))

    def _fit_of_record(self, writer: Schema, reader: Schema) -> int:
        written = {wire_name(name, field, config_of(writer)): field for name, field, _ in self._fields(writer)}
        always = {name: field for name, field in written.items() if _is_always_written(writer, field)}
        if self.kind(reader) in OBJECTS:
            values = reader.get("values_schema", ANY)
            return NO if any(self._fit(field["schema"], values) is NO for field in always.values()) else EXACT
        is_open = extra_of(writer) == "allow"
        read: dict[str, Any] = {}
        for name, field, required in self._fields(reader):
            keys = [str(path[0]) for path in read_paths(name, field, config_of(reader))]
            if required and not is_open and not any(key in written for key in keys):
                return NO
            if keys[0] in always and self._fit(always[keys[0]]["schema"], field["schema"]) is NO:
                return NO
            read |= dict.fromkeys(keys, field)
        if extra_of(reader) == "forbid" and always.keys() - read.keys():
            return NO
        more = always.keys() - read.keys()
        same = all(_is_plain_and_equal(field, read[key]) for key, field in written.items() if key in read)
        return NO if more and same and not is_open and extra_of(reader) == "ignore" else EXACT

    def _fields(self, record: Schema) -> list[tuple[str, Schema, bool]]:
        """Return name, field and whether it is required, of a model, dataclass or typed dict."""
        total = record.get("total", True)
        return [
            (
                name,
                field,
                field.get("required", total) if field["type"] == "typed-dict-field" else not _has_default(field),
            )
            for name, field in fields_of(record).items()
        ]

    # -- literals and enums ----------------------------------------------------------------------------------

    def _fit_of_values(self, writer: Schema, reader: Schema) -> int:
        """Try each of a finite type's values: they are few."""
        few, other = (writer, reader) if is_finite(writer) else (reader, writer)
        whole: Any = {"type": "definitions", "schema": other, "definitions": self._definitions()}
        are_two = any(_HIDDEN in (atom.get("metadata") or {}) for atom in (writer, reader))
        confused = taken if self._wholes or are_two else misread
        if any(True for _ in confused(few, SchemaValidator(whole, CONFIG).validate_json)):
            return LAX if reader["type"] == "enum" else EXACT
        return LAX if reader["type"] == "enum" and not is_finite(writer) else NO


def _writes_anything(schema: Schema) -> bool:
    """Whether it writes the values of other types as well, so that pydantic takes it for the member that they are."""
    if is_byte_size(schema):
        return True
    return is_known_text(schema) and last_name(schema["serialization"]) not in {"ser_path", "ser_ip", "serialize_url"}


def _undecided(schema: Schema) -> int:
    raise UndecidedError(schema["type"])


def _has_default(field: Schema) -> bool:
    return field["schema"]["type"] == "default" or field.get("init") is False


def _is_always_written(record: Schema, field: Schema) -> bool:
    if "serialization_exclude_if" in field:
        return False
    return bool(field.get("required", record.get("total", True))) if record["type"] == "typed-dict" else True


def _is_plain_and_equal(ours: Schema, theirs: Schema) -> bool:
    a, b = (field["schema"].get("schema", field["schema"]) for field in (ours, theirs))
    return bool(a == b) and (a["type"] in _NUMBERS or a["type"] in _TEXTS or is_finite(a))


def _items(array: Schema) -> list[Schema]:
    """Return the types of the items of an array, or of the values of a dict."""
    if array["type"] in OBJECTS:
        return [array.get("values_schema", ANY)]
    if array["type"] == "named-tuple":
        return [field["schema"] for field in array["fields"]]
    items = array.get("items_schema", ANY)
    return list(items) if isinstance(items, list) else [items]


def _length(array: Schema) -> int | None:
    """Return how many items an array has, where that is fixed."""
    if array["type"] == "named-tuple":
        return len(array["fields"])
    return len(array["items_schema"]) if array["type"] == "tuple" and "variadic_item_index" not in array else None
