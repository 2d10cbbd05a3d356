"""A walk over all commands of all dialects, with tokens that may do little: what is let through, and what is told."""

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest

from tests.support.rights_core import Native, RightsCore, Web, entry, rights, rule
from tests.support.zbus_core import read
from zbusrpc.broker.access.rights import Operation, Rights
from zbusrpc.broker.dialects.zbus.urls import COMMANDS
from zbusrpc.broker.monitor.api import ROUTES
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

SERVE: Final[dict[str, Any]] = {"window": 1}
NATIVE: Final[list[tuple[int, Any, str, str]]] = [
    (Kind.REQUEST, {"method": "x"}, "T", "produce"),
    (Kind.PRODUCE, entry(b"x"), "T", "produce"),
    (Kind.SUBSCRIBE, SERVE, "S", "consume"),
    (Kind.SUBSCRIBE, SERVE | {"about": {"durable": True}}, "D", "consume"),
    (Kind.CONSUME, {"group": "g"}, "T", "consume"),
    (Kind.CONSUME, {"group": None}, "T", "consume"),
    (Kind.QUERY, b"", "", "query"),
    (Kind.TRACK, b"", "", "track_sub"),
    (Kind.REPORT, b"{}", "", "track_pub"),
]
COMMANDED: Final[list[tuple[dict[str, Any], str]]] = [
    ({"command": "declare", "topic": "T.new"}, "declare"),
    ({"command": "declare", "topic": "T", "keep_s": 1, "update": True}, "declare"),
    ({"command": "declare", "topic": "T"}, "declare produce consume"),
    ({"command": "declare_group", "topic": "T", "group": "new"}, "declare"),
    ({"command": "topics"}, "query"),
    ({"command": "topic", "topic": "T"}, "query"),
    ({"command": "peek", "topic": "T"}, "query"),
    ({"command": "dlq", "topic": "T"}, "query"),
    ({"command": "stats"}, "query"),
    ({"command": "pause", "topic": "T", "group": "g"}, "declare"),
    ({"command": "resume", "topic": "T", "group": "g"}, "declare"),
    ({"command": "seek", "topic": "T", "group": "g", "start": "oldest"}, "declare"),
    ({"command": "empty", "topic": "T", "group": "g"}, "empty"),
    ({"command": "empty", "topic": "T"}, "empty"),
    ({"command": "retry_dead", "topic": "T"}, "produce"),
    ({"command": "purge_dead", "topic": "T"}, "empty"),
    ({"command": "remove", "topic": "T", "group": "g"}, "remove"),
    ({"command": "remove", "topic": "T"}, "remove"),
    ({"command": "drain"}, ""),
]
API: Final = {  # by the name of the route: which operation it needs, with the topic T and the group g
    "get": "*", "get_openapi_json": "*", "get_server": "*", "get_servers": "query server",
    "get_topics": "query", "get_topics_topic": "query", "get_topics_topic_messages": "query",
    "get_topics_topic_dead_letters": "query", "get_services": "query", "get_services_service": "query",
    "get_live": "query", "post_topics_topic_declare": "declare produce consume",
    "post_topics_topic_remove": "remove", "post_topics_topic_empty": "empty",
    "post_topics_topic_groups_group_declare": "declare", "post_topics_topic_groups_group_remove": "remove",
    "post_topics_topic_groups_group_empty": "empty", "post_topics_topic_groups_group_pause": "declare",
    "post_topics_topic_groups_group_resume": "declare", "post_topics_topic_groups_group_seek": "declare",
    "post_topics_topic_dead_letters_retry": "produce", "post_topics_topic_dead_letters_purge": "empty",
    "post_drain": "", "post_login": "*", "post_logout": "*",
}  # fmt: skip
OPERATIONS: Final = sorted(str(one) for one in Operation if one is not Operation.ADMIN)


def lab() -> RightsCore:
    """Return a broker with a topic and a group, and another of both."""
    core = RightsCore()
    core.declare("T", "other")
    core.native().command("declare_group", topic="T", group="g")
    return core


def only(operation: str) -> Rights:
    """Return the rights of a token that may do one thing, to the topic T and names that begin with it."""
    return rights(operation, rule(operation, topics=("T", "T.*", "S", "D")))


