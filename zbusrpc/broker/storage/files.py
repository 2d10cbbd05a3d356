"""The seam through which storage touches the disk: everything that can fail or be lost goes through here.

`Disk` names files, `File` holds bytes; both are thin over the operating system. Tests put a disk behind it that
forgets what was not synced, tears writes and fails at the n-th call (tests/support/faulty_disk.py); one contract
test holds for both.

What they promise about a power cut is what POSIX does: bytes are safe after `File.sync`, names (created,
renamed, removed) after `Disk.sync_directory`. Errors are the system's own OSError; the log translates them.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Final, Protocol

from zbusrpc.broker.storage.descriptors import Reserve


class File(Protocol):
    """An open file that grows at its end and is read anywhere."""

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end. After an error a part of it may stand there."""

    def pread(self, size: int, position: int) -> bytes:
        """Return `size` bytes from `position`; fewer only at the end of the file."""

    def size(self) -> int:
        """Return the length in bytes."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self) -> None:
        """Return once the bytes are on the disk. May run in another thread."""

    def close(self) -> None:
        """Give the file back; closing twice is fine."""


class Disk(Protocol):
    """The files of one machine."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open a file; with `create` it must not exist."""

    def rename(self, source: str, target: str) -> None:
        """Give a file or directory another name in the same directory, all at once.

        A file takes the place of the file that has that name; a directory needs a name that nothing has. Files in a
        directory that are open go on (not on Windows: there they must be closed).
        """

    def link(self, source: str, target: str) -> None:
        """Give a file a second name in the same directory, which nothing has yet; not every file system can."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def remove_directory(self, path: str) -> None:
        """Remove a directory with everything in it.

        A crash in the middle leaves a part of it: who minds gives it another name first, and syncs that name. Nobody
        may use what is in it. It is gone for good once the directory above is synced. May run in another thread.
        """

    def list(self, directory: str) -> list[str]:
        """Return the sorted names in `directory`."""

    def exists(self, path: str) -> bool:
        """Say whether there is such a file or directory."""

    def make_directory(self, path: str) -> None:
        """Create a directory, with those above it, and sync its name."""

    def sync_directory(self, path: str) -> None:
        """Return once the names in a directory are on the disk. May run in another thread."""


FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
"""Messages are for who may consume them: not for whoever has an account on the machine, whatever the umask says."""
_NO_SURPRISES: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAITING: Final = getattr(os, "O_NONBLOCK", 0)
"""For a writer, where a pipe has the name of a file."""
_OPEN: Final = os.O_RDWR | os.O_APPEND | _NO_SURPRISES
_CREATE: Final = _OPEN | os.O_CREAT | os.O_EXCL


class RealFile:
    """An open file of the operating system."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end, however often the system takes only part of it."""
        written = os.write(self._descriptor, data)
        if written < len(data):
            view = memoryview(data)
            while written < len(data):
                written += os.write(self._descriptor, view[written:])

    def pread(self, size: int, position: int) -> bytes:
        """Return `size` bytes from `position`; fewer only at the end of the file."""
        data = _pread(self._descriptor, size, position)
        while len(data) < size and (more := _pread(self._descriptor, size - len(data), position + len(data))):
            data += more
        return data

    def size(self) -> int:
        """Return the length in bytes."""
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        """Return once the bytes are on the disk; fdatasync writes the length too, which is all the log needs."""
        _datasync(self._descriptor)

    def close(self) -> None:
        """Give the file back; closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RealDisk:
    """The disk of this machine."""

    def __init__(self, reserve: Reserve | None = None) -> None:
        """Open files with the descriptors of a reserve, where there are no others."""
        self.reserve = reserve or Reserve(0)

    def open(self, path: str, *, create: bool = False) -> RealFile:
        """Open a file; with `create` it must not exist."""
        flags = _CREATE if create else _OPEN
        return RealFile(self.reserve.use(lambda: os.open(path, flags, FILE_MODE)))

    def rename(self, source: str, target: str) -> None:
        """Give a file or directory another name in the same directory, all at once."""
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name in the same directory, which nothing has yet; not every file system can."""
        os.link(source, target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_directory(self, path: str) -> None:
        """Remove a directory with everything in it; links are removed, not followed."""
        from shutil import rmtree  # a broker that removes no topic does without it

        rmtree(path)

    def list(self, directory: str) -> list[str]:
        """Return the sorted names in `directory`."""
        return sorted(self.reserve.use(lambda: os.listdir(directory)))

    def exists(self, path: str) -> bool:
        """Say whether there is such a file or directory."""
        return os.path.exists(path)

    def make_directory(self, path: str) -> None:
        """Create a directory, with those above it, and sync its name."""
        parent = os.path.dirname(os.path.abspath(path))
        if not os.path.exists(parent):
            self.make_directory(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIRECTORY_MODE)
        self.sync_directory(parent)

    def sync_directory(self, path: str) -> None:
        """Return once the names in a directory are on the disk."""
        if os.name == "nt":  # Windows writes names through and cannot open directories
            return
        descriptor = self.reserve.use(lambda: os.open(path, os.O_RDONLY))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class ReadOnlyDisk(RealDisk):
    """The disk of this machine for who only looks: files are opened for reading, and nothing changes anything."""

    def open(self, path: str, *, create: bool = False) -> RealFile:
        """Open a file for reading."""
        if create:
            raise _read_only(path)
        return RealFile(os.open(path, os.O_RDONLY | _NO_WAITING | _NO_SURPRISES))

    def rename(self, source: str, target: str) -> None:
        """Refuse."""
        raise _read_only(source)

    def link(self, source: str, target: str) -> None:
        """Refuse."""
        raise _read_only(source)

    def remove(self, path: str) -> None:
        """Refuse."""
        raise _read_only(path)

    def remove_directory(self, path: str) -> None:
        """Refuse."""
        raise _read_only(path)

    def make_directory(self, path: str) -> None:
        """Refuse."""
        raise _read_only(path)


def _read_only(path: str) -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS), path)


if sys.platform == "win32":

    def _pread(descriptor: int, size: int, position: int) -> bytes:
        os.lseek(descriptor, position, os.SEEK_SET)  # a file is read by one thread, and appended to at its end
        return os.read(descriptor, size)

else:
    _pread = os.pread


def _datasync(descriptor: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


@contextlib.contextmanager
def opened(disk: Disk, path: str, *, create: bool = False) -> Iterator[File]:
    """Open a file for the time of a block; what the system says of it then names the file.

    Raises:
        OSError: it cannot be opened, or used.
    """
    file = disk.open(path, create=create)
    try:
        yield file
    except OSError as error:
        error.filename = error.filename or path
        raise
    finally:
        file.close()
