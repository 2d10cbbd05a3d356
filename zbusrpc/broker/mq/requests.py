"""Requests: what the JSON bodies of consumers and tools may say, parsed once at the edge.

Pure: bytes in, values out, or one line that names the field and what is wrong with it.
"""

from collections.abc import Collection
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from zbusrpc import bounds
from zbusrpc.broker.mq.options import GroupOptions, Name, Options, Start, StartAt, TopicOptions, given
from zbusrpc.errors import Code, RpcError, did_you_mean
from zbusrpc.long_integers import long_integer_in
from zbusrpc.message import Kind, Message

REASON_CHARACTERS_MAX: Final = 1024
BODY_BYTES_MAX: Final = 2 * 1024 * 1024
"""The longest list of offsets fits. What is longer would keep the broker busy to find out what is wrong with it."""
ERRORS_MAX: Final = 100
"""Mistakes in one body that are looked at to find the one worth telling."""
SHOWN_CHARACTERS_MAX: Final = 280
"""Of what was sent, in an answer that says what is wrong with it."""

Offset = Annotated[int, bounds.OFFSET]
Offsets = Annotated[list[Offset], Field(max_length=100_000)]
Count = Annotated[int, bounds.COUNT]
T = TypeVar("T")


class Consume(GroupOptions):
    """Body of a CONSUME."""

    group: Name | None = None
    window: Annotated[int, bounds.WINDOW] = 256
    create: bool = True
    says_begun: bool = False
    """Whether the consumer says which messages it has begun; else all that were sent to it count."""
    start: StartAt | None = None

    def group_options(self) -> dict[str, Any]:
        """Return the options of the group that were given."""
        own = {"group", "window", "create", "says_begun", "start"}
        return {name: value for name, value in given(self).items() if name not in own}


class Nack(Options):
    """Body of a NACK."""

    ranges: Annotated[list[tuple[Offset, Offset]], Field(max_length=10_000)]
    then: Literal["retry", "release", "dead"] = "retry"
    delay_ms: Annotated[int, bounds.DELAY_MS] | None = None
    reason: str = ""


class PullBody(Options):
    """Body of a PULL."""

    max: Annotated[int, bounds.PULLED]


class _OfTopic(Options):
    topic: Name


class Declare(TopicOptions):
    """Make a topic, or see that it is as it should be."""

    command: Literal["declare"]
    topic: Name
    update: bool = False
    """Whether options of an existing topic that differ are changed, and not refused."""

    def topic_options(self) -> dict[str, Any]:
        """Return the options of the topic that were given."""
        return {name: value for name, value in given(self).items() if name in TopicOptions.model_fields}


class DeclareGroup(GroupOptions):
    """Make a group, or see that it is as it should be."""

    command: Literal["declare_group"]
    topic: Name
    group: Name
    start: StartAt | None = None
    update: bool = False

    def group_options(self) -> dict[str, Any]:
        """Return the options of the group that were given."""
        return {name: value for name, value in given(self).items() if name in GroupOptions.model_fields}


class ListTopics(Options):
    """List the topics."""

    command: Literal["topics"]
    match: str = ""
    """Part of the name."""


class DescribeTopic(_OfTopic):
    """Tell everything about a topic and its groups."""

    command: Literal["topic"]


class Remove(_OfTopic):
    """Remove a topic, or a group of it."""

    command: Literal["remove"]
    group: Name | None = None


class Empty(_OfTopic):
    """Remove all messages of a topic, or let a group pass them all."""

    command: Literal["empty"]
    group: Name | None = None


class Pause(_OfTopic):
    """Let a group rest, or go on."""

    command: Literal["pause", "resume"]
    group: Name


class Seek(_OfTopic):
    """Move a group."""

    command: Literal["seek"]
    group: Name
    start: StartAt


class Peek(_OfTopic):
    """Look at messages without consuming them."""

    command: Literal["peek"]
    start: StartAt | None = None
    count: Count = 10
    filter: str = ""
    body_bytes_max: Annotated[int, bounds.SHOWN_BYTES] = 64 * 1024


class DeadLetters(_OfTopic):
    """Look at the dead letters of a topic."""

    command: Literal["dlq"]
    start: StartAt | None = None
    count: Count = 10


