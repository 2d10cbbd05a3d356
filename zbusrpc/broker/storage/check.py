"""Look at every byte of a log and report what is wrong: changing nothing, or putting it in order.

For `storage check` and `storage repair`, and for a log that nobody has open: what is being written looks like a
torn tail. An open log answers damage by itself, where reading meets it.
"""

import os
from collections.abc import Iterator
from itertools import pairwise

from zbusrpc.broker.storage.errors import DamageError, ReadFailedError
from zbusrpc.broker.storage.files import Disk, opened
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.record import find_record
from zbusrpc.broker.storage.recovery import open_log, segment_bases
from zbusrpc.broker.storage.salvage import QUARANTINED_SUFFIX, Finding, FindingKind, describe_damage, good_runs
from zbusrpc.broker.storage.segment import (
    OFFSETS_END,
    SEGMENT_HEAD_BYTES,
    Segment,
    decode_segment_head,
    segment_name,
)


def check_log(disk: Disk, directory: str) -> Iterator[Finding]:
    """Yield what is wrong with the log in `directory`, segment by segment.

    Raises:
        FormatVersionError: a newer zbusrpc wrote a segment.
        OSError: a file cannot be read.
    """
    names = disk.list(directory)
    bases = segment_bases(names)
    for base, until in pairwise([*bases, OFFSETS_END]):
        yield from _check_segment(disk, os.path.join(directory, segment_name(base)), base, until)
    for name in names:
        if QUARANTINED_SUFFIX in name:
            with opened(disk, os.path.join(directory, name)) as file:
                yield Finding(kind=FindingKind.DAMAGE, name=name, position=0, lost_bytes=file.size(), kept_as=name)


def repair_log(disk: Disk, directory: str, now_ms: int) -> list[Finding]:
    """Put the log in `directory` in order, and return what was wrong: what can be saved is served from now on.

    That is done as when a log is opened and read: a torn tail is cut off, a damaged segment is quarantined and its
    good batches stay. Only what was not found before is returned; `check_log` also tells what is in quarantine.

    Raises:
        FormatVersionError: a newer zbusrpc wrote a segment; nothing was changed.
        StorageError: the disk does not let it be read or put in order.
    """
    if not disk.exists(directory):
        raise ReadFailedError(f"there is no log in {directory}")
    log = open_log(disk, Handles(disk), directory, now_ms=now_ms)
    try:
        log.verify()
    finally:
        log.close()
    return log.findings


def _check_segment(disk: Disk, path: str, base: int, until: int) -> Iterator[Finding]:
    segment = Segment(path, base, 0)
    with opened(disk, path) as file:
        length = file.size()
        try:
            decode_segment_head(file.pread(SEGMENT_HEAD_BYTES, 0), segment.name, base)
        except DamageError:
            yield Finding(kind=FindingKind.DAMAGE, name=segment.name, position=0, lost_bytes=SEGMENT_HEAD_BYTES)
            return
        stopped_at = segment.scan(file, length)
        if segment.size == length:
            return
        rest = length - segment.size
        if until == OFFSETS_END and find_record(file.pread(length - stopped_at, stopped_at), 1) < 0:
            yield Finding(kind=FindingKind.TORN_TAIL, name=segment.name, position=segment.size, lost_bytes=rest)
        else:
            yield describe_damage(segment.name, length, list(good_runs(file.pread(length, 0), base, until)))
