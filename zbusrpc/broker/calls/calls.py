"""Calls: takes requests and replies from sessions, decides, and leaves what is to be sent.

A call goes through its topic's queue to the least loaded consumer; the reply is routed straight to the caller. A call
ends exactly once: by its reply, its deadline, its caller's going, or the loss of its instance. What comes later counts.

Pure, so that each command is atomic and a seeded simulation can drive all of it; `now` is of a monotonic clock. A
message that a peer must not send raises ProtocolError before anything has changed.
"""

from collections.abc import Callable
from typing import Final

from zbusrpc import envelope
from zbusrpc.broker.calls import refusals, unserved
from zbusrpc.broker.calls.call import Call, Instance
from zbusrpc.broker.calls.contents import is_too_large, note_attempt, parse_subscription, topic_name
from zbusrpc.broker.calls.listing import Counters
from zbusrpc.broker.calls.service_queue import ServiceQueue
from zbusrpc.broker.calls.service_queues import ServiceQueues
from zbusrpc.broker.sessions.limits import ATTEMPTS_MAX, Limits
from zbusrpc.broker.sessions.session import NOBODY, Session
from zbusrpc.broker.sessions.shares import payer_of
from zbusrpc.broker.sessions.telling import tell_one
from zbusrpc.deadlines import Deadlines
from zbusrpc.errors import ProtocolError, RpcError
from zbusrpc.message import Flag, Kind, Message

Send = Callable[[Session, Message], None]
Command = Callable[[Session, Message, float], None]
"""Carries out one message of a session at a time."""

_IDEMPOTENT: Final = int(Flag.IDEMPOTENT)
_WAIT_FOR_READY: Final = int(Flag.WAIT_FOR_READY)
_ERROR: Final = int(Flag.ERROR)
_NOT_RUN: Final = int(Flag.NOT_RUN)
_REQUEST: Final = int(Kind.REQUEST)
_REPLY: Final = int(Kind.REPLY)


