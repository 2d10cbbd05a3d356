"""Groups: what becomes of the consume groups of all topics: made, changed, moved, removed.

What changes is told when it is on the disk, in the journal. Who asks for a group that is being made waits with the one
who asked first.

Promises: a group that was answered survives a power cut, with its options and its place; one that was removed does not
come back; one that could not be stored is not there.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from zbusrpc.broker.access.rights import Rights, visible_groups
from zbusrpc.broker.mq.delivery import State
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.filters import check_filter
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.journal import Journal
from zbusrpc.broker.mq.letter_counts import LetterCounts
from zbusrpc.broker.mq.names import CALLS_GROUP, DEAD_LETTER_SUFFIX, LETTERS_GROUP, check_name, reserved
from zbusrpc.broker.mq.options import GroupOptions, StartAt, TopicOptions
from zbusrpc.broker.mq.pending_room import PendingRoom
from zbusrpc.broker.mq.recollection import Said
from zbusrpc.broker.mq.reports import count_from, not_done
from zbusrpc.broker.mq.starts import resolve
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.sessions.hints import Hints
from zbusrpc.broker.sessions.limits import Limits, share_used_up, too_many
from zbusrpc.broker.sessions.scheduler import Scheduler
from zbusrpc.broker.sessions.shares import Payer, Shares, lasting_payer, whose
from zbusrpc.broker.sessions.telling import tell_all
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.errors import Code, RpcError

ABANDONED_S: Final = 60.0
"""After a start, groups that go with their last consumer wait so long for one."""

GroupDone = Callable[[Group | None, RpcError | None], None]
Done = Callable[[RpcError | None], None]


class Moved(NamedTuple):
    """Where a group goes on, and what it will not get because of that."""

    offset: int
    passed: int
    """Messages that it was not done with."""
    delayed: int
    """Of those: whose time had not come."""


class Groups:
    """The groups of all topics."""

    def __init__(self, scheduler: Scheduler, rng: random.Random, limits: Limits) -> None:
        self.scheduler = scheduler
        self.limits = limits
        self.topics: dict[str, Topic] = {}
        self.topics_by_wire: dict[bytes, Topic] = {}
        """The same, by their names as messages have them: they are looked up for each message."""
        self.journal: Journal
        self.room = PendingRoom()
        """For the messages that all of them have in hand."""
        self.letter_counts = LetterCounts(scheduler)
        self.on_group_ended: Callable[[Group, RpcError], None] = lambda group, error: None
        self.runs: Callable[[str], bool] = lambda name: False
        """Whether a service runs under a name: that is no name for a topic of messages then."""
        self.on_change: Callable[[str], None] = lambda topic: None
        """Told when a topic or group came, went, or has other options."""
        self.on_group_moved: Callable[[Group], None] = lambda group: None
        self.on_group_reset: Callable[[Group], None] = lambda group: None
        """Told when a group goes on elsewhere: answers to what its consumers have must not count any more."""
        self._topics_made = Shares(limits.topics_max)
        self._groups_made = Shares(limits.groups_max)
        self._groups_of_topic = Shares(limits.groups_per_topic_max)  # by payer and uid of the topic
        self._letters_go_to = Counter[str]()  # how many topics name it
        self._hints = Hints()
        self._rng = rng
        self._to_restore: list[tuple[Group, Said]] = []  # groups of the topic that is being opened
        self._starting: dict[Group, list[GroupDone]] = {}  # groups that are not on the disk, and who waits for that

    def dead_letter_name(self, topic: Topic) -> str:
        """Return where the dead letters of a topic go; nothing where they are dropped."""
        name = topic.options.dead_letter_topic
        if name is None:
            return "" if topic.name.endswith(DEAD_LETTER_SUFFIX) else topic.name + DEAD_LETTER_SUFFIX
        return name

    def holds_letters(self, name: str) -> bool:
        """Say whether a topic is where dead letters go."""
        return name.endswith(DEAD_LETTER_SUFFIX) or name in self._letters_go_to

    def _send_letters(self, options: TopicOptions, topics: int = 1) -> None:
        """Take note that so many topics more send their dead letters where these options say."""
        target = options.dead_letter_topic
        if target:
            self._letters_go_to[target] += topics
            if not self._letters_go_to[target]:
                del self._letters_go_to[target]

    def check_dead_letter_topic(self, name: str, options: TopicOptions) -> None:
        """See that dead letters of a topic can go where they are to.

        Raises:
            RpcError: INVALID_ARGUMENT or FAILED_PRECONDITION.
        """
        target = options.dead_letter_topic
        if not target:
            return
        check_name("dead-letter topic", target)
        if target == name:
            raise RpcError(Code.INVALID_ARGUMENT, f"topic {name} cannot be its own dead-letter topic")
        if self.runs(target):
            text = f"{target} is a service that runs here: name another topic for the dead letters of {name}"
            raise RpcError(Code.FAILED_PRECONDITION, text)
        there = self.topics.get(target)
        if there is not None and LETTERS_GROUP in there.groups and not self.holds_letters(target):
            text = f"topic {target} has a group {LETTERS_GROUP}, which dead letters need: name another topic for them"
            raise RpcError(Code.FAILED_PRECONDITION, text)

    def _charge(self, payer: Payer | None, count: int = 1) -> None:
        """Take note that so many topics more are somebody's."""
        if payer is not None and count > 0:
            self._topics_made.take(payer, count)
        elif payer is not None:
            self._topics_made.give_back(payer, -count)

    def check_free(self, topic: Topic, group: str) -> None:
        """See that nobody makes, joins, moves or removes a group that the broker keeps for itself.

        Raises:
            RpcError: INVALID_ARGUMENT.
        """
        if self.is_own(topic, group):
            raise reserved(group)

    def is_own(self, topic: Topic, group: str) -> bool:
        """Say whether a group is one that the broker keeps for itself: nobody is behind with its messages."""
        if group == CALLS_GROUP:
            return topic.options.rpc
        return group == LETTERS_GROUP and self.holds_letters(topic.name)

    def lag_of(self, topic: Topic, group: Group) -> int:
        """Return how far a group is behind: messages that it is not done with and that exist."""
        return 0 if self.is_own(topic, group.name) else not_done(topic, group)

    def letters_of(self, topic: Topic, group: Group) -> int:
        """Return how many dead letters of a group nobody has dealt with, where those of its topic go."""
        letters = self.topics.get(self.dead_letter_name(topic))
        return 0 if letters is None else self.letter_counts.of(letters, (topic.name, group.name))

    def group(self, topic: Topic, name: str, rights: Rights | None = None) -> Group:
        """Return a group that somebody with `rights` wants to change.

        Raises:
            RpcError: NOT_FOUND, or INVALID_ARGUMENT where it is the broker's own.
        """
        self.check_free(topic, name)
        group = topic.groups.get(name)
        if group is None:
            raise self.no_group(topic, name, rights)
        return group

    def no_group(self, topic: Topic, name: str, rights: Rights | None = None) -> RpcError:
        """Return the error for a group that there is not; it names no others than `rights` may see."""
        hint = self.hint(name, visible_groups(rights, topic.name, topic.groups))
        return RpcError(Code.NOT_FOUND, f"topic {topic.name} has no group {name}{hint}")

    def hint(self, name: str, names: Iterable[str]) -> str:
        """Return which name somebody may have meant, for the end of a line."""
        return self._hints.did_you_mean(name, names, self.scheduler.now())

    def check_group(self, topic: Topic, group: Group, given: dict[str, Any]) -> None:
        """See that a group is as `given` says.

        Raises:
            RpcError: FAILED_PRECONDITION.
        """
        differing = {key: value for key, value in given.items() if getattr(group.options, key) != value}
        if differing:
            way = f"Consumer(..., update=True) does, or: zbusrpc declare-group {topic.name} {group.name} --update"
            raise differs(f"group {group.name} of topic {topic.name}", group.options, differing, way)

    def create_group(
        self,
        topic: Topic,
        name: str,
        options: GroupOptions,
        start: StartAt,
        done: GroupDone,
        rights: Rights | None = None,
    ) -> None:
        """Make a group for somebody with `rights`, or the broker itself, and tell when it is on the disk.

        Raises:
            RpcError: PERMISSION_DENIED, INVALID_ARGUMENT, NOT_FOUND or OUT_OF_RANGE: it cannot begin there.
                RESOURCE_EXHAUSTED: there are too many, or too many are theirs.
        """
        check_name("group", name)
        check_filter(options.filter)
        if len(topic.groups) >= self.limits.groups_per_topic_max:
            raise too_many("consume groups of one topic", self.limits.groups_per_topic_max)
        if self.journal.groups >= self.limits.groups_max:
            raise too_many("consume groups", self.limits.groups_max)
        payer = lasting_payer(rights)
        if self._groups_of_topic.is_used_up((payer, topic.uid)):
            of_what = f"of {self._groups_of_topic.whole} consume groups of topic {topic.name}"
            raise share_used_up(whose(rights), self._groups_of_topic.most, of_what)
        if self._groups_made.is_used_up(payer):
            raise share_used_up(whose(rights), self._groups_made.most, f"of {self._groups_made.whole} consume groups")
        key = f"{topic.uid}/{name}".encode()
        position, pending = resolve(topic, start, rights)
        group = self._make_group(topic, name, options, key, payer)
        group.seek(position)
        group.restore(pending, self.scheduler.now(), self.scheduler.now_ms())

        self._starting[group] = [done]
        self.journal.put(key, group, lambda error: self._started(topic, group, error))

    def _started(self, topic: Topic, group: Group, error: StorageError | None) -> None:
        waiting = self._starting.pop(group)
        refusal = as_rpc_error(topic.name, error) if error is not None else None
        if refusal is not None and not group.is_gone:
            self._forget(topic, group)
            self.journal.forget(group.key)
        elif group.is_gone:
            refusal = RpcError(Code.NOT_FOUND, f"group {group.name} of topic {topic.name} was removed")
        tell_all(waiting, None if refusal is not None else group, refusal)

    def _restoring(self) -> Iterator[int]:
        """Give groups back what they had in hand before a restart, some of it at each step; keep them from then on."""
        while self._to_restore:
            yield from self._restoring_one(*self._to_restore.pop())

    def _restoring_one(self, group: Group, said: Said) -> Iterator[int]:
        yield from group.restoring(said["pending"], self.scheduler.now(), self.scheduler.now_ms())
        group.idle_s = said.get("idle_s", 0.0)
        if not said["has_gap"]:
            group.note_stored(said["next"])
        self.journal.adopt(group.key, group)
        self.on_group_moved(group)
        if group.options.delete_on_exit:
            self.scheduler.later(ABANDONED_S, partial(self.remove_if_unused, group))

    def when_started(self, group: Group, done: GroupDone) -> None:
        """Tell when a group that was just made is on the disk; at once where it is."""
        if group in self._starting:
            self._starting[group].append(done)
        else:
            done(group, None)

    def _make_group(self, topic: Topic, name: str, options: GroupOptions, key: bytes, payer: Payer | None) -> Group:
        group = topic.groups[name] = Group(
            topic.name,
            name,
            options,
            0,
            key=key,
            fetch=topic.fetch,
            start=topic.removed_until,
            end=lambda: topic.readable_offset,
            load=topic.load,
            jitter=self._rng.random,
            room=self.room,
            consumed=topic.consumed,
        )
        topic.group_names[name.lower()] = name
        group.payer = payer
        if payer is not None:
            self._groups_of_topic.take((payer, topic.uid))
            self._groups_made.take(payer)
        self.on_change(topic.name)
        return group

    def change_group(self, group: Group, changed: dict[str, Any], done: Done) -> None:
        """Give a group other options, and tell when that is on the disk; where it does not get there, nothing changes.

        Raises:
            RpcError: INVALID_ARGUMENT: the filter cannot be used.
        """
        check_filter(changed.get("filter", ""))
        before, after = group.options, group.options.model_copy(update=changed)
        group.set_options(after)
        self.on_group_moved(group)
        self.on_change(group.topic_name)

        def written(error: StorageError | None) -> None:
            if error is not None and group.options is after:
                group.set_options(before)
                self.on_group_moved(group)
            done(as_rpc_error(group.topic_name, error) if error is not None else None)

        self.journal.put(group.key, group, written)

    def seek(self, topic: Topic, group: Group, start: StartAt, done: Done, *, rights: Rights | None = None) -> Moved:
        """Move a group for somebody with `rights`, tell when that is on the disk, and return what it has passed.

        Raises:
            RpcError: it cannot go there; nothing has changed.
        """
        position, pending = resolve(topic, start, rights)
        passed = [one for offset, one in group.pending.items() if offset < position and offset not in pending]
        moved = Moved(
            offset=position,
            passed=len(passed) + count_from(topic, max(group.position, topic.log.start_offset), position),
            delayed=sum(one.state is State.DELAYED for one in passed),
        )
        self.move_group(group, position)
        group.restore(pending, self.scheduler.now(), self.scheduler.now_ms())
        self.journal.put(group.key, group, lambda error: done(as_rpc_error(topic.name, error) if error else None))
        return moved

    def move_group(self, group: Group, position: int) -> None:
        """Let a group go on at an offset, with nothing pending."""
        group.seek(position)
        self.on_group_reset(group)
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
        self._forget(topic, group)
        self.on_change(topic.name)
        self.on_group_ended(group, RpcError(Code.NOT_FOUND, reason))
        self.journal.remove(group.key, lambda error: done(as_rpc_error(topic.name, error) if error else None))

    def _forget(self, topic: Topic, group: Group) -> None:
        topic.groups.pop(group.name, None)
        topic.consumed.pop(group, None)
        self.room.forget(group)
        if group.payer is not None and not group.is_gone:
            self._groups_of_topic.give_back((group.payer, topic.uid))
            self._groups_made.give_back(group.payer)
        if topic.group_names.get(group.name.lower()) == group.name:
            del topic.group_names[group.name.lower()]
        group.is_gone = True

    def take_back(self, group: Group, offset: int) -> None:
        """Deliver a message again that was sent to a consumer who need not answer, and did not come."""
        group.take_back(offset)
        self.note_change(group)

    def try_again(self, group: Group, offset: int) -> None:
        """Deliver a message again that a group has passed, whatever its time to live."""
        group.try_again(offset)
        self.note_change(group)

    def note_change(self, group: Group) -> None:
        """Write what a group did, in a short while, and look whether it has something to hand out."""
        self.journal.note_change(group.key)
        self.on_group_moved(group)


def differs(what: str, options: TopicOptions | GroupOptions, differing: dict[str, Any], way: str) -> RpcError:
    """Return the error for something that is asked for with other options than it has, with a way to change them."""
    name, value = next(iter(differing.items()))
    text = f"{what} exists with {name} = {getattr(options, name)!s}, not {value!s}; to change it, say update: {way}"
    return RpcError(Code.FAILED_PRECONDITION, text)
