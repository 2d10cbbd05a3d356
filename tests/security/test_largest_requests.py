"""Every request of every dialect at its largest and most numerous: work and memory grow no faster than the request.

Counted are steps and bytes, never seconds. The tables of the dialects themselves are walked, so that a request that
is added later is tried as well: with each of its fields long, with most members, headers, parameters and parts, deeply
nested, and many times in a row. What has a form of its own, such as entries and ranges, has its lines below.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, get_args

import orjson
import pytest
from pydantic import BaseModel

from tests.support.growth import TIMES, Cost, cost_of, excess_of
from tests.support.rights_core import Native, RightsCore, Web, entry
from tests.support.text_wire import BINARY, CONT, frame
from zbusrpc.broker.dialects.http.gateway import BATCH_MAX
from zbusrpc.broker.dialects.zbus.urls import COMMANDS, PAGES
from zbusrpc.broker.monitor.api import ROUTES, Route
from zbusrpc.broker.mq import requests
from zbusrpc.errors import ProtocolError
from zbusrpc.message import LINK_KINDS_MAX, Kind, Message
from zbusrpc.transport.entries import RANGE
from zbusrpc.transport.http import HEADERS_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX, HttpDecoder, HttpError
from zbusrpc.transport.native import HEADERS_BYTES_MAX as NATIVE_HEADERS_BYTES_MAX
from zbusrpc.transport.native import TOPIC_BYTES_MAX, Decoder, encode
from zbusrpc.transport.websocket import WebSocket

OFTEN: Final = 24
"""Requests in a row."""
PARTS: Final = 1600
"""Parts of one request, where no bound of its own is lower: what grows too fast shows long before the largest body."""
BYTES: Final = 512 * 1024
"""Of a body that nobody looks into, or of a text in one."""
LEVELS: Final = 1000
"""Of lists in lists; orjson reads no more."""
Act = Callable[[RightsCore, int], Callable[[], Any]]
"""Make ready on a broker what is to be measured, for a size."""
Case = tuple[str, int, Act]
"""What is large about a request, how large, and how it is sent."""


def stage() -> RightsCore:
    """Return a broker with topics, a group, dead letters and services."""
    core = RightsCore()
    core.declare("orders", "orders.dlq")
    native = core.native()
    native.command("declare_group", topic="orders", group="billing")
    native.serve("Calc")
    native.serve("Pay", durable=True)
    return core


def is_whole(core: RightsCore) -> bool:
    """Say whether a broker still has what requests are about."""
    there = core.lab.store.topics
    return not core.broker.calls.is_draining and "orders" in there and "billing" in there["orders"].groups


def costs_of(cases: list[Case], share: int, *, is_new: bool) -> dict[str, Cost]:
    """Return what each case costs, at a share of its size, on a new broker or on one that is still whole."""
    costs: dict[str, Cost] = {}
    core = stage()
    for about, size, act in cases:
        core = stage() if is_new or not is_whole(core) else core
        assert about not in costs
        costs[about] = cost_of(act(core, size // share))
    return costs


def complaints(cases: Iterable[Case], *, is_new: bool = False) -> list[str]:
    """Return of which cases the cost outgrows the request."""
    listed = list(cases)
    small, large = (costs_of(listed, share, is_new=is_new) for share in (TIMES, 1))
    excess = {about: excess_of(small[about], large[about]) for about in small}
    return [f"{about}: {text}" for about, text in excess.items() if text]


def objects(count: int) -> dict[str, Any]:
    """Return an object of so many members."""
    return {f"member-{number}": number for number in range(count)}


def nested(levels: int) -> bytes:
    """Return lists in lists."""
    return b"[" * levels + b"]" * levels


def in_pairs(core: RightsCore, size: int) -> Callable[[], None]:
    """Return what looks at each part once for each part."""

    def look() -> None:
        for _ in range(size):
            for _ in range(size):
                pass

    return look


def kept_in_pairs(core: RightsCore, size: int) -> Callable[[], Any]:
    """Return what keeps all parts before it for each part."""
    return lambda: [bytes(number) for number in range(size)]


def test_what_grows_too_fast_is_found() -> None:
    """The measure itself: work and memory that grow with the square of a size are named, what is linear is not."""
    linear = "linear", PARTS, text(lambda size: ("POST /rpc/Calc/add", orjson.dumps([1] * size), {}))

    found = complaints([("work", 200, in_pairs), linear, ("memory", PARTS, kept_in_pairs)])

    assert [one.partition(":")[0] for one in found] == ["work", "memory"]
    assert "steps" in found[0]
    assert "bytes" in found[1]


# -- native ------------------------------------------------------------------------------------------------------


def native(kind: int, make: Callable[[int], dict[str, Any]]) -> Act:
    """Return what sends a message of a kind, with the fields that are made for a size."""

    def act(core: RightsCore, size: int) -> Callable[[], None]:
        peer, fields = core.native(), make(size)
        return partial(_post, core, peer, kind, [fields])

    return act


def often(kind: int, fields: dict[str, Any]) -> Act:
    """Return what sends a message many times in one turn."""
    return lambda core, size: partial(_post, core, core.native(), kind, [fields] * size)


def _post(core: RightsCore, peer: Native, kind: int, sent: list[dict[str, Any]]) -> None:
    for fields in sent:
        with suppress(ProtocolError):  # which ends the connection
            peer.post(kind, **fields)
    core.run()


def headers_of(count: int) -> dict[str, str]:
    """Return as many headers of a native message, as large together as they may be."""
    room = NATIVE_HEADERS_BYTES_MAX // (PARTS + 1) - 25
    return {f"meta_{number}": "x" * room for number in range(count)}


def of_any_kind(kind: Kind) -> Iterator[Case]:
    """Yield what can be large about each message."""
    for topic in ("orders", "Calc", "Pay", "orderz"):
        yield f"body to {topic}", BYTES, native(kind, lambda size, topic=topic: {"body": b"x" * size, "topic": topic})
        yield f"body often to {topic}", OFTEN, often(kind, {"body": b'{"window":1}', "topic": topic})
    yield "list", PARTS, native(kind, lambda size: {"body": [1] * size, "topic": "orders"})
    yield "object", PARTS, native(kind, lambda size: {"body": objects(size), "topic": "orders"})
    yield "levels", LEVELS, native(kind, lambda size: {"body": nested(size), "topic": "orders"})
    yield "headers", PARTS, native(kind, lambda size: {"topic": "Calc", **headers_of(size)})
    yield "topic", TOPIC_BYTES_MAX, native(kind, lambda size: {"topic": "x" * size})


def with_messages(make: Callable[[list[int]], dict[str, Any]], kind: int) -> Act:
    """Return what answers as a consumer that has many messages, by their offsets."""

    def act(core: RightsCore, size: int) -> Callable[[], None]:
        producer, consumer = core.native(), core.native()
        producer.ask(Kind.PRODUCE, b"".join([entry(b"x")] * size), topic="orders")
        got = consumer.ask(Kind.CONSUME, {"group": "mine", "window": size, "says_begun": True}, topic="orders")
        fields = make([one.first for one in consumer.entries][:size])
        return partial(_post, core, consumer, kind, [fields | {"session": got["subscription"]}])

    return act


def packed(ranges: list[tuple[int, int]]) -> dict[str, Any]:
    """Return ranges of offsets as the body of an ACK."""
    return {"body": b"".join(RANGE.pack(*one) for one in ranges)}


def listed(ranges: list[tuple[int, int]]) -> dict[str, Any]:
    """Return ranges of offsets as the body of a NACK."""
    return {"body": {"ranges": ranges}}


RANGES: Final[dict[str, Callable[[list[int]], list[tuple[int, int]]]]] = {
    "each alone": lambda offsets: [(one, one) for one in offsets],
    "falling": lambda offsets: [(one, one) for one in reversed(offsets)],
    "overlapping": lambda offsets: [(0, one) for one in offsets],
    "endless": lambda offsets: [(one, 2**62) for one in offsets],
    "the same": lambda offsets: [(0, len(offsets))] * len(offsets),
}


def with_ranges(kind: Kind, form: Callable[[list[tuple[int, int]]], dict[str, Any]]) -> Iterator[Case]:
    """Yield answers of consumers with many ranges."""
    for about, ranges in RANGES.items():
        yield f"ranges {about}", PARTS, with_messages(lambda offsets, ranges=ranges: form(ranges(offsets)), kind)


def entries(make: Callable[[int], bytes]) -> Act:
    """Return what stores many messages that a group with a consumer is waiting for."""

    def act(core: RightsCore, size: int) -> Callable[[], None]:
        core.native().ask(Kind.CONSUME, {"group": "mine", "window": 1000, "filter": "a.*|x"}, topic="orders")
        body = b"".join(map(make, range(size)))
        return partial(_post, core, core.native(), Kind.PRODUCE, [{"body": body, "topic": "orders"}])

    return act


def about_itself(name: str, make: Callable[[int], Any]) -> Act:
    """Return what subscribes with something large that it says of itself."""
    return native(
        Kind.SUBSCRIBE,
        lambda size: {"topic": "New", "body": {"window": 1, "about": {name: make(size), "version": "1"}}},
    )


def reply(make: Callable[[int], dict[str, Any]]) -> Act:
    """Return what answers a call."""

    def act(core: RightsCore, size: int) -> Callable[[], None]:
        server, caller = core.native(), core.native()
        server.serve("Mine")
        caller.post(Kind.REQUEST, b'{"method":"x"}', topic="Mine")
        core.run()
        call, fields = server.calls[-1], make(size)
        body, headers = fields.get("body", b'{"result":1}'), fields.get("header_bytes", b"")

        def send() -> None:
            message = Message(Kind.REPLY, call.id, b"", body, headers, session=call.session)
            with suppress(ProtocolError):
                core.broker.receive(server.session, message, core.lab.scheduler.now())
            core.run()

        return send

    return act


def report(name: str, make: Callable[[int], Any]) -> Act:
    """Return what tells a tracker of a broker with much of something."""
    facts = {"mask": 0, "consumers": 1, "depth": 0, "created_ms": 0, "groups": []}
    group = {"name": "g", "filter": "", "mask": 0, "depth": 0, "consumers": 0, "created_ms": 0}

    def made(size: int) -> dict[str, Any]:
        said: dict[str, Any] = {
            "server": {"address": "other:1", "boot": "b"},
            "topics": {},
            "is_full": True,
            "version": 1,
        }
        if name == "topics":
            said["topics"] = {f"t{number}": facts for number in range(size)}
        elif name == "groups":
            groups = [group | {"name": f"g{number}"} for number in range(size)]
            said["topics"] = {"t": facts | {"groups": groups}}
        else:
            said["server"][name] = make(size)
        return {"body": said}

    return native(Kind.REPORT, made)


OWN_FORMS: Final[dict[Kind, list[Case]]] = {
    Kind.PRODUCE: [
        ("entries", PARTS, entries(lambda number: entry(b"x"))),
        ("entries with ids and tags", PARTS, entries(lambda number: entry(b"x", f"{number}", "a.b"))),
        ("entries of 30 bytes", PARTS, entries(lambda number: entry(b""))),
    ],
    Kind.REPLY: [
        ("result", BYTES, reply(lambda size: {"body": b'{"result":"%b"}' % (b"x" * size)})),
        ("headers", PARTS, reply(lambda size: {"header_bytes": orjson.dumps(objects(size))})),
    ],
    Kind.SUBSCRIBE: [
        ("methods", PARTS, about_itself("methods", lambda size: [f"method_{number}" for number in range(size)])),
        ("interface", PARTS, about_itself("interface", lambda size: {"methods": objects(size)})),
        ("version", BYTES // 16, about_itself("version", lambda size: "x" * size)),
    ],
    Kind.REPORT: [
        ("topics", PARTS, report("topics", int)),
        ("groups", PARTS, report("groups", int)),
        ("trackers", PARTS, report("trackers", lambda size: [f"t{number}:1" for number in range(size)])),
        ("software", BYTES, report("software", lambda size: "x" * size)),
    ],
    **{kind: list(with_ranges(kind, packed)) for kind in (Kind.ACK, Kind.EXTEND, Kind.BEGUN)},
    Kind.NACK: list(with_ranges(Kind.NACK, listed)),
    Kind.CONSUME: [
        (name, BYTES, native(Kind.CONSUME, lambda size, name=name: {"topic": "orders", "body": {name: "x" * size}}))
        for name in ("group", "filter", "start", "unknown")
    ],
}


KINDS: Final = [kind for kind in Kind if kind > LINK_KINDS_MAX]
PLAIN: Final = frozenset({
    Kind.REQUEST, Kind.CANCEL, Kind.UNSUBSCRIBE, Kind.RETURN, Kind.DONE, Kind.QUERY, Kind.PULL, Kind.LEAVE, Kind.TRACK,
    Kind.COMMAND, Kind.DELIVER, Kind.TOPOLOGY, Kind.MOVED, Kind.RECALL,
})  # fmt: skip
"""Kinds without parts of their own: a number or nothing, or what `of_any_kind` sends; commands have their test below,
and the last four no broker takes."""


def test_each_kind_of_message_is_thought_of() -> None:
    """One that is added has a line among those with parts of their own, or is plain."""
    assert OWN_FORMS.keys() | PLAIN == set(KINDS)
    assert not OWN_FORMS.keys() & PLAIN


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_native_message(kind: Kind) -> None:
    """Each kind that there is, also those that no peer may send."""
    assert not complaints(of_any_kind(kind))
    assert not complaints(OWN_FORMS.get(kind, []), is_new=True)


# -- commands ----------------------------------------------------------------------------------------------------


def fields_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what a command must say."""
    name = get_args(kind.model_fields["command"].annotation)[0]
    said = {"command": name, "topic": "orders", "group": "billing", "start": "oldest", "update": True}
    wanted = {field: value for field, value in said.items() if field in kind.model_fields}
    return {**wanted, "start": 0} if kind is requests.RetryDead else wanted


