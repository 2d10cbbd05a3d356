"""A subscription: one session that takes messages of one group, by window or by pulling.

Pure data: the rules are in `group.py` and `queues.py`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.sessions.shares import payer_of

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
        "_answered_before",
        "_sent_before",
        "answered",
        "begun",
        "begun_max",
        "credit",
        "entries",
        "entries_bytes",
        "entries_live_ms",
        "group",
        "had",
        "in_flight",
        "is_answering",
        "is_silent",
        "number",
        "overdue",
        "payer",
        "pulls",
        "recalled",
        "rights",
        "sent",
        "session",
        "sink",
        "window",
        "withheld",
    )

    def __init__(self, session: Session, number: int, group: "Group", window: int, sink: Sink | None = None) -> None:
        self.session = session
        self.number = number
        """Names it in its session."""
        self.rights = session.rights
        """Those by which it takes part: a text session may show another token with each request."""
        self.payer = payer_of(session)
        """Whose share of subscriptions it takes."""
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
        self.withheld = 0
        """Credit that is kept back because messages waited here while others were idle: each answer gives one back."""
        self.recalled = 0
        """So many messages it was asked for, and has not given back."""
        self.in_flight = 0
        self.had: dict[int, Delivery] = {}
        """What it has, or had last: messages whose `consumer` it is, by offset."""
        self.begun = 0
        """Of those in flight: begun, where it says so."""
        self.begun_max = 1
        """The most that it had begun at a time: it takes so many."""
        self.answered = 0
        """How many messages it has answered."""
        self._answered_before = self._sent_before = -1  # when it was last looked at
        self.sent = 0
        """How many messages were put into frames for it."""
        self.pulls: deque[Pull] = deque()
        self.entries: list[bytes] = []
        """What is to be sent with the next frame."""
        self.entries_bytes = 0
        self.entries_live_ms = 0
        """How long the first of them that has a time to live has left; 0 where none has."""

    @property
    def unbegun(self) -> int:
        """How many messages lie in its buffer, as far as it says so."""
        return 0 if self.is_silent else self.in_flight - self.begun

    @property
    def is_idle(self) -> bool:
        """Whether it would begin another message now."""
        if self.credit <= 0 or self.session.is_congested:
            return False
        return not self.in_flight or (not self.is_silent and self.begun == self.in_flight < self.begun_max)

    def note_pace(self) -> int:
        """Take note of how far it is; return how many messages more it has than it will begin soon, by its pace.

        Those count only of which some were there when it was last looked at.
        """
        pace, sent = self.answered - self._answered_before, self.sent - self._sent_before
        is_known = self._sent_before >= 0
        self._answered_before, self._sent_before, self.recalled = self.answered, self.sent, 0
        if not is_known or not self.window or self.unbegun - sent <= pace:
            return 0
        return self.unbegun - pace
