"""What the broker itself answers to a call that no service answered: one clear line each.

The details of UNAVAILABLE say whether the handler may have started (`may_have_run`), so that a caller knows
whether trying again could do the work twice.
"""

from collections.abc import Iterable
from typing import Final

from zbusrpc.broker.access import ALL, ANONYMOUS, Operation, Rights
from zbusrpc.broker.limits import RETRY_AFTER_S, Limits
from zbusrpc.broker.session import Call
from zbusrpc.errors import Code, RpcError, did_you_mean, one_of

_NOT_RUN: Final = "; it has not run"
RUNNING_TOLD_MAX: Final = 100
"""Names of services in one answer."""


def no_instance(topic: str, broker: str, running: Iterable[str] | None) -> RpcError:
    """Nobody serves the topic; what else runs is told, unless there is no time for it."""
    message = f"no instance of service {topic} is connected to broker {broker}"
    if running is None:
        return RpcError(Code.UNAVAILABLE, message, {"may_have_run": False})
    names = sorted(running)
    message += f"; running: {one_of(names)}" if names else "; no service is running there"
    message += did_you_mean(topic, (name for name in names if name != topic))
    return RpcError(Code.UNAVAILABLE, message, {"may_have_run": False, "running": names[:RUNNING_TOLD_MAX]})


def bad_headers(reason: str) -> RpcError:
    """The headers of a call are no headers."""
    return RpcError(Code.INVALID_ARGUMENT, reason, {"may_have_run": False})


def instance_died(topic: str, call: Call, *, is_idempotent: bool) -> RpcError:
    """The instance that had the call is gone."""
    if is_idempotent:
        message = f"the instance of {topic} that ran this call died (attempt {call.attempts}), and no other took over"
    else:
        message = f"the instance of {topic} that had this call died; it may have run"
    return RpcError(Code.UNAVAILABLE, message, {"may_have_run": True, "attempts": call.attempts})


def unserved(topic: str, call: Call) -> RpcError:
    """The last instance left while the call was waiting."""
    if call.has_begun:
        return instance_died(topic, call, is_idempotent=True)
    message = f"the last instance of service {topic} left before it took this call{_NOT_RUN}"
    return RpcError(Code.UNAVAILABLE, message, {"may_have_run": False})


def not_taken(topic: str, attempts: int) -> RpcError:
    """Instances keep handing the call back."""
    message = f"instances of service {topic} handed this call back {attempts} times{_NOT_RUN}"
    return RpcError(Code.UNAVAILABLE, message, {"may_have_run": False})


def expired(topic: str, *, has_started: bool) -> RpcError:
    """The deadline passed."""
    where = "in the handler" if has_started else f"in the queue{_NOT_RUN}"
    return RpcError(
        Code.DEADLINE_EXCEEDED,
        f"the deadline of this call to {topic} passed {where}",
        {"may_have_run": has_started},
    )


def of_begun(error: RpcError) -> RpcError:
    """The same of a call that an instance had before, which is gone, or which a broker had that ended."""
    if error.may_have_run or not isinstance(error.details, dict):
        return error
    message = f"{error.message.removesuffix(_NOT_RUN)}; an instance had it before that died, so that it may have run"
    return RpcError(error.code, message, {**error.details, "may_have_run": True})


def queue_full(topic: str, waiting: int, limits: Limits) -> RpcError:
    """The queue has no room for the call."""
    if waiting >= limits.queue_calls_max:
        bound = f"{waiting} calls wait, the limit is {limits.queue_calls_max}"
    else:
        bound = f"the broker's limit of {limits.queued_bytes_max} queued bytes is reached"
    message = f"the queue of service {topic} is full: {bound}; retry after {RETRY_AFTER_S:g} s"
    return RpcError(Code.RESOURCE_EXHAUSTED, message, {"retry_after_s": RETRY_AFTER_S, "may_have_run": False})


def too_large(what: str, size: int, limit: int) -> RpcError:
    """The peer that a message is for takes none of this size."""
    message = f"the {what} of {size} bytes exceeds the limit of {limit} bytes of the peer that it is for"
    return RpcError(Code.RESOURCE_EXHAUSTED, message, {"size": size, "limit": limit, "may_have_run": what == "reply"})


def no_queues(broker: str) -> RpcError:
    """The broker stores nothing."""
    message = f"broker {broker} stores no messages; start it with --data-dir DIR"
    return RpcError(Code.FAILED_PRECONDITION, message)


def tracker_only(broker: str) -> RpcError:
    """The broker tracks others."""
    message = f"broker {broker} only tracks others (--tracker-only): use one that reports to it"
    return RpcError(Code.FAILED_PRECONDITION, message, {"may_have_run": False})


def of_session(broker: str, calls_max: int, *, is_draining: bool) -> RpcError:
    """The broker is about to end, or the caller has too many calls."""
    return draining(broker) if is_draining else too_many("unanswered calls of one caller", calls_max)


def draining(broker: str) -> RpcError:
    """The broker is about to end."""
    return RpcError(Code.UNAVAILABLE, f"broker {broker} is shutting down", {"may_have_run": False})


def not_drained(broker: str) -> RpcError:
    """The broker is part of a program that has other work, too."""
    message = f"broker {broker} ends with the program that it is part of, and cannot be drained from here"
    return RpcError(Code.FAILED_PRECONDITION, message)


def not_allowed(rights: Rights, operation: Operation, topic: str, group: str | None = None) -> RpcError:
    """The peer has no right to do this."""
    who = f"token {rights.name}" if rights.digest else f"a client without a token ({ANONYMOUS})"
    of_what = f" on topic {topic}" if topic else ""
    of_what += f" and {'all its groups' if group == ALL else f'group {group}'}" if group is not None else ""
    return RpcError(Code.PERMISSION_DENIED, f"{who} has no right to {operation}{of_what}", {"may_have_run": False})


def too_many(what: str, limit: int) -> RpcError:
    """Some other bound is reached."""
    message = f"the broker's limit of {limit} {what} is reached; retry after {RETRY_AFTER_S:g} s"
    return RpcError(Code.RESOURCE_EXHAUSTED, message, {"retry_after_s": RETRY_AFTER_S, "may_have_run": False})