def of_a_command(kind: type[BaseModel]) -> Iterator[Case]:
    """Yield what can be large about a command: each of its fields, whatever it should be."""
    base = fields_of(kind)

    def command(make: Callable[[int], Any]) -> Act:
        return native(Kind.COMMAND, lambda size: {"body": make(size)})

    for name in kind.model_fields:
        yield f"{name} as text", BYTES, command(lambda size, name=name: {**base, name: "x" * size})
        yield f"{name} as list", PARTS, command(lambda size, name=name: {**base, name: list(range(size))})
        yield f"{name} as texts", PARTS, command(lambda size, name=name: {**base, name: ["x"] * size})
        yield f"{name} as object", PARTS, command(lambda size, name=name: {**base, name: objects(size)})
    yield "unknown fields", PARTS, command(lambda size: {**base, **objects(size)})
    yield "often", OFTEN, often(Kind.COMMAND, {"body": base})


@pytest.mark.parametrize("kind", get_args(requests.Command), ids=lambda kind: kind.__name__)
def test_command(kind: type[BaseModel]) -> None:
    """Each that there is."""
    assert not complaints(of_a_command(kind))


# -- text: zbus, by headers and by URLs ----------------------------------------------------------------------------

ZBUS_HEADERS: Final = (
    "topic", "consume_group", "group_filter", "group_name_auto", "tag", "message_tag", "key", "id", "recver", "sender",
    "module", "method", "offset", "accept", "cookie", "token", "origin_url", "meta-x", "group_start_msgid",
)  # fmt: skip
"""Names of headers that one command or another looks at."""


