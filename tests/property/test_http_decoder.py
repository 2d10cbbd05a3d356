"""The HTTP decoder under any bytes: every split gives the same requests, rubbish gives HttpError or nothing."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from zbusrpc.transport.http import HttpDecoder, HttpError, HttpRequest

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: f"x-{name}")
VALUE = st.text("abcXYZ0123456789;=,", min_size=1, max_size=20)
REQUESTS = st.builds(
    HttpRequest,
    method=st.sampled_from(["GET", "POST"]),
    target=st.text("abc/?=&%25", max_size=30).map(lambda rest: f"/{rest}".encode()),
    headers=st.dictionaries(TOKEN, VALUE, max_size=4),
    body=st.binary(max_size=300),
    keep_alive=st.just(True),
)


def to_bytes(request: HttpRequest) -> bytes:
    headers = {**request.headers, "content-length": str(len(request.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.method} {request.target.decode()} HTTP/1.1\r\n{lines}\r\n".encode() + request.body


@settings(max_examples=100, deadline=None)
@given(st.lists(REQUESTS, max_size=4), st.lists(st.integers(0, 5000), max_size=10))
def test_any_split_of_the_bytes_gives_the_same_requests(requests: list[HttpRequest], cuts: list[int]) -> None:
    """However the network cuts the bytes, the requests that come out are those that went in."""
    data = b"".join(map(to_bytes, requests))
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    decoder = HttpDecoder(1000)

    decoded = [r for a, b in itertools.pairwise(edges) if a < b for r in decoder.feed(data[a:b])]

    assert [(r.method, r.target, r.body) for r in decoded] == [(r.method, r.target, r.body) for r in requests]
    assert all(r.headers.items() <= d.headers.items() for r, d in zip(requests, decoded, strict=True))
    assert not decoder.is_partial


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=60),
            st.sampled_from(
                [b"GET / HTTP/1.1\r\n", b"\r\n", b"POST /rpc HTTP/1.1\r\n", b"Content-Length: 3\r\n", b"abc"]
            ),
        ),
        max_size=10,
    )
)
def test_random_bytes_give_an_http_error_or_requests(blocks: list[bytes]) -> None:
    """Whatever comes, the decoder raises HttpError with a status or yields whole requests."""
    decoder = HttpDecoder(1000)

    try:
        requests, status = [request for block in blocks for request in decoder.feed(block)], 400
    except HttpError as error:
        requests, status = [], error.status

    assert 400 <= status < 600
    assert all(isinstance(request, HttpRequest) and len(request.body) <= 1000 for request in requests)
