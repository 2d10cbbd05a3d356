"""Group commit, driven by hand: who is told what, and when; what errors of the disk do to whom."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.storage import SMALL, Turns, batch, bodies, open_at
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.errors import (
    BacklogFullError,
    LogClosedError,
    ReadFailedError,
    RecordLimitError,
    StorageError,
    WriteFailedError,
)
from zbusrpc.broker.storage.files import Disk, RealDisk
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record

LARGE = LogOptions()


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


# -- levels ----------------------------------------------------------------------------------------------


def test_one_write_serves_a_turn(disk: FaultyDisk) -> None:
    """What was handed in during one turn is one write, and nobody is told before it."""
    turns = Turns(open_at(disk, options=LARGE), Durability.OS)
    before = disk.calls["append"]

    for number in range(5):
        turns.submit(b"%d" % number, b"more")

    assert not turns.results
    assert turns.committer.readable_offset == 0
    turns.end_turn()
    assert turns.results == [(offset, None) for offset in (0, 2, 4, 6, 8)]
    assert disk.calls["append"] == before + 1
    assert turns.committer.readable_offset == 10


def test_one_sync_serves_all_who_wait(disk: FaultyDisk) -> None:
    """At level disk the answer comes after the sync; what is written meanwhile shares the next one."""
    turns = Turns(open_at(disk, options=LARGE))
    turns.settle()
    for number in range(5):
        turns.submit(b"%d" % number)
    turns.end_turn()
    for number in range(5):
        turns.submit(b"next %d" % number)
        turns.end_turn()

    assert not turns.results
    assert len(turns.work) == 1
    assert turns.committer.readable_offset == 0
    turns.run_worker()
    assert turns.results == [(offset, None) for offset in range(10)][:5]
    assert turns.committer.readable_offset == 5
    turns.run_worker()
    assert len(turns.results) == 10
    assert not turns.work
    assert turns.committer.is_idle


def test_memory_answers_at_once(disk: FaultyDisk) -> None:
    """At level memory the answer does not wait for the write; a write that fails is counted."""
    turns = Turns(open_at(disk, options=LARGE), Durability.MEMORY)

    turns.submit(b"a", b"b")
    turns.submit(b"c")

    assert turns.results == [(0, None), (2, None)]
    disk.fail("append", errno.ENOSPC)
    turns.end_turn()
    assert turns.committer.lost_after_ack == 2


def test_a_full_disk_is_told_in_the_log_and_counted(disk: FaultyDisk, caplog: pytest.LogCaptureFixture) -> None:
    """One line of each cause a minute, with the directory; producers read the cause, and no path of the machine."""
    turns = Turns(open_at(disk, options=LARGE), Durability.OS)
    for error in (errno.ENOSPC, errno.ENOSPC, errno.EIO, errno.ENOSPC):
        disk.fail("append", error)
        turns.submit(b"a", b"b")
        turns.end_turn()

    lines = [record.getMessage() for record in caplog.records if "storage.refused" in record.getMessage()]
    assert len(lines) == 2
    assert all("/topic" in line for line in lines)
    assert turns.committer.refused == 8
    told = [str(error) for _, error in turns.results]
    assert ["No space left" in text for text in told] == [True, True, False, True]
    assert not any("/" in text.replace("Input/output", "") for text in told)


def test_log_is_checkpointed_at_level_os(disk: FaultyDisk) -> None:
    """Though nobody waits for a sync, the index is stored now and then, so that opening stays quick."""
    turns = Turns(open_at(disk, options=SMALL), Durability.OS)

    for _ in range(20):
        turns.submit(b"x" * 100)
        turns.settle()

    stored = [segment.indexed_end for segment in turns.committer.log.segments]
    assert len(stored) > 2
    assert all(stored[:-1])


def test_when_idle_comes_after_everybody(disk: FaultyDisk) -> None:
    """Whoever wants to close the log hears when all are done."""
    turns = Turns(open_at(disk, options=LARGE))
    told: list[int] = []
    turns.submit(b"a")

    turns.committer.when_idle(lambda: told.append(len(turns.results)))

    assert not told
    turns.settle()
    assert told == [1]


def test_what_a_kill_left_is_synced_before_it_is_shown(disk: FaultyDisk) -> None:
    """Records that only the system held are read at level disk once they are safe, and not before."""
    Turns(open_at(disk, options=LARGE)).settle()
    killed = Turns(open_at(disk, options=LARGE), Durability.OS)
    killed.submit(b"a", b"b")
    killed.end_turn()

    turns = Turns(open_at(disk, options=LARGE))

    assert turns.committer.log.next_offset == 2
    assert turns.committer.readable_offset == 0
    turns.settle()
    assert turns.committer.readable_offset == 2
    for _, image in disk.images():
        assert bodies(open_at(image)) == {0: b"a", 1: b"b"}


def submit_at(turns: Turns, level: Durability | None, name: str, told: list[str]) -> None:
    def done(offset: int, error: StorageError | None) -> None:
        told.append(f"{name} {offset}" if error is None else f"{name} {type(error).__name__}")

    turns.committer.submit(batch(name.encode(), b"+"), done, level)


@pytest.mark.parametrize("level", list(Durability))
def test_batch_may_have_a_level_of_its_own(disk: FaultyDisk, level: Durability) -> None:
    """Whatever the log's level: each batch is told at its own, in the order of submission within that level."""
    turns = Turns(open_at(disk, options=LARGE), level)
    turns.settle()
    told: list[str] = []
    for number in range(2):
        for own in (Durability.DISK, None, Durability.OS, Durability.MEMORY):
            submit_at(turns, own, f"{own or 'own'}-{number}", told)
    expected = [f"{own}-{n} {8 * n + 2 * k}" for n in (0, 1) for k, own in enumerate(("disk", "own", "os", "memory"))]

    def at(*levels: Durability) -> list[str]:
        names = {each.value for each in levels} | ({"own"} if level in levels else set())
        return [each for each in expected if each.split("-")[0] in names]

    assert told == at(Durability.MEMORY)
    turns.end_turn()
    assert told == at(Durability.MEMORY) + at(Durability.OS)
    assert turns.committer.backlog_bytes > 0
    turns.settle()
    assert told == at(Durability.MEMORY) + at(Durability.OS) + at(Durability.DISK)
    assert turns.committer.backlog_bytes == 0
    assert turns.committer.is_idle


