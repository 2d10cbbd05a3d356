"""Receipts: what a producer learns of a message that was stored."""

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

Durability = Literal["memory", "os", "disk"]
"""What an acknowledged message survives: nothing, the end of the broker's process, or a power cut."""


class Stored(NamedTuple):
    """What the messages of one frame have in common."""

    timestamp_ms: int
    durability: Durability


class Receipt:
    """Tells that a message is stored, and where.

    One is made for every message, so this is a plain class with slots, and the time is read when it is asked for.
    """

    __slots__ = ("_stored", "is_duplicate", "offset")

    def __init__(self, stored: Stored, offset: int, is_duplicate: bool = False) -> None:
        self._stored = stored
        self.offset = offset
        """Its place in the topic. Offsets only grow."""
        self.is_duplicate = is_duplicate
        """Whether a message with this id was stored before: then nothing was stored now, and `offset` is that one's."""

    @property
    def timestamp(self) -> datetime:
        """When it was stored, in UTC; of a duplicate: when the broker noticed."""
        return datetime.fromtimestamp(self._stored.timestamp_ms / 1000, UTC)

    @property
    def durability(self) -> Durability:
        """What the stored message survives by now: "disk" a power cut, "os" the end of the broker, "memory" neither."""
        return self._stored.durability

    def __repr__(self) -> str:
        duplicate = ", is_duplicate=True" if self.is_duplicate else ""
        return f"Receipt(offset={self.offset}, durability={self.durability!r}{duplicate})"


def receipts_of(result: dict[str, Any], count: int) -> list[Receipt]:
    """Return the receipts of a frame of `count` messages, from the broker's answer.

    Raises:
        KeyError: it is no such answer.
    """
    stored = Stored(result["timestamp_ms"], result["durability"])
    offset: int = result["offset"]
    duplicates = result.get("duplicates")
    if not duplicates:
        return [Receipt(stored, number) for number in range(offset, offset + count)]
    known = dict(duplicates)
    receipts: list[Receipt] = []
    for place in range(count):
        if place in known:
            receipts.append(Receipt(stored, known[place], True))
        else:
            receipts.append(Receipt(stored, offset))
            offset += 1
    return receipts
