"""The API: what can be asked for below /api, and what becomes of it.

    a look       rows, at once
    an order     a command of the message queue, as `broker/mq/commands.py` carries it out, with its permissions
    others       /api/live, login and logout, drain

`ROUTES` is all there is; `openapi.py` describes the same. Pure: requests in, values and commands out.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from zbusrpc.bounds import OFFSET
from zbusrpc.broker.access.rights import Operation, may_see
from zbusrpc.broker.monitor import paths
from zbusrpc.broker.monitor.asked import Asked, Order, Route, Value
from zbusrpc.broker.monitor.openapi import description
from zbusrpc.broker.mq.told import topics_as_told
from zbusrpc.errors import NEAREST_MAX, Code, RpcError, did_you_mean
from zbusrpc.transport.http import HttpRequest

if TYPE_CHECKING:
    from zbusrpc.broker.monitor.monitor import Monitor


def find(request: HttpRequest) -> tuple[Route, dict[str, str]]:
    """Return what a request asks for, with the names in its path.

    Raises:
        RpcError: NOT_FOUND, or UNIMPLEMENTED where only the method is another.
    """
    parts = paths.parts_of(request.target)
    method = "GET" if request.method == "HEAD" else request.method
    for route in ROUTES:
        names = route.match(method, parts)
        if names is not None:
            return route, names
    others = [route.method for route in ROUTES if route.match(route.method, parts) is not None]
    path = "/" + "/".join(parts)
    if others:
        raise RpcError(Code.UNIMPLEMENTED, f"{method} is not for {path:.200}: use {others[0]}")
    hint = did_you_mean(path, [route.path for route in ROUTES])
    raise RpcError(Code.NOT_FOUND, f"the API has no {path:.200}{hint}; GET /api lists what it has")


# -- looks ---------------------------------------------------------------------------------------------------


def _list_routes(monitor: "Monitor", asked: Asked) -> Any:
    return [{"method": route.method, "path": route.path, "about": route.about} for route in ROUTES]


def _describe_api(monitor: "Monitor", asked: Asked) -> Any:
    return description(ROUTES)


def _server(monitor: "Monitor", asked: Asked) -> Any:
    return monitor.server(asked.rights)


def _servers(monitor: "Monitor", asked: Asked) -> Any:
    return monitor.servers(asked.rights)


def _topics(monitor: "Monitor", asked: Asked) -> Any:
    asked.require(Operation.QUERY)
    table = monitor.table()
    return topics_as_told(table.topics, table.groups, asked.rights)


def _topic(monitor: "Monitor", asked: Asked) -> Any:
    name = asked.names["topic"]
    asked.require(Operation.QUERY, name)
    found = monitor.topic(name)
    if found is None:
        hint = _hint(monitor, asked, name, monitor.topic_names())
        raise RpcError(Code.NOT_FOUND, f"there is no topic {name:.200}{hint}")
    topic, groups = found
    (row,) = topics_as_told({name: topic}, {(name, group["group"]): group for group in groups}, asked.rights)
    return {**row, "groups": [group for group in groups if may_see(asked.rights, name, group["group"])]}


def _services(monitor: "Monitor", asked: Asked) -> Any:
    asked.require(Operation.QUERY)
    return [row for name, row in monitor.table().services.items() if may_see(asked.rights, name)]


def _service(monitor: "Monitor", asked: Asked) -> Any:
    name = asked.names["service"]
    asked.require(Operation.QUERY, name)
    row = monitor.service(name)
    if row is None:
        hint = _hint(monitor, asked, name, monitor.service_names())
        raise RpcError(Code.NOT_FOUND, f"no service {name:.200} is running{hint}")
    return {**row, "interface": monitor.interface(name)}


def _hint(monitor: "Monitor", asked: Asked, name: str, names: Iterable[str]) -> str:
    """Return which of these names somebody may have meant, as far as a look at some of them tells."""
    return monitor.hint(name, (other for other in islice(names, NEAREST_MAX) if may_see(asked.rights, other)))


def _drain(monitor: "Monitor", asked: Asked) -> Any:
    asked.require(Operation.ADMIN)
    return {"unfinished": monitor.broker.ask_drain()}


# -- orders --------------------------------------------------------------------------------------------------


def _to_topic(command: str) -> Order:
    """Return what makes a command about a topic, or about a group of it, of a request with options in its body."""

    def order(asked: Asked) -> Value:
        return {**asked.body, "command": command, **asked.names}

    return order


def _seek(asked: Asked) -> Value:
    return {**asked.body, "command": "seek", "start": _start(asked.body.get("start")), **asked.names}


def _show(command: str) -> Order:
    """Return what makes a command that shows messages of a request with parameters in its URL."""

    def order(asked: Asked) -> Value:
        wanted: Value = {name: value for name, value in asked.query.items() if name != "token"}
        if "start" in wanted:
            wanted["start"] = _start(wanted["start"])
        return {**wanted, "command": command, **asked.names}

    return order


def _start(value: Any) -> Any:
    """Return a place in a topic as commands take it: `offset:7`, `time:2026-01-31T12:00:00Z` and `id:x` are others.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    kind, colon, text = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon:
        return value
    if kind in {"id", "group"} and text:
        return {kind: text}
    try:
        if kind == "offset":
            return {"offset": OFFSET.whole(text)}
        if kind == "time":
            return {"time_ms": round(datetime.fromisoformat(text).timestamp() * 1000)}
    except (ValueError, OverflowError, OSError):
        pass
    known = "oldest, newest, offset:N, time:ISO, id:ID or group:GROUP"
    raise RpcError(Code.INVALID_ARGUMENT, f"start = {value!r:.80}: write {known}")


