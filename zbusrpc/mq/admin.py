"""Topics and groups as a whole: what people and programs declare, list, look into, move, empty and remove.

Each function is a command to the brokers that are named, and awaits the answer. `mq.sync` has a blocking twin of each.
Where several brokers are named, `commands.py` says which of them it concerns.

All of them raise `RpcError`: UNAVAILABLE where no broker can be reached, DEADLINE_EXCEEDED where the answer takes
longer than `timeout` seconds (it may have been done), NOT_FOUND for a topic or group that does not exist,
FAILED_PRECONDITION from a broker without a data directory, INVALID_ARGUMENT where one broker of several is to be named;
and `ConfigError` where `broker` is no address.
"""

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from zbusrpc.config import TIMEOUT_S
from zbusrpc.mq.checks import list_of_offsets
from zbusrpc.mq.commands import command
from zbusrpc.mq.infos import (
    DeadLetter,
    GroupInfo,
    Page,
    RetryResult,
    SeekResult,
    StoredMessage,
    TopicDetails,
    TopicInfo,
    page_of,
)
from zbusrpc.mq.options import GroupOptions, StartAt, TopicOptions, start_to_wire, to_wire


async def declare(
    topic: str,
    *,
    update: bool = False,
    broker: str | None = None,
    timeout: float = TIMEOUT_S,
    **options: Unpack[TopicOptions],
) -> TopicInfo:
    """Make a topic, or see that it is as `options` say; what they leave out is not looked at.

    When this returns, the topic survives a power cut. Producers and consumers declare their topic by themselves.

    Args:
        topic: 1 to 127 bytes: letters and digits of any script and `. _ - : @ + ~ #`.
        update: Change options that differ.
        options: See `TopicOptions`.

    Raises:
        RpcError: FAILED_PRECONDITION: it exists with other options. INVALID_ARGUMENT.
        UsageError: there is no such option.
    """
    fields = to_wire(options, TopicOptions) | {"update": update}
    return TopicInfo.model_validate(await command("declare", broker, timeout, options=fields, topic=topic))


async def declare_group(
    topic: str,
    group: str,
    *,
    start: StartAt | None = None,
    update: bool = False,
    broker: str | None = None,
    timeout: float = TIMEOUT_S,
    **options: Unpack[GroupOptions],
) -> GroupInfo:
    """Make a consume group, or see that it is as `options` say. Consumers declare their group by themselves.

    Args:
        start: Where it begins if it is new: by default with the oldest message.
        update: Change options that differ.
        options: See `GroupOptions`.

    Raises:
        RpcError: FAILED_PRECONDITION: it exists with other options. INVALID_ARGUMENT, OUT_OF_RANGE.
        UsageError: there is no such option.
    """
    fields = to_wire(options, GroupOptions) | {"update": update}
    result = await command(
        "declare_group", broker, timeout, options=fields, topic=topic, group=group, start=start_to_wire(start)
    )
    return GroupInfo.model_validate(result)


async def topics(*, match: str = "", broker: str | None = None, timeout: float = TIMEOUT_S) -> list[TopicInfo]:
    """List the topics, by name; where several brokers are named, those of each.

    Args:
        match: Only those whose name contains this.
    """
    return [TopicInfo.model_validate(one) for one in await command("topics", broker, timeout, match=match)]


async def topic(topic: str, *, broker: str | None = None, timeout: float = TIMEOUT_S) -> TopicDetails:
    """Tell everything about a topic and its groups."""
    return TopicDetails.model_validate(await command("topic", broker, timeout, topic=topic))


async def remove(
    topic: str, *, group: str | None = None, broker: str | None = None, timeout: float = TIMEOUT_S
) -> None:
    """Remove a topic with its messages and groups, or one group. Consumers of them end with NOT_FOUND."""
    await command("remove", broker, timeout, topic=topic, group=group)


async def empty(topic: str, *, group: str | None = None, broker: str | None = None, timeout: float = TIMEOUT_S) -> int:
    """Remove all messages of a topic, or let a group pass all that it is not done with; return how many that were."""
    result = await command("empty", broker, timeout, topic=topic, group=group)
    return int(result["removed"])


