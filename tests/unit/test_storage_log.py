"""The log: reading, seeking, rolling, retention, and what damage does to it. On the real disk, under tmp_path."""

import os
import struct
from pathlib import Path
from zlib import crc32

import pytest

from tests.support.storage import SMALL, batch, bodies, open_at, read_all
from zbusrpc.broker.storage.check import check_log
from zbusrpc.broker.storage.errors import FormatVersionError, LogClosedError
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log, LogOptions
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.retention import Retention
from zbusrpc.broker.storage.salvage import FindingKind

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

    with pytest.raises(LogClosedError, match=r"topic is closed: it was closed"):
        log.append([batch(b"late")], 1)
