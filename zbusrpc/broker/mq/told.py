"""Told: what an answer says of topics and groups to somebody, as far as the rights of who asks go.

Whoever may not query a topic or group learns of it by a command of his own no more than that it is there: names stay,
numbers are 0, and the rest is empty. Whoever may query a topic and not all of its groups is told figures over those
groups alone, and the name of no other, nor of another topic.

Pure.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, cast

from zbusrpc.broker.access.rights import ALL, Rights, may_see
from zbusrpc.broker.mq.reports import describe_topic
from zbusrpc.broker.mq.topic import Topic

Said = dict[str, Any]
_KNOWN: Final = frozenset({"topic", "group", "durability"})
"""What stays of a topic or group that somebody may not query."""


def topic_as_told(topic: Topic, rights: Rights | None) -> Said:
    """Return what somebody with `rights` is told of a topic."""
    said = describe_topic(topic)
    if rights is None:
        return said
    return _limited(said, {name: len(group.pool.members) for name, group in topic.groups.items()}, rights)


def group_as_told(said: Said, rights: Rights | None) -> Said:
    """Return of what a listing shows of a group what somebody with `rights` is told."""
    return said if may_see(rights, said["topic"], said["group"]) else _withheld(said)


def counts_as_told(counts: dict[str, int], rights: Rights | None, topic: str, group: str | None = None) -> Said:
    """Return what somebody with `rights` is told of what a command of his own did to a topic or group."""
    return counts if may_see(rights, topic, group) else _withheld(counts)


def topics_as_told(
    topics: Mapping[str, Any], groups: Mapping[tuple[str, str], Any], rights: Rights | None
) -> list[Said]:
    """Return the rows of topics as far as `rights` go; `groups` has those of all groups."""
    if rights is None:
        return list(topics.values())
    by_topic: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for (topic, name), row in groups.items():
        by_topic[topic][name] = row
    return [_row(cast("Said", row), by_topic[name], rights) for name, row in topics.items() if may_see(rights, name)]


def _row(row: Said, groups: Mapping[str, Any], rights: Rights) -> Said:
    told = _limited(row, {name: len(group["consumers"]) for name, group in groups.items()}, rights)
    if told is row or row["out_rate"] is None:
        return told
    rates = [group["out_rate"] for name, group in groups.items() if may_see(rights, row["topic"], name)]
    return {**told, "out_rate": round(sum(rate for rate in rates if rate is not None), 1)}


def _limited(said: Said, consumers: Mapping[str, int], rights: Rights) -> Said:
    """Return what is said of a topic, which is left as it is, as far as `rights` go.

    Args:
        said: What a listing shows.
        consumers: How many each of its groups has, by name.
        rights: Of who asks.
    """
    topic, letters = said["topic"], said["options"]["dead_letter_topic"]
    if not may_see(rights, topic):
        return _withheld(said)
    hides_letters = bool(letters) and not may_see(rights, letters)
    if not hides_letters and may_see(rights, topic, ALL):
        return said
    seen = [count for name, count in consumers.items() if may_see(rights, topic, name)]
    told = {**said, "group_count": len(seen), "consumers": sum(seen)}
    if said["held_back_by"] is not None and not may_see(rights, topic, said["held_back_by"]):
        told["held_back_by"] = None
    if hides_letters:
        told["options"] = {**said["options"], "dead_letter_topic": None}
        told |= {"dead_letters": 0} if "dead_letters" in said else {}
    return told


def _withheld(said: Said) -> Said:
    return {name: value if name in _KNOWN else _nothing(value) for name, value in said.items()}


def _nothing(value: Any) -> Any:
    return type(value)() if isinstance(value, int | list | dict) else None
