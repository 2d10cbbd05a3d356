"""What storage refuses and what it cannot do: one class for each thing that a caller handles differently.

Errors of the operating system are translated once, where the log calls the disk, and stay available as
`__cause__`. What may reach clients while a broker runs names no path of its machine: the lines of its log do.
"""

import errno
import os
from typing import Final

from zbusrpc.errors import ZbusError

_DAMAGE: Final = frozenset(
    {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ESPIPE, errno.ENXIO, errno.EINVAL}
)


class StorageError(ZbusError):
    """Everything that storage raises on purpose."""


class RecordLimitError(StorageError, ValueError):
    """A field of a record is longer or larger than the format allows; the text names field, value and limit."""


class BacklogFullError(StorageError):
    """Too many bytes wait for the disk. Nothing was stored; try again later."""


class WriteFailedError(StorageError):
    """The disk did not take a write, for example because it is full. Nothing of it is stored; the log goes on."""


class StoreFullError(WriteFailedError):
    """The store holds as much as it may. Nothing of it is stored; when something was removed there is room again."""


class RemainsError(WriteFailedError):
    """What was written of a failed write cannot be taken back: nothing may follow it, so that the log is closed."""


class ReadFailedError(StorageError):
    """The disk did not give back what it holds. Nothing was changed."""


class LogClosedError(StorageError):
    """The log takes no more records: it was closed, or it failed and must be opened anew. The text says why."""


class DirectoryInUseError(StorageError):
    """Another process has the data directory; the text names both and says what can be done. Nothing was changed."""

    def __init__(self, directory: str, pid: int, host: str) -> None:
        holder = f"process {pid}" if pid else "another process"
        where = f" on {host}" if host else ""
        super().__init__(
            f"data directory {directory} is in use by {holder}{where}: use another --data-dir or stop that broker"
        )
        self.directory = directory
        self.pid = pid
        """0 where it is not known."""
        self.host = host


class FormatVersionError(StorageError):
    """A file was written by a newer zbusrpc; the text names both versions. Nothing was changed."""

    def __init__(self, name: str, theirs: int, ours: int) -> None:
        super().__init__(f"{name} has format version {theirs}, this zbusrpc reads versions up to {ours}")
        self.theirs = theirs
        self.ours = ours


class DamageError(StorageError):
    """Bytes of a segment are not what was written. The log answers it by `salvage`, callers do not see it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


def reason_of(error: OSError) -> str:
    """Say why in the words of the operating system."""
    return error.strerror or repr(error)


def is_damage(error: BaseException | None) -> bool:
    """Say whether a file of ours is gone, or something else has its name: the disk and who looks are not at fault."""
    return isinstance(error, OSError) and error.errno in _DAMAGE


def place_of(error: OSError) -> str:
    """Say which file it was, by its name alone, and why."""
    name = os.path.basename(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    return f"{name}: {reason_of(error)}" if name else reason_of(error)
