"""A call, and who carries it out: one request from its arrival to its end, and one session that serves one topic.

Pure data: the rules are in `calls.py` and `service_queue.py`.
"""

import orjson

from zbusrpc.broker.calls.methods import methods_of
from zbusrpc.broker.calls.statistics import CallStatistics
from zbusrpc.broker.sessions.credits import CreditPool
from zbusrpc.broker.sessions.limits import INTERFACE_BYTES_MAX
from zbusrpc.broker.sessions.session import Session
from zbusrpc.message import Message


class Instance:
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
        self.pool: CreditPool[Instance]
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
        self.consumer: Instance | None = None
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
