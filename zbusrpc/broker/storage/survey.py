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
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Final

from zbusrpc.broker.storage.errors import DamageError
from zbusrpc.broker.storage.files import Disk, File, opened
from zbusrpc.broker.storage.index import SparseIndex
from zbusrpc.broker.storage.record import find_record
from zbusrpc.broker.storage.salvage import QUARANTINED_SUFFIX, SALVAGE_SUFFIX, TEMPORARY_SUFFIX, Finding, FindingKind
from zbusrpc.broker.storage.segment import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    OFFSET_DIGITS,
    SEGMENT_HEAD_BYTES,
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


class State(Enum):
    """How a segment is."""

    GOOD = "good"
    TORN = "torn"
    DAMAGED = "damaged"
    UNBEGUN = "unbegun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at a segment found."""

    state: State
    size: int
    """Of the file."""
    next_offset: int
    """The offset after the last record that was ever in it, as far as its index knows."""


def segment_bases(names: Iterable[str]) -> list[int]:
    """Return the base offsets of the segments among `names`, lowest first."""
    stems = (name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == OFFSET_DIGITS and stem.isdecimal())


def strays(names: Iterable[str]) -> list[Finding]:
    """Return the names that nothing reads."""
    found = (n for n in names if not (n in OURS_BESIDE or n.endswith(TEMPORARY_SUFFIX) or _NAME.fullmatch(n)))
    return [Finding(kind=FindingKind.STRAY, name=name, position=0, lost_bytes=0) for name in found]


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
            findings.append(Finding(kind=FindingKind.MISSING, name=stem + LOG_SUFFIX, position=0, lost_bytes=lost))
            next_offset = max(next_offset, index.next_offset)
    return findings, next_offset


def gaps(segments: Iterable[Segment]) -> list[Finding]:
    """Return where offsets are missing between segments of a log that is not compacted and was not salvaged there."""
    return [
        Finding(
            kind=FindingKind.GAP,
            name=after.name,
            position=0,
            lost_bytes=0,
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
    return [Finding(kind=FindingKind.GAP, name=name, position=0, lost_bytes=0, note=note)]


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
    state = State.GOOD
    try:
        stopped_at = segment.recover(file, length, index)
    except DamageError:
        is_unbegun = is_last and not has_had_bytes and not _holds_anything(file)
        state = State.UNBEGUN if is_unbegun else State.DAMAGED
    else:
        if segment.size != length:
            is_torn = is_last and find_record(file.pread(length - stopped_at, stopped_at), 1) < 0
            state = State.TORN if is_torn else State.DAMAGED
    return Seen(state=state, size=length, next_offset=known)


def index_of(disk: Disk, path: str, base_offset: int) -> SparseIndex | None:
    """Return the index that stands beside a segment, of whatever generation, or None when there is no good one.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with opened(disk, index_path(path)) as file:
            return SparseIndex.decode(file.pread(file.size(), 0), base_offset, None)
    except FileNotFoundError:
        return None


def unbegun(segment: Segment, size: int) -> Finding:
    """Describe a last segment that holds nothing."""
    note = "it holds nothing: it was being begun when the broker died, or was emptied"
    name = segment_name(segment.base_offset)
    return Finding(kind=FindingKind.TORN_TAIL, name=name, position=0, lost_bytes=size, note=note)


def _holds_anything(file: File) -> bool:
    """Say whether a file whose head is damaged has anything but zeros behind it."""
    size = file.size()
    return size > SEGMENT_HEAD_BYTES and any(file.pread(size, 0))
