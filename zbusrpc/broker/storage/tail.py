"""The end of a log: beginning a segment and writing to it, so that a failure leaves nothing behind.

What a failed write left is cut off, a segment that could not be begun is removed. Where that fails too there are
remains: bytes that no record may follow, or a name that is in the way. `RemainsError` tells the log to close.
"""

import contextlib

from zbusrpc.broker.storage.errors import RemainsError, WriteFailedError, reason_of
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.segment import Segment, encode_segment_head, write_index


def begin_segment(disk: Disk, handles: Handles, path: str, base_offset: int, now_ms: int) -> Segment:
    """Create a segment without records.

    Raises:
        WriteFailedError: that was not possible; nothing has changed.
        RemainsError: nor was it possible to leave nothing behind.
    """
    try:
        handles.create(path).append(encode_segment_head(base_offset, now_ms))
    except OSError as error:
        text = f"cannot begin a segment: {reason_of(error)}"
        if not isinstance(error, FileExistsError):  # that file is not ours
            _take_back(disk, handles, path, text)
        raise WriteFailedError(text) from error
    return Segment(path, base_offset, now_ms)


def _take_back(disk: Disk, handles: Handles, path: str, text: str) -> None:
    handles.forget(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            disk.remove(path)
    except OSError as error:
        raise RemainsError(f"{text}; cannot remove it: {reason_of(error)}") from error


def write(handles: Handles, segment: Segment, data: bytes) -> None:
    """Write `data` at the end of a segment.

    Raises:
        WriteFailedError: the disk did not take it; nothing of it is stored.
        RemainsError: a part of it is stored and cannot be cut off.
    """
    try:
        file = handles.get(segment.path)
    except OSError as error:
        raise WriteFailedError(f"cannot open the last segment: {reason_of(error)}") from error
    try:
        file.append(data)
    except OSError as error:
        text = f"cannot write {len(data)} bytes: {reason_of(error)}"
        try:
            file.truncate(segment.size)
        except OSError as second:
            raise RemainsError(f"{text}; cannot cut what was written of it: {reason_of(second)}") from error
        raise WriteFailedError(text) from error


def store_index(disk: Disk, segment: Segment) -> None:
    """Store the index of the last segment, whose records are on the disk; without it the next start reads them."""
    if segment.indexed_end != segment.size and segment.index is not None:
        with contextlib.suppress(OSError):  # an index can be made again
            write_index(disk, segment.path, segment.index.encode())
            segment.indexed_end = segment.size
