"""The native codec: limits, malformed frames, and what is copied."""

import pytest

from zbusrpc.errors import FrameTooLargeError, ProtocolError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.native import (
    HEADER,
    HEADERS_BYTES_MAX,
    LARGE_BODY_BYTES,
    TOPIC_BYTES_MAX,
    Decoder,
    encode,
    payload_size,
)


def frame(message: Message) -> bytes:
    chunks: list[bytes | bytearray | memoryview] = []
    encode(message, chunks)
    return b"".join(chunks)


def test_short_message_is_one_chunk_and_a_long_body_is_not_copied() -> None:
    """Long bodies are written as they are, beside their header."""
    short: list[bytes | bytearray | memoryview] = []
    long: list[bytes | bytearray | memoryview] = []
    body = b"x" * LARGE_BODY_BYTES

    encode(Message(Kind.REQUEST, body=b"x"), short)
    encode(Message(Kind.REQUEST, body=body), long)

    assert len(short) == 1
    assert len(long) == 2
    assert long[1] is body


def test_size_limit_is_tested_on_the_length_prefix() -> None:
    """A frame that is too long is refused by its header alone."""
    decoder = Decoder(100)

    with pytest.raises(FrameTooLargeError, match="101 bytes exceeds the limit of 100"):
        list(decoder.feed(HEADER.pack(101, Kind.REQUEST, 0, 0, 0, 0, 0)))


def test_message_of_exactly_the_limit_is_taken() -> None:
    """The limit itself is allowed."""
    message = Message(Kind.REQUEST, 1, b"Calc", b"x" * 96)

    assert payload_size(message) == 100
    assert list(Decoder(100).feed(frame(message))) == [message]


def test_messages_before_the_wrong_bytes_are_yielded() -> None:
    """What was right before the mistake has been said."""
    data = frame(Message(Kind.PING, 1)) + frame(Message(Kind.PING, 2)) + b"\xff" * HEADER.size
    decoder = Decoder()
    seen = []

    with pytest.raises(ProtocolError):
        seen.extend(message.id for message in decoder.feed(data))

    assert seen == [1, 2]


@pytest.mark.parametrize("kind", [0, 99, 255])
def test_unknown_kind_is_refused(kind: int) -> None:
    """No message has a kind that does not exist."""
    with pytest.raises(ProtocolError, match=f"kind {kind}"):
        list(Decoder().feed(HEADER.pack(0, kind, 0, 0, 0, 0, 0)))


def test_topic_longer_than_the_payload_is_refused() -> None:
    """A topic must fit into its frame."""
    with pytest.raises(ProtocolError, match="does not fit"):
        list(Decoder().feed(HEADER.pack(4, Kind.REQUEST, 0, 5, 0, 0, 0)))


def test_topic_over_its_limit_is_refused() -> None:
    """A topic has at most 255 bytes, whatever its length field could say."""
    longest = Message(Kind.REQUEST, 1, b"t" * TOPIC_BYTES_MAX)
    assert list(Decoder().feed(frame(longest))) == [longest]

    with pytest.raises(ProtocolError, match="topic of 256 bytes"):
        list(Decoder().feed(frame(Message(Kind.REQUEST, 1, b"t" * 256))))


@pytest.mark.parametrize("payload", [b"abc", b"\0\0\0\x05abc", b"\xff\xff\xff\xff"])
def test_headers_that_do_not_fit_are_refused(payload: bytes) -> None:
    """Headers end within their frame."""
    data = HEADER.pack(len(payload), Kind.REQUEST, Flag.HEADERS, 0, 0, 0, 0) + payload

    with pytest.raises(ProtocolError):
        list(Decoder().feed(data))


@pytest.mark.parametrize("cut", [0, 10, HEADER.size, HEADER.size + 2, HEADER.size + 4])
def test_headers_over_their_limit_are_refused_in_any_split(cut: int) -> None:
    """Headers have a limit of their own, which is tested before they are stored."""
    message = Message(Kind.REQUEST, 1, b"", b"y" * 200_000, b"x" * (HEADERS_BYTES_MAX + 1))
    data = frame(message)
    decoder = Decoder()

    with pytest.raises(ProtocolError, match="headers of"):
        [*decoder.feed(data[:cut]), *decoder.feed(data[cut : cut + 100_000])]


def test_large_body_takes_a_buffer_of_its_size_only() -> None:
    """A long body is gathered in place, and the decoder keeps nothing else of it."""
    message = Message(Kind.REQUEST, 1, b"Calc", b"x" * 1_000_000)
    data = frame(message)
    decoder = Decoder()

    assert list(decoder.feed(data[:500])) == []
    assert decoder.is_partial
    (decoded,) = decoder.feed(data[500:])

    assert decoded == message
    assert not decoder.is_partial


def test_flag_for_empty_headers_is_harmless() -> None:
    """Headers of no bytes are no headers."""
    data = HEADER.pack(6, Kind.REQUEST, Flag.HEADERS, 0, 0, 0, 1) + b"\0\0\0\0ab"

    assert list(Decoder().feed(data)) == [Message(Kind.REQUEST, 1, body=b"ab")]
