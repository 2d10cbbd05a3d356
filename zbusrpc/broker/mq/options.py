"""Options of topics and groups: what `declare` takes, what is stored, and what listings show.

One model each is the single spelling for the wire, the disk and the documents. Pure.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from zbusrpc import bounds
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.retention import Retention
from zbusrpc.transport.naming import one_spelling

MIB: Final = 1024 * 1024
DAY_S: Final = 86_400
_RPC_MASK: Final = 2
"""Of a topic that a zbus client has declared as a service: see `broker/dialects/zbus/masks.py`."""

Mask = Annotated[int, bounds.MASK]
Name = Annotated[str, AfterValidator(one_spelling)]
"""Of a topic or group, in the one spelling that is compared."""
Seconds = Annotated[float, bounds.KEEP_S]


class Options(BaseModel):
    """What both have in common: unknown fields are refused, and nothing changes in place."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TopicOptions(Options):
    """Options of a topic."""

    durability: Durability = Durability.DISK
    """What an acknowledged message survives."""
    keep_s: Seconds | None = 7 * DAY_S
    """Messages may be removed when they are older; None keeps them, which is the default where `compact` is given."""
    keep_bytes: Annotated[int, bounds.KEEP_BYTES] | None = None
    """The oldest messages may be removed while the topic is larger."""
    keep_consumed: bool = True
    """Whether messages that all groups have passed stay until `keep_s` or `keep_bytes` says otherwise. They stay for
    the duplicate window at least."""
    keep_unconsumed: bool = True
    """Whether `keep_s` and `keep_bytes` spare what a group still needs. False saves the disk and may lose messages."""
    compact: bool = False
    """Whether of the messages with the same key only the last is kept."""
    segment_bytes: Annotated[int, bounds.SEGMENT_BYTES] = 64 * MIB
    """Messages are removed by whole segments of about this size."""
    duplicate_window_s: Seconds = 120.0
    """A message whose id was stored no longer ago is a duplicate."""
    duplicate_window_ids: Annotated[int, bounds.DUPLICATE_IDS] = 100_000
    """So many ids are remembered."""
    ttl_ms: Annotated[int, bounds.TTL_MS] | None = None
    """Time to live of messages that name none."""
    rpc: bool = False
    """Whether it holds the requests of a durable service: set by the broker when such a service subscribes."""
    dead_letter_topic: Name | None = None
    """Where messages go that could not be handled; by default `<topic>.dlq`, "" drops them."""
    mask: Mask = 0
    """What a zbus client declared it with: see `broker/dialects/zbus/masks.py`."""

    @property
    def is_service(self) -> bool:
        """Whether what is sent there are calls, stored or not: as it was declared."""
        return self.rpc or bool(self.mask & _RPC_MASK)

    def log_options(self) -> LogOptions:
        """Return what these options are for the log."""
        retention = Retention(
            age_ms_max=None if self.keep_s is None else round(self.keep_s * 1000),
            bytes_max=self.keep_bytes,
            when_passed=not self.keep_consumed,
            passed_age_ms_min=round(self.duplicate_window_s * 1000),  # a restart reads the ids of late messages again
            spare_needed=self.keep_unconsumed,
        )
        return LogOptions(segment_bytes_max=self.segment_bytes, retention=retention, compact=self.compact)


class GroupOptions(Options):
    """Options of a consume group."""

    filter: str = ""
    """Which tags it wants; see filters.py. Nothing for all messages."""
    exclusive: bool = False
    """Whether only one consumer at a time may take part."""
    delete_on_exit: bool = False
    """Whether it goes when its last consumer has left."""
    paused: bool = False
    """Whether nothing is delivered."""
    ack: bool = True
    """Whether messages are done when they are acknowledged; False: when they are handed out."""
    lease_ms: Annotated[int, bounds.LEASE_MS] = 30_000
    """How long a consumer may have a message before it counts as failed."""
    max_attempts: Annotated[int, bounds.ATTEMPTS] = 10
    """How often a message is delivered before it goes to the dead letters."""
    backoff_ms: Annotated[int, bounds.BACKOFF_MS] = 1000
    """Wait before the second delivery; doubles from then on, and half of it is random."""
    backoff_max_ms: Annotated[int, bounds.BACKOFF_MS] = 300_000
    """Longest such wait."""
    in_flight_max: Annotated[int, bounds.IN_FLIGHT] | None = None
    """How many messages all consumers together may have and not have answered; None bounds each by its window."""
    expires_s: Annotated[int, bounds.EXPIRES_S] | None = None
    """It goes when nobody has consumed from it for so long, not counting the time in which the broker was down."""
    mask: Mask = 0
    """What a zbus client declared it with: see `broker/dialects/zbus/masks.py`."""

    def longest_wait_ms(self, attempts: int) -> float:
        """Return the wait after so many deliveries, before half of it becomes random."""
        return min(self.backoff_ms * 2.0 ** min(attempts - 1, 60), self.backoff_max_ms)


class Start(Options):
    """Where a group begins: exactly one of these, or `id` with its `offset`."""

    offset: Annotated[int, bounds.OFFSET] | None = None
    id: str | None = None
    time_ms: Annotated[int, bounds.TIME_MS] | None = None
    group: Name | None = None


StartAt = Literal["newest", "oldest"] | Start


def implied(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a topic that follow from those that are given: who wants the last value of each key kept
    wants it kept for ever, unless he says how long."""
    return {"keep_s": None} if given.get("compact") and "keep_s" not in given else {}


def given(options: Options) -> dict[str, Any]:
    """Return the fields that were set, by name."""
    return {name: getattr(options, name) for name in options.model_fields_set}