Sent = tuple[str, bytes, dict[str, str]]
"""Line, body and headers of a request."""


def text(make: Callable[[int], Sent]) -> Act:
    """Return what sends a request in text form, made for a size."""

    def act(core: RightsCore, size: int) -> Callable[[], None]:
        web, made = core.web(), make(size)
        return partial(_begin, core, web, [made])

    return act


def text_often(line: str, headers: dict[str, str]) -> Act:
    """Return what sends a request in text form many times in one turn."""
    return lambda core, size: partial(_begin, core, core.web(), [(line, b"x", headers)] * size)


def _begin(core: RightsCore, web: Web, made: list[Sent]) -> None:
    for line, body, headers in made:
        with suppress(HttpError):
            web.begin_as_written(line, body, headers)
    core.run()


def of_any_text(line: str, headers: dict[str, str]) -> Iterator[Case]:
    """Yield what can be large about each request in text form."""
    yield "body", BYTES, text(lambda size: (line, b"x" * size, headers))
    yield "list", PARTS, text(lambda size: (line, orjson.dumps([1] * size), headers))
    yield "object", PARTS, text(lambda size: (line, orjson.dumps(objects(size)), headers))
    yield "levels", LEVELS, text(lambda size: (line, nested(size), headers))
    many, room = HEADERS_MAX - 10, HEADERS_BYTES_MAX // HEADERS_MAX - 20
    yield "headers", many, text(lambda size: (line, b"", headers | {f"meta-{n}": "x" * room for n in range(size)}))
    yield "often", OFTEN, text_often(line, headers)


def of_any_url(line: str) -> Iterator[Case]:
    """Yield what can be large about each URL."""
    join = "&" if "?" in line else "?"
    for name, value in (("x", "%41"), ("topic", "t")):
        most = (TARGET_BYTES_MAX - 300) // len(f"&{name}1234={value}")

        def parameters(size: int, name: str = name, value: str = value) -> Sent:
            query = "&".join(f"{name}{number}={value}" for number in range(size))
            return f"{line}{join}{query}", b"", {}

        yield f"parameters {name}={value}", most, text(parameters)
    path = line.partition("?")[0]
    yield "parts of the path", TARGET_BYTES_MAX // 2 - 200, text(lambda size: (path + "/x" * size, b"", {}))


def of_zbus(name: str) -> Iterator[Case]:
    """Yield what can be large about a command of zbus, by its header and by its URL."""
    base = {"cmd": name, "topic": "orders", "consume_group": "billing"}
    line = f"GET /{name}/orders/billing?timeout=0"
    yield from of_any_text(line, {})
    yield from of_any_url(line)
    yield "body by header", BYTES, text(lambda size: ("GET /", b"x" * size, base))
    yield "often by header", OFTEN, text_often("GET /", base)
    for left_out in ("nothing", "topic", "group"):
        others = {name: value for name, value in base.items() if left_out not in name}
        long = [header for header in ZBUS_HEADERS if header not in others]
        room = HEADERS_BYTES_MAX // len(ZBUS_HEADERS) - 100

        def headers(size: int, others: dict[str, str] = others, long: list[str] = long) -> Sent:
            return "GET /", b"", others | dict.fromkeys(long, "x" * size)

        yield f"long headers, {left_out} by name", room, text(headers)
    yield (
        "often for other topics",
        OFTEN,
        lambda core, size: partial(
            _begin, core, core.web(), [("GET /", b"x", base | {"topic": f"new{number}"}) for number in range(size)]
        ),
    )


