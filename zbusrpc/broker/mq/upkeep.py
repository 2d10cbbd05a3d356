"""Upkeep: what a store does by itself, a little at a time: old messages go, topics are compacted.

Each second a slice of the topics is looked at, so that ten thousand of them take no more of a turn than a few do.
"""

from typing import Final

from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.segment import OFFSETS_END
from zbusrpc.broker.telling import tell_one
from zbusrpc.telemetry import get_logger

PERIOD_S: Final = 1.0
SLICE_MIN: Final = 64
ROUND_PERIODS: Final = 30
"""All topics are looked at within half a minute, however many there are."""

log = get_logger("mq")


class Upkeep:
    """The upkeep of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: list[str] = []
        self._is_compacting = False

    def begin(self) -> None:
        """Look after the store from now on."""
        self._store.scheduler.later(PERIOD_S, self._tick)

    def _tick(self) -> None:
        self.begin()
        self.look_after_some()

    def look_after_some(self) -> None:
        """Look after the next slice of the topics."""
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
        needed = topic.needed_offset()
        try:  # a restart reads the ids of late messages again
            spared = topic.duplicate_window_offset() if len(topic.log.segments) > 1 else OFFSETS_END
        except StorageError as error:
            self._note(topic, "retention", error)
            return
        retired = topic.log.retire(now_ms, needed, spared)
        if retired.segments:
            log.info("mq.retired", topic=topic.name, segments=len(retired.segments), bytes=retired.size_bytes)
            scheduler.in_worker(retired.remove, lambda error: self._note(topic, "retention", error))
        if topic.options.compact and not self._is_compacting:
            self._compact(topic, now_ms, needed)

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
                in_worker(replaced.remove, lambda error: self._note(topic, "compaction", error))

        in_worker(job.run, ended)

    def _note(self, topic: Topic, what: str, error: BaseException | None) -> None:
        if error is not None:
            log.error("mq.upkeep_failed", topic=topic.name, what=what, reason=str(error))
