"""Stored messages: what is kept of a request, what a consumer is given of it, and what nobody is to see."""

from collections.abc import Mapping

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.queue_lab import QueueLab
from zbusrpc.broker.dialects.zbus.stored import check_limits, encode_kept, entry_of, head_of, kept_headers, other_lines
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.mq.delivery import Delivery, State
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.entries import Entry
from zbusrpc.transport.http import HttpDecoder, HttpRequest
from zbusrpc.transport.text import one_line

SECRET = "never-to-be-seen"
OWN_NAMES = st.text("abcxyz-_.!", min_size=1, max_size=20).map(lambda name: f"x{name}")


def command(target: str = "/", method: str = "GET", body: bytes = b"", headers: Mapping[str, str] = {}) -> Command:
    """Return a request as a command."""
    return Command(HttpRequest(method, target.encode("latin-1"), dict(headers), body, True))


def kept_of(entry: Entry) -> dict[str, str]:
    """Return the headers that are stored with a message."""
    stored: dict[str, str] = orjson.loads(entry.headers) if entry.headers else {}
    return stored


def delivered(entry: Entry, *, group: str = "g", attempts: int = 1) -> dict[str, str]:
    """Return the headers that a consumer reads of a message."""
    lab = QueueLab()
    lab.peer().declare("orders")
    record = Record(entry.body, entry.id, entry.tag, b"", entry.headers, offset=17, timestamp_ms=1_700_000_000_000)
    head, _, _ = head_of(lab.topic(), group, Delivery(17, b"", State.WAITING, attempts), record)
    (request,) = HttpDecoder(0).feed(f"GET / HTTP/1.1\r\n{head}\r\n".encode())
    return request.headers


# -- what is kept --------------------------------------------------------------------------------------------


def test_headers_of_the_application_are_kept() -> None:
    """Whatever they are called; what concerned the request is not."""
    headers = {
        "cmd": "produce",
        "topic": "T",
        "tag": "a.b",
        "ack": "false",
        "id": "7",
        "window": "1",
        "version": "0.11",
    }
    own = {
        "content-type": "text/plain",
        "encoding": "gbk",
        "x-trace": "7",
        "user-agent": "mine",
        "origin_status": "201",
    }

    entry = entry_of(command("/", body=b"hello", headers=headers | own), "s-1")

    assert kept_of(entry) == own | {"sender": "s-1"}
    assert (entry.id, entry.tag, entry.body) == (b"7", b"a.b", b"hello")


def test_sender_is_who_sent_it() -> None:
    """Nobody writes another session's name, by header or by URL."""
    assert kept_of(entry_of(command(headers={"cmd": "produce", "sender": "other"}), "s-1"))["sender"] == "s-1"
    assert "sender" not in kept_of(entry_of(command("/produce/T?sender=other"), "s-1"))


def test_what_browsers_say_of_themselves_is_not_kept() -> None:
    """Of a request without `cmd`, however its URL names the command."""
    headers = {"user-agent": "browser", "accept": "*/*", "referer": "http://x", "sec-fetch-mode": "cors", "x-own": "1"}

    for target in ("/produce/T", "/T?cmd=produce", "/?cmd=produce&topic=T"):
        kept = kept_of(entry_of(command(target, "POST", headers=headers), "s-1"))
        assert kept == {"x-own": "1", "origin_url": target, "origin_method": "POST"}


def test_method_is_kept_where_it_says_something() -> None:
    """GET is what all messages have."""
    assert kept_of(entry_of(command("/produce/T"), "s-1")) == {"origin_url": "/produce/T"}


@pytest.mark.parametrize(
    "headers",
    [
        {"token": SECRET},
        {"authorization": f"Bearer {SECRET}"},
        {"proxy-authorization": f"Basic {SECRET}"},
        {"cookie": f"token={SECRET}"},
    ],
    ids=str,
)
@pytest.mark.parametrize("cmd", [{}, {"cmd": "produce"}], ids=["http", "zbus"])
def test_token_is_not_kept(headers: dict[str, str], cmd: dict[str, str]) -> None:
    """In whatever header it stood."""
    entry = entry_of(command("/produce/T", headers=headers | cmd), "s-1")

    assert SECRET.encode() not in entry.headers


@pytest.mark.parametrize(
    ("target", "url"),
    [
        (f"/produce/T?token={SECRET}", "/produce/T"),
        (f"/produce/T?TOKEN={SECRET}&body=x", "/produce/T?body=x"),
        (f"/produce/T?body=x&token={SECRET}&tag=y", "/produce/T?body=x&tag=y"),
        (f"/produce/T?%74oken={SECRET}&body=x", "/produce/T?body=x"),
        (f"/produce/T?to%6ben={SECRET}", "/produce/T"),
        (f"/produce/T?tokenx=1&token={SECRET}", "/produce/T?tokenx=1"),
        (f"/produce/T?token=a&token={SECRET}", "/produce/T"),
        ("/produce/T?body=token", "/produce/T?body=token"),
        ("/produce/T?body=a%20b", "/produce/T?body=a%20b"),
        ("/produce/T?", "/produce/T?"),
    ],
)
def test_url_is_kept_without_the_token(target: str, url: str) -> None:
    """Consumers are told how a message was produced, and not by whose token."""
    entry = entry_of(command(target), "s-1")

    assert kept_of(entry)["origin_url"] == url
    assert SECRET.encode() not in entry.headers


