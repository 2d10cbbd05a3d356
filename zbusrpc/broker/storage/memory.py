"""A log in the memory of this process: for tests, and for what nobody misses after a restart. Nothing is on a disk.

Records stand in stretches, which retention and compaction go by as they go by segments of files. It is bounded by
messages and by bytes: when it is full it refuses, and takes records again when some were let go.

Promises: those of `TopicLog`. `synced_offset` is `next_offset`: there is nothing that would make a record safer.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final

from zbusrpc.broker.storage.compaction import DIRTY_SHARE_MIN, PAUSE_MS
from zbusrpc.broker.storage.compaction_job import TOMBSTONE_GRACE_MS
from zbusrpc.broker.storage.errors import LogClosedError, StoreFullError
from zbusrpc.broker.storage.finding import Finding
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record, check_record
from zbusrpc.broker.storage.retention import count_expendable
from zbusrpc.broker.storage.seams import READ_BYTES
from zbusrpc.broker.storage.segment import OFFSETS_END

MESSAGES_MAX: Final = 100_000
"""Of one log, unless told: with small bodies some 40 MB of objects."""
BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one log, unless told: as much as one segment of a log in files."""
STRETCHES: Final = 16
"""A full log has about so many: retention lets go a sixteenth at a time."""
_BASE: Final = attrgetter("base_offset")
_OFFSET: Final = attrgetter("offset")


class MemoryStretch:
    """A run of records that is let go as a whole."""

    __slots__ = ("base_offset", "created_ms", "latest_ms", "next_offset", "records", "size")

    def __init__(self, base_offset: int, created_ms: int) -> None:
        self.base_offset = self.next_offset = base_offset
        self.created_ms = self.latest_ms = created_ms
        self.size = 0
        self.records: list[Record] = []

    def push(self, record: Record, size: int) -> None:
        """Take one more record, which has offset and time."""
        self.records.append(record)
        self.size += size
        self.next_offset = record.offset + 1
        self.latest_ms = max(self.latest_ms, record.timestamp_ms)

    def keep(self, records: list[Record]) -> None:
        """Have only these of its records from now on."""
        self.records, self.size = records, sum(map(check_record, records))


class NothingToSync:
    """What makes records in memory safe: nothing does."""

    is_short = True

    def run(self) -> None:
        """Do nothing."""


class Forgotten:
    """Stretches that were let go: their room is free already."""

    def __init__(self, segments: Sequence[MemoryStretch]) -> None:
        self.segments = segments
        """The stretches, oldest first."""

    @property
    def size_bytes(self) -> int:
        """How much room they gave back."""
        return sum(one.size for one in self.segments)

    def remove(self) -> None:
        """Do nothing."""


class MemoryCompaction:
    """Finds out what stays: of each key the latest record. `run` may be called in another thread."""

    def __init__(self, stretches: Sequence[MemoryStretch], until: int, old_ms: int) -> None:
        self._blocks = [(one, list(one.records)) for one in stretches]  # as they are now: appends go on meanwhile
        self._until, self._old_ms = until, old_ms
        self.kept: list[tuple[MemoryStretch, list[Record]]] = []
        """Sealed stretches, and what stays of them."""

    def run(self) -> None:
        """Find it out."""
        latest = {record.key: record.offset for _, records in self._blocks for record in records if record.key}
        for stretch, records in self._blocks[:-1]:
            if stretch.next_offset <= self._until:
                self.kept.append((stretch, [one for one in records if self._stays(one, latest)]))

    def _stays(self, record: Record, latest: dict[bytes, int]) -> bool:
        if not record.key:
            return True
        is_old_tombstone = not record.body and record.timestamp_ms <= self._old_ms
        return latest[record.key] == record.offset and not is_old_tombstone