class Calls:
    """The calls of one broker."""

    def __init__(self, name: str, limits: Limits, send: Send) -> None:
        self.name = name
        """The broker's address, for people."""
        self.limits = limits
        self.counters = Counters()
        self.is_draining = False
        """Whether new calls are refused because the broker is about to end."""
        self._send = send
        self.topics = ServiceQueues(limits)
        self.deadlines: Deadlines[Call] = Deadlines()
        """When calls end by themselves: `expire` is to be called at its `next_at`."""
        self.commands: dict[int, Command] = {
            Kind.REQUEST: self.request,
            Kind.REPLY: self._reply,
            Kind.CANCEL: self._cancel,
            Kind.SUBSCRIBE: self.subscribe,
            Kind.UNSUBSCRIBE: self._unsubscribe,
            Kind.RETURN: self._return,
            Kind.DONE: self._done,
        }
        """What carries out a message, by its kind."""
        self.can_store = False
        """Whether durable services may subscribe."""
        self.on_stored_end: Callable[[Call, Message | None], None] = lambda call, reply: None
        """Told of the end of calls that are stored: see `core/stored_calls.py`."""
        self.on_change: Callable[[str], None] = lambda name: None
        """Told of the service of which an instance came or went."""
        self.on_unserved: Callable[[bytes], None] = lambda name: None
        """Told of a call that nobody serves, before it is refused: who hears it may still join."""

    # -- what the broker calls ---------------------------------------------------------------------------

    def set_congested(self, session: Session, is_congested: bool, now: float) -> None:
        """Give a session that reads too slowly no calls until it has caught up."""
        for consumer in session.consumers.values():
            if is_congested:
                consumer.pool.suspend(consumer)
            else:
                consumer.pool.resume(consumer)
                self._dispatch(self.topics[consumer.topic], now)

    def disconnect(self, session: Session, now: float) -> None:
        """Let go of a session: its calls are cancelled, what it worked on is given to others or fails."""
        for call in list(session.calls.values()):
            if call.is_stored:  # it is carried out whether or not somebody waits for it
                call.payer, call.caller = payer_of(session) if call.payer is None else call.payer, NOBODY
            else:
                self._abandon(call)
        names = dict.fromkeys(session.consumers)
        for name in names:
            self._leave(session, name)
        deliveries, session.deliveries = list(session.deliveries.values()), {}
        for call in reversed(deliveries):  # the oldest ends up first in line again
            if not call.is_over:
                self._lose_instance(call)
        names.update(dict.fromkeys(call.message.topic for call in deliveries))
        for name in names:
            self._settle(name, now)

    def expire(self, now: float) -> None:
        """End the calls whose deadline has passed."""
        for call in self.deadlines.due(now):
            tell_one(self._expire_call, call, now)

    # -- commands of a caller ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new calls from now on."""
        self.is_draining = True
        for name, topic in list(self.topics.items()):
            self._fail_unserved(name, topic)

    def request(self, session: Session, message: Message, now: float) -> None:
        """Carry out a REQUEST."""
        call = self.admit(session, message, now)
        if call is not None:
            self.enter(call, now)

    def admit(self, session: Session, message: Message, now: float) -> Call | None:
        """Begin a call, or refuse it and return None."""
        if message.id <= session.last_id:
            raise ProtocolError(f"request {message.id} after {session.last_id}: ids must grow")
        session.last_id = message.id
        self.counters.requests += 1
        message.session = session.number
        call = Call(session, message, now + message.timeout_ms / 1000 if message.timeout_ms else None, now)
        session.calls[message.id] = call
        if self.is_draining or len(session.calls) > self.limits.calls_per_session_max:
            limit = self.limits.calls_per_session_max
            self.refuse(call, refusals.of_session(self.name, limit, is_draining=self.is_draining))
            return None
        if call.deadline is not None:
            call.tick = self.deadlines.add(call, call.deadline)
        return call

    def enter(self, call: Call, now: float) -> None:
        """Give a call to an instance, or let it wait for one, or refuse it."""
        message = call.message
        topic = self.topics.get(message.topic)
        if topic is None or not topic.consumers:
            self.on_unserved(message.topic)
            topic = self.topics.get(message.topic)
        if topic is None or not topic.consumers:
            topic, consumer = self._topic_to_wait_in(call, now), None
            if topic is None:
                return
        elif not topic.is_routed and not message.flags & _WAIT_FOR_READY:
            consumer = None if topic.queue else topic.pool.take()
        elif (refusal := unserved.no_method(message, self.topics, now)) is not None:
            self.refuse(call, refusal)
            return
        else:
            consumer = topic.take_able(call)
        if consumer is None:
            self._enqueue(call, topic)
        else:
            self._deliver(call, consumer, now)

    def _topic_to_wait_in(self, call: Call, now: float) -> ServiceQueue | None:
        """Return the topic in which a call may wait for the first instance, or refuse the call."""
        if not call.message.flags & _WAIT_FOR_READY:
            self.refuse(call, unserved.no_instance(call, self.topics, self.name, now))
            return None
        try:
            return self.topics.open(call.message.topic, call.caller)
        except RpcError as refusal:
            self.refuse(call, refusal)
            return None

    def _enqueue(self, call: Call, topic: ServiceQueue) -> None:
        refusal = self.topics.no_room(call, topic)
        if refusal is None:
            self.topics.put(call)
        else:
            self.refuse(call, refusal)
            self.topics.forget_if_unused(call.message.topic, topic)

    def replace_caller(self, call: Call, again: Call) -> None:
        """Let the caller of `again` have the reply to `call`, in place of its own."""
        self._end(again)
        call.caller.calls.pop(call.request_id, None)
        call.caller, call.request_id = again.caller, again.request_id
        call.caller.calls[call.request_id] = call

    def finish_with(self, call: Call, reply: Message) -> None:
        """End a call with a reply that is known already."""
        self._end(call)
        self.answer(call.caller, reply)

    def _cancel(self, session: Session, message: Message, now: float) -> None:
        call = session.calls.get(message.id)
        if call is not None:  # else its reply has crossed the cancellation
            self._abandon(call)

    # -- commands of a consumer --------------------------------------------------------------------------

    def _reply(self, session: Session, message: Message, now: float) -> None:
        call = self._finish(session, message, now)
        if call is None:
            self.counters.late_replies += 1
            return
        self.counters.replies += 1
        assert call.consumer is not None
        call.consumer.statistics.note_reply(now - call.began, now, is_error=bool(message.flags & _ERROR))
        if call.stored_offset >= 0:
            message.session, message.id = call.caller.number, call.request_id
        if call.has_begun:  # the word of this instance is only about itself
            message.flags &= ~_NOT_RUN
        self._end(call, message)
        self.answer(call.caller, message)  # its session and id are those of the request

    def _done(self, session: Session, message: Message, now: float) -> None:
        call = self._finish(session, message, now)
        if call is not None:  # it gave up a call that was not cancelled: a fault of the service
            self.refuse(call, refusals.instance_died(topic_name(call.message.topic), call, is_idempotent=False))

    def _return(self, session: Session, message: Message, now: float) -> None:
        call = self._finish(session, message, now)
        if call is None:
            return
        name, flags = call.message.topic, call.message.flags
        call.has_begun |= bool(flags & _IDEMPOTENT and not message.flags & _NOT_RUN)
        if name not in session.consumers:
            call.attempts -= 1  # who leaves has not tried; who stays and returns all it gets must not do so for ever
        if call.attempts < ATTEMPTS_MAX:
            self._put_back(call)
        else:
            self.refuse(call, refusals.not_taken(topic_name(name), call.attempts))
        self._settle(name, now)

    def subscribe(self, session: Session, message: Message, now: float) -> None:
        """Carry out a SUBSCRIBE."""
        window, about = parse_subscription(message)
        self.take_in(session, message, window, about, now)

    def take_in(self, session: Session, message: Message, window: int, about: dict[str, object], now: float) -> None:
        """Carry out a SUBSCRIBE that has been read: let a session serve a topic, and tell it whether it does."""
        name = message.topic
        try:
            if name in session.consumers:
                self.topics[name].widen(session.consumers[name], window)
            else:
                refusals.check_service(self.name, session, can_be_kept=self.can_store or not about.get("durable"))
                self.join(session, name, window, about)
        except RpcError as refusal:
            self.send_error(session, message.id, refusal)
            return
        self._send(session, Message(_REPLY, message.id, body=envelope.result_body(b"null")))
        self._dispatch(self.topics[name], now)

    def join(
        self, session: Session, name: bytes, window: int, about: dict[str, object], *, is_pulling: bool = False
    ) -> Instance:
        """Let a session serve a topic until it leaves: by `leave`, or its end. One that pulls says `ask` for each call.

        Raises:
            RpcError: RESOURCE_EXHAUSTED: there are too many topics.
        """
        topic = self.topics.serve(name, session)
        consumer = session.consumers[name] = Instance(session, name, window, about, is_pulling=is_pulling)
        topic.join(consumer)
        self.on_change(topic_name(name))
        return consumer

    def ask(self, consumer: Instance, now: float) -> None:
        """Have one more call given to a consumer that pulls."""
        consumer.pool.give(consumer)
        self._dispatch(self.topics[consumer.topic], now)

    def withdraw(self, consumer: Instance) -> None:
        """Have one call less given to a consumer that pulls."""
        if consumer.credit:
            consumer.pool.withdraw(consumer, 1)

    def leave(self, session: Session, name: bytes, now: float) -> None:
        """Give a session no more calls of a topic; those that it works on stay its own."""
        if name in session.consumers:
            self._leave(session, name)
            self._settle(name, now)

    def _unsubscribe(self, session: Session, message: Message, now: float) -> None:
        self.leave(session, message.topic, now)
        self._send(session, Message(_REPLY, message.id, body=envelope.result_body(b"null")))

    # -- steps that several commands share ---------------------------------------------------------------

    def send_error(self, session: Session, message_id: int, error: RpcError) -> None:
        """Answer a message with an error."""
        self._send(session, envelope.error_reply(message_id, error))

    def answer(self, session: Session, message: Message) -> None:
        """Send a reply, or an error in its place if the caller does not take so long a message."""
        if len(message.body) > session.body_bytes_sure and is_too_large(message, session):
            self.send_error(session, message.id, refusals.too_large("reply", message, session))
        else:
            self._send(session, message)

    def _deliver(self, call: Call, consumer: Instance, now: float) -> None:
        """Give `call` to `consumer`, whose credit was taken."""
        message, session = call.message, consumer.session
        if call.attempts:
            note_attempt(message, call.attempts + 1)
        if len(message.body) > session.body_bytes_sure and is_too_large(message, session):
            consumer.pool.give(consumer)
            self.refuse(call, refusals.too_large("request", message, session))
            return
        call.consumer = consumer
        call.attempts += 1
        session.deliveries[message.session, message.id] = call
        if call.deadline is not None:
            message.timeout_ms = max(1, round((call.deadline - now) * 1000))
        self._send(session, message)

    def _dispatch(self, topic: ServiceQueue, now: float) -> None:
        """Give waiting calls to consumers with credit, as long as there are both."""
        while topic.queue:
            consumer = topic.take()
            if consumer is None:
                return
            call = self.topics.take(topic, consumer)
            if call.deadline is not None and call.deadline <= now:
                consumer.pool.give(consumer)
                self._expire_call(call, now)
            else:
                self._deliver(call, consumer, now)

    def _settle(self, name: bytes, now: float) -> None:
        """Bring a topic into order whose consumers changed: dispatch, fail what nobody will take, forget it."""
        topic = self.topics.get(name)
        if topic is None:
            return
        self._dispatch(topic, now)
        self._fail_unserved(name, topic)

    def _fail_unserved(self, name: bytes, topic: ServiceQueue) -> None:
        """Fail what nobody will take; while draining, nobody comes for whom a call that is not stored could wait."""
        for call in topic.unserved():
            if not call.message.flags & _WAIT_FOR_READY or (self.is_draining and not call.is_stored):
                self.refuse(call, refusals.unserved(topic_name(name), call))
        self.topics.forget_if_unused(name, topic)

    def _lose_instance(self, call: Call) -> None:
        """Let a call whose instance died wait for another if that does no harm, or fail it."""
        call.has_begun = True
        is_idempotent = bool(call.message.flags & _IDEMPOTENT)
        if is_idempotent and call.attempts < ATTEMPTS_MAX:
            self._put_back(call)
        else:
            self.refuse(call, refusals.instance_died(topic_name(call.message.topic), call, is_idempotent=is_idempotent))

    def _put_back(self, call: Call) -> None:
        """Let a call that was delivered wait again, first in line; `_settle` its topic afterwards."""
        call.consumer = None
        self.counters.redelivered += 1
        self.topics.put(call, is_first=True)

    def _leave(self, session: Session, name: bytes) -> None:
        """Take a session out of a topic's consumers; `_settle` the topic afterwards."""
        self.topics[name].leave(session.consumers.pop(name))
        self.on_change(topic_name(name))

    def _finish(self, session: Session, message: Message, now: float) -> Call | None:
        """Take a delivery off a session, give its credit back, and return the call unless it has ended."""
        call = session.deliveries.pop((message.session, message.id), None)
        if call is None:
            return None
        consumer = call.consumer
        assert consumer is not None
        topic = self.topics.get(consumer.topic)
        if topic is not None and topic.consumers.get(session.number) is consumer and not consumer.is_pulling:
            consumer.pool.give(consumer)
            if topic.queue:
                self._dispatch(topic, now)
        return None if call.is_over else call

    def _expire_call(self, call: Call, now: float) -> None:
        """End a call whose deadline has passed, and stop whoever works on it."""
        self.counters.expired += 1
        self._stop(call)
        self.refuse(call, unserved.expiry(call, self.topics, self.name, now))

    def _abandon(self, call: Call) -> None:
        """End a call that its caller gave up, without an answer."""
        self._stop(call)
        self._end(call)

    def _stop(self, call: Call) -> None:
        """Tell whoever works on a call that nobody wants the result any more."""
        if call.consumer is not None:
            message = call.message
            self._send(call.consumer.session, Message(Kind.CANCEL, message.id, session=message.session))

    def refuse(self, call: Call, error: RpcError) -> None:
        """End a call with an error of the broker's own."""
        error = refusals.of_begun(error) if call.has_begun else error
        self.counters.refused += 1
        topic = self.topics.get(call.message.topic)
        if topic is not None:
            topic.statistics.note_refusal()
        self._end(call)
        self.send_error(call.caller, call.request_id, error)

    def _end(self, call: Call, reply: Message | None = None) -> None:
        """Forget a call everywhere but at the instance that may still work on it."""
        call.is_over = True
        message = call.message
        call.caller.calls.pop(call.request_id, None)
        if call.tick is not None:
            call.tick.pop(call, None)
        if call.stored_offset >= 0:
            self.on_stored_end(call, reply)
        if call.consumer is None:
            self.topics.discard(call)
        elif (message.session, message.id) in call.consumer.session.deliveries:
            call.message = Message(_REQUEST, message.id, message.topic, session=message.session)  # frees the body
