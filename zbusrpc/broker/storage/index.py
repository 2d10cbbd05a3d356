"""Where records stand in a segment: one entry for each 64 KiB, found by offset and by time.

      0               8       10      12      16              24
      +---------------+-------+-------+-------+---------------+---------------+
      | "ZBUSIDX\\n"   | vers. | gener.| CRC-32| base offset   | end position  |
      +---------------+-------+-------+-------+---------------+---------------+
      | next offset   | latest time   | entries: offset (8), position (8), latest time before it (8) ...
      +---------------+---------------+------------------------------------------------------------

Numbers are big-endian and unsigned; the CRC covers everything behind itself. An index file describes the first
`end position` bytes of its segment. It is written when those are on the disk: each 8 MiB and when the segment
is sealed. What stands behind is scanned when the log is opened.

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
ENTRY_EVERY_BYTES: Final = 64 * 1024
"""A seek reads and skips half of it: 0.1 ms. The index of a segment of 64 MiB has 24 KiB."""
_HEAD: Final = Struct(">8sHHIQQQQ")
_CRC_END: Final = 16


class SparseIndex:
    """The index of one segment, growing with it."""

    __slots__ = ("_offsets", "_positions", "_times", "base_offset", "end", "generation", "latest_ms", "next_offset")

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
        self._offsets = array("Q")
        self._positions = array("Q")
        self._times = array("Q")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, position: int) -> None:
        """Take note that a record begins at `position`, if the last entry is far enough away."""
        if not self._positions or position - self._positions[-1] >= ENTRY_EVERY_BYTES:
            self._offsets.append(offset)
            self._positions.append(position)
            self._times.append(self.latest_ms)

    def extend_to(self, end: int, next_offset: int, latest_ms: int) -> None:
        """Take note that records up to `end` follow those described so far."""
        self.end = end
        self.next_offset = next_offset
        self.latest_ms = max(self.latest_ms, latest_ms)

    def position_of(self, offset: int) -> int | None:
        """Return where to begin reading to find `offset`; None is the start of the segment."""
        number = bisect_right(self._offsets, offset) - 1
        return self._positions[number] if number >= 0 else None

    def position_of_time(self, time_ms: int) -> int | None:
        """Return where to begin reading to find the first record at or after a time; None is the start."""
        number = bisect_left(self._times, time_ms) - 1
        return self._positions[number] if number >= 0 else None

    def encode(self) -> bytes:
        """Return the index as a file."""
        entries = array("Q", bytes(24 * len(self)))
        entries[0::3], entries[1::3], entries[2::3] = self._offsets, self._positions, self._times
        head = (self.base_offset, self.end, self.next_offset, self.latest_ms)
        rest = _HEAD.pack(INDEX_MAGIC, INDEX_VERSION, 0, 0, *head)[_CRC_END:] + _big_endian(entries).tobytes()
        return _HEAD.pack(INDEX_MAGIC, INDEX_VERSION, self.generation, crc32(rest), *head)[:_CRC_END] + rest

    @classmethod
    def decode(cls, data: bytes, base_offset: int, generation: int | None) -> Self | None:
        """Return the index of that generation of a segment, or of any where that is None; None when `data` is none."""
        if len(data) < _HEAD.size or (len(data) - _HEAD.size) % 24:
            return None
        magic, version, its, crc, base, end, next_offset, latest_ms = _HEAD.unpack_from(data)
        is_index = magic == INDEX_MAGIC and version == INDEX_VERSION
        is_its = base == base_offset and generation in {None, its}
        if not is_index or not is_its or crc32(memoryview(data)[_CRC_END:]) != crc:
            return None
        index = cls(base, end, its)
        index.next_offset, index.latest_ms = next_offset, latest_ms
        entries = _big_endian(array("Q", data[_HEAD.size :]))
        index._offsets, index._positions, index._times = entries[0::3], entries[1::3], entries[2::3]
        return index


def _big_endian(numbers: "array[int]") -> "array[int]":
    """Turn an array between this machine's byte order and the format's."""
    if sys.byteorder == "little":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers
