"""The store: the topics and groups of one data directory, from their making to their end.

`open` reads the catalog and the journal; from then on all that exists is in memory, and what changes is told
on the disk first. Messages of sessions come through `queues.py`; this module knows no session.

Promises: what was declared and answered survives a power cut; what was removed does not come back; one topic that
cannot be read does not keep the others from being served, and nobody makes another in its place.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from zbusrpc.broker.mq.catalog import Catalog, TopicFile, Unreadable, file_of
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.journal import OPTIONS as JOURNAL_OPTIONS
from zbusrpc.broker.mq.journal import Journal
from zbusrpc.broker.mq.names import check_name
from zbusrpc.broker.mq.options import DEAD_LETTER_SUFFIX, GroupOptions, StartAt, TopicOptions
from zbusrpc.broker.mq.positions import resolve
from zbusrpc.broker.mq.scheduler import Scheduler
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.errors import FormatVersionError, StorageError
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.errors import Code, RpcError, did_you_mean
from zbusrpc.telemetry import get_logger

ABANDONED_S: Final = 60.0
"""After a start, groups that go with their last consumer wait so long for one."""

TopicDone = Callable[[Topic | None, RpcError | None], None]
GroupDone = Callable[[Group | None, RpcError | None], None]
Done = Callable[[RpcError | None], None]
log = get_logger("mq")


class Store:
    """The topics and groups of a broker."""

    def __init__(
        self,
        disk: Disk,
        data_dir: str,
        scheduler: Scheduler,
        *,
        durability: Durability = Durability.DISK,
        rng: random.Random | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.durability = durability
        """Level of topics that name none."""
        self.topics: dict[str, Topic] = {}
        self.broken: dict[str, str] = {}
        """Topics that could not be opened, and why."""
        self.on_readable: Callable[[Topic], None] = lambda topic: None
        self.on_group_ended: Callable[[Group, RpcError], None] = lambda group, error: None
        self.on_group_moved: Callable[[Group], None] = lambda group: None
        self.journal: Journal
        self._disk = disk
        self._handles = Handles(disk)
        self._catalog = Catalog(disk, data_dir)
        self._rng = rng or random.Random()
        self._creating: dict[str, list[TopicDone]] = {}

    # -- opening and closing -----------------------------------------------------------------------------

    def open(self) -> None:
        """Read what there is.

        Raises:
            FormatVersionError: a newer zbusrpc wrote some of it.
            StorageError: the journal cannot be read.
            OSError: the data directory cannot be read.
        """
        now_ms = self.scheduler.now_ms()
        journal_log = open_log(
            self._disk, self._handles, self._catalog.journal_directory, JOURNAL_OPTIONS, now_ms=now_ms
        )
        self._report("the journal", journal_log.findings)
        self.journal = Journal(self._committer(journal_log, Durability.OS), self.scheduler)
        said = self.journal.read()
        by_topic: dict[str, dict[bytes, dict[str, Any]]] = {}
        for key, group in said.items():
            by_topic.setdefault(key.split(b"/", 1)[0].decode(), {})[key] = group
        for found in self._catalog.read():
            if isinstance(found, Unreadable):
                log.error("mq.unreadable_topic", directory=found.directory, reason=found.reason)
                continue
            groups = by_topic.pop(found.uid, {})
            try:
                self._open_topic(found, groups)
            except FormatVersionError:
                raise
            except StorageError as error:
                log.error("mq.unreadable_topic", topic=found.name, reason=str(error))
                self.broken[found.name] = str(error)
        for orphans in by_topic.values():
            for key in orphans:
                self.journal.remove(key, lambda error: None)

    def _open_topic(self, found: TopicFile, groups: dict[bytes, dict[str, Any]]) -> Topic:
        reached = max(
            (max([said["next"], *(offset + 1 for offset in said["pending"])]) for said in groups.values()), default=0
        )
        opened = open_log(
            self._disk,
            self._handles,
            self._catalog.directory(found),
            found.options.log_options(),
            now_ms=self.scheduler.now_ms(),
            next_offset_min=reached,
        )
        self._report(found.name, opened.findings)
        opened.on_finding = lambda finding: self._report(found.name, [finding])
        topic = Topic(
            found.name,
            found.uid,
            found.options,
            self._committer(opened, found.options.durability),
            scheduler=self.scheduler,
            created_ms=found.created_ms,
            on_readable=self._note_readable,
        )
        self.topics[found.name] = topic
        for key, said in groups.items():
            group = self._make_group(topic, said["name"], GroupOptions(**said["options"]), key)
            group.seek(max(said["next"], opened.start_offset))
            group.restore(said["pending"], self.scheduler.now(), self.scheduler.now_ms())
            self.journal.adopt(key, group)
            self.on_group_moved(group)
            if group.options.delete_on_exit:
                self.scheduler.later(ABANDONED_S, partial(self.remove_if_unused, group))
        return topic

    def _note_readable(self, topic: Topic) -> None:
        self.on_readable(topic)

    def _committer(self, opened: Any, durability: Durability) -> Committer:
        scheduler = self.scheduler
        return Committer(
            opened, durability, soon=scheduler.soon, in_worker=scheduler.in_worker, now_ms=scheduler.now_ms
        )

    def _report(self, what: str, findings: list[Any]) -> None:
        for finding in findings:
            log.warning("mq.damage", topic=what, finding=str(finding))

    def close(self, done: Callable[[], None]) -> None:
        """Write what is to be written, and tell when everything is on the disk and closed."""
        self.journal.write()
        committers = [topic.committer for topic in self.topics.values()] + [self.journal.committer]
        left = len(committers)

        def one_idle() -> None:
            nonlocal left
            left -= 1
            if not left:
                for committer in committers:
                    try:
                        committer.log.close()
                    except StorageError as error:
                        log.error("mq.close_failed", reason=str(error))
                done()

        for committer in committers:
            committer.when_idle(one_idle)

    # -- topics ------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """Return a topic.

        Raises:
            RpcError: NOT_FOUND, or INTERNAL where it cannot be read.
        """
        topic = self.topics.get(name)
        if topic is None:
            if name in self.broken:
                raise RpcError(Code.INTERNAL, f"topic {name} cannot be read: {self.broken[name]}")
            text = f"there is no topic {name}{did_you_mean(name, self.topics)}"
            raise RpcError(Code.NOT_FOUND, f"{text}; declare it first")
        return topic

    def declare(self, name: str, given: dict[str, Any], *, update: bool, done: TopicDone) -> None:
        """Make a topic, or see that it is as `given` says; tell when it is on the disk.

        Raises:
            RpcError: INVALID_ARGUMENT, FAILED_PRECONDITION, or INTERNAL where it cannot be read.
        """
        topic = self.topics.get(name)
        if topic is not None:
            self._redeclare(topic, given, update=update, done=done)
            return
        if name in self.broken:
            self.topic(name)
        if name in self._creating:
            self._creating[name].append(done)
            return
        options = TopicOptions(**{"durability": self.durability, **given})
        if options.dead_letter_topic:
            check_name("dead-letter topic", options.dead_letter_topic)
        self._creating[name] = [done]
        uid = f"{self._rng.getrandbits(48):012x}"
        found = file_of(name, uid, self.scheduler.now_ms(), options)
        self.scheduler.in_worker(lambda: self._catalog.write(found), lambda error: self._created(found, error))

    def _created(self, found: TopicFile, error: BaseException | None) -> None:
        waiting = self._creating.pop(found.name)
        topic: Topic | None = None
        refusal: RpcError | None = None
        try:
            if error is not None:
                raise error
            topic = self._open_topic(found, {})
        except (OSError, StorageError) as failure:
            reason = failure.strerror if isinstance(failure, OSError) else str(failure)
            refusal = RpcError(Code.RESOURCE_EXHAUSTED, f"topic {found.name} cannot be made: {reason}")
        for done in waiting:
            done(topic, refusal)

    def _redeclare(self, topic: Topic, given: dict[str, Any], *, update: bool, done: TopicDone) -> None:
        differing = {key: value for key, value in given.items() if getattr(topic.options, key) != value}
        if not differing:
            done(topic, None)
            return
        if not update:
            raise _differs(f"topic {topic.name}", topic.options, differing)
        options = topic.options.model_copy(update=differing)
        found = file_of(topic.name, topic.uid, topic.created_ms, options)

        def written(error: BaseException | None) -> None:
            if error is not None:
                done(None, RpcError(Code.RESOURCE_EXHAUSTED, f"topic {topic.name} cannot be changed: {error}"))
                return
            topic.set_options(options)
            done(topic, None)

        self.scheduler.in_worker(lambda: self._catalog.write(found), written)

    def remove_topic(self, topic: Topic, done: Done) -> None:
        """Remove a topic with its messages and groups, and tell when it cannot come back."""
        del self.topics[topic.name]
        topic.is_removed = True
        for group in list(topic.groups.values()):
            self._end_group(topic, group, f"topic {topic.name} was removed", lambda error: None)

        def idle() -> None:
            try:
                topic.log.close()
            except StorageError as error:
                log.warning("mq.close_failed", topic=topic.name, reason=str(error))
            try:
                found = file_of(topic.name, topic.uid, topic.created_ms, topic.options)
                directory = self._catalog.discard(found)
            except OSError as error:
                done(RpcError(Code.INTERNAL, f"topic {topic.name} cannot be removed: {error.strerror}"))
                return
            self.scheduler.in_worker(lambda: self._catalog.delete(directory), lambda error: done(None))

        topic.committer.when_idle(idle)

    def empty_topic(self, topic: Topic, done: Callable[[int, RpcError | None], None]) -> None:
        """Remove all messages of a topic, and tell how many when they cannot come back.

        Raises:
            RpcError: the disk did not let it; nothing has changed.
        """
        count = topic.log.next_offset - topic.log.start_offset
        try:
            topic.committer.flush()
            retired = topic.log.empty(self.scheduler.now_ms())
        except StorageError as error:
            raise as_rpc_error(topic.name, error) from error
        topic.forget_tail()
        for group in topic.groups.values():
            self.move_group(group, topic.log.next_offset)
        failed = f"topic {topic.name}: its files cannot be removed"

        def removed(error: BaseException | None) -> None:
            done(count, RpcError(Code.INTERNAL, f"{failed}: {error}") if error is not None else None)

        self.scheduler.in_worker(retired.remove, removed)

    # -- groups ------------------------------------------------------------------------------------------

    def group(self, topic: Topic, name: str) -> Group:
        """Return a group.

        Raises:
            RpcError: NOT_FOUND.
        """
        group = topic.groups.get(name)
        if group is None:
            raise self.no_group(topic, name)
        return group

    def no_group(self, topic: Topic, name: str) -> RpcError:
        """Return the error for a group that there is not."""
        text = f"topic {topic.name} has no group {name}{did_you_mean(name, topic.groups)}"
        return RpcError(Code.NOT_FOUND, text)

    def check_group(self, topic: Topic, group: Group, given: dict[str, Any]) -> None:
        """See that a group is as `given` says.

        Raises:
            RpcError: FAILED_PRECONDITION.
        """
        differing = {key: value for key, value in given.items() if getattr(group.options, key) != value}
        if differing:
            raise _differs(f"group {group.name} of topic {topic.name}", group.options, differing)

    def create_group(self, topic: Topic, name: str, options: GroupOptions, start: StartAt, done: GroupDone) -> None:
        """Make a group, and tell when it is on the disk.

        Raises:
            RpcError: INVALID_ARGUMENT, NOT_FOUND or OUT_OF_RANGE: it cannot begin there.
        """
        check_name("group", name)
        key = f"{topic.uid}/{name}".encode()
        position, pending = resolve(topic, start)
        group = self._make_group(topic, name, options, key)
        group.seek(position)
        group.restore(pending, self.scheduler.now(), self.scheduler.now_ms())

        def written(error: StorageError | None) -> None:
            if error is not None:
                topic.groups.pop(name, None)
                group.is_gone = True
                self.journal.forget(key)
                done(None, as_rpc_error(topic.name, error))
            else:
                done(group, None)

        self.journal.put(key, group, written)

    def _make_group(self, topic: Topic, name: str, options: GroupOptions, key: bytes) -> Group:
        group = topic.groups[name] = Group(
            topic.name,
            name,
            options,
            0,
            key=key,
            fetch=topic.fetch,
            load=topic.load,
            jitter=self._rng.random,
        )
        return group

    def change_group(self, group: Group, changed: dict[str, Any], done: Done) -> None:
        """Give a group other options, and tell when that is on the disk."""
        group.set_options(group.options.model_copy(update=changed))
        self.on_group_moved(group)
        self.journal.put(group.key, group, lambda error: done(as_rpc_error(group.topic_name, error) if error else None))

    def seek(self, topic: Topic, group: Group, start: StartAt, done: Done) -> int:
        """Move a group, tell when that is on the disk, and return where it is.

        Raises:
            RpcError: it cannot go there; nothing has changed.
        """
        position, pending = resolve(topic, start)
        self.move_group(group, position)
        group.restore(pending, self.scheduler.now(), self.scheduler.now_ms())
        self.journal.put(group.key, group, lambda error: done(as_rpc_error(topic.name, error) if error else None))
        return position

    def move_group(self, group: Group, position: int) -> None:
        """Let a group go on at an offset, with nothing pending."""
        group.seek(position)
        self.note_change(group)

    def remove_group(self, topic: Topic, group: Group, done: Done) -> None:
        """Remove a group, and tell when it cannot come back."""
        self._end_group(topic, group, f"group {group.name} of topic {topic.name} was removed", done)

    def remove_if_unused(self, group: Group) -> None:
        """Remove a group that goes with its last consumer, if nobody has come back."""
        topic = self.topics.get(group.topic_name)
        if topic is not None and topic.groups.get(group.name) is group and not group.pool.members:
            self.remove_group(topic, group, lambda error: None)

    def _end_group(self, topic: Topic, group: Group, reason: str, done: Done) -> None:
        topic.groups.pop(group.name, None)
        group.is_gone = True
        self.on_group_ended(group, RpcError(Code.NOT_FOUND, reason))
        self.journal.remove(group.key, lambda error: done(as_rpc_error(topic.name, error) if error else None))

    def revive(self, group: Group, offset: int) -> None:
        """Deliver a message of a group again that it is done with."""
        group.revive(offset)
        self.note_change(group)

    def note_change(self, group: Group) -> None:
        """Write what a group did, in a short while, and look whether it has something to hand out."""
        self.journal.note_change(group.key)
        self.on_group_moved(group)

    # -- dead letters ------------------------------------------------------------------------------------

    def dead_letter_name(self, topic: Topic) -> str:
        """Return where the dead letters of a topic go; nothing where they are dropped."""
        name = topic.options.dead_letter_topic
        if name is None:
            return "" if topic.name.endswith(DEAD_LETTER_SUFFIX) else topic.name + DEAD_LETTER_SUFFIX
        return name


def _differs(what: str, options: TopicOptions | GroupOptions, differing: dict[str, Any]) -> RpcError:
    name, value = next(iter(differing.items()))
    text = f"{what} exists with {name} = {getattr(options, name)!s}, not {value!s}; say update to change it"
    return RpcError(Code.FAILED_PRECONDITION, text)
