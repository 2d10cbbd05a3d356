"""Standing: how the pending messages of a group stand, as the journal has them.

    {"next": 17, "fresh": [[16, 16]], "once": [[12, 14]], "others": [[15, 3, 1700000000000]], "done": [[3, 9]],
     "full": true}

    next     all messages below it are done, but those that are pending
    fresh    pending, never begun, and due: runs of offsets
    once     pending, begun once, and due
    others   pending: offset, how often it was begun, when it is due (0: at once), and whether its time to live does not
             count (left out: it does)
    done     not pending any more
    full     what is not named here is not pending

They are read in this order, so that what stands later counts.

Pure.
"""

from typing import Any, Final, NamedTuple

from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.transport.entries import runs


class Standing(NamedTuple):
    """How a pending message stands."""

    attempts: int
    """How often a consumer has begun it."""
    due_ms: int
    """When it is due, in ms since 1970; 0 is at once."""
    is_lifted: bool = False
    """Whether its time to live does not count."""


Pending = dict[int, Standing]
"""By offset."""


_FRESH: Final = Standing(0, 0)
_ONCE: Final = Standing(1, 0)


def standing_of(delivery: Delivery) -> Standing:
    """Return how a message stands."""
    return Standing(delivery.attempts_begun, delivery.due_ms, delivery.is_lifted)


def other(delivery: Delivery) -> tuple[int, ...]:
    """Return a message as `others` has it."""
    attempts, due_ms, is_lifted = standing_of(delivery)
    return (delivery.offset, attempts, due_ms, True) if is_lifted else (delivery.offset, attempts, due_ms)


def encode(position: int, deliveries: list[Delivery]) -> dict[str, Any]:
    """Return a place with these messages, whose offsets rise."""
    fresh: list[int] = []
    once: list[int] = []
    others: list[tuple[int, ...]] = []
    for delivery in deliveries:
        attempts = delivery.attempts_begun
        if delivery.is_lifted or attempts > 1 or delivery.due_ms:
            others.append(other(delivery))
        else:
            (once if attempts else fresh).append(delivery.offset)
    place: dict[str, Any] = {"next": position}
    place |= {"fresh": list(runs(fresh))} if fresh else {}
    place |= {"once": list(runs(once))} if once else {}
    return place | ({"others": others} if others else {})


def apply(place: dict[str, Any], pending: Pending) -> Pending:
    """Return what is pending after `place`, where `pending` was before."""
    pending = {} if place.get("full") else pending
    for name, standing in (("fresh", _FRESH), ("once", _ONCE)):
        for first, last in place.get(name, ()):
            pending.update(dict.fromkeys(range(first, last + 1), standing))
    for offset, *said in place.get("others", ()):
        pending[offset] = Standing(*said)
    for first, last in place.get("done", ()):
        for offset in range(first, last + 1):
            pending.pop(offset, None)
    return pending
