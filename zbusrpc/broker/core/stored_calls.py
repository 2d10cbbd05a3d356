"""Stored calls: requests of durable services, which outlive their callers and the broker.

    REQUEST ──> topic of the service ──stored──> waits for an instance, as other calls do ──> reply, and done in the log

A service that subscribes as durable has a topic, in which each request is stored before it is given to an instance, and
done once it has been answered, cancelled, or its deadline has passed. After a restart of the broker the requests that
are not done wait for instances again. A caller that lost its connection sends its request again with the same
message id: it is not stored twice, and whoever asked last gets the reply, for a while (REPLIES_MAX) also afterwards.
Callers choose these ids, so each is known together with the service and the token that it came by: nobody gets at
another's reply, or has another's request left out, by calling his own the same.

A name is a service's or that of a topic of messages, never both: whoever comes second is told which of the two it is.

Promises: a request whose caller was answered, or could have been, is not run again unless the broker crashed within
the journal's delay; one that was stored is run at least once before its deadline if an instance is there.
"""

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Final

from zbusrpc.broker.access.rights import owner_of
from zbusrpc.broker.calls import unserved
from zbusrpc.broker.calls.call import Call
from zbusrpc.broker.calls.calls import Calls
from zbusrpc.broker.calls.contents import parse_subscription, topic_name
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.names import CALLS_GROUP, check_name
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.sessions.session import NOBODY, Session
from zbusrpc.broker.storage.record import ID_BYTES_MAX, Record
from zbusrpc.errors import Code, ProtocolError, RpcError
from zbusrpc.message import HEADER_MESSAGE_ID, Flag, Kind, Message
from zbusrpc.outcome import knowing
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.entries import Entry

REPLIES_MAX: Final = 10_000
REPLY_BYTES_MAX: Final = 16 * 1024
"""Replies that are kept for callers who ask again are small, and not more than these."""
_FLAGS: Final = int(Flag.IDEMPOTENT | Flag.WAIT_FOR_READY)
_OPTIONS: Final = {"rpc": True, "keep_s": None, "keep_consumed": False, "dead_letter_topic": ""}

log = get_logger("mq")


