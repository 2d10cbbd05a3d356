"""What becomes of a damaged segment: the file is kept under another name, its good records go on being served.

    1  the whole, valid batches are written to `<base>.salvage`, which is synced
    2  the index is removed; the damaged file becomes `<base>.quarantined` (`.quarantined.1`, ...)
    3  `<base>.salvage` becomes `<base>.log`

The directory is synced after each step, so that after a power cut at any point either the damaged file is still
in its place, or step 3 is all that is left to do (`finish_salvage`). Nothing is ever deleted. What is lost to
readers are the batches that were hit: a gap in the offsets, and a `Finding` that names file and bytes.

A segment whose file was replaced tells that what is missing in it, and behind it, was reported. Where offsets are in no
file at all, a segment without records is put that says so: see `seal_gap`.
"""

import os
from collections.abc import Iterator
from typing import Final

from zbusrpc.broker.storage.files import Disk, opened
from zbusrpc.broker.storage.finding import Finding, FindingKind
from zbusrpc.broker.storage.record import CONTINUES, MORE, find_record, heads
from zbusrpc.broker.storage.segment import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SEGMENT_HEAD_BYTES,
    Segment,
    encode_segment_head,
    index_path,
    next_generation,
    segment_name,
    sibling,
)

QUARANTINED_SUFFIX: Final = ".quarantined"
SALVAGE_SUFFIX: Final = ".salvage"
TEMPORARY_SUFFIX: Final = ".tmp"


def good_runs(data: bytes, base_offset: int, until: int) -> Iterator[tuple[int, int]]:
    """Yield from where to where `data`, a segment's bytes, holds whole, valid batches of growing offsets."""
    position, next_offset = SEGMENT_HEAD_BYTES, base_offset
    while 0 <= position < len(data):
        start = end = position
        in_batch = False
        for stop, offset, _, flags in heads(memoryview(data)[position:]):
            is_first = not flags & CONTINUES
            if not next_offset <= offset < until or is_first == in_batch:
                break
            in_batch = bool(flags & MORE)
            next_offset = offset + 1
            if not in_batch:
                end = position + stop
        if end > start:
            yield start, end
        position = find_record(data, end if end > start else start + 1)


def salvage(disk: Disk, segment: Segment, *, until: int) -> Finding:
    """Replace the file of a damaged segment by its good batches; offsets from `until` on are the next segment's.

    The new file is of the next generation, so that no index of the damaged one is ever taken for its own.

    Raises:
        OSError: that was not possible; the damaged file is where it was.
    """
    path = segment.path
    with opened(disk, path) as file:
        data = file.pread(file.size(), 0)
    runs = list(good_runs(data, segment.base_offset, until))
    generation = next_generation(segment.generation)
    head = encode_segment_head(segment.base_offset, segment.created_ms, generation)
    _write(disk, _salvage_path(path), head, *(data[start:end] for start, end in runs))
    directory = os.path.dirname(path)
    disk.sync_directory(directory)
    if disk.exists(index_path(path)):
        disk.remove(index_path(path))
        disk.sync_directory(directory)
    kept = _free_name(disk, sibling(path, QUARANTINED_SUFFIX))
    disk.rename(path, kept)
    disk.sync_directory(directory)
    disk.rename(_salvage_path(path), path)
    disk.sync_directory(directory)
    return describe_damage(segment.name, len(data), runs, os.path.basename(kept))


def describe_damage(name: str, size: int, runs: list[tuple[int, int]], kept_as: str = "") -> Finding:
    """Describe the damage of a segment of `size` bytes by its good runs: it begins where the first does not go on."""
    first = SEGMENT_HEAD_BYTES
    for start, end in runs:
        if start != first:
            break
        first = end
    lost = max(0, size - SEGMENT_HEAD_BYTES) - sum(end - start for start, end in runs)
    return Finding(kind=FindingKind.DAMAGE, name=name, position=first, lost_bytes=lost, kept_as=kept_as)


def seal_gap(disk: Disk, before: Segment) -> Segment:
    """Put a segment without records behind `before`, where offsets are in no file: the gap is not said again.

    Raises:
        OSError: that was not possible; it is said again at the next start.
    """
    directory = os.path.dirname(before.path)
    path = os.path.join(directory, segment_name(before.next_offset))  # its own, where it has no record
    generation = next_generation(before.generation)
    _write(disk, path + TEMPORARY_SUFFIX, encode_segment_head(before.next_offset, before.created_ms, generation))
    disk.rename(path + TEMPORARY_SUFFIX, path)
    disk.sync_directory(directory)
    return Segment(path, before.next_offset, before.created_ms, generation)


def finish_salvage(disk: Disk, directory: str, names: list[str]) -> list[str]:
    """Finish, or undo, what a crash left half done in a directory of `names`; return the names after it."""
    present = set(names)
    for name in names:
        stem, suffix = os.path.splitext(name)
        path = os.path.join(directory, name)
        if suffix == SALVAGE_SUFFIX and stem + LOG_SUFFIX not in present:
            disk.rename(path, os.path.join(directory, stem + LOG_SUFFIX))
            disk.sync_directory(directory)
            present.add(stem + LOG_SUFFIX)
        elif suffix in {SALVAGE_SUFFIX, TEMPORARY_SUFFIX} or (
            suffix == INDEX_SUFFIX and stem + LOG_SUFFIX not in present
        ):
            disk.remove(path)
        else:
            continue
        present.discard(name)
    return sorted(present)


def _write(disk: Disk, target: str, *parts: bytes) -> None:
    """Make a file of these parts, in the place of what a crash left of one."""
    if disk.exists(target):
        disk.remove(target)
    with opened(disk, target, create=True) as file:
        for part in parts:
            file.append(part)
        file.sync()


def _salvage_path(path: str) -> str:
    return sibling(path, SALVAGE_SUFFIX)


def _free_name(disk: Disk, path: str) -> str:
    number, name = 0, path
    while disk.exists(name):
        number += 1
        name = f"{path}.{number}"
    return name
