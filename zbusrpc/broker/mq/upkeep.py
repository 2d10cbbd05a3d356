"""Upkeep: what a store does by itself, a little at a time: old messages go, topics are compacted.

Each second a slice of the topics is looked at, so that ten thousand of them take no more of a turn than a few do.
"""

from typing import Final
from weakref import WeakKeyDictionary

from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.sessions.telling import tell_one
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.telemetry import get_logger

PERIOD_S: Final = 1.0
SLICE_MIN: Final = 64
IDLE_STEP_S: Final = 3600.0
"""How exactly it is written how long nobody has consumed from a group: a restart forgets less than that."""
ROUND_PERIODS: Final = 30
"""All topics are looked at within half a minute, however many there are."""

log = get_logger("mq")


class Upkeep:
    """The upkeep of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: list[str] = []
        self._is_compacting = False
        self._looked_at: WeakKeyDictionary[Group, float] = WeakKeyDictionary()

    def begin(self) -> None:
        """Look after the store from now on."""
        self._store.scheduler.later(PERIOD_S, self._tick)

    def _tick(self) -> None:
        self.begin()
        self.look_after_some()

    def look_after_some(self) -> None:
        """Look after the next slice of the topics."""
        for group in self._store.room.to_wake():
            self._store.on_group_moved(group)
        topics = self._store.topics
        if not self._names:
            self._names = list(topics)
        count = max(SLICE_MIN, len(topics) // ROUND_PERIODS + 1)
        names, self._names = self._names[:count], self._names[count:]
        for name in names:
            if name in topics:
                tell_one(self._look_after, topics[name])

    def _look_after(self, topic: Topic) -> None:
        scheduler, now_ms = self._store.scheduler, self._store.scheduler.now_ms()
        self._end_unused(topic)
        try:
            retired = topic.retire(now_ms)
        except StorageError as error:
            self._note(topic, "retention", error)
            return
        if retired.segments:
            log.info("mq.retired", topic=topic.name, segments=len(retired.segments), bytes=retired.size_bytes)
            self._note_removed(topic)
            scheduler.in_worker(retired.remove, lambda error: self._note(topic, "retention", error))
        if topic.options.compact and not self._is_compacting:
            self._compact(topic, now_ms, topic.needed_offset())

    def _note_removed(self, topic: Topic) -> None:
        """Let groups pass what was removed, and tell of those that will not get it."""
        for group in topic.groups.values():
            before = group.counters.removed
            group.note_removed()
            if group.counters.removed > before:
                count = group.counters.removed - before
                log.warning("mq.removed_unread", topic=topic.name, group=group.name, messages=count)
                self._store.note_change(group)

    def _end_unused(self, topic: Topic) -> None:
        """Remove the groups of a topic that nobody has consumed from for as long as they were made to wait."""
        now = self._store.scheduler.now()
        for group in [group for group in topic.groups.values() if group.options.expires_s is not None]:
            expires_s, before_s = group.options.expires_s or 0, group.idle_s
            is_used = group.was_used or group.pool.members
            group.idle_s = 0.0 if is_used else before_s + now - self._looked_at.get(group, now)
            group.was_used, self._looked_at[group] = False, now
            if group.idle_s >= expires_s:
                log.warning("mq.group_expired", topic=topic.name, group=group.name, idle_s=round(group.idle_s))
                self._store.remove_group(topic, group, lambda error: None)
            elif int(group.idle_s / min(IDLE_STEP_S, expires_s / 10)) != int(
                before_s / min(IDLE_STEP_S, expires_s / 10)
            ):
                self._store.journal.put(group.key, group, lambda error: None)

    def _compact(self, topic: Topic, now_ms: int, needed: int) -> None:
        """Compact a topic in another thread, one at a time, where that pays; ids of late messages are spared."""
        try:
            until = min(needed, topic.duplicate_window_offset())
            if not topic.log.is_compaction_due(now_ms, until):
                return
            job = topic.log.begin_compaction(now_ms, until=until)
        except StorageError as error:
            self._note(topic, "compaction", error)
            return
        self._is_compacting = True
        in_worker = self._store.scheduler.in_worker

        def ended(error: BaseException | None) -> None:
            self._is_compacting = False
            self._note(topic, "compaction", error)
            replaced = topic.log.end_compaction(job, error)
            if replaced is not None:
                self._store.letter_counts.recount(topic)
                in_worker(replaced.remove, lambda error: self._note(topic, "compaction", error))

        in_worker(job.run, ended)

    def _note(self, topic: Topic, what: str, error: BaseException | None) -> None:
        if error is not None:
            log.error("mq.upkeep_failed", topic=topic.name, what=what, reason=str(error))