class StoredCalls:
    """The calls of durable services."""

    def __init__(self, calls: Calls, store: Store) -> None:
        self._calls = calls
        self._store = store
        self._pending: dict[_Id, Call] = {}
        self._ids: dict[Call, _Id] = {}
        self._replies: OrderedDict[_Id, Message] = OrderedDict()
        self._last_number = 0
        self.restored = 0
        """Calls of an earlier process that wait again."""
        calls.can_store = True
        calls.on_stored_end = self._note_end

    # -- messages of sessions ----------------------------------------------------------------------------

    def subscribe(self, session: Session, message: Message, now: float) -> None:
        """Carry out a SUBSCRIBE: a durable service gets its topic first."""
        window, about = parse_subscription(message)
        name = topic_name(message.topic)
        try:
            self._check_is_service(name)
            if self._store.is_known(name) and name not in self._store.topics and not about.get("durable"):
                again = partial(self._subscribe_later, session, message)
                self._store.declare(name, {}, update=False, done=again)
            elif about.get("durable") is not True or message.topic in session.consumers:
                self._calls.take_in(session, message, window, about, now)
            else:
                self._subscribe_durable(session, message, window, about)
        except RpcError as error:
            self._calls.send_error(session, message.id, error)

    def _subscribe_later(self, session: Session, message: Message, topic: Topic | None, error: RpcError | None) -> None:
        """Carry out a SUBSCRIBE that came while somebody made a topic of its name: now it is known what kind it is."""
        if not session.is_gone:
            self.subscribe(session, message, self._store.scheduler.now())

    def _subscribe_durable(self, session: Session, message: Message, window: int, about: dict[str, object]) -> None:
        name = check_name("topic", topic_name(message.topic))

        def declared(topic: Topic | None, error: RpcError | None) -> None:
            if error is None and message.topic in session.consumers:  # it said so twice before the topic was there
                error = RpcError(Code.FAILED_PRECONDITION, f"this session serves {name} already")
            if topic is None or error is not None:
                self._calls.send_error(session, message.id, error or RpcError(Code.INTERNAL, "no topic"))
            elif not topic.options.rpc:
                self._calls.send_error(session, message.id, _not_durable(name))
            elif not session.is_gone:
                self._group(topic)
                self._calls.take_in(session, message, window, about, self._store.scheduler.now())

        known = self._store.topics.get(name)
        if known is not None and not known.options.rpc:
            raise _not_durable(name)
        options = {} if known is not None else dict(_OPTIONS)
        self._store.declare(name, options, update=False, done=declared, rights=session.rights)

    def _check_is_service(self, name: str) -> None:
        """See that no topic of messages has the name of a service: what is produced there would go as calls.

        Raises:
            RpcError: FAILED_PRECONDITION, or INVALID_ARGUMENT where the name is the broker's own.
        """
        if self._store.holds_letters(name):
            raise RpcError(Code.INVALID_ARGUMENT, f"{name} is for dead letters: a service needs another name")
        known = self._store.topics.get(name)
        if known is not None and not known.options.is_service:
            text = f"{name} is a topic of messages, and no service: a service needs a name of its own"
            raise RpcError(Code.FAILED_PRECONDITION, text)

    def request(self, session: Session, message: Message, now: float) -> None:
        """Carry out a REQUEST: one to a durable service is stored first."""
        topic = self._store.topics_by_wire.get(message.topic)
        if topic is None or not topic.options.rpc:
            self._calls.request(session, message, now)
            return
        call = self._calls.admit(session, message, now)
        if call is not None:
            try:
                self._store_call(topic, call, now)
            except RpcError as error:
                self._calls.refuse(call, error)

    def _store_call(self, topic: Topic, call: Call, now: float) -> None:
        message, owner = call.message, owner_of(call.caller.rights)
        id_ = _message_id(message)
        known = topic.uid, owner, id_
        if known in self._pending:
            self._attach(self._pending[known], call)
            return
        if known in self._replies:
            self._answer_again(call, self._replies[known])
            return
        refusal = unserved.no_method(message, self._calls.topics, now)
        if refusal is not None:
            raise refusal
        call.is_stored = True
        message.flags |= _FLAGS
        if id_:
            self._pending[known] = call
            self._ids[call] = known
        left_ms = max(1, round((call.deadline - now) * 1000)) if call.deadline is not None else 0

        def told(receipt: dict[str, object] | None, error: RpcError | None) -> None:
            if error is None and receipt is not None and "duplicates" not in receipt:
                offset = receipt["offset"]
                assert isinstance(offset, int)
                self._stored(topic, call, offset)
            elif not call.is_over:
                text = f"this request to {topic.name} has been carried out; its reply is gone"
                self._calls.refuse(call, error or knowing(Code.ABORTED, text, may_have_run=True))
            if call.stored_offset < 0:
                self._forget(call)

        try:
            entry = Entry(left_ms, 0, 0, id_, b"", b"", message.header_bytes, bytes(message.body))
            topic.produce([entry], told, owner)
        except RpcError:
            self._forget(call)
            raise

    def _stored(self, topic: Topic, call: Call, offset: int) -> None:
        """Let a call that is safe wait for an instance, unless it has ended meanwhile."""
        call.stored_offset = offset
        if call.is_over:
            self._note_end(call)
            return
        call.message.session, call.message.id = NOBODY.number, self._next_number()
        self._calls.enter(call, self._store.scheduler.now())

    def _next_number(self) -> int:
        """Return what a stored call is called on its way to an instance, which may serve several services."""
        self._last_number += 1
        return self._last_number

    def _attach(self, pending: Call, again: Call) -> None:
        """Let who asks again have the reply in place of who asked before, who is told so if it is still there."""
        before, request_id = pending.caller, pending.request_id
        self._calls.replace_caller(pending, again)
        if before is not NOBODY:
            text = "this request was sent again with the same message id: who asked last gets the reply"
            self._calls.send_error(before, request_id, RpcError(Code.ABORTED, text, {"may_have_run": True}))

    def _answer_again(self, call: Call, kept: Message) -> None:
        reply = Message(Kind.REPLY, call.request_id, b"", kept.body, b"", kept.flags, session=call.caller.number)
        self._calls.finish_with(call, reply)

    # -- the end of calls --------------------------------------------------------------------------------

    def _note_end(self, call: Call, reply: Message | None = None) -> None:
        """Note in the log that a call is done, and keep its reply for a caller that asks again."""
        id_ = self._ids.get(call)
        if id_ is not None and reply is not None and len(reply.body) <= REPLY_BYTES_MAX:
            self._replies[id_] = reply
            while len(self._replies) > REPLIES_MAX:
                self._replies.popitem(last=False)
        self._forget(call)
        topic = self._store.topics_by_wire.get(call.message.topic)
        group = topic.groups.get(CALLS_GROUP) if topic is not None else None
        if group is not None:
            group.settle([call.stored_offset])
            if self._is_refused(call, reply):
                self._store.journal.write_now(group.key)
            else:
                self._store.journal.note_change(group.key)

    def _is_refused(self, call: Call, reply: Message | None) -> bool:
        """Whether the caller is about to hear that a stored request has not run: then no crash may have it run."""
        is_late = call.deadline is not None and call.deadline <= self._store.scheduler.now()  # its record says so, too
        return reply is None and not (call.has_begun or is_late)

    def _forget(self, call: Call) -> None:
        id_ = self._ids.pop(call, None)
        if id_ is not None:
            self._pending.pop(id_, None)

    # -- after a restart ---------------------------------------------------------------------------------

    def restoring(self) -> Iterator[int]:
        """Let the requests that are stored and not done wait for instances: one at each step, which tells its bytes.

        Raises:
            ReadFailedError: the disk did not give one.
        """
        for topic in list(self._store.topics.values()):
            if not topic.options.rpc:
                continue
            before = self.restored
            for record in _undone(topic, self._group(topic)):
                if record is not None:
                    self.restored += self._restore_one(topic, record)
                yield len(record.body) if record is not None else 0
            if self.restored > before:
                log.info("mq.calls_restored", topic=topic.name, calls=self.restored - before)

    def _restore_one(self, topic: Topic, record: Record) -> bool:
        scheduler = self._store.scheduler
        left_ms = record.expiry_ms - scheduler.now_ms() if record.expiry_ms else 0
        message = Message(Kind.REQUEST, self._next_number(), topic.name.encode(), record.body, record.headers, _FLAGS)
        now = scheduler.now()
        call = Call(NOBODY, message, now + left_ms / 1000 if record.expiry_ms else None, now)
        call.is_stored, call.stored_offset = True, record.offset
        call.has_begun = True  # as far as anybody knows: who had it before is not stored
        if left_ms < 0:
            self._note_end(call)
            return False
        if record.id:
            self._ids[call] = topic.uid, record.owner, record.id
            self._pending[self._ids[call]] = call
        call.payer = record.owner
        if call.deadline is not None:
            call.tick = self._calls.deadlines.add(call, call.deadline)
        known = self._calls.topics.get(message.topic)
        if known is not None and known.consumers:
            self._calls.enter(call, now)
        else:
            self._calls.topics.put(call)  # whatever there is room for: it was taken
        return True

    def _group(self, topic: Topic) -> Group:
        """Return the group that keeps which requests are done."""
        group = topic.groups.get(CALLS_GROUP)
        if group is None:
            options = GroupOptions(paused=True)
            self._store.create_group(topic, CALLS_GROUP, options, "oldest", lambda group, error: None)
            group = topic.groups[CALLS_GROUP]
        return group


_Id = tuple[str, int, bytes]
"""Uid of the service's topic, owner, message id: what callers choose is known together with whose it is."""


def _not_durable(name: str) -> RpcError:
    text = f"{name} is a service whose calls are not stored; a durable service needs a name of its own"
    return RpcError(Code.FAILED_PRECONDITION, text)


def _message_id(message: Message) -> bytes:
    """Return how the caller calls its request, so that it can be asked again; nothing where it does not."""
    try:
        id_ = message.headers().get(HEADER_MESSAGE_ID, "").encode()
    except ProtocolError:
        return b""
    return id_ if len(id_) <= ID_BYTES_MAX else b""


def _undone(topic: Topic, group: Group) -> Iterator[Record | None]:
    """Yield the requests that are not done, in the order they came; None for one that is gone."""
    offset = group.position  # what is found to be too late moves it
    for pending in sorted(group.pending):
        yield topic.load(pending)
    while records := topic.log.read(offset):
        yield from records
        offset = records[-1].offset + 1
