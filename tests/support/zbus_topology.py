"""What zbus clients know of servers and topics: the JSON that tells it, read as typed clients do, and the route table.

The rules are those of zbus.md, 1.11 and 3.1.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.zbus_profiles import ClientCrash, Profile

VOTE_FACTOR = 0.5

_ADDRESS = {"address": str, "sslEnabled": bool}
_GROUP: dict[str, Any] = {
    "topicName": str,
    "groupName": str,
    "mask": int,
    "filter": str,
    "messageCount": int,
    "consumerCount": int,
    "consumerList": list,
    "creator": str,
    "createdTime": int,
    "lastUpdatedTime": int,
}
_TOPIC: dict[str, Any] = {
    "serverAddress": _ADDRESS,
    "serverVersion": str,
    "topicName": str,
    "mask": int,
    "messageDepth": int,
    "consumerCount": int,
    "consumeGroupList": [_GROUP],
    "creator": str,
    "createdTime": int,
    "lastUpdatedTime": int,
}
_SERVER: dict[str, Any] = {
    "serverAddress": _ADDRESS,
    "serverVersion": str,
    "infoVersion": int,
    "trackerList": [_ADDRESS],
}
_TRACKER = {"serverAddress": _ADDRESS, "serverVersion": str, "infoVersion": int}
MAY_BE_NULL = {"filter", "creator"}


def check_group(value: Any) -> dict[str, Any]:
    """Return a ConsumeGroupInfo that a typed client can read."""
    return _check("ConsumeGroupInfo", value, _GROUP)


def check_topic(value: Any) -> dict[str, Any]:
    """Return a TopicInfo that a typed client can read."""
    return _check("TopicInfo", value, _TOPIC)


def check_server(value: Any) -> dict[str, Any]:
    """Return a ServerInfo that a typed client can read; its table has the topics by their names."""
    server = _check("ServerInfo", value, _SERVER)
    for name, topic in server["topicTable"].items():
        if check_topic(topic)["topicName"] != name:
            raise ClientCrash(f"topic {topic['topicName']!r} stands under {name!r}")
    return server


def check_tracker(value: Any) -> dict[str, Any]:
    """Return a TrackerInfo that a typed client can read; its table has the servers by their addresses."""
    tracker = _check("TrackerInfo", value, _TRACKER)
    for key, server in tracker["serverTable"].items():
        if key_of(check_server(server)["serverAddress"]) != key:
            raise ClientCrash(f"server {server['serverAddress']} stands under {key!r}")
    return tracker


def key_of(address: Mapping[str, Any]) -> str:
    """Return a server's address as the key of tables."""
    return f"[SSL]{address['address']}" if address["sslEnabled"] else str(address["address"])


def _check(what: str, value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object whose fields have the types that are named; an error there breaks the Go client."""
    if not isinstance(value, dict) or value.get("error") is not None:
        raise ClientCrash(f"{what} {value!r} is no object without an error")
    for name, kind in fields.items():
        if name not in value:
            raise ClientCrash(f"{what} has no {name}: {value}")
        if value[name] is not None or name not in MAY_BE_NULL:
            _check_value(f"{name} of {what}", value[name], kind)
    return value


def _check_value(what: str, value: Any, kind: Any) -> None:
    if isinstance(kind, dict):
        _check(what, value, kind)
    elif isinstance(kind, list):
        _check_value(what, value, list)
        for one in value:
            _check(what, one, kind[0])
    elif type(value) is not kind:
        raise ClientCrash(f"{what} is {value!r}, no {kind.__name__}")


class RouteTable:
    """Which servers there are, and which of them have a topic: what the trackers say, by vote."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._changed = threading.Condition()
        self._votes: dict[str, tuple[int, set[str]]] = {}
        self._trackers_seen: set[str] = set()
        self.servers: dict[str, dict[str, Any]] = {}

    def update(self, info: dict[str, Any]) -> None:
        """Take what a tracker says, unless it has said something newer."""
        with self._changed:
            tracker, version = key_of(info["serverAddress"]), info["infoVersion"]
            if tracker in self._votes and self._votes[tracker][0] >= version:
                return
            self._trackers_seen.add(tracker)
            self._votes[tracker] = (version, {key_of(one["serverAddress"]) for one in info["serverTable"].values()})
            for key, server in info["serverTable"].items():
                known = self.servers.get(key)
                if known is None or known["infoVersion"] < server["infoVersion"]:
                    self.servers[key] = server
            self._purge()
            self._changed.notify_all()

    def remove_tracker(self, address: str) -> None:
        """Take a vote away: the connection to that tracker is gone."""
        with self._changed:
            self._votes.pop(address, None)
            self._purge()
            self._changed.notify_all()

    def _purge(self) -> None:
        voters = len(self._trackers_seen) if self._profile.counts_old_trackers else len(self._votes)
        for key in list(self.servers):
            votes = sum(key in voted for _, voted in self._votes.values())
            if votes < voters * VOTE_FACTOR:
                del self.servers[key]

    def producers_of(self, topic: str) -> list[str]:
        """Return the server to produce to: the one with the most consumers of the topic, or none if nobody has it."""
        found = {
            key: info["consumerCount"]
            for key, server in self.servers.items()
            for name, info in server["topicTable"].items()
            if name.lower() == topic.lower()
        }
        if found:
            return [max(found, key=lambda key: found[key])]
        return [] if self._profile.needs_known_topic else list(self.servers)[:1]

    def topic(self, topic: str) -> dict[str, Any] | None:
        """Return what was last said of a topic."""
        for server in self.servers.values():
            for name, info in server["topicTable"].items():
                if name.lower() == topic.lower():
                    return dict(info)
        return None

    def wait(self, condition: Callable[["RouteTable"], Any], what: str, timeout_s: float) -> Any:
        """Return what `condition` finds in this table, once that is true.

        Raises:
            TimeoutError: it was not told in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout_s):
                raise TimeoutError(f"no tracker said within {timeout_s:g} s: {what}")
            return condition(self)
