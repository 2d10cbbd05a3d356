"""A peer that produces and consumes by hand over a plain socket: it does what a test says and nothing by itself."""

from typing import Any

import orjson

from tests.support.native import NativePeer
from zbusrpc.envelope import error_of
from zbusrpc.errors import RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.entries import Entry, decode_entries, encode_entry, encode_ranges


def entry(
    body: str | bytes, *, id_: str = "", tag: str = "", key: str = "", ttl_ms: int = 0, delay_ms: int = 0
) -> bytes:
    """Return a message as it stands in a PRODUCE."""
    data = body.encode() if isinstance(body, str) else body
    return encode_entry(ttl_ms, delay_ms, 0, id_.encode(), tag.encode(), key.encode(), b"", data)


class QueuePeer(NativePeer):
    """A producer, consumer and tool in one."""

    def __init__(self, address: str, token: str = "") -> None:
        super().__init__(address, token)
        self._last_id = 0
        self._replies: dict[int, Message] = {}
        self.entries: dict[int, list[Entry]] = {}
        """What was delivered and not taken, by subscription."""
        self.ended: dict[int, RpcError] = {}
        """Why subscriptions were ended by the broker."""

    # -- asking ------------------------------------------------------------------------------------------

    def post(self, kind: int, body: Any = b"", *, topic: str = "", session: int = 0, timeout_ms: int = 0) -> int:
        """Send a request and return its id; what is no bytes becomes JSON."""
        self._last_id += 1
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        self.send(Message(kind, self._last_id, topic.encode(), data, timeout_ms=timeout_ms, session=session))
        return self._last_id

    def answer(self, request_id: int) -> Any:
        """Return the answer to a request; raise it where it is an error."""
        while request_id not in self._replies:
            self.next_message()
        reply = self._replies.pop(request_id)
        if reply.flags & Flag.ERROR:
            raise error_of(reply)
        return orjson.loads(reply.body)["result"]

    def outcome(self, request_id: int) -> Any:
        """Return the answer to a request, which may be an error."""
        try:
            return self.answer(request_id)
        except RpcError as error:
            return error

    def ask(self, kind: int, body: Any = b"", *, topic: str = "", session: int = 0, timeout_ms: int = 0) -> Any:
        """Send a request and return the answer; raise it where it is an error."""
        return self.answer(self.post(kind, body, topic=topic, session=session, timeout_ms=timeout_ms))

    def next_message(self) -> Message:
        """Return the next message, and take note of it."""
        message = self.receive()
        assert message.kind != Kind.GOODBYE, bytes(message.body).decode()
        if message.kind == Kind.REPLY:
            self._replies[message.id] = message
        elif message.kind == Kind.DELIVER:
            self.entries.setdefault(message.session, []).extend(decode_entries(message.body))
        elif message.kind == Kind.LEAVE:
            self.ended[message.session] = error_of(message)
        return message

    # -- what is asked -----------------------------------------------------------------------------------

    def command(self, name: str, **fields: Any) -> Any:
        """Carry out a command."""
        return self.ask(Kind.COMMAND, {"command": name, **fields})

    def declare(self, topic: str, **options: Any) -> Any:
        """Make a topic."""
        return self.command("declare", topic=topic, **options)

    def group(self, topic: str, name: str) -> dict[str, Any]:
        """Return what is told of a group."""
        groups: list[dict[str, Any]] = self.command("topic", topic=topic)["groups"]
        return next(group for group in groups if group["group"] == name)

    def produce(self, topic: str, *messages: str | bytes) -> Any:
        """Store messages as one frame, made by `entry` or given as their bodies, and return the receipt."""
        return self.answer(self.post_produce(topic, *messages))

    def post_produce(self, topic: str, *messages: str | bytes) -> int:
        """Send messages as one frame, and return the request's id."""
        entries = (one if isinstance(one, bytes) else entry(one) for one in messages)
        return self.post(Kind.PRODUCE, b"".join(entries), topic=topic)

    def consume(self, topic: str, group: str | None, **options: Any) -> int:
        """Join a group, and return the subscription's number."""
        number: int = self.ask(Kind.CONSUME, {"group": group, **options}, topic=topic)["subscription"]
        return number

    def take(self, subscription: int, count: int) -> list[Entry]:
        """Return the next messages of a subscription, once so many have come."""
        while len(self.entries.get(subscription, ())) < count:
            self.next_message()
        taken = self.entries[subscription][:count]
        del self.entries[subscription][:count]
        return taken

    def nack(self, subscription: int, *offsets: int, **fields: Any) -> int:
        """Say that messages are not done, and return how many it concerned."""
        ranges = [[offset, offset] for offset in offsets]
        return int(self.ask(Kind.NACK, {"ranges": ranges, **fields}, session=subscription))

    def ack(self, subscription: int, *offsets: int) -> int:
        """Acknowledge messages, and return how many it concerned once that survives a kill -9."""
        return int(self.ask(Kind.ACK, encode_ranges(sorted(offsets)), session=subscription))