@pytest.mark.parametrize(
    ("name", "value", "is_fine"),
    [
        ("id", "x" * 39, True),
        ("id", "x" * 40, False),
        ("id", "ü" * 20, False),
        ("tag", "x" * 127, True),
        ("tag", "x" * 128, False),
        ("tag", "☃" * 43, False),
    ],
)
def test_id_and_tag_are_as_short_as_zbus_has_them(name: str, value: str, is_fine: bool) -> None:
    """By bytes; other brokers and clients rely on it."""
    if is_fine:
        check_limits({name: value})
        return
    with pytest.raises(RpcError, match=f"{name} of {len(value.encode())} bytes exceeds the limit of") as caught:
        entry_of(command(headers={"cmd": "produce", name: value}), "s-1")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_headers_have_a_bound() -> None:
    """As JSON, in which some letters take more bytes than they had."""
    assert encode_kept({}) == b""
    with pytest.raises(RpcError, match="written as JSON, exceed the limit of 65536 bytes"):
        encode_kept({"a": "\x01" * 12_000})


# -- what consumers are given --------------------------------------------------------------------------------


def test_consumer_is_told_of_the_message() -> None:
    """Where it stands, how it was produced, and whose it is."""
    entry = entry_of(command(headers={"cmd": "produce", "id": "7", "tag": "a.b", "content-type": "text/x"}), "s-1")

    assert delivered(entry) == {
        "origin_id": "7",
        "origin_url": "/",
        "topic": "orders",
        "consume_group": "g",
        "offset": "17",
        "timestamp": "1700000000000",
        "tag": "a.b",
        "sender": "s-1",
        "content-type": "text/x",
    }


def test_message_that_comes_again_says_so() -> None:
    """How often it was given to somebody before."""
    entry = entry_of(command(headers={"cmd": "produce"}), "s-1")

    assert "retry" not in delivered(entry, attempts=1)
    assert delivered(entry, attempts=3)["retry"] == "2"


def test_message_without_an_id_has_one_of_its_place() -> None:
    """Clients match by it, so there always is one."""
    first, second = (delivered(entry_of(command(headers={"cmd": "produce"}), "s-1")) for _ in range(2))

    assert first["origin_id"] == second["origin_id"]
    assert first["origin_id"].endswith("-17")


def test_reading_without_a_group_names_none() -> None:
    """There is no header without a value."""
    assert "consume_group" not in delivered(entry_of(command(headers={"cmd": "produce"}), "s"), group="")


@pytest.mark.parametrize(
    "headers",
    [
        b'{"Content-Length":"999","Transfer-Encoding":"chunked","Connection":"close","TOPIC":"other","Token":"t"}',
        b'{"x":"a\\r\\ncontent-length: 999","y\\r\\nz":"1","":"2","a b":"3","\xc3\xbc":"4"}',
        b'{"origin_url":"/x\\r\\nid: 9","sender":"\\u2028s","origin_status":"\\n"}',
    ],
)
def test_headers_of_native_producers_cannot_break_the_head(headers: bytes) -> None:
    """They are any JSON object of texts: what is the broker's to say, or no header at all, is left out."""
    read = delivered(Entry(0, 0, 0, b"\xff\r\n", b"a\nb", b"", headers, b""))

    assert read.keys() <= {
        "origin_id",
        "origin_url",
        "topic",
        "consume_group",
        "offset",
        "timestamp",
        "tag",
        "sender",
        "x",
    }
    assert (read["topic"], read["tag"], read["origin_id"]) == ("orders", "a b", "\ufffd")


@pytest.mark.parametrize("headers", [b"no JSON", b"[]", b'{"a":1}', b'{"a":{}}', b"\xff"])
def test_headers_that_cannot_be_read_do_not_keep_a_message(headers: bytes) -> None:
    """A native producer may write what it likes there."""
    assert delivered(Entry(0, 0, 0, b"7", b"", b"", headers, b""))["origin_id"] == "7"


@settings(deadline=None)
@given(headers=st.dictionaries(OWN_NAMES, st.text(max_size=200), max_size=20), is_zbus=st.booleans())
def test_headers_survive_the_way_to_the_consumer(headers: dict[str, str], is_zbus: bool) -> None:
    """What an application writes into headers its consumers read, but for what cannot be in one."""
    cmd = {"cmd": "produce"} if is_zbus else {}

    read = delivered(entry_of(command("/produce/T", headers=headers | cmd), "s-1"))

    assert {name: value for name, value in read.items() if name[0] == "x"} == {
        name: one_line(value) for name, value in headers.items() if one_line(value)
    }


def test_reply_carries_headers_of_its_service_only() -> None:
    """What is routed has no headers that the broker writes."""
    headers = {"cmd": "route", "recver": "s-2", "origin_status": "201", "token": SECRET, "x-own": "1", "host": "h"}

    assert other_lines(kept_headers(command(headers=headers))) == "x-own: 1\r\n"
    assert other_lines({}) == ""
