"""Sweeps: tests over many values of one number, such as a seed or the place of a power cut.

`make test` tries some of them, spread over all; `make soak` tries the others.
"""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet


def one_of(count: int, values: Iterable[object]) -> list[ParameterSet]:
    """Return parameters of which one of so many is tried by default, and all with --long."""
    return [pytest.param(value, marks=[pytest.mark.long] if n % count else []) for n, value in enumerate(values)]
