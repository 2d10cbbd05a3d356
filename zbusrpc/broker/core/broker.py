"""The broker core: the sessions of all peers, what carries out their messages, and what is to be sent to them.

    connect -> receive, receive, ... -> disconnect        one session's life
    expire                                                when `next_expiry` has come
    settle                                                when all messages of a turn were received
    dirty                                                 the sessions whose outbox is to be sent

Messages go by their kind to `calls.py` (requests and replies) or to `mq/queues.py` (topics whose messages are stored).
Both leave what is to be sent in the outboxes of sessions.

Pure: no clock, no socket, no `await`. A message that a peer must not send raises ProtocolError before anything has
changed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import orjson

from zbusrpc import envelope
from zbusrpc.broker.access.rights import Access, Operation, Rights
from zbusrpc.broker.calls import refusals
from zbusrpc.broker.calls.calls import Calls
from zbusrpc.broker.calls.contents import topic_name
from zbusrpc.broker.calls.listing import list_services
from zbusrpc.broker.core import permissions
from zbusrpc.broker.core.stored_calls import StoredCalls
from zbusrpc.broker.mq.queues import Queues
from zbusrpc.broker.mq.requests import Asked, Drain, asked_by
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.session import BYTES_MAX, Session
from zbusrpc.broker.tracker.tracker import Tracker
from zbusrpc.errors import Code, ProtocolError, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.transport.naming import one_spelling_bytes

UNKNOWN_TOKEN: Final = f"{Code.UNAUTHENTICATED}: this broker does not know the token"
"""Reason of a GOODBYE. That it begins with the code tells a client not to come back with the same token."""
_PRODUCE: Final = int(Kind.PRODUCE)
_QUEUED: Final = frozenset({*range(Kind.PRODUCE, Kind.COMMAND + 1), Kind.BEGUN})
"""What concerns stored topics. All of it has higher numbers than requests and replies, which one comparison tells."""
_NEW_WORK: Final = frozenset({Kind.PRODUCE, Kind.CONSUME, Kind.PULL})


class Broker:
    """Everything one broker knows."""

    def __init__(self, name: str = "", limits: Limits | None = None) -> None:
        self.calls = Calls(name, limits or Limits(), self.send)
        self.queues: Queues | None = None
        """Stored topics, where the broker has a data directory."""
        self._is_tracker_only = False
        self.on_drain: Callable[[], None] | None = None
        """Ends the broker once it has drained, where somebody may ask for that."""
        self.tracker: Tracker | None = None
        """What is known of other brokers."""
        self._stored_calls: StoredCalls | None = None
        self.dirty: list[Session] = []
        """Sessions whose outbox holds something; whoever sends it clears both."""
        self._commands = self.calls.commands | {Kind.QUERY: self._query}
        self._sessions: dict[int, Session] = {}
        self._last_session = 0

    @property
    def name(self) -> str:
        """Its address, for people."""
        return self.calls.name

    @name.setter
    def name(self, name: str) -> None:
        self.calls.name = name

    def attach(self, store: Store) -> None:
        """Have stored topics and durable services from now on.

        `store` is opened afterwards, and then all steps of `restoring` are done.
        """
        self.queues = Queues(store, self.send)
        self._stored_calls = StoredCalls(self.calls, store)
        store.runs = self.runs
        self._commands |= {Kind.REQUEST: self._stored_calls.request, Kind.SUBSCRIBE: self._stored_calls.subscribe}

    def runs(self, name: str) -> bool:
        """Say whether a service of this name has instances."""
        calls = self.calls.topics.get(name.encode(errors="replace"))
        return calls is not None and any(not consumer.is_pulling for consumer in calls.consumers.values())

    def restoring(self) -> Iterator[int]:
        """Go on with what an earlier process left, a call at each step, which tells its bytes.

        Raises:
            ReadFailedError: the disk did not give one.
        """
        if self._stored_calls is not None:
            yield from self._stored_calls.restoring()

    @property
    def restored(self) -> int:
        """How many calls of an earlier process wait again."""
        return self._stored_calls.restored if self._stored_calls is not None else 0

    def attach_tracker(self, tracker: Tracker) -> None:
        """Take reports of other brokers in, and tell clients of them, from now on."""
        self.tracker = tracker
        self._commands |= {Kind.TRACK: tracker.track, Kind.REPORT: tracker.report}

    def serve_nothing(self) -> None:
        """Be a tracker only: calls, services and topics are refused from now on."""
        self._is_tracker_only = True
        self._commands |= {Kind.REQUEST: self._refuse, Kind.SUBSCRIBE: self._refuse}

    def _refuse(self, session: Session, message: Message, now: float) -> None:
        self.calls.send_error(session, message.id, refusals.tracker_only(self.name))

    # -- the life of a session ---------------------------------------------------------------------------

    def connect(self, name: str, message_bytes_max: int = BYTES_MAX) -> Session:
        """Begin the session of a peer that is called `name` and takes messages up to a size."""
        self._last_session += 1
        session = self._sessions[self._last_session] = Session(self._last_session, name, message_bytes_max)
        return session

    def receive(self, session: Session, message: Message, now: float) -> None:
        """Carry out one message of a session.

        Raises:
            ProtocolError: the peer must not send this; its connection is to be closed.
        """
        kind = message.kind
        if not message.topic.isascii():
            message.topic = one_spelling_bytes(message.topic)
        if kind >= _PRODUCE and kind in _QUEUED:
            self._receive_queued(session, message)
            return
        if session.rights is not None and not self._is_allowed(session.rights, session, message, None):
            return
        if message.header_bytes and not self._has_headers(session, message):
            return
        command = self._commands.get(kind)
        if command is None:
            raise ProtocolError(f"a broker takes no {Kind(kind).name}")
        command(session, message, now)

    def _receive_queued(self, session: Session, message: Message) -> None:
        """Read what a message about stored topics asks for, once, and carry it out if the session may send it."""
        try:
            asked = asked_by(message)
        except RpcError as error:
            if message.id:
                self.calls.send_error(session, message.id, error)
            return
        if session.rights is not None and not self._is_allowed(session.rights, session, message, asked):
            return
        if message.header_bytes and not self._has_headers(session, message):
            return
        self._carry_out_queued(session, message, asked)

    def _carry_out_queued(self, session: Session, message: Message, asked: Asked | None) -> None:
        if message.kind == Kind.DELIVER:
            raise ProtocolError("a broker takes no DELIVER")
        if self.calls.is_draining and message.kind in _NEW_WORK:
            if message.id:
                self.calls.send_error(session, message.id, refusals.draining(self.name))
            return
        if isinstance(asked, Drain):
            self._begin_drain(session, message)
        elif self.queues is not None:
            self.queues.receive(session, message, asked)
        elif message.id:
            has_none = refusals.tracker_only if self._is_tracker_only else refusals.no_queues
            self.calls.send_error(session, message.id, has_none(self.name))

    def _is_allowed(self, rights: Rights, session: Session, message: Message, asked: Asked | None) -> bool:
        """Say whether a session may send a message; one that may not is answered."""
        try:
            permissions.check(rights, message, asked, self.queues.store if self.queues is not None else None)
        except RpcError as error:
            if message.id:
                self.calls.send_error(session, message.id, error)
            return False
        return True

    def _has_headers(self, session: Session, message: Message) -> bool:
        """Say whether the headers of a message are some: else it ends here, and not at whoever would read them.

        Raises:
            ProtocolError: they are of a message that has no answer.
        """
        try:
            message.headers()
        except ProtocolError as error:
            if not message.id or message.kind == Kind.REPLY:
                raise
            self.calls.send_error(session, message.id, refusals.bad_headers(str(error)))
            return False
        return True

    def replace_access(self, access: Access, logins: Mapping[Rights, Rights]) -> dict[int, str]:
        """Give each session the rights that its token has now; return which are to be closed, and why, by number.

        Args:
            logins: The rights of logins now, by those that they had.
        """
        to_close: dict[int, str] = {}
        for session in self._sessions.values():
            rights = access.renewed(session.rights)
            if session.rights is not None:
                rights = logins.get(session.rights, rights)
            if rights is None:
                to_close[session.number] = UNKNOWN_TOKEN
                continue
            session.rights = rights
            if permissions.has_lost(session, access):
                to_close[session.number] = f"the rights of {rights.name} have changed"
        return to_close

    def sessions_of(self, rights: Rights) -> list[int]:
        """Return the numbers of the sessions that have exactly these rights, and not only the same."""
        return [number for number, session in self._sessions.items() if session.rights is rights]

    def set_congested(self, session: Session, is_congested: bool, now: float) -> None:
        """Give a session that reads too slowly nothing until it has caught up."""
        session.is_congested = is_congested
        self.calls.set_congested(session, is_congested, now)
        if self.queues is not None:
            self.queues.set_congested(session, is_congested)
        if self.tracker is not None and not is_congested:
            self.tracker.catch_up(session)

    def disconnect(self, session: Session, now: float) -> None:
        """End a session: what it worked on is given to others, or fails."""
        del self._sessions[session.number]
        session.is_gone = True
        self.calls.disconnect(session, now)
        if self.queues is not None:
            self.queues.disconnect(session)
        if self.tracker is not None:
            self.tracker.disconnect(session)

    # -- time and turns ----------------------------------------------------------------------------------

    def next_expiry(self) -> float | None:
        """Return when `expire` should be called next, or None when nothing waits for a time."""
        at = self.calls.deadlines.next_at
        if self.queues is None:
            return at
        queued_at = self.queues.next_expiry()
        return at if queued_at is None else queued_at if at is None else min(at, queued_at)

    def expire(self, now: float) -> None:
        """Do what time does."""
        self.calls.expire(now)
        if self.queues is not None:
            self.queues.expire(now)

    def drain(self) -> None:
        """Take no new work from now on: what is under way is finished, and stored messages stay where they are."""
        self.calls.drain()
        if self.queues is not None:
            self.queues.is_draining = True

    def _begin_drain(self, session: Session, message: Message) -> None:
        """Carry out the command `drain`."""
        try:
            body = envelope.result_body(envelope.dump({"unfinished": self.ask_drain()}))
        except RpcError as error:
            self.calls.send_error(session, message.id, error)
        else:
            self.send(session, Message(Kind.REPLY, message.id, body=body))

    def ask_drain(self) -> int:
        """Have whoever runs this broker drain it and end it; return how much is under way.

        Raises:
            RpcError: FAILED_PRECONDITION: it ends with something else.
        """
        if self.on_drain is None:
            raise refusals.not_drained(self.name)
        self.on_drain()
        return self.unfinished()

    def unfinished(self) -> int:
        """Return how many calls, and messages of consumers that know of the draining, are under way."""
        topics = self.calls.topics.values()
        waiting = sum(len(topic.queue) for topic in topics if topic.consumers)
        calls = sum(len(session.deliveries) for session in self._sessions.values())
        messages = sum(
            subscription.in_flight
            for session in self._sessions.values()
            if self.tracker is not None and self.tracker.tracks(session)
            for subscription in session.subscriptions.values()
        )
        return waiting + calls + messages

    def settle(self) -> None:
        """Hand out what the messages of a turn have made available."""
        if self.queues is not None:
            self.queues.settle()

    def send(self, session: Session, message: Any) -> None:
        """Leave a message, or an exchange that has its answer, in a session's outbox."""
        if not session.outbox:
            self.dirty.append(session)
        session.outbox.append(message)

    # -- what it tells -----------------------------------------------------------------------------------

    @property
    def session_count(self) -> int:
        """How many peers are connected."""
        return len(self._sessions)

    def services(self, rights: Rights | None = None, name: str = "") -> list[dict[str, Any]]:
        """Return what is running, for listings: services with their instances and queues, as far as `rights` go.

        With a name it is that of the only one, and no other is looked at.
        """
        topics = self.calls.topics
        names = [name.encode()] if name else sorted(topics)
        seen = (one for one in names if permissions.may(rights, Operation.QUERY, topic_name(one)))
        return list_services({one: topics[one] for one in seen if one in topics})

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes as of now."""
        topics = self.calls.topics
        return {
            **asdict(self.calls.counters),
            "topics": len(topics),
            "queued": sum(len(topic.queue) for topic in topics.values()),
            "queued_bytes": topics.queued_bytes,
            "sessions": len(self._sessions),
            "in_flight": sum(len(session.deliveries) for session in self._sessions.values()),
        }

    def _query(self, session: Session, message: Message, now: float) -> None:
        rights = session.rights
        is_told = rights is None or rights.allows(Operation.SERVER)
        statistics = self.statistics() if is_told else {}
        result = {"broker": self.name, "services": self.services(rights), "statistics": statistics}
        self.calls.answer(session, Message(Kind.REPLY, message.id, body=envelope.result_body(orjson.dumps(result))))
