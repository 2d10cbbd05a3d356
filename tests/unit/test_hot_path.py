"""The way of a message through the broker: what is read is read once, and a call takes few steps."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import orjson
import pytest

from tests.support.rights_core import rights, rule
from tests.support.zbus_core import ZbusCore
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.mq import requests
from zbusrpc.broker.sessions.memory import SMALL_BYTES
from zbusrpc.message import Kind, Message
from zbusrpc.transport.native import Decoder, encode

NOW = 100.0
CALL_FRAMES_MAX = 24
"""Functions of the core that a call and its reply enter; each costs about 0.1 us."""


def frames_of(doing: Callable[[], Any]) -> int:
    """Return how many functions of Python something enters."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        doing()
    finally:
        sys.setprofile(before)
    return count


def test_call_enters_few_functions_of_the_core() -> None:
    """From its request to its reply, and where nothing waits but its deadline."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    broker.receive(instance, Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":2}'), NOW)

    def call(number: int) -> None:
        broker.receive(caller, Message(Kind.REQUEST, number, b"Calc", b"{}", timeout_ms=10_000), NOW)
        broker.receive(instance, Message(Kind.REPLY, number, body=b"{}", session=caller.number), NOW)
        broker.settle()
        broker.next_expiry()

    call(1)

    assert frames_of(lambda: call(2)) <= CALL_FRAMES_MAX
    assert [message.id for message in caller.outbox] == [1, 2]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.CONSUME, {"group": "billing"}),
        (Kind.COMMAND, {"command": "declare", "topic": "orders"}),
        (Kind.COMMAND, {"command": "drain"}),
        (Kind.COMMAND, {"command": "topics", "match": '"drain"'}),
    ],
)
@pytest.mark.parametrize("has_rights", [False, True])
def test_what_is_asked_is_read_once(
    kind: Kind, body: dict[str, Any], *, has_rights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever sees to rights, to draining, and to the command itself together."""
    read: list[bytes] = []
    check_size = requests._check_size

    def noted(data: bytes, what: str) -> None:
        read.append(bytes(data))
        check_size(data, what)

    monkeypatch.setattr(requests, "_check_size", noted)
    broker = ZbusCore().broker
    broker.on_drain = broker.drain
    session = broker.connect("somebody")
    if has_rights:
        session.rights = rights("somebody", rule("consume", "declare", "query", "admin"))
    text = orjson.dumps(body)

    broker.receive(session, Message(kind, 1, b"orders", text), NOW)

    assert read == [text]


def test_decoder_knows_what_it_holds() -> None:
    """Of a frame that is not whole, however it is cut; nothing when it is, also while others behind it are handled."""
    chunks: list[Any] = []
    encode(Message(Kind.REQUEST, 1, b"Calc", b"x" * 3 * SMALL_BYTES), chunks)
    encode(Message(Kind.REQUEST, 2, b"Calc", b"y" * 100), chunks)
    encode(Message(Kind.REQUEST, 3, b"Calc", b"z" * 100), chunks)
    data = b"".join(chunks)
    decoder = Decoder()

    assert list(decoder.feed(data[:20])) == []
    assert decoder.held_bytes == 20
    assert list(decoder.feed(data[20 : 2 * SMALL_BYTES])) == []
    assert SMALL_BYTES < decoder.held_bytes <= 2 * SMALL_BYTES
    rest = decoder.feed(data[2 * SMALL_BYTES : -10])
    assert (next(rest).id, decoder.held_bytes) == (1, 0)
    assert (next(rest).id, decoder.held_bytes) == (2, 0)
    assert list(rest) == []
    assert decoder.held_bytes == len(data) - data.rindex(b"Calc") + 24 - 10
    assert [message.id for message in decoder.feed(data[-10:])] == [3]
    assert decoder.held_bytes == 0
