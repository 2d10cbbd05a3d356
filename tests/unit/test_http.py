"""HTTP/1.1 without I/O: bounds, upgrades, and responses as bytes."""

import pytest

from zbusrpc.transport.http import (
    HEADERS_MAX,
    TARGET_BYTES_MAX,
    HttpDecoder,
    HttpError,
    HttpRequest,
    HttpResponse,
    encode_response,
)


def decode(data: bytes, limit: int = 100) -> list[HttpRequest]:
    return list(HttpDecoder(limit).feed(data))


def test_request_has_lower_case_headers_and_its_body() -> None:
    """A whole request is values."""
    (request,) = decode(b"POST /rpc/Calc?x=1 HTTP/1.1\r\nHOST: a\r\nContent-Length: 2\r\n\r\nhi")

    assert (request.method, request.target, request.body, request.keep_alive) == ("POST", b"/rpc/Calc?x=1", b"hi", True)
    assert request.headers == {"host": "a", "content-length": "2"}


def test_chunked_body_is_joined() -> None:
    """Transfer-Encoding: chunked is understood."""
    (request,) = decode(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")

    assert request.body == b"abc"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101, 413),
        (b"GET /" + b"x" * TARGET_BYTES_MAX + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (HEADERS_MAX + 1) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 40_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"rubbish\r\n\r\n", 400),
    ],
)
def test_request_over_a_bound_or_against_the_rules_has_its_status(data: bytes, status: int) -> None:
    """Each bound has the status that HTTP has for it."""
    with pytest.raises(HttpError) as caught:
        decode(data)

    assert caught.value.status == status


def test_requests_before_the_wrong_one_are_yielded() -> None:
    """What was right before the mistake is answered."""
    seen: list[HttpRequest] = []

    with pytest.raises(HttpError):
        seen.extend(HttpDecoder(10).feed(b"GET /a HTTP/1.1\r\n\r\nrubbish\r\n\r\n"))
    decoder = HttpDecoder(10).feed(b"GET /a HTTP/1.1\r\n\r\nrubbish\r\n\r\n")

    assert next(decoder).target == b"/a"


OPENING = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def test_upgrade_is_told_with_what_follows() -> None:
    """A client that wants to go on with WebSocket says so, and what follows is left as it came, in blocks or not."""
    decoder = HttpDecoder(100)
    (request,) = decoder.feed(b"GET /rpc HTTP/1.1\r\n" + OPENING + b"\r\nrest HTTP/1.1 200 OK\r\n")

    assert list(decoder.feed(b"GET / HTTP/1.1\r\n\r\n")) == []
    assert request.target == b"/rpc"
    assert request.is_upgrade
    assert decoder.after_upgrade == b"rest HTTP/1.1 200 OK\r\nGET / HTTP/1.1\r\n\r\n"


