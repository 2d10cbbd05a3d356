"""The work of a compaction: which records stay, and the new files of the segments that get smaller. In a worker.

    1  the directory is synced, so that what the last compaction renamed is not undone by a power cut (see 3)
    2  keys are gathered from what was written since the last compaction: key -> latest offset
    3  each sealed segment is read; if a record of it goes, what stays is written to `<base>.compacted.tmp`, synced,
       read again, and its index is written to `<base>.compacted-index.tmp`; the old file gets a second name,
       `<base>.replaced.tmp`

By its second name the old file lives on when the new one takes its place: to let go of 64 MiB in the page cache takes
30 ms, which the log's thread shall not wait. `Replaced.remove` does that.

A tombstone goes if it is old and no earlier record of its key was met in 3: a crash may keep the new file of one
segment and lose that of another, and an earlier record would be back without its tombstone. It goes the next time.

Memory is bounded: records pass in blocks, keys are gathered up to a limit. Where they are more, segments behind it wait
for the next compaction, which goes on from there: below `clean_until` each key is there once.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from zbusrpc.broker.storage.files import Disk, File, opened
from zbusrpc.broker.storage.record import CONTINUES, MORE, keyed_heads, stop_at, with_flags
from zbusrpc.broker.storage.segment import (
    SEGMENT_HEAD_BYTES,
    Segment,
    decode_segment_head,
    encode_segment_head,
    index_path,
    next_generation,
    sibling,
)
from zbusrpc.broker.storage.sync import Replaced

TOMBSTONE_GRACE_MS: Final = 24 * 3600 * 1000
"""Who builds a table by reading from the start sees each tombstone if it reaches the end within a day (as in Kafka)."""
KEYS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Memory for keys: 400,000 of 20 bytes. The keys of the last segment that is read may exceed it."""
KEY_OVERHEAD_BYTES: Final = 140
"""What a key costs beside its own bytes, two objects and an entry of a dict: measured 75 to 131, as the dict grows."""
BLOCK_BYTES: Final = 128 * 1024
"""Read at a time: after some 2 ms of work another thread may go on."""
WRITE_BYTES: Final = 1024 * 1024
COMPACTED_SUFFIX: Final = ".compacted.tmp"
COMPACTED_INDEX_SUFFIX: Final = ".compacted-index.tmp"
REPLACED_SUFFIX: Final = ".replaced.tmp"

Entry = tuple[bytes, int, int, int, int, int, bytes, bool]
"""Of one record: the block, where it starts and ends in it, offset, time, flags, key, whether the body is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A segment as it was when the compaction began."""

    segment: Segment
    size: int
    end_offset: int
    """Where the next segment begins."""


