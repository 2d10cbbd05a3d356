"""Opening a log: what a crash left is put in order, and whatever was wrong is reported, never hidden.

    a salvage that was under way     is finished or undone
    bytes behind the last whole batch of the last segment, no record among them    a torn tail: cut, reported
    anything else that is not as it was written                                     damage: quarantined, reported
    a segment of a newer format                                                     refused, nothing is changed

Only what the stored indexes do not describe is read: of sealed segments nothing, of the active one at most the
last 8 MiB. Damage in what is not read is found, and answered the same way, when it is read or by `check_log`.
"""

import contextlib
import os

from zbusrpc.broker.storage.errors import DamageError, ReadFailedError, reason_of
from zbusrpc.broker.storage.files import Disk, File, opened
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log, LogOptions
from zbusrpc.broker.storage.record import find_record
from zbusrpc.broker.storage.salvage import Finding, FindingKind, finish_salvage, salvage
from zbusrpc.broker.storage.segment import (
    LOG_SUFFIX,
    OFFSET_DIGITS,
    OFFSETS_END,
    SEGMENT_HEAD_BYTES,
    Segment,
    index_path,
    segment_name,
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
        opening = _Opening(disk, directory)
        segments = opening.segments()
    except OSError as error:
        raise ReadFailedError(f"cannot open the log in {directory}: {reason_of(error)}") from error
    log = Log(disk, handles, directory, options, segments)
    log.findings += opening.findings
    log.resume(opening.scanned, max(next_offset_min, opening.next_offset), now_ms)
    return log


class _Opening:
    """One log on its way from files to segments."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk, self._directory = disk, directory
        self.findings: list[Finding] = []
        self.scanned: list[Segment] = []
        """Segments with bytes of which is not known whether they are safe."""
        self.next_offset = 0

    def segments(self) -> list[Segment]:
        try:
            names = self._disk.list(self._directory)
        except FileNotFoundError:
            self._disk.make_directory(self._directory)
            return []
        names = finish_salvage(self._disk, self._directory, names)
        bases = segment_bases(names)
        segments = []
        for number, base in enumerate(bases):
            until = bases[number + 1] if number + 1 < len(bases) else OFFSETS_END
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
        segment = Segment(os.path.join(self._directory, segment_name(base)), base, 0)
        is_last = until == OFFSETS_END
        with opened(self._disk, segment.path) as file:
            is_good = self._recover(segment, file, is_last=is_last)
            if not is_good and is_last and not _holds_anything(file):
                self._discard(segment, file.size())
                return None
        if not is_good:
            return self._salvage(segment, until)
        if segment.size != segment.indexed_end:
            self.scanned.append(segment)
        return segment

    def _recover(self, segment: Segment, file: File, *, is_last: bool) -> bool:
        """Learn what a segment holds, and cut its torn tail off. Returns False when it is damaged."""
        length = file.size()
        try:
            stopped_at = segment.recover(self._disk, file, length)
        except DamageError:
            return False
        if segment.size != length:
            rest = file.pread(length - stopped_at, stopped_at)
            if not is_last or find_record(rest, 1) >= 0:
                return False
            file.truncate(segment.size)
            self._report_torn(segment.name, segment.size, length - segment.size)
        return True

    def _discard(self, segment: Segment, size: int) -> None:
        """Remove a last segment that was being begun: it has no record, but its name tells where offsets go on."""
        self._report_torn(segment.name, 0, size)
        with contextlib.suppress(FileNotFoundError):
            self._disk.remove(index_path(segment.path))
        self._disk.remove(segment.path)
        self.next_offset = max(self.next_offset, segment.base_offset)

    def _salvage(self, damaged: Segment, until: int) -> Segment:
        self.findings.append(salvage(self._disk, damaged, until=until))
        segment = Segment(damaged.path, damaged.base_offset, 0)
        with opened(self._disk, segment.path) as file:
            segment.recover(self._disk, file, file.size())
        self.scanned.append(segment)
        return segment

    def _report_torn(self, name: str, position: int, size: int) -> None:
        if size:
            self.findings.append(Finding(kind=FindingKind.TORN_TAIL, name=name, position=position, lost_bytes=size))


def segment_bases(names: list[str]) -> list[int]:
    """Return the base offsets of the segments among `names`, lowest first."""
    stems = (name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == OFFSET_DIGITS and stem.isdecimal())


def _holds_anything(file: File) -> bool:
    """Say whether a file whose head is damaged has anything but zeros behind it."""
    size = file.size()
    return size > SEGMENT_HEAD_BYTES and any(file.pread(size, 0))