class MemoryLog:
    """The records of one topic, in memory."""

    def __init__(
        self,
        directory: str,
        options: LogOptions = LogOptions(),  # noqa: B008 - frozen
        *,
        now_ms: int,
        next_offset_min: int = 0,
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
        before: "MemoryLog | None" = None,
    ) -> None:
        """Begin a log, or go on with the records of one that was closed.

        Args:
            directory: What it is called in the lines of the broker's log.
            options: What is wanted of it.
            now_ms: The time.
            next_offset_min: What the next record's offset must not be below.
            messages_max: How many records it holds.
            bytes_max: How many bytes they take together.
            before: The closed one.
        """
        self.directory = directory
        self.options = options
        self.findings: list[Finding] = []
        """None: nothing can be wrong with it."""
        self.on_finding: Callable[[Finding], None] | None = None
        """Never called."""
        self.on_readable: Callable[[], None] | None = None
        """Never called: all there is can be read."""
        self.closed_because: str | None = None
        """Why it takes no records, or None while it does."""
        self._messages_max, self._bytes_max = messages_max, bytes_max
        self._stretches = list(before.segments) if before is not None else []
        if not self._stretches or next_offset_min > self.next_offset:
            self._stretches.append(MemoryStretch(next_offset_min, now_ms))
        self._count_anew()
        self._compacted_until = 0
        self._compacted_ms = -PAUSE_MS
        self._is_compacting = False

    # -- what there is -----------------------------------------------------------------------------------

    @property
    def start_offset(self) -> int:
        """The lowest offset that may still be here."""
        return self._stretches[0].base_offset

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets."""
        return self._stretches[-1].next_offset

    @property
    def synced_offset(self) -> int:
        """All records: none gets any safer."""
        return self.next_offset

    @property
    def size_bytes(self) -> int:
        """How many bytes all records take."""
        return self._size

    @property
    def segments(self) -> Sequence[MemoryStretch]:
        """The stretches, oldest first; look, do not touch."""
        return self._stretches

    @property
    def is_dirty(self) -> bool:
        """No: a sync has nothing to do."""
        return False

    @property
    def is_checkpoint_due(self) -> bool:
        """No: nothing is written by and by."""
        return False

    # -- writing -----------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Sequence[Record]], now_ms: int) -> int:
        """Take batches and return the first offset; records get offset and time.

        Raises:
            StoreFullError: there is no room for them; nothing of it is stored.
            LogClosedError: the log takes no records.
        """
        self._check_open()
        sized = [(record, check_record(record)) for batch in batches for record in batch]
        total = sum(size for _, size in sized)
        self._check_room(len(sized), total)
        first = self.next_offset
        active = self._active_for(now_ms) if sized else self._stretches[-1]
        for offset, (record, size) in enumerate(sized, first):
            record.offset, record.timestamp_ms = offset, now_ms
            active.push(record, size)
        self._held += len(sized)
        self._size += total
        return first

    def _check_open(self) -> None:
        if self.closed_because is not None:
            raise LogClosedError(self.closed_because)

    def _check_room(self, count: int, size: int) -> None:
        if size + self._size > self._bytes_max:
            text = f"{size} bytes are more than the memory store has room for: it has {self._size} of at most"
            raise StoreFullError(f"{text} {self._bytes_max} bytes")
        if count + self._held > self._messages_max:
            text = f"{count} messages are more than the memory store has room for: it has {self._held} of at most"
            raise StoreFullError(f"{text} {self._messages_max}")

    def _active_for(self, now_ms: int) -> MemoryStretch:
        active = self._stretches[-1]
        is_large = active.size >= min(self.options.segment_bytes_max, self._bytes_max // STRETCHES)
        is_long = len(active.records) >= max(1, self._messages_max // STRETCHES)
        return self._roll(now_ms) if is_large or is_long or self._is_old(active, now_ms) else active

    def _is_old(self, stretch: MemoryStretch, now_ms: int) -> bool:
        return bool(stretch.records) and now_ms - stretch.created_ms >= self.options.segment_age_ms_max

    def _roll(self, now_ms: int) -> MemoryStretch:
        self._stretches.append(MemoryStretch(self.next_offset, now_ms))
        return self._stretches[-1]

    def begin_sync(self) -> NothingToSync:
        """Return what makes everything safe: nothing."""
        return NothingToSync()

    def end_sync(self, job: NothingToSync, error: BaseException | None) -> None:
        """Take note of nothing."""

    def sync(self) -> None:
        """Do nothing."""

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, offset: int, *, bytes_max: int = READ_BYTES, until: int = OFFSETS_END) -> list[Record]:
        """Return the next records from `offset` to before `until`, about `bytes_max` of them but at least one."""
        found: list[Record] = []
        size = 0
        for record in self._from(offset):
            if record.offset >= until or (found and size >= bytes_max):
                break
            found.append(record)
            size += check_record(record)
        return found

    def fetch(self, offset: int, until: int) -> list[Record]:
        """Return what `read` does: see `TopicLog`."""
        return self.read(offset, until=until)

    def read_one(self, offset: int) -> Record | None:
        """Return the record at `offset`, or None when it is gone or never was."""
        record = next(self._from(offset), None) if offset >= 0 else None
        return record if record is not None and record.offset == offset else None

    def _from(self, offset: int) -> Iterator[Record]:
        """Yield the records from `offset` on."""
        for stretch in self._stretches[max(0, bisect_right(self._stretches, offset, key=_BASE) - 1) :]:
            records = stretch.records
            for number in range(bisect_left(records, offset, key=_OFFSET), len(records)):
                yield records[number]

    def offset_at_time(self, time_ms: int) -> int:
        """Return the offset of the first record that was appended at or after a time, or `next_offset`."""
        for stretch in self._stretches:
            if stretch.latest_ms >= time_ms:
                for record in stretch.records:
                    if record.timestamp_ms >= time_ms:
                        return record.offset
        return self.next_offset

    def count_from(self, offset: int, until: int = OFFSETS_END) -> int:
        """Return how many records there are from `offset` to before `until`: gaps do not count."""
        return max(0, self._count_before(until) - self._count_before(offset))

    def _count_before(self, offset: int) -> int:
        return sum(
            len(one.records) if one.next_offset <= offset else bisect_left(one.records, offset, key=_OFFSET)
            for one in self._stretches
            if one.base_offset < offset
        )

    # -- letting go --------------------------------------------------------------------------------------

    def retire(
        self, now_ms: int, needed_offset: int = 0, *, passed_offset: int | None = None, spared_offset: int = OFFSETS_END
    ) -> Forgotten:
        """Let go of the stretches that retention does not keep."""
        if self._is_old(self._stretches[-1], now_ms):
            self._roll(now_ms)
        stretches, retention = self._stretches, self.options.retention
        count = count_expendable(
            stretches, retention, now_ms, needed_offset, passed_offset=passed_offset, spared_offset=spared_offset
        )
        return self._let_go(count)

    def empty(self, now_ms: int) -> Forgotten:
        """Let go of every record there is; offsets go on.

        Raises:
            LogClosedError: the log takes no records, and so it lets go of none.
        """
        self._check_open()
        if self._stretches[-1].records:
            self._roll(now_ms)
        return self._let_go(len(self._stretches) - 1)

    def _let_go(self, count: int) -> Forgotten:
        gone, self._stretches = self._stretches[:count], self._stretches[count:]
        self._count_anew()
        return Forgotten(gone)

    def _count_anew(self) -> None:
        """Learn how many records there are, and how large they are together."""
        self._held = sum(len(one.records) for one in self._stretches)
        self._size = sum(one.size for one in self._stretches)

    def is_compaction_due(self, now_ms: int, until: int = OFFSETS_END) -> bool:
        """Say whether the options ask for compaction, and much of what may go was written since the last one."""
        is_wanted = self.options.compact and self.closed_because is None and not self._is_compacting
        if not is_wanted or 0 <= now_ms - self._compacted_ms < PAUSE_MS:
            return False
        sealed = [one for one in self._stretches[:-1] if one.next_offset <= until]
        dirty = sum(one.size for one in sealed if one.base_offset >= self._compacted_until)
        return 0 < sum(one.size for one in sealed) * DIRTY_SHARE_MIN <= dirty

    def begin_compaction(self, now_ms: int, until: int = OFFSETS_END) -> MemoryCompaction:
        """Return the work that compacts the sealed stretches that end before `until`. One at a time.

        Raises:
            LogClosedError: the log takes no records, and so it lets go of none.
        """
        self._check_open()
        assert not self._is_compacting, f"a compaction of {self.directory} is under way"
        self._is_compacting, self._compacted_ms = True, now_ms
        return MemoryCompaction(self._stretches, until, now_ms - TOMBSTONE_GRACE_MS)

    def end_compaction(self, job: MemoryCompaction, error: BaseException | None) -> Forgotten | None:
        """Let what a job has found take effect; after an error nothing has changed."""
        self._is_compacting = False
        if error is not None or self.closed_because is not None:
            return None
        for stretch, records in job.kept:  # one that was let go meanwhile is nobody's any more
            stretch.keep(records)
            self._compacted_until = stretch.next_offset
        self._stretches = [one for one in self._stretches if one.records or one is self._stretches[-1]]
        self._count_anew()
        return Forgotten(())

    def close(self) -> None:
        """Take no records from now on; what is there can still be read. Closing twice is fine."""
        self.closed_because = self.closed_because or "the log is closed: it was closed"