def test_batch_at_disk_is_safe_in_a_log_at_os(disk: FaultyDisk) -> None:
    """When it is told, a power cut loses neither it nor what was written before it."""
    turns = Turns(open_at(disk), Durability.OS)
    told: list[str] = []
    for number in range(6):
        submit_at(turns, None, f"os{number}", told)
        turns.end_turn()
    submit_at(turns, Durability.DISK, "disk", told)
    turns.end_turn()
    submit_at(turns, None, "later", told)
    turns.end_turn()
    assert "disk 12" not in told

    turns.run_worker()
    while "disk 12" not in told:
        turns.run_worker()

    for _, image in disk.images():
        assert list(bodies(open_at(image)))[:14] == list(range(14))


def test_batch_at_os_is_shown_in_a_log_at_disk_once_it_is_safe(disk: FaultyDisk) -> None:
    """Its producer is told at once; readers wait for the sync, which comes although no producer waits."""
    turns = Turns(open_at(disk, options=LARGE))
    turns.settle()
    told: list[str] = []
    submit_at(turns, Durability.OS, "a", told)
    turns.end_turn()
    submit_at(turns, Durability.OS, "b", told)
    turns.end_turn()

    assert told == ["a 0", "b 2"]
    assert turns.committer.readable_offset == 0
    turns.run_worker()
    assert turns.committer.readable_offset == 2
    turns.run_worker()
    assert turns.committer.readable_offset == 4
    assert not turns.work


