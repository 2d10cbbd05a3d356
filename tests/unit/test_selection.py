"""Selectors by name, and what is said about those that are none."""

from collections.abc import Sequence
from typing import Any

import pytest

from zbusrpc import UsageError
from zbusrpc.cluster.selection import SELECTORS, Candidate, RoundRobin, selector_of


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
