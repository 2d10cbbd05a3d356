"""A delivery: one message of a group, from when it was read to when it is done.

    HELD ──key is free──> WAITING ──────> IN_FLIGHT ──ack──> (done: nothing is kept of it)
                             ^  ^             |
                   its time  |  └─ release ───┤ the consumer left: first in line again
                   has come  |                |
                          DELAYED <── nack, ──┤
                                     lease    └── attempts used up, or rejected ──> DEAD ──stored there──> (done)

Pure data: the rules are in `group.py`.
"""

from enum import Enum, auto

from zbusrpc.broker.mq.subscription import Subscription
from zbusrpc.broker.storage.record import Record


class State(Enum):
    """Where a message is."""

    HELD = auto()
    """Another message with its key comes first."""
    WAITING = auto()
    """The next consumer with credit gets it."""
    DELAYED = auto()
    """It waits for its time."""
    IN_FLIGHT = auto()
    """A consumer has it."""
    DEAD = auto()
    """It is on its way to the dead-letter topic."""


class Delivery:
    """One message that a group has read and not done with."""

    __slots__ = (
        "attempts", "consumer", "due_ms", "is_begun", "is_lifted", "key", "number", "offset", "record",
        "state", "until",
    )  # fmt: skip

    def __init__(self, offset: int, key: bytes, state: State, attempts: int = 0, due_ms: int = 0) -> None:
        self.offset = offset
        self.key = key
        self.state = state
        self.attempts = attempts
        """How often it was handed out, and begun by its consumer, as far as that says so."""
        self.due_ms = due_ms
        """DELAYED: when it is due, in ms since 1970, for the disk."""
        self.is_lifted = False
        """Whether it lives for ever, whatever its time to live: somebody has asked for it to be tried again."""
        self.consumer: Subscription | None = None
        """Who has it, or had it last: until it is handed out again, an acknowledgement of that one counts."""
        self.is_begun = True
        """IN_FLIGHT: whether its consumer has begun it; else this delivery is no attempt yet."""
        self.number = 0
        """IN_FLIGHT: which of the messages that were sent to its consumer it is, from 1."""
        self.until = 0.0
        """IN_FLIGHT: when its lease ends. DELAYED: when its wait does."""
        self.record: Record | None = None
        """The message, where there was room to keep it; else it is read again."""

    @property
    def attempts_begun(self) -> int:
        """How often it was handed out and begun: what a restart has to know."""
        return self.attempts - (self.state is State.IN_FLIGHT and not self.is_begun)

    def __repr__(self) -> str:
        return f"<Delivery {self.offset} {self.state.name} attempts={self.attempts}>"
