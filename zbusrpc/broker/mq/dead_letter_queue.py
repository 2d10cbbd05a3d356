"""Letters: how dead messages get into the dead-letter topic, and which of them nobody has dealt with yet.

A dead-letter topic is a topic like others, and no message of a log can be taken out. Which letters were retried or
purged is therefore the place of a group of its own, `letters`: what that group is done with is dealt with.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from zbusrpc import bounds
from zbusrpc.broker.access.rights import Operation, Rights, may_see, not_allowed
from zbusrpc.broker.mq.dead_letter import Origin, dead_letter, is_letter_of, origin_of, revived
from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.groups import Done
from zbusrpc.broker.mq.letter_counts import Source, source_of
from zbusrpc.broker.mq.names import LETTERS_GROUP
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.mq.requests import RetryDead
from zbusrpc.broker.mq.slices import in_slices
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code, RpcError
from zbusrpc.outcome import not_run
from zbusrpc.telemetry import get_logger

CHOSEN_MAX: Final = bounds.LETTERS.most
"""Letters that one command deals with; say it again for more."""
BURY_RETRY_S: Final = 5.0
"""When a dead letter could not be stored."""

Answer = Callable[[Any, RpcError | None], None]
"""Told a result or an error."""
log = get_logger("mq")


class _GivingBack:
    """What became of letters so far that are being given back."""

    def __init__(self, start: int, end_offset: int) -> None:
        self.next_offset = start
        """After the last letter that was looked at."""
        self.end_offset = end_offset
        """After the last letter that there was."""
        self.groups: dict[Group, None] = {}
        self.again: dict[Topic, list[Record]] = {}
        self.retried: dict[int, Source | None] = {}
        self.left: list[dict[str, Any]] = []


class Letters:
    """The dead letters in one topic."""

    def __init__(self, store: Store, topic: Topic) -> None:
        self.topic = topic
        self._store = store

    def is_there(self, record: Record) -> bool:
        """Say whether nobody has dealt with a letter yet."""
        group = self.topic.groups.get(LETTERS_GROUP)
        return group is None or not group.is_done(record.offset)

    def chosen(self, offsets: Sequence[int] | None) -> Iterator[Record]:
        """Return the letters at `offsets`, or all; at most CHOSEN_MAX.

        Raises:
            ReadFailedError: the disk did not give them.
        """
        return (record for record, is_chosen in self._looked_at(offsets) if is_chosen)

    def _looked_at(
        self, offsets: Sequence[int] | None, start: int = 0, count: int = CHOSEN_MAX
    ) -> Iterator[tuple[Record, bool]]:
        """Yield each letter that is looked at, and whether it is chosen."""
        for record in self._at(offsets) if offsets is not None else self._all(start):
            is_chosen = self.is_there(record)
            yield record, is_chosen
            count -= is_chosen
            if not count:
                return

    def _at(self, offsets: Sequence[int]) -> Iterator[Record]:
        for offset in dict.fromkeys(offsets):
            record = self.topic.load(offset)
            if record is not None:
                yield record

    def _all(self, start: int) -> Iterator[Record]:
        offset = max(start, self.topic.log.start_offset)
        while records := self.topic.read(offset):
            yield from records
            offset = records[-1].offset + 1

    # -- dealing with letters ----------------------------------------------------------------------------

    def retry(self, asked: RetryDead, answer: Answer, *, rights: Rights | None = None) -> None:
        """Give letters back to the groups in which they failed, and tell how many, and which not, once that is safe.

        Args:
            asked: Which, and whether those whose original is gone are produced again, for all groups.
            answer: Is told where to go on, too, and where the letters ended that were there when this began.
            rights: Of who asks: letters of topics into which they may not produce are left.

        Raises:
            RpcError: ABORTED: they are being given back already.
        """
        self.check_idle()
        work = _GivingBack(asked.start, self.topic.readable_offset)
        self._store.retrying.add(self.topic)

        def told(result: Any, error: RpcError | None) -> None:
            self._store.retrying.discard(self.topic)
            answer(result, error)

        def produced(letters: list[Record], error: StorageError | None) -> None:
            if error is None:
                work.retried.update((letter.offset, source_of(letter)) for letter in letters)
            else:
                work.left.extend({"offset": letter.offset, "reason": str(error)} for letter in letters)

        def ended() -> None:
            result = {"retried": len(work.retried), "left": work.left}
            result |= {"next_offset": work.next_offset, "end_offset": work.end_offset}
            if work.retried:
                self.forget(work.retried, lambda error: told(result, error), work.groups)
            else:
                told(result, None)

        def looked_at(error: StorageError | RpcError | None) -> None:
            if isinstance(error, StorageError):
                error = as_rpc_error(self.topic.name, error)
            if error is not None and not work.groups:
                told(None, error)
            else:  # what was given back is noted, also where the disk does not give the rest
                _produce_again(work.again, produced, ended)

        in_slices(self._store.scheduler, self._give_back(work, asked, rights), looked_at)

    def purge(self, offsets: Sequence[int] | None, answer: Answer) -> None:
        """Forget letters, and tell how many once that is safe.

        Raises:
            RpcError: ABORTED: they are being given back.
        """
        self.check_idle()
        found: dict[int, Source | None] = {}

        def steps() -> Iterator[int]:
            for letter, is_chosen in self._looked_at(offsets):
                if is_chosen:
                    found[letter.offset] = source_of(letter)
                yield len(letter.body)

        def ended(error: StorageError | RpcError | None) -> None:
            if error is not None:
                answer(None, as_rpc_error(self.topic.name, error) if isinstance(error, StorageError) else error)
            elif found:
                self.forget(found, lambda error: answer({"purged": len(found)}, error))
            else:
                answer({"purged": 0}, None)

        in_slices(self._store.scheduler, steps(), ended)

    def check_idle(self) -> None:
        """See that these letters are not being given back.

        Raises:
            RpcError: ABORTED: they are.
        """
        if self.topic in self._store.retrying:
            text = f"the dead letters of topic {self.topic.name} are being given back; ask again when that is done"
            raise not_run(Code.ABORTED, text)

    def _give_back(self, work: "_GivingBack", asked: RetryDead, rights: Rights | None) -> Iterator[int]:
        """Look at one letter at each step, and give it back."""
        for letter, is_chosen in self._looked_at(asked.offsets, asked.start, asked.count):
            work.next_offset = letter.offset + 1
            if not is_chosen:
                yield len(letter.body)
                continue
            try:
                target = self._revive(letter, as_new=asked.as_new, rights=rights)
            except (RpcError, StorageError) as error:
                reason = error.message if isinstance(error, RpcError) else str(error)
                work.left.append({"offset": letter.offset, "reason": reason})
            else:
                if isinstance(target, Topic):
                    work.again.setdefault(target, []).append(letter)
                else:
                    work.groups[target] = None
                    work.retried[letter.offset] = source_of(letter)
            yield len(letter.body)

    def _revive(self, letter: Record, *, as_new: bool, rights: Rights | None) -> Group | Topic:
        """Give one letter back to its group, which is returned; or return the topic into which it is to be produced.

        Raises:
            RpcError: neither is possible.
            StorageError: the disk did not say.
        """
        origin = origin_of(letter)
        if origin is None:
            raise RpcError(Code.NOT_FOUND, "it does not say where it comes from")
        if rights is not None and not rights.allows(Operation.PRODUCE, origin.topic):  # a letter can be forged
            raise not_allowed(rights, Operation.PRODUCE, origin.topic, unseen="the topic that it comes from")
        topic = self._store.topics.get(origin.topic)
        if topic is None:
            self._store.unreadable.check(origin.topic)
            raise RpcError(Code.NOT_FOUND, f"topic {origin.topic} is gone")
        group = topic.groups.get(origin.group)
        named = f"group {origin.group}" if may_see(rights, origin.topic, origin.group) else "its group"
        if group is None:
            what = f"{named} is gone"
        elif not is_letter_of(topic.load(origin.offset), letter):
            what = f"the message at offset {origin.offset} is gone"
        elif origin.offset >= group.position:  # what it will read has expired, or comes anyway
            what = f"{named} was moved back, and has not come to offset {origin.offset} again"
        else:
            self._store.try_again(group, origin.offset)
            return group
        if as_new:
            return topic
        raise RpcError(
            Code.NOT_FOUND, f"{what}; say as_new to produce it again, for all groups of topic {origin.topic}"
        )

    def forget(self, dealt: Mapping[int, Source | None], done: Done, revived_in: Iterable[Group] = ()) -> None:
        """Take note that letters were dealt with, and tell when that is on the disk.

        Args:
            dealt: Their offsets, and where they came from.
            done: Told the end.
            revived_in: Groups that were given letters back: a crash leaves that and this, or neither.
        """
        try:
            letters = self._group()
        except RpcError as error:
            done(error)
            return
        groups = dict.fromkeys([letters, *revived_in])
        steps = self._passing(letters, max(dealt, default=-1) + 1)
        in_slices(self._store.scheduler, steps, lambda error: self._settle(letters, dealt, groups, done))

    def _passing(self, letters: Group, until: int) -> Iterator[int]:
        """Let the group pass letters that stay, some at each step, which are written down as they come."""
        for taken in letters.passing(until):
            self._store.journal.note_change(letters.key)
            yield taken

    def _settle(self, letters: Group, dealt: Mapping[int, Source | None], groups: Iterable[Group], done: Done) -> None:
        if letters.is_gone:
            done(RpcError(Code.NOT_FOUND, f"topic {self.topic.name} was removed"))
            return
        settled = {offset: source for offset, source in dealt.items() if not letters.is_done(offset)}
        letters.settle(settled)
        self._store.letter_counts.settle(self.topic, settled)
        keys = [group.key for group in groups if not group.is_gone]
        self._store.journal.put_changes(
            keys, lambda error: done(as_rpc_error(self.topic.name, error) if error else None)
        )

    def _group(self) -> Group:
        """Return the group that keeps which letters were dealt with."""
        group = self.topic.groups.get(LETTERS_GROUP)
        if group is None:
            options = GroupOptions(paused=True)
            self._store.create_group(self.topic, LETTERS_GROUP, options, "oldest", lambda group, error: None)
            group = self.topic.groups[LETTERS_GROUP]
        return group


def _produce_again(
    again: dict[Topic, list[Record]],
    produced: Callable[[list[Record], StorageError | None], None],
    ended: Callable[[], None],
) -> None:
    """Produce what dead letters were, tell how each topic took it, and then that all have."""
    waiting = dict.fromkeys(again)
    if not waiting:
        ended()

    def stored(topic: Topic, _: int, error: StorageError | None) -> None:
        produced(again[topic], error)
        del waiting[topic]
        if not waiting:
            ended()

    for topic, letters in again.items():
        try:
            topic.append([revived(letter) for letter in letters], partial(stored, topic))
        except StorageError as error:
            stored(topic, -1, error)


def bury(store: Store, group: Group, delivery: Delivery, reason: str) -> None:
    """Store a dead message where it belongs; when it is safe there, the group is done with it."""
    topic = store.topics.get(group.topic_name)
    if topic is None or group.is_gone or group.pending.get(delivery.offset) is not delivery:
        return
    log.warning("mq.dead_letter", topic=topic.name, group=group.name, offset=delivery.offset, reason=reason)
    name = store.dead_letter_name(topic)

    def ended(error: Exception | None) -> None:
        if error is None:
            group.finish(delivery)
            store.note_change(group)
        else:
            log.error("mq.dead_letter_failed", topic=topic.name, group=group.name, reason=str(error))
            store.scheduler.later(BURY_RETRY_S, lambda: bury(store, group, delivery, reason))

    def declared(target: Topic | None, error: RpcError | None) -> None:
        try:
            record = topic.load(delivery.offset)
            if target is None or record is None:
                ended(error)
                return
            origin = Origin(
                topic=topic.name, group=group.name, offset=delivery.offset, attempts=delivery.attempts, reason=reason
            )
            store.letter_counts.follow(target)
            target.append([dead_letter(record, origin)], lambda offset, failure: ended(failure))
        except StorageError as failure:
            ended(failure)

    if not name:
        ended(None)
        return
    try:
        store.declare(name, {}, update=False, done=declared, payer=topic.payer)
    except RpcError as error:
        ended(error)
