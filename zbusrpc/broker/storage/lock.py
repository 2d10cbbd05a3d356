"""The lock of a data directory: one process at a time writes to it.

The system holds the lock (`flock`, on Windows `locking`) on an open file, `lock` in the directory, and takes it back
when the process ends, however it ends: a file that a dead process left is no obstacle. The file names the process
and its machine, for whoever is refused; it is never removed, because the name could be another process's by then.

Whoever only looks takes the lock together with others who only look, and writes nothing, so that a copy that cannot
be written to can be looked at. What lies in a data directory is locked with it; see `enclosing`.

On a file system that several machines share, the lock is worth what that file system makes of it.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Final, Self

from zbusrpc.broker.storage.enclosing import LOCK_NAME, data_directories_of
from zbusrpc.broker.storage.errors import DirectoryInUseError, StorageError, reason_of
from zbusrpc.broker.storage.files import RealDisk

_HOLDER_BYTES_MAX: Final = 300
"""A pid and a host name, which has at most 255 bytes."""
_LOCKED_BYTE: Final = 2**30
"""On Windows nobody else can read a byte that is locked, so this one is far behind the text."""


def lock_directory(path: str) -> "DirectoryLock":
    """Lock the directory at `path`, which is created where it does not exist, until `close` or the process's end.

    Raises:
        DirectoryInUseError: another process holds it, or this one does already.
        StorageError: it cannot be locked at all, or lies in a data directory.
    """
    name = os.path.join(path, LOCK_NAME)
    for above in data_directories_of(os.path.dirname(os.path.realpath(path))):
        raise StorageError(f"{path} lies in the data directory {above}: use another --data-dir")
    try:
        RealDisk().make_directory(path)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"cannot open {name}: {reason_of(error)}") from error
    _lock(path, descriptor, is_shared=False)
    with contextlib.suppress(OSError):  # the text is for people only; a full disk is no reason not to start
        _write_holder(descriptor)
    return DirectoryLock(path, descriptor)


@contextlib.contextmanager
def locked_around(path: str, *, is_shared: bool) -> Iterator[None]:
    """Keep every broker away from the data directories that `path` lies in, or is, for the time of a block.

    Args:
        is_shared: Whether others may have them in the same way: who only looks. Nothing is written then.

    Raises:
        DirectoryInUseError: another process has one of them.
        StorageError: one cannot be locked at all.
    """
    with contextlib.ExitStack() as locks:
        for directory in data_directories_of(path):
            descriptor = _open_lock(os.path.join(directory, LOCK_NAME), is_shared=is_shared)
            if descriptor is not None:
                _lock(directory, descriptor, is_shared=is_shared)
                locks.callback(os.close, descriptor)
        yield


class DirectoryLock:
    """A data directory that is this process's own until `close`, or until the end of a with block."""

    __slots__ = ("_descriptor", "directory")

    def __init__(self, directory: str, descriptor: int) -> None:
        self.directory = directory
        self._descriptor = descriptor

    def close(self) -> None:
        """Let others have the directory; closing twice is fine."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_lock(name: str, *, is_shared: bool) -> int | None:
    """Open a lock's file; who only looks makes none, and where there is none nobody has the lock."""
    try:
        return os.open(name, os.O_RDONLY if is_shared else os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot open {name}: {reason_of(error)}") from error


def _lock(directory: str, descriptor: int, *, is_shared: bool) -> None:
    """Take the lock, or close its file and say who has it."""
    try:
        _take(descriptor, is_shared=is_shared)
    except OSError as error:
        holder = _read_holder(descriptor)
        os.close(descriptor)
        if isinstance(error, BlockingIOError | PermissionError):
            raise DirectoryInUseError(directory, *holder) from error
        raise StorageError(f"cannot lock {os.path.join(directory, LOCK_NAME)}: {reason_of(error)}") from error


def _take(descriptor: int, *, is_shared: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _write_holder(descriptor: int) -> None:
    from platform import node

    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"{os.getpid()} {node()}\n".encode())


def _read_holder(descriptor: int) -> tuple[int, str]:
    """Return the pid and host that the file names; 0 and no name where that is not who has the lock.

    It is just writing them, or it only looks and left what a dead process had written.
    """
    with contextlib.suppress(OSError, ValueError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        pid, _, host = os.read(descriptor, _HOLDER_BYTES_MAX).decode().partition(" ")
        if _may_live(int(pid), host.strip()):
            return int(pid), host.strip()
    return 0, ""


def _may_live(pid: int, host: str) -> bool:
    from platform import node

    if host != node() or sys.platform == "win32":
        return True
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
