"""Each way in which the files of a log can be damaged: a check and an opening see the same, and say so.

The table is that of docs/storage.md. Files are damaged while nobody has them open; what a check finds, and what opening
and reading everything does, are compared.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.storage import SMALL, bodies
from zbusrpc.broker.storage.check import check_log
from zbusrpc.broker.storage.files import ReadOnlyDisk, RealDisk
from zbusrpc.broker.storage.finding import FindingKind
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.record import Record, heads
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.segment import SEGMENT_HEAD_BYTES

COUNT = 30
TORN, UNBEGUN, DAMAGE, MISSING, GAP = (
    FindingKind.TORN_TAIL,
    FindingKind.UNBEGUN,
    FindingKind.DAMAGE,
    FindingKind.MISSING,
    FindingKind.GAP,
)
STRAY, ELSEWHERE = FindingKind.STRAY, FindingKind.LOST_SEGMENT

Act = Callable[["Files"], None]


class Files:
    """The files of a log with several segments, and those of another one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.segments = sorted(directory.glob("*.log"))
        self.first, self.middle, self.last = self.segments[0], self.segments[1], self.segments[-1]
        self.other = sorted((directory.parent / "other").glob("*.log"))

    @staticmethod
    def index(path: Path) -> Path:
        return path.with_suffix(".index")

    def cut_batch(self, path: Path) -> None:
        """Cut the last whole batch off."""
        data = path.read_bytes()
        ends = [SEGMENT_HEAD_BYTES + end for end, *_ in heads(data[SEGMENT_HEAD_BYTES:])]
        path.write_bytes(data[: ends[-2]])

    def swap(self, one: Path, two: Path) -> None:
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def without_index(act: Callable[[Files, Path], object], which: str) -> Act:
    """Return what damages a segment and takes its index away."""

    def damage(files: Files) -> None:
        path = getattr(files, which)
        files.index(path).unlink()
        act(files, path)

    return damage


TABLE: dict[str, tuple[Act, list[FindingKind]]] = {
    "nothing": (lambda f: None, []),
    "sealed, flipped": (lambda f: flip(f.middle, 200), [DAMAGE]),
    "sealed, head flipped": (lambda f: flip(f.middle, 14), [DAMAGE]),
    "sealed, cut within a batch": (lambda f: f.middle.write_bytes(f.middle.read_bytes()[:-3]), [DAMAGE]),
    "sealed, cut between batches": (lambda f: f.cut_batch(f.middle), [DAMAGE]),
    "sealed, cut between batches, no index": (without_index(Files.cut_batch, "middle"), [GAP]),
    "sealed, emptied": (lambda f: emptied(f.middle), [DAMAGE]),
    "sealed, emptied, no index": (without_index(lambda f, path: emptied(path), "middle"), [DAMAGE]),
    "sealed, zeroed": (lambda f: zeroed(f.middle), [DAMAGE]),
    "sealed, longer": (lambda f: f.middle.write_bytes(f.middle.read_bytes() + b"more"), [DAMAGE]),
    "sealed, deleted": (lambda f: f.middle.unlink(), [MISSING, GAP]),
    "sealed, deleted with its index": (without_index(lambda f, path: path.unlink(), "middle"), [GAP]),
    "first, deleted": (lambda f: f.first.unlink(), [MISSING]),
    "last, flipped": (lambda f: flip(f.last, 40), [DAMAGE]),
    "last, cut within a batch": (lambda f: f.last.write_bytes(f.last.read_bytes()[:-3]), [DAMAGE]),
    "last, cut between batches": (lambda f: f.cut_batch(f.last), [DAMAGE]),
    "last, cut within a batch, no index": (
        without_index(lambda f, path: path.write_bytes(path.read_bytes()[:-3]), "last"),
        [TORN],
    ),
    "last, emptied": (lambda f: emptied(f.last), [DAMAGE]),
    "last, emptied, no index": (without_index(lambda f, path: emptied(path), "last"), [UNBEGUN]),
    "last, zeroed": (lambda f: zeroed(f.last), [DAMAGE]),
    "last, zeroed, no index": (without_index(lambda f, path: zeroed(path), "last"), [UNBEGUN]),
    "last, deleted": (lambda f: f.last.unlink(), [MISSING]),
    "all deleted": (lambda f: [path.unlink() for path in f.segments] and None, [MISSING] * 4),
    "two swapped": (lambda f: f.swap(f.first, f.middle), [DAMAGE, DAMAGE]),
    "one doubled in the place of another": (lambda f: shutil.copy(f.first, f.middle) and None, [DAMAGE]),
    "one doubled beside it": (lambda f: shutil.copy(f.first, f.directory / "copy.log") and None, [ELSEWHERE]),
    "one of another topic": (lambda f: shutil.copy(f.other[1], f.middle) and None, [DAMAGE]),
    "index flipped": (lambda f: flip(f.index(f.middle), 30), []),
    "index deleted": (lambda f: f.index(f.middle).unlink(), []),
    "index emptied": (lambda f: emptied(f.index(f.middle)), []),
    "index of another segment": (lambda f: shutil.copy(f.index(f.first), f.index(f.middle)) and None, []),
    "file that is none of ours": (lambda f: (f.directory / "notes.txt").write_text("hello") and None, [STRAY]),
}