def is_denied(answer: Any) -> bool:
    """Say whether a request was refused for want of a right."""
    return isinstance(answer, RpcError) and answer.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize("operation", OPERATIONS)
def test_message_is_let_through_by_its_right_alone(operation: str) -> None:
    """Each kind of message and each command, for a token that may do one thing; nothing reaches another topic."""
    for kind, body, topic, needed in NATIVE:
        core = lab()
        assert is_denied(core.native(only(operation)).ask(kind, body, topic=topic)) is not _is_enough(
            operation, kind, body, needed
        ), (kind, body)
        assert not topic or is_denied(core.native(only(operation)).ask(kind, body, topic="other")), (kind, body)
    for command, needed in COMMANDED:
        native = lab().native(only(operation))
        assert is_denied(native.ask(Kind.COMMAND, command)) is (operation not in needed.split()), command
        if "topic" in command:
            assert is_denied(native.ask(Kind.COMMAND, command | {"topic": "other"})), command


def _is_enough(operation: str, kind: int, body: Any, needed: str) -> bool:
    is_durable = kind == Kind.SUBSCRIBE and "about" in body  # which needs the right to declare as well
    return operation in needed.split() and not is_durable


@pytest.mark.parametrize("operation", OPERATIONS)
def test_request_to_the_api_is_let_through_by_its_right_alone(operation: str) -> None:
    """Each route there is; a new one needs its line here."""
    assert set(API) == {route.name for route in ROUTES}
    for route in ROUTES:
        core = lab()
        path = route.path.format(topic="T", group="g", service="T")
        answer = core.web(only(operation)).ask(
            f"{route.method} {path}", b'{"start":"oldest"}' if "seek" in path else b""
        )

        assert answer is not None
        needed = API[route.name].split()
        assert (answer.status == 403) is not ("*" in needed or operation in needed), (route.name, answer)


# -- what is told --------------------------------------------------------------------------------------------

SEEN: Final = rights(
    "seen",
    rule(
        *OPERATIONS,
        topics=("orders", "Calc", "orders-hidde", "Calc-hidde", "ORDERS-HIDDEN"),
        groups=("shop", "shop-hidde"),
    ),
    rule("consume", "declare", topics=("orders-hidde", "Calc-hidde", "Mine")),
)
"""May ask for names that are nearly those of others, and for one that differs by its case alone."""


@pytest.fixture
def full() -> RightsCore:
    """Return a broker where what a token may not know of has a name with `hidden` in it."""
    core = RightsCore()
    core.declare("orders", "orders-hidden", "hidden")
    for group in ("shop", "shop-hidden"):
        core.native().command("declare_group", topic="orders", group=group)
    for service in ("Calc", "Calc-hidden"):
        core.native().serve(service)
    core.native().serve("Bank-hidden", durable=True)
    core.native().ask(Kind.CONSUME, {"group": "shop-hidden"}, topic="orders")
    return core


def natively(native: Native) -> Iterator[Any]:
    """Ask everything that there is to ask natively, and yield the answers."""
    for topic in ("orders", "orders-hidde", "Calc", "Calc-hidde"):
        for kind, body, _, _ in NATIVE:
            yield native.ask(kind, body, topic=topic if kind not in {Kind.QUERY, Kind.TRACK, Kind.REPORT} else "")
            if kind == Kind.SUBSCRIBE:
                native.ask(Kind.UNSUBSCRIBE, topic=topic)
        for command, _ in COMMANDED:
            for group in ("shop", "shop-hidde"):
                if command["command"] in {"remove", "empty", "drain"} and topic == "orders":
                    continue
                asked = command | {"topic": topic} if "topic" in command else command
                yield native.ask(Kind.COMMAND, asked | ({"group": group} if "group" in command else {}))
        yield native.ask(Kind.CONSUME, {"group": "shop-hidde", "create": False}, topic=topic)
        for other in ("shop-hidden", "shop-hidde"):
            yield native.ask(Kind.CONSUME, {"group": "new", "start": {"group": other}}, topic=topic)