LIVE: Final = "/api/live"
LOGIN: Final = "/api/login"
LOGOUT: Final = "/api/logout"
_TOPIC: Final = "/api/topics/{topic}"
_GROUP: Final = _TOPIC + "/groups/{group}"
_PEEK: Final = ("start", "count", "filter", "body_bytes_max")

ROUTES: Final = (
    Route(method="GET", path="/api", about="List what there is.", look=_list_routes, result="RouteRow[]"),
    Route(
        method="GET", path="/api/openapi.json", about="Describe the API by OpenAPI.", look=_describe_api, is_raw=True,
    ),
    Route(
        method="GET", path="/api/server", about="Show this broker and the token's rights.", look=_server,
        result="OwnServer",
    ),
    Route(
        method="GET", path="/api/servers", about="List the brokers that this one knows.", look=_servers,
        result="ServerRow[]",
    ),
    Route(method="GET", path="/api/topics", about="List topics.", look=_topics, result="TopicRow[]"),
    Route(method="GET", path=_TOPIC, about="Show a topic and its groups.", look=_topic, result="TopicDetails"),
    Route(
        method="GET", path=_TOPIC + "/messages", about="Show messages without consuming them.", order=_show("peek"),
        query=_PEEK, result="Messages",
    ),
    Route(
        method="GET", path=_TOPIC + "/dead-letters", about="Show the dead letters of a topic.", order=_show("dlq"),
        query=_PEEK[:2], result="Messages",
    ),
    Route(method="GET", path="/api/services", about="List services.", look=_services, result="ServiceRow[]"),
    Route(
        method="GET", path="/api/services/{service}", about="Show a service and its interface.", look=_service,
        result="ServiceDetails",
    ),
    Route(
        method="GET", path=LIVE, about="Show everything; over WebSocket also every change.", result="Snapshot",
    ),
    Route(
        method="POST", path=_TOPIC + "/declare", about="Make a topic, or change it.", order=_to_topic("declare"),
        body="Declare",
    ),
    Route(method="POST", path=_TOPIC + "/remove", about="Remove a topic.", order=_to_topic("remove")),
    Route(method="POST", path=_TOPIC + "/empty", about="Remove all messages of a topic.", order=_to_topic("empty")),
    Route(
        method="POST", path=_GROUP + "/declare", about="Make a group, or change it.",
        order=lambda asked: {
            **_to_topic("declare_group")(asked),
            **({"start": _start(asked.body["start"])} if "start" in asked.body else {}),
        },
        body="DeclareGroup",
    ),
    Route(method="POST", path=_GROUP + "/remove", about="Remove a group.", order=_to_topic("remove")),
    Route(method="POST", path=_GROUP + "/empty", about="Let a group pass all messages.", order=_to_topic("empty")),
    Route(method="POST", path=_GROUP + "/pause", about="Let a group rest.", order=_to_topic("pause")),
    Route(method="POST", path=_GROUP + "/resume", about="Let a group go on.", order=_to_topic("resume")),
    Route(method="POST", path=_GROUP + "/seek", about="Move a group.", order=_seek, body="Seek"),
    Route(
        method="POST", path=_TOPIC + "/dead-letters/retry", about="Give dead letters back to their groups.",
        order=_to_topic("retry_dead"), body="RetryDead",
    ),
    Route(
        method="POST", path=_TOPIC + "/dead-letters/purge", about="Forget dead letters.",
        order=_to_topic("purge_dead"), body="PurgeDead",
    ),
    Route(method="POST", path="/api/drain", about="Take this broker out.", look=_drain),
    Route(method="POST", path=LOGIN, about="Show a token, and have it kept.", body="Login", result="RightsRow"),
    Route(method="POST", path=LOGOUT, about="Have the token forgotten."),
)  # fmt: skip
