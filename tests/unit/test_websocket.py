"""The WebSocket without I/O: handshake, messages out of frames, what breaks the rules, and what is sent."""

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from zbusrpc.transport.http import HttpError
from zbusrpc.transport.websocket import WebSocket

CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
LIMIT = 1000
MASK = b"\x01\x02\x03\x04"
HANDSHAKE = {
    "host": "localhost:15555",
    "connection": "keep-alive, Upgrade",
    "upgrade": "websocket",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}
"""The example of RFC 6455, 1.3."""


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, head: int = 0, size: int | None = None) -> bytes:
    """Return a client's frame, with other bits in its first byte or another size than it has, if told."""
    length = len(payload) if size is None else size
    first = opcode | fin << 7 | head
    if length < 126:
        prefix = bytes([first, 128 | length])
    elif length < 65536:
        prefix = bytes([first, 128 | 126]) + length.to_bytes(2)
    else:
        prefix = bytes([first, 128 | 127]) + length.to_bytes(8)
    return prefix + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))


def opened() -> WebSocket:
    """Return a WebSocket whose handshake is done and written."""
    websocket = WebSocket(LIMIT)
    websocket.open(b"/", "GET", HANDSHAKE)
    websocket.data_to_send()
    return websocket


def written(websocket: WebSocket) -> list[tuple[int, bytes]]:
    """Return opcodes and payloads of what is to be written, as a client reads it."""
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
    client.receive_data(websocket.data_to_send())
    events = client.events_received()
    return [(event.opcode, bytes(event.data)) for event in events if isinstance(event, Frame)]


def close_code(websocket: WebSocket) -> int:
    """Return the code of the close frame, which is the last that is written."""
    opcode, payload = written(websocket)[-1]
    assert opcode == CLOSE
    return int.from_bytes(payload[:2])


def test_handshake_is_answered_as_the_rfc_shows() -> None:
    """The key of the RFC gives the answer of the RFC; nothing that is offered besides is agreed."""
    websocket = WebSocket(LIMIT)
    offers = {"sec-websocket-extensions": "permessage-deflate; x=,;", "sec-websocket-protocol": "chat,,;"}

    websocket.open(b"/?token=x", "GET", HANDSHAKE | offers)

    assert websocket.data_to_send() == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    assert websocket.data_to_send() == b""
    assert not websocket.is_closing


@pytest.mark.parametrize(
    ("method", "changes", "status", "reason"),
    [
        ("POST", {}, 405, "not POST"),
        ("GET", {"sec-websocket-version": "8"}, 426, "Sec-WebSocket-Version: 13"),
        ("GET", {"sec-websocket-version": ""}, 426, "version none"),
        ("GET", {"sec-websocket-key": "c2hvcnQ="}, 400, "Sec-WebSocket-Key"),
        ("GET", {"sec-websocket-key": "not base64, and \xe9"}, 400, "Sec-WebSocket-Key"),
        ("GET", {"sec-websocket-key": ""}, 400, "Sec-WebSocket-Key"),
        ("GET", {"connection": ",;="}, 400, "onnection"),
        ("GET", {"connection": "close"}, 426, "Connection"),
        ("GET", {"upgrade": "h2c"}, 426, "Upgrade"),
    ],
)
def test_bad_handshake_has_its_status(method: str, changes: dict[str, str], status: int, reason: str) -> None:
    """Whatever is wrong with an upgrade request is told with the status that HTTP has for it."""
    websocket = WebSocket(LIMIT)

    with pytest.raises(HttpError, match=reason) as caught:
        websocket.open(b"/\xff", method, HANDSHAKE | changes)

    assert caught.value.status == status
    assert websocket.data_to_send() == b""


@pytest.mark.parametrize("missing", ["sec-websocket-key", "sec-websocket-version"])
def test_handshake_lacks_a_header(missing: str) -> None:
    """A header that must be there and is not, is told."""
    headers = {name: value for name, value in HANDSHAKE.items() if name != missing}

    with pytest.raises(HttpError):
        WebSocket(LIMIT).open(b"/", "GET", headers)


def test_messages_come_out_whole() -> None:
    """Text and binary, empty and long, several in a block."""
    block = frame(TEXT, "grüße".encode()) + frame(BINARY, b"\xff\x00") + frame(TEXT) + frame(BINARY, b"x" * LIMIT)

    messages = list(opened().feed(block))

    assert messages == ["grüße".encode(), b"\xff\x00", b"", b"x" * LIMIT]


