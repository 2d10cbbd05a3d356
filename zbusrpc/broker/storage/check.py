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
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import LogOptions
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.salvage import QUARANTINED_SUFFIX, Finding, FindingKind, describe_damage, good_runs
from zbusrpc.broker.storage.segment import OFFSETS_END, Segment, segment_name
from zbusrpc.broker.storage.survey import State, gaps, index_of, look_at, missing, segment_bases, strays, unbegun


def check_log(disk: Disk, directory: str, *, is_compacted: bool = False) -> Iterator[Finding]:
    """Yield what is wrong with the log in `directory`: what opening it would find, and what reading every byte does.

    Args:
        disk: Where it is; nothing is written.
        directory: Of the log.
        is_compacted: Whether compaction may have left gaps between segments.

    Raises:
        FormatVersionError: a newer zbusrpc wrote a segment.
        OSError: a file cannot be read.
    """
    names = disk.list(directory)
    yield from strays(names)
    if not is_compacted:
        yield from missing(disk, directory, names)[0]
    segments = []
    for base, until in pairwise([*segment_bases(names), OFFSETS_END]):
        segment = Segment(os.path.join(directory, segment_name(base)), base, 0)
        found = _check_segment(disk, segment, until)
        if found is None:
            segments.append(segment)
        else:
            segments.clear()  # what is lost of a damaged segment is no gap
            yield found
        if not is_compacted:
            yield from gaps(segments[-2:])
    for name in names:
        if QUARANTINED_SUFFIX in name:
            with opened(disk, os.path.join(directory, name)) as file:
                yield Finding(kind=FindingKind.DAMAGE, name=name, position=0, lost_bytes=file.size(), kept_as=name)


def repair_log(
    disk: Disk,
    directory: str,
    now_ms: int,
    options: LogOptions = LogOptions(),  # noqa: B008 - frozen
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
    log = open_log(disk, Handles(disk), directory, options, now_ms=now_ms)
    try:
        log.verify()
    finally:
        log.close()
    return log.findings


def _check_segment(disk: Disk, segment: Segment, until: int) -> Finding | None:
    """Return what is wrong with a segment, which knows what it holds afterwards; None where nothing is."""
    with opened(disk, segment.path) as file:
        seen = look_at(disk, segment, file, is_last=until == OFFSETS_END)
        if seen.state is State.UNBEGUN:
            return unbegun(segment, seen.size)
        if seen.state is not State.DAMAGED:
            try:
                segment.verify(file)
            except DamageError:
                seen = replace(seen, state=State.DAMAGED)
        if seen.state is State.DAMAGED:
            runs = list(good_runs(file.pread(seen.size, 0), segment.base_offset, until))
            found = describe_damage(segment.name, seen.size, runs)
            index = index_of(disk, segment.path, segment.base_offset)
            return replace(found, lost_bytes=max(found.lost_bytes, index.end - seen.size)) if index else found
        if seen.state is State.TORN:
            rest = seen.size - segment.size
            return Finding(kind=FindingKind.TORN_TAIL, name=segment.name, position=segment.size, lost_bytes=rest)
    return None
