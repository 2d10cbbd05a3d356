"""One file of records: a segment of the log.

      0               8       10      12              20              28      32
      +---------------+-------+-------+---------------+---------------+-------+---------+---------+-- -
      | "ZBUSLOG\\n"   | vers. | gener.| base offset   | created, ms   | CRC-32| record  | record  |
      +---------------+-------+-------+---------------+---------------+-------+---------+---------+-- -

Numbers are big-endian and unsigned; the CRC covers the 28 bytes before it. This head keeps its form in every
version. The file is named after its base offset, in 20 digits: `00000000000000000000.log`; beside it stands its
index, `.index`. Offsets grow from record to record; there may be gaps, where damage was taken out or where
compaction left nothing.

A segment only grows. Where its file is replaced by another, by salvage or compaction, that is its next generation:
an index of the one before says nothing about it. Every byte that is read is checked; what is not as it was written
raises DamageError, which the log answers by `salvage`. No record behind `size` is ever shown.
"""

import contextlib
import os
from struct import Struct
from typing import Final
from zlib import crc32

from zbusrpc.broker.storage.errors import DamageError, FormatVersionError, is_damage
from zbusrpc.broker.storage.files import Disk, File, opened
from zbusrpc.broker.storage.index import SparseIndex
from zbusrpc.broker.storage.record import (
    CONTINUES,
    HEAD_BYTES,
    MORE,
    Record,
    Stop,
    decode,
    heads,
    length_at,
    skip_to,
    stop_at,
)
from zbusrpc.broker.storage.remembered import Remembered

SEGMENT_MAGIC: Final = b"ZBUSLOG\n"
FORMAT_VERSION: Final = 1
SEGMENT_HEAD: Final = Struct(">8sHHQQ")
HEAD_CRC: Final = Struct(">I")
SEGMENT_HEAD_BYTES: Final = SEGMENT_HEAD.size + HEAD_CRC.size
LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
OFFSET_DIGITS: Final = 20
SCAN_BYTES: Final = 1024 * 1024
"""Large enough that reading costs little beside checking, small enough to be forgotten."""
SEEK_BYTES: Final = 128 * 1024
"""Twice the distance of two entries of the index: a seek is seldom more than one read."""
STEP_BYTES: Final = 16 * 1024
"""What is read at a time to find one record: of 4, 8, 16, 32 and 64 KiB this was the fastest."""


def segment_name(base_offset: int) -> str:
    """Return the name of a segment's file."""
    return f"{base_offset:0{OFFSET_DIGITS}d}{LOG_SUFFIX}"


def sibling(path: str, suffix: str) -> str:
    """Return the path of another file that belongs to the segment at `path`."""
    return path.removesuffix(LOG_SUFFIX) + suffix


def index_path(path: str) -> str:
    """Return the path of the index that belongs to the segment at `path`."""
    return sibling(path, INDEX_SUFFIX)


def next_generation(generation: int) -> int:
    """Return the generation of the file that replaces a segment's."""
    return (generation + 1) % 2**16


def encode_segment_head(base_offset: int, created_ms: int, generation: int = 0) -> bytes:
    """Return the first bytes of a segment."""
    head = SEGMENT_HEAD.pack(SEGMENT_MAGIC, FORMAT_VERSION, generation, base_offset, created_ms)
    return head + HEAD_CRC.pack(crc32(head))


def decode_segment_head(data: bytes, name: str, base_offset: int) -> tuple[int, int]:
    """Return when a segment was created, and its generation.

    Raises:
        FormatVersionError: a newer zbusrpc wrote it.
        DamageError: it is not the head of that segment.
    """
    if len(data) < SEGMENT_HEAD_BYTES:
        raise DamageError(name, f"its head has {len(data)} of {SEGMENT_HEAD_BYTES} bytes")
    magic, version, generation, base, created_ms = SEGMENT_HEAD.unpack_from(data)
    if magic != SEGMENT_MAGIC or HEAD_CRC.unpack_from(data, SEGMENT_HEAD.size)[0] != crc32(data[: SEGMENT_HEAD.size]):
        raise DamageError(name, "its head is damaged")
    if version > FORMAT_VERSION:
        raise FormatVersionError(name, version, FORMAT_VERSION)
    if base != base_offset:
        raise DamageError(name, f"its head is that of offset {base}")
    return created_ms, generation


