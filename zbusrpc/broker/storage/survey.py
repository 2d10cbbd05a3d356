"""What stands in the directory of a log, and whether it is as it was left: a look that opening and checking share.

    a name that is none of ours                          stray: nothing reads it
    an index whose segment is gone                       missing: so many bytes, up to that offset
    offsets between two segments that no file has        a gap, unless compaction leaves them
    the last segment empty, with no index of bytes       it was being begun when the broker died
    bytes behind the last whole batch of the last segment, no record among them    a torn tail
    a segment shorter than its index says, or anything else that is not as it was written    damage

It reads and changes nothing.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from zlib import crc32

from zbusrpc.broker.storage.errors import DamageError, is_damage
from zbusrpc.broker.storage.files import Disk, File, opened
from zbusrpc.broker.storage.finding import Finding, FindingKind
from zbusrpc.broker.storage.index import SparseIndex
from zbusrpc.broker.storage.record import find_record
from zbusrpc.broker.storage.salvage import QUARANTINED_SUFFIX, SALVAGE_SUFFIX, TEMPORARY_SUFFIX
from zbusrpc.broker.storage.segment import (
    HEAD_CRC,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    OFFSET_DIGITS,
    SEGMENT_HEAD,
    SEGMENT_HEAD_BYTES,
    SEGMENT_MAGIC,
    Segment,
    index_path,
    segment_name,
)

OURS_BESIDE: Final = frozenset({"topic.json"})
"""What else stands in the directory of a topic."""
_NAME: Final = re.compile(
    rf"\d{{{OFFSET_DIGITS}}}(?:{re.escape(LOG_SUFFIX)}|{re.escape(INDEX_SUFFIX)}|"
    rf"{re.escape(QUARANTINED_SUFFIX)}(?:\.\d+)?|{re.escape(SALVAGE_SUFFIX)})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at a segment found."""

    kind: FindingKind | None
    """None where it is as it was written."""
    size: int
    """Of the file."""
    next_offset: int
    """The offset after the last record that was ever in it, as far as its index knows."""


def segment_bases(names: Iterable[str]) -> list[int]:
    """Return the base offsets of the segments among `names`, lowest first."""
    stems = (name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == OFFSET_DIGITS and stem.isdecimal())


def strays(disk: Disk, directory: str, names: Iterable[str]) -> list[Finding]:
    """Return the names that nothing reads, and which of them are segments that somebody gave another name."""
    found = (n for n in names if not (n in OURS_BESIDE or n.endswith(TEMPORARY_SUFFIX) or _NAME.fullmatch(n)))
    return [_describe_stray(disk, directory, name) for name in found]


def _base_in(head: bytes) -> int | None:
    """Return the base offset that a head of whatever version names; None where these bytes are no segment's head."""
    size = SEGMENT_HEAD.size
    if len(head) < SEGMENT_HEAD_BYTES or HEAD_CRC.unpack_from(head, size)[0] != crc32(head[:size]):
        return None
    magic, _, _, base, _ = SEGMENT_HEAD.unpack_from(head)
    return base if magic == SEGMENT_MAGIC else None


def bases_elsewhere(disk: Disk, directory: str, names: Iterable[str]) -> set[int]:
    """Return the base offsets of the segments that somebody gave another name: theirs must stay free."""
    bases = (_base_of(disk, os.path.join(directory, stray.name)) for stray in strays(disk, directory, names))
    return {base for base in bases if base is not None}


def _base_of(disk: Disk, path: str) -> int | None:
    with suppress(OSError), opened(disk, path) as file:
        return _base_in(file.pread(SEGMENT_HEAD_BYTES, 0))
    return None


def _describe_stray(disk: Disk, directory: str, name: str) -> Finding:
    base = _base_of(disk, os.path.join(directory, name))
    if base is None:
        return Finding(kind=FindingKind.STRAY, name=name)
    note = f"it is {segment_name(base)}: give it that name where the log misses it, or move it away"
    return Finding(kind=FindingKind.LOST_SEGMENT, name=name, note=note)


