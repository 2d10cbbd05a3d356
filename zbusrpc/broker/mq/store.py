"""The store: the topics and groups of one data directory, or other backend, from their making to their end.

`open` reads the catalog and the journal; from then on all that exists is in memory, and what changes is told
on the disk first. Messages of sessions come through `queues.py`; this module knows no session.

Promises: what was declared and answered survives a power cut; what was removed does not come back; one topic that
cannot be read does not keep the others from being served, and nobody makes another in its place.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from zbusrpc.broker.access.rights import Rights, visible
from zbusrpc.broker.mq.backend import Backend
from zbusrpc.broker.mq.catalog import TopicFile, Unreadable, directory_name, file_of
from zbusrpc.broker.mq.cursor import Absent
from zbusrpc.broker.mq.faults import as_rpc_error, cannot
from zbusrpc.broker.mq.group_logs import about_orphans, may_have_lost_groups
from zbusrpc.broker.mq.groups import Done, Groups, differs
from zbusrpc.broker.mq.journal import Journal
from zbusrpc.broker.mq.options import TopicOptions, implied
from zbusrpc.broker.mq.read_ahead import ReadAhead
from zbusrpc.broker.mq.recollection import Said, reached
from zbusrpc.broker.mq.slices import BYTES_MAX
from zbusrpc.broker.mq.stored_options import group_options, note_clamped
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.mq.unreadable import UnreadableTopic, UnreadableTopics
from zbusrpc.broker.sessions.limits import Limits, share_used_up, too_many
from zbusrpc.broker.sessions.scheduler import Scheduler, committer_on
from zbusrpc.broker.sessions.shares import Payer, lasting_payer, whose
from zbusrpc.broker.sessions.telling import tell_all
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.errors import FormatVersionError, ReadFailedError, StorageError
from zbusrpc.errors import Code, RpcError, one_of
from zbusrpc.telemetry import get_logger

OPENING_BYTES: Final = BYTES_MAX
"""What opening a topic counts as: one takes up to 8 MiB of reading, so that each has a turn of its own."""

Places = dict[bytes, Said]
"""What the journal says of the groups of a topic, by key."""
TopicDone = Callable[[Topic | None, RpcError | None], None]
log = get_logger("mq")


class Store(Groups):
    """The topics and groups of a broker."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        *,
        durability: Durability = Durability.DISK,
        rng: random.Random | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(scheduler, rng or random.Random(), limits or Limits())
        self.durability = durability
        """Level of topics that name none."""
        self.on_readable: Callable[[Topic], None] = lambda topic: None
        self.unreadable = UnreadableTopics()
        self.found = 0
        """How many topics the data directory has, as far as it was looked at."""
        self._to_mend: list[bytes] = []  # groups that the journal is to say again, once it has all
        self._backend = backend
        self._catalog = backend.catalog
        self._ahead = ReadAhead()
        self.retrying: set[Topic] = set()
        """Topics of which dead letters are being given back."""
        self._creating: dict[str, list[TopicDone]] = {}
        self._is_closing = False

    # -- opening and closing -----------------------------------------------------------------------------

    def opening(self) -> Iterator[int]:
        """Read what there is, one topic or block of the journal at each step, which tells how many bytes that took.

        Nothing is to be asked of the store before all steps are done.

        Raises:
            FormatVersionError: a newer zbusrpc wrote some of it.
            StorageError: the journal cannot be read, or is gone together with the register (GroupsLostError).
            OSError: the data directory cannot be read.
        """
        journal, register = (
            committer_on(self.scheduler, opened, Durability.OS)
            for opened in self._backend.open_group_logs(self.scheduler.now_ms(), self._report)
        )
        self.journal = Journal(journal, self.scheduler, Journal(register, self.scheduler))
        places: dict[str, Places] = {}  # by topic
        for key, said in (yield from self.journal.reading()).items():
            places.setdefault(key.split(b"/", 1)[0].decode(), {})[key] = said
        self._report("the data directory", self._catalog.strays())
        being_removed = self._catalog.being_removed()
        there: list[TopicFile | Unreadable] = []
        for found in self._catalog.read():
            there.append(found)
            self.found += 1
            yield 0
        for found in sorted(there, key=lambda found: -found.created_ms):
            groups = places.pop(found.uid, {})
            try:
                self._open_found(found, groups)
            except FormatVersionError:
                raise
            except (StorageError, RpcError) as error:
                where = self._catalog.directory(found) if isinstance(found, TopicFile) else found.directory
                log.error("mq.unreadable_topic", topic=found.name, directory=where, reason=str(error))
                options = found.options if isinstance(found, TopicFile) else TopicOptions()
                self.unreadable.note(UnreadableTopic(found.name, str(error), found.created_ms, options))
                for key, said in groups.items():
                    self.journal.adopt(key, Absent(said))
            yield from self._restoring()
            yield OPENING_BYTES
        for uid, orphans in places.items():
            self._keep_orphans(uid, orphans, is_removed=uid in being_removed)
        self._mend_groups()
        for name in sorted({self.dead_letter_name(topic) for topic in self.topics.values()} & self.topics.keys()):
            self.letter_counts.follow(self.topics[name])

    def _keep_orphans(self, uid: str, orphans: Places, *, is_removed: bool) -> None:
        """Keep the places of groups whose topic is not there, for when somebody puts it back, unless it was removed."""
        for key, said in orphans.items():
            if is_removed:
                self.journal.remove(key, lambda error: None)
            else:
                self.journal.adopt(key, Absent(said))
        if not is_removed:
            log.error("mq.topic_gone", **about_orphans(uid, orphans.values()))

    def _mend_groups(self) -> None:
        """Name the groups of whose places something is missing, and say them again."""
        names = {topic.uid: topic.name for topic in self.topics.values()}
        for key in self.journal.hurt:
            uid, _, group = key.decode().partition("/")
            topic = names.get(uid, uid)
            log.warning("mq.place_damaged", topic=topic, group=group, what="it goes on from an earlier place")
            self.journal.mend(key)
        for key in self._to_mend:
            self.journal.mend(key)
        logs = [journal.committer.log for journal in (self.journal, self.journal.register) if journal is not None]
        if may_have_lost_groups(*(one.findings for one in logs)):
            bare = one_of(topic.name for topic in self.topics.values() if not topic.groups)
            log.error("mq.groups_may_be_lost", topics_without_groups=bare, what="both logs of groups are damaged")

    def _open_found(self, found: TopicFile | Unreadable, groups: Places) -> None:
        if isinstance(found, Unreadable):
            raise ReadFailedError(found.reason)
        if found.name in self.topics:
            own, other = (directory_name(one) for one in (found, self._file_of(self.topics[found.name])))
            raise ReadFailedError(f"{own} has the same name as {other}, which is newer")
        self._open_topic(found, groups)
        self._charge(found.payer)
        if found.clamped:
            note_clamped(found.clamped, topic=found.name)
            with suppress(OSError):  # then the next start says it again
                self._catalog.rewrite(found)

    def _open_topic(self, found: TopicFile, groups: Places) -> Topic:
        options = {key: group_options(said) for key, said in groups.items()}
        now_ms, reached_by_groups = self.scheduler.now_ms(), reached(groups.values())
        opened = self._backend.open_topic(found, now_ms=now_ms, next_offset_min=reached_by_groups)
        self._report(found.name, opened.findings)
        topic = Topic(
            found.name,
            found.uid,
            found.options,
            committer_on(self.scheduler, opened, found.options.durability),
            scheduler=self.scheduler,
            created_ms=found.created_ms,
            payer=found.payer,
            on_readable=self.on_readable,
            ahead=self._ahead,
        )
        opened.on_finding = partial(self._note_finding, topic)
        self.topics[found.name] = self.topics_by_wire[found.name.encode()] = topic
        self._send_letters(topic.options)
        self.on_change(found.name)
        topic.committer.when_idle(lambda: self.on_readable(topic))  # what a crash left is synced first
        for key, said in groups.items():
            of_group, clamped = options[key]
            group = self._make_group(topic, said["name"], of_group, key, said.get("payer"))
            group.seek(max(said["next"], opened.start_offset))
            self._to_restore.append((group, said))
            if clamped:
                note_clamped(clamped, topic=topic.name, group=group.name)
                self._to_mend.append(key)
        return topic

    def _note_finding(self, topic: Topic, finding: Any) -> None:
        self._report(topic.name, [finding])
        self.letter_counts.recount(topic)

    def _report(self, what: str, findings: list[Any]) -> None:
        for finding in findings:
            log.warning("mq.damage", topic=what, finding=str(finding))

    def close(self, done: Callable[[], None]) -> None:
        """Write what is to be written, and tell when everything is on the disk and closed."""
        self._is_closing = True
        for waiting in self._creating.values():  # topics that are being made come first
            waiting.append(lambda topic, error: self.close(done))
            return
        self.journal.write()
        committers = [topic.committer for topic in self.topics.values()]
        committers += [journal.committer for journal in (self.journal, self.journal.register) if journal is not None]
        left = len(committers)

        def one_idle() -> None:
            nonlocal left
            left -= 1
            if not left:
                self.journal.close()
                for committer in committers:
                    try:
                        committer.log.close()
                    except StorageError as error:
                        log.error("mq.close_failed", reason=str(error))
                done()

        for committer in committers:
            committer.when_idle(one_idle)

    # -- topics ------------------------------------------------------------------------------------------

    def topic(self, name: str, rights: Rights | None = None) -> Topic:
        """Return a topic that somebody with `rights` asks for.

        Raises:
            RpcError: NOT_FOUND, FAILED_PRECONDITION where it is a service, or INTERNAL where it cannot be read.
        """
        topic = self.topics.get(name)
        if topic is None:
            self.unreadable.check(name)
            if self.runs(name):
                raise RpcError(Code.FAILED_PRECONDITION, f"{name} is a service, and no topic of messages: call it")
            hint = self.hint(name, visible(rights, self.topics)) or "; declare it first"
            raise RpcError(Code.NOT_FOUND, f"there is no topic {name}{hint}")
        return topic

    def is_known(self, name: str) -> bool:
        """Say whether there is a topic, or one is being made."""
        return name in self.topics or name in self._creating

    def declare(
        self,
        name: str,
        given: dict[str, Any],
        *,
        update: bool,
        done: TopicDone,
        rights: Rights | None = None,
        payer: Payer | None = None,
    ) -> None:
        """Make a topic for somebody with `rights`, or see that it is as `given` says; tell when it is on the disk.

        The broker itself makes topics for which `payer` pays.

        Raises:
            RpcError: INVALID_ARGUMENT, FAILED_PRECONDITION, INTERNAL where it cannot be read, or RESOURCE_EXHAUSTED
                where there are too many, or too many are theirs.
        """
        topic = self.topics.get(name)
        if topic is not None:
            self._redeclare(topic, given, update=update, done=done)
            return
        self.unreadable.check(name)
        if name in self._creating:
            self._creating[name].append(partial(self._declare_again, name, given, update, done, rights, payer))
            return
        if self._is_closing:
            raise RpcError(Code.UNAVAILABLE, f"topic {name} cannot be made: the broker is shutting down")
        options = TopicOptions(**{"durability": self.durability, **implied(given), **given})
        self.check_dead_letter_topic(name, options)
        if self.runs(name) and not options.is_service:
            text = f"{name} is a service that runs here: a topic of messages needs a name of its own"
            raise RpcError(Code.FAILED_PRECONDITION, text)
        if len(self.topics) + len(self._creating) >= self.limits.topics_max:
            raise too_many("stored topics", self.limits.topics_max)
        payer = lasting_payer(rights) if payer is None else payer
        if self._topics_made.is_used_up(payer):
            of_what = f"of {self._topics_made.whole} stored topics"
            raise share_used_up(whose(rights), self._topics_made.most, of_what)
        uid = f"{self._rng.getrandbits(48):012x}"
        found = file_of(name, uid, self.scheduler.now_ms(), options, payer)
        self._charge(payer)
        self._creating[name] = [done]
        self.scheduler.in_worker(lambda: self._catalog.write(found), lambda error: self._created(found, error))

    def _declare_again(
        self,
        name: str,
        given: dict[str, Any],
        update: bool,
        done: TopicDone,
        rights: Rights | None,
        payer: Payer | None,
        topic: Topic | None,
        error: RpcError | None,
    ) -> None:
        """Carry out a `declare` that came while its topic was being made."""
        if topic is None:
            done(None, error)
            return
        try:
            self.declare(name, given, update=update, done=done, rights=rights, payer=payer)
        except RpcError as refusal:
            done(None, refusal)

    def _created(self, found: TopicFile, error: BaseException | None) -> None:
        waiting = self._creating.pop(found.name)
        topic: Topic | None = None
        refusal: RpcError | None = None
        try:
            if error is not None:
                raise error
            topic = self._open_topic(found, {})
        except (OSError, StorageError) as failure:
            refusal = cannot(f"topic {found.name} cannot be made", failure)
            self._discard(found, lambda error: None)
            self._charge(found.payer, -1)
        tell_all(waiting, topic, refusal)

    def _discard(self, found: TopicFile, done: Done) -> None:
        """Take a topic's directory away; where that fails nobody makes another topic of that name."""
        try:
            directory = self._catalog.discard(found)
        except FileNotFoundError:  # it was not even begun
            done(None)
        except OSError as error:
            refusal = cannot(f"topic {found.name} cannot be removed", error)
            self.unreadable.note(UnreadableTopic(found.name, refusal.message, found.created_ms, found.options))
            done(refusal)
        else:
            self.scheduler.in_worker(lambda: self._catalog.delete(directory), lambda error: done(None))

    def _redeclare(self, topic: Topic, given: dict[str, Any], *, update: bool, done: TopicDone) -> None:
        differing = {key: value for key, value in given.items() if getattr(topic.options, key) != value}
        if differing and not update:
            way = f"zbusrpc declare {topic.name} --update"
            raise differs(f"topic {topic.name}", topic.options, differing, way)
        if differing:
            options = topic.options.model_copy(update={**implied(differing), **given})
            self.check_dead_letter_topic(topic.name, options)
            topic.check_kind(options)
            try:  # on this thread: changes come seldom, and must neither meet each other nor a removal
                self._catalog.rewrite(file_of(topic.name, topic.uid, topic.created_ms, options, topic.payer))
            except OSError as error:
                raise cannot(f"topic {topic.name} cannot be changed", error) from error
            self._send_letters(topic.options, -1)
            self._send_letters(options)
            topic.set_options(options)
            self.on_change(topic.name)
        done(topic, None)

    def remove_topic(self, topic: Topic, done: Done) -> None:
        """Remove a topic with its messages and groups, and tell when it cannot come back."""
        del self.topics[topic.name], self.topics_by_wire[topic.name.encode()]
        self._send_letters(topic.options, -1)
        topic.is_removed = True
        self.letter_counts.forget(topic)
        self._charge(topic.payer, -1)
        self.on_change(topic.name)
        for group in list(topic.groups.values()):
            self._end_group(topic, group, f"topic {topic.name} was removed", lambda error: None)

        def idle() -> None:
            try:
                topic.log.close()
            except StorageError as error:
                log.warning("mq.close_failed", topic=topic.name, reason=str(error))
            self._discard(self._file_of(topic), done)

        topic.committer.when_idle(idle)

    def _file_of(self, topic: Topic) -> TopicFile:
        return file_of(topic.name, topic.uid, topic.created_ms, topic.options, topic.payer)

    def empty_topic(self, topic: Topic, done: Callable[[int, RpcError | None], None]) -> None:
        """Remove all messages of a topic, and tell how many when they cannot come back.

        Raises:
            RpcError: the disk did not let it; nothing has changed.
        """
        count = topic.log.count_from(topic.log.start_offset)
        try:
            topic.committer.flush()
            retired = topic.log.empty(self.scheduler.now_ms())
        except StorageError as error:
            raise as_rpc_error(topic.name, error) from error
        topic.forget_emptied()
        for group in topic.groups.values():
            self.move_group(group, topic.log.next_offset)
        failed = f"topic {topic.name}: its files cannot be removed"

        def removed(error: BaseException | None) -> None:
            done(count, RpcError(Code.INTERNAL, f"{failed}: {error}") if error is not None else None)

        self.scheduler.in_worker(retired.remove, removed)
