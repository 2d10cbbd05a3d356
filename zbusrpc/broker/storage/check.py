"""Look at every byte of a log and report what is wrong, changing nothing.

For `storage check`, and for a log that nobody has open: what is being written looks like a torn tail.
"""

import os
from collections.abc import Iterator

from zbusrpc.broker.storage.errors import DamageError
from zbusrpc.broker.storage.files import Disk, opened
from zbusrpc.broker.storage.record import find_record
from zbusrpc.broker.storage.recovery import segment_bases
from zbusrpc.broker.storage.salvage import QUARANTINED_SUFFIX, Finding, FindingKind
from zbusrpc.broker.storage.segment import SEGMENT_HEAD_BYTES, Segment, decode_segment_head, segment_name


def check_log(disk: Disk, directory: str) -> Iterator[Finding]:
    """Yield what is wrong with the log in `directory`, segment by segment.

    Raises:
        FormatVersionError: a newer zbusrpc wrote a segment.
        OSError: a file cannot be read.
    """
    names = disk.list(directory)
    bases = segment_bases(names)
    for base in bases:
        yield from _check_segment(disk, directory, base, is_last=base == bases[-1])
    for name in names:
        if QUARANTINED_SUFFIX in name:
            with opened(disk, os.path.join(directory, name)) as file:
                yield Finding(kind=FindingKind.DAMAGE, name=name, position=0, lost_bytes=file.size(), kept_as=name)


def _check_segment(disk: Disk, directory: str, base: int, *, is_last: bool) -> Iterator[Finding]:
    name = segment_name(base)
    segment = Segment(os.path.join(directory, name), base, 0)
    with opened(disk, segment.path) as file:
        length = file.size()
        try:
            decode_segment_head(file.pread(SEGMENT_HEAD_BYTES, 0), name, base)
        except DamageError:
            yield Finding(kind=FindingKind.DAMAGE, name=name, position=0, lost_bytes=SEGMENT_HEAD_BYTES)
            return
        stopped_at = segment.scan(file, length)
        if segment.size != length:
            rest = file.pread(length - stopped_at, stopped_at)
            is_torn = is_last and find_record(rest, 1) < 0
            kind = FindingKind.TORN_TAIL if is_torn else FindingKind.DAMAGE
            yield Finding(kind=kind, name=name, position=segment.size, lost_bytes=length - segment.size)
