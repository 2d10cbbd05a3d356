"""The log of one topic: segments of records, appended at the end and read anywhere.

Segments are found by halving their base offsets, records in them by the sparse index. A segment is sealed, and
the next one begun, when it is large or old enough. Open files come from `Handles`, which bounds them; of sealed
segments only a few indexes stay in memory.

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
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from zbusrpc.broker.storage.errors import (
    DamageError,
    LogClosedError,
    ReadFailedError,
    WriteFailedError,
)
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.index import ENTRY_EVERY_BYTES
from zbusrpc.broker.storage.record import Record, encode_batch
from zbusrpc.broker.storage.retention import KEEP_EVERYTHING, Retention, count_expendable
from zbusrpc.broker.storage.salvage import Finding, salvage
from zbusrpc.broker.storage.segment import (
    OFFSETS_END,
    Segment,
    encode_segment_head,
    index_path,
    segment_name,
    write_index,
)
from zbusrpc.broker.storage.sync import Retired, SyncJob

INDEXES_LOADED_MAX: Final = 16
"""Of sealed segments, so that readers of old messages do not read an index each time: 16 * 24 KiB."""
READ_BYTES: Final = 256 * 1024
"""Of one `read`, unless told: enough to make its cost small beside that of the records."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Sizes and ages of a log."""

    segment_bytes_max: int = 64 * 1024 * 1024
    """A segment is sealed before it would become larger. Retention goes by whole segments; so does salvage."""
    segment_age_ms_max: int = 7 * 24 * 3600 * 1000
    """A segment that was begun so long ago is sealed by the next append or `retire`."""
    checkpoint_bytes: int = 8 * 1024 * 1024
    """The index is stored so often: what is scanned after a kill -9, about 50 ms for small records."""
    retention: Retention = KEEP_EVERYTHING