def missing(disk: Disk, directory: str, names: Iterable[str]) -> tuple[list[Finding], int]:
    """Return the segments that only an index is left of, and the offset after the last record that they had.

    Raises:
        OSError: an index cannot be read.
    """
    there, findings, next_offset = set(names), list[Finding](), 0
    for name in sorted(there):
        stem, suffix = os.path.splitext(name)
        others = {stem + LOG_SUFFIX, stem + SALVAGE_SUFFIX}
        if suffix != INDEX_SUFFIX or not _NAME.fullmatch(name) or others & there:
            continue
        index = index_of(disk, os.path.join(directory, stem + LOG_SUFFIX), int(stem))
        if index is not None and index.end > SEGMENT_HEAD_BYTES:
            lost = index.end - SEGMENT_HEAD_BYTES
            findings.append(Finding(kind=FindingKind.MISSING, name=stem + LOG_SUFFIX, lost_bytes=lost))
            next_offset = max(next_offset, index.next_offset)
    return findings, next_offset


def gaps(segments: Iterable[Segment]) -> list[Finding]:
    """Return where offsets are missing between segments of a log that is not compacted and was not salvaged there."""
    return [
        Finding(
            kind=FindingKind.GAP,
            name=after.name,
            note=f"offsets {before.next_offset} to {after.base_offset - 1} are in no file",
        )
        for before, after in pairwise(segments)
        if before.next_offset < after.base_offset and not before.generation
    ]


def lost_end(next_offset: int, next_offset_min: int) -> list[Finding]:
    """Return that a log ends before offsets which readers have passed, where it does."""
    if next_offset >= next_offset_min:
        return []
    name, note = segment_name(next_offset_min), f"offsets {next_offset} to {next_offset_min - 1} are in no file"
    note += ", and a group was given them"
    return [Finding(kind=FindingKind.GAP, name=name, note=note)]


def look_at(disk: Disk, segment: Segment, file: File, *, is_last: bool) -> Seen:
    """Learn what a segment holds, and say how it is.

    Raises:
        FormatVersionError: a newer zbusrpc wrote it.
        OSError: it cannot be read.
    """
    length = file.size()
    index = index_of(disk, segment.path, segment.base_offset)
    known = index.next_offset if index is not None else segment.base_offset
    has_had_bytes = index is not None and index.end > SEGMENT_HEAD_BYTES
    kind: FindingKind | None = None
    try:
        stopped_at = segment.recover(file, length, index)
    except DamageError:
        is_unbegun = is_last and not has_had_bytes and not _holds_anything(file)
        kind = FindingKind.UNBEGUN if is_unbegun else FindingKind.DAMAGE
    else:
        if segment.size != length:
            is_torn = is_last and find_record(file.pread(length - stopped_at, stopped_at), 1) < 0
            kind = FindingKind.TORN_TAIL if is_torn else FindingKind.DAMAGE
    return Seen(kind=kind, size=length, next_offset=known)


def index_of(disk: Disk, path: str, base_offset: int) -> SparseIndex | None:
    """Return the index that stands beside a segment, of whatever generation, or None when there is no good one.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with opened(disk, index_path(path)) as file:
            return SparseIndex.decode(file.pread(file.size(), 0), base_offset, None)
    except OSError as error:
        if is_damage(error):  # it can be made again
            return None
        raise


def describe_end(segment: Segment, seen: Seen) -> Finding:
    """Describe what is cut off of the last segment: what follows its whole batches, or all of it."""
    is_unbegun = seen.kind is FindingKind.UNBEGUN
    position = 0 if is_unbegun else segment.size
    return Finding(
        kind=FindingKind.UNBEGUN if is_unbegun else FindingKind.TORN_TAIL,
        name=segment.name,
        position=position,
        lost_bytes=seen.size - position,
        note="it was being begun when the broker died, or was emptied" if is_unbegun else "",
    )


def _holds_anything(file: File) -> bool:
    """Say whether a file whose head is damaged has anything but zeros behind it."""
    size = file.size()
    return size > SEGMENT_HEAD_BYTES and any(file.pread(size, 0))
