"""A session: what the broker knows of one connected peer, and the two things it can take part in.

A peer may call (its `calls`), serve (its `consumers` and the `deliveries` they work on), or both. A `Call` is one
request from its arrival to its end; a `Consumer` is one session serving one topic.

Pure data: the rules are in `calls.py` and `topic.py`.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import orjson

from zbusrpc.broker.access.rights import Rights, visible
from zbusrpc.broker.calls.methods import methods_of
from zbusrpc.broker.calls.statistics import CallStatistics
from zbusrpc.broker.sessions.credits import CreditPool
from zbusrpc.broker.sessions.limits import INTERFACE_BYTES_MAX
from zbusrpc.message import Message
from zbusrpc.transport.native import HEADERS_BYTES_MAX, TOPIC_BYTES_MAX

if TYPE_CHECKING:
    from zbusrpc.broker.mq.subscription import Subscription

BYTES_MAX: Final = sys.maxsize
"""The limit of a peer that has none."""
_HEAD_BYTES_MAX: Final = TOPIC_BYTES_MAX + 4 + HEADERS_BYTES_MAX
"""What a payload holds besides its body, at most."""


class Session:
    """One connected peer, as the broker sees it."""

    __slots__ = (
        "body_bytes_sure",
        "calls",
        "consumers",
        "deliveries",
        "is_congested",
        "is_gone",
        "last_id",
        "last_subscription",
        "message_bytes_max",
        "name",
        "number",
        "outbox",
        "rights",
        "subscriptions",
    )

    def __init__(self, number: int, name: str, message_bytes_max: int = BYTES_MAX) -> None:
        self.number = number
        """Names the session on the wire; never used again while the broker runs."""
        self.name = name
        """Who it is, for people."""
        self.message_bytes_max = message_bytes_max
        """Largest payload it takes: a longer one would make it close its connection."""
        self.body_bytes_sure = message_bytes_max - _HEAD_BYTES_MAX
        """A body up to this size fits for sure."""
        self.outbox: list[Any] = []
        """What is to be sent to this peer, in order: messages, and of a text peer exchanges that have their answer."""
        self.calls: dict[int, Call] = {}
        """The peer's calls that have not ended, by id."""
        self.consumers: dict[bytes, Consumer] = {}
        """What the peer serves, by topic."""
        self.deliveries: dict[tuple[int, int], Call] = {}
        """What the peer works on, by the caller's session and id: also calls that ended without it."""
        self.last_id = 0
        """The id of the peer's last request: the next must be greater."""
        self.is_congested = False
        """Whether the peer reads too slowly to be given work."""
        self.is_gone = False
        """Whether the session has ended."""
        self.subscriptions: dict[int, Subscription] = {}
        """What the peer consumes of stored topics, by number."""
        self.last_subscription = 0
        self.rights: Rights | None = None
        """What the peer may do; None where no tokens are configured: everything."""

    def visible(self, names: Iterable[str]) -> Iterable[str]:
        """Return which of these topics or services the peer may know of."""
        return visible(self.rights, names)


class Consumer:
    """One session serving one topic."""

    __slots__ = (
        "about",
        "credit",
        "interface",
        "is_pulling",
        "methods",
        "pool",
        "rights",
        "session",
        "statistics",
        "topic",
        "window",
    )

    def __init__(
        self, session: Session, topic: bytes, window: int, about: dict[str, object], *, is_pulling: bool = False
    ) -> None:
        self.session = session
        self.rights = session.rights
        """Those by which it serves: a text session may show another token with each request."""
        self.topic = topic
        self.window = window
        """How many requests it takes unanswered."""
        self.credit = window
        """How many more it would take now."""
        self.is_pulling = is_pulling
        """Whether it asks for each request; else a reply is what lets the next one come."""
        told = orjson.dumps(about.pop("interface", None))
        self.interface = told if told != b"null" and len(told) <= INTERFACE_BYTES_MAX else None
        """What it tells of its methods, as JSON, for the monitor; None where it told nothing."""
        self.about = about
        """What it says of itself, for listings."""
        self.methods = methods_of(about)
        """What it says it can do; None for everything."""
        self.pool: CreditPool[Consumer]
        """Where its credit counts; set when it joins the others."""
        self.statistics: CallStatistics
        """Where its calls are counted, with those of the other instances; set when it joins them."""


class Call:
    """One request, from its arrival to its end."""

    __slots__ = (
        "attempts",
        "began",
        "caller",
        "consumer",
        "deadline",
        "has_begun",
        "is_over",
        "is_stored",
        "message",
        "payer",
        "request_id",
        "stored_offset",
        "tick",
    )

    def __init__(self, caller: Session, message: Message, deadline: float | None, began: float) -> None:
        self.began = began
        """When it came, on the broker's clock."""
        self.caller = caller
        self.message = message
        self.request_id = message.id
        """How its caller calls it. On the way to an instance a stored call has a name of the broker's."""
        self.is_stored = False
        """Whether it outlives its caller and the broker."""
        self.stored_offset = -1
        """Where it is stored; -1 when it is not, or not yet."""
        self.deadline = deadline
        """When it ends by itself, on the broker's clock; None for never."""
        self.consumer: Consumer | None = None
        """Who works on it; None while it waits in its topic's queue."""
        self.payer: int | None = None
        """Of whose share it takes while it waits; see `shares.py`. Known when it does."""
        self.attempts = 0
        """To how many consumers it was given."""
        self.has_begun = False
        """Whether an instance that has it no more may have begun it: its handler may have run, whatever comes now."""
        self.tick: dict[Call, None] | None = None
        """Where its deadline is watched."""
        self.is_over = False
        """Whether the caller has its answer or wants none any more."""

    @property
    def size(self) -> int:
        """Bytes it takes in a queue."""
        return len(self.message.body) + len(self.message.header_bytes)


NOBODY: Final = Session(0, "nobody")
"""The caller of stored calls that nobody waits for; what is sent to it goes nowhere."""
