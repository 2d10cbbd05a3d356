"""Steps: what something costs, counted so that it is the same on every machine, however busy that is."""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps_of(doing: Callable[[], Any]) -> int:
    """Return how many lines of Python something takes: what it costs, on any machine.

    The collector waits: what it clears away, perhaps another test's, would count as well.
    """
    count = 0

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return step

    before, was_collecting = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(step)
    try:
        doing()
    finally:
        sys.settrace(before)
        if was_collecting:
            gc.enable()
    return count
