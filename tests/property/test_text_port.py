"""The text port under anything that looks like requests: nothing escapes, nothing stays, and nobody else notices."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.text_port import PAUSE, Port, open_port
from tests.support.text_wire import UPGRADE, command, frame
from zbusrpc.transport.http import HttpDecoder, HttpError, HttpRequest

COMMANDS = [
    "produce", "rpc", "consume", "unconsume", "ack", "route", "declare", "query", "remove", "empty", "server",
    "tracker", "track_sub", "track_pub", "heartbeat", "ping", "ssl", "home", "page", "nonsense", "Produce", "é",
]  # fmt: skip
NAMES = ["T", "t", "S", "U", "..", "a/b", "%s", "T%2Fg", "é", "n" * 128, "a b", "~"]
NUMBERS = ["0", "1", "2", "3", "16", "32", "64", "127", "-1", "x", "1e3", "٣", "9" * 25]
VALUES = {
    "cmd": COMMANDS,
    "topic": NAMES,
    "consume_group": NAMES,
    "id": ["", "1", "i" * 39, "i" * 40, "☃", "a\tb", "a:b"],
    "tag": ["", "a", "a.b", "t" * 128, "é"],
    "topic_mask": NUMBERS,
    "group_mask": NUMBERS,
    "group_filter": ["", "*", "a.*", "#", "+", "#.a", ";", "a;b.#", "." * 100],
    "group_start_copy": NAMES,
    "group_start_offset": NUMBERS,
    "group_start_msgid": ["1", "2"],
    "group_start_time": NUMBERS,
    "group_name_auto": ["1", "true", "x"],
    "group_ack_window": NUMBERS,
    "group_ack_timeout": NUMBERS,
    "consume_window": NUMBERS,
    "offset": NUMBERS,
    "ack": ["true", "False", "0", "x", ""],
    "timeout": ["0", "0.001", "nan", "inf", "-1", "5", "x"],
    "timeout-ms": ["1", "0", "x", "100000"],
    "recver": ["nobody", "", "0-1"],
    "origin_status": NUMBERS,
    "origin_url": ["/", "x"],
    "sender": ["me"],
    "token": ["zb_x"],
    "version": ["0.8.0", "0.11.4", "x", "1"],
    "encoding": ["utf8", "x"],
    "content-type": ["application/json", "text/plain"],
    "x-own": ["1", "é", "\x80", "v" * 5000],
}
OF_CONNECTIONS = {
    "connection": ["close", "keep-alive", "upgrade", "Upgrade, close"],
    "upgrade": ["websocket", "h2c"],
    "sec-websocket-version": ["13", "8"],
    "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ==", "x"],
    "expect": ["100-continue", "x"],
    "transfer-encoding": ["chunked", "identity", "chunked, chunked"],
    "content-length": ["0", "3", "-1", "x", "3, 3", "99999999999999999999"],
    "host": ["localhost", "evil.example", ""],
    "origin": ["http://evil.example", "null", "http://localhost"],
    "sec-fetch-site": ["cross-site", "same-origin"],
    "accept": ["text/event-stream"],
    "last-event-id": NUMBERS,
    "cookie": ["token=x", "=;=", "a=\"\\"],
    "authorization": ["Bearer x", "Basic x", "Bearer"],
}  # fmt: skip
TARGETS = [
    "/", "*", "//", "/?", "/?cmd=query", "/?cmd=produce&topic=T&body=x", "/T?body=x", "/T/g?cmd=declare", "/PING",
    "/rpc", "/rpc/", "/rpc/T", "/rpc/T/add/1", "/rpc/T/add?a=1", "/T/m/add/1", "/%", "/%00", "/js/../x", "http://h/ping",
    "http://", "/declare/T", "/declare/T/g", "/consume/T", "/consume/T/g?timeout=0.001", "/produce/T?body=%zz",
    "/produce/T?id=%0D%0Aevil:1&body=x", "/remove/T", "/empty/T", "/track_sub", "/?" + "&" * 200, "/" + "x" * 300,
]  # fmt: skip
BODIES = [
    b"", b"x", b'{"method":"add","params":[1]}', b'{"jsonrpc":"2.0","method":"x","id":1}', b"[" * 500, b"\xff\x00",
    b'{"serverInfo":{"serverAddress":{"address":"a:1"}},"live":true}', b"GET / HTTP/1.1\r\n\r\n", b"b" * 3000, b"null",
]  # fmt: skip
PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b":",
    b" ",
    b"\r\n\r\n",
    b"\xff",
    b"GET / HTTP/1.1\r\n",
    b"0\r\n\r\n",
    b"\x80" * 9,
]


@dataclass(frozen=True)
class Talk:
    """What one connection says."""

    blocks: list[bytes]
    pings: list[bytes]
    """The ids of the requests that must be answered."""
    congested: frozenset[int]


def headers_of(values: dict[str, list[str]], most: int) -> st.SearchStrategy[list[tuple[str, str]]]:
    one = st.sampled_from(sorted(values)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(values[name])))
    return st.lists(one, max_size=most)


def written(start: str, headers: list[tuple[str, str]], body: bytes, *, is_chunked: bool = False) -> bytes:
    """Return a request whose length is right."""
    length = [("transfer-encoding", "chunked")] if is_chunked else [("content-length", str(len(body)))]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers + (length if body else []))
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked and body else body
    return f"{start} HTTP/1.1\r\n{lines}\r\n".encode() + chunks


VALID = st.builds(
    written,
    st.builds("{} {}".format, st.sampled_from(["GET", "POST"]), st.sampled_from(TARGETS)),
    headers_of(VALUES, 7),
    st.sampled_from(BODIES),
    is_chunked=st.booleans(),
)
"""Requests that are right as HTTP, whatever they ask for."""
WILD = st.builds(
    written,
    st.builds(
        "{} {}".format,
        st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "CONNECT", "PRI", "get", ""]),
        st.sampled_from(TARGETS),
    ),
    headers_of(VALUES | OF_CONNECTIONS, 8),
    st.sampled_from(BODIES),
    is_chunked=st.booleans(),
)


@st.composite
def mutated(draw: st.DrawFn, from_: st.SearchStrategy[bytes]) -> bytes:
    """Return something with a few bytes changed, gone or put in."""
    data = draw(from_)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 4))
        data = data[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=3)) + data[start + gone :]
    return data


FRAMES = mutated(
    st.builds(
        lambda opcode, payload, first, size: frame(opcode, payload, first=first, size=size),
        st.sampled_from([0, 1, 2, 2, 2, 8, 9, 10, 5]),
        mutated(VALID) | st.sampled_from(BODIES),
        st.sampled_from([0x80, 0x80, 0x80, 0, 0xC0]),
        st.sampled_from([None, None, None, 0, 2, 126, 70_000, 2**31]),
    )
)


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """Return requests that are right, each with a ping behind it, and then requests or frames that may be anything."""
    valid = draw(st.lists(VALID, max_size=5))
    pings = [f"ping-{number}-".encode() for number in range(len(valid))]
    asked = [(request, command("ping", id=ping.decode())) for request, ping in zip(valid, pings, strict=True)]
    if draw(st.booleans()):
        blocks = cut(draw, b"".join([*itertools.chain(*asked), *draw(st.lists(mutated(WILD), max_size=4))]))
    else:  # a WebSocket can be opened only where nothing waits, and a bad frame ends it before the rest of its turn
        frames = b"".join(frame(2, request) for one in asked for request in one)
        wild = b"".join(draw(st.lists(FRAMES, max_size=4)))
        blocks = [*cut(draw, UPGRADE + frames), PAUSE, *cut(draw, wild)]
    return Talk(blocks, pings, draw(st.frozensets(st.integers(0, max(0, len(blocks) - 1)), max_size=3)))


def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Return data in the blocks that the network might make of it."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if a < b]


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    """Run one broker for all examples."""
    with open_port() as port:
        yield port


@pytest.mark.parametrize("examples", [60, pytest.param(3000, marks=pytest.mark.long)])
def test_whatever_a_connection_says_it_harms_nothing(port: Port, examples: int) -> None:
    """No exception escapes, what came before the fault is answered, nothing is left, and another connection goes on."""

    @settings(max_examples=examples, deadline=None)
    @given(talks())
    def check(talk: Talk) -> None:
        answer = port.talk(talk.blocks, congested=talk.congested)

        assert [ping for ping in talk.pings if answer.count(b"id: %b\r\n" % ping) != 1] == []

    check()


def decoded(blocks: list[bytes], *, is_short: bool) -> list[object]:
    """Return what a decoder makes of blocks: requests, and an error at the end."""
    decoder, found = HttpDecoder(10_000), list[object]()
    try:
        for block in blocks:
            request = decoder.repeat(block) if is_short else None
            if request is not None:
                found.append(request)
            else:
                found.extend(decoder.feed(block))
            if any(isinstance(one, HttpRequest) and not one.keep_alive for one in found):
                break  # the connection ends with it
    except HttpError as error:
        found.append(error.status)
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(headers_of(VALUES | OF_CONNECTIONS, 3), min_size=1, max_size=2).flatmap(
        lambda heads: st.lists(
            mutated(
                st.builds(
                    written,
                    st.builds("{} {}".format, st.sampled_from(["GET", "GET", "POST"]), st.sampled_from(TARGETS)),
                    st.sampled_from(heads),
                    st.sampled_from([b"", b"", b"x"]),
                )
            ),
            max_size=6,
        )
    )
)
def test_the_short_way_through_the_decoder_reads_what_the_long_one_does(blocks: list[bytes]) -> None:
    """A request with the headers of the one before it is the same, whether it was parsed or recognized."""
    assert decoded(blocks, is_short=True) == decoded(blocks, is_short=False)
