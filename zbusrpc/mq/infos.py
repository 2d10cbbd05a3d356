"""Infos: what a broker tells about topics, groups and stored messages, as values with types.

A broker may tell more than stands here; what is not known is left out. Pure.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar, overload

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from zbusrpc.mq.options import from_wire
from zbusrpc.mq.receipt import Durability


def _from_ms(value: Any) -> Any:
    return datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, int | float) else value


Moment = Annotated[datetime, BeforeValidator(_from_ms)]
"""A time in UTC; on the wire ms since 1970."""
Options = Annotated[dict[str, Any], BeforeValidator(from_wire)]


class Info(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,  # most programs never ask; it would take 6 ms of `import zbusrpc`
    )


class TopicInfo(Info):
    """A topic."""

    name: str = Field(validation_alias="topic")
    broker: str = ""
    """Where several brokers were named: who has it. Of `topic`, all that have it: numbers are added up then, and
    offsets are those of the first."""
    durability: Durability
    """What an acknowledged message survives."""
    messages: int
    """How many are kept."""
    start_offset: int
    """Of the oldest message."""
    next_offset: int
    """Of the message that comes next."""
    bytes: int
    """Size on the disk."""
    created_at: Moment = Field(validation_alias="created_ms")
    group_count: int
    consumers: int
    """Of all groups together."""
    produced: int
    """Messages stored since the broker started."""
    duplicates: int
    """Messages that were not stored since then, because their id was known."""
    closed_because: str | None = None
    """Why nothing is stored any more, after a fault of the disk."""
    held_back_by: str | None = None
    """The group for which messages stay that would have been removed else."""
    unreadable_because: str | None = None
    """Why it cannot be read, where that is so: its numbers are 0 then, and its name may be that of its directory."""
    options: Options
    """As `TopicOptions`, all of them."""
    is_new: bool = Field(False, validation_alias="created")
    """Of `declare`: whether it was made just now."""


class ConsumerInfo(Info):
    """A consumer that takes part in a group."""

    name: str
    """What it calls itself."""
    session: int
    """Number of its connection."""
    window: int
    in_flight: int
    """Messages that it has not answered."""


class GroupInfo(Info):
    """A consume group."""

    topic: str
    name: str = Field(validation_alias="group")
    broker: str = ""
    """Of `topic`, where several brokers were named: who has it."""
    next_offset: int
    """Of the message that is handed out next for the first time."""
    lag: int
    """Messages that it is not done with; those that its filter will leave out count."""
    in_flight: int
    """With consumers."""
    begun: int
    """Of those: handed to their applications, as far as these say so; the rest lies in buffers."""
    waiting: int
    """To be handed out again."""
    delayed: int
    """Whose time has not come."""
    held: int
    """Behind another with the same key."""
    dead: int
    """On their way to the dead letters."""
    dead_letters: int = 0
    """Dead letters of it that nobody has dealt with."""
    oldest_offset: int
    """The first that it is not done with."""
    consumers: list[ConsumerInfo]
    counters: dict[str, int]
    """What happened since the broker started: delivered, redelivered, late; and of those that it is
    done with, each in one: acked, dead, expired, removed, compacted, skipped."""
    options: Options
    """As `GroupOptions`, all of them."""
    is_new: bool = Field(False, validation_alias="created")
    """Of `declare_group`: whether it was made just now."""


class TopicDetails(TopicInfo):
    """A topic with its groups."""

    groups: list[GroupInfo]
    journal_fails_because: str | None = None
    """Why what groups do is not stored now, after a fault of the disk: a restart brings messages again."""


class StoredMessage(Info):
    """A message as it is stored."""

    offset: int
    timestamp: Moment = Field(validation_alias="timestamp_ms")
    """When it was stored."""
    id: str
    tag: str
    key: str
    headers: dict[str, str]
    body: bytes
    """The body, or its beginning."""
    size: int
    """Bytes of the whole body."""
    due: Moment | None = Field(None, validation_alias="due_ms")
    """Not delivered before."""
    expiry: Moment | None = Field(None, validation_alias="expiry_ms")
    """Not delivered after."""

    @model_validator(mode="before")
    @classmethod
    def _decode_body(cls, value: Any) -> Any:
        """Read a body that is no text, and so is told in base64."""
        if isinstance(value, dict) and "body_base64" in value:
            return {**value, "body": base64.b64decode(value["body_base64"])}
        return value


class DeadLetter(StoredMessage):
    """A message that could not be handled, as it was, with what is known of its end."""

    @property
    def reason(self) -> str:
        """Why it is here."""
        return self.headers.get("dead-reason", "")

    @property
    def group(self) -> str:
        """The group in which it failed."""
        return self.headers.get("dead-group", "")

    @property
    def attempts(self) -> int:
        """How often it was delivered there."""
        return self._number("dead-attempts") or 0

    @property
    def failed_offset(self) -> int | None:
        """Where it was in its own topic."""
        return self._number("dead-offset")

    def _number(self, name: str) -> int | None:
        text = self.headers.get(name, "")
        return int(text) if text.isdecimal() else None


class SeekResult(Info):
    """Where a group goes on, and what it will not get because of that."""

    offset: int
    passed: int
    """Messages that it was not done with."""
    delayed: int
    """Of those: whose time had not come."""


class LeftLetter(Info):
    """A dead letter that was not retried."""

    offset: int
    reason: str


class RetryResult(Info):
    """What became of dead letters that were to be retried."""

    retried: int
    left: list[LeftLetter]


M = TypeVar("M", bound=StoredMessage)


@dataclass(frozen=True, slots=True)
class Page(Sequence[M], Generic[M]):
    """Some messages, and where to go on."""

    messages: list[M]
    next_offset: int
    """Where the next page starts."""
    end_offset: int
    """Of the message that comes next in the topic: a page that starts there is empty."""
    topic: str = ""
    """Of dead letters: the topic that they are in; nothing while there is none."""

    def __len__(self) -> int:
        return len(self.messages)

    @overload
    def __getitem__(self, index: int) -> M: ...
    @overload
    def __getitem__(self, index: slice) -> list[M]: ...
    def __getitem__(self, index: int | slice) -> M | list[M]:
        return self.messages[index]

    def __iter__(self) -> Iterator[M]:
        return iter(self.messages)


def page_of(result: dict[str, Any], kind: type[M]) -> Page[M]:
    """Return the page that a broker's answer is."""
    messages = [kind.model_validate(message) for message in result["messages"]]
    return Page(messages, result["next_offset"], result["end_offset"], result.get("topic", ""))
