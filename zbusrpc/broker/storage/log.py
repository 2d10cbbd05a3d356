"""The log of one topic: segments of records, appended at the end and read anywhere.

`Segments` finds and reads them. A segment is sealed, and the next one begun, when it is large or old enough. Open
files come from `Handles`, which bounds them.

What is written and what is on the disk are two things. `append` writes; `begin_sync` hands out a `SyncJob` that
makes everything written so far safe and may run in another thread while appends go on; `end_sync` takes note of it.
`synced_offset` says how far that is.

Promises: an append is all there or not at all, and so is each batch after a crash. After a failed write the log
is as before and goes on. After a failed sync it takes no records any more, because the system may have dropped
what it could not write. Damage is answered by `salvage`; everything else goes on being served.
Not thread-safe, except as said. Time comes in as `now_ms`.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from zbusrpc.broker.storage.compaction import Compaction
from zbusrpc.broker.storage.compaction_job import CompactionJob
from zbusrpc.broker.storage.errors import (
    DamageError,
    LogClosedError,
    ReadFailedError,
    RemainsError,
    WriteFailedError,
    reason_of,
)
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.finding import Finding
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.index import ENTRY_EVERY_BYTES
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record, encode_batch
from zbusrpc.broker.storage.retention import count_expendable
from zbusrpc.broker.storage.salvage import salvage
from zbusrpc.broker.storage.seams import READ_BYTES
from zbusrpc.broker.storage.segment import OFFSETS_END, Segment, next_generation, segment_name
from zbusrpc.broker.storage.segments import Segments
from zbusrpc.broker.storage.sync import Replaced, Retired, SyncJob, Unsafe
from zbusrpc.broker.storage.tail import begin_segment, store_index, write
from zbusrpc.telemetry import get_logger

T = TypeVar("T")


class Log:
    """The records of one topic. `recovery.open_log` makes it."""

    __slots__ = (
        "_compaction",
        "_disk",
        "_handles",
        "_segments",
        "_unsafe",
        "closed_because",
        "directory",
        "findings",
        "on_finding",
        "on_readable",
        "options",
    )

    def __init__(
        self, disk: Disk, handles: Handles, directory: str, options: LogOptions, segments: list[Segment]
    ) -> None:
        self.directory = directory
        self.options = options
        self.findings: list[Finding] = []
        """What was wrong when it was opened, and what reading found since."""
        self.on_finding: Callable[[Finding], None] | None = None
        """Called with each finding of a read."""
        self.on_readable: Callable[[], None] | None = None
        """Of the seam; never called: a disk is waited for."""
        self.closed_because: str | None = None
        """Why it takes no records, or None while it does."""
        self._disk = disk
        self._handles = handles
        self._segments = Segments(disk, handles, segments)
        self._unsafe = Unsafe(disk, handles, directory)
        self._compaction = Compaction(disk, handles, self._segments, self._unsafe)

    def resume(self, unsafe: list[Segment], next_offset: int, now_ms: int) -> None:
        """Begin where an earlier process ended: `unsafe` segments may not be on the disk, `next_offset` comes next.

        Raises:
            WriteFailedError: the first segment cannot be begun.
        """
        self._unsafe.safe_until = min((segment.base_offset for segment in unsafe), default=next_offset)
        self._unsafe.add(*unsafe)
        self._unsafe.has_new_names = bool(unsafe)
        if not self._segments.all or next_offset > self.next_offset:
            self._roll(next_offset, now_ms)

    # -- what there is -----------------------------------------------------------------------------------

    @property
    def start_offset(self) -> int:
        """The lowest offset that may still be here."""
        return self._segments.all[0].base_offset

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets."""
        return self._segments.all[-1].next_offset

    @property
    def synced_offset(self) -> int:
        """All records below it survive a power cut."""
        return self._unsafe.safe_until

    @property
    def size_bytes(self) -> int:
        """How large all segments are."""
        return sum(segment.size for segment in self._segments.all)

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments, oldest first; look, do not touch."""
        return self._segments.all

    @property
    def is_dirty(self) -> bool:
        """Whether a sync has something to do."""
        return bool(self._unsafe.segments) or self._unsafe.has_new_names

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether so much was written since the last sync that one is due, even if nobody waits for it."""
        active = self._segments.all[-1]
        return len(self._unsafe.segments) > 1 or active.size - active.indexed_end >= self.options.checkpoint_bytes

    # -- appending ---------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Sequence[Record]], now_ms: int) -> int:
        """Write batches in one go and return the first offset; records (checked before) get offset and time.

        Raises:
            WriteFailedError: the disk did not take it; nothing of it is stored.
            LogClosedError: the log takes no records.
        """
        if self.closed_because is not None:
            raise LogClosedError(self.closed_because)
        first = offset = self.next_offset
        chunks: list[bytes] = []
        marks: list[tuple[int, int]] = []
        size, next_mark = 0, 0
        for batch in batches:
            if size >= next_mark:
                marks.append((offset, size))
                next_mark = size + ENTRY_EVERY_BYTES
            size += encode_batch(batch, offset, now_ms, chunks)
            offset += len(batch)
        if size:
            active = self._active_for(size, now_ms)
            self._write(active, b"".join(chunks))
            active.grow(size, offset, now_ms, marks)
            self._unsafe.segments[active] = None
        return first

    def _active_for(self, size: int, now_ms: int) -> Segment:
        active = self._segments.all[-1]
        options = self.options
        is_full = active.size + size > options.segment_bytes_max
        is_old = now_ms - active.created_ms >= options.segment_age_ms_max
        if (is_full or is_old) and not active.is_empty:
            active = self._roll(active.next_offset, now_ms)
        return active

    def _roll(self, base_offset: int, now_ms: int) -> Segment:
        """Seal the active segment and begin the next.

        Raises:
            WriteFailedError: that was not possible; nothing has changed.
        """
        path = os.path.join(self.directory, segment_name(base_offset))
        try:
            segment = begin_segment(self._disk, self._handles, path, base_offset, now_ms)
        except RemainsError as error:
            self.fail(str(error))
            raise
        self._segments.push(segment)
        self._unsafe.add(*self._segments.all[-2:])
        self._unsafe.has_new_names = True
        return segment

    def _write(self, active: Segment, data: bytes) -> None:
        try:
            write(self._handles, active, data)
        except RemainsError as error:
            self.fail(str(error))
            raise

    def fail(self, reason: str) -> None:
        """Take no records from now on. What is safe can still be read."""
        if self.closed_because is None:
            self.closed_because = f"the log is closed: {reason}"
            get_logger("storage").error("storage.log_closed", directory=self.directory, reason=reason)

    # -- syncing -----------------------------------------------------------------------------------------

    def begin_sync(self) -> SyncJob:
        """Return the work that makes everything written so far safe. `end_sync` must follow.

        Raises:
            LogClosedError: a file cannot be opened any more; the log is closed for good.
        """
        try:
            return self._unsafe.begin_sync(self._segments.all[-1], self.options.checkpoint_bytes)
        except OSError as error:
            self.fail(f"cannot open a file to sync it: {reason_of(error)}")
            raise LogClosedError(str(self.closed_because)) from error

    def end_sync(self, job: SyncJob, error: BaseException | None) -> None:
        """Take note of how a job went: after an error the log is closed for good."""
        job.release()
        if error is None:
            self._unsafe.end_sync(job)
            return
        reason = reason_of(error) if isinstance(error, OSError) else repr(error)
        self.fail(f"cannot sync: {reason}; what was not safe before may be lost")

    def sync(self) -> None:
        """Make everything written so far safe, now.

        Raises:
            LogClosedError: that failed; the log is closed for good.
        """
        job = self.begin_sync()
        try:
            job.run()
        except OSError as error:
            self.end_sync(job, error)
            raise LogClosedError(str(self.closed_because)) from error
        self.end_sync(job, None)

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, offset: int, *, bytes_max: int = READ_BYTES, until: int = OFFSETS_END) -> list[Record]:
        """Return the next records from `offset` to before `until`, about `bytes_max` of them but at least one.

        Empty means that there is none. Offsets may have gaps; the caller goes on after the last one it got.

        Raises:
            ReadFailedError: the disk did not give them.
        """
        end = min(until, self.next_offset)
        return self._serving_the_rest(lambda: self._segments.read(offset, end, bytes_max))

    def fetch(self, offset: int, until: int) -> list[Record]:
        """Return what `read` does: see `TopicLog`."""
        return self.read(offset, until=until)

    def read_one(self, offset: int, *, until: int = OFFSETS_END) -> Record | None:
        """Return the record at `offset`, or None when it is gone, never was, or is not before `until`.

        For random access: it reads what it needs to find that record, and no more.

        Raises:
            ReadFailedError: the disk did not give it.
        """
        if not 0 <= offset < until:
            return None
        return self._serving_the_rest(lambda: self._segments.read_one(offset))

    def offset_at_time(self, time_ms: int) -> int:
        """Return the offset of the first record that was appended at or after a time, or `next_offset`.

        Raises:
            ReadFailedError: the disk did not give it.
        """
        offset = self._serving_the_rest(lambda: self._segments.offset_at_time(time_ms))
        return self.next_offset if offset is None else offset

    def count_from(self, offset: int, until: int = OFFSETS_END) -> int:
        """Return how many records there are from `offset` to before `until`: gaps do not count.

        Raises:
            ReadFailedError: the disk did not say; it is asked only about the middle of a segment that has gaps.
        """
        return self._serving_the_rest(lambda: self._segments.count(offset, until))

    def verify(self) -> None:
        """Read every byte that should be there. What is damaged is quarantined, and found in `findings`.

        Raises:
            ReadFailedError: the disk did not give it.
        """
        self._serving_the_rest(self._segments.verify)

    def _serving_the_rest(self, act: Callable[[], T]) -> T:
        """Do `act`; where it meets damage, quarantine that segment and do it again."""
        for _ in range(len(self._segments.all) + 1):
            try:
                return act()
            except DamageError as damage:
                self._quarantine(damage)
            except OSError as error:
                raise ReadFailedError(f"cannot read the log: {reason_of(error)}") from error
        raise ReadFailedError("cannot read the log: it is damaged again and again")

    def _quarantine(self, damage: DamageError) -> None:
        segments = self._segments.all
        number = next(n for n, segment in enumerate(segments) if segment.name == damage.name)
        segment = segments[number]
        try:
            if number == len(segments) - 1 and not segment.is_empty:
                self._roll(segment.next_offset, segment.created_ms)
            finding = self._replace(number, segment)
        except (OSError, WriteFailedError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise ReadFailedError(f"{damage}; it cannot be quarantined: {reason}") from error
        self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    def _replace(self, number: int, segment: Segment) -> Finding:
        """Put what can be salvaged of a sealed segment in its place."""
        self._handles.forget(segment.path)
        finding = salvage(self._disk, segment, until=self._segments.end_of(number))
        good = Segment(segment.path, segment.base_offset, segment.created_ms, next_generation(segment.generation))
        file = self._handles.get(good.path)
        good.scan(file, file.size())  # a running sync may just now store the index of the damaged file
        self._segments.put(number, good)
        self._unsafe.segments.pop(segment, None)
        self._unsafe.add(good)
        return finding

    # -- letting go --------------------------------------------------------------------------------------

    def retire(
        self, now_ms: int, needed_offset: int = 0, *, passed_offset: int | None = None, spared_offset: int = OFFSETS_END
    ) -> Retired:
        """Let go of the segments that retention does not keep, and return what removes their files.

        The offsets are those of `count_expendable`. Removing may take long and may be done
        in another thread; until then a restart brings the segments back, which retention then finds again.
        """
        active = self._segments.all[-1]
        if now_ms - active.created_ms >= self.options.segment_age_ms_max and not active.is_empty:
            with contextlib.suppress(WriteFailedError):  # a full disk needs retention most
                self._roll(active.next_offset, now_ms)
        segments, retention = self._segments.all, self.options.retention
        count = count_expendable(
            segments, retention, now_ms, needed_offset, passed_offset=passed_offset, spared_offset=spared_offset
        )
        return self._let_go(count)

    def empty(self, now_ms: int) -> Retired:
        """Let go of every record there is, and return what removes their files; offsets go on.

        Once `Retired.remove` has returned no crash brings a record back; before, a crash may.

        Raises:
            WriteFailedError: the next segment cannot be begun; nothing has changed.
            LogClosedError: the log takes no records, and so it lets go of none.
        """
        if self.closed_because is not None:
            raise LogClosedError(self.closed_because)
        active = self._segments.all[-1]
        if not active.is_empty:
            self._roll(active.next_offset, now_ms)
        return self._let_go(len(self._segments.all) - 1)

    def _let_go(self, count: int) -> Retired:
        gone = self._segments.drop(count)
        for segment in gone:
            self._handles.forget(segment.path)
            self._unsafe.segments.pop(segment, None)
        return Retired(self._disk, gone)

    def is_compaction_due(self, now_ms: int, until: int = OFFSETS_END) -> bool:
        """Say whether the options ask for compaction, and enough was sealed since the last one for it to pay."""
        is_wanted = self.options.compact and self.closed_because is None
        return is_wanted and self._compaction.is_due(now_ms, until)

    def begin_compaction(self, now_ms: int, until: int = OFFSETS_END) -> CompactionJob:
        """Return the work that compacts the sealed segments that end before `until`; `end_compaction` must follow.

        One at a time. `until` is the lowest offset that somebody still needs, where that matters.

        Raises:
            LogClosedError: the log takes no records, and so it lets go of none.
        """
        if self.closed_because is not None:
            raise LogClosedError(self.closed_because)
        return self._compaction.begin(self.directory, now_ms, until)

    def end_compaction(self, job: CompactionJob, error: BaseException | None) -> Replaced | None:
        """Let what a job has written take effect, and return what removes the old files, in another thread.

        None says that it did not take effect, or not all of it: no record was lost, and it can be done again.
        """
        if isinstance(error, DamageError):
            name = error.name
            with contextlib.suppress(ReadFailedError):  # whoever reads it meets it again
                self._serving_the_rest(lambda: self._segments.verify(name))
        return self._compaction.end(job, is_good=error is None and self.closed_because is None)

    def close(self) -> None:
        """Make everything safe, store the indexes and close the files. Closing twice is fine.

        Raises:
            LogClosedError: that failed; what was not safe before may be lost.
        """
        if self.closed_because is None:
            try:
                if self.is_dirty:
                    self.sync()
                store_index(self._disk, self._segments.all[-1])
            finally:
                self.closed_because = self.closed_because or "the log is closed: it was closed"
        for segment in self._segments.all:
            self._handles.forget(segment.path)
