"""Facts: what has to be asked of the values that stand in one position, before they are written.

Gathered from the position's schema, past what is wrapped around it and from all members of a union; the guard that asks
is one function for them all (see `guards.py`), and none where nothing can go wrong.

Pure: core schemas in, functions out.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, Final

from pydantic import BaseModel

from zbusrpc.service.forms import guards
from zbusrpc.service.forms.core_schemas import (
    OBJECTS,
    RECORDS,
    Schema,
    class_of_url,
    extra_of,
    is_finite,
    is_known_text,
    is_pattern,
    is_secret,
    is_sequence,
)
from zbusrpc.service.forms.finite import values_of
from zbusrpc.service.forms.guards import Guard, Test

Resolve = Callable[[Schema], Schema]
"""Follows a reference to a definition."""


@dataclass(slots=True)
class Facts:
    """What has to be asked in one position."""

    passes: set[type] = field(default_factory=set)
    """Exact types that need no question."""
    bases: set[type] = field(default_factory=set)
    """Classes whose subclasses would come out as the class."""
    tests: dict[type, Test] = field(default_factory=dict)
    """By exact type."""
    key_sets: list[frozenset[str]] = field(default_factory=list)
    """The keys of the typed dicts that may stand here."""
    takes_any: bool = False
    """Whether any JSON value may stand here."""
    takes_any_keys: bool = False
    """Whether dicts of any keys may stand here."""

    def guard(self, place: str) -> Guard | None:
        """Return the guard of a place; None where there is nothing to ask."""
        if self.takes_any:
            return guards.any_guard(place)
        tests = dict(self.tests)
        if self.key_sets and not self.takes_any_keys:
            tests[dict] = guards.keys_among(self.key_sets)
        if not self.bases and not tests:
            return None
        return guards.guard(place, frozenset(self.passes - tests.keys()), tuple(self.bases), tests)


def guarded(schema: dict[str, Any], facts: Facts, place: str) -> dict[str, Any]:
    """Return a schema whose values are asked before they are written."""
    guard = facts.guard(place)
    if guard is None:
        return schema
    asked = {"type": "function-plain", "function": guard, "return_schema": schema}
    return {**{key: value for key, value in schema.items() if key != "ref"}, "serialization": asked}


def facts_of(schema: Schema, resolve: Resolve, *, is_strict: bool, takes_infinity: Callable[[Schema], bool]) -> Facts:
    """Return what has to be asked of a position's values.

    Args:
        schema: Of the position.
        resolve: Follows references.
        is_strict: Whether floats take no strings.
        takes_infinity: Says whether something beside a float takes the text of an infinity for its own.
    """
    facts = Facts()
    for member in _members(schema, resolve):
        _add(facts, member)
        if member["type"] == "float" and takes_infinity(schema):
            facts.tests[float] = guards.finite
        elif member["type"] == "float" and member.get("strict", is_strict):
            facts.tests[float] = guards.finite_in_strict_mode
    return facts


def _members(schema: Schema, resolve: Resolve) -> Iterator[Schema]:
    """Yield what may stand in a position, as Python sees it: a secret is no string, a root model not its root."""
    schema = resolve(schema)
    kind = schema["type"]
    if is_known_text(schema) or is_secret(schema) or is_sequence(schema) or kind in RECORDS or kind == "json":
        yield schema
    elif kind in {"union", "tagged-union"}:
        choices = schema["choices"]
        for choice in choices.values() if isinstance(choices, dict) else choices:
            yield from _members(choice[0] if isinstance(choice, tuple) else choice, resolve)
    elif kind == "json-or-python":
        yield from _members(schema["json_schema"], resolve)
    elif kind == "lax-or-strict":
        yield from _members(schema["lax_schema"], resolve)
    elif "schema" in schema:
        yield from _members(schema["schema"], resolve)
    else:
        yield schema


def _add(facts: Facts, member: Schema) -> None:
    kind = member["type"]
    if is_sequence(member):
        facts.passes.add(list)
        facts.bases.add(Sequence)
    elif is_pattern(member):
        facts.tests[re.Pattern] = guards.text_without_flags
    elif is_known_text(member):
        facts.bases |= class_of_url(member)
        facts.passes |= facts.bases
    elif kind == "any":
        facts.takes_any = "serialization" not in member
    elif kind in {"model", "dataclass", "named-tuple"}:
        _add_class(facts, member)
    elif kind == "typed-dict":
        facts.takes_any_keys = facts.takes_any_keys or extra_of(member) == "allow"
        facts.key_sets.append(frozenset(member["fields"]))
    elif is_finite(member):
        facts.passes |= {type(value) for value in values_of(member)}
    else:
        facts.takes_any_keys = facts.takes_any_keys or kind in OBJECTS
        _add_plain(facts, kind)


def _add_plain(facts: Facts, kind: str) -> None:
    if kind == "date":
        facts.passes.add(date)
        facts.bases.add(date)
    elif kind in _WITH_ZONE:
        facts.tests[_WITH_ZONE[kind]] = guards.whole_minutes
    elif kind in _SEQUENCES:
        facts.passes.add(_SEQUENCES[kind])


_WITH_ZONE: Final[dict[str, type]] = {"datetime": datetime, "time": time}
_SEQUENCES: Final[dict[str, type]] = {"str": str, "bytes": bytes, "list": list, "tuple": tuple}
"""What is a sequence, and stands for itself where it stands beside Sequence."""


def _add_class(facts: Facts, member: Schema) -> None:
    cls = member["cls"]
    facts.bases.add(cls)
    if getattr(cls, "__private_attributes__", None) and not _sets_private(cls):
        facts.tests[cls] = guards.private_attributes_of(cls)
    else:
        facts.passes.add(cls)


def _sets_private(cls: type[BaseModel]) -> bool:
    """Whether a model has a `model_post_init` of its own, which may set private attributes on the other side, too."""
    return cls.model_post_init.__name__ != "init_private_attributes"  # pydantic's, where there is no other
