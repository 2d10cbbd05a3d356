"""Inspection: what is wrong with a data directory that no broker has open, looked at or put in order log by log.

What a check says is what a start finds, from the same code: the logs of topics and groups, what is said of each topic,
and what no log alone can tell, which is where groups stand that something is missing of.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from zbusrpc.broker.mq.catalog import TOPIC_FILE, TopicFile, Unreadable, look_at_topic, strays
from zbusrpc.broker.mq.group_logs import (
    GROUP_LOGS,
    about_orphans,
    forget_groups,
    gone,
    may_have_lost_groups,
    orphans_of,
    topic_names,
    uid_of,
    ways_out,
    where_groups_stand,
)
from zbusrpc.broker.mq.journal import OPTIONS as GROUP_LOG_OPTIONS
from zbusrpc.broker.mq.recollection import Said, reached
from zbusrpc.broker.storage.check import check_log, repair_log
from zbusrpc.broker.storage.enclosing import JOURNAL_DIRECTORY, TOPICS_DIRECTORY
from zbusrpc.broker.storage.errors import StorageError, is_damage, reason_of
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.finding import MENDED, Finding, FindingKind
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.errors import one_of

_MOVE: Final = "move it away, or put back what was there"
_BEGUN: Final = "begun again: groups begin anew, where their consumers say"


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was found in one log."""

    name: str
    directory: str
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What else there is to say, of a log that is in order, too."""
    error: str = ""
    """Why it cannot be read, or not be put in order."""
    is_damage: bool = True
    """Whether the error is one of the directory, not of who looks, of the disk, or of a newer version."""

    @property
    def needs_attention(self) -> bool:
        """Whether it is not in order."""
        return bool(self.error) or any(found.needs_attention for found in self.findings)

    @property
    def is_mended(self) -> bool:
        """Whether, after a repair, nothing is left that somebody has to see to."""
        return not self.error and all(found.kind in MENDED for found in self.findings if found.needs_attention)


class Inspection:
    """A look at one data directory, or at another directory with logs."""

    def __init__(self, disk: Disk, root: str, *, repairs_at_ms: int | None = None) -> None:
        """Look at the directory as a whole; log by log it is looked at by `look_at`.

        Args:
            disk: Where it is.
            root: The data directory, or the directory above some topics.
            repairs_at_ms: The time, where it is to be put in order; None where nothing is to be changed.

        Raises:
            OSError: the disk does not say what there is.
        """
        self._disk, self._root, self._now_ms = disk, root, repairs_at_ms
        self._gone = {os.path.join(root, found.name): found for found in gone(disk, root)}
        self._said: dict[bytes, Said] = {}
        self._names: dict[str, str] = {}
        with suppress(OSError, StorageError):  # what is wrong with them is said of their own logs
            self._said, self._names = where_groups_stand(disk, root), topic_names(disk, root)
        by_uid: dict[str, list[Said]] = {}
        for key, said in self._said.items():
            by_uid.setdefault(uid_of(key), []).append(said)
        self._ends = {uid: reached(groups) for uid, groups in by_uid.items()}
        self._found: dict[str, list[Finding]] = {}

    @property
    def gone(self) -> Iterable[str]:
        """The logs of groups that are not there."""
        return self._gone

    def look_at(self, name: str, directory: str) -> Looked:
        """Look at one log, or put it in order."""
        try:
            topic = self._topic_at(directory)
            if isinstance(topic, Unreadable):
                error = os.path.join(os.path.dirname(os.path.abspath(directory)), topic.reason)
                return Looked(name=name, directory=directory, error=error, is_damage=topic.is_damage)
            if topic is None and self._is_among_topics(directory):  # nobody knows of it: the next start removes it
                return Looked(name=name, directory=directory)
            findings, notes = list(self._findings_of(directory, topic)), list[str]()
            self._found[directory] = findings
            if directory == os.path.join(self._root, JOURNAL_DIRECTORY):
                findings += self._orphans()
                notes = list(self._set_back())
            return Looked(name=name, directory=directory, findings=findings, notes=notes)
        except (StorageError, OSError) as error:
            text, at_fault = _text_of(error, directory), is_damage(error) or is_damage(error.__cause__)
            text += f"; {_MOVE}" if at_fault else ""
            return Looked(name=name, directory=directory, error=text, is_damage=at_fault)

    def rest(self) -> Iterator[Looked]:
        """Yield what there is to say besides: of what lies among the topics, and of groups once all logs were seen.

        Raises:
            OSError: the disk does not say.
        """
        topics = os.path.join(self._root, TOPICS_DIRECTORY)
        if not self._disk.exists(topics):
            return
        if found := strays(self._disk, topics):
            yield Looked(name=TOPICS_DIRECTORY, directory=topics, findings=found)
        both = [self._found.get(os.path.join(self._root, name), []) for name in GROUP_LOGS]
        if may_have_lost_groups(*both) and not self._gone:
            bare = set(self._names.values()) - {self._topic_of(key) for key in self._said}
            note = "journal and groups are both damaged: a group that stood where both are begins anew"
            note += f"; of these topics no group is known: {one_of(bare)}" if bare else ""
            yield Looked(name=JOURNAL_DIRECTORY, directory=self._root, notes=[note])

    def _topic_at(self, directory: str) -> TopicFile | Unreadable | None:
        """Return what is said of the topic in a directory, or None where it holds another log, such as the journal."""
        if not self._is_among_topics(directory) and not self._disk.exists(os.path.join(directory, TOPIC_FILE)):
            return None
        return look_at_topic(self._disk, directory)

    def _is_among_topics(self, directory: str) -> bool:
        return os.path.basename(os.path.dirname(os.path.abspath(directory))) == TOPICS_DIRECTORY

    def _findings_of(self, directory: str, topic: TopicFile | None) -> Iterator[Finding]:
        absent = self._gone.get(directory)
        if absent is not None:
            yield self._describe(absent)
        if self._now_ms is not None:
            if absent is not None:
                self._disk.make_directory(directory)
            options = topic.options.log_options() if topic is not None else self._options_at(directory)
            end = self._end_of(directory)
            yield from repair_log(self._disk, directory, self._now_ms, options, next_offset_min=end)
        elif absent is None or self._disk.exists(directory):
            is_compacted = topic is not None and topic.options.compact
            end = self._end_of(directory)
            yield from check_log(self._disk, directory, is_compacted=is_compacted, next_offset_min=end)

    def _describe(self, absent: Finding) -> Finding:
        """Say of a log of groups that is gone what can be done, or was."""
        if len(self._gone) < len(GROUP_LOGS):
            return absent
        way = ways_out(self._root) if self._now_ms is None else _BEGUN
        return replace(absent, note=f"{absent.note}; {way}")

    def _options_at(self, directory: str) -> LogOptions:
        return GROUP_LOG_OPTIONS if os.path.basename(directory) in GROUP_LOGS else LogOptions()

    def _end_of(self, directory: str) -> int:
        """Return the offset after all that the groups of a topic were given."""
        uid = os.path.basename(os.path.abspath(directory)).rpartition("-")[2]
        return self._ends.get(uid, 0)

    def _topic_of(self, key: bytes) -> str:
        return self._names.get(uid_of(key), uid_of(key))

    def _set_back(self) -> Iterator[str]:
        """Name the groups of whose places something is missing."""
        for key, said in self._said.items():
            if said["has_gap"]:
                place = f"goes on from an earlier place, offset {said['next']} at the latest"
                yield f"group {said['name']} of {self._topic_of(key)} {place}: messages come again"

    def _orphans(self) -> Iterator[Finding]:
        """Name the groups whose topic is not there; a repair lets them be forgotten."""
        orphans = orphans_of(self._disk, self._root, self._said)
        for uid in sorted({uid_of(key) for key in orphans}):
            about = about_orphans(uid, (said for key, said in orphans.items() if uid_of(key) == uid))
            what = about["what"] if self._now_ms is None else "they are forgotten"
            yield Finding(kind=FindingKind.NO_TOPIC, name=uid, note=f"groups: {about['groups']}; {what}")
        if orphans and self._now_ms is not None:
            forget_groups(self._disk, self._root, orphans, self._now_ms)


def _text_of(error: Exception, directory: str) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or directory}: {reason_of(error).lower()}"
    return f"{directory}: {error}"
