"""The native framing's vectors, which an implementation in any language can run, hold for ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from zbusrpc.errors import FrameTooLargeError, ProtocolError
from zbusrpc.message import Flag, Kind, Message, encode_headers
from zbusrpc.transport.native import Decoder, encode
from zbusrpc.transport.topology import encode as encode_body
from zbusrpc.transport.topology import parse_report, parse_topology

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("native_vectors.json").read_text(encoding="utf-8"))


def named(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[kind]]


def message_of(fields: dict[str, Any]) -> Message:
    return Message(
        Kind[fields["kind"]],
        fields["id"],
        fields["topic"].encode(),
        bytes.fromhex(fields["body_hex"]),
        encode_headers(fields["headers"]),
        sum(Flag[name] for name in fields["flags"]),
        fields["timeout_ms"],
        fields["session"],
    )


def decode_fully(data: bytes, message_bytes_max: int) -> None:
    for message in Decoder(message_bytes_max).feed(data):
        message.headers()


@pytest.mark.parametrize("vector", named("messages"))
def test_frame_and_message_are_the_same(vector: dict[str, Any]) -> None:
    """The frame decodes to the message, and the message encodes to the frame."""
    chunks: list[bytes | bytearray | memoryview] = []
    data = bytes.fromhex(vector["hex"])

    (decoded,) = Decoder().feed(data)
    encode(message_of(vector["message"]), chunks)

    assert decoded == message_of(vector["message"])
    assert b"".join(chunks) == data


@pytest.mark.parametrize("vector", named("malformed"))
def test_malformed_frame_is_refused(vector: dict[str, Any]) -> None:
    """Each malformed frame breaks the protocol, in the way that the vector says."""
    byte, count = vector.get("then_repeat", ["", 0])
    data = bytes.fromhex(vector["hex"] + byte * count)
    wanted = {"TOO_LARGE": FrameTooLargeError, "PROTOCOL": ProtocolError}[vector["error"]]

    with pytest.raises(ProtocolError) as caught:
        decode_fully(data, vector["message_bytes_max"])

    assert type(caught.value) is wanted


@pytest.mark.parametrize("vector", named("incomplete"))
def test_incomplete_frame_waits_for_the_rest(vector: dict[str, Any]) -> None:
    """What has begun well is neither a message nor an error."""
    assert list(Decoder().feed(bytes.fromhex(vector["hex"]))) == []


def test_bodies_of_reports_and_topologies_can_be_read() -> None:
    """What the vectors show is what trackers take and clients understand."""
    readers = {"REPORT": parse_report, "TOPOLOGY": parse_topology}
    messages = [message_of(vector["message"]) for vector in VECTORS["messages"]]
    told = [(Kind(one.kind).name, one.body) for one in messages if Kind(one.kind).name in readers and one.body]

    assert {kind for kind, _ in told} == set(readers)
    for kind, body in told:
        assert json.loads(encode_body(readers[kind](body))) == json.loads(body)


def test_every_kind_has_a_vector() -> None:
    """No kind of message was forgotten."""
    assert {vector["message"]["kind"] for vector in VECTORS["messages"]} == set(Kind.__members__)
