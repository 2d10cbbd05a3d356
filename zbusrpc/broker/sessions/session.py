"""A session: what the broker knows of one connected peer, and what calls and messages keep of it.

A peer may call (its `calls`), serve (its `consumers` and the `deliveries` they work on), and consume stored messages
(its `subscriptions`). What these are is said where they are made; a session is only the place for them.

Pure data.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from zbusrpc.broker.access.rights import Rights, visible
from zbusrpc.transport.native import HEADERS_BYTES_MAX, TOPIC_BYTES_MAX

if TYPE_CHECKING:
    from zbusrpc.broker.calls.call import Call, Instance
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
        self.consumers: dict[bytes, Instance] = {}
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


NOBODY: Final = Session(0, "nobody")
"""The caller of stored calls that nobody waits for; what is sent to it goes nowhere."""
