"""The log: reading, seeking, rolling, retention, and what damage does to it. On the real disk, under tmp_path."""

import errno
import os
import struct
from pathlib import Path
from zlib import crc32

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.storage import SMALL, batch, bodies, open_at, read_all
from zbusrpc.broker.storage.check import check_log, repair_log
from zbusrpc.broker.storage.errors import FormatVersionError, LogClosedError, ReadFailedError, WriteFailedError
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.finding import FindingKind
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.retention import Retention
from zbusrpc.broker.storage.segment import index_path, segment_name

DISK = RealDisk()


def fill(log: Log, count: int, *, now_ms: int = 1000, step_ms: int = 10) -> None:
    for number in range(count):
        log.append([batch(b"body %d" % log.next_offset)], now_ms + number * step_ms)


def expected(*offsets: int) -> dict[int, bytes]:
    return {offset: b"body %d" % offset for offset in offsets}


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "topic")


def log_files(directory: str) -> list[str]:
    return [name for name in sorted(os.listdir(directory)) if name.endswith(".log")]


def flip(directory: str, name: str, position: int) -> None:
    with open(Path(directory, name), "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


# -- reading ---------------------------------------------------------------------------------------------


def test_records_come_back_after_reopening(directory: str) -> None:
    """With and without a clean end, everything is there, over many segments."""
    log = open_at(DISK, directory)
    fill(log, 40)
    crashed = open_at(DISK, directory)
    assert bodies(crashed) == expected(*range(40))
    log.close()

    again = open_at(DISK, directory)

    assert len(again.segments) > 3
    assert bodies(again) == expected(*range(40))
    assert again.next_offset == again.synced_offset == 40
    assert not again.findings


def test_read_begins_anywhere_and_stops_where_told(directory: str) -> None:
    """Each offset is found; `until` is not passed; past the end there is nothing."""
    log = open_at(DISK, directory)
    fill(log, 30)

    assert [log.read(offset, bytes_max=1)[0].offset for offset in range(30)] == list(range(30))
    assert [record.offset for record in log.read(5, until=7)] == [5, 6]
    assert not log.read(30)
    assert not log.read(7, until=7)


def test_record_larger_than_a_read_comes_whole(directory: str) -> None:
    """At least one record is returned, however few bytes are asked for."""
    log = open_at(DISK, directory, LogOptions())
    log.append([batch(b"x" * 3_000_000, b"small")], 1)

    assert [len(record.body) for record in log.read(0, bytes_max=10)] == [3_000_000]
    assert log.read(1)[0].body == b"small"


def test_time_finds_the_first_record_at_or_after_it(directory: str) -> None:
    """Also when the clock was set back meanwhile."""
    log = open_at(DISK, directory)
    fill(log, 10, now_ms=1000)
    fill(log, 10, now_ms=500)
    fill(log, 10, now_ms=2000)
    times = [record.timestamp_ms for record in read_all(log)]

    for time_ms in range(400, 2200, 5):
        wanted = next((offset for offset, each in enumerate(times) if each >= time_ms), 30)
        assert log.offset_at_time(time_ms) == wanted


def test_many_batches_of_one_write_are_found_by_time(directory: str) -> None:
    """An entry of the index in the middle of a write does not hide what that write began with."""
    log = open_at(DISK, directory, LogOptions())
    fill(log, 1, now_ms=1)

    log.append([batch(b"x" * 40_000) for _ in range(8)], 50)

    assert log.offset_at_time(50) == 1
    log.sync()
    assert open_at(DISK, directory, LogOptions()).offset_at_time(50) == 1


def test_open_files_are_bounded(directory: str) -> None:
    """Many logs with many segments share a few open files."""
    handles = Handles(DISK, 5)
    logs = [open_log(DISK, handles, f"{directory}{n}", SMALL, now_ms=1) for n in range(6)]

    for _ in range(3):
        for log in logs:
            fill(log, 10)
    for log in logs:
        assert len(read_all(log)) == 30
        log.sync()

    assert len(handles) <= 5
    for log in logs:
        log.close()
    assert len(handles) == 0


def test_offset_is_never_given_out_twice(directory: str) -> None:
    """A log that lost its end goes on behind the positions that its readers have stored."""
    fill(open_at(DISK, directory), 3)

    log = open_at(DISK, directory, next_offset_min=100)

    assert log.append([batch(b"new")], 1) == 100
    assert bodies(open_at(DISK, directory)) == expected(0, 1, 2) | {100: b"new"}


def test_one_record_is_read_by_its_offset(directory: str) -> None:
    """Each is found, in small and large segments, first, last and between; what is not there is None."""
    for options, sizes in ((SMALL, [5, 90, 300]), (LogOptions(), [5, 3000, 40_000, 300_000])):
        log = open_at(DISK, f"{directory}-{len(sizes)}", options)
        written = {}
        for number in range(60):
            body = b"%d " % number * (sizes[number % len(sizes)] // 3)
            written[log.append([batch(body)], 1)] = body

        for each in (log, open_at(DISK, f"{directory}-{len(sizes)}", options)):
            for offset in [*range(59, -1, -7), *range(60)]:
                record = each.read_one(offset)
                assert record is not None
                assert (record.offset, record.body) == (offset, written[offset])
            assert each.read_one(60) is None
            assert each.read_one(-1) is None
            assert each.read_one(7, until=7) is None
            assert each.read_one(7, until=8) is not None


def test_one_record_that_is_gone_is_none(directory: str) -> None:
    """Between two segments, before the first, and where salvage left a gap."""
    log = open_at(DISK, directory, LogOptions(retention=Retention(when_passed=True)))
    fill(log, 20)
    flip(directory, log.segments[0].name, 32 + 70 * 5 + 60)

    assert log.read_one(5) is None
    assert log.read_one(4) is not None
    assert log.read_one(6) is not None
    log = open_at(DISK, directory, next_offset_min=100)
    fill(log, 1)
    assert log.read_one(50) is None
    log.empty(1)
    assert log.read_one(100) is None
    assert log.read_one(101) is None


@pytest.mark.parametrize("position", range(0, 70, 3))
@pytest.mark.parametrize("bit", [1, 128])
def test_flipped_bit_on_the_way_to_one_record_is_no_gap(directory: str, position: int, bit: int) -> None:
    """Whatever is hit in the records before it, the record that is there is found, or its damage is."""
    log = open_at(DISK, directory, LogOptions())
    fill(log, 10)
    path = Path(directory, log.segments[0].name)
    data = bytearray(path.read_bytes())
    start = 32 + (len(data) - 32) // 10 * 6
    data[start + position] ^= bit
    path.write_bytes(data)

    for offset in (7, 9, 5, 6):
        record = log.read_one(offset)
        if offset == 6:
            assert record is None
        else:
            assert record is not None
            assert record.body == b"body %d" % offset
    assert [finding.kind for finding in log.findings] == [FindingKind.DAMAGE]


# -- rolling and retention -------------------------------------------------------------------------------


def test_segments_roll_by_size_and_age(directory: str) -> None:
    """No segment is larger than told, except for a write that is larger itself; old ones are sealed."""
    log = open_at(DISK, directory, LogOptions(segment_bytes_max=700, segment_age_ms_max=1000))
    fill(log, 30, step_ms=0)
    assert all(segment.size <= 700 for segment in log.segments)
    count = len(log.segments)

    fill(log, 1, now_ms=2000)

    assert len(log.segments) == count + 1


def retained(directory: str, retention: Retention, *, now_ms: int = 2000, needed_offset: int = 0) -> Log:
    options = LogOptions(segment_bytes_max=700, checkpoint_bytes=300, retention=retention)
    log = open_at(DISK, directory, options)
    fill(log, 40)
    log.sync()
    log.retire(now_ms, needed_offset).remove()
    return log


def test_retention_by_age(directory: str) -> None:
    """Segments whose latest record is too old go, files and all; the others stay readable."""
    log = retained(directory, Retention(age_ms_max=1200 - 1000), now_ms=1400)

    assert 0 < log.start_offset <= 20
    assert log_files(directory) == [segment.name for segment in log.segments]
    assert bodies(log) == bodies(open_at(DISK, directory)) == expected(*range(log.start_offset, 40))


def test_retention_by_bytes(directory: str) -> None:
    """The oldest go until the rest fits."""
    log = retained(directory, Retention(bytes_max=1500))

    assert 700 < log.size_bytes <= 1500


def test_retention_when_all_have_passed(directory: str) -> None:
    """A segment stays as long as one of its records is needed."""
    log = retained(directory, Retention(when_passed=True), needed_offset=17)

    assert 0 < log.start_offset <= 17
    assert 17 in bodies(log)
    assert log.segments[0].next_offset > 17


@pytest.mark.parametrize("limit", [{"age_ms_max": 0}, {"bytes_max": 0}])
def test_retention_may_spare_what_is_needed(directory: str, limit: dict[str, int]) -> None:
    """Age and bytes let go of everything that is not needed any more, and of nothing else."""
    log = retained(directory, Retention(spare_needed=True, **limit), now_ms=10**9, needed_offset=17)

    assert 0 < log.start_offset <= 17
    assert log.segments[0].next_offset > 17
    assert list(bodies(log)) == list(range(log.start_offset, 40))
    log.retire(10**9, 40).remove()
    assert log.start_offset == 40


def test_emptied_log_goes_on(directory: str) -> None:
    """No record is left, in this process and the next; offsets go on; emptying twice is fine."""
    log = open_at(DISK, directory)
    fill(log, 40)
    size = log.size_bytes

    retired = log.empty(2000)

    assert not bodies(log)
    assert log.start_offset == log.next_offset == 40
    assert retired.size_bytes == size
    retired.remove()
    assert log_files(directory) == [log.segments[0].name]
    assert not log.empty(2000).segments
    assert open_at(DISK, directory).next_offset == 40
    fill(log, 1)
    log.sync()
    assert log.synced_offset == 41
    assert bodies(open_at(DISK, directory)) == expected(40)
    log.close()
    with pytest.raises(LogClosedError):
        log.empty(2000)


def test_last_segment_is_never_retired(directory: str) -> None:
    """What is being written stays, and so does the next offset."""
    log = retained(directory, Retention(age_ms_max=0, bytes_max=0, when_passed=True), now_ms=10**9, needed_offset=99)

    assert len(log.segments) == 1
    assert open_at(DISK, directory).next_offset == 40


# -- damage ----------------------------------------------------------------------------------------------


def test_torn_tail_is_cut_and_reported(directory: str) -> None:
    """Bytes of a write that was not finished are cut off, and counted; half a batch goes as a whole."""
    log = open_at(DISK, directory)
    fill(log, 5)
    whole = log.segments[-1].size
    log.append([batch(b"one", b"two", b"three")], 1)
    path = Path(directory, log.segments[-1].name)
    os.truncate(path, path.stat().st_size - 3)
    torn = path.stat().st_size - whole

    again = open_at(DISK, directory)

    assert bodies(again) == expected(*range(5))
    finding = again.findings[0]
    assert (finding.kind, finding.lost_bytes, finding.position) == (FindingKind.TORN_TAIL, torn, whole)
    assert str(finding) == f"{path.name}: torn tail of {torn} bytes at byte {whole}"
    assert path.stat().st_size == whole


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_damaged_segment_is_quarantined(directory: str, number: int, is_open: bool) -> None:
    """One batch is lost to readers; the damaged file is kept; all the rest is served, also after a restart."""
    log = open_at(DISK, directory)
    fill(log, 39)
    segment = log.segments[number]
    hit = segment.base_offset + 1
    flip(directory, segment.name, 32 + 70 + 66)
    damaged = Path(directory, segment.name).read_bytes()
    named = [finding.name for finding in check_log(DISK, directory)]
    if not is_open:
        log = open_at(DISK, directory)

    found = bodies(log)

    assert found == expected(*(offset for offset in range(39) if offset != hit))
    kept = Path(directory, segment.name.replace(".log", ".quarantined"))
    assert kept.read_bytes() == damaged
    assert named == [segment.name]
    assert [finding.kept_as for finding in log.findings] == [kept.name]
    fill(log, 1)
    log.close()
    again = open_at(DISK, directory)
    assert bodies(again) == found | expected(39)
    assert not again.findings
    assert [finding.name for finding in check_log(DISK, directory)] == [kept.name]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_damaged_batch_is_lost_as_a_whole(directory: str, number: int) -> None:
    """Whichever of its records is hit: once that is found, no part of the batch is served."""
    log = open_at(DISK, directory, LogOptions())
    fill(log, 1)
    start = log.segments[0].size
    log.append([batch(b"x" * 50, b"y" * 50, b"z" * 50)], 1)
    size = (log.segments[0].size - start) // 3
    fill(log, 1)
    flip(directory, log.segments[0].name, start + number * size + size - 1)
    read_all(log)

    assert bodies(log) == expected(0, 4)
    assert log.findings[0].lost_bytes == 3 * size
    assert bodies(open_at(DISK, directory)) == expected(0, 4)


def test_damaged_head_costs_no_record(directory: str) -> None:
    """The head of a segment can be made again."""
    fill(open_at(DISK, directory), 10)
    flip(directory, log_files(directory)[0], 20)

    log = open_at(DISK, directory)

    assert bodies(log) == expected(*range(10))
    assert log.findings[0].kind is FindingKind.DAMAGE


def test_missing_bytes_are_damage_where_they_were_safe(directory: str) -> None:
    """A file that is shorter than its index says is not taken for a torn tail."""
    log = open_at(DISK, directory)
    fill(log, 5)
    log.close()
    path = Path(directory, log_files(directory)[0])
    os.truncate(path, path.stat().st_size - 3)

    again = open_at(DISK, directory)

    assert bodies(again) == expected(*range(4))
    assert again.findings[0].kind is FindingKind.DAMAGE
    assert again.findings[0].kept_as


@pytest.mark.parametrize("number", [1, -1])
@pytest.mark.parametrize("reading", ["read", "read_one", "offset_at_time"])
def test_file_cut_under_an_open_log_is_damage(directory: str, number: int, reading: str) -> None:
    """Whichever way it is found: the rest is served, and new records come after it."""
    log = open_at(DISK, directory)
    fill(log, 39)
    segment = log.segments[number]
    hit = segment.next_offset - 1
    os.truncate(segment.path, segment.size - 3)

    if reading == "read":
        assert log.read(hit, until=hit + 1) == []
    elif reading == "read_one":
        assert log.read_one(hit) is None
    else:
        assert log.offset_at_time(1000 + 10 * hit) == hit + 1
    assert log.append([batch(b"body 39")], 2000) == 39
    assert bodies(log) == expected(*(offset for offset in range(40) if offset != hit))
    assert [finding.kind for finding in log.findings] == [FindingKind.DAMAGE]


def test_damage_that_cannot_be_quarantined_is_told_each_time() -> None:
    """Nothing is left out silently while the disk is full; when there is room, it is put in order."""
    disk = FaultyDisk()
    log = open_at(disk)
    fill(log, 39)
    log.close()
    log = open_at(disk)
    segment = log.segments[1]
    disk.remove(index_path(segment.path))
    disk.names[segment.path].data[-1] ^= 1
    disk.fail("create", errno.ENOSPC, calls=2)

    for _ in range(2):
        with pytest.raises(ReadFailedError, match="it cannot be quarantined: No space left"):
            bodies(log)

    assert list(bodies(log)) == [offset for offset in range(39) if offset != segment.next_offset - 1]


@pytest.mark.parametrize("count", [0, 20])
def test_damaged_head_of_the_segment_being_written_costs_no_record(directory: str, count: int) -> None:
    """Whether it has records or not: it is put in order, and the next record has its place."""
    log = open_at(DISK, directory, LogOptions())
    fill(log, count)
    damaged = Path(log.segments[-1].path)
    flip(directory, damaged.name, 20)

    log.verify()

    assert [finding.kind for finding in log.findings] == [FindingKind.DAMAGE]
    assert damaged.with_suffix(".quarantined").exists()
    fill(log, 1)
    log.close()
    again = open_at(DISK, directory)
    assert bodies(again) == expected(*range(count + 1))
    assert not again.findings


def test_name_that_is_taken_is_not_removed(directory: str) -> None:
    """What stands where a segment is to begin is not the log's to remove."""
    log = open_at(DISK, directory)
    fill(log, 3)
    Path(directory, segment_name(3)).write_bytes(b"somebody's")

    with pytest.raises(WriteFailedError, match="File exists"):
        log.empty(1)

    assert Path(directory, segment_name(3)).read_bytes() == b"somebody's"
    assert bodies(log) == expected(0, 1, 2)


# -- repair ----------------------------------------------------------------------------------------------


def test_repair_finds_and_salvages_everything(directory: str) -> None:
    """Damage in any number of segments and a torn tail are put in order in one go; then there is nothing to do."""
    log = open_at(DISK, directory)
    fill(log, 39)
    log.close()
    names = [segment.name for segment in log.segments]
    hit = [log.segments[number].base_offset + 1 for number in (0, 2)]
    for number in (0, 2):
        flip(directory, names[number], 32 + 70 + 66)
    with open(Path(directory, names[-1]), "ab") as file:
        file.write(b"torn")
    found = list(check_log(DISK, directory))

    repaired = repair_log(DISK, directory, 1)

    assert sorted((f.name, f.kind, f.lost_bytes) for f in repaired) == sorted(
        (f.name, f.kind, f.lost_bytes) for f in found
    )
    assert [(f.name, f.kind) for f in found] == [
        (names[0], FindingKind.DAMAGE),
        (names[2], FindingKind.DAMAGE),
        (names[-1], FindingKind.TORN_TAIL),
    ]
    assert not repair_log(DISK, directory, 1)
    again = open_at(DISK, directory)
    assert bodies(again) == expected(*(offset for offset in range(39) if offset not in hit))
    assert not again.findings
    left = list(check_log(DISK, directory))
    assert [f.name for f in left] == [f.kept_as for f in repaired if f.kept_as]
    assert not any(f.needs_attention for f in left)


def test_repair_makes_no_log_where_there_is_none(directory: str) -> None:
    """A mistyped name is told."""
    with pytest.raises(ReadFailedError, match=f"there is no log in {directory}"):
        repair_log(DISK, directory, 1)

    assert not os.path.exists(directory)


# -- many logs -------------------------------------------------------------------------------------------


def test_idle_log_costs_nothing_but_its_opening() -> None:
    """One that was closed cleanly keeps no file open, reads no record, and has nothing to write when it is closed."""
    disk = FaultyDisk()
    log = open_at(disk, options=LogOptions())
    fill(log, 5)
    log.close()
    assert disk.open_files == 0
    before, changes = disk.calls.copy(), disk.changes

    log = open_at(disk, options=LogOptions())

    assert disk.open_files == 0
    assert (disk.calls - before).total() == disk.calls["pread"] - before["pread"] == 2  # a head and an index
    assert log.next_offset == log.synced_offset == 5
    assert not log.is_dirty
    log.close()
    assert disk.changes == changes
    assert bodies(open_at(disk, options=LogOptions())) == expected(*range(5))


@pytest.mark.parametrize("content", [b"", b"ZBUSIDX\n", b"\0" * 200])
def test_bad_index_is_made_again(directory: str, content: bytes) -> None:
    """An index that is gone or damaged costs a scan and nothing else."""
    log = open_at(DISK, directory)
    fill(log, 30)
    log.close()
    for path in Path(directory).glob("*.index"):
        path.write_bytes(content)

    again = open_at(DISK, directory)

    assert bodies(again) == expected(*range(30))
    assert again.offset_at_time(1100) == 10
    assert not again.findings


def test_large_index_is_made_again(directory: str) -> None:
    """With many entries in the index, made while writing or by a scan, each offset and time is found."""
    log = open_at(DISK, directory, LogOptions())
    for number in range(20):
        log.append([batch(b"x" * 20_000), batch(b"y" * 20_000, b"z")], 100 + number)

    for each in (log, open_at(DISK, directory, LogOptions())):
        index = each.segments[0].index
        assert index is not None
        assert len(index) == 10
        assert [each.read(offset, bytes_max=1)[0].offset for offset in range(60)] == list(range(60))
        assert [each.offset_at_time(100 + number) for number in range(21)] == list(range(0, 61, 3))


def test_newer_format_is_refused(directory: str) -> None:
    """Both versions are named, and no file is touched."""
    log = open_at(DISK, directory)
    fill(log, 3)
    path = Path(directory, log.segments[0].name)
    data = bytearray(path.read_bytes())
    struct.pack_into(">H", data, 8, 2)
    struct.pack_into(">I", data, 28, crc32(data[:28]))
    path.write_bytes(data)

    with pytest.raises(FormatVersionError, match=rf"{path.name} has format version 2, .* up to 1"):
        open_at(DISK, directory)

    assert path.read_bytes() == data


@pytest.mark.parametrize("step", ["salvage", "renamed"])
def test_interrupted_salvage_is_finished(directory: str, step: str) -> None:
    """Whether the damaged file was still in place or not, the next start ends with the good records."""
    log = open_at(DISK, directory)
    fill(log, 5)
    path = Path(directory, log.segments[0].name)
    good = path.read_bytes()
    path.with_suffix(".salvage").write_bytes(good if step == "renamed" else good[:50])
    if step == "renamed":
        path.rename(path.with_suffix(".quarantined"))

    assert bodies(open_at(DISK, directory)) == expected(*range(5))
    assert not path.with_suffix(".salvage").exists()


def test_closed_log_refuses_records(directory: str) -> None:
    """Closing twice is fine; appending afterwards is not, and says why."""
    log = open_at(DISK, directory)
    log.close()
    log.close()

    with pytest.raises(LogClosedError, match=r"the log is closed: it was closed"):
        log.append([batch(b"late")], 1)
