"""Compaction by key: what stays, what goes, and what happens to those who use the log meanwhile."""

import errno
import random
from itertools import product

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.storage import SMALL, bodies, compact, open_at, read_all, table
from zbusrpc.broker.storage import compaction_job
from zbusrpc.broker.storage.check import check_log
from zbusrpc.broker.storage.compaction import PAUSE_MS
from zbusrpc.broker.storage.compaction_job import TOMBSTONE_GRACE_MS, whole_batches
from zbusrpc.broker.storage.errors import DamageError, LogClosedError, ReadFailedError
from zbusrpc.broker.storage.finding import FindingKind
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import CONTINUES, MORE, Record, encode_batch, heads
from zbusrpc.broker.storage.retention import Retention

COMPACT = LogOptions(segment_bytes_max=700, checkpoint_bytes=300, compact=True)


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


def put(log: Log, *pairs: str, now_ms: int = 1000) -> None:
    """Append a batch of records `key=body`; without `=` there is no key."""
    records = []
    for pair in pairs:
        key, has_key, body = pair.rpartition("=")
        records.append(Record(body.encode(), key=key.encode() if has_key else b""))
    log.append([records], now_ms)


def seal(log: Log) -> None:
    """Fill the segment, so that the next record begins another, and make everything safe."""
    base = log.segments[-1].base_offset
    while log.segments[-1].base_offset == base:
        put(log, "-" * 200)
    log.sync()


def said(log: Log) -> dict[int, str]:
    """Return all records but those that only fill, as they were put."""
    return {
        record.offset: (record.key + b"=" if record.key else b"").decode() + record.body.decode()
        for record in read_all(log)
        if not record.body.startswith(b"---")
    }


def fill(log: Log, count: int = 60, keys: int = 5) -> None:
    """Write many versions of a few keys."""
    for number in range(count):
        put(log, f"key-{number % keys}={number}", f"no key {number}" if number % 7 == 0 else f"once-{number}=x")
    log.sync()


def records_by_segment(log: Log) -> list[list[Record]]:
    return [log.read(s.base_offset, until=s.next_offset, bytes_max=10**6) for s in log.segments if not s.is_empty]


# -- what stays ------------------------------------------------------------------------------------------


def test_latest_record_of_each_key_stays(disk: FaultyDisk) -> None:
    """The latest of each key, and all without a key, at their old offsets, in this process and the next."""
    log = open_at(disk)
    put(log, "a=1")
    put(log, "b=1")
    put(log, "no key")
    put(log, "a=2", "c=1")
    seal(log)
    put(log, "b=2")
    put(log, "no key")
    seal(log)

    job = compact(log)

    expected = {2: "no key", 3: "a=2", 4: "c=1"}
    assert {offset: text for offset, text in said(log).items() if offset < 5} == expected
    assert job.dropped_records == 2
    assert list(said(log).values()) == [*expected.values(), "b=2", "no key"]
    assert said(open_at(disk)) == said(log)
    log.close()
    again = open_at(disk)
    assert said(again) == said(log)
    assert not again.findings
    assert not list(check_log(disk, "/topic"))


def test_segment_being_written_is_not_rewritten_and_counts(disk: FaultyDisk) -> None:
    """A key in it lets older records go; both of its own stay."""
    log = open_at(disk)
    put(log, "a=1")
    seal(log)
    put(log, "a=2")
    put(log, "a=3")
    log.sync()

    compact(log)

    assert list(said(log).values()) == ["a=2", "a=3"]


def test_record_that_is_not_safe_replaces_none(disk: FaultyDisk) -> None:
    """After a power cut that loses the later record, the one before it is there."""
    log = open_at(disk)
    put(log, "a=1")
    seal(log)
    put(log, "a=2")

    compact(log)

    assert list(said(log).values()) == ["a=1", "a=2"]
    for title, image in disk.images():
        assert "a=1" in said(open_at(image)).values(), title
    log.sync()
    compact(log)
    assert list(said(log).values()) == ["a=2"]


