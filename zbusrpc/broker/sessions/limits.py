"""The bounds of a broker: what it keeps before it says RESOURCE_EXHAUSTED."""

from dataclasses import dataclass
from typing import Final

from zbusrpc.config import CONCURRENCY_MAX, CONNECTIONS_PER_ADDRESS_MAX, QUEUE_CALLS_MAX, QUEUED_BYTES_MAX
from zbusrpc.errors import Code, RpcError
from zbusrpc.outcome import not_run

WINDOW_MAX: Final = CONCURRENCY_MAX
"""Largest number of unanswered requests that one consumer may hold."""
ATTEMPTS_MAX: Final = 3
"""How many instances an idempotent call may see die: a call that kills them must not kill them all."""
RETRY_AFTER_S: Final = 0.5
"""What a full queue asks its callers to wait: a human's blink, and long enough for a queue to move."""
INTERFACE_BYTES_MAX: Final = 64 * 1024
"""What an instance tells of its methods, as JSON; more is not kept."""
SUBSCRIBE_BYTES_MAX: Final = 1024 * 1024
"""The body of a SUBSCRIBE, which holds what an instance tells of its methods."""
ABOUT_BYTES_MAX: Final = 64 * 1024
"""What an instance says of itself besides, as JSON: it is kept, and shown in every list."""
SERVICES_PER_SESSION_MAX: Final = 256
"""Services of one connection: 32 MiB of what they say of themselves."""
TOKEN_SHARE: Final = 1 / 2
"""Of each bound of the broker, what one token may have; without tokens, one connection. Who is alone has enough, and
who comes second always finds room."""
SERVICE_SHARE: Final = 3 / 4
"""Of the bytes that wait, what calls to one service may have: one that is stuck leaves room for the others. It is more
than one token may have, so that none closes a service to the rest."""
LINGER_S: Final = 30.0
"""A group that goes with its last consumer stays so long when that one was cut off: it may come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one broker."""

    queue_calls_max: int = QUEUE_CALLS_MAX
    """Calls waiting in one topic."""
    queued_bytes_max: int = QUEUED_BYTES_MAX
    """Bytes waiting in all topics together."""
    waiting_calls_max: int = 200_000
    """Calls waiting in all topics together: each takes a KiB, however small it is."""
    storing_bytes_max: int = 256 * 1024 * 1024
    """Bytes of produced messages that wait for the disk, which may be slow or stuck."""
    delayed_max: int = 100_000
    """Messages of one topic that are not due, by tokens: so many a group may have in hand, and each takes a place."""
    topics_max: int = 10_000
    """Services with calls, and stored topics, each."""
    calls_per_session_max: int = 65_536
    """Calls that one caller may have unanswered."""
    groups_per_topic_max: int = 10_000
    """Consume groups of one topic: each message of it is looked at for each of them."""
    groups_max: int = 100_000
    """Consume groups of all topics together: about 500 MiB."""
    subscriptions_per_session_max: int = 10_000
    """Consumers of one connection."""
    subscriptions_max: int = 100_000
    """Consumers of all connections together: about 100 MiB."""
    connections_per_address_max: int = CONNECTIONS_PER_ADDRESS_MAX
    """Connections of one address. One number for all, generous because a gateway, a proxy or the host itself may stand
    for thousands of clients: it is to keep a client that opens one after the other from taking every descriptor."""


def share_used_up(who: str, share: int, of_what: str) -> RpcError:
    """One has all that one may have of what is there for all."""
    message = f"the share of {who} is used up: {share} {of_what}; retry after {RETRY_AFTER_S:g} s"
    return not_run(Code.RESOURCE_EXHAUSTED, message, {"retry_after_s": RETRY_AFTER_S})


def too_many(what: str, limit: int) -> RpcError:
    """Some other bound is reached."""
    message = f"the broker's limit of {limit} {what} is reached; retry after {RETRY_AFTER_S:g} s"
    return not_run(Code.RESOURCE_EXHAUSTED, message, {"retry_after_s": RETRY_AFTER_S})
