"""The retry policy: whether a call that failed may be tried again.

A call is only repeated where that cannot do its work twice: it has not run, or it is idempotent. One whose connection
was lost is repeated until its deadline, whatever `retries` says: its broker is on its way back. Pure.
"""

from typing import Final

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Message
from zbusrpc.outcome import knowing, note_lost, was_lost

RETRYABLE: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})
ELSEWHERE: Final = frozenset({Code.UNAVAILABLE, Code.UNIMPLEMENTED})
"""Of a call that has not run: another broker may have instances where one has none, or some that have the method."""
_NOT_RUN: Final = int(Flag.NOT_RUN)


def lost(text: str, *, may_have_run: bool) -> RpcError:
    """Return the error for what was under way on a connection that was lost."""
    error = knowing(Code.UNAVAILABLE, text, {"lost": True}, may_have_run=may_have_run)
    note_lost(error)
    return error


def may_retry(error: RpcError, *, tries: int, retries: int, is_idempotent: bool, waits: bool = False) -> bool:
    """Whether a call that ended with `error` may be tried again.

    Args:
        tries: How often it was tried again already.
        retries: How often its caller allows it.
        waits: Whether its caller waits for an instance until the deadline, also while a broker ends and returns.
    """
    if error.code not in RETRYABLE or (error.code is Code.RESOURCE_EXHAUSTED and error.retry_after_s is None):
        return False
    if error.may_have_run and not is_idempotent:
        return False
    if waits and error.code is Code.UNAVAILABLE and not error.may_have_run:
        return True
    return was_lost(error) or tries < retries


def as_begun(error: RpcError) -> RpcError:
    """Return an error that does not deny that the call ran, where one try before may have run it."""
    if error.may_have_run:
        return error
    text = f"{error.message}; an earlier try of this call may have run"
    details = error.details if isinstance(error.details, dict) else {}
    return knowing(error.code, text, details, may_have_run=True)


def is_untouched(reply: Message) -> bool:
    """Whether the error in a reply says that the call has not run, and that another broker may have it run."""
    return bool(reply.flags & _NOT_RUN) and envelope.parse_error(reply.body).code in ELSEWHERE
