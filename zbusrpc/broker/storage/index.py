"""Where records stand in a segment: one entry for each 64 KiB, found by offset and by time.

      0               8       10      12      16              24
      +---------------+-------+-------+-------+---------------+---------------+
      | "ZBUSIDX\\n"   | vers. | gener.| CRC-32| base offset   | end position  |
      +---------------+-------+-------+-------+---------------+---------------+
      | next offset   | latest time   | entries: offset (8), position (8), latest time before it (8) ...
      +---------------+---------------+------------------------------------------------------------

where there are no gaps between the offsets: version 1. A segment whose file was replaced has version 2:

      +---------------+---------------+---------------+--------------------------------------------
      | next offset   | latest time   | records       | entries: the same, records before it (8) ...
      +---------------+---------------+---------------+--------------------------------------------

Numbers are big-endian and unsigned; the CRC covers everything behind itself. An index file describes the first
`end position` bytes of its segment. It is written when those are on the disk: each 8 MiB and when the segment
is sealed. What stands behind is scanned when the log is opened.

An index of a replaced segment in version 1, as earlier builds wrote it, does not say how many records there are.

An index can always be made again from its segment, so it is not synced, and one that is damaged, of another
version, of another segment or of another generation of it (see `segment`) is as good as none.

Time in an entry is the latest of all records before it. It never falls even if the clock does, so that the
first record at or after a time is found by halving.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from struct import Struct
from typing import Final, Self
from zlib import crc32

INDEX_MAGIC: Final = b"ZBUSIDX\n"
INDEX_VERSION: Final = 1
COUNTED_VERSION: Final = 2
ENTRY_EVERY_BYTES: Final = 64 * 1024
"""A seek reads and skips half of it: 0.1 ms. The index of a segment of 64 MiB has 24 KiB."""
_HEAD: Final = Struct(">8sHHIQQQQ")
_COUNT: Final = Struct(">Q")
_CRC_END: Final = 16


class SparseIndex:
    """The index of one segment, growing with it."""

    __slots__ = (
        "_counts", "_offsets", "_positions", "_times", "base_offset", "count", "end", "generation", "is_counted",
        "latest_ms", "next_offset",
    )  # fmt: skip

    def __init__(self, base_offset: int, end: int, generation: int = 0) -> None:
        self.base_offset = base_offset
        self.generation = generation
        """That of the segment, which is another one after it was rewritten."""
        self.end = end
        """How many bytes of the segment are described."""
        self.next_offset = base_offset
        """The offset after the last record that is described."""
        self.latest_ms = 0
        """The latest time of a record that is described."""
        self.count = 0
        """How many records are described."""
        self.is_counted = True
        """Whether `count` is known."""
        self._offsets = array("Q")
        self._positions = array("Q")
        self._times = array("Q")
        self._counts = array("Q")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, position: int, before: int) -> None:
        """Take note that a record begins at `position`, behind `before` others, if the last entry is far away."""
        if not self._positions or position - self._positions[-1] >= ENTRY_EVERY_BYTES:
            self._offsets.append(offset)
            self._positions.append(position)
            self._times.append(self.latest_ms)
            self._counts.append(before)

    def extend_to(self, end: int, next_offset: int, latest_ms: int, count: int) -> None:
        """Take note that records up to `end`, `count` in all, follow those described so far."""
        self.end = end
        self.count = count
        self.next_offset = next_offset
        self.latest_ms = max(self.latest_ms, latest_ms)

    def position_of(self, offset: int) -> int | None:
        """Return where to begin reading to find `offset`; None is the start of the segment."""
        number = bisect_right(self._offsets, offset) - 1
        return self._positions[number] if number >= 0 else None

    def count_before(self, offset: int) -> tuple[int | None, int]:
        """Return where to begin reading to find `offset`, and how many records stand before; None is the start."""
        number = bisect_right(self._offsets, offset) - 1
        return (self._positions[number], self._counts[number]) if number >= 0 else (None, 0)

    def position_of_time(self, time_ms: int) -> int | None:
        """Return where to begin reading to find the first record at or after a time; None is the start."""
        number = bisect_left(self._times, time_ms) - 1
        return self._positions[number] if number >= 0 else None

    def encode(self) -> bytes:
        """Return the index as a file."""
        has_counts = bool(self.generation) or self.count != self.next_offset - self.base_offset
        columns = [self._offsets, self._positions, self._times, *([self._counts] if has_counts else [])]
        entries = array("Q", bytes(8 * len(columns) * len(self)))
        for number, column in enumerate(columns):
            entries[number :: len(columns)] = column
        version = COUNTED_VERSION if has_counts else INDEX_VERSION
        head = (self.base_offset, self.end, self.next_offset, self.latest_ms)
        count = _COUNT.pack(self.count) if has_counts else b""
        rest = _HEAD.pack(INDEX_MAGIC, version, 0, 0, *head)[_CRC_END:] + count + _big_endian(entries).tobytes()
        return _HEAD.pack(INDEX_MAGIC, version, self.generation, crc32(rest), *head)[:_CRC_END] + rest

    @classmethod
    def decode(cls, data: bytes, base_offset: int, generation: int | None) -> Self | None:
        """Return the index of that generation of a segment, or of any where that is None; None when `data` is none."""
        if len(data) < _HEAD.size:
            return None
        magic, version, its, crc, base, end, next_offset, latest_ms = _HEAD.unpack_from(data)
        columns = {INDEX_VERSION: 3, COUNTED_VERSION: 4}.get(version, 0)
        is_index = magic == INDEX_MAGIC and columns > 0
        is_its = base == base_offset and generation in {None, its}
        if not is_index or not is_its or crc32(memoryview(data)[_CRC_END:]) != crc:
            return None
        start = _HEAD.size + (_COUNT.size if version == COUNTED_VERSION else 0)
        if len(data) < start or (len(data) - start) % (8 * columns):
            return None
        index = cls(base, end, its)
        index.next_offset, index.latest_ms = next_offset, latest_ms
        entries = _big_endian(array("Q", data[start:]))
        index._offsets, index._positions, index._times = (entries[number::columns] for number in range(3))
        if version == COUNTED_VERSION:
            (index.count,), index._counts = _COUNT.unpack_from(data, _HEAD.size), entries[3::columns]
        else:
            index.count, index.is_counted = next_offset - base, not its
            index._counts = array("Q", (offset - base for offset in index._offsets))
        return index


def _big_endian(numbers: "array[int]") -> "array[int]":
    """Turn an array between this machine's byte order and the format's."""
    if sys.byteorder == "little":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers
