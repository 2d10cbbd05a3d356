"""Which data directories a path lies in: itself and those above, by whatever name the path was reached.

A topic's directory has no lock of its own: that of its data directory covers it. Whoever opens a directory of ours
looks for the lock above it, past symbolic links and, where the system tells its mounts, past bind mounts, which have
no way up.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

TOPICS_DIRECTORY: Final = "topics"
JOURNAL_DIRECTORY: Final = "journal"
LOCK_NAME: Final = "lock"
"""What makes a directory a data directory; see docs/storage.md."""
_MOUNTS: Final = "/proc/self/mountinfo"


def data_directories_of(path: str) -> list[str]:
    """Return the data directories that hold `path`, or are it, the innermost first."""
    found: dict[tuple[int, int], str] = {}
    for name in _names_of(os.path.realpath(path)):
        for directory in (name, *map(str, PurePath(name).parents)):
            if _is_data_directory(directory):
                status = os.stat(directory)
                found.setdefault((status.st_dev, status.st_ino), directory)
    return list(found.values())


def _is_data_directory(path: str) -> bool:
    """Say whether topics and what goes with them are here: others may have a directory `topics`, too."""
    has_more = any(os.path.exists(os.path.join(path, name)) for name in (LOCK_NAME, JOURNAL_DIRECTORY))
    return has_more and os.path.isdir(os.path.join(path, TOPICS_DIRECTORY))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    device: str
    root: str
    """What of the file system is mounted."""
    point: str


def _names_of(path: str) -> Iterator[str]:
    """Yield `path`, and what else it is called where the file system it is on is mounted more than once."""
    yield path
    mounts = _mounts()
    own = max(
        (one for one in mounts if _rest(path, one.point) is not None), key=lambda one: len(one.point), default=None
    )
    if own is None:
        return
    inside = _joined(own.root, _rest(path, own.point) or "")
    for mount in mounts:
        rest = _rest(inside, mount.root)
        if mount.device == own.device and mount is not own and rest is not None:
            name = _joined(mount.point, rest)
            if name != path and _is_same(name, path):  # another mount may cover it
                yield name


def _mounts() -> list[_Mount]:
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            fields = [line.split(" ") for line in file]
    except OSError:  # not Linux
        return []
    return [_Mount(device=one[2], root=_plain(one[3]), point=_plain(one[4])) for one in fields if len(one) > 4]


def _plain(text: str) -> str:
    r"""Return a path as it is: the system writes blanks and the like as `\040`."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _rest(path: str, above: str) -> str | None:
    """Return what of `path` lies below `above`; None where it does not."""
    if path == above:
        return ""
    start = above.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None


def _joined(above: str, rest: str) -> str:
    return os.path.join(above, rest) if rest else above


def _is_same(name: str, path: str) -> bool:
    try:
        return os.path.samefile(name, path)
    except OSError:
        return False
