"""The topics of calls: which services have instances or waiting calls, and who has how much of what may wait.

A topic is there as long as it has either. Whoever made one pays for it, until somebody serves it: then he does.

Pure: the rules are in `calls.py`.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from zbusrpc.broker.calls import refusals
from zbusrpc.broker.calls.call import Call, Instance
from zbusrpc.broker.calls.contents import topic_name
from zbusrpc.broker.calls.service_queue import ServiceQueue
from zbusrpc.broker.sessions.hints import Hints
from zbusrpc.broker.sessions.limits import SERVICE_SHARE, Limits, share_used_up, too_many
from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.sessions.shares import Payer, Shares, payer_of, whose
from zbusrpc.errors import RpcError

RUNNING_SEEN_MAX: Final = 1000
"""Services that are looked at to tell a caller which run."""


class ServiceQueues(dict[bytes, ServiceQueue]):
    """The topics of calls, by name."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.hints = Hints()
        self._limits = limits
        self._made = Shares(limits.topics_max)
        self._waiting = Shares(limits.waiting_calls_max)
        self._in_queue = Shares(limits.queue_calls_max)  # by payer and topic
        self._bytes = Shares(limits.queued_bytes_max)
        self._service_bytes = Shares(limits.queued_bytes_max, SERVICE_SHARE)  # by topic

    @property
    def shares(self) -> tuple[Shares, ...]:
        """Who has how much, of each thing."""
        return self._made, self._waiting, self._in_queue, self._bytes, self._service_bytes

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes.total

    # -- topics ------------------------------------------------------------------------------------------

    def open(self, name: bytes, session: Session) -> ServiceQueue:
        """Return a topic, made if need be, for which a session pays then.

        Raises:
            RpcError: RESOURCE_EXHAUSTED: there are too many, or too many are the session's.
        """
        topic = self.get(name)
        if topic is None:
            payer = payer_of(session)
            self._check_made(payer, session)
            if self._made.is_full():
                raise too_many("topics", self._made.whole)
            topic = self._make(name, payer)
        return topic

    def serve(self, name: bytes, session: Session) -> ServiceQueue:
        """Return a topic, made if need be, that a session is to serve.

        Raises:
            RpcError: as `open`.
        """
        topic, payer = self.open(name, session), payer_of(session)
        if not topic.consumers and topic.payer != payer:  # it is there for calls that have waited for this
            self._check_made(payer, session)
            self._made.give_back(topic.payer)
            self._made.take(payer)
            topic.payer = payer
        return topic

    def _check_made(self, payer: Payer, session: Session) -> None:
        if self._made.is_used_up(payer):
            of_what = f"of {self._made.whole} services"
            raise share_used_up(whose(session.rights, session.name), self._made.most, of_what)

    def _make(self, name: bytes, payer: Payer) -> ServiceQueue:
        topic = self[name] = ServiceQueue(payer)
        self._made.take(payer)
        return topic

    def running(self, session: Session, now: float) -> Iterable[str] | None:
        """Return services that a session may know of, some where there are many; None where there is no time for it."""
        if not self.hints.has_time(now):
            return None
        some = islice(self.items(), RUNNING_SEEN_MAX)
        return session.visible(name.decode(errors="replace") for name, topic in some if topic.consumers)

    def forget_if_unused(self, name: bytes, topic: ServiceQueue) -> None:
        """Let go of a topic with which nothing would be lost."""
        if topic.is_unused and self.get(name) is topic:
            del self[name]
            self._made.give_back(topic.payer)

    # -- calls -------------------------------------------------------------------------------------------

    def no_room(self, call: Call, topic: ServiceQueue) -> RpcError | None:
        """Return why a call may not wait, or None where it may."""
        name, size, limits = call.message.topic, call.size, self._limits
        is_full = len(topic.queue) >= limits.queue_calls_max or self._waiting.is_full()
        if is_full or self._bytes.is_full(size):
            return refusals.queue_full(topic_name(name), len(topic.queue), self._waiting.total, limits)
        payer = _payer(call)
        who = whose(call.caller.rights, call.caller.name)
        if self._in_queue.is_used_up((payer, name)):
            of_what = f"of {self._in_queue.whole} calls that may wait for service {topic_name(name)}"
            return share_used_up(who, self._in_queue.most, of_what)
        if self._waiting.is_used_up(payer):
            return share_used_up(who, self._waiting.most, f"of {self._waiting.whole} calls that may wait")
        if self._bytes.is_used_up(payer, size):
            return share_used_up(who, self._bytes.most, f"of {self._bytes.whole} bytes that may wait")
        if self._service_bytes.is_used_up(name, size):
            shares, who = self._service_bytes, f"service {topic_name(name)}"
            return share_used_up(who, shares.most, f"of {shares.whole} bytes that may wait")
        return None

    def put(self, call: Call, *, is_first: bool = False) -> None:
        """Let a call wait, whether or not there is room."""
        name, payer, size = call.message.topic, _payer(call), call.size
        topic = self.get(name)
        (topic if topic is not None else self._make(name, payer)).put(call, is_first=is_first)
        self._in_queue.take((payer, name))
        self._waiting.take(payer)
        if size:
            self._bytes.take(payer, size)
            self._service_bytes.take(name, size)

    def take(self, topic: ServiceQueue, consumer: Instance) -> Call:
        """Return the next call of a topic for a consumer that may take one, taken out of the queue."""
        call = topic.take_call(consumer)
        assert call is not None
        self._note_taken(call)
        return call

    def discard(self, call: Call) -> None:
        """Take a call out of its topic's queue, if it waits there."""
        name = call.message.topic
        topic = self.get(name)
        if topic is not None and call in topic.queue:
            topic.discard(call)
            self._note_taken(call)
            self.forget_if_unused(name, topic)

    def _note_taken(self, call: Call) -> None:
        name, payer, size = call.message.topic, _payer(call), call.size
        self._in_queue.give_back((payer, name))
        self._waiting.give_back(payer)
        if size:
            self._bytes.give_back(payer, size)
            self._service_bytes.give_back(name, size)


def _payer(call: Call) -> Payer:
    if call.payer is None:
        call.payer = payer_of(call.caller)
    return call.payer