def test_fragments_are_joined_around_pings() -> None:
    """Control frames may stand between fragments; each ping is answered with what it holds."""
    websocket = opened()
    umlaut = "ä".encode()
    block = b"".join(
        [
            frame(TEXT, umlaut[:1], fin=False),
            frame(PING, b"one"),
            frame(CONT, umlaut[1:], fin=False),
            frame(PONG, b"unasked"),
            frame(CONT, fin=False),
            frame(PING),
            frame(CONT, b"!"),
        ]
    )

    assert list(websocket.feed(block)) == [umlaut + b"!"]
    assert written(websocket) == [(PONG, b"one"), (PONG, b"")]
    assert not websocket.is_partial


def test_ping_in_a_message_of_full_size_is_answered() -> None:
    """The limit of messages leaves room for a control frame."""
    websocket = opened()
    ping = b"p" * 125

    parts = frame(BINARY, b"x" * LIMIT, fin=False) + frame(PING, ping) + frame(CONT)

    assert list(websocket.feed(parts)) == [b"x" * LIMIT]
    assert written(websocket) == [(PONG, ping)]


def test_partial_is_told_at_each_byte() -> None:
    """Only between messages nothing waits for the rest."""
    websocket = opened()
    block = frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONT, b"b" * 200)

    partial = []
    for byte in block:
        list(websocket.feed(bytes([byte])))
        partial.append(websocket.is_partial)

    assert partial == [True] * (len(block) - 1) + [False]


@pytest.mark.parametrize(
    ("block", "code"),
    [
        pytest.param(b"\x81\x01a", 1002, id="no mask"),
        pytest.param(frame(TEXT, size=2**31), 1009, id="2 GiB"),
        pytest.param(frame(TEXT, size=2**63), 1009, id="a length with its highest bit set"),
        pytest.param(frame(TEXT, size=LIMIT + 126), 1009, id="longer than the limit and a control frame"),
        pytest.param(frame(TEXT, b"x" * (LIMIT + 1)), 1009, id="a byte longer than the limit"),
        pytest.param(
            frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONT, b"x"), 1009, id="a byte too much in a fragment"
        ),
        pytest.param(frame(TEXT, b"ab\xff"), 1007, id="text that is not UTF-8"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), 1007, id="a surrogate"),
        pytest.param(
            frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"x"), 1007, id="fragments that are not UTF-8 together"
        ),
        pytest.param(frame(TEXT, b"a", head=0x40), 1002, id="first reserved bit"),
        pytest.param(frame(TEXT, b"a", head=0x20), 1002, id="second reserved bit"),
        pytest.param(frame(BINARY, b"a", head=0x10), 1002, id="third reserved bit"),
        pytest.param(frame(3, b"a"), 1002, id="unknown opcode"),
        pytest.param(frame(11), 1002, id="unknown control opcode"),
        pytest.param(frame(PING, b"p" * 126), 1002, id="a ping of 126 bytes"),
        pytest.param(frame(PING, fin=False), 1002, id="a ping in fragments"),
        pytest.param(frame(CONT, b"a"), 1002, id="continuation of nothing"),
        pytest.param(frame(TEXT, fin=False) + frame(TEXT, b"a"), 1002, id="message within a message"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, id="close frame of one byte"),
        pytest.param(frame(CLOSE, (1005).to_bytes(2)), 1002, id="close code that no frame may hold"),
        pytest.param(frame(CLOSE, (1000).to_bytes(2) + b"\xff"), 1007, id="close reason that is not UTF-8"),
        pytest.param(frame(TEXT, fin=False) + frame(CLOSE), 1002, id="close within a message"),
    ],
)
def test_broken_rule_closes_with_its_code(block: bytes, code: int) -> None:
    """What was right before is yielded, then the code of the RFC is sent, and nothing after counts or is answered."""
    websocket = opened()

    messages = list(websocket.feed(frame(TEXT, b"before") + block + frame(TEXT, b"after") + frame(PING)))

    assert messages == [b"before"]
    assert websocket.is_closing
    assert close_code(websocket) == code
    assert list(websocket.feed(frame(TEXT, b"after") + frame(PING))) == []
    websocket.send(b"late")
    websocket.ping()
    websocket.close()
    assert websocket.data_to_send() == b""


@pytest.mark.parametrize("goodbye", [b"", (1001).to_bytes(2) + b"away"])
def test_close_of_the_peer_is_echoed(goodbye: bytes) -> None:
    """The peer's code, or none, comes back once, and messages before it count."""
    websocket = opened()

    messages = list(websocket.feed(frame(TEXT, b"last") + frame(CLOSE, goodbye) + frame(PING)))

    assert messages == [b"last"]
    assert websocket.is_closing
    assert written(websocket) == [(CLOSE, goodbye)]


