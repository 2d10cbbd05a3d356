"""Selectors by name, and what is said about those that are none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from zbusrpc import UsageError
from zbusrpc.cluster.selection import SELECTORS, Candidate, RoundRobin, select_by, selector_of


class Last:
    """A rule of an application."""

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Sequence[Candidate]:
        """Return the last one."""
        return candidates[-1:]


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_selector_goes_by_name(name: str) -> None:
    """Each name gives a new selector: two topics do not share their turns."""
    assert type(selector_of(name)) is SELECTORS[name]
    assert selector_of(name) is not selector_of(name)


def test_selector_of_application_is_taken_as_it_is() -> None:
    """Anything with a select() is a selector."""
    last = Last()

    assert selector_of(last) is last


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("round_robin", "there is no selector 'round_robin'; did you mean round-robin?"),
        ("Least-Loaded", "there is no selector 'Least-Loaded'; did you mean least-loaded?"),
        ("x", "there is no selector 'x'; there are all, consistent-hash, least-loaded, most-consumers, random, "),
        (RoundRobin, r"selector RoundRobin is a class; give an instance of it: RoundRobin\(\)"),
        (3, r"selector 3 has no method select\(candidates, key\); or give a name: all, consistent-hash, least-loaded"),
    ],
)
def test_selector_that_is_none_is_named(wrong: Any, message: str) -> None:
    """The error names what was given and what would do."""
    with pytest.raises(UsageError, match=message):
        selector_of(wrong)


@dataclass(frozen=True, slots=True)
class Place:
    """A broker that may be chosen."""

    address: str
    consumers: int = 1
    cost: float = 1.0


@dataclass
class Own:
    """A selector of an application that selects as a test says."""

    rule: Callable[[Sequence[Any]], Any]

    def select(self, candidates: Sequence[Candidate], key: str | bytes | None) -> Any:
        """Return whatever the rule says."""
        return self.rule(candidates)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda candidates: [], r"selector Own returned \[\]; return a list of one or more of the candidates"),
        (lambda candidates: None, "selector Own failed: TypeError: "),
        (lambda candidates: candidates[0], "selector Own failed: TypeError: "),
        (set, "selector Own failed: TypeError: "),
        (lambda candidates: [Place("elsewhere:1")], r"selector Own returned \[Place.*; return a list of one or more"),
        (lambda candidates: [candidates[0], "b:1"], r"selector Own returned \[.*; return a list of one or more"),
        (lambda candidates: candidates[7], "selector Own failed: IndexError: list index out of range"),
    ],
)
def test_selector_that_selects_wrongly_is_named(rule: Callable[[Sequence[Any]], Any], message: str) -> None:
    """Whoever has written it learns what it did, and what it should do."""
    with pytest.raises(UsageError, match=message) as caught:
        select_by(Own(rule), [Place("a:1"), Place("b:1")], None)
    assert "\n" not in str(caught.value)


def test_selector_of_application_may_select_several() -> None:
    """In an order of its own."""
    places = [Place("a:1"), Place("b:1")]

    assert select_by(Own(lambda candidates: candidates[::-1]), places, None) == places[::-1]