def on_the_web(web: Web) -> Iterator[str]:
    """Ask everything that there is to ask by text, and yield the answers."""
    for topic in ("orders", "orders-hidde", "Calc", "ORDERS-HIDDEN"):
        for name in sorted(COMMANDS - {"remove", "empty", "home"}):
            for group in ("", "/shop", "/shop-hidde"):
                yield said(web, f"GET /{name}/{topic}{group}?timeout=0")
                yield said(web, f"GET /{name}{'?timeout=0' if name != 'rpc' else ''}")
        yield said(web, f"GET /rpc/{topic}")
        yield said(web, f"GET /rpc/{topic}/add/1")
        for route in ROUTES:
            if route.method == "GET":
                yield said(web, "GET " + route.path.format(topic=topic, group="shop-hidde", service=topic))
    yield said(web, "GET /metrics")
    yield said(web, "GET /rpc")


def said(web: Web, line: str) -> str:
    """Return the whole answer to a request, or nothing where it waits."""
    exchange = web.begin(line)
    web.core.run()
    return (exchange.data or b"").decode()


def test_nothing_is_told_of_what_a_token_may_not_query(full: RightsCore) -> None:
    """Neither by lists, nor by hints, nor by what is pushed, counted or measured, in any dialect."""
    native, web, watcher = full.native(SEEN), full.web(SEEN), full.web(SEEN)
    watcher.begin("GET /", cmd="track_sub")
    native.ask(Kind.TRACK)

    told = [*(f"{answer} {getattr(answer, 'details', '')}" for answer in natively(native)), *on_the_web(web)]
    full.declare("later-hidden")
    full.pass_time(60)
    told += [push.decode() for push in watcher.pushes] + [push.decode() for push in native.pushes]

    assert len(told) > 300
    assert any("orders" in text for text in told)
    leaks = [text for text in told if "hidden" in re.sub("ORDERS-HIDDEN|shop-hidden on|group shop-hidden", "", text)]
    assert not leaks, leaks[0]


def test_name_in_another_case_is_another_name_for_rights(full: RightsCore) -> None:
    """The text dialect finds names in any case; the right is asked for what it finds."""
    web = full.web(SEEN)

    for name in ("query", "produce", "consume", "declare", "remove", "empty"):
        assert said(web, f"GET /{name}/ORDERS-HIDDEN?timeout=0").split(" ")[1] == "403", name
        assert said(web, f"GET /{name}/orders/SHOP-HIDDEN?timeout=0").split(" ")[1] in {"403", "200"}, name
    assert said(web, "GET /declare/orders/SHOP-HIDDEN").split(" ")[1] == "403"
    assert full.lab.topic("orders-hidden").log.next_offset == 1


def test_rights_travel_with_the_request() -> None:
    """What waits for a group to be made goes on with the rights that it came with, not those of the next request."""
    core = RightsCore()
    core.declare("T")
    mine = rights("mine", rule("consume", topics=("T",)))
    web = core.web(mine)
    web.begin("GET /consume/T")
    web.session.rights = rights("other", rule("admin"))
    core.run()

    (subscription,) = web.session.subscriptions.values()
    assert subscription.rights is mine


def test_report_to_a_tracker_tells_of_its_topics_alone() -> None:
    """Who may report for some topics has nobody sent to it for others."""
    core = RightsCore()
    reporter = core.native(rights("reporter", rule("track_pub", topics=("mine.*",))))
    facts = {"mask": 0, "consumers": 1, "depth": 0, "created_ms": 0, "groups": []}
    report = {
        "is_full": True,
        "server": {"address": "other:1", "boot": "b"},
        "topics": {"mine.a": facts, "bank": facts},
        "version": 1,
    }

    assert not isinstance(reporter.ask(Kind.REPORT, orjson.dumps(report)), RpcError)

    assert set(core.hub.tracker.registry.servers["other:1"].topics) == {"mine.a"}


def test_zbus_command_list_is_walked() -> None:
    """Every command of the text dialect is refused to a token without rights, or changes nothing."""
    nobody = rights("nobody")
    free = {"ping", "heartbeat", "home"}
    for name in sorted(COMMANDS - free):
        core = lab()
        answer = read(core.web(nobody).begin("GET /", cmd=name, topic="T", consume_group="g", recver="x", id="1"))
        assert answer.status == 403, name
