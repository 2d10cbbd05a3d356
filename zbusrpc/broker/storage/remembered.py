"""Remembered: what was found out about some offsets of a segment, so that it need not be found out again. Pure."""

from typing import Final

REMEMBERED_MAX: Final = 64
"""So many readers of a segment go on where they were without a look into the index."""


class Remembered:
    """A number for each of the offsets that were asked for last."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def get(self, offset: int) -> int | None:
        """Return what is known of an offset."""
        return self._numbers.get(offset)

    def keep(self, offset: int, number: int) -> None:
        """Remember it, and forget what was learnt first where that is too much."""
        if len(self._numbers) >= REMEMBERED_MAX:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[offset] = number
