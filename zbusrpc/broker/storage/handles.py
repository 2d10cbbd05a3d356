"""A bounded number of open files, however many segments and topics there are.

Files are opened when they are needed and closed when many others were used since. What a worker thread is
syncing is pinned: it stays open whatever the bound says.

A file may be closed between a write and its sync. Linux (4.16 and later) keeps an error of writing back for
the next one who opens the file, so that the sync still reports it.
"""

from collections import OrderedDict
from typing import Final

from zbusrpc.broker.storage.descriptors import NONE_LEFT
from zbusrpc.broker.storage.files import Disk, File

OPEN_FILES_MAX: Final = 512
"""Half of the 1024 descriptors that a process has by default; the other half is for connections."""


class Handles:
    """The open files of all logs of a broker, by path."""

    __slots__ = ("_disk", "_idle", "_pins", "open_files_max")

    def __init__(self, disk: Disk, open_files_max: int = OPEN_FILES_MAX) -> None:
        self._disk = disk
        self.open_files_max = open_files_max
        self._idle: OrderedDict[str, File] = OrderedDict()  # least lately used first
        self._pins: dict[str, tuple[File, int]] = {}

    def __len__(self) -> int:
        return len(self._idle) + len(self._pins)

    def get(self, path: str) -> File:
        """Return the open file at `path`; use it at once, do not keep it."""
        file = self._idle.get(path)
        if file is not None:
            self._idle.move_to_end(path)
            return file
        if path in self._pins:
            return self._pins[path][0]
        return self._add(path, self._open(path))

    def create(self, path: str) -> File:
        """Create the file at `path`, which must not exist, and return it."""
        return self._add(path, self._open(path, create=True))

    def _open(self, path: str, *, create: bool = False) -> File:
        """Open a file; where the process has no descriptor left, with that of the one that was used least lately."""
        while True:
            try:
                return self._disk.open(path, create=create)
            except OSError as error:
                if error.errno not in NONE_LEFT or not self._idle:
                    raise
            _, oldest = self._idle.popitem(last=False)
            oldest.close()

    def pin(self, path: str) -> File:
        """Return the open file at `path`, to be kept until `unpin`."""
        file = self.get(path)
        self._idle.pop(path, None)
        _, count = self._pins.get(path, (file, 0))
        self._pins[path] = file, count + 1
        return file

    def unpin(self, path: str, file: File) -> None:
        """Take back a `pin`. A file that was forgotten meanwhile is closed."""
        pinned, count = self._pins.get(path, (None, 0))
        if pinned is not file:
            file.close()
        elif count > 1:
            self._pins[path] = file, count - 1
        else:
            del self._pins[path]
            self._add(path, file)

    def forget(self, path: str) -> None:
        """Close the file at `path` before its name goes to another file, or to none."""
        self._pins.pop(path, None)  # whoever pinned it closes it by `unpin`
        file = self._idle.pop(path, None)
        if file is not None:
            file.close()

    def _add(self, path: str, file: File) -> File:
        self._idle[path] = file
        while len(self._idle) > max(1, self.open_files_max - len(self._pins)):
            _, oldest = self._idle.popitem(last=False)
            oldest.close()
        return file
