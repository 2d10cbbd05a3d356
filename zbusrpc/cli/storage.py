"""`zbusrpc storage`: look at a data directory that no broker has open, and put it in order.

Its exit codes are those of docs/operations.md: 0 where all is in order, 1 where it is not, 2 where nobody can say.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import Progress

from zbusrpc.broker.mq.catalog import FILE_BYTES_MAX, TOPIC_FILE, is_foreign, is_removed
from zbusrpc.broker.mq.group_logs import GROUP_LOGS
from zbusrpc.broker.mq.inspection import Inspection, Looked
from zbusrpc.broker.storage.enclosing import JOURNAL_DIRECTORY, TOPICS_DIRECTORY
from zbusrpc.broker.storage.errors import StorageError, reason_of
from zbusrpc.broker.storage.files import Disk, ReadOnlyDisk, RealDisk, opened
from zbusrpc.broker.storage.lock import locked_around
from zbusrpc.broker.storage.segment import LOG_SUFFIX
from zbusrpc.cli.shell import fail, print_text

SOUND: Final = 0
DAMAGED: Final = 1
"""A check found something; after a repair something is left that somebody has to see to."""
UNKNOWN: Final = 2
"""It could not be looked at, or not be put in order: it is in use, of a newer version, or the disk is full."""


def run_check(directory: str, *, as_json: bool) -> None:
    """Print what is wrong with the logs in a directory; the exit code says whether anything is."""
    looked = _look(ReadOnlyDisk(), directory, None)
    _print(looked, "checking", as_json=as_json)
    _end(looked, any(one.needs_attention for one in looked))


def run_repair(directory: str, *, as_json: bool) -> None:
    """Put the logs in a directory in order, and print what was done; nothing is deleted."""
    looked = _look(RealDisk(), directory, time.time_ns() // 1_000_000)
    _print(looked, "repairing", as_json=as_json)
    _end(looked, not all(one.is_mended for one in looked))


def _end(looked: list[Looked], is_damaged: bool) -> None:
    if any(one.error and not one.is_damage for one in looked):
        raise SystemExit(UNKNOWN)
    raise SystemExit(DAMAGED if is_damaged else SOUND)


def _look(disk: Disk, directory: str, repairs_at_ms: int | None) -> list[Looked]:
    """Look at all that is in a directory, which nobody else may have."""
    try:
        roots = _data_directories_in(directory) or [directory]
        with ExitStack() as locks:
            for root in roots:
                locks.enter_context(locked_around(root, is_shared=repairs_at_ms is None))
            inspections = {root: Inspection(disk, root, repairs_at_ms=repairs_at_ms) for root in roots}
            logs = [
                (inspection, _name_in(directory, root, name), path)
                for root, inspection in inspections.items()
                for name, path in _logs(disk, root, inspection.gone)
            ]
            if not logs:
                fail(f"{directory} holds no topics; name a data directory or the directory of a topic", UNKNOWN)
            looked = list(_watched(logs, "Checking" if repairs_at_ms is None else "Repairing"))
            looked += [
                replace(one, name=_name_in(directory, root, one.name))
                for root, inspection in inspections.items()
                for one in inspection.rest()
            ]
    except StorageError as error:
        fail(str(error), UNKNOWN)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and error.filename == directory:
            fail(f"there is no directory {directory}", UNKNOWN)
        fail(f"{error.filename or directory} cannot be read: {reason_of(error).lower()}", UNKNOWN)
    return looked


def _data_directories_in(directory: str) -> list[str]:
    """Return the data directories right below, such as those of the nodes of a broker; none where it is one itself.

    Raises:
        OSError: it cannot be read.
    """
    names = sorted(os.listdir(directory))
    paths = [os.path.join(directory, name) for name in names if TOPICS_DIRECTORY not in names]
    return [path for path in paths if os.path.isdir(os.path.join(path, TOPICS_DIRECTORY))]


def _logs(disk: Disk, directory: str, gone: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield name and directory of each log in a data directory, in its `topics`, or of the one that `directory` is.

    Raises:
        OSError: a directory cannot be read.
    """
    names = os.listdir(directory)
    topics = os.path.join(directory, TOPICS_DIRECTORY)
    if os.path.isdir(topics) or JOURNAL_DIRECTORY in names:
        for name in GROUP_LOGS:
            path = os.path.join(directory, name)
            if name in names or path in gone:
                yield name, path
        yield from _topics(disk, topics) if os.path.isdir(topics) else ()
    elif any(name.endswith(LOG_SUFFIX) for name in names):
        yield _topic_name(directory) or os.path.basename(os.path.abspath(directory)), directory
    else:
        yield from _topics(disk, directory)


def _topics(disk: Disk, directory: str) -> Iterator[tuple[str, str]]:
    is_whole = os.path.basename(os.path.abspath(directory)) == TOPICS_DIRECTORY
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if not is_removed(name) and (not is_foreign(disk, path) if is_whole else _topic_name(path)):
            yield _topic_name(path) or name, path


def _topic_name(directory: str) -> str:
    try:
        with opened(ReadOnlyDisk(), os.path.join(directory, TOPIC_FILE)) as file:  # which waits for no pipe
            return str(orjson.loads(file.pread(FILE_BYTES_MAX, 0))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _name_in(directory: str, root: str, name: str) -> str:
    """Return the name of a log, with its node where there are several."""
    return name if root == directory else f"{os.path.basename(root)}/{name}"


def _watched(logs: list[tuple[Inspection, str, str]], verb: str) -> Iterator[Looked]:
    """Look at one log after the other, showing how far it is where somebody watches."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for inspection, name, path in progress.track(logs, description=verb):
            yield inspection.look_at(name, path)


def _print(looked: list[Looked], verb: str, *, as_json: bool) -> None:
    if as_json:
        facts: list[dict[str, Any]] = [asdict(one) | {"needs_attention": one.needs_attention} for one in looked]
        print_text(orjson.dumps({"logs": facts}).decode() + "\n")
        return
    for one in looked:
        for line in (*map(str, one.findings), *one.notes, *([one.error] if one.error else [])):
            print_text(f"{one.name}: {line}\n")
    mended = sum(one.needs_attention and one.is_mended for one in looked) if verb == "repairing" else 0
    wrong = sum(one.needs_attention for one in looked) - mended
    results = [f"{mended} of them put in order"] if mended else []
    results += [f"{wrong} of them need attention"] if wrong else []
    result = ", ".join(results) or "nothing is wrong"
    print_text(f"{verb} {len({one.directory for one in looked})} logs: {result}\n")