class CompactionJob:
    """One compaction of one log. `run` may be called in another thread."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        sources: Sequence[Source],
        *,
        clean_until: int,
        until: int,
        safe_until: int,
        old_ms: int,
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._safe_until = safe_until
        self._old_ms = old_ms
        self._until = until
        self._latest: dict[bytes, int] = {}  # twice the latest offset of a key, and 1 if an earlier record was met
        self.sources = sources
        self.clean_until = clean_until
        """Below it each key is there once; `run` raises it."""
        self.rewritten: list[tuple[Segment, Segment]] = []
        """Segments, and what is to take their places; oldest first."""
        self.files: dict[str, None] = {}
        """Files that are in nobody's place yet."""
        self.dropped_records = 0
        self.dropped_bytes = 0

    def run(self) -> None:
        """Write the new files.

        Raises:
            DamageError: a record is not what was written.
            OSError: a file cannot be read or written.
        """
        try:
            self._disk.sync_directory(self._directory)
            self._remove_replaced()
            self._gather()
            for source in self.sources:
                if source.end_offset <= self._until:
                    with contextlib.suppress(FileNotFoundError):  # it was retired
                        self._compact(source)
                    self.clean_until = max(self.clean_until, source.end_offset)
        except BaseException:
            self.discard()
            raise
        finally:
            self._latest = {}

    def put(self, old: Segment, new: Segment) -> None:
        """Put a new file in the place of the old one; on the log's own thread.

        Raises:
            OSError: that was not possible; the old one is in its place.
        """
        path = sibling(old.path, COMPACTED_SUFFIX)
        self._disk.rename(path, old.path)
        del self.files[path]
        path = sibling(old.path, COMPACTED_INDEX_SUFFIX)
        with contextlib.suppress(OSError):  # an index can be made again
            self._disk.rename(path, index_path(old.path))
            del self.files[path]
            new.indexed_end = new.size

    def discard(self) -> None:
        """Remove the files that are in nobody's place."""
        for path in self.files:
            with contextlib.suppress(OSError):  # the next start removes it
                self._disk.remove(path)
        self.files = {}
        self.rewritten = []

    def replaced(self) -> Replaced:
        """Return the old files, which are in nobody's place now."""
        paths = [path for path in self.files if path.endswith(REPLACED_SUFFIX)]
        for path in paths:
            del self.files[path]
        return Replaced(self._disk, paths)

    def _remove_replaced(self) -> None:
        """Remove what an earlier compaction has left, if whoever got it did not."""
        paths = [os.path.join(self._directory, name) for name in self._disk.list(self._directory)]
        Replaced(self._disk, [path for path in paths if path.endswith(REPLACED_SUFFIX)]).remove()

    # -- what stays --------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Learn the latest offset of each key that was written since the last compaction."""
        size = 0
        for source in self.sources:
            if source.segment.base_offset < self.clean_until:
                continue
            if size > KEYS_BYTES_MAX:
                self._until = min(self._until, source.segment.base_offset)
                return
            with contextlib.suppress(FileNotFoundError):
                size += self._gather_from(source)

    def _gather_from(self, source: Source) -> int:
        """Take note of the keys of one segment, and return about how much memory that took."""
        latest, before = self._latest, len(self._latest)
        size = 0
        for _, _, _, offset, _, _, key, _ in entries(self._disk, source):
            if offset >= self._safe_until:
                break
            if key:
                if key not in latest:
                    size += len(key)
                latest[key] = offset * 2
        return size + KEY_OVERHEAD_BYTES * (len(latest) - before)

    def _stays(self, entry: Entry) -> bool:
        _, _, _, offset, timestamp_ms, _, key, is_empty = entry
        if not key:
            return True
        latest = self._latest.get(key, -1)
        if offset < latest // 2:
            self._latest[key] = latest | 1
            return False
        return not is_empty or timestamp_ms >= self._old_ms or (latest >= 0 and bool(latest & 1))

    # -- new files ---------------------------------------------------------------------------------------

    def _compact(self, source: Source) -> None:
        """Write a segment anew, if a record of it goes."""
        if all(map(self._stays, entries(self._disk, source))):
            return
        old = source.segment
        new = Segment(old.path, old.base_offset, old.created_ms, next_generation(old.generation))
        with self._created(old, COMPACTED_SUFFIX) as file:
            for data in self._chunks(source, encode_segment_head(new.base_offset, new.created_ms, new.generation)):
                file.append(data)
            file.sync()
            size = file.size()
            stopped_at = new.scan(file, size)
        assert stopped_at == new.size == size, f"{old.name}: what was written is not what was meant"
        assert new.index is not None
        if not new.is_empty:
            with self._created(old, COMPACTED_INDEX_SUFFIX) as file:
                file.append(new.index.encode())
        new.index = None
        self._link(old.path, sibling(old.path, REPLACED_SUFFIX))
        self.rewritten.append((old, new))
        self.dropped_bytes += source.size - new.size

    def _link(self, path: str, second: str) -> None:
        self.files[second] = None
        with contextlib.suppress(OSError):  # then the log's thread waits
            self._disk.link(path, second)

    @contextlib.contextmanager
    def _created(self, segment: Segment, suffix: str) -> Iterator[File]:
        path = sibling(segment.path, suffix)
        with contextlib.suppress(FileNotFoundError):
            self._disk.remove(path)
        self.files[path] = None
        with opened(self._disk, path, create=True) as file:
            yield file

    def _chunks(self, source: Source, head: bytes) -> Iterator[bytes]:
        """Yield the bytes of the new file."""
        chunk = bytearray(head)
        for data in whole_batches(self._marked(source)):
            chunk += data
            if len(chunk) >= WRITE_BYTES:
                yield bytes(chunk)
                chunk.clear()
        if chunk:
            yield bytes(chunk)

    def _marked(self, source: Source) -> Iterator[tuple[bytes, int, bool]]:
        """Yield bytes and flags of the records of a segment, and whether they stay."""
        for entry in entries(self._disk, source):
            block, start, stop, _, _, flags, _, _ = entry
            stays = self._stays(entry)
            self.dropped_records += not stays
            yield block[start:stop], flags, stays


def entries(disk: Disk, source: Source) -> Iterator[Entry]:
    """Yield all records of a segment; each was verified.

    Raises:
        DamageError: something is not as it was written.
        OSError: it cannot be read.
    """
    segment = Segment(source.segment.path, source.segment.base_offset, 0)  # the log's own may change meanwhile
    segment.size = source.size
    position, wanted = SEGMENT_HEAD_BYTES, BLOCK_BYTES
    with opened(disk, segment.path) as file:
        decode_segment_head(file.pread(SEGMENT_HEAD_BYTES, 0), segment.name, segment.base_offset)
        while position < segment.size:
            block = segment.block(file, wanted, position)
            used = 0
            for stop, offset, timestamp_ms, flags, key, is_empty in keyed_heads(block):
                yield block, used, stop, offset, timestamp_ms, flags, key, is_empty
                used = stop
            position += used
            wanted = segment.next_wanted(block, used, stop_at(block, used), position, BLOCK_BYTES)


def whole_batches(records: Iterable[tuple[bytes, int, bool]]) -> Iterator[bytes]:
    """Yield the records that stay, of `records` with flags and whether they do; what is left of a batch is a batch."""
    last, last_flags = b"", 0
    for data, flags, stays in records:
        if last and not flags & CONTINUES:
            yield with_flags(last, last_flags)
            last = b""
        if stays:
            if last:
                yield with_flags(last, last_flags | MORE)
            last, last_flags = data, CONTINUES if last else 0
    if last:
        yield with_flags(last, last_flags)
