"""Faults of the disk, in the words of a broker's client.

Pure: an error of storage in, an error for the wire out.
"""

import errno
from typing import Final

from zbusrpc.broker.sessions.limits import RETRY_AFTER_S
from zbusrpc.broker.storage.errors import (
    BacklogFullError,
    LogClosedError,
    RecordLimitError,
    StorageError,
    StoreFullError,
    WriteFailedError,
    reason_of,
)
from zbusrpc.errors import Code, RpcError
from zbusrpc.outcome import not_run

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def as_rpc_error(topic: str, error: StorageError) -> RpcError:
    """Return what a client is told that wanted something stored in, or read from, a topic."""
    text = f"topic {topic}: {error}"
    if isinstance(error, RecordLimitError):
        return RpcError(Code.INVALID_ARGUMENT, text)
    is_full = isinstance(error, WriteFailedError) and _is_full(error.__cause__)
    if is_full or isinstance(error, BacklogFullError | StoreFullError):
        return not_run(Code.RESOURCE_EXHAUSTED, text, {"retry_after_s": RETRY_AFTER_S})
    if isinstance(error, LogClosedError):
        text += "; look at the disk, then restart the broker"
    return RpcError(Code.INTERNAL, text)


def cannot(what: str, error: OSError | StorageError) -> RpcError:
    """Return what a client is told that wanted something made or changed: that it cannot be, and why."""
    reason = reason_of(error) if isinstance(error, OSError) else str(error)
    is_full = isinstance(error, StoreFullError) or _is_full(error) or _is_full(error.__cause__)
    return RpcError(Code.RESOURCE_EXHAUSTED if is_full else Code.INTERNAL, f"{what}: {reason}")


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL
