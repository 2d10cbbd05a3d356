"""Numbers from outside, at and past each of their bounds, in every dialect: refused, or harmless for ever.

After each the topic, its groups, the listings and the page are looked at, and once more after a restart.
"""

import types
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import urlencode

import orjson
import pytest
from pydantic import BaseModel

from tests.support.queue_lab import entry
from tests.support.rights_core import RightsCore
from tests.support.web import Answer
from tests.support.zbus_core import TextSession, ZbusCore, read
from zbusrpc import bounds
from zbusrpc.bounds import Bound
from zbusrpc.broker.dialects.http.gateway import take
from zbusrpc.broker.monitor.api import ROUTES, Asked, Route
from zbusrpc.broker.mq import options, requests
from zbusrpc.cli.starts import parse_start
from zbusrpc.cli.units import parse_bytes, parse_seconds
from zbusrpc.config import Settings, load_settings
from zbusrpc.envelope import WireError
from zbusrpc.errors import Code, ConfigError, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.transport import hello
from zbusrpc.transport.http import HttpRequest

ODD = [
    '"1_0"',
    '" 1"',
    '"٣"',
    "true",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "0.5",
    "-1",
    "9" * 25,
    "9" * 5000,
    "1e25",
    '"x"',
    "[]",
    "{}",
]
"""As they may stand in JSON, where a whole number is wanted."""
TEXTS = ["true", "1e999", "nan", "inf", "0x1", "1_0", "٣", "²", "-1", "0.5", "9" * 25, "9" * 5000, "", " 1"]
"""As they may stand in a header or a URL, where a whole number is wanted."""


# -- the table and the models --------------------------------------------------------------------------------


def fields_of(kind: type[BaseModel]) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield the fields of a model that are numbers, with their type and what bounds them."""
    for name, field in kind.model_fields.items():
        parts = [(field.annotation, list(field.metadata))]
        for part, metadata in parts:
            if get_origin(part) is Annotated:
                inner, *more = get_args(part)
                parts.append((inner, metadata + more))
            elif get_origin(part) in {types.UnionType, list, tuple}:
                parts.extend((one, metadata) for one in get_args(part))
            elif part in {int, float}:
                yield name, part, metadata


MODELS = [
    requests.Consume,
    requests.Nack,
    requests.PullBody,
    *get_args(requests.Command),
    options.TopicOptions,
    options.GroupOptions,
    options.Start,
    hello.Hello,
]


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_every_number_has_a_bound(kind: type[BaseModel]) -> None:
    """Whatever is added to a command later: it stands in the table, or is a constant that the model itself compares."""
    without = [name for name, _, metadata in fields_of(kind) if not any(isinstance(one, Bound) for one in metadata)]

    assert without == (["version"] if kind is hello.Hello else [])


ALL = [one for one in vars(bounds).values() if isinstance(one, Bound)]


@pytest.mark.parametrize("bound", ALL, ids=lambda bound: bound.name)
def test_bound_is_kept_to_one(bound: Bound) -> None:
    """Its ends are within, what lies beyond is not; and so is what is no number."""
    assert bound.whole(str(bound.most)) == bound.most
    for text in [str(bound.most + 1), *TEXTS]:
        with pytest.raises(ValueError, match="is no number from"):
            bound.whole(text)
    assert bound.most > 2**52 or bound.seconds(str(bound.most)) == bound.most
    for text in ["1e999", "nan", "inf", "-1", "1_0", "9" * 5000, ""]:
        with pytest.raises(ValueError, match="is no number of seconds from"):
            bound.seconds(text)


# -- dialects ------------------------------------------------------------------------------------------------


@pytest.fixture
def core() -> ZbusCore:
    """Return a broker with a topic of two groups, a message, and somebody who consumes."""
    core = RightsCore()
    anna = core.lab.peer("anna")
    anna.declare("orders")
    anna.command("declare_group", topic="orders", group="billing")
    anna.command("declare_group", topic="orders", group="audit")
    anna.produce("orders", "one", "two")
    return core


def check(core: ZbusCore) -> None:
    """See that others can be served and shown, now and after a restart."""
    for _ in range(2):
        anna = core.lab.peer("good")
        anna.produce("orders", "more")
        consumer = anna.consume("orders", "audit")
        core.lab.run()
        assert consumer.take()
        consumer.ack(*range(consumer.entries[-1].first + 1) if consumer.entries else [])
        for group in core.lab.topic("orders").groups.values():  # as the journal does when it rolls
            orjson.dumps(group.describe())
        for name in ("topics", "stats"):
            anna.command(name)
        anna.command("topic", topic="orders")
        core.lab.disconnect_all()
        core.lab.restart()


def numbers_of_commands() -> list[tuple[type[BaseModel], str, Bound]]:
    """Return every number of every command, with its bound."""
    found = []
    for kind in get_args(requests.Command):
        for name, _, metadata in fields_of(kind):
            found += [(kind, name, bound) for bound in metadata if isinstance(bound, Bound)]
    return found


def base_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what a command must say."""
    name = get_args(kind.model_fields["command"].annotation)[0]
    said = {"command": name, "topic": "orders", "group": "billing", "start": "oldest"}
    return {field: value for field, value in said.items() if field in kind.model_fields} | (
        {"update": True} if "update" in kind.model_fields else {}
    )


