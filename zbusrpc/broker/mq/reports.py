"""Reports: what is told about topics, groups and their messages.

Pure but for the look into the log. All values are JSON; times are ms since 1970.
"""

import base64
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final

from zbusrpc.broker.access.rights import Rights, visible_groups
from zbusrpc.broker.mq.delivery import State
from zbusrpc.broker.mq.filters import check_filter, compile_filter
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.mq.unreadable import UnreadableTopic
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import ProtocolError
from zbusrpc.message import decode_headers

PEEK_BYTES_MAX: Final = 1024 * 1024
"""Of the messages that one command shows: a person or a page wants no more at a time."""
PEEK_SCAN_MAX: Final = 10_000
"""Messages that one command looks at; `next_offset` tells where to go on."""


def describe_topic(topic: Topic) -> dict[str, Any]:
    """Return what a listing shows of a topic."""
    log = topic.log
    return {
        "topic": topic.name,
        "durability": topic.options.durability.value,
        "messages": count_from(topic, log.start_offset),
        "start_offset": log.start_offset,
        "next_offset": log.next_offset,
        "bytes": log.size_bytes,
        "created_ms": topic.created_ms,
        "group_count": len(topic.groups),
        "consumers": sum(len(group.pool.members) for group in topic.consumed),
        "produced": topic.produced,
        "duplicates": topic.duplicates_suppressed,
        "closed_because": log.closed_because,
        "held_back_by": topic.held_back_by or None,
        "unreadable_because": None,
        "options": topic.options.model_dump(mode="json"),
    }


def describe_unreadable(topic: UnreadableTopic) -> dict[str, Any]:
    """Return what a listing shows of a topic that cannot be read: nobody knows how much it holds."""
    numbers = ("messages", "start_offset", "next_offset", "bytes", "group_count", "consumers", "produced", "duplicates")
    return {
        "topic": topic.name,
        "durability": topic.options.durability.value,
        **dict.fromkeys(numbers, 0),
        "created_ms": topic.created_ms,
        "closed_because": None,
        "held_back_by": None,
        "unreadable_because": topic.reason,
        "options": topic.options.model_dump(mode="json"),
    }


def describe_group(topic: Topic, group: Group, *, lag: int, letters: int) -> dict[str, Any]:
    """Return what a listing shows of a group, with its lag and its dead letters."""
    aside = {state.name.lower(): group.count_in(state) for state in (State.DELAYED, State.HELD, State.DEAD)}
    return {
        "topic": topic.name,
        "group": group.name,
        "next_offset": group.position,
        "lag": lag,
        "in_flight": group.in_flight,
        "waiting": len(group.pending) - group.in_flight - sum(aside.values()),
        **aside,
        "dead_letters": letters,
        "begun": sum(one.in_flight if one.is_silent else one.begun for one in group.pool.members),
        "oldest_offset": group.oldest(),
        "consumers": [
            {"name": one.session.name, "session": one.session.number, "window": one.window, "in_flight": one.in_flight}
            for one in group.pool.members
        ],
        "counters": group.counters.as_dict(),
        "options": group.options.model_dump(mode="json"),
    }


def not_done(topic: Topic, group: Group) -> int:
    """Return how many messages a group is not done with and that exist; those that its filter will leave out count.

    That is its lag, unless it is the broker's own: `Groups.lag_of` says which.
    """
    start = topic.log.start_offset
    return count_from(topic, max(group.position, start)) + group.count_from(start)


def count_from(topic: Topic, offset: int, until: int | None = None) -> int:
    """Return how many messages of a topic there are from an offset on; where the disk does not say, count all offsets.

    Gaps, where compaction or damage took messages, do not count.
    """
    end = topic.log.next_offset if until is None else until
    try:
        return topic.log.count_from(offset, end)
    except StorageError:  # a listing is none the worse for it
        return max(0, end - offset)


def statistics_of(topics: Collection[Topic], rights: Rights | None = None) -> dict[str, int]:
    """Return counters and sizes of all these topics together, with the groups that `rights` may see."""
    groups = [topic.groups[name] for topic in topics for name in visible_groups(rights, topic.name, topic.groups)]
    counters = Counter[str]()
    for group in groups:
        counters.update(group.counters.as_dict())
    return {
        "topics": len(topics),
        "groups": len(groups),
        "consumers": sum(len(group.pool.members) for group in groups),
        "bytes": sum(topic.log.size_bytes for topic in topics),
        "produced": sum(topic.produced for topic in topics),
        "duplicates": sum(topic.duplicates_suppressed for topic in topics),
        "lost_after_ack": sum(topic.committer.lost_after_ack for topic in topics),
        "refused": sum(topic.committer.refused for topic in topics),
        "in_flight": sum(group.in_flight for group in groups),
        **counters,
    }


def show(
    topic: Topic,
    offset: int,
    count: int,
    wanted_tags: str,
    body_bytes_max: int,
    is_wanted: Callable[[Record], bool] = lambda record: True,
) -> dict[str, Any]:
    """Return up to `count` messages from an offset on, and where to go on.

    Raises:
        RpcError: INVALID_ARGUMENT: the filter cannot be used.
        ReadFailedError: the disk did not give them.
    """
    check_filter(wanted_tags)
    matches = compile_filter(wanted_tags)
    shown: list[dict[str, Any]] = []
    size = scanned = 0
    while len(shown) < count and size < PEEK_BYTES_MAX and scanned < PEEK_SCAN_MAX:
        records = topic.read(offset)
        if not records:
            offset = max(offset, topic.readable_offset)  # what stood there last was damaged, or is compacted
            break
        for record in records:
            offset = record.offset + 1
            scanned += 1
            if (matches is None or matches(record.tag)) and is_wanted(record):
                shown.append(show_record(record, body_bytes_max))
                size += min(len(record.body), body_bytes_max)
            if len(shown) >= count or size >= PEEK_BYTES_MAX or scanned >= PEEK_SCAN_MAX:
                break
    return {"messages": shown, "next_offset": offset, "end_offset": topic.readable_offset}


def show_record(record: Record, body_bytes_max: int) -> dict[str, Any]:
    """Return what a listing shows of a message: its body as text where it is one."""
    body = record.body[:body_bytes_max]
    shown: dict[str, Any] = {
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "id": record.id.decode(errors="replace"),
        "tag": record.tag.decode(errors="replace"),
        "key": record.key.decode(errors="replace"),
        "headers": _headers(record),
        "size": len(record.body),
    }
    shown |= {"due_ms": record.due_ms} if record.due_ms else {}
    shown |= {"expiry_ms": record.expiry_ms} if record.expiry_ms else {}
    try:
        return shown | {"body": body.decode()}
    except UnicodeDecodeError as error:
        if len(body) < len(record.body) and error.reason == "unexpected end of data":  # it was cut within a letter
            return shown | {"body": body[: error.start].decode()}
        return shown | {"body": None, "body_base64": base64.b64encode(body).decode()}


def _headers(record: Record) -> dict[str, str]:
    try:
        return decode_headers(record.headers)
    except ProtocolError:
        return {"": record.headers.decode(errors="replace")}
