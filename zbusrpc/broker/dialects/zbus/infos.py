"""Infos: what the broker tells zbus clients of itself, its topics and groups, in the JSON that they know.

The names of the fields are zbus's. All numbers are whole, times are ms since 1970, lists are never null, and `error` is
null but for a topic that cannot be read. A service that runs is told as a topic with the mask of RPC and one group, so
that clients of zbus find it.

Pure.
"""

from collections.abc import Callable
from typing import Any, Final

from zbusrpc.broker.calls.service_queue import ServiceQueue as CallTopic
from zbusrpc.broker.dialects.zbus.masks import Mask
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.mq.unreadable import UnreadableTopic
from zbusrpc.broker.tracker.registry import Server
from zbusrpc.transport.address import TLS_SCHEME
from zbusrpc.transport.topology import GroupFacts, TopicFacts
from zbusrpc.version import __version__

SERVER_VERSION: Final = f"zbusrpc-{__version__}"

_FIGURES: Final = frozenset({"messageDepth", "messageCount", "consumerCount", "createdTime", "lastUpdatedTime"})

Info = dict[str, Any]
LagOf = Callable[[Topic, Group], int]


def address_info(address: str, *, is_tls: bool) -> Info:
    """Return a ServerAddress."""
    return {"address": address, "sslEnabled": is_tls}


def server_key(address: str, *, is_tls: bool) -> str:
    """Return how a server is called in a table of servers."""
    return f"[SSL]{address}" if is_tls else address


def group_info(topic: Topic, group: Group, lag: int) -> Info:
    """Return a ConsumeGroupInfo of a group that is so far behind."""
    return {
        "error": None,
        "topicName": topic.name,
        "groupName": group.name,
        "mask": group.options.mask,
        "filter": group.options.filter,
        "messageCount": lag,
        "consumerCount": len(group.pool.members),
        "consumerList": [consumer.session.name for consumer in group.pool.members],
        "creator": "",
        "createdTime": topic.created_ms,
        "lastUpdatedTime": topic.created_ms,
    }


def topic_info(server: Info, topic: Topic, calls: CallTopic | None, listed: list[Info], *, is_service: bool) -> Info:
    """Return the TopicInfo of a stored topic.

    Args:
        server: What every info says of the broker.
        topic: The topic.
        calls: The service of the same name, where one runs.
        listed: The infos of its groups.
        is_service: Whether what is produced to it are calls.
    """
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


def unreadable_info(server: Info, topic: UnreadableTopic) -> Info:
    """Return the TopicInfo of a stored topic that cannot be read; its `error` says why."""
    return {
        "error": topic.reason,
        **server,
        "topicName": topic.name,
        "mask": topic.options.mask,
        "messageDepth": 0,
        "consumerCount": 0,
        "consumeGroupList": [],
        "creator": "",
        "createdTime": topic.created_ms,
        "lastUpdatedTime": topic.created_ms,
    }


def withheld(info: Info) -> Info:
    """Return what somebody is told of a topic or group who may declare it and not query it: that it is there."""
    groups: Info = (
        {"consumeGroupList": [withheld(one) for one in info["consumeGroupList"]]} if "consumeGroupList" in info else {}
    )
    figures = dict.fromkeys(info.keys() & _FIGURES, 0)
    names: Info = {"consumerList": []} if "consumerList" in info else {}
    return {**info, **figures, **names, **groups}


def topic_facts(topic: Topic, calls: CallTopic | None, lag_of: LagOf, *, is_service: bool) -> TopicFacts:
    """Return what trackers are told of a stored topic, and how far its groups are behind."""
    groups = tuple(
        GroupFacts(
            name=name,
            mask=group.options.mask,
            filter=group.options.filter,
            consumers=len(group.pool.members),
            lag=lag_of(topic, group),
        )
        for name, group in sorted(topic.groups.items())
    )
    serving = len(calls.consumers) if calls is not None else 0
    return TopicFacts(
        mask=topic.options.mask | (Mask.RPC if is_service else 0),
        consumers=max(serving, sum(group.consumers for group in groups)),
        depth=topic.log.next_offset,
        created_ms=topic.created_ms,
        groups=groups,
    )


def service_facts(name: str, calls: CallTopic, started_ms: int) -> TopicFacts:
    """Return what trackers are told of a service whose calls are not stored."""
    count = len(calls.consumers)
    group = GroupFacts(name=name, consumers=count)
    return TopicFacts(mask=int(Mask.RPC | Mask.MEMORY), consumers=count, created_ms=started_ms, groups=(group,))


def reported_server(server: Server) -> Info:
    """Return the ServerInfo of a broker that is known from its reports, without its topics."""
    address, is_tls = plain_address(server.facts.address)
    trackers = [plain_address(tracker) for tracker in server.facts.trackers]
    return {
        "error": None,
        "serverAddress": address_info(address, is_tls=is_tls),
        "serverVersion": server.facts.software,
        "infoVersion": server.version,
        "trackerList": [address_info(address, is_tls=is_tls) for address, is_tls in trackers],
    }


def reported_topic(server: Info, name: str, facts: TopicFacts) -> Info:
    """Return the TopicInfo of a topic of another broker."""
    times = {"creator": "", "createdTime": facts.created_ms, "lastUpdatedTime": facts.created_ms}
    groups = [
        {
            "error": None,
            "topicName": name,
            "groupName": group.name,
            "mask": group.mask,
            "filter": group.filter,
            "messageCount": group.lag,
            "consumerCount": group.consumers,
            "consumerList": [],
            **times,
        }
        for group in facts.groups
    ]
    return {
        "error": None,
        "serverAddress": server["serverAddress"],
        "serverVersion": server["serverVersion"],
        "topicName": name,
        "mask": facts.mask,
        "messageDepth": facts.depth,
        "consumerCount": facts.consumers,
        "consumeGroupList": groups,
        **times,
    }


def plain_address(address: str) -> tuple[str, bool]:
    """Return an address as zbus writes it, and whether its port speaks TLS."""
    return address.removeprefix(TLS_SCHEME), address.startswith(TLS_SCHEME)


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
