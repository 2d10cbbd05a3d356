"""Opening a log: what a crash left is put in order, and whatever was wrong is reported, never hidden.

    a salvage that was under way     is finished or undone
    bytes behind the last whole batch of the last segment, no record among them    a torn tail: cut, reported
    anything else that is not as it was written                                     damage: quarantined, reported
    a segment of a newer format                                                     refused, nothing is changed

Only what the stored indexes do not describe is read: of sealed segments nothing, of the active one at most the
last 8 MiB. Damage in what is not read is found, and answered the same way, when it is read or by `check_log`.
"""

import os
from itertools import pairwise
from typing import Final

from zbusrpc.broker.storage.errors import DamageError, ReadFailedError
from zbusrpc.broker.storage.files import Disk, File
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log, LogOptions
from zbusrpc.broker.storage.record import find_record
from zbusrpc.broker.storage.salvage import Finding, FindingKind, finish_salvage, salvage
from zbusrpc.broker.storage.segment import (
    LOG_SUFFIX,
    OFFSETS_END,
    SEGMENT_HEAD_BYTES,
    Segment,
    decode_segment_head,
    index_path,
)

_OFFSET_DIGITS: Final = 20


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
        opening = _Opening(disk, handles, directory)
        segments = opening.segments()
    except OSError as error:
        raise ReadFailedError(f"cannot open the log in {directory}: {error.strerror or error!r}") from error
    log = Log(disk, handles, directory, options, segments)
    log.findings += opening.findings
    log.resume(opening.scanned, max(next_offset_min, opening.next_offset), now_ms)
    return log


class _Opening:
    """One log on its way from files to segments."""

    def __init__(self, disk: Disk, handles: Handles, directory: str) -> None:
        self._disk, self._handles, self._directory = disk, handles, directory
        self.findings: list[Finding] = []
        self.scanned: list[Segment] = []
        """Segments with bytes of which is not known whether they are safe."""
        self.next_offset = 0

    def segments(self) -> list[Segment]:
        if not self._disk.exists(self._directory):
            self._disk.make_directory(self._directory)
        names = finish_salvage(self._disk, self._directory, self._disk.list(self._directory))
        bases = segment_bases(names)
        segments = []
        for base, until in pairwise([*bases, OFFSETS_END]):
            segment = self._open(base, until)
            if segment is not None:
                segments.append(segment)
                self.next_offset = segment.next_offset
        for segment in segments[:-1]:
            if segment not in self.scanned:
                segment.index = None
        return segments

    def _open(self, base: int, until: int) -> Segment | None:
        """Open one segment; None when it was never begun properly."""
        path = os.path.join(self._directory, f"{base:0{_OFFSET_DIGITS}d}{LOG_SUFFIX}")
        file = self._handles.get(path)
        created_ms = 0
        try:
            created_ms = decode_segment_head(file.pread(SEGMENT_HEAD_BYTES, 0), os.path.basename(path), base)
            segment = Segment(path, base, created_ms)
            stopped_at = segment.recover(self._disk, file)
        except DamageError:
            if until == OFFSETS_END and not _holds_anything(file):
                self._discard(path, file)
                return None
            return self._salvage(path, base, until, created_ms)
        length = file.size()
        if segment.size != length:
            rest = file.pread(length - stopped_at, stopped_at)
            if until != OFFSETS_END or find_record(rest, 1) >= 0:
                return self._salvage(path, base, until, created_ms)
            file.truncate(segment.size)
            self._report_torn(segment.name, segment.size, length - segment.size)
        if segment.size != segment.indexed_end:
            self.scanned.append(segment)
        return segment

    def _discard(self, path: str, file: File) -> None:
        """Remove a last segment that was being begun: it has no record."""
        self._report_torn(os.path.basename(path), 0, file.size())
        self._handles.forget(path)
        if self._disk.exists(index_path(path)):
            self._disk.remove(index_path(path))
        self._disk.remove(path)

    def _salvage(self, path: str, base: int, until: int, created_ms: int) -> Segment:
        self._handles.forget(path)
        self.findings.append(salvage(self._disk, path, base_offset=base, until=until, created_ms=created_ms))
        segment = Segment(path, base, created_ms)
        segment.recover(self._disk, self._handles.get(path))
        self.scanned.append(segment)
        return segment

    def _report_torn(self, name: str, position: int, size: int) -> None:
        if size:
            self.findings.append(Finding(kind=FindingKind.TORN_TAIL, name=name, position=position, lost_bytes=size))


def segment_bases(names: list[str]) -> list[int]:
    """Return the base offsets of the segments among `names`, lowest first."""
    stems = (name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == _OFFSET_DIGITS and stem.isdecimal())


def _holds_anything(file: File) -> bool:
    """Say whether a file whose head is damaged has anything but zeros behind it."""
    size = file.size()
    return size > SEGMENT_HEAD_BYTES and any(file.pread(size, 0))
