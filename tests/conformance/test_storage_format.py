"""Format version 1 of the log: the golden files are read as they always were, and are still what is written.

Whoever changes the format gives it a new version and new files; these stay. docs/storage.md draws the format.
"""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.storage import compact, read_all
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.segment import index_path

GOLDEN = Path(__file__).parent / "storage" / "v1"
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = LogOptions(segment_bytes_max=1000, checkpoint_bytes=300)


def open_at(directory: Path) -> Log:
    disk = RealDisk()
    return open_log(disk, Handles(disk), str(directory), OPTIONS, now_ms=1_700_000_000_000)


def records() -> list[list[Record]]:
    """Return what stands in the golden files: three batches, in two segments."""
    full = Record(
        b'{"n":1}',
        id=b"4f2c",
        tag=b"orders.new",
        key=b"customer-7",
        headers=b'{"traceparent":"00-0"}',
        expiry_ms=1_700_000_060_000,
        due_ms=1_700_000_030_000,
        owner=3,
    )
    return [[full], [Record(b"first of two"), Record(bytes(range(256)))], [Record(b"x" * 600, id=b"last")]]


def write(directory: Path) -> None:
    """Write the golden files anew; how they were made."""
    log = open_at(directory)
    for number, batch in enumerate(records()):
        log.append([batch], 1_700_000_000_000 + number)
    log.close()


def test_golden_files_are_read(tmp_path: Path) -> None:
    """Every field of every record is what it was."""
    shutil.copytree(GOLDEN, tmp_path / "v1")
    expected = [record for batch in records() for record in batch]
    for offset, record in enumerate(expected):
        record.offset, record.timestamp_ms = offset, 1_700_000_000_000 + (0, 1, 1, 2)[offset]

    log = open_at(tmp_path / "v1")

    assert read_all(log) == expected
    assert log.offset_at_time(1_700_000_000_001) == 1
    assert not log.findings


def test_golden_files_are_what_is_written(tmp_path: Path) -> None:
    """The same records give the same bytes, segments and indexes."""
    write(tmp_path / "new")

    written = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert written == {path.name: path.read_bytes() for path in GOLDEN.iterdir()}
    assert len(written) == 4


def test_generation_stands_in_segment_and_index(tmp_path: Path) -> None:
    """Both say how often the file was replaced; an index of another generation says nothing."""
    log = open_at(tmp_path / "new")
    for number in range(3):
        log.append([[Record(b"%d" % number * 600, key=b"same" if number < 2 else b"other")]], 1)
    log.append([[Record(b"later", key=b"same")]], 1)
    log.append([[Record(b"last" * 200)]], 1)
    log.close()
    log = open_at(tmp_path / "new")
    kept = next(segment for segment in log.segments if segment.next_offset == 4)
    stale = Path(index_path(kept.path)).read_bytes()

    log.append([[Record(b"last", key=b"other")]], 1)
    log.sync()
    compact(log)
    log.close()

    segment, index = Path(kept.path).read_bytes(), Path(index_path(kept.path)).read_bytes()
    assert (segment[10:12], index[10:12], stale[10:12]) == (b"\0\1", b"\0\1", b"\0\0")
    Path(index_path(kept.path)).write_bytes(stale)
    again = open_at(tmp_path / "new")
    assert [record.body[:5] for record in read_all(again)] == [b"later", b"lastl", b"last"]
    assert not again.findings


@pytest.mark.parametrize("name", re.findall(r"`(\w+\.py)::(\w+)`", (ROOT / "docs" / "storage.md").read_text()))
def test_promises_are_held_by_tests(name: tuple[str, str]) -> None:
    """Each test that docs/storage.md names exists where it says."""
    file, function = name
    (path,) = (ROOT / "tests").rglob(file)

    assert f"def {function}(" in path.read_text() or f"{function} =" in path.read_text()


def test_document_shows_real_bytes() -> None:
    """The example of docs/storage.md is the start of a golden file."""
    text = (ROOT / "docs" / "storage.md").read_text()
    shown = bytes.fromhex("".join(re.findall(r"```hex\n(.*?)```", text, re.DOTALL)[0].split()))
    first = next(path for path in sorted(GOLDEN.iterdir()) if path.suffix == ".log")

    assert first.read_bytes().startswith(shown)
    assert len(shown) == 32 + 56 + 4 + 10 + 10 + 22 + 7
