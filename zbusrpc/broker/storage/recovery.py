"""Opening a log: what a crash left is put in order, and whatever was wrong is reported, never hidden.

    a salvage that was under way     is finished or undone
    bytes behind the last whole batch of the last segment, no record among them    a torn tail: cut, reported
    anything else that is not as it was written                                     damage: quarantined, reported
    a segment of a newer format                                                     refused, nothing is changed

Only what the stored indexes do not describe is read: of sealed segments nothing, of the active one at most the
last 8 MiB. Damage in what is not read is found, and answered the same way, when it is read or by `check_log`.
"""

import os
from contextlib import suppress
from itertools import pairwise

from zbusrpc.broker.storage.errors import ReadFailedError, place_of
from zbusrpc.broker.storage.files import Disk, opened
from zbusrpc.broker.storage.finding import Finding, FindingKind
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.salvage import finish_salvage, salvage, seal_gap
from zbusrpc.broker.storage.segment import OFFSETS_END, Segment, index_path, segment_name
from zbusrpc.broker.storage.survey import (
    Seen,
    bases_elsewhere,
    describe_end,
    gaps,
    look_at,
    lost_end,
    missing,
    segment_bases,
    strays,
)


def open_log(
    disk: Disk,
    handles: Handles,
    directory: str,
    options: LogOptions = LogOptions(),  # noqa: B008 - frozen
    *,
    now_ms: int,
    next_offset_min: int = 0,
) -> Log:
    """Open the log in `directory`, which is created where it does not exist.

    Args:
        next_offset_min: what the next record's offset must not be below: higher than every position that was
            stored for a reader, so that a log that lost its end (below level `disk`) never gives out an offset twice.

    Raises:
        FormatVersionError: a newer zbusrpc wrote a segment.
        StorageError: the disk does not let it be read or put in order.
    """
    try:
        opening = _Opening(disk, directory, is_compacted=options.compact)
        segments = opening.segments()
    except OSError as error:
        raise ReadFailedError(f"cannot open the log: {place_of(error)}") from error
    opening.findings += lost_end(opening.next_offset, next_offset_min)
    next_offset = max(next_offset_min, opening.next_offset)
    log = Log(disk, handles, directory, options, opening.sealed(segments, next_offset))
    log.findings += opening.findings
    log.resume(opening.scanned, next_offset, now_ms)
    return log


class _Opening:
    """One log on its way from files to segments."""

    def __init__(self, disk: Disk, directory: str, *, is_compacted: bool) -> None:
        self._disk, self._directory, self._is_compacted = disk, directory, is_compacted
        self.findings: list[Finding] = []
        self.scanned: list[Segment] = []
        """Segments with bytes of which is not known whether they are safe."""
        self.next_offset = 0
        self._elsewhere: set[int] = set()

    def segments(self) -> list[Segment]:
        try:
            names = self._disk.list(self._directory)
        except FileNotFoundError:
            self._disk.make_directory(self._directory)
            return []
        self.findings += strays(self._disk, self._directory, names)
        self._elsewhere = bases_elsewhere(self._disk, self._directory, names)
        lost, next_offset = missing(self._disk, self._directory, names)
        self.findings += [] if self._is_compacted else lost
        names = finish_salvage(self._disk, self._directory, names)
        bases = segment_bases(names)
        segments = []
        for base, until in pairwise([*bases, OFFSETS_END]):
            segment = self._open(base, until)
            if segment is not None:
                segments.append(segment)
                self.next_offset = max(self.next_offset, segment.next_offset)
        self.next_offset = max(self.next_offset, next_offset)
        self.findings += [] if self._is_compacted else gaps(segments)
        for segment in segments[:-1]:
            if segment not in self.scanned:
                segment.index = None
        return segments

    def sealed(self, segments: list[Segment], next_offset: int) -> list[Segment]:
        """Put segments without records where offsets are missing: what is lost there has been said."""
        if self._is_compacted:
            return segments
        sealed: list[Segment] = []
        for number, segment in enumerate(segments, 1):
            until = segments[number].base_offset if number < len(segments) else next_offset
            sealed.append(segment)
            is_elsewhere = any(segment.next_offset <= base < until for base in self._elsewhere)
            if segment.next_offset < until and not segment.generation and not is_elsewhere:
                with suppress(OSError):  # the disk is full: it is said again at the next start
                    seal = seal_gap(self._disk, segment)
                    if seal.path == segment.path:  # it had no record
                        sealed.pop()
                        self.scanned = [one for one in self.scanned if one is not segment]
                    sealed.append(seal)
        return sealed

    def _open(self, base: int, until: int) -> Segment | None:
        """Open one segment; None when it was never begun properly."""
        segment = Segment(os.path.join(self._directory, segment_name(base)), base, 0)
        with opened(self._disk, segment.path) as file:
            seen = look_at(self._disk, segment, file, is_last=until == OFFSETS_END)
            self.next_offset = max(self.next_offset, seen.next_offset)
            if seen.kind is FindingKind.UNBEGUN:
                self._discard(segment, seen)
                return None
            if seen.kind is FindingKind.TORN_TAIL:
                file.truncate(segment.size)
                self.findings.append(describe_end(segment, seen))
        if seen.kind is FindingKind.DAMAGE:
            return self._salvage(segment, until)
        if segment.size != segment.indexed_end:
            self.scanned.append(segment)
        return segment

    def _discard(self, segment: Segment, seen: Seen) -> None:
        """Remove a last segment that was being begun: it has no record, but its name tells where offsets go on."""
        self.findings.append(describe_end(segment, seen))
        with suppress(FileNotFoundError):
            self._disk.remove(index_path(segment.path))
        self._disk.remove(segment.path)

    def _salvage(self, damaged: Segment, until: int) -> Segment:
        self.findings.append(salvage(self._disk, damaged, until=until))
        segment = Segment(damaged.path, damaged.base_offset, 0)
        with opened(self._disk, segment.path) as file:
            segment.recover(file, file.size(), None)
        self.scanned.append(segment)
        return segment
