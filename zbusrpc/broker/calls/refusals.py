"""What the broker itself answers to a call that no service answered: one clear line each.

Each says whether the handler may have started (`may_have_run`, and the flag NOT_RUN on its reply), so that a caller
knows whether trying again could do the work twice.
"""

from collections.abc import Iterable
from typing import Final

from zbusrpc.broker.calls.call import Call
from zbusrpc.broker.sessions.limits import RETRY_AFTER_S, SERVICES_PER_SESSION_MAX, Limits, too_many
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import Code, RpcError, cut, did_you_mean, one_of
from zbusrpc.message import Flag, Message
from zbusrpc.outcome import knowing, not_run
from zbusrpc.transport.native import payload_size

_NOT_RUN: Final = "; it has not run"
RUNNING_TOLD_MAX: Final = 100
"""Names of services in one answer."""


def no_instance(topic: str, broker: str, running: Iterable[str] | None) -> RpcError:
    """Nobody serves the topic; what else runs is told, unless there is no time for it."""
    message = f"no instance of service {topic} is connected to broker {broker}"
    if running is None:
        return not_run(Code.UNAVAILABLE, message)
    names = sorted(running)
    message += f"; running: {one_of(names)}" if names else "; no service is running there"
    message += did_you_mean(topic, (name for name in names if name != topic))
    return not_run(Code.UNAVAILABLE, message, {"running": names[:RUNNING_TOLD_MAX]})


def bad_headers(reason: str) -> RpcError:
    """The headers of a call are no headers."""
    return not_run(Code.INVALID_ARGUMENT, reason)


def no_method(topic: str, method: str | None, methods: list[str] | None) -> RpcError:
    """There are instances, which differ, and none has the method; what they have is told, unless there is no time."""
    message = f"no instance of service {topic} has the method {cut(method or '')}"
    if methods is None:
        return not_run(Code.UNIMPLEMENTED, message)
    message += did_you_mean(method or "", methods) or f"; there are {one_of(methods)}"
    return not_run(Code.UNIMPLEMENTED, message, {"methods": methods[:RUNNING_TOLD_MAX]})


def in_vain(error: RpcError) -> RpcError:
    """The deadline passed while a call waited for somebody who did not come; `error` says for whom."""
    return not_run(Code.DEADLINE_EXCEEDED, f"the deadline passed: {error.message}{_NOT_RUN}", error.details)


def instance_died(topic: str, call: Call, *, is_idempotent: bool) -> RpcError:
    """The instance that had the call is gone."""
    if is_idempotent:
        message = f"the instance of {topic} that ran this call died (attempt {call.attempts}), and no other took over"
    else:
        message = f"the instance of {topic} that had this call died; it may have run"
    return knowing(Code.UNAVAILABLE, message, {"attempts": call.attempts}, may_have_run=True)


def unserved(topic: str, call: Call) -> RpcError:
    """The last instance left while the call was waiting."""
    if call.has_begun:
        return instance_died(topic, call, is_idempotent=True)
    message = f"the last instance of service {topic} left before it took this call{_NOT_RUN}"
    return not_run(Code.UNAVAILABLE, message)


def not_taken(topic: str, attempts: int) -> RpcError:
    """Instances keep handing the call back."""
    message = f"instances of service {topic} handed this call back {attempts} times{_NOT_RUN}"
    return not_run(Code.UNAVAILABLE, message)


def expired(topic: str, *, has_started: bool) -> RpcError:
    """The deadline passed."""
    where = "in the handler" if has_started else f"in the queue{_NOT_RUN}"
    message = f"the deadline of this call to {topic} passed {where}"
    return knowing(Code.DEADLINE_EXCEEDED, message, may_have_run=has_started)


def of_begun(error: RpcError) -> RpcError:
    """The same of a call that an instance had before, which is gone, or which a broker had that ended."""
    if error.may_have_run:
        return error
    message = f"{error.message.removesuffix(_NOT_RUN)}; an instance had it before that died, so that it may have run"
    return knowing(error.code, message, error.details, may_have_run=True)


def queue_full(topic: str, waiting: int, all_waiting: int, limits: Limits) -> RpcError:
    """The queue has no room for the call."""
    if waiting >= limits.queue_calls_max:
        bound = f"{waiting} calls wait, the limit is {limits.queue_calls_max}"
    elif all_waiting >= limits.waiting_calls_max:
        bound = f"{all_waiting} calls wait in all queues, the limit is {limits.waiting_calls_max}"
    else:
        bound = f"the broker's limit of {limits.queued_bytes_max} queued bytes is reached"
    message = f"the queue of service {topic} is full: {bound}; retry after {RETRY_AFTER_S:g} s"
    return not_run(Code.RESOURCE_EXHAUSTED, message, {"retry_after_s": RETRY_AFTER_S})


def too_large(what: str, message: Message, peer: Session) -> RpcError:
    """The peer that a message is for takes none of this size."""
    size, limit = payload_size(message), peer.message_bytes_max
    may_have_run = what == "reply" and not message.flags & Flag.NOT_RUN
    text = f"the {what} of {size} bytes exceeds the limit of {limit} bytes of the peer that it is for"
    return knowing(Code.RESOURCE_EXHAUSTED, text, {"size": size, "limit": limit}, may_have_run=may_have_run)


def no_queues(broker: str) -> RpcError:
    """The broker stores nothing."""
    message = f"broker {broker} stores no messages; start it with --data-dir DIR"
    return RpcError(Code.FAILED_PRECONDITION, message)


def tracker_only(broker: str) -> RpcError:
    """The broker tracks others."""
    message = f"broker {broker} only tracks others (--tracker-only): use one that reports to it"
    return not_run(Code.FAILED_PRECONDITION, message)


def of_session(broker: str, calls_max: int, *, is_draining: bool) -> RpcError:
    """The broker is about to end, or the caller has too many calls."""
    return draining(broker) if is_draining else too_many("unanswered calls of one caller", calls_max)


def draining(broker: str) -> RpcError:
    """The broker is about to end."""
    return not_run(Code.UNAVAILABLE, f"broker {broker} is shutting down")


def not_drained(broker: str) -> RpcError:
    """The broker is part of a program that has other work, too."""
    message = f"broker {broker} ends with the program that it is part of, and cannot be drained from here"
    return RpcError(Code.FAILED_PRECONDITION, message)


def check_service(broker: str, session: Session, *, can_be_kept: bool) -> None:
    """See that the broker stores what is to be stored, and that the connection does not serve all that one may.

    Raises:
        RpcError: FAILED_PRECONDITION or RESOURCE_EXHAUSTED.
    """
    if not can_be_kept:
        raise no_queues(broker)
    if len(session.consumers) >= SERVICES_PER_SESSION_MAX:
        raise too_many("services of one connection", SERVICES_PER_SESSION_MAX)
