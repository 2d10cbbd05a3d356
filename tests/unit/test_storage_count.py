"""Counting: how many records there are, where compaction or damage has left gaps, without reading them all."""

from struct import Struct
from zlib import crc32

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.storage import compact, open_at, read_all
from zbusrpc.broker.storage.index import ENTRY_EVERY_BYTES, SparseIndex
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.segment import SEEK_BYTES, Segment, index_path
from zbusrpc.broker.storage.segments import INDEXES_LOADED_MAX

LARGE = LogOptions(segment_bytes_max=6 * ENTRY_EVERY_BYTES, compact=True)
HEAD = Struct(">8sHHIQQQQ")


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


def compacted(disk: FaultyDisk, count: int = 1200) -> Log:
    """Return a log of segments with several entries each in their indexes, where four of five records are gone."""
    log = open_at(disk, options=LARGE)
    for number in range(count):
        key = b"once-%d" % number if number % 5 == 0 else b"again"
        log.append([[Record(b"x" * 700, key=key)]], 1000 + number)
    log.sync()
    compact(log)
    return log


def check(log: Log) -> None:
    """Compare with what is read, at each offset."""
    offsets = [record.offset for record in read_all(log)]
    left = len(offsets)
    for offset in range(log.next_offset + 3):
        while left and offsets[-left] < offset:
            left -= 1
        assert log.count_from(offset) == left
        assert log.count_from(0, offset) == len(offsets) - left


def test_gaps_do_not_count(disk: FaultyDisk) -> None:
    """At each offset, in this process, after a clean end, after a kill, and once the indexes are lost."""
    log = compacted(disk)
    assert sum(segment.generation for segment in log.segments) >= 2
    check(log)
    check(open_at(disk, options=LARGE))
    log.append([[Record(b"more"), Record(b"and more")]], 5000)
    log.close()
    check(open_at(disk, options=LARGE))

    for segment in log.segments:
        disk.remove(index_path(segment.path))
    again = open_at(disk, options=LARGE)
    check(again)
    assert again.count_from(0) == log.count_from(0)


def test_gap_that_damage_has_left_does_not_count(disk: FaultyDisk) -> None:
    """What salvage could not save is not there."""
    log = open_at(disk)
    for number in range(12):
        log.append([[Record(b"%d" % number * 80)]], 1000)
    log.close()
    disk.names[log.segments[0].path].data[log.segments[0].size - 60] ^= 1
    again = open_at(disk)

    again.verify()

    assert again.findings
    assert again.count_from(0) < 12
    check(again)


def reads_of(disk: FaultyDisk, log: Log, offset: int) -> int:
    before = disk.calls["pread"]
    log.count_from(offset)
    return disk.calls["pread"] - before


def test_counting_reads_no_more_than_the_way_from_one_entry_to_the_next(disk: FaultyDisk) -> None:
    """Nothing at the ends of segments and where there are no gaps; elsewhere a block, once."""
    log = compacted(disk)
    middle = log.segments[0].base_offset + 101

    assert reads_of(disk, log, 0) == 0
    assert reads_of(disk, log, log.segments[1].base_offset) == 0
    assert reads_of(disk, log, log.next_offset - 1) == 0
    assert reads_of(disk, log, middle) <= 2 + ENTRY_EVERY_BYTES // SEEK_BYTES
    assert reads_of(disk, log, middle) == 0


def test_what_is_remembered_has_a_bound(disk: FaultyDisk) -> None:
    """Of a segment that is asked about everywhere, and of indexes."""
    log = compacted(disk, 600)
    for offset in range(log.next_offset):
        log.count_from(offset)

    assert sum(segment.index is not None for segment in log.segments[:-1]) <= INDEXES_LOADED_MAX
    assert all(len(segment._counts._numbers) <= 64 for segment in log.segments)


def without_counts(data: bytes) -> bytes:
    """Return the index of a replaced segment as earlier builds wrote it, in version 1."""
    magic, version, generation, _, *numbers = HEAD.unpack_from(data)
    assert version == 2
    entries = data[HEAD.size + 8 :]
    kept = b"".join(entries[at : at + 24] for at in range(0, len(entries), 32))
    rest = HEAD.pack(magic, 1, 0, 0, *numbers)[16:] + kept
    return HEAD.pack(magic, 1, generation, crc32(rest), *numbers)[:16] + rest


def test_index_of_an_earlier_build_is_made_again(disk: FaultyDisk) -> None:
    """It does not say how many records there are: its segment is read once, and has an index that does."""
    log = compacted(disk)
    log.close()
    replaced = [segment for segment in log.segments if segment.generation]
    for segment in replaced:
        path = index_path(segment.path)
        old = without_counts(bytes(disk.names[path].data))
        disk.names[path].data[:] = old

    again = open_at(disk, options=LARGE)
    assert not again.findings
    check(again)
    again.close()

    for segment in replaced:
        index = SparseIndex.decode(bytes(disk.names[index_path(segment.path)].data), segment.base_offset, None)
        assert index is not None
        assert index.is_counted
        assert index.count == segment.count


def test_index_without_counts_still_tells_of_damage(disk: FaultyDisk) -> None:
    """A segment that is shorter than such an index says is damaged, and not one that was being written."""
    log = compacted(disk)
    log.close()
    segment = next(segment for segment in log.segments if segment.generation)
    path = index_path(segment.path)
    disk.names[path].data[:] = without_counts(bytes(disk.names[path].data))
    del disk.names[segment.path].data[-100:]

    again = open_at(disk, options=LARGE)

    assert [finding.name for finding in again.findings] == [segment.name]


def test_layout_of_an_index_with_counts(disk: FaultyDisk) -> None:
    """As docs/storage.md draws it."""
    log = compacted(disk)
    segment: Segment = next(segment for segment in log.segments if segment.generation)
    log.close()

    data = bytes(disk.names[index_path(segment.path)].data)

    magic, version, generation, crc, base, end, next_offset, latest_ms = HEAD.unpack_from(data)
    assert (magic, version, generation, crc) == (b"ZBUSIDX\n", 2, segment.generation, crc32(data[16:]))
    assert (base, end, next_offset, latest_ms) == (
        segment.base_offset, segment.size, segment.next_offset, segment.latest_ms,
    )  # fmt: skip
    assert int.from_bytes(data[48:56], "big") == segment.count
    entries = list(Struct(">QQQQ").iter_unpack(data[56:]))
    assert entries
    again = open_at(disk, options=LARGE)
    assert [entry[3] for entry in entries] == [again.count_from(base, entry[0]) for entry in entries]
