"""Growth: how steps and memory of something grow with its size, counted, so that no clock has a say in it."""

import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from tests.support.steps import steps_of

TIMES: Final = 4
"""The large one is so many times as large as the small one."""
SLACK: Final = 1.5
"""What is linear may look so much worse, for steps that come with size: a buffer that grows, a cache that is full."""
STEPS_MIN: Final = 2000
BYTES_MIN: Final = 256 * 1024
"""Less than these are nothing to worry about, whatever they grow by."""

Cost = tuple[int, int]
"""Steps that something takes, and how many bytes more there are at its peak."""


def cost_of(doing: Callable[[], Any]) -> Cost:
    """Return what something costs."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        steps = steps_of(doing)
        return steps, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def excess_of(of_small: Cost, of_large: Cost) -> str:
    """Say by what the work or the memory of something outgrows its size; nothing where neither does."""
    (few, small), (many, large) = of_small, of_large
    if many > STEPS_MIN + TIMES * SLACK * few:
        return f"{few} steps, and {many} for {TIMES} times as much"
    if large > BYTES_MIN + TIMES * SLACK * small:
        return f"{small} bytes, and {large} for {TIMES} times as much"
    return ""