def test_what_is_still_needed_stays(disk: FaultyDisk) -> None:
    """Segments that end behind `until` are left alone."""
    log = open_at(disk)
    for number in range(3):
        put(log, f"a={number}")
        seal(log)
    third = log.segments[2].base_offset
    middle = next(offset for offset, text in said(log).items() if text == "a=1")

    compact(log, until=third - 1)
    assert list(said(log).values()) == ["a=1", "a=2"]

    compact(log, until=third)
    assert list(said(log).values()) == ["a=2"]
    assert log.read_one(middle) is None


def test_tombstone_removes_its_key_and_goes_after_its_grace(disk: FaultyDisk) -> None:
    """It goes once it is old, in the compaction after that which removed the earlier records of its key."""
    log = open_at(disk)
    put(log, "a=1", "b=1")
    seal(log)
    put(log, "a=")
    put(log, "=")  # neither key nor body: not a tombstone
    seal(log)
    old_ms = 1000 + TOMBSTONE_GRACE_MS

    compact(log, now_ms=old_ms)
    assert list(said(log).values()) == ["b=1", "a=", ""]
    compact(log, now_ms=old_ms)
    assert list(said(log).values()) == ["b=1", "a=", ""]
    compact(log, now_ms=old_ms + 1)
    assert list(said(log).values()) == ["b=1", ""]
    put(log, "a=2")
    assert table(read_all(log)) == {b"a": b"2", b"b": b"1"}


def test_tombstone_that_is_old_at_once_waits_for_its_records(disk: FaultyDisk) -> None:
    """While an earlier record may come back after a crash, the tombstone stays."""
    log = open_at(disk)
    put(log, "a=1")
    seal(log)
    put(log, "a=")
    seal(log)
    late_ms = 10 * TOMBSTONE_GRACE_MS

    compact(log, now_ms=late_ms)
    assert list(said(log).values()) == ["a="]
    compact(log, now_ms=late_ms)
    assert list(said(log).values()) == []


def test_tombstone_is_met_after_a_restart(disk: FaultyDisk) -> None:
    """A process that knows nothing of earlier compactions lets no tombstone go before its records."""
    log = open_at(disk)
    put(log, "a=1")
    seal(log)
    compact(log)
    put(log, "a=")
    seal(log)
    log.close()

    log = open_at(disk)
    compact(log, now_ms=10 * TOMBSTONE_GRACE_MS)

    assert table(read_all(log)) == {}
    assert list(said(log).values()) == ["a="]


def test_segment_of_which_nothing_is_left_goes(disk: FaultyDisk) -> None:
    """Its files too; offsets go on, and reading goes over the gap."""
    log = open_at(disk)
    put(log, "first")
    seal(log)
    begin = log.next_offset
    for number in range(8):
        put(log, f"a={number}{'.' * 130}")
    put(log, "a=last")
    seal(log)
    count, next_offset = len(log.segments), log.next_offset

    compact(log)

    assert len(log.segments) < count
    assert len([name for name in disk.list("/topic") if name.endswith(".log")]) == len(log.segments)
    assert list(said(log).values()) == ["first", "a=last"]
    assert [record.body for record in log.read(begin)][:1] == [b"last"]
    assert log.read_one(begin) is None
    assert log.next_offset == next_offset
    log.close()
    again = open_at(disk)
    assert said(again) == said(log)
    assert again.next_offset == next_offset
    assert not again.findings


def test_what_is_left_of_a_batch_is_a_batch(disk: FaultyDisk) -> None:
    """Whatever part of it goes: readers, checks and salvage find whole batches."""
    rng = random.Random(3)
    for _ in range(200):
        records, chunks = [Record(b"%d" % n) for n in range(rng.randint(1, 9))], []
        sizes = []
        position = 0
        while position < len(records):
            sizes.append(min(rng.randint(1, 4), len(records) - position))
            encode_batch(records[position : position + sizes[-1]], position, 1, chunks)
            position += sizes[-1]
        data = b"".join(chunks)
        stays = [rng.random() < 0.5 for _ in records]
        marked, start = [], 0
        for (stop, _, _, flags), each in zip(heads(data), stays, strict=True):
            marked.append((data[start:stop], flags, each))
            start = stop

        flags = [flags for *_, flags in heads(b"".join(whole_batches(marked)))]

        expected: list[int] = []
        for size in sizes:
            left, stays = sum(stays[:size]), stays[size:]
            expected += [(MORE if n < left - 1 else 0) | (CONTINUES if n else 0) for n in range(left)]
        assert flags == expected