WITHOUT_END = {"last, cut within a batch, no index", "last, emptied, no index", "last, zeroed, no index"}
"""What nothing else tells of than those who had it."""


def make(directory: Path, size: int) -> dict[int, bytes]:
    """Make a log of small segments, and return what it holds."""
    log = opened(directory)
    for number in range(COUNT):
        log.append([[Record(b"%d" % number * size, id=b"%d" % number)]], 1000 + number)
    log.sync()
    held = bodies(log)
    log.close()
    return held


def opened(directory: Path, next_offset_min: int = 0) -> Log:
    disk = RealDisk()
    return open_log(disk, Handles(disk), str(directory), SMALL, now_ms=1000, next_offset_min=next_offset_min)


@pytest.mark.parametrize("name", TABLE)
def test_check_says_what_opening_does(tmp_path: Path, name: str) -> None:
    """Nothing is lost without a word, nothing is said of a log that is whole, and no offset is given out again."""
    act, kinds = TABLE[name]
    held = make(tmp_path / "log", 8)
    make(tmp_path / "other", 11)
    files = Files(tmp_path / "log")
    assert len(files.segments) == 4
    act(files)
    before = {path: path.read_bytes() for path in files.directory.iterdir()}

    checked = list(check_log(ReadOnlyDisk(), str(files.directory)))
    after = {path: path.read_bytes() for path in files.directory.iterdir()}
    log = opened(files.directory)
    log.verify()
    left = bodies(log)

    assert sorted(found.kind for found in checked) == sorted(kinds), [str(found) for found in checked]
    assert sorted(found.kind for found in log.findings) == sorted(kinds), [str(found) for found in log.findings]
    assert {found.name for found in checked} == {found.name for found in log.findings}
    assert after == before
    if name != "one of another topic":  # what fits between its neighbours cannot be told from what stood there
        assert left.items() <= held.items()
    assert bool(kinds) or left == held
    if name not in WITHOUT_END:
        assert log.next_offset >= COUNT, "an offset that was given out is not given out again"
    log.close()


@pytest.mark.parametrize("ahead", [0, 7])
@pytest.mark.parametrize("name", TABLE)
def test_end_that_readers_have_passed_is_missed(tmp_path: Path, name: str, ahead: int) -> None:
    """Where a log ends before what a reader was given, check and opening say so, in the same words."""
    make(tmp_path / "log", 8)
    make(tmp_path / "other", 11)
    files = Files(tmp_path / "log")
    TABLE[name][0](files)

    checked = list(check_log(ReadOnlyDisk(), str(files.directory), next_offset_min=COUNT + ahead))
    log = opened(files.directory, next_offset_min=COUNT + ahead)
    log.verify()

    is_short = bool(ahead) or name in WITHOUT_END
    missed = [[str(one) for one in found if "a group was given" in one.note] for found in (checked, log.findings)]
    assert missed[0] == missed[1]
    assert len(missed[0]) == is_short
    assert log.next_offset >= COUNT + ahead
    log.close()


@pytest.mark.parametrize("name", TABLE)
def test_log_is_in_order_after_it_was_opened(tmp_path: Path, name: str) -> None:
    """What opening found is said once; then a check finds nothing but what somebody put there."""
    make(tmp_path / "log", 8)
    make(tmp_path / "other", 11)
    files = Files(tmp_path / "log")
    TABLE[name][0](files)
    for next_offset_min in (0, COUNT + 7):
        log = opened(files.directory, next_offset_min)
        log.verify()
        held = bodies(log)
        log.close()

        left = list(check_log(ReadOnlyDisk(), str(files.directory), next_offset_min=next_offset_min))
        again = opened(files.directory, next_offset_min)
        again.verify()

        assert [str(found) for found in left if found.needs_attention and found.kind is not ELSEWHERE] == []
        assert [str(found) for found in again.findings if found.kind not in {STRAY, ELSEWHERE}] == []
        assert bodies(again) == held
        again.close()
