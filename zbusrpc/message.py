"""The message: what travels between client, broker and service, whatever framing carries it.

A message is a kind, a number that pairs a request with its reply, a topic, a time limit, headers and a body.
Headers and body stay the bytes they came as: the broker forwards them untouched and never looks inside.

Headers are a flat JSON object of strings. Reserved names are those of W3C trace context (`traceparent`,
`tracestate`) and the ones named below; `meta-<key>` carries a caller's metadata.
"""

from enum import IntEnum, IntFlag
from typing import Final

import orjson

from zbusrpc.errors import ProtocolError

HEADER_CALLER: Final = "caller"
"""Who calls, in its own words, where it says so with `options(caller=...)`."""
HEADER_ATTEMPT: Final = "attempt"
"""Set by the broker from the second instance on that is given a call: 2, 3, ..."""
HEADER_MESSAGE_ID: Final = "message-id"
"""Set by the caller of a durable service: a request that is sent again has the same."""
HEADER_TRACE: Final = "trace"
"""Set by a handler that calls: names the outermost handler's call, so that logs of all that it leads to share an id."""
HEADER_PARAMS: Final = "params"
"""`text` when the parameters were typed by a person: strings, to be converted by the method's types."""
HEADER_METADATA_PREFIX: Final = "meta-"
"""Before each key of the caller's metadata."""


class Kind(IntEnum):
    """What a message asks for. The numbers are on the wire; docs/protocol.md says who may send which."""

    HELLO = 1
    """First on a connection, both ways: versions, limits, who is there."""
    PING = 2
    """Client to broker when it has been quiet: answer with a PONG."""
    PONG = 3
    """The answer to a PING."""
    GOODBYE = 4
    """Last on a connection: why it is closed."""
    REQUEST = 5
    """Caller to broker, then broker to service: a call."""
    REPLY = 6
    """Service to broker, then broker to caller: the end of a call, a result or (flagged) an error."""
    CANCEL = 7
    """Caller to broker, then broker to service: the result is no longer wanted."""
    SUBSCRIBE = 8
    """Service to broker: send requests of this topic, at most so many unanswered at a time."""
    UNSUBSCRIBE = 9
    """Service to broker: send no more requests of this topic."""
    RETURN = 10
    """Service to broker: this request was not started; give it to another."""
    DONE = 11
    """Service to broker: a cancelled request has ended; its place in the window is free."""
    QUERY = 12
    """Client to broker: what is running? Answered by a REPLY."""
    PRODUCE = 13
    """Producer to broker: store these messages. Answered by a REPLY, as all that follow unless their id is 0."""
    CONSUME = 14
    """Consumer to broker: give me messages of this topic and group."""
    DELIVER = 15
    """Broker to consumer: messages of a subscription."""
    ACK = 16
    """Consumer to broker: these are done."""
    NACK = 17
    """Consumer to broker: these are not done."""
    EXTEND = 18
    """Consumer to broker: I still work on these."""
    PULL = 19
    """Consumer to broker: give me up to so many messages now."""
    LEAVE = 20
    """Consumer to broker: I want no more; broker to consumer: there will be no more, and why."""
    COMMAND = 21
    """Client to broker: declare, remove, seek, peek, ...: what people and tools do with topics and groups."""
    TRACK = 22
    """Client to broker: tell me which brokers there are, and of every change. Answered by a REPLY."""
    TOPOLOGY = 23
    """Broker to client: what has changed among the brokers."""
    REPORT = 24
    """Broker to tracker: what I am, what has changed of it, or only that I live."""
    BEGUN = 25
    """Consumer to broker: these were handed to the application, and count as attempts from now on."""
    MOVED = 26
    """Broker to consumer: its group was moved; the subscription has another number, and what it had is forgotten."""
    RECALL = 27
    """Broker to consumer: others are idle; give back up to so many messages that were not begun."""


LINK_KINDS_MAX: Final = Kind.GOODBYE
"""Kinds up to this one concern the connection itself; those above it are commands to the broker or its answers."""


class Flag(IntFlag):
    """Bits of a message."""

    NONE = 0
    HEADERS = 1
    """Headers stand between topic and body. Set by the codec."""
    ERROR = 2
    """On a REPLY: the body holds an error."""
    IDEMPOTENT = 4
    """On a REQUEST: running it twice does no harm; it may be given to another instance."""
    WAIT_FOR_READY = 8
    """On a REQUEST: wait in the queue for an instance instead of failing at once."""
    NOT_RUN = 16
    """On a REPLY with ERROR, or a RETURN: it was not begun, so that trying again cannot do it twice. Only whoever knows
    sets it."""


class Message:
    """One message. Mutable only by whoever holds it; nobody keeps one that was sent.

    Instances are created for every call at every hop, so this is a plain class with slots (0.17 us against
    0.9 us for a frozen dataclass).
    """

    __slots__ = ("body", "flags", "header_bytes", "id", "kind", "session", "timeout_ms", "topic")

    def __init__(
        self,
        kind: int,
        id: int = 0,  # noqa: A002 - the protocol's own word
        topic: bytes = b"",
        body: bytes | bytearray = b"",
        header_bytes: bytes = b"",
        flags: int = 0,
        timeout_ms: int = 0,
        session: int = 0,
    ) -> None:
        self.kind = kind
        """One of `Kind`."""
        self.id = id
        """Pairs a reply with its request. A session's requests have growing ids; 0 where nothing is paired."""
        self.topic = topic
        """Topic in UTF-8: the service's name; at most 255 bytes."""
        self.body = body
        self.header_bytes = header_bytes
        """The JSON object of the headers, or nothing."""
        self.flags = flags
        """Bits of `Flag`."""
        self.timeout_ms = timeout_ms
        """Milliseconds left for the call as of sending; 0 is no limit."""
        self.session = session
        """The caller's session, set by the broker: with `id` it names a call wherever it is seen. In what concerns
        a subscription: its number."""

    def __repr__(self) -> str:
        kind = Kind(self.kind).name if self.kind in Kind._value2member_map_ else self.kind
        return f"<{kind} id={self.id} topic={self.topic!r} body={len(self.body)} bytes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def headers(self) -> dict[str, str]:
        """Return the headers.

        Raises:
            ProtocolError: they are not a JSON object of strings.
        """
        return decode_headers(self.header_bytes)


def encode_headers(headers: dict[str, str]) -> bytes:
    """Return headers as they stand in a frame: nothing for none."""
    return orjson.dumps(headers) if headers else b""


def readable_headers(data: bytes) -> dict[str, str]:
    """Return headers, none where they cannot be read: whoever takes a message is not to suffer for who sent it.

    A broker refuses such headers when they come; a message may have been stored before it did.
    """
    try:
        return decode_headers(data)
    except ProtocolError:
        return {}


def decode_headers(data: bytes) -> dict[str, str]:
    """Return the headers of a frame.

    Raises:
        ProtocolError: they are not a JSON object of strings.
    """
    if not data:
        return {}
    try:
        headers = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"headers are not JSON: {error}") from None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ProtocolError("headers are not a JSON object of strings")
    return headers
