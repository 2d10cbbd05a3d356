"""Headers of messages: none of them has a proxy, a cache or a browser do something for whoever has produced it."""

from typing import Any

import pytest

from tests.support.rights_core import RightsCore, Web
from tests.support.zbus_core import read
from zbusrpc.broker.dialects.zbus.own_headers import is_own
from zbusrpc.message import Kind, encode_headers
from zbusrpc.transport.entries import encode_entry

ACTED_ON = {
    "set-cookie": "token=villain",
    "location": "http://evil.example/",
    "refresh": "0; url=http://evil.example",
    "link": "<http://evil.example/x.js>; rel=preload",
    "content-length": "0",
    "transfer-encoding": "chunked",
    "content-security-policy": "default-src *",
    "content-location": "/other",
    "content-disposition": "attachment; filename=run.exe",
    "access-control-allow-origin": "*",
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": "*",
    "x-accel-redirect": "/etc/passwd",
    "x-accel-expires": "86400",
    "x-sendfile": "/etc/passwd",
    "x-lighttpd-send-file": "/etc/passwd",
    "x-reproxy-url": "http://127.0.0.1/",
    "x-frame-options": "ALLOWALL",
    "x-forwarded-for": "127.0.0.1",
    "surrogate-control": "max-age=86400",
    "cdn-cache-control": "max-age=86400",
    "cache-control": "public, max-age=86400",
    "expires": "Thu, 01 Jan 2099 00:00:00 GMT",
    "age": "0",
    "etag": '"x"',
    "vary": "*",
    "www-authenticate": "Basic realm=x",
    "strict-transport-security": "max-age=1",
    "clear-site-data": '"*"',
    "alt-svc": 'h3="evil.example:443"',
    "service-worker-allowed": "/",
    "sourcemap": "http://evil.example/",
    "hx-redirect": "http://evil.example/",
    "retry-after": "86400",
    "upgrade": "websocket",
    "connection": "close",
    "permissions-policy": "camera=*",
    "X-Accel-Buffering": "no",
    "Set-Cookie2": "x=1",
}
OWN = {"x-own": "1", "x-trace": "2", "language": "en", "meta-user": "anna", "traceparent": "00-0-0-00", "order_no": "7"}
DESCRIBING = {"content-type": "text/html", "content-encoding": "gzip", "content-language": "th"}
SET_BY_BROKER = {"content-length", "connection"}


@pytest.fixture
def core() -> RightsCore:
    """Return a broker with a topic."""
    core = RightsCore()
    core.native().command("declare", topic="T")
    core.native().command("declare_group", topic="T", group="T")
    return core


def produce(core: RightsCore, headers: dict[str, Any]) -> None:
    """Store a message with headers as a native producer does, who may write any."""
    body = encode_entry(0, 0, 0, b"", b"", b"", encode_headers(headers), b"body")
    assert "offset" in core.native().ask(Kind.PRODUCE, body, topic="T")


@pytest.mark.parametrize("by", ["url", "zbus", "offset"])
def test_header_that_is_acted_on_is_left_out(core: RightsCore, by: str) -> None:
    """For clients of HTTP and of zbus alike: a proxy does not tell them apart."""
    produce(core, ACTED_ON | OWN | DESCRIBING)
    web = core.web()

    if by == "zbus":
        answer = web.ask("GET /", cmd="consume", topic="T") or pytest.fail("no answer")
    else:
        answer = web.ask("GET /consume/T" + ("?offset=0" if by == "offset" else "")) or pytest.fail("no answer")

    got = {name.lower(): value for name, value in answer.headers.items()}
    assert not {name.lower() for name in ACTED_ON} - SET_BY_BROKER & got.keys()
    assert (got["content-length"], answer.body) == ("4", b"body")
    assert got["connection"].lower() == "keep-alive"
    assert {name: got[name] for name in OWN | DESCRIBING} == OWN | DESCRIBING


def test_line_breaks_in_headers_make_no_headers(core: RightsCore) -> None:
    """Neither in values nor in names."""
    produce(core, {"x-own": "1\r\nset-cookie: a=b", "x-b\r\nset-cookie": "a=b", "content-type": "a\nlocation: /x"})

    answer = core.web().ask("GET /consume/T")

    assert answer is not None
    assert not {"set-cookie", "location"} & {name.lower() for name in answer.headers}


def test_answer_of_a_service_is_no_exception(core: RightsCore) -> None:
    """What a service of zbus writes into its answer goes through the same rule."""
    service: Web = core.web()
    core.web().ask("GET /declare/Calc?topic_mask=2")
    taken = service.begin("GET /", cmd="consume", topic="Calc")
    caller = core.web().begin("GET /Calc/add/1")
    core.run()
    asked = read(taken)
    route = {"recver": asked.headers["sender"], "id": asked.headers["origin_id"]}
    service.ask("GET /", b'{"result":1}', cmd="route", **route, set_cookie="a=b", x_accel_redirect="/x", x_own="1")

    answer = read(caller)

    assert answer.headers["x-own"] == "1"
    assert not {"set-cookie", "x-accel-redirect"} & answer.headers.keys()


@pytest.mark.parametrize("name", ["CONTENT-TYPE", "X-Own", "Language"])
def test_case_of_a_name_is_no_matter(name: str) -> None:
    """As HTTP has it."""
    assert is_own(name)
    assert is_own(name.lower())
