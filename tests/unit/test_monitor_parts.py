"""The monitor's parts: paths, files, places to start from, the description, and the statistics of calls."""

import re

import orjson
import pytest
from pydantic_core import core_schema

from zbusrpc import service
from zbusrpc.broker.calls.statistics import BOUNDS_S, MARK_S, CallStatistics, octaves
from zbusrpc.broker.dialects.http.origins import Origins
from zbusrpc.broker.monitor import pages, paths
from zbusrpc.broker.monitor.api import ROUTES, find
from zbusrpc.broker.monitor.asked import Asked
from zbusrpc.broker.monitor.openapi import description
from zbusrpc.errors import Code, RpcError
from zbusrpc.service.definition import define
from zbusrpc.service.interface import interface_of
from zbusrpc.transport.http import HttpRequest

HTML = {"accept": "text/html,*/*;q=0.8"}


def request(line: str, body: bytes = b"", **headers: str) -> HttpRequest:
    """Return a request; `_` in names of headers stands for `-`."""
    method, target = line.split(" ")
    return HttpRequest(method, target.encode(), {name.replace("_", "-"): headers[name] for name in headers}, body, True)


# -- paths and files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "headers", "is_for_it"),
    [
        ("/api", {}, True),
        ("/api/topics", {}, True),
        ("/api?token=x", {}, True),
        ("http://localhost:15555/api/topics", {}, True),
        ("/metrics", {}, True),
        ("/monitor/x.js", {}, True),
        ("/", HTML, True),
        ("/?token=x", HTML, True),
        ("/", {}, False),
        ("/", {"accept": "text/plain"}, False),
        ("/?cmd=query&topic=T", HTML, False),
        ("/apis", {}, False),
        ("/produce/api", {}, False),
        ("/monitoring", HTML, False),
        ("http://localhost:15555/", {}, False),
        ("*", HTML, False),
        ("", {}, False),
    ],
)
def test_requests_for_the_monitor_are_told_from_others(target: str, headers: dict[str, str], is_for_it: bool) -> None:
    """By the first part of the path, and the page itself by what a browser accepts."""
    assert paths.is_for_it(HttpRequest("GET", target.encode(), headers, b"", True)) is is_for_it


def test_page_comes_with_its_type_and_a_strict_policy() -> None:
    """Scripts are files of the broker; who has the page already is told so."""
    page = pages.page(request("GET /", **HTML))
    again = pages.page(request("GET /", **HTML, if_none_match=page.headers["ETag"]))

    assert (page.status, again.status, again.body) == (200, 304, b"")
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert b"<script>" not in page.body


@pytest.mark.parametrize(
    "path", ["../pages.py", "%2e%2e/pages.py", "..%2fpages.py", "none.js", "index.html/x", "views"]
)
def test_nothing_but_files_of_the_page_is_served(path: str) -> None:
    """Whatever the path says."""
    with pytest.raises(RpcError, match="the monitor has no file"):
        pages.page(request(f"GET /monitor/{path}"))


# -- routes --------------------------------------------------------------------------------------------------


def test_names_in_paths_are_decoded() -> None:
    """An encoded slash does not part them."""
    route, names = find(request("POST /api/topics/a%2Fb/groups/%C3%BC%20x/seek"))

    assert route.name == "post_topics_topic_groups_group_seek"
    assert names == {"topic": "a/b", "group": "ü x"}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("GET /api/topic", Code.NOT_FOUND),
        ("GET /api/topics/T/drop", Code.NOT_FOUND),
        ("GET /api/topics/T/remove", Code.UNIMPLEMENTED),
        ("POST /api/topics", Code.UNIMPLEMENTED),
    ],
)
def test_what_the_api_has_not_is_refused(line: str, code: Code) -> None:
    """A GET never changes anything."""
    with pytest.raises(RpcError) as refusal:
        find(request(line))

    assert refusal.value.code is code


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("oldest", "oldest"),
        ("offset:12", {"offset": 12}),
        ("id:a:b", {"id": "a:b"}),
        ("group:g", {"group": "g"}),
        ("time:2026-01-31T12:00:00%2B01:00", {"time_ms": 1769857200000}),
        ("time:2026-01-31T11:00:00Z", {"time_ms": 1769857200000}),
        ("offset:-1", None),
        ("time:soon", None),
        ("where:x", None),
    ],
)
def test_start_is_written_as_on_the_command_line(text: str, start: object) -> None:
    """Anything else is refused with what there is."""
    route, names = find(request(f"GET /api/topics/T/messages?start={text}&count=5"))
    assert route.order is not None
    asked = Asked(request=request(f"GET /api/topics/T/messages?start={text}&count=5"), rights=None, names=names)

    if start is None:
        with pytest.raises(RpcError, match=r"^INVALID_ARGUMENT: start = .*: write oldest, newest, offset:N"):
            route.order(asked)
    else:
        assert route.order(asked) == {"command": "peek", "topic": "T", "start": start, "count": "5"}


def test_path_wins_over_body() -> None:
    """A body cannot have another topic removed than the one that the path names."""
    made = request("POST /api/topics/T/remove", b'{"topic": "U", "command": "purge_dead", "group": "g"}')
    route, names = find(made)
    assert route.order is not None

    order = route.order(Asked(request=made, rights=None, names=names))

    assert (order["command"], order["topic"]) == ("remove", "T")


