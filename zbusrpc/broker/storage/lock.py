"""The lock of a data directory: one process at a time writes to it.

The system holds the lock (`flock`, on Windows `locking`) on an open file, `lock` in the directory, and takes it back
when the process ends, however it ends: a file that a dead process left is no obstacle. The file names the process
and its machine, for whoever is refused; it is never removed, because the name could be another process's by then.

On a file system that several machines share, the lock is worth what that file system makes of it.
"""

import contextlib
import os
import sys
from typing import Final, Self

from zbusrpc.broker.storage.errors import DirectoryInUseError, StorageError, reason_of
from zbusrpc.broker.storage.files import RealDisk

LOCK_NAME: Final = "lock"
_HOLDER_BYTES_MAX: Final = 300
"""A pid and a host name, which has at most 255 bytes."""
_LOCKED_BYTE: Final = 2**30
"""On Windows nobody else can read a byte that is locked, so this one is far behind the text."""


def lock_directory(path: str) -> "DirectoryLock":
    """Lock the directory at `path`, which is created where it does not exist, until `close` or the process's end.

    Raises:
        DirectoryInUseError: another process holds it, or this one does already.
        StorageError: it cannot be locked at all.
    """
    name = os.path.join(path, LOCK_NAME)
    try:
        RealDisk().make_directory(path)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot open {name}: {reason_of(error)}") from error
    try:
        _lock(descriptor)
    except OSError as error:
        holder = _read_holder(descriptor)
        os.close(descriptor)
        if isinstance(error, BlockingIOError | PermissionError):
            raise DirectoryInUseError(path, *holder) from error
        raise StorageError(f"cannot lock {name}: {reason_of(error)}") from error
    with contextlib.suppress(OSError):  # the text is for people only; a full disk is no reason not to start
        _write_holder(descriptor)
    return DirectoryLock(path, descriptor)


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


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_holder(descriptor: int) -> None:
    from platform import node

    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"{os.getpid()} {node()}\n".encode())


def _read_holder(descriptor: int) -> tuple[int, str]:
    """Return the pid and host that the file names; 0 and no name while its holder is just writing them."""
    with contextlib.suppress(OSError, ValueError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        pid, _, host = os.read(descriptor, _HOLDER_BYTES_MAX).decode().partition(" ")
        return int(pid), host.strip()
    return 0, ""