@pytest.mark.parametrize("name", sorted(COMMANDS | PAGES))
def test_command_of_zbus(name: str) -> None:
    """Each that there is, as header and as URL; a WebSocket takes the same."""
    assert not complaints(of_zbus(name))


# -- text: the API of the monitor, the gateway ----------------------------------------------------------------------


NAMES: Final = {"topic": "orders", "group": "billing", "service": "Calc"}


def of_the_api(route: Route) -> Iterator[Case]:
    """Yield what can be large about a request to the API."""
    line = f"{route.method} " + route.path.format(**NAMES)
    yield from of_any_text(line, {})
    for name in ("topic", "group", "service"):
        if f"{{{name}}}" in route.path:
            for letter in ("x", "%20"):

                def named(size: int, name: str = name, letter: str = letter) -> Sent:
                    path = route.path.format(**(NAMES | {name: letter * (size // len(letter))}))
                    return f"{route.method} {path}", b"", {}

                yield f"{name} of {letter}", TARGET_BYTES_MAX - 300, text(named)
    for name in route.query:
        yield (
            f"{name} in the URL",
            TARGET_BYTES_MAX - 300,
            text(lambda size, name=name: (f"{line}?{name}={'1' * size}", b"", {})),
        )


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_request_to_the_api(route: Route) -> None:
    """Each route that there is."""
    assert not complaints(of_the_api(route))


def batch(service: str, method: str = "x") -> Act:
    """Return what sends a batch of JSON-RPC."""
    one = {"jsonrpc": "2.0", "id": 1, "method": method, "params": []}
    return text(lambda size: (f"POST /rpc/{service}", orjson.dumps([one] * size), {}))


GATEWAY: Final = {
    "list": "GET /rpc", "service": "GET /rpc/Calc", "call": "GET /rpc/Calc/add/1", "post": "POST /rpc/Calc",
    "method": "POST /rpc/Calc/add", "missing": "POST /rpc/Calx/add", "durable": "POST /rpc/Pay/add",
    "metrics": "GET /metrics", "api": "GET /api/nothing", "peek": "GET /api/topics/orders/messages",
    "page": "GET /monitor/main.js", "nowhere": "GET //query//orders",
}  # fmt: skip


@pytest.mark.parametrize("line", GATEWAY.values(), ids=GATEWAY)
def test_request_of_http(line: str) -> None:
    """The gateway, the figures and the files of the page."""
    assert not complaints([*of_any_text(line, {}), *of_any_url(line)])


@pytest.mark.parametrize("service", ["Calc", "Calx", "Pay", "orders"])
def test_batch_of_json_rpc(service: str) -> None:
    """The most requests in one, to a service that is there, one that is not, one that stores them, and a topic."""
    assert not complaints([("batch", BATCH_MAX, batch(service))])


# -- framings ------------------------------------------------------------------------------------------------------


def piecewise(feed: Callable[[bytes], Any], data: bytes, step: int = 1) -> Callable[[], None]:
    """Return what receives bytes in the smallest pieces."""

    def receive() -> None:
        for start in range(0, len(data), step):
            list(feed(data[start : start + step]))

    return receive


def http(size: int) -> Callable[[], None]:
    head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    return piecewise(HttpDecoder(1 << 20).feed, head + b"x" * size)


def http_head(size: int) -> Callable[[], None]:
    return piecewise(HttpDecoder(1 << 20).feed, b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * size + b"\r\n\r\n")


def chunked(size: int) -> Callable[[], None]:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return piecewise(HttpDecoder(1 << 20).feed, head + b"1\r\nx\r\n" * size + b"0\r\n\r\n", 6)


def pipelined(size: int) -> Callable[[], None]:
    return piecewise(HttpDecoder(1 << 20).feed, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * size, 1 << 20)


def frames(size: int) -> Callable[[], None]:
    chunks: list[bytes | bytearray | memoryview] = []
    for number in range(size):
        encode(Message(Kind.ACK, number, b"t", b"x"), chunks)
    return piecewise(Decoder().feed, b"".join(chunks), 1 << 20)


def frame_in_pieces(size: int) -> Callable[[], None]:
    chunks: list[bytes | bytearray | memoryview] = []
    encode(Message(Kind.REQUEST, 1, b"t", b"x" * size), chunks)
    return piecewise(Decoder().feed, b"".join(chunks), 16)


def fragments(size: int) -> Callable[[], None]:
    data = frame(BINARY, b"x", first=0) + frame(CONT, b"x", first=0) * size + frame(CONT, b"x")
    return piecewise(_web_socket().feed, data, 1 << 20)


def socket_messages(size: int) -> Callable[[], None]:
    return piecewise(_web_socket().feed, frame(BINARY, b"GET / HTTP/1.1\r\n\r\n") * size, 1 << 20)


def _web_socket() -> WebSocket:
    opened = WebSocket(1 << 20)
    headers = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
    opened.open(b"/", "GET", headers | {"host": "x", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    return opened


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (http, 20_000),
        (http_head, 20_000),
        (chunked, PARTS),
        (pipelined, PARTS),
        (frames, PARTS),
        (frame_in_pieces, BYTES // 4),
        (fragments, PARTS),
        (socket_messages, PARTS),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_bytes_in_the_smallest_pieces(made: Callable[[int], Callable[[], None]], size: int) -> None:
    """Whatever a framing is cut into, a piece costs as much as the one before it."""
    assert not excess_of(cost_of(made(size // TIMES)), cost_of(made(size)))