def test_failed_sync_is_told_to_batches_at_disk_only(disk: FaultyDisk) -> None:
    """Who asked for less was told before, and rightly."""
    turns = Turns(open_at(disk, options=LARGE), Durability.OS)
    told: list[str] = []
    disk.fail("sync", errno.EIO)
    for name, level in (("a", None), ("b", Durability.DISK), ("c", None)):
        submit_at(turns, level, name, told)

    turns.settle()

    assert told == ["a 0", "c 4", "b LogClosedError"]


# -- refusals --------------------------------------------------------------------------------------------


def test_bad_record_is_refused_alone(disk: FaultyDisk) -> None:
    """A record that does not fit is refused at once; others of the same turn do not notice."""
    turns = Turns(open_at(disk))
    turns.submit(b"good")

    with pytest.raises(RecordLimitError, match="tag of 300 bytes exceeds the limit of 255 bytes"):
        turns.committer.submit([Record(b"", tag=b"t" * 300)], lambda *_: None)

    turns.settle()
    assert turns.results == [(0, None)]


def test_backlog_is_bounded(disk: FaultyDisk) -> None:
    """Who hands in more than may wait is refused until the disk has caught up."""
    turns = Turns(open_at(disk, options=LARGE), backlog_bytes_max=1000)
    for _ in range(2):
        turns.submit(b"x" * 400)
        turns.end_turn()

    with pytest.raises(BacklogFullError, match="would exceed the limit of 1000 bytes"):
        turns.submit(b"x" * 400)

    turns.settle()
    assert turns.committer.backlog_bytes == 0
    turns.submit(b"x" * 400)


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("written", [0, 1, 60, 100])
@pytest.mark.parametrize("call", [1, 2, 3, 5, 8])
def test_failed_write_fails_its_producers_only(disk: FaultyDisk, call: int, written: int, error: int) -> None:
    """They get the cause; nothing of their records stays; whoever comes next is served."""
    turns = Turns(open_at(disk))
    turns.settle()
    disk.fail("append", error, call=call, written=written)

    for number in range(12):
        turns.submit(b"%d" % number * 50)
        turns.settle()

    failed = [error for _, error in turns.results if error is not None]
    assert len(failed) <= 1  # the failed call may have been that of an index, which nobody misses
    assert all(isinstance(each, WriteFailedError) and os.strerror(error) in str(each) for each in failed)
    stored = list(bodies(turns.committer.log).values())
    assert stored == [b"%d" % n * 50 for n in range(12) if turns.results[n][1] is None]
    again = open_at(disk)
    assert list(bodies(again).values()) == stored
    assert not again.findings


def test_full_disk_fails_until_space_returns(disk: FaultyDisk) -> None:
    """While the disk is full producers are told so, and readers go on."""
    turns = Turns(open_at(disk, options=LARGE))
    turns.submit(b"before")
    turns.settle()
    disk.fail("append", errno.ENOSPC, calls=3, written=7)

    for _ in range(5):
        turns.submit(b"x")
        turns.settle()
        assert bodies(turns.committer.log)[0] == b"before"

    assert [error is None for _, error in turns.results] == [True, False, False, False, True, True]
    assert [offset for offset, error in turns.results if error is None] == [0, 1, 2]


@pytest.mark.parametrize("operation", ["sync", "sync_directory"])
def test_failed_sync_closes_the_log(disk: FaultyDisk, operation: str) -> None:
    """Everybody who waits is told; nothing is synced again; later producers hear why; safe records are readable."""
    turns = Turns(open_at(disk))
    turns.submit(b"safe")
    turns.settle()
    disk.fail(operation, errno.EIO)
    for _ in range(8):
        turns.submit(b"x" * 200)
        turns.end_turn()
    calls = disk.calls[operation]

    turns.settle()

    stored = sum(error is None for _, error in turns.results)
    assert 1 <= stored <= 2  # the sync of a turn without a new segment does not touch the directory
    assert [isinstance(error, LogClosedError) for _, error in turns.results] == [n >= stored for n in range(9)]
    assert disk.calls[operation] == calls + 1
    with pytest.raises(LogClosedError, match=r"the log is closed: cannot sync: Input/output error"):
        turns.submit(b"late")
    assert turns.committer.readable_offset == stored
    assert turns.committer.log.read(0, until=stored)[0].body == b"safe"


