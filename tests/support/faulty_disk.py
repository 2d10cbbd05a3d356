"""A disk in memory that forgets what was not synced and fails when told to: for power cuts and errors of storage.

It keeps two states: what programs see, and what is safe. `File.sync` makes the bytes of a file safe,
`sync_directory` the names in a directory. `images` yields the disks that a power cut now could leave behind.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Damage = Callable[[bytes, bytes], bytes]
"""What becomes of a file, from its safe bytes and those that programs saw."""


class PowerCut(BaseException):
    """The power is gone; nothing of the program goes on."""


@dataclass(slots=True, eq=False)
class Inode:
    """The bytes of one file, whatever its name."""

    data: bytearray = field(default_factory=bytearray)
    safe: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong at the n-th call (from 1) of an operation."""

    call: int
    error: int = errno.EIO
    calls: int = 1
    """How many calls fail, from that one on."""
    written: int = 0
    """Of an append: how many bytes are written before it fails."""


class FaultyFile:
    """An open file of a `FaultyDisk`."""

    def __init__(self, disk: "FaultyDisk", inode: Inode) -> None:
        self._disk, self._inode = disk, inode
        self.is_open = True
        disk.open_files += 1

    def append(self, data: bytes) -> None:
        def partly(fault: Fault) -> None:
            self._inode.data += data[: fault.written]

        assert self.is_open
        self._disk.enter("append", partly)
        self._inode.data += data
        self._disk.leave()

    def pread(self, size: int, position: int) -> bytes:
        assert self.is_open
        self._disk.enter("pread")
        return bytes(self._inode.data[position : position + size])

    def size(self) -> int:
        return len(self._inode.data)

    def truncate(self, size: int) -> None:
        self._disk.enter("truncate")
        del self._inode.data[size:]
        self._disk.leave()

    def sync(self) -> None:
        assert self.is_open
        self._disk.enter("sync")
        self._inode.safe = bytes(self._inode.data)
        self._disk.leave()

    def close(self) -> None:
        self._disk.open_files -= self.is_open
        self.is_open = False


class FaultyDisk:
    """A disk in memory; see the module."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.safe_names: dict[str, Inode] = {}
        self.directories: set[str] = {"/"}
        self.unsafe_changes: list[tuple[str, dict[str, Inode | None]]] = []
        """Changes of names that are not safe: the directory, and which files have which names since."""
        self.faults: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()
        self.changes = 0
        """How many changes were made."""
        self.cut_after: int | None = None
        """After so many changes the power is cut."""
        self.open_files = 0

    # -- the disk ----------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> FaultyFile:
        if not create:
            if path not in self.names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return FaultyFile(self, self.names[path])
        self.enter("create")
        if path in self.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        inode = Inode()
        self._change({path: inode})
        return FaultyFile(self, inode)

    def rename(self, source: str, target: str) -> None:
        self.enter("rename")
        self._change({target: self.names[source], source: None})

    def remove(self, path: str) -> None:
        self.enter("remove")
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._change({path: None})

    def list(self, directory: str) -> list[str]:
        return sorted(os.path.basename(path) for path in self.names if os.path.dirname(path) == directory)

    def exists(self, path: str) -> bool:
        return path in self.names or path in self.directories

    def make_directory(self, path: str) -> None:
        self.directories.add(path)

    def sync_directory(self, path: str) -> None:
        self.enter("sync_directory")
        for directory, change in self.unsafe_changes:
            if directory == path:
                _set(self.safe_names, change)
        self.unsafe_changes = [change for change in self.unsafe_changes if change[0] != path]
        self.leave()

    def _change(self, change: dict[str, Inode | None]) -> None:
        """Give or take names of one directory, all at once: a rename is never half done."""
        _set(self.names, change)
        self.unsafe_changes.append((os.path.dirname(next(iter(change))), change))
        self.leave()

    # -- faults ------------------------------------------------------------------------------------------

    def enter(self, operation: str, before_error: Callable[[Fault], None] = lambda _: None) -> None:
        """Count a call, and fail if it is the one."""
        self.calls[operation] += 1
        fault = self.faults.get(operation)
        if fault is not None and fault.call <= self.calls[operation] < fault.call + fault.calls:
            before_error(fault)
            raise OSError(fault.error, os.strerror(fault.error))

    def leave(self) -> None:
        """Count a change, and cut the power if it was the last."""
        self.changes += 1
        if self.changes == self.cut_after:
            raise PowerCut

    def fail(self, operation: str, error: int, *, call: int = 1, calls: int = 1, written: int = 0) -> None:
        """Let a later call of `operation` fail: `call` 1 is the next one."""
        number = self.calls[operation] + call
        self.faults[operation] = Fault(call=number, error=error, calls=calls, written=written)

    def images(self, *, is_in_order: bool = False) -> Iterator[tuple[str, "FaultyDisk"]]:
        """Yield what a power cut now could leave: some of the unsafe names, with each damage to unsafe bytes.

        The first names of any number are kept and, unless `is_in_order`, also all but any one.
        """
        changes = [change for _, change in self.unsafe_changes]
        kept = [changes[:count] for count in range(len(changes) + 1)]
        if not is_in_order:
            kept += [changes[:number] + changes[number + 1 :] for number in range(len(changes) - 1)]
        for some in kept:
            names = dict(self.safe_names)
            for change in some:
                _set(names, change)
            for title, damage in DAMAGES.items():
                yield f"{title}, {len(some)} of {len(changes)} names", self._image(names, damage)

    def _image(self, names: dict[str, Inode], damage: Damage) -> "FaultyDisk":
        image = FaultyDisk()
        image.directories = set(self.directories)
        for path, inode in names.items():
            data = damage(inode.safe, bytes(inode.data))
            image.names[path] = Inode(bytearray(data), data)
        image.safe_names = dict(image.names)
        return image


def _set(names: dict[str, Inode], change: dict[str, Inode | None]) -> None:
    for path, inode in change.items():
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _torn(cut: Callable[[int], int]) -> Damage:
    def damage(safe: bytes, seen: bytes) -> bytes:
        return seen[: len(safe) + cut(len(seen) - len(safe))] if len(seen) > len(safe) else safe

    return damage


def _zeros(safe: bytes, seen: bytes) -> bytes:
    return safe.ljust(len(seen), b"\0")


def _hole(safe: bytes, seen: bytes) -> bytes:
    """The first unsafe bytes never came, those behind them did."""
    return (safe + bytes(24) + seen[len(safe) + 24 :])[: max(len(safe), len(seen))]


DAMAGES: dict[str, Damage] = {
    "unsafe bytes gone": lambda safe, _: safe,
    "unsafe bytes kept": lambda _, seen: seen,
    "one unsafe byte kept": _torn(lambda size: 1),
    "half of the unsafe bytes kept": _torn(lambda size: size // 2),
    "one unsafe byte missing": _torn(lambda size: size - 1),
    "unsafe bytes are zeros": _zeros,
    "a hole in the unsafe bytes": _hole,
}