def refusal_of(core: ZbusCore, body: str) -> RpcError | None:
    """Return why a command is refused, in one line, or None where it is not."""
    anna = core.lab.peer("anna")
    request = anna.send(Kind.COMMAND, body.encode())
    core.lab.run()
    answer = anna.replies[request]
    if not isinstance(answer, WireError):
        return None
    assert "\n" not in answer.message
    assert len(answer.message) < 400
    return RpcError(answer.code, answer.message, answer.details)


def _id_of(value: Any) -> str:
    return str(getattr(value, "__name__", getattr(value, "name", value)))


@pytest.mark.parametrize(("kind", "name", "bound"), numbers_of_commands(), ids=_id_of)
def test_number_of_a_command(core: ZbusCore, kind: type[BaseModel], name: str, bound: Bound) -> None:
    """What is within its bound is taken, everything else refused by one line; nobody else notices either."""
    base = orjson.dumps(base_of(kind)).decode()[:-1]
    within = {str(bound.most), str(int(bound.least))} | ({"0.5"} if name in {"keep_s", "duplicate_window_s"} else set())
    for text in [*ODD, str(bound.most + 1), str(bound.least - 1), *sorted(within)]:
        value = f"[{text}]" if name in {"offsets", "ranges"} else text

        refusal = refusal_of(core, f'{base},"{name}":{value}}}')

        assert text in within or (refusal is not None and refusal.code is Code.INVALID_ARGUMENT), text
    check(core)


# -- the API of the monitor ----------------------------------------------------------------------------------


def model_of(route: Route) -> type[BaseModel]:
    """Return the model of the command that a route gives."""
    assert route.order is not None
    asked = Asked(request=HttpRequest("POST", b"/", {}, b'{"start":"oldest"}', True), rights=None)
    name = route.order(asked)["command"]
    return next(
        kind for kind in get_args(requests.Command) if name in get_args(kind.model_fields["command"].annotation)
    )


def numbers_of_routes() -> list[tuple[Route, str, Bound]]:
    """Return every number that a route of the API takes, in its body or its URL, with its bound."""
    found = []
    for route in ROUTES:
        if route.order is not None:
            for name, _, metadata in fields_of(model_of(route)):
                if name in route.query or not route.query:
                    found += [(route, name, bound) for bound in metadata if isinstance(bound, Bound)]
    return found


def answer_of(core: ZbusCore, route: Route, *, body: str = "", query: str = "") -> Answer:
    """Send a request to the API, and return its answer, which comes at once and is one line where it refuses."""
    assert isinstance(core, RightsCore)
    path = route.path.format(topic="orders", group="billing", service="orders")
    answer = core.web().ask(f"{route.method} {path}{query}", body.encode())
    assert answer is not None
    if answer.status != 200:
        assert answer.status == 400, answer
        assert "\n" not in answer.json["error"]["message"]
        assert len(answer.body) < 500
    return answer


def is_invalid(answer: Answer) -> bool:
    """Say whether what was sent is refused for itself, and not for what there is."""
    return answer.status != 200 and answer.json["error"]["code"] == Code.INVALID_ARGUMENT.value


@pytest.mark.parametrize(("route", "name", "bound"), numbers_of_routes(), ids=lambda one: getattr(one, "name", one))
def test_number_of_the_api(core: ZbusCore, route: Route, name: str, bound: Bound) -> None:
    """What is within its bound is taken, everything else refused by one line, whether a body or a URL says it."""
    within = {str(bound.most), str(int(bound.least))} | ({"0.5"} if name in {"keep_s", "duplicate_window_s"} else set())
    start = '"start":"oldest",' if model_of(route) is requests.Seek else ""
    update = '"update":true,' if "update" in model_of(route).model_fields else ""
    odd = [text for text in TEXTS if text] if route.query else ODD  # one without a value says nothing
    for text in [*odd, str(bound.most + 1), str(bound.least - 1), *sorted(within)]:
        value = f"[{text}]" if name in {"offsets", "ranges"} else text
        if route.query:
            answer = answer_of(core, route, query="?" + urlencode({name: text}))
        else:
            answer = answer_of(core, route, body=f'{{{start}{update}"{name}":{value}}}')
        assert is_invalid(answer) is (text not in within), text
    check(core)


@pytest.mark.parametrize("text", [f"{kind}:{text}" for kind in ("offset", "time") for text in [*TEXTS, str(2**63)]])
def test_place_of_the_api(core: ZbusCore, text: str) -> None:
    """Where a look, a group or a seek begins is refused by one line, or harmless."""
    for route in ROUTES:
        if route.order is not None and "start" in model_of(route).model_fields:
            body = orjson.dumps({"start": text}).decode() if not route.query else ""
            answer_of(core, route, body=body, query="?" + urlencode({"start": text}) if route.query else "")
    check(core)


@pytest.mark.parametrize("start", ["offset", "time_ms"])
@pytest.mark.parametrize("text", [*ODD, str(2**63), str(2**63 - 1)])
def test_number_of_a_place(core: ZbusCore, start: str, text: str) -> None:
    """Of a seek, of a look, and of a group that is made."""
    for command in ('"seek","group":"billing"', '"peek"', '"declare_group","group":"new"', '"dlq"'):
        refusal = refusal_of(core, f'{{"command":{command},"topic":"orders","start":{{"{start}":{text}}}}}')

        if refusal is None:
            assert text == str(2**63 - 1)
        else:
            assert refusal.code in {Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE}
    check(core)


@pytest.mark.parametrize("name", ["ttl_ms", "delay_ms"])
@pytest.mark.parametrize("past", [0, 1])
def test_times_of_a_message(core: ZbusCore, name: str, past: int) -> None:
    """A time to live and a delay have a most; with it a message is kept, shown and delivered as others are."""
    anna = core.lab.peer("anna")
    bound = bounds.TTL_MS if name == "ttl_ms" else bounds.DELAY_MS

    if past:
        with pytest.raises(RpcError, match=f"{bound.name} of {bound.most + 1} ms exceeds the limit of {bound.most} ms"):
            anna.produce("orders", entry("x", **{name: bound.most + 1}))
    else:
        anna.produce("orders", entry("x", **{name: bound.most}))
    anna.command("peek", topic="orders")
    check(core)


