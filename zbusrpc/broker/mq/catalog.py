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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from zbusrpc.broker.mq.names import slug
from zbusrpc.broker.mq.options import TopicOptions
from zbusrpc.broker.mq.stored_options import Clamped, within_bounds
from zbusrpc.broker.storage.enclosing import JOURNAL_DIRECTORY
from zbusrpc.broker.storage.errors import DamageError, FormatVersionError, reason_of
from zbusrpc.broker.storage.files import Disk, opened

TOPIC_FILE: Final = "topic.json"
REGISTER_DIRECTORY: Final = "groups"
REMOVED_SUFFIX: Final = ".removed"
TEMPORARY_SUFFIX: Final = ".tmp"
CATALOG_VERSION: Final = 1
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
        self._root = os.path.join(data_dir, "topics")
        self.journal_directory = os.path.join(data_dir, JOURNAL_DIRECTORY)
        self.register_directory = os.path.join(data_dir, REGISTER_DIRECTORY)
        if not disk.exists(self._root):
            disk.make_directory(self._root)

    def directory(self, topic: TopicFile) -> str:
        """Return where a topic is."""
        return os.path.join(self._root, f"{slug(topic.name)}-{topic.uid}")

    def read(self) -> Iterator[TopicFile | Unreadable]:
        """Yield the topics that there are; finish what removed others.

        Raises:
            OSError: the disk does not say which there are.
            FormatVersionError: a newer zbusrpc wrote one of them.
        """
        for name in self._disk.list(self._root):
            directory = os.path.join(self._root, name)
            try:
                found = look_at_topic(self._disk, directory)
                if found is None:
                    self._disk.remove_directory(directory)
                else:
                    yield found
            except OSError as error:
                yield Unreadable(directory=directory, reason=reason_of(error))

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


def look_at_topic(disk: Disk, directory: str) -> TopicFile | Unreadable | None:
    """Return what a directory says that it holds; None of one that was being made or removed, of which nobody knows.

    Raises:
        FormatVersionError: a newer zbusrpc wrote it.
    """
    try:
        if directory.endswith(REMOVED_SUFFIX) or not set(disk.list(directory)) - {TOPIC_FILE + TEMPORARY_SUFFIX}:
            return None
        topic = _read(disk, directory)
    except OSError as error:
        return Unreadable(directory=directory, reason=reason_of(error))
    except ValidationError as error:
        reason = f"{TOPIC_FILE}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
        return Unreadable(directory=directory, reason=reason)
    except DamageError as error:
        return Unreadable(directory=directory, reason=str(error))
    own = f"{slug(topic.name)}-{topic.uid}"
    if own != os.path.basename(os.path.abspath(directory)):
        theirs = os.path.join(os.path.dirname(directory), own)
        reason = f"its {TOPIC_FILE} is that of {theirs}; give a copy a uid of its own"
        return Unreadable(directory=directory, reason=reason)
    return topic


def _read(disk: Disk, directory: str) -> TopicFile:
    path = os.path.join(directory, TOPIC_FILE)
    with opened(disk, path) as file:
        data = file.pread(file.size(), 0)
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
    if topic.checksum and data != _with_checksum(data.rpartition(_CHECKSUM)[0]):
        raise DamageError(TOPIC_FILE, "it is not as it was written: its checksum is another")
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