# -- the description -----------------------------------------------------------------------------------------


def test_description_is_whole() -> None:
    """Every route is in it once, every name of a schema has one, and every parameter of a path is told."""
    document = description(ROUTES)
    text = orjson.dumps(document).decode()

    operations = [
        (path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    assert {(path, method) for path, method, _ in operations} == {
        *((route.path, route.method.lower()) for route in ROUTES),
        ("/metrics", "get"),
    }
    assert len({operation["operationId"] for _, _, operation in operations}) == len(operations)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= document["components"]["schemas"].keys()
    for path, _, operation in operations:
        told = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
        assert told == set(re.findall(r"{(\w+)}", path))


# -- the statistics of calls ---------------------------------------------------------------------------------


def test_quantiles_are_right_to_a_tenth() -> None:
    """Of 100 calls of 1 to 100 ms, half took 50 ms and one more than 99 ms."""
    counted = CallStatistics()
    for number in range(1, 101):
        counted.note_reply(number / 1000, 7.0, is_error=number % 4 == 0)

    window = counted.window(7.0)

    assert window.quantile_ms(0.5) == pytest.approx(50, rel=0.1)
    assert window.quantile_ms(0.99) == pytest.approx(99, rel=0.1)
    assert window.error_rate == 0.25
    assert (counted.calls, counted.errors) == (100, 25)


def test_old_calls_leave_the_window() -> None:
    """What happened within MARK_S counts; what is older than twice that does not."""
    counted = CallStatistics()
    counted.note_reply(0.5, 100.0, is_error=True)

    assert counted.window(100.0 + 0.9 * MARK_S).calls == 1
    counted.note_reply(0.001, 100.0 + 1.1 * MARK_S, is_error=False)
    assert counted.window(100.0 + 1.2 * MARK_S).calls == 2
    counted.note_reply(0.001, 100.0 + 2.2 * MARK_S, is_error=False)
    assert counted.window(100.0 + 2.3 * MARK_S).error_rate == 0.0
    assert counted.window(100.0 + 9 * MARK_S).calls == 0
    assert counted.window(100.0 + 9 * MARK_S).quantile_ms(0.5) is None
    assert counted.calls == 3


@pytest.mark.parametrize("latency_s", [0.0, -0.001, 32e-6, 0.001, 134.0, 1000.0])
def test_every_latency_has_a_bucket(latency_s: float) -> None:
    """The sums up to each bound grow, and those longer than the last are in none."""
    counted = CallStatistics()
    counted.note_reply(latency_s, 1.0, is_error=False)

    sums = octaves(counted.buckets)

    assert [count for _, count in sums] == [int(latency_s <= bound) for bound, _ in sums]
    assert sums[-1][0] == BOUNDS_S[-1]


# -- pages of other brokers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "may_write"),
    [
        ("http://10.0.0.7:15556", True),
        ("https://10.0.0.7:15556", True),
        ("http://localhost:15557", True),
        ("http://[::1]:15557", True),
        ("http://127.0.0.1:15557", True),
        ("http://bus.example.org", True),
        ("http://bus.example.org:80", True),
        ("https://bus.example.org", False),
        ("https://tls.example.org:15558", True),
        ("HTTPS://TLS.Example.org:15558", True),
        ("http://tls.example.org:15558", False),
        ("http://10.0.0.7:15557", False),
        ("http://localhost:8000", False),
        ("http://localhost.evil.example:15557", False),
        ("ftp://10.0.0.7:15556", False),
        ("http://10.0.0.7:x", False),
        ("null", False),
    ],
)
def test_pages_of_brokers_of_the_set_may_write(origin: str, may_write: bool) -> None:
    """All names of this machine are one; nobody else's page may, though it be of the same machine.

    What comes by plain HTTP under the name of a broker that has TLS may be anybody's.
    """
    pages = ["http://10.0.0.7:15556", "http://127.0.0.1:15557", "http://bus.example.org:80", "http://x:99999"]
    pages.append("https://tls.example.org:15558")
    origins = Origins(bound_host="127.0.0.1", of_set=lambda: pages)

    assert origins.may_write({"origin": origin, "host": "localhost:15555"}) is may_write


# -- the interface that a service tells ----------------------------------------------------------------------


class Opaque:
    """A type with a form in JSON, but no schema."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: cls(), serialization=core_schema.plain_serializer_function_ser_schema(lambda value: "x")
        )


@service
class Odd:
    """A service with whatever a signature may hold."""

    async def keep(self, opaque: Opaque, name: str = "x", *, tags: tuple[str, ...] = ()) -> Opaque:
        """Keep it."""
        raise NotImplementedError

    async def sum(self, first: int, /, *more: int) -> int:
        """Return the sum."""
        raise NotImplementedError


def test_interface_has_a_schema_of_everything_that_can_have_one() -> None:
    """What has none is {}, and hinders nobody."""
    told = orjson.loads(interface_of(define(Odd)))

    assert told["doc"] == "A service with whatever a signature may hold."
    assert told["methods"]["keep"]["params"] == {}
    assert told["methods"]["keep"]["doc"] == "Keep it."
    assert told["methods"]["sum"]["params"] == {}
    assert told["methods"]["sum"]["result"] == {"type": "integer"}
