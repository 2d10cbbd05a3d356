"""The catalog: the topics of a data directory, one directory each.

    <data-dir>/
        lock                         who uses it
        journal/                     where groups stand: a log
        groups/                      the register: how each group began, once more: a log
        topics/<name>-<uid>/         a topic: the segments of its log, and
            topic.json               its name, uid, options and time of creation
        topics/<name>-<uid>.removed  is being deleted

A topic's directory says all that is to be known of it, so that it can be copied. What the file `topic.json` says is
replaced by writing another, syncing it, and renaming it. Its last line is a checksum of all before it, CRC-32 as eight
digits; a file of a broker that wrote none is taken as it is.

Promises: a topic that `write` has returned for survives a power cut; one that `discard` has does not come back.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from zbusrpc.broker.mq.names import slug
from zbusrpc.broker.mq.options import TopicOptions
from zbusrpc.broker.mq.stored_options import Clamped, first_mistake, within_bounds
from zbusrpc.broker.storage.enclosing import JOURNAL_DIRECTORY, TOPICS_DIRECTORY
from zbusrpc.broker.storage.errors import DamageError, FormatVersionError, is_damage, reason_of
from zbusrpc.broker.storage.files import Disk, opened
from zbusrpc.broker.storage.finding import Finding, FindingKind

TOPIC_FILE: Final = "topic.json"
REGISTER_DIRECTORY: Final = "groups"
REMOVED_SUFFIX: Final = ".removed"
TEMPORARY_SUFFIX: Final = ".tmp"
CATALOG_VERSION: Final = 1
FILE_BYTES_MAX: Final = 1024 * 1024
"""Of a `topic.json`: a hundred times what one with the longest name and all options has; a larger one is not read."""
_DIRECTORY: Final = re.compile(r".+-[0-9a-f]{12}")
_MEND: Final = "put it back from a copy, or move the directory away to be rid of the topic"
_CHECKSUM: Final = b',\n  "checksum": "'


class TopicFile(BaseModel):
    """What `topic.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = CATALOG_VERSION
    name: str
    uid: str
    created_ms: int
    options: TopicOptions
    payer: int | None = None
    """Whose share of topics it takes; see `shares.py`. None where nobody pays."""
    checksum: str = ""
    """Of the text before it; set when it is written."""
    _clamped: list[Clamped] = PrivateAttr(default_factory=list)

    @property
    def clamped(self) -> list[Clamped]:
        """Which of its numbers are not as they are stored, but as their bounds are now."""
        return self._clamped


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A directory of which is not known what it holds."""

    directory: str
    reason: str
    """Which file it is below the directory of topics, what is wrong with it, and what mends that; for clients, too."""
    is_damage: bool = True
    """Whether it is the directory that is at fault, not who looks at it."""

    @property
    def uid(self) -> str:
        """The uid of the topic that may be in it."""
        return os.path.basename(self.directory).rpartition("-")[2]

    @property
    def name(self) -> str:
        """The slug of the name of the topic that may be in it."""
        return os.path.basename(self.directory).rpartition("-")[0]

    created_ms: int = 0


class Catalog:
    """The topics' directories."""

    def __init__(self, disk: Disk, data_dir: str) -> None:
        self._disk = disk
        self.data_dir = data_dir
        self._root = os.path.join(data_dir, TOPICS_DIRECTORY)
        self.journal_directory = os.path.join(data_dir, JOURNAL_DIRECTORY)
        self.register_directory = os.path.join(data_dir, REGISTER_DIRECTORY)
        if not disk.exists(self._root):
            disk.make_directory(self._root)

    def directory(self, topic: TopicFile) -> str:
        """Return where a topic is."""
        return os.path.join(self._root, directory_name(topic))

    def read(self) -> Iterator[TopicFile | Unreadable]:
        """Yield the topics that there are; finish what removed others.

        Raises:
            OSError: the disk does not say which there are.
            FormatVersionError: a newer zbusrpc wrote one of them.
        """
        for name in self._disk.list(self._root):
            directory = os.path.join(self._root, name)
            if is_foreign(self._disk, directory):
                continue
            try:
                found = look_at_topic(self._disk, directory)
                if found is None:
                    self._disk.remove_directory(directory)
                else:
                    yield found
            except OSError as error:
                yield unreadable_because(error, directory)

    def strays(self) -> list[Finding]:
        """Return what lies among the topics and is none.

        Raises:
            OSError: the disk does not say.
        """
        return strays(self._disk, self._root)

    def being_removed(self) -> set[str]:
        """Return the uids of the topics whose removal a crash cut short.

        Raises:
            OSError: the disk does not say.
        """
        return being_removed(self._disk, self._root)

    def write(self, topic: TopicFile) -> None:
        """Make a topic; may run in another thread.

        Raises:
            OSError: the disk did not take it; what there is of it is to be discarded.
        """
        self._disk.make_directory(self.directory(topic))
        self.rewrite(topic)

    def rewrite(self, topic: TopicFile) -> None:
        """Replace what is said of a topic.

        Raises:
            OSError: the disk did not take it; what was said before still holds.
        """
        directory = self.directory(topic)
        path = os.path.join(directory, TOPIC_FILE)
        temporary = path + TEMPORARY_SUFFIX
        if self._disk.exists(temporary):
            self._disk.remove(temporary)
        with opened(self._disk, temporary, create=True) as file:
            file.append(encode_topic(topic))
            file.sync()
        self._disk.rename(temporary, path)
        self._disk.sync_directory(directory)

    def discard(self, topic: TopicFile) -> str:
        """Let a topic be gone, and return the directory that `delete` removes.

        Raises:
            OSError: the disk did not let it; the topic is still there.
        """
        directory = self.directory(topic)
        removed = directory + REMOVED_SUFFIX
        self._disk.rename(directory, removed)
        self._disk.sync_directory(self._root)
        return removed

    def delete(self, directory: str) -> None:
        """Remove a discarded directory with its files; may run in another thread.

        Raises:
            OSError: that is left to the next start.
        """
        self._disk.remove_directory(directory)


def is_removed(name: str) -> bool:
    """Say whether a directory of this name is that of a topic that was removed."""
    return name.endswith(REMOVED_SUFFIX)


def is_foreign(disk: Disk, path: str) -> bool:
    """Say whether this is none of ours: a file that is not in the place of a topic's directory."""
    if _DIRECTORY.fullmatch(os.path.basename(path)):
        return False
    try:
        disk.list(path)
    except NotADirectoryError:
        return True
    except OSError:
        return False
    return False


def being_removed(disk: Disk, root: str) -> set[str]:
    """Return the uids of the topics in `root` whose removal a crash cut short.

    Raises:
        OSError: the disk does not say.
    """
    names = (name.removesuffix(REMOVED_SUFFIX) for name in disk.list(root) if is_removed(name))
    return {name.rpartition("-")[2] for name in names}


def strays(disk: Disk, root: str) -> list[Finding]:
    """Return what lies among the topics in `root` and is none.

    Raises:
        OSError: the disk does not say.
    """
    names = (name for name in disk.list(root) if is_foreign(disk, os.path.join(root, name)))
    return [Finding(kind=FindingKind.STRAY, name=name) for name in names]


def look_at_topic(disk: Disk, directory: str) -> TopicFile | Unreadable | None:
    """Return what a directory says that it holds; None of one that was being made or removed, of which nobody knows.

    Raises:
        FormatVersionError: a newer zbusrpc wrote it.
    """
    inside = os.path.basename(os.path.abspath(directory)) + "/"
    try:
        if is_removed(directory) or not set(disk.list(directory)) - {TOPIC_FILE + TEMPORARY_SUFFIX}:
            return None
        topic = _read(disk, directory)
    except OSError as error:
        return unreadable_because(error, directory)
    except ValidationError as error:
        return Unreadable(directory=directory, reason=f"{inside}{TOPIC_FILE}: {first_mistake(error)}; {_MEND}")
    except DamageError as error:
        return Unreadable(directory=directory, reason=f"{inside}{error}; {_MEND}")
    own = directory_name(topic)
    if own != os.path.basename(os.path.abspath(directory)):
        reason = f"{inside}{TOPIC_FILE}: it is that of {own}; give the directory that name, or a copy a uid of its own"
        return Unreadable(directory=directory, reason=reason)
    return topic


def unreadable_because(error: OSError, directory: str) -> Unreadable:
    """Return a topic of which the system does not give back what is said of it."""
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    what = os.path.basename(os.path.abspath(directory))
    what += f"/{TOPIC_FILE}" if os.path.basename(named) == TOPIC_FILE else ""
    mend = f"; {_MEND}" if is_damage(error) else ""
    return Unreadable(directory=directory, reason=f"{what}: {reason_of(error)}{mend}", is_damage=is_damage(error))


def directory_name(topic: TopicFile) -> str:
    """Return how the directory of a topic is called."""
    return f"{slug(topic.name)}-{topic.uid}"


def _read(disk: Disk, directory: str) -> TopicFile:
    path = os.path.join(directory, TOPIC_FILE)
    with opened(disk, path) as file:
        size = file.size()
        if size > FILE_BYTES_MAX:
            raise DamageError(TOPIC_FILE, f"it has {size} bytes, and no more than {FILE_BYTES_MAX} are written")
        data = file.pread(size, 0)
    clamped: list[Clamped] = []
    try:
        topic = TopicFile.model_validate_json(data)
    except ValidationError as error:
        version = _version_of(data)
        if version > CATALOG_VERSION:
            raise FormatVersionError(path, version, CATALOG_VERSION) from None
        if any(one["type"] == "json_invalid" for one in error.errors()):
            raise
        topic, clamped = within_bounds(TopicFile, json.loads(data))
    if topic.version > CATALOG_VERSION:
        raise FormatVersionError(path, topic.version, CATALOG_VERSION)
    text = data.rpartition(_CHECKSUM)[0]
    if topic.checksum and data != _with_checksum(text):
        was = f"checksum is {topic.checksum!r}, and {crc32(text):08x} is that of what stands there"
        raise DamageError(TOPIC_FILE, f"it is not as it was written: {was}")
    topic = topic.model_copy(update={"checksum": ""})
    topic.clamped.extend(clamped)
    return topic


def encode_topic(topic: TopicFile) -> bytes:
    """Return the file that says what there is to say of a topic."""
    left_out = {"checksum", "payer"} if topic.payer is None else {"checksum"}
    text = topic.model_dump_json(indent=2, exclude=left_out).encode()
    return _with_checksum(text.removesuffix(b"\n}"))


def _with_checksum(text: bytes) -> bytes:
    return text + _CHECKSUM + b'%08x"\n}\n' % crc32(text)


def _version_of(data: bytes) -> int:
    """Return the version that a file of a newer zbusrpc says it has."""

    class _Versioned(BaseModel):
        version: int = 0

    try:
        return _Versioned.model_validate_json(data).version
    except ValidationError:
        return 0


def file_of(name: str, uid: str, created_ms: int, options: TopicOptions, payer: int | None = None) -> TopicFile:
    """Return what is to be said of a topic."""
    values: dict[str, Any] = {"name": name, "uid": uid, "created_ms": created_ms, "options": options, "payer": payer}
    return TopicFile(**values)
