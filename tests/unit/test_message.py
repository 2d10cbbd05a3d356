"""Messages and their headers."""

import pytest

from zbusrpc.errors import ProtocolError
from zbusrpc.message import Flag, Kind, Message, decode_headers, encode_headers


def test_message_equals_one_with_the_same_fields() -> None:
    """Equality is that of all fields."""
    assert Message(Kind.REQUEST, 1, b"Calc") == Message(Kind.REQUEST, 1, b"Calc")
    assert Message(Kind.REQUEST, 1, b"Calc") != Message(Kind.REQUEST, 2, b"Calc")
    assert Message(Kind.PING) != "PING"


def test_message_shows_its_kind_without_its_body() -> None:
    """A message in a log names its kind and the size of its body."""
    assert repr(Message(Kind.REPLY, 7, body=b"secret")) == "<REPLY id=7 topic=b'' body=6 bytes>"
    assert repr(Message(99)).startswith("<99 ")


def test_no_headers_are_no_bytes() -> None:
    """Nothing is written for no headers, and read as none."""
    assert encode_headers({}) == b""
    assert decode_headers(b"") == {}


@pytest.mark.parametrize("data", [b"[]", b"1", b'{"a":1}', b'{"a":null}', b"{", b"\xff", b'"text"'])
def test_headers_that_are_no_object_of_strings_are_refused(data: bytes) -> None:
    """Anything but a JSON object of strings breaks the protocol."""
    with pytest.raises(ProtocolError):
        Message(Kind.REQUEST, header_bytes=data).headers()


def test_kinds_and_flags_have_the_numbers_of_the_protocol() -> None:
    """The numbers are on the wire and never change."""
    assert [kind.name for kind in sorted(Kind)] == [
        "HELLO", "PING", "PONG", "GOODBYE", "REQUEST", "REPLY",
        "CANCEL", "SUBSCRIBE", "UNSUBSCRIBE", "RETURN", "DONE", "QUERY",
        "PRODUCE", "CONSUME", "DELIVER", "ACK", "NACK", "EXTEND", "PULL", "LEAVE", "COMMAND",
        "TRACK", "TOPOLOGY", "REPORT", "BEGUN", "MOVED",
        "RECALL",
    ]  # fmt: skip
    assert sorted(Kind) == list(range(1, 28))
    assert {flag.name: flag.value for flag in Flag} == {
        "HEADERS": 1, "ERROR": 2, "IDEMPOTENT": 4, "WAIT_FOR_READY": 8, "NOT_RUN": 16,
    }  # fmt: skip
