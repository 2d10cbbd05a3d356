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


@dataclass(slots=True, eq=False)
class Folder:
    """The names in one directory, whatever its own name."""

    names: "dict[str, Inode | Folder]" = field(default_factory=dict)
    safe: "dict[str, Inode | Folder]" = field(default_factory=dict)


Change = dict[str, Inode | Folder | None]
"""What has which names of a directory now; None is a name that was taken away."""


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
        self.root = Folder()
        self.unsafe_changes: list[tuple[Folder, Change]] = []
        """Changes of names that are not safe: the directory, and what has which names since."""
        self.faults: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()
        self.changes = 0
        """How many changes were made."""
        self.cut_after: int | None = None
        """After so many changes the power is cut."""
        self.open_files = 0

    @property
    def names(self) -> dict[str, Inode]:
        """All files by path, as programs see them."""
        return dict(_files("/", self.root))

    # -- the disk ----------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> FaultyFile:
        folder, name = self._folder_of(path)
        found = folder.names.get(name)
        if not create:
            if isinstance(found, Folder):
                raise _error(errno.EISDIR, path)
            if found is None:
                raise _error(errno.ENOENT, path)
            return FaultyFile(self, found)
        self.enter("create")
        if found is not None:
            raise _error(errno.EEXIST, path)
        inode = Inode()
        self._change(folder, {name: inode})
        return FaultyFile(self, inode)

    def rename(self, source: str, target: str) -> None:
        self.enter("rename")
        folder, name = self._folder_of(source)
        other, new_name = self._folder_of(target)
        assert other is folder, f"{source} and {target} are in two directories"
        found, replaced = folder.names.get(name), folder.names.get(new_name)
        if found is None:
            raise _error(errno.ENOENT, source)
        if isinstance(replaced, Folder) or (isinstance(found, Folder) and replaced is not None):
            raise _error(errno.ENOTEMPTY, target)
        if replaced is not found:  # two names of one file stay as they are
            self._change(folder, {new_name: found, name: None})

    def link(self, source: str, target: str) -> None:
        self.enter("link")
        folder, name = self._folder_of(source)
        other, new_name = self._folder_of(target)
        assert other is folder, f"{source} and {target} are in two directories"
        if new_name in folder.names:
            raise _error(errno.EEXIST, target)
        if name not in folder.names:
            raise _error(errno.ENOENT, source)
        self._change(folder, {new_name: folder.names[name]})

    def remove(self, path: str) -> None:
        self.enter("remove")
        folder, name = self._folder_of(path)
        found = folder.names.get(name)
        if not isinstance(found, Inode):
            raise _error(errno.ENOENT if found is None else errno.EISDIR, path)
        self._change(folder, {name: None})

    def remove_directory(self, path: str) -> None:
        folder = self._folder(path)
        for name, found in sorted(folder.names.items()):
            if isinstance(found, Folder):
                self.remove_directory(f"{path}/{name}")
            else:
                self.enter("remove_directory")
                self._change(folder, {name: None})
        self.enter("remove_directory")
        above, name = self._folder_of(path)
        self._change(above, {name: None})

    def list(self, directory: str) -> list[str]:
        return sorted(self._folder(directory).names)

    def exists(self, path: str) -> bool:
        try:
            folder, name = self._folder_of(path)
        except FileNotFoundError:
            return False
        return path == "/" or name in folder.names

    def make_directory(self, path: str) -> None:
        self.enter("make_directory")
        folder = self.root
        for name in path.strip("/").split("/"):
            if name not in folder.names:
                self._change(folder, {name: Folder()})
            self._make_safe(folder)
            below = folder.names[name]
            assert isinstance(below, Folder), f"{path}: {name} is a file"
            folder = below

    def sync_directory(self, path: str) -> None:
        self.enter("sync_directory")
        self._make_safe(self._folder(path))
        self.leave()

    def _folder(self, path: str) -> Folder:
        folder = self.root
        for name in path.strip("/").split("/") if path != "/" else ():
            below = folder.names.get(name)
            if not isinstance(below, Folder):
                raise _error(errno.ENOENT if below is None else errno.ENOTDIR, path)
            folder = below
        return folder

    def _folder_of(self, path: str) -> tuple[Folder, str]:
        """Return the directory in which `path` is, or would be, and its name there."""
        return self._folder(os.path.dirname(path)), os.path.basename(path)

    def _make_safe(self, folder: Folder) -> None:
        folder.safe = dict(folder.names)
        self.unsafe_changes = [change for change in self.unsafe_changes if change[0] is not folder]

    def _change(self, folder: Folder, change: Change) -> None:
        """Give or take names of one directory, all at once: a rename is never half done."""
        _set(folder.names, change)
        self.unsafe_changes.append((folder, change))
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
        changes = self.unsafe_changes
        kept = [changes[:count] for count in range(len(changes) + 1)]
        if not is_in_order:
            kept += [changes[:number] + changes[number + 1 :] for number in range(len(changes) - 1)]
        for some in kept:
            for title, damage in DAMAGES.items():
                image = FaultyDisk()
                image.root = _left_of(self.root, some, damage)
                yield f"{title}, {len(some)} of {len(changes)} names", image


def _left_of(folder: Folder, changes: list[tuple[Folder, Change]], damage: Damage) -> Folder:
    """Return what is left of a directory, and below it, when only some unsafe changes were kept."""
    names = dict(folder.safe)
    for changed, change in changes:
        if changed is folder:
            _set(names, change)
    left = Folder()
    for name, found in names.items():
        if isinstance(found, Folder):
            left.names[name] = _left_of(found, changes, damage)
        else:
            data = damage(found.safe, bytes(found.data))
            left.names[name] = Inode(bytearray(data), data)
    left.safe = dict(left.names)
    return left


def _set(names: dict[str, Inode | Folder], change: Change) -> None:
    for name, found in change.items():
        if found is None:
            names.pop(name, None)
        else:
            names[name] = found


def _files(path: str, folder: Folder) -> Iterator[tuple[str, Inode]]:
    for name, found in folder.names.items():
        below = os.path.join(path, name)
        if isinstance(found, Folder):
            yield from _files(below, found)
        else:
            yield below, found


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


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