class Segment:
    """What is known of one segment. The log owns it and lends it the open file."""

    __slots__ = (
        "_counts",
        "_hints",
        "base_offset",
        "count",
        "created_ms",
        "generation",
        "index",
        "indexed_end",
        "latest_ms",
        "next_offset",
        "path",
        "size",
    )

    def __init__(self, path: str, base_offset: int, created_ms: int, generation: int = 0) -> None:
        self.path = path
        self.base_offset = base_offset
        self.created_ms = created_ms
        self.generation = generation
        """How often its file was replaced."""
        self.size = SEGMENT_HEAD_BYTES
        """How many bytes are whole batches."""
        self.next_offset = base_offset
        """The offset after its last record."""
        self.latest_ms = 0
        """The latest time of a record."""
        self.count = 0
        """How many records it has."""
        self.index: SparseIndex | None = SparseIndex(base_offset, SEGMENT_HEAD_BYTES, generation)
        """None when it is in its file only."""
        self.indexed_end = 0
        """How many bytes the index on disk describes."""
        self._hints = Remembered()  # where records stand
        self._counts = Remembered()  # how many stand before

    @property
    def name(self) -> str:
        """The name of its file."""
        return os.path.basename(self.path)

    @property
    def is_empty(self) -> bool:
        """Whether it has no record."""
        return self.next_offset == self.base_offset

    # -- growing -----------------------------------------------------------------------------------------

    def grow(self, size: int, next_offset: int, now_ms: int, marks: list[tuple[int, int]]) -> None:
        """Take note that `size` bytes were written; `marks` are offsets and positions (in them) for the index."""
        index = self.index
        assert index is not None
        for offset, position in marks:
            index.add(offset, self.size + position, self.count + offset - self.next_offset)
            index.latest_ms = max(index.latest_ms, now_ms)  # records of this time stand before the next mark
        index.extend_to(self.size + size, next_offset, now_ms, self.count + next_offset - self.next_offset)
        self._follow(index)

    def _follow(self, index: SparseIndex) -> None:
        self.size, self.next_offset, self.latest_ms = index.end, index.next_offset, index.latest_ms
        self.count = index.count

    # -- opening -----------------------------------------------------------------------------------------

    def recover(self, file: File, length: int, index: SparseIndex | None) -> int:
        """Learn what the file of `length` bytes holds: from its index, and by a scan of what stands behind it.

        An index of another generation says nothing.

        Afterwards `size` is where whole batches end. Returns where whole records end: the file may be longer.

        Raises:
            FormatVersionError: a newer zbusrpc wrote it.
            DamageError: the head is damaged, or the file is shorter than what was on the disk before.
            OSError: it cannot be read.
        """
        head = file.pread(SEGMENT_HEAD_BYTES, 0)
        self.created_ms, self.generation = decode_segment_head(head, self.name, self.base_offset)
        if index is None or index.generation != self.generation:
            index = SparseIndex(self.base_offset, SEGMENT_HEAD_BYTES, self.generation)
        elif index.end > length:
            raise DamageError(self.name, f"has {length} bytes, though {index.end} bytes were on the disk")
        elif not index.is_counted:
            index = SparseIndex(self.base_offset, SEGMENT_HEAD_BYTES, self.generation)
        else:
            self.indexed_end = index.end
        self.index = index
        return self.scan(file, length)

    def scan(self, file: File, length: int) -> int:
        """Extend the index over the whole batches up to `length`; return where whole records end."""
        index = self.index
        assert index is not None
        position, next_offset, latest_ms = index.end, index.next_offset, index.latest_ms
        count, first = index.count, (next_offset, position, index.count)
        wanted = SCAN_BYTES
        while position < length:
            asked = min(wanted, length - position)
            block = file.pread(asked, position)
            used = 0
            for end, offset, timestamp_ms, flags in heads(block):
                if offset < next_offset:
                    break
                if not flags & CONTINUES:
                    first = offset, position + used, count
                next_offset, latest_ms, used, count = offset + 1, max(latest_ms, timestamp_ms), end, count + 1
                if not flags & MORE:
                    index.add(*first)
                    index.extend_to(position + used, next_offset, latest_ms, count)
            stop = stop_at(block, used)
            position += used
            wanted = max(SCAN_BYTES, length_at(block, used))
            is_cut_off = stop is Stop.SHORT and position + length_at(block, used) > length
            if stop is Stop.BAD or is_cut_off or len(block) < asked:
                break
        self._follow(index)
        return position

    def load_index(self, disk: Disk, file: File) -> SparseIndex:
        """Return the index, read from its file or, where that is no good, made again."""
        if self.index is None:
            index = read_index(disk, self.path, self.base_offset, self.generation)
            self.index = index if index is not None and index.end == self.size else self.verify(file)
        return self.index

    def verify(self, file: File) -> SparseIndex:
        """Read every byte and return the index that was made of it.

        Raises:
            DamageError: something is not as it was written.
            OSError: it cannot be read.
        """
        decode_segment_head(file.pread(SEGMENT_HEAD_BYTES, 0), self.name, self.base_offset)
        again = Segment(self.path, self.base_offset, self.created_ms, self.generation)
        stopped_at = again.scan(file, self.size)
        if stopped_at != self.size or again.size != self.size:
            raise DamageError(self.name, f"damaged at byte {again.size}")
        assert again.index is not None
        return again.index

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, disk: Disk, file: File, offset: int, until: int, bytes_max: int) -> list[Record]:
        """Return records from `offset` to before `until`, at least one (where there is one).

        Raises:
            DamageError: what stands there is not what was written.
            OSError: it cannot be read.
        """
        position = self._hints.get(offset)
        if position is None:
            position = self.load_index(disk, file).position_of(offset) or SEGMENT_HEAD_BYTES
            position = self._skip(file, position, offset)
        records: list[Record] = []
        wanted, stop = bytes_max, Stop.SHORT
        while not records and position < self.size and stop is not Stop.UNTIL:
            block = self.block(file, wanted, position)
            used, stop = decode(block, 0, records, offset, until)
            position += used
            wanted = self.next_wanted(block, used, stop, position, bytes_max)
        if records:
            self._hints.keep(records[-1].offset + 1, position)
        return records

    def read_one(self, disk: Disk, file: File, offset: int) -> Record | None:
        """Return the record at `offset`, or None when there is none.

        The way there goes by lengths alone. The record is verified, and where it does not stand the whole way is.

        Raises:
            DamageError: what stands there is not what was written.
            OSError: it cannot be read.
        """
        position = self._hints.get(offset)
        if position is None:
            position = self.load_index(disk, file).position_of(offset) or SEGMENT_HEAD_BYTES
        while position < self.size:
            block = file.pread(min(STEP_BYTES, self.size - position), position)
            used, is_there = skip_to(block, offset)
            position += used
            if is_there and (record := self._record_at(file, position, block[used:])) is not None:
                return record
            if used <= len(block) - HEAD_BYTES or not used:
                break
        records = self.read(disk, file, offset, offset + 1, SEEK_BYTES)
        return records[0] if records else None

    def _record_at(self, file: File, position: int, data: bytes) -> Record | None:
        """Return the record at `position`, of which `data` is the start, or None when it is not what was written."""
        length = length_at(data, 0)
        if length > len(data) and position + length <= self.size:
            data = file.pread(length, position)
        records: list[Record] = []
        decode(data[:length], 0, records, 0, OFFSETS_END)
        return records[0] if records else None

    def _skip(self, file: File, position: int, offset: int) -> int:
        """Return where the first record at or after `offset` begins, seen from `position` at or before it."""
        wanted = SEEK_BYTES
        while position < self.size:
            block = self.block(file, wanted, position)
            used, stop = decode(block, 0, [], OFFSETS_END, offset)
            position += used
            if stop is Stop.UNTIL:
                break
            wanted = self.next_wanted(block, used, stop, position, SEEK_BYTES)
        return position

    def block(self, file: File, wanted: int, position: int) -> bytes:
        """Return about `wanted` bytes from `position`: fewer only at the end of the segment.

        Raises:
            DamageError: the file ends before.
            OSError: it cannot be read.
        """
        size = min(wanted, self.size - position)
        block = file.pread(size, position)
        if len(block) < size:
            raise DamageError(self.name, f"ends at byte {position + len(block)}, though {self.size} bytes were written")
        return block

    def next_wanted(self, block: bytes, used: int, stop: Stop, position: int, usual: int) -> int:
        """Return how much to read next, from `position`, so that the record that was cut off fits.

        Raises:
            DamageError: what stands there is not what was written.
        """
        length = length_at(block, used) if stop is Stop.SHORT else 0
        if stop is Stop.BAD or position + length > self.size:
            raise DamageError(self.name, f"damaged at byte {position}")
        return max(usual, length)

    def known_before(self, offset: int) -> int | None:
        """Return how many records it has before `offset`, or None where that takes `count_before`."""
        if not self.base_offset < offset < self.next_offset:
            return 0 if offset <= self.base_offset else self.count
        if self.count == self.next_offset - self.base_offset:
            return offset - self.base_offset
        return self._counts.get(offset)

    def count_before(self, disk: Disk, file: File, offset: int) -> int:
        """Read how many records it has before `offset`, from the entry of the index before that.

        Raises:
            DamageError: what stands there is not what was written.
            OSError: it cannot be read.
        """
        start, count = self.load_index(disk, file).count_before(offset)
        count += self._count_from(file, start or SEGMENT_HEAD_BYTES, offset)
        self._counts.keep(offset, count)
        return count

    def _count_from(self, file: File, position: int, offset: int) -> int:
        count, wanted = 0, SEEK_BYTES
        while position < self.size:
            block = self.block(file, wanted, position)
            used = 0
            for end, its, _, _ in heads(block):
                if its >= offset:
                    return count
                count, used = count + 1, end
            position += used
            wanted = self.next_wanted(block, used, stop_at(block, used), position, SEEK_BYTES)
        return count

    def offset_at_time(self, disk: Disk, file: File, time_ms: int) -> int:
        """Return the offset of the first record at or after a time, or `next_offset`.

        Raises:
            DamageError: what stands there is not what was written.
            OSError: it cannot be read.
        """
        position = self.load_index(disk, file).position_of_time(time_ms) or SEGMENT_HEAD_BYTES
        wanted = SEEK_BYTES
        while position < self.size:
            block = self.block(file, wanted, position)
            used = 0
            for used, offset, timestamp_ms, _ in heads(block):  # noqa: B007 - where it stopped
                if timestamp_ms >= time_ms:
                    return offset
            position += used
            wanted = self.next_wanted(block, used, stop_at(block, used), position, SEEK_BYTES)
        return self.next_offset


OFFSETS_END: Final = 2**63
"""Past every offset."""


def read_index(disk: Disk, path: str, base_offset: int, generation: int) -> SparseIndex | None:
    """Return the index of the segment at `path`, or None when it has no good one."""
    try:
        with opened(disk, index_path(path)) as file:
            return SparseIndex.decode(file.pread(file.size(), 0), base_offset, generation)
    except OSError as error:
        if is_damage(error):  # it can be made again
            return None
        raise


def write_index(disk: Disk, path: str, data: bytes) -> None:
    """Store the index of the segment at `path`; what was there stays until it is complete."""
    target = index_path(path)
    temporary = target + ".tmp"
    with contextlib.suppress(FileNotFoundError):
        disk.remove(temporary)
    with opened(disk, temporary, create=True) as file:
        file.append(data)
    disk.rename(temporary, target)
