"""Letter counts: how many dead letters of each group nobody has dealt with, without a look at them for each listing.

A topic of dead letters is followed from when the broker opens it, or from its first letter on. What it holds then is
read once, in slices, one topic at a time; from there on each letter is counted when it is stored, and taken off when it
is given back or forgotten. Counts are kept by segment of the log, so that what retention removes goes with its segment;
where compaction or damage took letters out of the middle, the topic is read anew.

Promises: a count is that of the letters which are there, once the topic was read; what is kept does not grow with the
number of letters. Pure but for the log, which is read in turns of the scheduler.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Final

from zbusrpc.broker.mq.dead_letter import HEADER_PREFIX, origin_of
from zbusrpc.broker.mq.names import DEAD_LETTER_SUFFIX, LETTERS_GROUP, NAME_BYTES_MAX
from zbusrpc.broker.mq.slices import in_slices
from zbusrpc.broker.mq.topic import READ_COST_BYTES, Topic
from zbusrpc.broker.sessions.scheduler import Scheduler
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import RpcError
from zbusrpc.telemetry import get_logger

COUNTS_MAX: Final = 10_000
"""Counts of one topic of dead letters, each of a group in a segment: about 2 MiB. Whoever may produce there may write
any origin; those past the bound are in no count."""
AT_ONCE_MAX: Final = 64
"""Letters that are counted in the turn in which they are stored; more are read in slices: headers take time."""
_BASE: Final = attrgetter("base_offset")
_MARK: Final = HEADER_PREFIX.encode()
_NAME_LENGTH_MAX: Final = NAME_BYTES_MAX + len(DEAD_LETTER_SUFFIX)

Source = tuple[str, str]
"""Topic and group in which a message failed."""
log = get_logger("mq")


def source_of(letter: Record) -> Source | None:
    """Return where a letter comes from; None where it does not say so, or names what cannot be."""
    origin = origin_of(letter) if _MARK in letter.headers else None
    if origin is None or max(len(origin.topic), len(origin.group)) > _NAME_LENGTH_MAX:
        return None
    return origin.topic, origin.group


class LetterCounts:
    """The counts of all topics of dead letters."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tallies: dict[Topic, _Tally] = {}
        self._behind: deque[_Tally] = deque()
        self._is_reading = False

    def of(self, letters: Topic, source: Source) -> int:
        """Return how many letters of a group are in a topic, as far as it was read."""
        tally = self.follow(letters)
        tally.forget_removed()
        return tally.totals.get(source, 0)

    def follow(self, letters: Topic) -> "_Tally":
        """Count the letters of a topic from now on, and those that it holds soon."""
        tally = self._tallies.get(letters)
        if tally is None:
            tally = self._tallies[letters] = _Tally(letters)
            letters.on_stored = tally.take
        if tally.is_behind and not tally.is_awaited:
            tally.is_awaited = True
            self._behind.append(tally)
            self._read_next()
        return tally

    def when_counted(self, letters: Topic, done: Callable[[], None]) -> None:
        """Tell when the letters of a topic are counted, or cannot be; at once where they are."""
        tally = self.follow(letters)
        if tally.is_awaited:
            tally.waiting.append(done)
        else:
            done()

    def settle(self, letters: Topic, settled: Mapping[int, Source | None]) -> None:
        """Take off letters that were dealt with just now, by their offsets."""
        tally = self._tallies.get(letters)
        if tally is not None:
            for offset, source in settled.items():
                tally.take_off(offset, source)

    def recount(self, letters: Topic) -> None:
        """Read a topic anew: some of its letters are gone, and nobody knows which."""
        tally = self._tallies.get(letters)
        if tally is not None:
            tally.clear()
            self.follow(letters)

    def forget(self, letters: Topic) -> None:
        """Count a topic no more: it was removed."""
        tally = self._tallies.pop(letters, None)
        letters.on_stored = None
        if tally is not None:
            tally.end()

    def _read_next(self) -> None:
        if not self._is_reading and self._behind:
            self._is_reading = True
            self._scheduler.soon(self._read)

    def _read(self) -> None:
        tally = self._behind.popleft()

        def ended(error: StorageError | RpcError | None) -> None:
            self._is_reading = False
            if error is not None:
                log.warning("mq.letters_not_counted", topic=tally.topic.name, reason=str(error))
            tally.end()
            self._read_next()

        in_slices(self._scheduler, tally.read(), ended)


class _Tally:
    """The counts of one topic."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.totals: dict[Source, int] = {}
        self.is_awaited = False
        """Whether it is being read, or will be."""
        self.waiting: list[Callable[[], None]] = []
        self._parts: dict[int, dict[Source, int]] = {}  # by base offset of their segments, rising
        self._size = 0
        self._until = 0  # below it all are counted

    @property
    def is_behind(self) -> bool:
        """Whether there are letters that are not counted."""
        return self._until < self.topic.readable_offset

    def clear(self) -> None:
        """Know nothing."""
        self.totals, self._parts, self._size, self._until = {}, {}, 0, 0

    def end(self) -> None:
        """Tell those who wait that there is no more to be read."""
        self.is_awaited = False
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done()

    def read(self) -> Iterator[int]:
        """Read what is not counted, a block at each step."""
        topic = self.topic
        while not topic.is_removed and self._until < (end := topic.readable_offset):
            records = topic.read(self._until)
            self._add(records)
            if not records:
                self._until = end
            yield sum(len(record.body) + READ_COST_BYTES for record in records)

    def take(self, records: list[Record]) -> None:
        """Count what was stored just now, unless it is much, or something before it is not counted yet."""
        if records[0].offset <= self._until and len(records) <= AT_ONCE_MAX:
            self._add(records)

    def _add(self, records: list[Record]) -> None:
        settled = self.topic.groups.get(LETTERS_GROUP)
        for record in records:
            if record.offset < self._until:
                continue
            self._until = record.offset + 1
            source = source_of(record)
            if source is None or (settled is not None and settled.is_done(record.offset)):
                continue
            part = self._parts.setdefault(self._base_of(record.offset), {})
            if source not in part:
                if self._size >= COUNTS_MAX:
                    continue
                self._size += 1
            part[source] = part.get(source, 0) + 1
            self.totals[source] = self.totals.get(source, 0) + 1

    def take_off(self, offset: int, source: Source | None) -> None:
        """Take off a letter that was dealt with."""
        if source is not None and offset < self._until:
            self.forget_removed()
            part = self._parts.get(self._base_of(offset))
            if part is not None and part.get(source):
                part[source] -= 1
                if not part[source]:
                    del part[source]
                    self._size -= 1
                self._subtract(source, 1)

    def forget_removed(self) -> None:
        """Take off what went with its segment."""
        start = self.topic.log.start_offset
        while self._parts and (base := next(iter(self._parts))) < start:
            part = self._parts.pop(base)
            self._size -= len(part)
            for source, count in part.items():
                self._subtract(source, count)

    def _subtract(self, source: Source, count: int) -> None:
        self.totals[source] -= count
        if not self.totals[source]:
            del self.totals[source]

    def _base_of(self, offset: int) -> int:
        segments = self.topic.log.segments
        segment = segments[-1]
        if offset < segment.base_offset:
            segment = segments[max(0, bisect_right(segments, offset, key=_BASE) - 1)]
        return segment.base_offset
