"""Infos: what the broker tells zbus clients of itself, its topics and groups, in the JSON that they know.

The names of the fields are zbus's. All numbers are whole, times are ms since 1970, `error` is null, and lists are never
null. A service that runs is told as a topic with the mask of RPC and one group, so that clients of zbus find it.

Pure.
"""

from collections.abc import Iterable
from typing import Any, Final

from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.reports import lag_of
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.topic import Topic as CallTopic
from zbusrpc.broker.zbus.masks import Mask
from zbusrpc.version import __version__

SERVER_VERSION: Final = f"zbusrpc-{__version__}"

Info = dict[str, Any]


def address_info(address: str, *, is_tls: bool) -> Info:
    """Return a ServerAddress."""
    return {"address": address, "sslEnabled": is_tls}


def server_key(address: str, *, is_tls: bool) -> str:
    """Return how a server is called in a table of servers."""
    return f"[SSL]{address}" if is_tls else address


def group_info(topic: Topic, group: Group) -> Info:
    """Return a ConsumeGroupInfo."""
    return {
        "error": None,
        "topicName": topic.name,
        "groupName": group.name,
        "mask": group.options.mask,
        "filter": group.options.filter,
        "messageCount": lag_of(topic, group),
        "consumerCount": len(group.pool.members),
        "consumerList": [consumer.session.name for consumer in group.pool.members],
        "creator": "",
        "createdTime": topic.created_ms,
        "lastUpdatedTime": topic.created_ms,
    }


def topic_info(
    server: Info, topic: Topic, calls: CallTopic | None, groups: Iterable[Group], *, is_service: bool
) -> Info:
    """Return the TopicInfo of a stored topic; `calls` is the service of the same name, where one runs."""
    listed = [group_info(topic, group) for group in groups]
    serving = len(calls.consumers) if calls is not None else 0
    return {
        "error": None,
        **server,
        "topicName": topic.name,
        "mask": topic.options.mask | (Mask.RPC if is_service else 0),
        "messageDepth": topic.log.next_offset,
        "consumerCount": max(serving, sum(one["consumerCount"] for one in listed)),
        "consumeGroupList": listed,
        "creator": "",
        "createdTime": topic.created_ms,
        "lastUpdatedTime": topic.created_ms,
    }


def service_info(server: Info, name: str, calls: CallTopic, started_ms: int) -> Info:
    """Return the TopicInfo of a service whose calls are not stored."""
    common = {"creator": "", "createdTime": started_ms, "lastUpdatedTime": started_ms}
    count = len(calls.consumers)
    group = {
        "error": None,
        "topicName": name,
        "groupName": name,
        "mask": 0,
        "filter": "",
        "messageCount": len(calls.queue),
        "consumerCount": count,
        "consumerList": [consumer.session.name for consumer in calls.consumers.values()],
        **common,
    }
    return {
        "error": None,
        **server,
        "topicName": name,
        "mask": int(Mask.RPC | Mask.MEMORY),
        "messageDepth": len(calls.queue),
        "consumerCount": count,
        "consumeGroupList": [group],
        **common,
    }
