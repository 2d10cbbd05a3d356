"""The lock of a data directory, against real processes."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.processes import Process, Processes
from zbusrpc.broker.storage.errors import DirectoryInUseError, StorageError
from zbusrpc.broker.storage.lock import lock_directory

HOLD = """
import signal
import sys
from zbusrpc.broker.storage.lock import lock_directory
with lock_directory(sys.argv[1]):
    print("locked", flush=True)
    signal.pause()
"""


@contextmanager
def holder(directory: Path) -> Iterator[Process]:
    """A process that holds the lock until it is killed."""
    with TemporaryDirectory() as elsewhere, Processes(Path(elsewhere)) as processes:
        process = processes.python(HOLD, str(directory))
        assert process.wait_line() == "locked"
        yield process


def test_second_process_is_refused(tmp_path: Path) -> None:
    """It is told which directory, which process on which machine, and what to do."""
    directory = tmp_path / "new" / "data"
    with holder(directory) as process:
        with pytest.raises(DirectoryInUseError) as refused:
            lock_directory(str(directory))

        assert str(refused.value) == (
            f"data directory {directory} is in use by process {process.pid} on {platform.node()}: "
            "use another --data-dir or stop that broker"
        )
        assert (refused.value.directory, refused.value.pid) == (str(directory), process.pid)
        with lock_directory(str(tmp_path / "other")):
            pass


def test_directory_that_others_call_topics_is_no_data_directory(tmp_path: Path) -> None:
    """Beside a directory `topics` of something else a broker may store, and in a data directory it may not."""
    (tmp_path / "topics").mkdir()
    with lock_directory(str(tmp_path / "data")):
        pass

    (tmp_path / "journal").mkdir()
    with pytest.raises(StorageError, match="lies in the data directory"):
        lock_directory(str(tmp_path / "data"))


def test_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    """The file that it left still names it, and does not matter."""
    with holder(tmp_path) as process:
        process.kill()

        assert (tmp_path / "lock").read_text().startswith(f"{process.pid} ")
        with lock_directory(str(tmp_path)):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()} {platform.node()}\n"


def test_closed_lock_lets_others_in(tmp_path: Path) -> None:
    """Also in the same process, where a second lock is refused like anybody's; closing twice is fine."""
    lock = lock_directory(str(tmp_path))
    with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()} "):
        lock_directory(str(tmp_path))

    lock.close()
    lock.close()

    with holder(tmp_path), pytest.raises(DirectoryInUseError):
        lock_directory(str(tmp_path))


@pytest.mark.parametrize("text", [b"", b"\xff\xfe what", b"12"])
def test_refusal_does_not_depend_on_what_the_file_says(tmp_path: Path, text: bytes) -> None:
    """The holder may be just about to write it."""
    with lock_directory(str(tmp_path)):
        (tmp_path / "lock").write_bytes(text)

        with pytest.raises(DirectoryInUseError, match=r"is in use by (another process|process 12): use another"):
            lock_directory(str(tmp_path))


def test_directory_that_cannot_be_locked_says_why(tmp_path: Path) -> None:
    """What stands in the way is named."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=r"cannot open .*file/lock: (Not a directory|File exists)"):
        lock_directory(str(tmp_path / "file"))
