"""Work of a log that takes long and may run in another thread: making segments safe, removing them.

    Unsafe   what is written and not safe   ──begin_sync──>  SyncJob  ──end_sync──>  Unsafe
    Retired  segments that were let go, until their files are removed
    Replaced files that compaction has replaced, until they are removed

What is needed for it is gathered on the log's own thread, so that nothing is shared while it runs.
"""

import contextlib
import os
from collections.abc import Sequence

from zbusrpc.broker.storage.files import Disk, File
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.segment import Segment, index_path, write_index


class SyncJob:
    """Makes safe what was written before it was made. `run` may be called in another thread."""

    __slots__ = ("_directory", "_disk", "_files", "_handles", "_indexes", "end_offset", "has_new_names")

    def __init__(self, disk: Disk, handles: Handles, directory: str, end_offset: int) -> None:
        self._disk = disk
        self._handles = handles
        self._directory = directory
        self._files: list[tuple[str, File]] = []
        self._indexes: list[tuple[Segment, int, bytes]] = []
        self.end_offset = end_offset
        """Records below it are safe once this has run."""
        self.has_new_names = False
        """Whether segments were begun, so that the directory must be synced."""

    def add(self, segment: Segment, *, is_index_due: bool) -> None:
        """Let it sync `segment` too, and store its index as it is now.

        Raises:
            OSError: the file cannot be opened.
        """
        self._files.append((segment.path, self._handles.pin(segment.path)))
        if is_index_due and segment.index is not None:
            self._indexes.append((segment, segment.index.end, segment.index.encode()))

    @property
    def is_short(self) -> bool:
        """Whether it is one sync of one file, and nothing besides."""
        return len(self._files) == 1 and not self.has_new_names and not self._indexes

    def run(self) -> None:
        """Return when everything is safe.

        Raises:
            OSError: it is not, and the system may have dropped it. Never try again.
        """
        for _, file in self._files:
            file.sync()
        if self.has_new_names:
            self._disk.sync_directory(self._directory)
        for segment, _, data in self._indexes:
            with contextlib.suppress(OSError):  # an index can be made again
                write_index(self._disk, segment.path, data)

    def indexed(self) -> list[tuple[Segment, int]]:
        """Return the segments whose index was stored, and how far it goes."""
        return [(segment, end) for segment, end, _ in self._indexes]

    def release(self) -> None:
        """Give the files back; on the log's own thread."""
        for path, file in self._files:
            self._handles.unpin(path, file)


class Unsafe:
    """What of a log may not be on the disk: segments with new bytes, new names in its directory."""

    __slots__ = ("_directory", "_disk", "_handles", "has_new_names", "safe_until", "segments")

    def __init__(self, disk: Disk, handles: Handles, directory: str) -> None:
        self._disk = disk
        self._handles = handles
        self._directory = directory
        self.segments: dict[Segment, None] = {}
        """Those with bytes that are not safe, in the order in which they are synced."""
        self.has_new_names = False
        """Whether a file got its name, and the directory was not synced since."""
        self.safe_until = 0
        """All records below it survive a power cut."""

    def add(self, *segments: Segment) -> None:
        """Take note of segments that are not safe."""
        self.segments.update(dict.fromkeys(segments))

    def begin_sync(self, active: Segment, checkpoint_bytes: int) -> SyncJob:
        """Return the work that makes all of it safe; from now on nothing of it counts as unsafe.

        Raises:
            OSError: a file cannot be opened.
        """
        job = SyncJob(self._disk, self._handles, self._directory, active.next_offset)
        try:
            for segment in self.segments:
                due = checkpoint_bytes if segment is active else 1
                job.add(segment, is_index_due=segment.size - segment.indexed_end >= due)
        except OSError:
            job.release()
            raise
        job.has_new_names = self.has_new_names
        self.segments = {}
        self.has_new_names = False
        return job

    def end_sync(self, job: SyncJob) -> None:
        """Take note that a job has succeeded."""
        self.safe_until = max(self.safe_until, job.end_offset)
        for segment, end in job.indexed():
            segment.indexed_end = end


class Retired:
    """Segments that a log has let go. `remove` takes their files away and may run in another thread."""

    __slots__ = ("_disk", "segments")

    def __init__(self, disk: Disk, segments: Sequence[Segment]) -> None:
        self._disk = disk
        self.segments = segments
        """The segments, oldest first."""

    @property
    def size_bytes(self) -> int:
        """How much room they give back."""
        return sum(segment.size for segment in self.segments)

    def remove(self) -> None:
        """Remove the files, oldest first, so that what a crash leaves is always the newest part of the log.

        The directory is synced before, so that the name of a later segment is safe, which tells where offsets go on,
        and afterwards, so that no crash brings the files back. The indexes go first: one whose segment is gone says
        that somebody took that away.

        Raises:
            OSError: a file could not be removed, or the directory not be synced.
        """
        if not self.segments:
            return
        directory = os.path.dirname(self.segments[0].path)
        self._disk.sync_directory(directory)
        for paths in ([index_path(segment.path) for segment in self.segments], [one.path for one in self.segments]):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self._disk.remove(path)
            self._disk.sync_directory(directory)


class Replaced:
    """Old files that a compaction has replaced."""

    __slots__ = ("_disk", "paths")

    def __init__(self, disk: Disk, paths: Sequence[str]) -> None:
        self._disk = disk
        self.paths = paths

    def remove(self) -> None:
        """Give their room back; may run in another thread. If nobody does it, the next compaction or start will.

        Raises:
            OSError: a file could not be removed.
        """
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError):
                self._disk.remove(path)