class Log:
    """The records of one topic. `recovery.open_log` makes it."""

    def __init__(
        self, disk: Disk, handles: Handles, directory: str, options: LogOptions, segments: list[Segment]
    ) -> None:
        self.directory = directory
        self.options = options
        self.findings: list[Finding] = []
        """What was wrong when it was opened, and what reading found since."""
        self.on_finding: Callable[[Finding], None] | None = None
        """Called with each finding of a read."""
        self.closed_because: str | None = None
        """Why it takes no records, or None while it does."""
        self._disk = disk
        self._handles = handles
        self._segments = segments
        self._bases = [segment.base_offset for segment in segments]
        self._dirty: dict[Segment, None] = {}
        self._is_directory_dirty = False
        self._synced_offset = 0
        self._loaded: deque[Segment] = deque()
        self._replaced: set[Segment] = set()

    def resume(self, unsafe: list[Segment], next_offset: int, now_ms: int) -> None:
        """Begin where an earlier process ended: `unsafe` segments may not be on the disk, `next_offset` comes next.

        Raises:
            WriteFailedError: the first segment cannot be begun.
        """
        self._synced_offset = min((segment.base_offset for segment in unsafe), default=next_offset)
        self._dirty.update(dict.fromkeys(unsafe))
        self._is_directory_dirty = bool(unsafe)
        if not self._segments or next_offset > self.next_offset:
            self._roll(next_offset, now_ms)

    # -- what there is -----------------------------------------------------------------------------------

    @property
    def start_offset(self) -> int:
        """The lowest offset that may still be here."""
        return self._bases[0]

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets."""
        return self._segments[-1].next_offset

    @property
    def synced_offset(self) -> int:
        """All records below it survive a power cut."""
        return self._synced_offset

    @property
    def size_bytes(self) -> int:
        """How large all segments are."""
        return sum(segment.size for segment in self._segments)

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments, oldest first; look, do not touch."""
        return self._segments

    @property
    def is_dirty(self) -> bool:
        """Whether a sync has something to do."""
        return bool(self._dirty) or self._is_directory_dirty

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether so much was written since the last sync that one is due, even if nobody waits for it."""
        active = self._segments[-1]
        return len(self._dirty) > 1 or active.size - active.indexed_end >= self.options.checkpoint_bytes

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
            self._dirty[active] = None
        return first

    def _active_for(self, size: int, now_ms: int) -> Segment:
        active = self._segments[-1]
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
            self._handles.create(path).append(encode_segment_head(base_offset, now_ms))
        except OSError as error:
            self._take_back(path)
            raise WriteFailedError(f"cannot begin {path}: {_reason(error)}") from error
        segment = Segment(path, base_offset, now_ms)
        self._segments.append(segment)
        self._bases.append(base_offset)
        for sealed in self._segments[-2:-1]:
            self._use_index(sealed)
            self._dirty[sealed] = None
        self._dirty[segment] = None
        self._is_directory_dirty = True
        return segment

    def _take_back(self, path: str) -> None:
        """Remove a segment that could not be begun; if that fails too, its name is in the way."""
        self._handles.forget(path)
        try:
            if self._disk.exists(path):
                self._disk.remove(path)
        except OSError as error:
            self.fail(f"cannot remove {path}: {_reason(error)}")

    def _write(self, active: Segment, data: bytes) -> None:
        try:
            file = self._handles.get(active.path)
        except OSError as error:
            raise WriteFailedError(f"cannot open {active.path}: {_reason(error)}") from error
        try:
            file.append(data)
        except OSError as error:
            text = f"cannot write {len(data)} bytes to {active.path}: {_reason(error)}"
            try:
                file.truncate(active.size)
            except OSError as second:
                self.fail(f"{text}; cannot cut what was written of it: {_reason(second)}")
            raise WriteFailedError(text) from error

    def fail(self, reason: str) -> None:
        """Take no records from now on. What is safe can still be read."""
        if self.closed_because is None:
            self.closed_because = f"the log in {self.directory} is closed: {reason}"

    # -- syncing -----------------------------------------------------------------------------------------

    def begin_sync(self) -> SyncJob:
        """Return the work that makes everything written so far safe. `end_sync` must follow.

        Raises:
            LogClosedError: a file cannot be opened any more; the log is closed for good.
        """
        job = SyncJob(self._disk, self._handles, self.directory, self.next_offset)
        try:
            for segment in self._dirty:
                job.add(segment, is_index_due=self._is_index_due(segment))
        except OSError as error:
            job.release()
            self.fail(f"cannot open a file to sync it: {_reason(error)}")
            raise LogClosedError(str(self.closed_because)) from error
        job.has_new_names = self._is_directory_dirty
        self._dirty = {}
        self._is_directory_dirty = False
        return job

    def _is_index_due(self, segment: Segment) -> bool:
        if segment is self._segments[-1]:
            return segment.size - segment.indexed_end >= self.options.checkpoint_bytes
        return segment.size != segment.indexed_end

    def end_sync(self, job: SyncJob, error: BaseException | None) -> None:
        """Take note of how a job went: after an error the log is closed for good."""
        job.release()
        if error is not None:
            reason = _reason(error) if isinstance(error, OSError) else repr(error)
            self.fail(f"cannot sync: {reason}; what was not safe before may be lost")
            return
        self._synced_offset = max(self._synced_offset, job.end_offset)
        for segment, end in job.indexed():
            segment.indexed_end = end
            if segment in self._replaced:  # its index was stored after it went to quarantine
                with contextlib.suppress(OSError):
                    self._disk.remove(index_path(segment.path))
        self._replaced.clear()

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
        return self._serving_the_rest(lambda: self._read(offset, min(until, self.next_offset), bytes_max))

    def _read(self, offset: int, until: int, bytes_max: int) -> list[Record]:
        number = max(0, bisect_right(self._bases, offset) - 1)
        while number < len(self._segments) and self._bases[number] < until:
            segment = self._segments[number]
            if offset < segment.next_offset:
                file = self._handles.get(segment.path)
                records = segment.read(self._disk, file, offset, until, bytes_max)
                self._use_index(segment)
                if records:
                    return records
            number += 1
        return []

    def offset_at_time(self, time_ms: int) -> int:
        """Return the offset of the first record that was appended at or after a time, or `next_offset`.

        Raises:
            ReadFailedError: the disk did not give it.
        """
        return self._serving_the_rest(lambda: self._offset_at_time(time_ms))

    def _offset_at_time(self, time_ms: int) -> int:
        for segment in self._segments:
            if segment.latest_ms >= time_ms and not segment.is_empty:
                offset = segment.offset_at_time(self._disk, self._handles.get(segment.path), time_ms)
                self._use_index(segment)
                return offset
        return self.next_offset

    def _use_index(self, segment: Segment) -> None:
        """Keep the index of a sealed segment in memory for a while, and let go of those not used for long."""
        if segment is self._segments[-1] or segment.index is None or segment in self._loaded:
            return
        self._loaded.append(segment)
        while len(self._loaded) > INDEXES_LOADED_MAX:
            self._loaded.popleft().index = None

    def _serving_the_rest(self, act: Callable[[], T]) -> T:
        """Do `act`; where it meets damage, quarantine that segment and do it again."""
        for _ in range(len(self._segments) + 1):
            try:
                return act()
            except DamageError as damage:
                self._quarantine(damage)
            except OSError as error:
                raise ReadFailedError(f"cannot read the log in {self.directory}: {_reason(error)}") from error
        raise ReadFailedError(f"cannot read the log in {self.directory}: it is damaged again and again")

    def _quarantine(self, damage: DamageError) -> None:
        number = next(n for n, segment in enumerate(self._segments) if segment.name == damage.name)
        segment = self._segments[number]
        try:
            if number == len(self._segments) - 1:
                self._roll(segment.next_offset, segment.created_ms)
            finding = self._replace(number, segment)
        except (OSError, WriteFailedError) as error:
            reason = _reason(error) if isinstance(error, OSError) else str(error)
            raise ReadFailedError(f"{damage}; it cannot be quarantined: {reason}") from error
        self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    def _replace(self, number: int, segment: Segment) -> Finding:
        """Put what can be salvaged of a sealed segment in its place."""
        self._handles.forget(segment.path)
        base, until = segment.base_offset, self._bases[number + 1]
        finding = salvage(self._disk, segment.path, base_offset=base, until=until, created_ms=segment.created_ms)
        good = Segment(segment.path, base, segment.created_ms)
        file = self._handles.get(good.path)
        good.scan(file, file.size())  # a running sync may just now store the index of the damaged file
        self._segments[number] = good
        self._replaced.add(segment)
        self._dirty.pop(segment, None)
        self._dirty[good] = None
        return finding

    # -- letting go --------------------------------------------------------------------------------------

    def retire(self, now_ms: int, needed_offset: int = 0) -> Retired:
        """Let go of the segments that retention does not keep, and return what removes their files.

        `needed_offset` is the lowest that somebody still needs. Removing may take long and may be done in another
        thread; until then a restart brings the segments back, which retention then finds again.
        """
        active = self._segments[-1]
        if now_ms - active.created_ms >= self.options.segment_age_ms_max and not active.is_empty:
            with contextlib.suppress(WriteFailedError):  # a full disk needs retention most
                self._roll(active.next_offset, now_ms)
        count = count_expendable(self._segments, self.options.retention, now_ms, needed_offset)
        gone = self._segments[:count]
        del self._segments[:count], self._bases[:count]
        for segment in gone:
            self._handles.forget(segment.path)
            self._dirty.pop(segment, None)
        return Retired(self._disk, gone)

    def close(self) -> None:
        """Make everything safe, store the indexes and close the files. Closing twice is fine.

        Raises:
            LogClosedError: that failed; what was not safe before may be lost.
        """
        if self.closed_because is None:
            active = self._segments[-1]
            self._dirty[active] = None
            try:
                self.sync()
                if active.indexed_end != active.size and active.index is not None:
                    with contextlib.suppress(OSError):  # an index can be made again
                        write_index(self._disk, active.path, active.index.encode())
                        active.indexed_end = active.size
            finally:
                self.fail("it was closed")
        for segment in self._segments:
            self._handles.forget(segment.path)


def _reason(error: OSError) -> str:
    return error.strerror or repr(error)