# -- when ------------------------------------------------------------------------------------------------


def test_compaction_is_due_when_half_of_what_is_sealed_is_new(disk: FaultyDisk) -> None:
    """Not before something is sealed and safe, not twice in a minute, not while one runs, not against the options."""
    log = open_at(disk, options=COMPACT)
    put(log, "a=1")
    assert not log.is_compaction_due(1000)
    for number in range(8):
        put(log, f"big-{number}={'.' * 200}")
        seal(log)
    assert log.is_compaction_due(1000)
    assert not log.is_compaction_due(1000, until=1)

    job = log.begin_compaction(1000)
    assert not log.is_compaction_due(1000 + PAUSE_MS)
    job.run()
    log.end_compaction(job, None)
    assert not log.is_compaction_due(1000 + PAUSE_MS)
    sealed = len(log.segments) - 1
    while len(log.segments) - 1 < 2 * sealed - 1:
        seal(log)
    assert not log.is_compaction_due(1000 + PAUSE_MS)
    seal(log)
    seal(log)
    assert log.is_compaction_due(1000 + PAUSE_MS)
    assert not log.is_compaction_due(1000 + PAUSE_MS - 1)
    log.close()
    assert not log.is_compaction_due(1000 + PAUSE_MS)
    assert not open_at(disk, options=SMALL).is_compaction_due(1000 + PAUSE_MS)


def test_restart_does_not_make_compaction_due(disk: FaultyDisk) -> None:
    """What was rewritten is known to be."""
    log = open_at(disk, options=COMPACT)
    fill(log)
    compact(log)
    log.close()

    assert not open_at(disk, options=COMPACT).is_compaction_due(1000)