def test_write_that_cannot_be_cut_closes_the_log(disk: FaultyDisk) -> None:
    """If the part of a failed write cannot be taken back, nothing may follow it."""
    turns = Turns(open_at(disk), Durability.OS)
    disk.fail("append", errno.ENOSPC, written=9)
    disk.fail("truncate", errno.EIO)

    turns.submit(b"x")
    turns.end_turn()

    assert isinstance(turns.results[0][1], WriteFailedError)
    with pytest.raises(LogClosedError, match="cannot cut what was written of it"):
        turns.submit(b"y")
    assert open_at(disk).findings[0].lost_bytes == 9


def test_segment_that_cannot_be_begun_fails_the_write_only(disk: FaultyDisk) -> None:
    """The log goes on in the segment it has, and tries again with the next write."""
    turns = Turns(open_at(disk), Durability.OS)
    turns.submit(b"x" * 600)
    turns.settle()
    disk.fail("create", errno.ENOSPC)

    turns.submit(b"y" * 600)
    turns.end_turn()
    turns.submit(b"z" * 600)
    turns.settle()

    assert "No space left" in str(turns.results[1][1])
    assert bodies(turns.committer.log) == {0: b"x" * 600, 1: b"z" * 600}


def test_log_that_cannot_be_emptied_stays_as_it_was(disk: FaultyDisk) -> None:
    """Without room for the next segment nothing is let go."""
    turns = Turns(open_at(disk), Durability.OS)
    for number in range(9):
        turns.submit(b"%d" % number * 100)
        turns.settle()
    before = bodies(turns.committer.log)
    disk.fail("append", errno.ENOSPC, written=7)

    with pytest.raises(WriteFailedError, match=r"cannot begin a segment: No space left"):
        turns.committer.log.empty(2000)

    assert bodies(turns.committer.log) == bodies(open_at(disk)) == before
    turns.committer.log.empty(2000).remove()
    assert not bodies(turns.committer.log)


def test_failed_read_says_so(disk: FaultyDisk) -> None:
    """An error of the disk is not taken for damage: nothing is changed, and the next read may succeed."""
    log = open_at(disk)
    log.append([batch(b"a")], 1)
    disk.fail("pread", errno.EIO)

    with pytest.raises(ReadFailedError, match="cannot read the log: Input/output error"):
        log.read(0)

    assert bodies(log) == {0: b"a"}


# -- the seam --------------------------------------------------------------------------------------------


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take fewer bytes than it was given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7])))
    log = open_at(RealDisk(), str(tmp_path / "topic"))

    log.append([batch(b"body" * 20, b"second")], 1)

    assert bodies(log) == {0: b"body" * 20, 1: b"second"}


@pytest.mark.parametrize("kind", [RealDisk, FaultyDisk])
def test_both_disks_keep_the_same_contract(kind: type[RealDisk | FaultyDisk], tmp_path: Path) -> None:
    """What the log expects of a disk, of the real one and of the one that stands for it in tests."""
    disk: Disk = kind()
    directory = str(tmp_path / "a" / "b")
    path, other = f"{directory}/1", f"{directory}/2"
    disk.make_directory(directory)
    disk.make_directory(directory)
    file = disk.open(path, create=True)
    file.append(b"hello ")
    file.append(b"world")
    file.sync()

    assert (file.pread(5, 6), file.pread(50, 9), file.pread(5, 99), file.size()) == (b"world", b"ld", b"", 11)
    file.truncate(3)
    file.append(b"!")
    assert disk.open(path).pread(9, 0) == b"hel!"
    with pytest.raises(FileExistsError):
        disk.open(path, create=True)
    with pytest.raises(FileNotFoundError):
        disk.open(other)
    disk.rename(path, other)
    assert (disk.list(directory), disk.exists(path), disk.exists(other)) == (["2"], False, True)
    disk.sync_directory(directory)
    file.close()
    file.close()
    disk.remove(other)
    assert not disk.list(directory)
    with pytest.raises(FileNotFoundError):
        disk.remove(other)
