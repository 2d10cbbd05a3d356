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


def test_upgrade_is_told_with_what_follows() -> None:
    """A client that wants to go on with another protocol says so, and what follows is left as it came."""
    decoder = HttpDecoder(100)
    head = b"GET /rpc HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    (request,) = decoder.feed(head + b"rest")

    assert request.target == b"/rpc"
    assert request.is_upgrade
    assert decoder.after_upgrade == b"rest"


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