OF_ZBUS = [
    ("declare", "topic_mask", bounds.MASK),
    ("declare", "group_mask", bounds.MASK),
    ("declare", "group_ack_window", bounds.ACK_WINDOW),
    ("declare", "group_ack_timeout", bounds.ACK_TIMEOUT_MS),
    ("declare", "group_start_offset", bounds.OFFSET),
    ("declare", "group_start_time", bounds.TIME_MS),
    ("consume", "offset", bounds.OFFSET),
    ("ack", "offset", bounds.OFFSET),
    ("rpc", "timeout-ms", bounds.TIMEOUT_OR_NONE_MS),
    ("route", "origin_status", bounds.STATUS),
]


@pytest.mark.parametrize("is_by_url", [False, True])
@pytest.mark.parametrize(("command", "name", "bound"), OF_ZBUS, ids=lambda one: getattr(one, "name", one))
def test_number_of_a_zbus_header(core: ZbusCore, command: str, name: str, bound: Bound, is_by_url: bool) -> None:
    """Past its bound it is a bad request, by a header and by a URL; within it nothing breaks."""
    anna = core.session()
    if command == "rpc":
        anna.zbus("declare", topic="Svc", topic_mask="2")
    topic = "Svc" if command == "rpc" else "orders"
    for text in [*TEXTS, str(bound.most + 1), str(bound.most), "0"]:
        answer = _send(anna, command, topic, name, text, is_by_url=is_by_url)
        if text not in {str(bound.most), "0", ""} and answer is not None:
            assert read(answer).status == 400, (text, read(answer))
    anna.close()
    anna = core.session()
    anna.zbus("declare", topic="orders", consume_group="billing", group_mask="0", topic_mask="0")
    anna.zbus("query", topic="orders")
    check(core)


def _send(anna: TextSession, command: str, topic: str, name: str, text: str, *, is_by_url: bool) -> Any:
    """Return the exchange that has an answer, or None."""
    headers = {"topic": topic, "consume_group": "billing", name: text}
    target = f"/?{urlencode({'cmd': command, **headers})}"
    exchange = anna.http(target) if is_by_url else anna.zbus(command, **headers)
    return exchange if exchange.data is not None else None


@pytest.mark.parametrize("text", [*TEXTS, str(2**32)])
def test_time_limit_of_a_call_by_http(text: str) -> None:
    """Past its bound it is refused."""
    asked = take(HttpRequest("GET", b"/rpc/Calc/add/1", {"timeout-ms": text} if text else {}, b"", True), list)

    assert asked.response is not None or not text
    assert asked.response is None or asked.response.status == 400


@pytest.mark.parametrize("text", [one for one in TEXTS if one])
def test_numbers_of_the_command_line(text: str) -> None:
    """Sizes, times and places: one line names the option, and nothing else is raised."""
    for read_it in (
        lambda: parse_seconds("--delay", text),
        lambda: parse_bytes("--keep-bytes", f"{text}TiB"),
        lambda: parse_start("--start", f"offset:{text}"),
        lambda: parse_start("--start", f"time:{text}"),
    ):
        with suppress(ConfigError):
            read_it()


NUMBERS = [name for name, kind, _ in fields_of(Settings)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "9" * 5000, "1e999", "x", True])
def test_number_of_a_setting(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the option and its value."""
    monkeypatch.delenv(f"ZBUSRPC_{name.upper()}", raising=False)

    with pytest.raises(ConfigError, match=name.replace("_", "-")):
        load_settings(**{name: value})


@pytest.mark.parametrize("field", ["message_bytes_max", "idle_s", "session"])
@pytest.mark.parametrize("text", [*ODD, "1e-9", str(2**63)])
def test_number_of_a_hello(field: str, text: str) -> None:
    """It is refused, or within what both sides can live with."""
    body = f'{{"name":"x","{field}":{text}}}'.encode()

    try:
        said = hello.parse_hello(Message(Kind.HELLO, body=body))
    except hello.ProtocolError:
        return
    assert (field, text) == ("idle_s", "0.5")
    assert said.idle_s == 0.5