async def pause(topic: str, group: str, *, broker: str | None = None, timeout: float = TIMEOUT_S) -> None:
    """Let a group rest: nothing is delivered until `resume`, also after a restart of the broker."""
    await command("pause", broker, timeout, topic=topic, group=group)


async def resume(topic: str, group: str, *, broker: str | None = None, timeout: float = TIMEOUT_S) -> None:
    """Let a group go on."""
    await command("resume", broker, timeout, topic=topic, group=group)


async def seek(
    topic: str, group: str, start: StartAt, *, broker: str | None = None, timeout: float = TIMEOUT_S
) -> SeekResult:
    """Move a group to another place, and return what that means.

    Its consumers go on from there: what they have in their buffers is dropped, answers to what they have are ignored.

    Raises:
        RpcError: OUT_OF_RANGE, NOT_FOUND: there is no such place.
        UsageError: `start` is no place.
    """
    result = await command("seek", broker, timeout, topic=topic, group=group, start=start_to_wire(start))
    return SeekResult.model_validate(result)


async def peek(
    topic: str,
    *,
    start: StartAt | None = None,
    count: int = 10,
    filter: str = "",  # noqa: A002 - the word for it everywhere else
    body_bytes_max: int | None = None,
    broker: str | None = None,
    timeout: float = TIMEOUT_S,
) -> Page[StoredMessage]:
    """Look at messages without consuming them.

    A page holds `count` messages, or fewer where it has become large or the topic ends; go on at its `next_offset`.

    Args:
        start: By default the oldest.
        count: 1 to 1000.
        filter: Only those whose tag it takes, as of `GroupOptions`.
        body_bytes_max: Show so much of each body, by default 64 KiB.
    """
    fields: dict[str, Any] = {"topic": topic, "start": start_to_wire(start), "count": count, "filter": filter}
    return page_of(await command("peek", broker, timeout, **fields, body_bytes_max=body_bytes_max), StoredMessage)


async def dead_letters(
    topic: str,
    *,
    start: StartAt | None = None,
    count: int = 10,
    broker: str | None = None,
    timeout: float = TIMEOUT_S,
) -> Page[DeadLetter]:
    """Look at the messages of a topic that could not be handled and that nobody has dealt with yet.

    Args:
        topic: The topic that they come from. Offsets are those in the dead-letter topic.
        start: By default the oldest.
        count: 1 to 1000.
    """
    fields: dict[str, Any] = {"topic": topic, "start": start_to_wire(start), "count": count}
    return page_of(await command("dlq", broker, timeout, **fields), DeadLetter)


async def retry_dead(
    topic: str,
    *,
    offsets: Sequence[int] | None = None,
    as_new: bool = False,
    broker: str | None = None,
    timeout: float = TIMEOUT_S,
) -> RetryResult:
    """Give dead letters back to the groups in which they failed, and to no others.

    Args:
        topic: The topic that they come from.
        offsets: Only these, as `dead_letters` tells them; by default all, up to 10,000 at a time.
        as_new: Those whose original message is gone are produced anew, for all groups.
    """
    fields: dict[str, Any] = {
        "topic": topic,
        "offsets": list_of_offsets(offsets),
        "as_new": as_new,
    }
    return RetryResult.model_validate(await command("retry_dead", broker, timeout, **fields))


async def purge_dead(
    topic: str, *, offsets: Sequence[int] | None = None, broker: str | None = None, timeout: float = TIMEOUT_S
) -> int:
    """Forget dead letters, and return how many.

    Args:
        topic: The topic that they come from.
        offsets: Only these; by default all, up to 10,000 at a time.
    """
    chosen = list_of_offsets(offsets)
    return int((await command("purge_dead", broker, timeout, topic=topic, offsets=chosen))["purged"])


async def stats(*, broker: str | None = None, timeout: float = TIMEOUT_S) -> dict[str, int]:
    """Return counters and sizes of all topics and groups of the brokers together, by name."""
    result: dict[str, int] = await command("stats", broker, timeout)
    return result