def test_memory_for_keys_is_bounded(disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more keys than fit, the log is compacted in several goes, to the same end."""
    monkeypatch.setattr(compaction_job, "KEYS_BYTES_MAX", 600)
    log = open_at(disk)
    fill(log, 200, 40)
    before = table(read_all(log))
    dropped = [compact(log).dropped_records for _ in log.segments]

    assert sum(map(bool, dropped)) > 2
    assert table(read_all(log)) == before
    sealed = [record for records in records_by_segment(log)[:-1] for record in records if record.key]
    assert len({record.key for record in sealed}) == len(sealed)


def test_compaction_of_what_is_compacted_writes_nothing(disk: FaultyDisk) -> None:
    """Segments that would stay as they are, are not written anew."""
    log = open_at(disk)
    fill(log)
    compact(log)
    calls = disk.calls["create"], disk.calls["append"], disk.calls["rename"]

    job = compact(log)

    assert (disk.calls["create"], disk.calls["append"], disk.calls["rename"]) == calls
    assert not job.dropped_records


# -- meanwhile -------------------------------------------------------------------------------------------


def test_reading_goes_on_while_it_runs(disk: FaultyDisk) -> None:
    """Readers in the middle of any segment see each record that stays once, in order, whenever files are exchanged."""
    log = open_at(disk)
    fill(log, 120)
    before = {record.offset: record for record in read_all(log)}
    readers: dict[int, list[Record]] = {offset: log.read(offset, bytes_max=1) for offset in range(0, 200, 7)}
    job = log.begin_compaction(1000)
    for found in readers.values():
        found.extend(log.read(found[-1].offset + 1, bytes_max=1))
    job.run()
    for found in readers.values():
        found.extend(log.read(found[-1].offset + 1, bytes_max=1))
    assert log.end_compaction(job, None)

    after = {record.offset: record for record in read_all(log)}
    assert len(after) < len(before)
    for start, found in readers.items():
        while more := log.read(found[-1].offset + 1, bytes_max=150):
            found.extend(more)
        offsets = [record.offset for record in found]
        assert offsets == sorted(set(offsets))
        assert {offset for offset in after if offset >= start} <= set(offsets)
        assert all(record == before[record.offset] for record in found)
    for offset, record in before.items():
        assert log.read_one(offset) == (record if offset in after else None)
    assert not log.findings


def test_writing_goes_on_while_it_runs(disk: FaultyDisk) -> None:
    """What is appended meanwhile is there afterwards, over any number of new segments."""
    log = open_at(disk)
    fill(log)
    job = log.begin_compaction(1000)
    fill(log)
    job.run()
    fill(log)
    before = table(read_all(log))

    assert log.end_compaction(job, None)

    assert table(read_all(log)) == before
    log.close()
    assert table(read_all(open_at(disk))) == before


@pytest.mark.parametrize("is_run", [True, False])
def test_retired_segment_is_not_brought_back(disk: FaultyDisk, is_run: bool) -> None:
    """Whether it went before its turn or after it, removed or not yet: it stays away, and so do its files."""
    log = open_at(disk, options=LogOptions(segment_bytes_max=700, retention=Retention(when_passed=True)))
    fill(log)
    job = log.begin_compaction(1000)
    if is_run:
        job.run()
    retired = log.retire(1000, log.segments[4].base_offset)
    start = log.start_offset
    assert len(retired.segments) == 4
    if not is_run:
        retired.remove()
        job.run()
    before = table(read_all(log))

    replaced = log.end_compaction(job, None)
    assert replaced
    replaced.remove()
    if is_run:
        retired.remove()

    assert log.start_offset >= start
    names = [name for name in disk.list("/topic") if name.endswith((".log", ".tmp"))]
    assert names == [segment.name for segment in log.segments]
    assert table(read_all(log)) == table(read_all(open_at(disk))) == before


def test_emptied_log_stays_empty(disk: FaultyDisk) -> None:
    """Although a compaction had its records in hand."""
    log = open_at(disk)
    fill(log)
    job = log.begin_compaction(1000)
    job.run()
    log.empty(1000).remove()

    log.end_compaction(job, None)

    assert not bodies(log)
    log.close()
    assert not bodies(open_at(disk))


def test_quarantine_meanwhile_ends_it(disk: FaultyDisk) -> None:
    """The latest record of a key may have been lost: those before it stay, and the next compaction goes by what is."""
    log = open_at(disk)
    fill(log)
    job = log.begin_compaction(1000)
    job.run()
    disk.names[log.segments[3].path].data[-1] ^= 1
    before = said(log)
    assert len(log.findings) == 1

    assert not log.end_compaction(job, None)

    assert said(log) == before
    assert not [name for name in disk.list("/topic") if name.endswith(".tmp")]
    compact(log)
    assert table(read_all(log)) == table(read_all(open_at(disk)))


def test_old_files_are_removed_later(disk: FaultyDisk) -> None:
    """Exchanging frees no room, so that it takes no time; whoever removes them does it once, or the next start does."""
    log = open_at(disk)
    fill(log)
    before = {segment.path: disk.names[segment.path] for segment in log.segments}
    job = log.begin_compaction(1000)
    job.run()

    replaced = log.end_compaction(job, None)

    assert replaced
    assert len(replaced.paths) > 3
    kept = {path.replace(".replaced.tmp", ".log"): disk.names[path] for path in replaced.paths}
    assert all(before[path] is inode for path, inode in kept.items())
    crashed = disk.names.keys()
    open_at(disk)
    assert {path for path in crashed if path.endswith(".tmp")} == set(replaced.paths)
    assert not [path for path in disk.names if path.endswith(".tmp")]
    replaced.remove()


def test_compaction_does_without_second_names(disk: FaultyDisk) -> None:
    """Not every file system has them."""
    log = open_at(disk)
    fill(log)
    before = table(read_all(log))
    disk.fail("link", errno.EPERM, calls=100)

    compact(log)

    assert table(read_all(log)) == table(read_all(open_at(disk))) == before
    assert not [path for path in disk.names if path.endswith(".tmp")]


# -- failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 2, -1])
@pytest.mark.parametrize("is_head", [False, True])
def test_damage_found_by_compaction_is_quarantined(disk: FaultyDisk, number: int, is_head: bool) -> None:
    """The damaged file is kept and reported, as when a reader meets it; its good records, and all others, stay."""
    log = open_at(disk)
    fill(log)
    before = said(log)
    segment = log.segments[number]
    data = disk.names[segment.path].data
    data[20 if is_head else -1] ^= 1
    lost = set() if is_head else {segment.next_offset - 1, segment.next_offset - 2}  # a batch
    damaged = bytes(data)

    job = log.begin_compaction(1000)
    with pytest.raises(DamageError) as raised:
        job.run()
    assert not log.end_compaction(job, raised.value)

    assert [(f.kind, f.name) for f in log.findings] == [(FindingKind.DAMAGE, segment.name)]
    assert bytes(disk.names[f"/topic/{log.findings[0].kept_as}"].data) == damaged
    assert said(log) == {offset: text for offset, text in before.items() if offset not in lost}
    log.sync()
    compact(log)
    assert len(log.findings) == 1
    assert not [name for name in disk.list("/topic") if name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("operation", "call"),
    [("sync_directory", 1), *product(["create", "append", "sync", "pread"], [1, 2, 4])],
)
def test_failed_compaction_changes_nothing(disk: FaultyDisk, operation: str, call: int) -> None:
    """No record goes, no file stays, and the next one may succeed."""
    log = open_at(disk)
    fill(log)
    before = said(log)
    disk.fail(operation, errno.ENOSPC, call=call)
    job = log.begin_compaction(1000)

    with pytest.raises(OSError, match="No space left"):
        job.run()
    assert not log.end_compaction(job, OSError(errno.ENOSPC, "No space left"))

    assert said(log) == before
    assert not [name for name in disk.list("/topic") if name.endswith(".tmp")]
    assert disk.open_files <= len(log.segments)
    compact(log)
    assert len(said(log)) < len(before)


@pytest.mark.parametrize("call", range(1, 9))
def test_failed_renaming_leaves_old_or_new(disk: FaultyDisk, call: int) -> None:
    """Some segments are compacted and some not; all is readable, now and after a restart; no file stays behind."""
    log = open_at(disk)
    fill(log)
    before = table(read_all(log))
    job = log.begin_compaction(1000)
    job.run()
    disk.fail("rename", errno.EIO, call=call)

    replaced = log.end_compaction(job, None)

    assert bool(replaced) == (call % 2 == 0)  # every second one is that of an index, which can be made again
    if replaced:
        replaced.remove()
    assert table(read_all(log)) == before
    assert not [name for name in disk.list("/topic") if name.endswith(".tmp")]
    again = open_at(disk)
    assert table(read_all(again)) == before
    assert not again.findings
    compact(log)
    assert table(read_all(log)) == before


def test_damage_that_cannot_be_quarantined_is_met_again(disk: FaultyDisk) -> None:
    """While the disk is full, neither compaction nor readers pass over it."""
    log = open_at(disk)
    fill(log)
    segment = log.segments[2]
    disk.names[segment.path].data[-1] ^= 1
    disk.fail("create", errno.ENOSPC, calls=2)
    job = log.begin_compaction(1000)
    with pytest.raises(DamageError) as raised:
        job.run()

    assert not log.end_compaction(job, raised.value)

    assert not log.findings
    with pytest.raises(ReadFailedError, match="cannot be quarantined"):
        bodies(log)
    assert len(bodies(log)) == 118


def test_closed_log_is_not_compacted(disk: FaultyDisk) -> None:
    """Neither is one begun, nor does one that ran take effect."""
    log = open_at(disk)
    fill(log)
    before = said(log)
    job = log.begin_compaction(1000)
    job.run()
    log.close()

    assert not log.end_compaction(job, None)

    with pytest.raises(LogClosedError):
        log.begin_compaction(1000)
    assert said(open_at(disk)) == before
