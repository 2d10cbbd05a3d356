"""Answers: what consumers say of their messages, on its way from a frame to the group.

Pure: time comes through the scheduler.
"""

from collections.abc import Callable
from typing import Final

from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.ranges import narrowed
from zbusrpc.broker.mq.requests import Nack, parse
from zbusrpc.broker.mq.subscription import Subscription
from zbusrpc.broker.sessions.scheduler import Scheduler
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.transport.entries import decode_ranges


def answer(session: Session, message: Message, scheduler: Scheduler) -> tuple[Group, int] | None:
    """Take in an answer; return the group and how many messages it concerned, or None where it came too late.

    Raises:
        ProtocolError: it cannot be read.
        RpcError: INVALID_ARGUMENT, or ABORTED: its subscription has ended, and an answer is wanted.
    """
    subscription = subscription_of(session, message)
    if subscription is None:
        return None
    return subscription.group, _ANSWERS[message.kind](subscription, message, scheduler)


def subscription_of(session: Session, message: Message) -> Subscription | None:
    """Return the subscription that a message is about; what comes after its end has crossed something.

    Raises:
        RpcError: ABORTED: it has ended, and an answer is wanted.
    """
    if message.session not in session.subscriptions and message.id:
        raise RpcError(Code.ABORTED, f"subscription {message.session} has ended")
    return session.subscriptions.get(message.session)


def _ack(subscription: Subscription, message: Message, scheduler: Scheduler) -> int:
    group = subscription.group
    ranges = narrowed(decode_ranges(message.body), group.pending)
    return sum(group.ack(subscription, first, last) for first, last in ranges)


def _nack(subscription: Subscription, message: Message, scheduler: Scheduler) -> int:
    asked, group, count = parse(Nack, message.body), subscription.group, 0
    now, now_ms = scheduler.now(), scheduler.now_ms()
    for first, last in narrowed(asked.ranges, group.pending):
        if asked.then == "retry":
            count += group.nack(subscription, first, last, asked.reason, asked.delay_ms, now, now_ms)
        elif asked.then == "release":
            count += group.release(subscription, first, last)
        else:
            count += group.reject(subscription, first, last, asked.reason)
    return count


def _extend(subscription: Subscription, message: Message, scheduler: Scheduler) -> int:
    group, now = subscription.group, scheduler.now()
    ranges = narrowed(decode_ranges(message.body), group.pending)
    return sum(group.extend(subscription, first, last, now) for first, last in ranges)


def _note_begun(subscription: Subscription, message: Message, scheduler: Scheduler) -> int:
    group = subscription.group
    ranges = narrowed(decode_ranges(message.body), group.pending)
    return sum(group.note_begun(subscription, first, last) for first, last in ranges)


_ANSWERS: Final[dict[int, Callable[[Subscription, Message, Scheduler], int]]] = {
    Kind.ACK: _ack,
    Kind.NACK: _nack,
    Kind.EXTEND: _extend,
    Kind.BEGUN: _note_begun,
}
ANSWERS: Final = frozenset(_ANSWERS)
"""Kinds of messages that are answers."""
