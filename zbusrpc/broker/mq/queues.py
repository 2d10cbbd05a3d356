"""The message queue of a broker: takes messages of sessions, decides, and leaves what is to be sent.

    PRODUCE ──> topic ──group commit──> receipt, and its groups are awake
    CONSUME, ACK, NACK, EXTEND, BEGUN, PULL, LEAVE ──> group, which is awake
    COMMAND ──> see commands.py
    settle    hands out what awake groups have, as one frame for each consumer
    expire    what time does

A group is awake when it may have something to hand out: a message was stored, credit came back, a time was reached.
All that came in one turn is handed out at its end, so that many messages leave in one frame.

Promises: an answer is sent when what it says is so (a new group is on the disk, a message is as safe as its topic
promises); a session that ends leaves nothing behind but messages that come again.

Pure but for the disk, which is behind the seam of storage; time, turns and threads are behind `Scheduler`.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from zbusrpc import envelope
from zbusrpc.broker.mq.answers import ANSWERS, answer, subscription_of
from zbusrpc.broker.mq.commands import Commands
from zbusrpc.broker.mq.courier import Courier, Send
from zbusrpc.broker.mq.dead_letter_queue import bury
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.intake import Intake
from zbusrpc.broker.mq.names import AUTO_GROUP, check_choosable, decode_name, is_given
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.mq.requests import Asked, Consume, PullBody, parse
from zbusrpc.broker.mq.starts import check_start
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.subscription import Pull, Sink, Subscription
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.sessions.limits import LINGER_S, share_used_up, too_many
from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.sessions.shares import Shares, payer_of, whose
from zbusrpc.broker.sessions.telling import tell_one
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.deadlines import Deadlines
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.entries import decode_entries

READ_RETRY_S: Final = 1.0
"""After the disk did not give what it holds."""
COUNT_BYTES: Final = 8
"""Of a number of messages: those that have come, in a LEAVE, and those that are wanted back, in a RECALL."""
IN_FLIGHT_MAX: Final = 65_536
"""Messages that one consumer may have pulled and not answered."""

_REPLY: Final = int(Kind.REPLY)
log = get_logger("mq")


class Queues:
    """What carries out the messages of sessions."""

    def __init__(self, store: Store, send: Send, *, rng: random.Random | None = None) -> None:
        self.store = store
        self._send = send
        self._scheduler = store.scheduler
        self._courier = Courier(send)
        self.intake = Intake(store.scheduler, store.limits)
        self._rng = rng or random.Random()
        self._awake: dict[Group, None] = {}
        self._times: Deadlines[Group] = Deadlines()
        self._timed: dict[Group, float] = {}
        self.is_draining = False
        """Whether nothing is handed out any more."""
        self.on_change: Callable[[str], None] = lambda topic: None
        """Told when a consumer came or went."""
        self._subscriptions = Shares(store.limits.subscriptions_max)
        self._pull_times: Deadlines[tuple[Subscription, int]] = Deadlines()
        store.on_readable = self._topic_grew
        store.on_group_ended = self._end_subscriptions
        store.on_group_moved = self.wake
        store.on_group_reset = self._renumber

    # -- what the broker calls ---------------------------------------------------------------------------

    def receive(self, session: Session, message: Message, asked: Asked | None) -> None:
        """Carry out one message of a session, of which a CONSUME or COMMAND has been read: that is `asked`.

        Raises:
            ProtocolError: the peer must not send this; its connection is to be closed.
        """
        try:
            if asked is None:
                _HANDLERS[message.kind](self, session, message)
            elif isinstance(asked, Consume):
                self._consume(session, message, asked)
            else:
                Commands(self.store, session.rights).carry_out(asked, self._answer_to(session, message))
        except RpcError as error:
            self.refuse(session, message.id, error)
        except StorageError as error:
            self.refuse(session, message.id, as_rpc_error(message.topic.decode(errors="replace"), error))

    def set_congested(self, session: Session, is_congested: bool) -> None:
        """Give a session that reads too slowly nothing until it has caught up."""
        for subscription in session.subscriptions.values():
            group = subscription.group
            if is_congested:
                group.pool.suspend(subscription)
            else:
                group.pool.resume(subscription)
                self.wake(group)

    def disconnect(self, session: Session) -> None:
        """Let go of a session's subscriptions: what it had goes to others."""
        subscriptions, session.subscriptions = session.subscriptions, {}
        for subscription in subscriptions.values():
            self._leave(subscription)
            self._let_linger(subscription.group)

    def next_expiry(self) -> float | None:
        """Return when `expire` should be called next, or None."""
        at, pull_at = self._times.next_at, self._pull_times.next_at
        return pull_at if at is None else at if pull_at is None else min(at, pull_at)

    def expire(self, now: float) -> None:
        """Do what time does."""
        now_ms = self._scheduler.now_ms()
        for group in self._times.due(now):
            self._timed.pop(group, None)
            if not group.is_gone:
                tell_one(group.expire, now, now_ms)
                self.wake(group)
        for subscription, request_id in self._pull_times.due(now):
            self._courier.end_pulls(subscription, _is_pull(request_id))

    def settle(self) -> None:
        """Hand out what awake groups have."""
        if not self._awake:
            return
        awake, self._awake = self._awake, {}
        now, now_ms = self._scheduler.now(), self._scheduler.now_ms()
        for group in awake:
            try:
                if not group.is_gone:
                    (self._note(group) if self.is_draining else self._dispatch(group, now, now_ms))
            except Exception:  # a fault of ours must not keep other groups from their messages
                log.exception("mq.dispatch_failed", topic=group.topic_name, group=group.name)
        if self._awake:
            self._scheduler.soon(lambda: None)  # their turn comes after those of others

    def wake(self, group: Group) -> None:
        """Look at the end of this turn whether a group has something to hand out."""
        self._awake[group] = None

    def reply(self, session: Session, request_id: int, result: Any) -> None:
        """Answer a request, unless no answer is wanted."""
        if not request_id:
            return
        body, limit = envelope.result_body(orjson.dumps(result)), session.message_bytes_max
        if len(body) > limit:
            text = f"the answer of {len(body)} bytes exceeds the limit of {limit} bytes: ask for less"
            self.refuse(session, request_id, RpcError(Code.RESOURCE_EXHAUSTED, text))
        else:
            self._send(session, Message(_REPLY, request_id, b"", body))

    def refuse(self, session: Session, request_id: int, error: RpcError) -> None:
        """Answer a request with an error, unless no answer is wanted."""
        if request_id:
            self._send(session, envelope.error_reply(request_id, error))

    def _answer_to(self, session: Session, message: Message) -> Callable[[Any, RpcError | None], None]:
        """Return what answers a message, with a result or an error."""

        def answer(result: Any, error: RpcError | None) -> None:
            if error is not None:
                self.refuse(session, message.id, error)
            else:
                self.reply(session, message.id, result)

        return answer

    # -- producers ---------------------------------------------------------------------------------------

    def _produce(self, session: Session, message: Message) -> None:
        topic, tell = self._topic(session, message), self._answer_to(session, message)
        self.intake.produce(topic, decode_entries(message.body), len(message.body), tell, session)

    def _topic(self, session: Session, message: Message) -> Topic:
        """Return the topic that a message of a session names.

        Raises:
            RpcError: as `Store.topic`, or INVALID_ARGUMENT.
        """
        topic = self.store.topics_by_wire.get(message.topic)
        return topic or self.store.topic(decode_name("topic", message.topic), session.rights)

    def _topic_grew(self, topic: Topic) -> None:
        self._awake.update(topic.consumed)

    # -- consumers ---------------------------------------------------------------------------------------

    def _consume(self, session: Session, message: Message, asked: Consume) -> None:
        topic = self._topic(session, message)
        self._check_subscriptions(session)

        def made(group: Group | None, error: RpcError | None) -> None:
            if group is None or error is not None:
                self.refuse(session, message.id, error or RpcError(Code.INTERNAL, "no group"))
            elif session.is_gone:
                self._let_linger(group)
            else:
                try:
                    self._join(session, message.id, group, asked)
                except RpcError as refusal:
                    self.refuse(session, message.id, refusal)
                    self._let_linger(group)

        self.store.check_free(topic, asked.group or "")
        check_start(topic, asked.start, session.rights)
        group = topic.groups.get(asked.group or "")
        if group is not None:
            self.store.check_group(topic, group, asked.group_options())
            self.store.when_started(group, made)
            if group.options.expires_s is not None and asked.create and "expires_s" not in asked.group_options():
                self.store.change_group(group, {"expires_s": None}, lambda error: None)  # it is wanted by its name now
            return
        if asked.group and not asked.create:
            raise self.store.no_group(topic, asked.group, session.rights)
        options = asked.group_options()
        if asked.group is None:
            options["delete_on_exit"] = True
        elif not (is_given(asked.group) and asked.delete_on_exit):  # else one comes back whose group went meanwhile
            check_choosable(asked.group)
        name = asked.group if asked.group is not None else f"{AUTO_GROUP}{self._rng.getrandbits(48):012x}"
        start = asked.start or ("oldest" if asked.group is not None else "newest")
        self.store.create_group(topic, name, GroupOptions(**options), start, made, session.rights)

    def _check_subscriptions(self, session: Session) -> None:
        limit = self.store.limits.subscriptions_per_session_max
        if len(session.subscriptions) >= limit:
            raise too_many("subscriptions of one connection", limit)
        shares, payer = self._subscriptions, payer_of(session)
        if shares.is_full():
            raise too_many("subscriptions", shares.whole)
        if shares.is_used_up(payer):
            raise share_used_up(whose(session.rights, session.name), shares.most, f"of {shares.whole} subscriptions")

    def _join(self, session: Session, request_id: int, group: Group, asked: Consume) -> None:
        subscription = self.join(session, group, asked.window)
        subscription.is_silent = not asked.says_begun
        options = group.options
        result = {"subscription": subscription.number, "group": group.name, "lease_ms": options.lease_ms}
        self.reply(session, request_id, result | {"ack": options.ack, "next": group.position})

    def join(self, session: Session, group: Group, window: int, *, sink: Sink | None = None) -> Subscription:
        """Let a session take part in a group until it leaves or ends; `sink` takes messages in place of frames.

        Raises:
            RpcError: RESOURCE_EXHAUSTED: it has too many. FAILED_PRECONDITION: the group is another's alone.
        """
        self._check_subscriptions(session)
        if group.options.exclusive and group.pool.members:
            other = next(iter(group.pool.members)).session.name
            text = f"group {group.name} of topic {group.topic_name} is exclusive, and {other} consumes it"
            raise RpcError(Code.FAILED_PRECONDITION, text)
        session.last_subscription += 1
        subscription = Subscription(session, session.last_subscription, group, window, sink)
        session.subscriptions[subscription.number] = subscription
        self._subscriptions.take(subscription.payer)
        group.join(subscription)
        self.wake(group)
        self.on_change(group.topic_name)
        return subscription

    def _answer(self, session: Session, message: Message) -> None:
        """Take in what a consumer says of its messages; a REPLY says that a kill of the broker cannot undo it."""
        answered = answer(session, message, self._scheduler)
        if answered is None:
            return
        group, count = answered
        self.wake(group)
        failure = self.store.journal.write_now(group.key) if message.id else None
        if failure is None:
            self.reply(session, message.id, count)
        else:
            self.refuse(session, message.id, as_rpc_error(group.topic_name, failure))

    def _pull(self, session: Session, message: Message) -> None:
        subscription = subscription_of(session, message)
        if subscription is None:
            return
        wanted = parse(PullBody, message.body).max
        if subscription.window:
            raise RpcError(Code.FAILED_PRECONDITION, "a subscription with a window is not for pulling; use window 0")
        if subscription.in_flight + subscription.credit + wanted > IN_FLIGHT_MAX:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"over {IN_FLIGHT_MAX} messages are pulled and not acknowledged")
        subscription.pulls.append(Pull(request_id=message.id, left=wanted))
        subscription.group.pool.give(subscription, wanted)
        if message.timeout_ms:
            at, item = self._scheduler.now() + message.timeout_ms / 1000, (subscription, message.id)
            subscription.pulls[-1].unwatch = partial(self._pull_times.add(item, at).pop, item, None)
        else:
            subscription.pulls[-1].is_patient = False
            subscription.group.satisfied[subscription] = None
        self.wake(subscription.group)

    def _leave_command(self, session: Session, message: Message) -> None:
        subscription = session.subscriptions.get(message.session)
        if subscription is not None:
            self.leave(subscription, int.from_bytes(message.body, "big") if len(message.body) == COUNT_BYTES else None)
        self.reply(session, message.id, None)

    def leave(self, subscription: Subscription, seen: int | None = None) -> None:
        """End a subscription of which so many messages have come, or all that were sent."""
        subscription.session.subscriptions.pop(subscription.number, None)
        self._leave(subscription, seen)
        if subscription.group.options.delete_on_exit:
            self.store.remove_if_unused(subscription.group)

    def _leave(self, subscription: Subscription, seen: int | None = None) -> None:
        group = subscription.group
        self._courier.end_pulls(subscription, lambda pull: True)
        self._subscriptions.give_back(subscription.payer)
        group.leave(subscription, subscription.sent if seen is None else seen)
        self.wake(group)
        self.on_change(group.topic_name)

    def _let_linger(self, group: Group) -> None:
        """Remove a group that goes with its last consumer in a while, unless one comes back."""
        if group.options.delete_on_exit and not group.pool.members:
            self._scheduler.later(LINGER_S, lambda: self.store.remove_if_unused(group))

    def _end_subscriptions(self, group: Group, error: RpcError) -> None:
        """Tell the consumers of a group that it is gone."""
        for subscription in list(group.pool.members):
            session = subscription.session
            session.subscriptions.pop(subscription.number, None)
            self._subscriptions.give_back(subscription.payer)
            self._courier.end_pulls(subscription, lambda pull: True)
            group.dismiss(subscription)
            body = envelope.error_body(error)
            self._send(session, Message(Kind.LEAVE, 0, b"", body, flags=Flag.ERROR, session=subscription.number))

    def _renumber(self, group: Group) -> None:
        """Give the subscriptions of a group that was moved other numbers: what is said of the old ones is over."""
        for subscription in group.pool.members:
            if subscription.sink is not None:
                continue
            session, before = subscription.session, subscription.number
            del session.subscriptions[before]
            number = subscription.number = session.last_subscription = session.last_subscription + 1
            session.subscriptions[number] = subscription
            subscription.sent = 0
            body = orjson.dumps({"subscription": number, "next": group.position})
            self._send(session, Message(Kind.MOVED, 0, b"", body, session=before))

    # -- handing out -------------------------------------------------------------------------------------

    def _dispatch(self, group: Group, now: float, now_ms: int) -> None:
        try:
            handouts = group.dispatch(now, now_ms)
        except StorageError as error:
            log.error("mq.read_failed", topic=group.topic_name, group=group.name, reason=str(error))
            self._scheduler.later(READ_RETRY_S, lambda: self.wake(group))
            handouts = []
        touched: dict[Subscription, None] = {}
        for subscription, delivery, record in handouts:
            if subscription.sink is not None:
                subscription.sink(delivery, record)
                continue
            refusal = self._courier.add(subscription, delivery, record, now_ms)
            if refusal:
                group.refuse(subscription, delivery, refusal)
            else:
                touched[subscription] = None
        for subscription in touched:
            self._courier.send(subscription)
        if group.has_more:
            self._awake[group] = None
        elif not group.is_reading:
            self._courier.end_satisfied(group)
        self._note(group)

    def _note(self, group: Group) -> None:
        """Do what follows from a change of a group: dead letters, the journal, its next time."""
        dead, group.dead = group.dead, []
        for delivery, reason in dead:
            bury(self.store, group, delivery, reason)
        for subscription, count in group.pace.take_recalls():
            body = count.to_bytes(COUNT_BYTES, "big")
            self._send(subscription.session, Message(Kind.RECALL, 0, b"", body, session=subscription.number))
        if group.is_changed:
            self.store.journal.note_change(group.key)
        self.store.room.note(group)
        at = group.next_at()
        if at is not None and at < self._timed.get(group, at + 1):
            self._timed[group] = at
            self._times.add(group, at)


def _is_pull(request_id: int) -> Callable[[Pull], bool]:
    return lambda pull: pull.request_id == request_id


_HANDLERS: Final[dict[int, Callable[[Queues, Session, Message], None]]] = {
    Kind.PRODUCE: Queues._produce,
    **dict.fromkeys(ANSWERS, Queues._answer),
    Kind.PULL: Queues._pull,
    Kind.LEAVE: Queues._leave_command,
}