class RetryDead(_OfTopic):
    """Give dead letters back to the groups in which they failed."""

    command: Literal["retry_dead"]
    offsets: Offsets | None = None
    as_new: bool = False
    """Whether those whose original is gone are produced anew, for all groups."""
    start: Annotated[int, bounds.OFFSET] = 0
    """Where no `offsets` are named: those before it stay."""
    count: Annotated[int, bounds.LETTERS] = bounds.LETTERS.most
    """How many at most."""


class PurgeDead(_OfTopic):
    """Forget dead letters."""

    command: Literal["purge_dead"]
    offsets: Offsets | None = None


class Stats(Options):
    """Counters of the broker."""

    command: Literal["stats"]


class Drain(Options):
    """Take no new work, finish what is under way, and end."""

    command: Literal["drain"]


Command = (
    Declare
    | DeclareGroup
    | ListTopics
    | DescribeTopic
    | Remove
    | Empty
    | Pause
    | Seek
    | Peek
    | DeadLetters
    | RetryDead
    | PurgeDead
    | Stats
    | Drain
)
Asked = Consume | Command
"""What is seen to by rights before it is carried out: read once, by `asked_by`."""
_command: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="command")])


def parse(kind: type[T], data: bytes | bytearray) -> T:
    """Return the body of a CONSUME, NACK or PULL.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    assert issubclass(kind, BaseModel)
    what = kind.__name__.removesuffix("Body").upper()
    _check_size(data, what)
    try:
        return kind.model_validate_json(bytes(data))
    except ValidationError as error:
        raise _refusal(error, what, kind.model_fields) from None


def parse_command(data: bytes | bytearray) -> Command:
    """Return a command.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    _check_size(data, "COMMAND")
    try:
        return _command.validate_json(bytes(data))
    except ValidationError as error:
        errors = _errors_in(error, "COMMAND")
        name = next((str(part["loc"][0]) for part in errors if part["loc"]), "")
        fields: Collection[str] = next((kind.model_fields for kind in get_args(Command) if name in _names_of(kind)), {})
        raise _refusal(error, f"command {name}".strip(), fields) from None


def asked_by(message: Message) -> Asked | None:
    """Return what a CONSUME or COMMAND asks for; None for other messages, which say it without words.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    if message.kind == Kind.COMMAND:
        return parse_command(message.body)
    return parse(Consume, message.body) if message.kind == Kind.CONSUME else None


def _check_size(data: bytes | bytearray, what: str) -> None:
    if len(data) > BODY_BYTES_MAX:
        text = f"{what}: the body of {len(data)} bytes exceeds the limit of {BODY_BYTES_MAX} bytes"
        raise RpcError(Code.INVALID_ARGUMENT, text)


def _names_of(kind: type[BaseModel]) -> tuple[str, ...]:
    return get_args(kind.model_fields["command"].annotation)


def _errors_in(error: ValidationError, what: str) -> list[ErrorDetails]:
    """Return the mistakes, unless there are so many that looking at them would keep the broker busy.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    count = error.error_count()
    if count > ERRORS_MAX:
        raise RpcError(Code.INVALID_ARGUMENT, f"{what}: {count} things are wrong with it")
    return error.errors(include_url=False)


def _refusal(error: ValidationError, what: str, fields: Collection[str]) -> RpcError:
    """Say in one line what is wrong with the field that is looked at most closely."""
    errors = _errors_in(error, what)
    worst = max(errors, key=lambda one: (one["type"] != "model_type", len(one["loc"])))  # what fits best
    path = [str(part)[:SHOWN_CHARACTERS_MAX] for part in worst["loc"]]
    if worst["type"] == "json_invalid" and (long := long_integer_in(worst["input"], worst["msg"])) is not None:
        return RpcError(Code.INVALID_ARGUMENT, f"{what}: {long}")
    reason = worst["msg"][0].lower() + worst["msg"][1:SHOWN_CHARACTERS_MAX]
    if worst["type"] == "extra_forbidden":
        return RpcError(Code.INVALID_ARGUMENT, f"{what} has no option {path[-1]}{did_you_mean(path[-1], fields)}")
    shown = worst["input"]
    value = f" = {shown!r:.80}" if isinstance(shown, str | int | float) else ""
    where = ".".join(part for part in path if part.isidentifier() and part != Start.__name__ and part not in what)
    return RpcError(Code.INVALID_ARGUMENT, f"{what}: {where}{value}: {reason}" if where else f"{what}: {reason}")
