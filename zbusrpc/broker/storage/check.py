"""Look at every byte of a log and report what is wrong: changing nothing, or putting it in order.

For `storage check` and `storage repair`, and for a log that nobody has open: what is being written looks like a
torn tail. An open log answers damage by itself, where reading meets it.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from zbusrpc.broker.storage.errors import DamageError, ReadFailedError
from zbusrpc.broker.storage.files import Disk, opened
from zbusrpc.broker.storage.finding import Finding, FindingKind
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record, decode, heads
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.salvage import QUARANTINED_SUFFIX, describe_damage, good_runs
from zbusrpc.broker.storage.segment import OFFSETS_END, Segment, segment_name
from zbusrpc.broker.storage.survey import (
    describe_end,
    gaps,
    index_of,
    look_at,
    lost_end,
    missing,
    segment_bases,
    strays,
)


def check_log(disk: Disk, directory: str, *, is_compacted: bool = False, next_offset_min: int = 0) -> Iterator[Finding]:
    """Yield what is wrong with the log in `directory`: what opening it would find, and what reading every byte does.

    Args:
        disk: Where it is; nothing is written.
        directory: Of the log.
        is_compacted: Whether compaction may have left gaps between segments.
        next_offset_min: What the next record's offset must not be below, as `open_log` has it.

    Raises:
        FormatVersionError: a newer zbusrpc wrote a segment.
        OSError: a file cannot be read.
    """
    names = disk.list(directory)
    yield from strays(disk, directory, names)
    lost, next_offset = missing(disk, directory, names)
    yield from lost if not is_compacted else ()
    segments = []
    for base, until in pairwise([*segment_bases(names), OFFSETS_END]):
        segment = Segment(os.path.join(directory, segment_name(base)), base, 0)
        found, end = _check_segment(disk, segment, until)
        next_offset = max(next_offset, end)
        if found is None:
            segments.append(segment)
        else:
            segments.clear()  # what is lost of a damaged segment is no gap
            yield found
        if not is_compacted:
            yield from gaps(segments[-2:])
    yield from lost_end(next_offset, next_offset_min)
    for name in names:
        if QUARANTINED_SUFFIX in name:
            with opened(disk, os.path.join(directory, name)) as file:
                yield Finding(kind=FindingKind.QUARANTINED, name=name, lost_bytes=file.size())


def repair_log(
    disk: Disk,
    directory: str,
    now_ms: int,
    options: LogOptions = LogOptions(),  # noqa: B008 - frozen
    *,
    next_offset_min: int = 0,
) -> list[Finding]:
    """Put the log in `directory` in order, and return what was wrong: what can be saved is served from now on.

    That is done as when a log is opened and read: a torn tail is cut off, a damaged segment is quarantined and its
    good batches stay. Only what was not found before is returned; `check_log` also tells what is in quarantine.

    Raises:
        FormatVersionError: a newer zbusrpc wrote a segment; nothing was changed.
        StorageError: the disk does not let it be read or put in order.
    """
    if not disk.exists(directory):
        raise ReadFailedError(f"there is no log in {directory}")
    log = open_log(disk, Handles(disk), directory, options, now_ms=now_ms, next_offset_min=next_offset_min)
    try:
        if log.is_dirty:
            log.sync()
        log.verify()
    finally:
        log.close()
    return log.findings


def _check_segment(disk: Disk, segment: Segment, until: int) -> tuple[Finding | None, int]:
    """Return what is wrong with a segment, which knows what it holds afterwards, and the offset after all it had."""
    with opened(disk, segment.path) as file:
        seen = look_at(disk, segment, file, is_last=until == OFFSETS_END)
        if seen.kind is FindingKind.UNBEGUN:
            return describe_end(segment, seen), seen.next_offset
        if seen.kind is not FindingKind.DAMAGE:
            try:
                segment.verify(file)
            except DamageError:
                seen = replace(seen, kind=FindingKind.DAMAGE)
        if seen.kind is FindingKind.DAMAGE:
            data = file.pread(seen.size, 0)
            runs = list(good_runs(data, segment.base_offset, until))
            end = max((offset + 1 for first, last in runs[-1:] for _, offset, *_ in heads(data[first:last])), default=0)
            end = max(end, seen.next_offset)
            found = describe_damage(segment.name, seen.size, runs)
            index = index_of(disk, segment.path, segment.base_offset)
            lost = max(found.lost_bytes, index.end - seen.size) if index else found.lost_bytes
            return replace(found, lost_bytes=lost), end
        torn = describe_end(segment, seen) if seen.kind is FindingKind.TORN_TAIL else None
    return torn, segment.next_offset


def known_end(disk: Disk, directory: str) -> int:
    """Return the offset after all records that a log had, as far as names and indexes tell; nothing is written.

    Raises:
        OSError: a file cannot be read.
    """
    names = disk.list(directory)
    _, end = missing(disk, directory, names)
    for base in segment_bases(names):
        index = index_of(disk, os.path.join(directory, segment_name(base)), base)
        end = max(end, base, index.next_offset if index is not None else 0)
    return end


def readable_records(disk: Disk, directory: str) -> Iterator[Record]:
    """Yield the records of a log that can be read; nothing is written, and whatever is damaged is left out.

    Raises:
        OSError: a file cannot be read.
    """
    for base, until in pairwise([*segment_bases(disk.list(directory)), OFFSETS_END]):
        with opened(disk, os.path.join(directory, segment_name(base))) as file:
            data = file.pread(file.size(), 0)
        for first, last in good_runs(data, base, until):
            records: list[Record] = []
            decode(data[first:last], 0, records, 0, OFFSETS_END)
            yield from records