IGNORED = {
    "curl --http2": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
    "nginx with its lines for WebSocket": "Upgrade: h2c\r\nConnection: upgrade\r\n",
    "nginx with those, for a client that offers nothing": "Upgrade: \r\nConnection: upgrade\r\n",
    "a WebSocket, which opens with GET": "Upgrade: websocket\r\nConnection: Upgrade\r\n",
    "several": "Upgrade: TLS/1.2, h2c\r\nConnection: keep-alive\r\nConnection: Upgrade\r\n",
}
BODIES = {
    "a length": (b"Content-Length: 5\r\n", b"hello"),
    "chunks": (b"Transfer-Encoding: chunked\r\n", b"2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"),
    "an expectation": (b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello"),
}


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("size", BODIES)
@pytest.mark.parametrize("offer", IGNORED)
def test_body_after_an_upgrade_that_is_ignored_is_read(offer: str, size: str, block: int) -> None:
    """A request that offers an upgrade is one like others, with what comes after it, however the network cuts it."""
    framing, body = BODIES[size]
    head = b"POST /produce/T HTTP/1.1\r\nHost: a\r\n" + IGNORED[offer].encode() + framing + b"X-Own: 1\r\n\r\n"
    data = (head + body) * 2 + b"GET /last HTTP/1.1\r\n\r\n"
    decoder = HttpDecoder(100)

    requests = [one for at in range(0, len(data), block) for one in decoder.feed(data[at : at + block])]

    assert [(one.method, one.target, one.body) for one in requests] == [
        ("POST", b"/produce/T", b"hello"),
        ("POST", b"/produce/T", b"hello"),
        ("GET", b"/last", b""),
    ]
    assert all(one.keep_alive and not one.is_upgrade for one in requests)
    assert {"host": "a", "x-own": "1"}.items() <= requests[0].headers.items()
    assert not decoder.is_partial
    assert not decoder.wants_continue


def test_expectation_beside_an_upgrade_that_is_ignored_is_known() -> None:
    """Who offers an upgrade and waits for 100 Continue would wait for ever else."""
    decoder = HttpDecoder(100)
    head = (
        b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    )

    assert list(decoder.feed(head)) == []
    assert decoder.wants_continue
    assert decoder.is_partial
    assert [one.body for one in decoder.feed(b"x")] == [b"x"]
    assert not decoder.wants_continue


@pytest.mark.parametrize(
    ("lines", "keeps_alive"),
    [(b"HTTP/1.1\r\n", True), (b"HTTP/1.1\r\nConnection: close\r\n", False), (b"HTTP/1.0\r\n", False)],
)
def test_upgrade_that_is_ignored_changes_nothing_of_the_connection(lines: bytes, keeps_alive: bool) -> None:
    """It goes on as it would without the offer, which a client of HTTP/1.0 cannot make (RFC 9110, 7.8)."""
    (request,) = decode(b"POST / " + lines + OPENING + b"Content-Length: 1\r\n\r\nx")

    assert (request.body, request.keep_alive, request.is_upgrade) == (b"x", keeps_alive, False)


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"Transfer-Encoding: gzip\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: \r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        (b"Content-Length: 101\r\n", 413),
    ],
)
def test_upgrade_that_is_ignored_loosens_no_rule(framing: bytes, status: int) -> None:
    """A body whose end is in doubt is refused beside an offer to upgrade, too."""
    with pytest.raises(HttpError) as caught:
        decode(b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n" + framing + b"\r\n1\r\nx\r\n0\r\n\r\n")

    assert caught.value.status == status


def test_connect_is_the_last_request() -> None:
    """What follows is for a tunnel that is not there."""
    (request,) = decode(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n")

    assert (request.method, request.keep_alive, request.is_upgrade) == ("CONNECT", False, False)


@pytest.mark.parametrize(("version", "takes_chunks"), [(b"1.1", True), (b"1.0", False)])
def test_client_of_http_1_0_takes_no_chunks(version: bytes, takes_chunks: bool) -> None:
    """So it is with each request of a connection, also with one that is like the last."""
    decoder = HttpDecoder(100)
    data = b"GET /a HTTP/%b\r\nconnection: keep-alive\r\n\r\n" % version

    (first,) = decoder.feed(data)
    again = decoder.repeat(data)

    assert again is not None
    assert (first.takes_chunks, again.takes_chunks) == (takes_chunks, takes_chunks)


FORWARDED = b"HTTP/%b 200 OK\r\ncmd: produce\r\ntopic: T\r\ncontent-length: %d\r\n\r\n%b"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("block", [1, 7, 10_000])
@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 " * 20 + b"HTTP/1.1 " * 20 + b"H",
        b"x\r\nHTTP/1.0 404 Not Found\r\n\r\n",
    ],
)
def test_message_in_the_form_of_a_response_is_a_request(body: bytes, block: int, version: bytes) -> None:
    """Whatever surrounds it and stands in it, it is one message, whose status is a header from then on."""
    forwarded = FORWARDED % (version, len(body), body)
    chunked = b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(body) + 1,
        body + b"!",
    )
    data = forwarded + b"HEAD /h HTTP/1.1\r\nvia: HTTP/1.1 200 OK\r\n\r\n" + forwarded + chunked + forwarded
    decoder = HttpDecoder(1000)

    requests = [one for at in range(0, len(data), block) for one in decoder.feed(data[at : at + block])]

    assert [(one.method, one.target, one.body) for one in requests] == [
        ("GET", b"/", body),
        ("HEAD", b"/h", b""),
        ("GET", b"/", body),
        ("POST", b"/c", body + b"!"),
        ("GET", b"/", body),
    ]
    assert requests[0].headers["origin_status"] == "200"
    assert "origin_status" not in requests[1].headers
    assert requests[1].headers["via"] == "HTTP/1.1 200 OK"
    assert all(one.keep_alive for one in requests)
    assert not decoder.is_partial


def test_beginning_of_a_response_is_a_part_of_a_message() -> None:
    """What may become its start line is waited for as other requests are."""
    decoder = HttpDecoder(100)

    assert list(decoder.feed(b"HT")) == []
    assert decoder.is_partial
    assert [one.target for one in HttpDecoder(100).feed(b"HEAD /h HTTP/1.1\r\n\r\n")] == [b"/h"]


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\ncmd: ping\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\ncmd: ping\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 1000 + b"\r\ncmd: ping\r\n\r\n",
        b"HTTP/2 200\r\ncmd: ping\r\n\r\n",
        b"HTTP/1.2 200 OK\r\ncmd: ping\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\ncmd: ping\n\n",
        b"HTTP/1.1 200" + b"x" * 1000,
    ],
)
def test_response_that_is_no_message_of_zbus_is_refused(start: bytes) -> None:
    """Only what says by `cmd` what to do with it is one."""
    with pytest.raises(HttpError) as caught:
        decode(b"GET /a HTTP/1.1\r\n\r\n" + start)

    assert caught.value.status == 400


def test_expectation_is_known_until_the_body_came() -> None:
    """A peer that waits for 100 Continue is one until its request is whole."""
    decoder = HttpDecoder(100)

    assert list(decoder.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")) == []
    assert decoder.wants_continue
    assert len(list(decoder.feed(b"x"))) == 1
    assert not decoder.wants_continue


def test_responses_are_bytes_of_http() -> None:
    """Status, length, and whether the connection stays."""
    assert encode_response(HttpResponse(status=200, body=b"{}"), keep_alive=True) == (
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    closing = encode_response(HttpResponse(status=429, body=b"x", headers={"Retry-After": "1"}), keep_alive=False)
    assert closing.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 1\r\n" in closing
    assert b"Connection: close\r\n" in closing
    assert encode_response(HttpResponse(status=204), keep_alive=True).endswith(b"keep-alive\r\n\r\n")
    assert encode_response(HttpResponse(status=499), keep_alive=True).startswith(b"HTTP/1.1 499 Client Closed Request")
