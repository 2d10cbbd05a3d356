"""The topics of calls: which services have instances or waiting calls, and how many bytes wait in all of them.

A topic is there as long as it has either. Pure: the rules are in `calls.py`.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from zbusrpc.broker.hints import Hints
from zbusrpc.broker.session import Call, Consumer, Session
from zbusrpc.broker.topic import Topic

RUNNING_SEEN_MAX: Final = 1000
"""Services that are looked at to tell a caller which run."""


class CallTopics(dict[bytes, Topic]):
    """The topics of calls, by name."""

    def __init__(self, topics_max: int) -> None:
        super().__init__()
        self.queued_bytes = 0
        self.hints = Hints()
        self._topics_max = topics_max

    def open(self, name: bytes) -> Topic | None:
        """Return a topic, made if need be, or None at the limit."""
        topic = self.get(name)
        if topic is None and len(self) < self._topics_max:
            topic = self[name] = Topic()
        return topic

    def running(self, session: Session, now: float) -> Iterable[str] | None:
        """Return services that a session may know of, some where there are many; None where there is no time for it."""
        if not self.hints.has_time(now):
            return None
        some = islice(self.items(), RUNNING_SEEN_MAX)
        return session.visible(name.decode(errors="replace") for name, topic in some if topic.consumers)

    def forget_if_unused(self, name: bytes, topic: Topic) -> None:
        """Let go of a topic with which nothing would be lost."""
        if topic.is_unused:
            self.pop(name, None)

    def put(self, call: Call, topic: Topic, *, is_first: bool = False) -> None:
        """Let a call wait."""
        topic.put(call, is_first=is_first)
        self.queued_bytes += call.size

    def take(self, topic: Topic, consumer: Consumer) -> Call:
        """Return the next call of a topic for a consumer that may take one, taken out of the queue."""
        call = topic.take_call(consumer)
        assert call is not None
        self.queued_bytes -= call.size
        return call

    def discard(self, call: Call) -> None:
        """Take a call out of its topic's queue, if it waits there."""
        name = call.message.topic
        topic = self.get(name)
        if topic is not None and call in topic.queue:
            topic.discard(call)
            self.queued_bytes -= call.size
            self.forget_if_unused(name, topic)
