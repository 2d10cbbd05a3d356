"""Options of topics and groups, and places to start from, in Python's words; and the same as they go over the wire.

Times are seconds here; the wire has some in ms. What is not given is left to the broker, which knows the defaults and
checks the values.

Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypedDict

from zbusrpc.errors import UsageError, did_you_mean
from zbusrpc.mq.receipt import Durability


class TopicOptions(TypedDict, total=False):
    """Options of a topic."""

    durability: Durability
    """What an acknowledged message survives: "disk" a power cut, "os" the end of the broker, "memory" neither. By
    default what the broker was started with."""
    keep: float | None
    """Seconds after which messages may be removed, by default a week; None keeps them, as `compact` does by default."""
    keep_bytes: int | None
    """The oldest messages may be removed while the topic is larger; by default it may grow."""
    keep_consumed: bool
    """False: messages that all groups have passed may be removed."""
    keep_unconsumed: bool
    """False: `keep` and `keep_bytes` also remove what a group still needs."""
    compact: bool
    """Whether of the messages with the same key only the last is kept."""
    segment_bytes: int
    """Messages are removed by whole segments of about this size, by default 64 MiB."""
    duplicate_window: float
    """Seconds for which the id of a message is remembered, by default 120."""
    duplicate_window_ids: int
    """How many ids are remembered, by default 100,000."""
    ttl: float | None
    """Seconds that messages live which name no time of their own; by default they do not end."""
    dead_letter_topic: str | None
    """Where messages go that could not be handled, by default `<topic>.dlq`; "" drops them."""


class GroupOptions(TypedDict, total=False):
    """Options of a consume group."""

    filter: str
    """Which tags it wants: segments between dots; `+` is any one, `*` at the end one or more, `#` zero or more; `;` is
    or. By default all messages."""
    exclusive: bool
    """Whether only one consumer at a time may take part."""
    delete_on_exit: bool
    """Whether it goes when its last consumer leaves."""
    paused: bool
    """Whether nothing is delivered until `resume`."""
    ack: bool
    """False: a message is done when it was handed out, and is lost when its consumer fails."""
    lease: float
    """Seconds that a consumer may have a message before it is given to another, by default 30."""
    max_attempts: int
    """Deliveries before a message goes to the dead letters, by default 10."""
    backoff: float
    """Seconds before the second delivery, by default 1; the wait doubles from then on, and half of it is random."""
    backoff_max: float
    """Longest such wait in seconds, by default 300."""
    expires: int | None
    """Seconds without a consumer after which the group goes, while the broker runs; by default it stays."""


@dataclass(frozen=True, slots=True)
class AtMessage:
    """The place of the message with this id."""

    id: str
    offset: int | None = None
    """Where it is, as its receipt said: then it must be there. Without it, it is looked for among the last ones."""


@dataclass(frozen=True, slots=True)
class LikeGroup:
    """The place of another group of the topic, with what that one has pending."""

    group: str


StartAt = Literal["oldest", "newest"] | int | datetime | AtMessage | LikeGroup
"""A place in a topic: an int is an offset; a datetime, which needs a time zone, the first message since then."""

_WIRE_NAMES: Final = {
    "keep": "keep_s",
    "duplicate_window": "duplicate_window_s",
    "ttl": "ttl_ms",
    "lease": "lease_ms",
    "backoff": "backoff_ms",
    "backoff_max": "backoff_max_ms",
    "expires": "expires_s",
}
"""Those that are called otherwise, with the unit."""
_OWN_NAMES: Final = {wire: own for own, wire in _WIRE_NAMES.items()}


def to_wire(options: Mapping[str, Any], kind: type[TopicOptions] | type[GroupOptions]) -> dict[str, Any]:
    """Return options as they go over the wire.

    Raises:
        UsageError: there is no such option, or a time is no number.
    """
    known = kind.__annotations__
    fields: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"there is no option {name}{did_you_mean(name, known)}")
        wire_name = _WIRE_NAMES.get(name, name)
        fields[wire_name] = _to_ms(name, value) if wire_name.endswith("_ms") and value is not None else value
    return fields


def from_wire(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that came over the wire in Python's words."""
    return {
        _OWN_NAMES.get(name, name): value / 1000 if name.endswith("_ms") and value is not None else value
        for name, value in options.items()
    }


def start_to_wire(start: StartAt | None) -> Any:
    """Return a place as it goes over the wire, None for none.

    Raises:
        UsageError: it is none.
    """
    if start is None or start in {"oldest", "newest"}:
        return start
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise UsageError(f"start={start!r} has no time zone; write datetime(..., tzinfo=UTC) or .astimezone()")
        return {"time_ms": round(start.timestamp() * 1000)}
    if isinstance(start, AtMessage):
        return {"id": start.id} if start.offset is None else {"id": start.id, "offset": start.offset}
    if isinstance(start, LikeGroup):
        return {"group": start.group}
    if isinstance(start, int) and not isinstance(start, bool):
        return {"offset": start}
    raise UsageError(f'start={start!r}: "oldest", "newest", an offset, a datetime, AtMessage(...) or LikeGroup(...)')


def _to_ms(name: str, seconds: Any) -> int:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise UsageError(f"{name}={seconds!r}: a number of seconds")
    return round(seconds * 1000)
