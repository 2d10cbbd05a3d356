"""The topics of calls: which services have instances or waiting calls, and how many bytes wait in all of them.

A topic is there as long as it has either. Pure: the rules are in `calls.py`.
"""

from zbusrpc.broker.session import Call
from zbusrpc.broker.topic import Topic


class CallTopics(dict[bytes, Topic]):
    """The topics of calls, by name."""

    def __init__(self, topics_max: int) -> None:
        super().__init__()
        self.queued_bytes = 0
        self._topics_max = topics_max

    def open(self, name: bytes) -> Topic | None:
        """Return a topic, made if need be, or None at the limit."""
        topic = self.get(name)
        if topic is None and len(self) < self._topics_max:
            topic = self[name] = Topic()
        return topic

    def forget_if_unused(self, name: bytes, topic: Topic) -> None:
        """Let go of a topic with which nothing would be lost."""
        if topic.is_unused:
            self.pop(name, None)

    def put(self, call: Call, topic: Topic, *, is_first: bool = False) -> None:
        """Let a call wait."""
        topic.put(call, is_first=is_first)
        self.queued_bytes += call.size

    def take(self, topic: Topic) -> Call:
        """Return the next call of a topic, taken out of its queue; there is one."""
        call = topic.take_call()
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