def test_close_says_code_and_reason() -> None:
    """Our own goodbye is one frame; a reason that is too long is cut between two characters."""
    websocket = opened()

    websocket.close(1008, "ä" * 100)
    websocket.close()

    assert websocket.is_closing
    assert written(websocket) == [(CLOSE, (1008).to_bytes(2) + "ä".encode() * 61)]
    assert list(websocket.feed(frame(TEXT, b"late"))) == []


def test_ping_asks_and_pong_is_no_message() -> None:
    """A ping of ours is a frame; its answer is nothing that anybody sees."""
    websocket = opened()

    websocket.ping()

    assert written(websocket) == [(PING, b"")]
    assert list(websocket.feed(frame(PONG))) == []
    assert websocket.data_to_send() == b""


def test_answers_have_the_type_that_the_peer_uses() -> None:
    """Binary until the peer has spoken, then what it spoke last; bytes that are no text go as binary."""
    websocket = opened()

    websocket.send(b"first")
    list(websocket.feed(frame(TEXT, b"question")))
    websocket.send(b"answer")
    websocket.send("ä".encode())
    websocket.send(b"\xff")
    list(websocket.feed(frame(BINARY, b"question")))
    websocket.send(b"bytes")

    assert written(websocket) == [
        (BINARY, b"first"),
        (TEXT, b"answer"),
        (TEXT, "ä".encode()),
        (BINARY, b"\xff"),
        (BINARY, b"bytes"),
    ]


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_message_of_any_size_is_sent(size: int) -> None:
    """Each of the three forms of a length is read by a client."""
    websocket = opened()

    websocket.send(b"\xff" * size)

    assert written(websocket) == [(BINARY, b"\xff" * size)]


@pytest.mark.parametrize("part", [b"", b"x"])
def test_memory_is_bounded_by_the_message_whatever_the_fragments(part: bytes) -> None:
    """Many fragments and pings cost what their bytes cost, not an object each."""
    limit, block_frames, blocks = 20_000, 1000, 15
    websocket = WebSocket(limit)
    websocket.open(b"/", "GET", HANDSHAKE)
    list(websocket.feed(frame(BINARY, fin=False)))
    block = frame(CONT, part, fin=False) * block_frames + frame(PONG) * block_frames

    tracemalloc.start()
    for _ in range(blocks):
        assert list(websocket.feed(block)) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert not websocket.is_closing
    assert websocket.is_partial
    assert peak < 400_000  # other threads of the process count as well; an object each would be megabytes
    assert list(websocket.feed(frame(CONT))) == [part * block_frames * blocks]


MESSAGES = st.one_of(
    st.text(max_size=60).map(lambda text: (TEXT, text.encode())), st.binary(max_size=300).map(lambda b: (BINARY, b))
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(MESSAGES, st.lists(st.integers(0, 300), max_size=4), st.booleans()), max_size=5),
    st.lists(st.integers(0, 5000), max_size=12),
)
def test_any_split_and_any_fragments_give_the_same_messages(
    planned: list[tuple[tuple[int, bytes], list[int], bool]], cuts: list[int]
) -> None:
    """However messages are cut into fragments, and the bytes into blocks, the messages come out that went in."""
    websocket = opened()
    data = b"".join(fragmented(opcode, payload, at, with_pings) for (opcode, payload), at, with_pings in planned)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]

    messages = [message for a, b in itertools.pairwise(edges) for message in websocket.feed(data[a:b])]

    assert messages == [payload for (_, payload), _, _ in planned]
    assert not websocket.is_partial
    assert not websocket.is_closing


def fragmented(opcode: int, payload: bytes, cuts: list[int], with_pings: bool) -> bytes:
    """Return the frames of a message that is cut at `cuts`, with pings between them if told."""
    edges = [0, *sorted(cut % (len(payload) + 1) for cut in cuts), len(payload)]
    parts = [payload[a:b] for a, b in itertools.pairwise(edges)]
    frames = [frame(CONT if i else opcode, part, fin=i == len(parts) - 1) for i, part in enumerate(parts)]
    return (frame(PING, b"x") if with_pings else b"").join(frames)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.builds(
                frame, st.integers(0, 15), st.binary(max_size=140), fin=st.booleans(), head=st.sampled_from([0, 0, 64])
            ),
        ),
        max_size=12,
    )
)
def test_any_bytes_give_messages_or_a_close_frame(blocks: list[bytes]) -> None:
    """Nothing is raised for what a peer does, and after the end nothing comes out."""
    websocket = opened()

    for block in blocks:
        was_closing = websocket.is_closing
        messages = list(websocket.feed(block))
        assert not (was_closing and messages)
        assert all(len(message) <= LIMIT for message in messages)

    if websocket.is_closing:
        assert written(websocket)[-1][0] == CLOSE
