"""A subscription: one session that takes messages of one group, by window or by pulling.

Pure data: the rules are in `group.py` and `queues.py`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zbusrpc.broker.session import Session

if TYPE_CHECKING:
    from zbusrpc.broker.mq.delivery import Delivery
    from zbusrpc.broker.mq.group import Group
    from zbusrpc.broker.storage.record import Record

Sink = Callable[["Delivery", "Record"], None]
"""Takes a message that was handed out."""


@dataclass(slots=True, kw_only=True)
class Pull:
    """One PULL that has not been answered."""

    request_id: int
    left: int
    """How many more messages it takes."""
    delivered: int = 0
    is_patient: bool = True
    """Whether it waits for the first message."""
    unwatch: Callable[[], object] = lambda: None
    """Stops watching how long it waits."""


class Subscription:
    """One consumer of one group."""

    __slots__ = (
        "credit",
        "entries",
        "entries_bytes",
        "group",
        "in_flight",
        "is_answering",
        "is_silent",
        "number",
        "overdue",
        "pulls",
        "rights",
        "sent",
        "session",
        "sink",
        "window",
    )

    def __init__(self, session: Session, number: int, group: "Group", window: int, sink: Sink | None = None) -> None:
        self.session = session
        self.number = number
        """Names it in its session."""
        self.rights = session.rights
        """Those by which it takes part: a text session may show another token with each request."""
        self.group = group
        self.window = window
        """How many messages may be in flight; 0 is for pulling."""
        self.sink = sink
        """Takes its messages, where they do not travel in frames."""
        self.is_answering = True
        """Whether it says of each message what became of it; else one that is handed out is done."""
        self.is_silent = True
        """Whether it does not say what it has begun: then all that is sent to it is taken for that."""
        self.credit = window
        """How many more it would take now."""
        self.overdue = 0
        """Credit that is kept back because leases have ended, until the consumer answers anything again: one that
        hangs must not be given message after message."""
        self.in_flight = 0
        self.sent = 0
        """How many messages were put into frames for it."""
        self.pulls: deque[Pull] = deque()
        self.entries: list[bytes] = []
        """What is to be sent with the next frame."""
        self.entries_bytes = 0
