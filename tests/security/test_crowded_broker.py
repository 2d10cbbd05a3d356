"""A request about one thing costs as much on a crowded broker as on an empty one: others are not looked at.

The tables of the dialects are walked; what lists everything is named here, and is the only exception.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, get_args

import pytest
from pydantic import BaseModel

from tests.support.rights_core import ADMIN, RightsCore, entry, rights, rule
from tests.support.steps import steps_of
from zbusrpc.broker.access.rights import Operation, Rights
from zbusrpc.broker.dialects.zbus.urls import COMMANDS
from zbusrpc.broker.monitor.api import ROUTES
from zbusrpc.broker.mq import requests
from zbusrpc.errors import ProtocolError
from zbusrpc.message import LINK_KINDS_MAX, Kind
from zbusrpc.transport.connection import WIDE_KINDS

FEW, MANY = 4, 44
OWN: Final = rights("own", rule(*Operation, topics=("orders", "Calc", "Pay"), groups=("billing", "mine")))
LISTS: Final[frozenset[type[BaseModel]]] = frozenset({requests.ListTopics, requests.Stats})
LISTS_OF_ZBUS: Final = frozenset({"server", "tracker", "track_sub", "track_pub"})
LISTS_OF_API: Final = frozenset({"get_topics", "get_services", "get_server", "get_servers", "get_live"})
Ask = Callable[[RightsCore, Rights], Any]


def crowded(others: int) -> RightsCore:
    """Return a broker with a topic, its group and two services, and with so many others of each, and of sessions."""
    core = RightsCore()
    core.declare("orders", "orders.dlq")
    native = core.native()
    native.command("declare_group", topic="orders", group="billing")
    native.serve("Calc")
    native.serve("Pay", durable=True)
    for number in range(others):
        peer = core.native()
        core.declare(f"t{number}", dead_letter_topic="letters")
        peer.command("declare_group", topic=f"t{number}", group="billing")
        peer.serve(f"s{number}")
        peer.ask(Kind.CONSUME, {"group": f"g{number}"}, topic=f"t{number}")
        core.web().begin(f"GET /consume/t{number}/billing?timeout=60")
        peer.post(Kind.REQUEST, b"{}", topic=f"s{number}")
        core.run()
    return core


def natively(kind: int, body: Any, topic: str = "") -> Ask:
    """Return what sends a message."""

    def ask(core: RightsCore, who: Rights) -> None:
        peer = core.native(who)
        with suppress(ProtocolError):
            peer.post(kind, body, topic=topic)

    return ask


def by_text(line: str, body: bytes = b"", **headers: str) -> Ask:
    """Return what sends a request in text form."""
    return lambda core, who: core.web(who).begin_as_written(line, body, headers)


def messages() -> Iterator[tuple[str, Ask]]:
    """Yield the messages of native peers."""
    for kind in Kind:
        if kind > LINK_KINDS_MAX and kind not in WIDE_KINDS:
            for topic in ("Calc", "Pay") if kind == Kind.REQUEST else ("orders", "Calc", "Pay"):
                body = entry(b"x") if kind == Kind.PRODUCE else {"window": 1, "group": "mine"}
                yield f"{kind.name} {topic}", natively(kind, {"window": 1} if kind == Kind.SUBSCRIBE else body, topic)


def commands() -> Iterator[tuple[str, Ask]]:
    """Yield the commands, about a group and about the whole topic."""
    for model in get_args(requests.Command):
        for group in ("billing", None) if model not in {*LISTS, requests.Drain} else ():
            said = {"topic": "orders", "group": group, "start": "oldest"}
            fields: dict[str, Any] = {
                name: value for name, value in said.items() if name in model.model_fields and value
            }
            fields |= {"start": 0} if model is requests.RetryDead else {}
            name = get_args(model.model_fields["command"].annotation)[0]
            yield f"{name} {group}", natively(Kind.COMMAND, {"command": name, **fields})


def texts() -> Iterator[tuple[str, Ask]]:
    """Yield the requests in text form: of zbus, of the API, of the gateway."""
    for name in sorted(COMMANDS - LISTS_OF_ZBUS):
        topic = "Calc" if name == "rpc" else "orders"
        yield (
            f"zbus {name}",
            by_text("GET /", b"x", cmd=name, topic=topic, consume_group="billing", recver="x", timeout="0"),
        )
        yield f"url {name}", by_text(f"GET /{name}/{topic}/billing?timeout=0")
    for route in ROUTES:
        if route.name not in LISTS_OF_API and route.path != "/api/drain":
            path = route.path.format(topic="orders", group="billing", service="Calc")
            yield (
                f"api {route.name}",
                by_text(f"{route.method} {path}", b'{"start":"oldest"}' if "seek" in path else b""),
            )
    for line in ("GET /rpc/Calc/add/1", "POST /rpc/Pay/add", "GET /rpc/Calc", "GET /monitor/main.js"):
        yield line, by_text(line)


def costs(others: int, who: Rights) -> dict[str, int]:
    """Return how many steps each of them takes, until its turn has ended."""
    found: dict[str, int] = {}
    core = crowded(others)
    for name, ask in (*messages(), *commands(), *texts()):
        there = core.lab.store.topics.get("orders")
        core = core if there is not None and "billing" in there.groups else crowded(others)
        core.run()
        found[name] = steps_of(lambda core=core, ask=ask: (ask(core, who), core.run()))  # type: ignore[misc]
    return found


@pytest.mark.parametrize("who", [ADMIN, OWN], ids=lambda who: who.name)
def test_request_about_one_thing_looks_at_no_others(who: Rights) -> None:
    """With tens of other topics, groups, services and sessions it takes as many steps as with a few."""
    few, many = costs(FEW, who), costs(MANY, who)

    grown = {name: (few[name], many[name]) for name in few if many[name] - few[name] >= MANY - FEW}
    assert not grown
