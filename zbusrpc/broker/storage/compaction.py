"""Compaction by key: of the records with a key only the latest of each stays; the log becomes the history of a table.

    begin   on the log's thread   takes note of the segments, and of how far they are on the disk
    run     in a worker           reads the keys, and writes anew the sealed segments that get smaller
    end     on the log's thread   puts the new files in the place of the old ones, by renaming

Records without a key stay. A record with a key and an empty body is a tombstone: it removes the earlier records of its
key, and goes itself when it is old enough and nothing is left for it to remove. The segment that is being written is
never rewritten, but its keys count. Offsets stay as they are, so that there are gaps; a segment of which nothing is
left goes as a whole.

Promises: a record gives way only to a later one that is on the disk. A new file is whole, verified and synced before
it gets the name of the old one, and it is the next generation of its segment, so that an index of the old file says
nothing about it. So a crash leaves the old file or the new one. Damage ends a compaction, with nothing changed, and is
answered as ever. What was retired meanwhile stays away, and readers go on where they are.

`compaction_job` does the work; this module decides when, and is the log's side of it.
"""

import contextlib
from typing import Final

from zbusrpc.broker.storage.compaction_job import TOMBSTONE_GRACE_MS, CompactionJob, Source
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.segment import Segment, index_path
from zbusrpc.broker.storage.segments import Segments
from zbusrpc.broker.storage.sync import Replaced, Unsafe

DIRTY_SHARE_MIN: Final = 0.5
"""Of the sealed bytes, what no compaction has seen: so what stays is read and written once for as much that is new."""
PAUSE_MS: Final = 60_000
"""Between two compactions of a log: one that fails, say on a full disk, is not tried again at once."""


class Compaction:
    """What one log knows of its compactions."""

    __slots__ = ("_begun_ms", "_clean_until", "_disk", "_handles", "_job", "_segments", "_unsafe")

    def __init__(self, disk: Disk, handles: Handles, segments: Segments, unsafe: Unsafe) -> None:
        self._disk = disk
        self._handles = handles
        self._segments = segments
        self._unsafe = unsafe
        self._clean_until = 0  # below it each key is there once; not known after a restart
        self._begun_ms = -PAUSE_MS
        self._job: CompactionJob | None = None

    def is_due(self, now_ms: int, until: int) -> bool:
        """Say whether it pays: whether much of what may be rewritten was sealed since the last compaction.

        After a restart a segment counts as new unless a compaction has rewritten it.
        """
        if self._job is not None or 0 <= now_ms - self._begun_ms < PAUSE_MS:
            return False
        sealed = dirty = 0
        until = min(until, self._unsafe.safe_until)
        for number, segment in enumerate(self._segments.all[:-1]):
            if self._segments.end_of(number) > until:
                break
            sealed += segment.size
            if segment.base_offset >= self._clean_until and not segment.generation:
                dirty += segment.size
        return 0 < sealed * DIRTY_SHARE_MIN <= dirty

    def begin(self, directory: str, now_ms: int, until: int) -> CompactionJob:
        """Return the work of a compaction; one at a time."""
        assert self._job is None, f"a compaction of {directory} is under way"
        ends = enumerate(self._segments.all)
        self._begun_ms = now_ms
        self._job = CompactionJob(
            self._disk,
            directory,
            [Source(segment=each, size=each.size, end_offset=self._segments.end_of(n)) for n, each in ends],
            clean_until=self._clean_until,
            until=min(until, self._unsafe.safe_until),
            safe_until=self._unsafe.safe_until,
            old_ms=now_ms - TOMBSTONE_GRACE_MS,
        )
        return self._job

    def end(self, job: CompactionJob, *, is_good: bool) -> Replaced | None:
        """Put the new files in the place of the old ones, and return those; None when that was not possible."""
        assert job is self._job
        self._job = None
        if not is_good or self._is_outdated(job):
            job.discard()
            return None
        places = {segment: number for number, segment in enumerate(self._segments.all)}
        try:
            for old, new in reversed(job.rewritten):  # so that the places of those to come do not shift
                if old in places:
                    self._replace(places[old], old, new, job)
            self._clean_until = max(self._clean_until, job.clean_until)
            return job.replaced()
        except OSError:
            return None
        finally:
            job.discard()

    def _is_outdated(self, job: CompactionJob) -> bool:
        """Say whether a segment went to quarantine meanwhile: the latest record of a key may have gone with it."""
        here = {segment.path: segment for segment in self._segments.all}
        return any(here.get(source.segment.path, source.segment) is not source.segment for source in job.sources)

    def _replace(self, number: int, old: Segment, new: Segment, job: CompactionJob) -> None:
        self._handles.forget(old.path)
        if new.is_empty:
            self._disk.remove(old.path)
            with contextlib.suppress(OSError):  # without its segment it is removed by the next start
                self._disk.remove(index_path(old.path))
        else:
            job.put(old, new)
        self._segments.put(number, None if new.is_empty else new)
        self._unsafe.segments.pop(old, None)
        self._unsafe.has_new_names = True
