"""Faults of the disk, in the words of a broker's client.

Pure: an error of storage in, an error for the wire out.
"""

import errno
from typing import Final

from zbusrpc.broker.limits import RETRY_AFTER_S
from zbusrpc.broker.storage.errors import (
    BacklogFullError,
    LogClosedError,
    RecordLimitError,
    StorageError,
    WriteFailedError,
)
from zbusrpc.errors import Code, RpcError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def as_rpc_error(topic: str, error: StorageError) -> RpcError:
    """Return what a client is told that wanted something stored in, or read from, a topic."""
    text = f"topic {topic}: {error}"
    if isinstance(error, RecordLimitError):
        return RpcError(Code.INVALID_ARGUMENT, text)
    cause = error.__cause__
    is_full = isinstance(error, WriteFailedError) and isinstance(cause, OSError) and cause.errno in _FULL
    if is_full or isinstance(error, BacklogFullError):
        return RpcError(Code.RESOURCE_EXHAUSTED, text, {"retry_after_s": RETRY_AFTER_S, "may_have_run": False})
    if isinstance(error, LogClosedError):
        text += "; look at the disk, then restart the broker"
    return RpcError(Code.INTERNAL, text)
