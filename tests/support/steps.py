"""Steps: what something costs, counted so that it is the same on every machine, however busy that is."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps_of(doing: Callable[[], Any]) -> int:
    """Return how many lines of Python something takes: what it costs, on any machine."""
    count = 0

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        doing()
    finally:
        sys.settrace(before)
    return count
