"""`zbusrpc storage`: look at a data directory that no broker has open, and put it in order."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress

from zbusrpc.broker.mq.catalog import (
    REGISTER_DIRECTORY,
    REMOVED_SUFFIX,
    TOPIC_FILE,
    TopicFile,
    Unreadable,
    look_at_topic,
)
from zbusrpc.broker.mq.recollection import Said, reached, recollect
from zbusrpc.broker.storage.check import check_log, readable_records, repair_log
from zbusrpc.broker.storage.enclosing import JOURNAL_DIRECTORY, TOPICS_DIRECTORY
from zbusrpc.broker.storage.errors import ReadFailedError, StorageError
from zbusrpc.broker.storage.files import Disk, ReadOnlyDisk, RealDisk
from zbusrpc.broker.storage.lock import locked_around
from zbusrpc.broker.storage.log import LogOptions
from zbusrpc.broker.storage.salvage import Finding
from zbusrpc.broker.storage.segment import LOG_SUFFIX
from zbusrpc.cli.shell import print_text
from zbusrpc.errors import ConfigError

Look = Callable[[str, int], list[Finding]]
"""What is wrong with the log in a directory, whose next offset must not be below a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was found in one log."""

    name: str
    directory: str
    findings: list[Finding]
    error: str = ""


def run_check(directory: str, *, as_json: bool) -> None:
    """Print what is wrong with the logs in a directory; exit with 1 where anything is."""
    disk = ReadOnlyDisk()

    def look(path: str, next_offset_min: int) -> list[Finding]:
        topic = _topic_at(disk, path)
        is_compacted = topic is not None and topic.options.compact
        return list(check_log(disk, path, is_compacted=is_compacted, next_offset_min=next_offset_min))

    _run(directory, look, "Checking", as_json=as_json)


def run_repair(directory: str, *, as_json: bool) -> None:
    """Put the logs in a directory in order, and print what was done; nothing is deleted."""
    disk = RealDisk()
    now_ms = time.time_ns() // 1_000_000

    def look(path: str, next_offset_min: int) -> list[Finding]:
        topic = _topic_at(disk, path)
        options = topic.options.log_options() if topic is not None else LogOptions()
        return repair_log(disk, path, now_ms, options, next_offset_min=next_offset_min)

    _run(directory, look, "Repairing", as_json=as_json)


def _run(directory: str, look: Look, verb: str, *, as_json: bool) -> None:
    try:
        roots = _data_directories_in(directory) or [directory]
        logs = [(_name_in(directory, root, name), path) for root in roots for name, path in _logs(root)]
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no directory {directory}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{error.filename or directory} cannot be read: {reason}") from None
    if not logs:
        raise ConfigError(f"{directory} holds no topics; name a data directory or the directory of a topic")
    with ExitStack() as locks:
        try:
            for root in roots:
                locks.enter_context(locked_around(root, is_shared=verb == "Checking"))
        except StorageError as error:
            raise ConfigError(str(error)) from None
        ends = {path: end for root in roots for path, end in _ends(root)}
        looked = list(_look_at(logs, look, ends, verb))
    _print(looked, verb, as_json=as_json)
    if any(one.error for one in looked) or (verb == "Checking" and any(one.findings for one in looked)):
        raise SystemExit(1)


def _data_directories_in(directory: str) -> list[str]:
    """Return the data directories right below, such as those of the nodes of a broker; none where it is one itself.

    Raises:
        OSError: it cannot be read.
    """
    names = sorted(os.listdir(directory))
    paths = [os.path.join(directory, name) for name in names if TOPICS_DIRECTORY not in names]
    return [path for path in paths if os.path.isdir(os.path.join(path, TOPICS_DIRECTORY))]


def _logs(directory: str) -> Iterator[tuple[str, str]]:
    """Yield name and directory of each log in a data directory, in its `topics`, or of the one that `directory` is.

    Raises:
        OSError: a directory cannot be read.
    """
    names = os.listdir(directory)
    topics = os.path.join(directory, TOPICS_DIRECTORY)
    if os.path.isdir(topics):
        for name in (JOURNAL_DIRECTORY, REGISTER_DIRECTORY):
            if name in names:
                yield name, os.path.join(directory, name)
        yield from _topics(topics)
    elif any(name.endswith(LOG_SUFFIX) for name in names):
        yield _topic_name(directory) or os.path.basename(os.path.abspath(directory)), directory
    else:
        yield from _topics(directory)


def _topics(directory: str) -> Iterator[tuple[str, str]]:
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith(REMOVED_SUFFIX):
            continue  # the next start goes on removing it
        if os.path.isdir(path) and (os.path.basename(directory) == TOPICS_DIRECTORY or _topic_name(path)):
            yield _topic_name(path) or name, path


def _name_in(directory: str, root: str, name: str) -> str:
    """Return the name of a log, with its node where there are several."""
    return name if root == directory else f"{os.path.basename(root)}/{name}"


def _topic_at(disk: Disk, directory: str) -> TopicFile | None:
    """Return what is said of the topic in a directory, or None where it holds another log, such as the journal.

    Raises:
        StorageError: what is said of it cannot be read, so that a broker does not serve it.
    """
    above = os.path.basename(os.path.dirname(os.path.abspath(directory)))
    if above != TOPICS_DIRECTORY and not disk.exists(os.path.join(directory, TOPIC_FILE)):
        return None
    found = look_at_topic(disk, directory)
    if isinstance(found, Unreadable):
        raise ReadFailedError(f"{found.directory}: {found.reason}")
    return found


def _topic_name(directory: str) -> str:
    try:
        with open(os.path.join(directory, TOPIC_FILE), "rb") as file:
            return str(orjson.loads(file.read())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _ends(root: str) -> Iterator[tuple[str, int]]:
    """Yield for each topic of a data directory after which offset its groups stand; nothing of other directories."""
    disk, uids = ReadOnlyDisk(), dict[str, list[Said]]()
    said: dict[bytes, Said] = {}
    try:
        for name in (REGISTER_DIRECTORY, JOURNAL_DIRECTORY):
            directory = os.path.join(root, name)
            said = recollect(readable_records(disk, directory), said) if os.path.isdir(directory) else said
        names = os.listdir(os.path.join(root, TOPICS_DIRECTORY)) if said else []
    except (OSError, StorageError):  # what is wrong with them is said of their own logs
        return
    for key, of_group in said.items():
        uids.setdefault(key.partition(b"/")[0].decode(), []).append(of_group)
    for name in names:
        yield os.path.join(root, TOPICS_DIRECTORY, name), reached(uids.get(name.rpartition("-")[2], ()))


def _look_at(logs: list[tuple[str, str]], look: Look, ends: dict[str, int], verb: str) -> Iterator[Looked]:
    """Look at one log after the other, showing how far it is where somebody watches."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, path in progress.track(logs, description=verb):
            try:
                yield Looked(name=name, directory=path, findings=look(path, ends.get(path, 0)))
            except (StorageError, OSError) as error:
                yield Looked(name=name, directory=path, findings=[], error=str(error))


def _print(looked: list[Looked], verb: str, *, as_json: bool) -> None:
    if as_json:
        facts: list[dict[str, Any]] = [asdict(one) for one in looked]
        print_text(orjson.dumps({"logs": facts}).decode() + "\n")
        return
    for one in looked:
        for line in [str(finding) for finding in one.findings] + ([one.error] if one.error else []):
            print_text(f"{one.name}: {line}\n")
    wrong = sum(bool(one.findings or one.error) for one in looked)
    result = f"{wrong} of them need attention" if wrong else "nothing is wrong"
    print_text(f"{verb.lower()} {len(looked)} logs: {result}\n")
