"""The native codec under any bytes: every split gives the same messages, rubbish gives ProtocolError or nothing."""

import itertools

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from zbusrpc.errors import ProtocolError
from zbusrpc.message import Flag, Kind, Message, encode_headers
from zbusrpc.transport.native import HEADER, LARGE_BODY_BYTES, Decoder, encode, payload_size

HEADERS = st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=3)
SMALL = st.binary(max_size=200)
LARGE = st.integers(LARGE_BODY_BYTES - 300, LARGE_BODY_BYTES * 3).map(lambda size: bytes([size % 251]) * size)
MESSAGES = st.builds(
    Message,
    kind=st.sampled_from([int(kind) for kind in Kind]),
    id=st.integers(0, 2**64 - 1),
    topic=st.binary(max_size=255),
    body=st.one_of(SMALL, SMALL, LARGE),
    header_bytes=HEADERS.map(encode_headers),
    flags=st.integers(0, 255).map(lambda bits: bits & ~Flag.HEADERS),
    timeout_ms=st.integers(0, 2**32 - 1),
    session=st.integers(0, 2**32 - 1),
)


def frames(messages: list[Message]) -> bytes:
    chunks: list[bytes | bytearray | memoryview] = []
    for message in messages:
        size = encode(message, chunks)
        assert size == HEADER.size + payload_size(message)
    return b"".join(chunks)


def decode(data: bytes, cuts: list[int]) -> list[Message]:
    decoder = Decoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[start:stop] for start, stop in itertools.pairwise(edges)]
    decoded = [message for piece in pieces if piece for message in decoder.feed(piece)]
    assert not decoder.is_partial
    assert decoder.completed == len(decoded)
    return decoded


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(0, 2**20), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_messages(messages: list[Message], cuts: list[int]) -> None:
    """However the network cuts the bytes, the messages that come out are those that went in."""
    assert decode(frames(messages), cuts) == messages


@settings(max_examples=25, deadline=None)
@given(st.lists(MESSAGES.filter(lambda message: len(message.body) < 300), min_size=1, max_size=3))
def test_bytes_that_come_one_by_one_give_the_same_messages(messages: list[Message]) -> None:
    """Even single bytes make whole messages."""
    data = frames(messages)

    assert decode(data, list(range(len(data)))) == messages


@settings(max_examples=40, deadline=None)
@given(LARGE, HEADERS, st.integers(1, 5000))
def test_large_body_in_blocks_of_any_size_is_whole(body: bytes, headers: dict[str, str], block: int) -> None:
    """A body that has a buffer of its own is the same in blocks of any size, and the next message is not hurt."""
    messages = [
        Message(Kind.REQUEST, 1, b"Calc", body, encode_headers(headers)),
        Message(Kind.REQUEST, 2, b"Calc", b"next"),
    ]
    data = frames(messages)

    assert decode(data, list(range(0, len(data), block))) == messages


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=80), max_size=8), st.integers(0, 400))
def test_random_bytes_give_a_protocol_error_or_nothing(blocks: list[bytes], limit: int) -> None:
    """Whatever comes, the decoder raises ProtocolError or yields well-formed messages within the limit."""
    decoder = Decoder(limit)

    try:
        decoded = [message for block in blocks for message in decoder.feed(block)]
    except ProtocolError:
        return

    assert all(message.kind in set(Kind) and payload_size(message) <= limit for message in decoded)


@settings(max_examples=200, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=3), st.data())
def test_damaged_frames_give_a_protocol_error_or_messages(messages: list[Message], data: st.DataObject) -> None:
    """One wrong byte in a good stream is a protocol error, another message, or a wait for more; never a crash."""
    stream = bytearray(frames(messages))
    stream[data.draw(st.integers(0, min(len(stream), 400) - 1))] = data.draw(st.integers(0, 255))
    decoder = Decoder()

    try:
        for message in decoder.feed(bytes(stream)):
            message.headers()
    except ProtocolError:
        return

    assert decoder.completed <= len(stream) // HEADER.size


@settings(max_examples=100, deadline=None)
@given(HEADERS)
def test_headers_survive_the_round_trip(headers: dict[str, str]) -> None:
    """Headers are the same strings on the other side."""
    assert Message(Kind.REQUEST, header_bytes=encode_headers(headers)).headers() == headers
    assert not headers or orjson.loads(encode_headers(headers)) == headers
