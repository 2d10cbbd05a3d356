"""The pure parts of the queue's client: bodies, entries of messages, options and places, receipts, infos."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import Base64Bytes, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, Json, TypeAdapter
from typing_extensions import TypedDict

from zbusrpc.errors import Code, DefinitionError, RpcError, UsageError
from zbusrpc.mq import AtMessage, GroupOptions, LikeGroup, TopicOptions
from zbusrpc.mq.bodies import BodyError, reader_of, write, writer_of
from zbusrpc.mq.infos import DeadLetter, GroupInfo, StoredMessage, TopicDetails, TopicInfo, page_of
from zbusrpc.mq.naming import topic_bytes
from zbusrpc.mq.options import from_wire, start_to_wire, to_wire
from zbusrpc.mq.outgoing import prepare
from zbusrpc.mq.receipt import receipts_of
from zbusrpc.transport.entries import Entry, decode_entries


class Hue(StrEnum):
    """A text with a name."""

    RED = "red"


class Size(Enum):
    """A part of a body."""

    LARGE = "L"


@dataclass
class Parcel:
    """A body that is a dataclass."""

    size: Size
    data: bytes = b""


class Order(BaseModel):
    """A body that is a model."""

    item: str
    count: int = 1


# -- bodies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "data", "content_type"),
    [
        (b"\xff", b"\xff", ""),
        (bytearray(b"ab"), b"ab", ""),
        (memoryview(b"ab"), b"ab", ""),
        ("ä", "ä".encode(), "text/plain"),
        ({"a": [1, None]}, b'{"a":[1,null]}', "application/json"),
        (Order(item="tea"), b'{"item":"tea","count":1}', "application/json"),
        (Parcel(Size.LARGE, b"\xff"), b'{"size":"L","data":"_w=="}', "application/json"),
        (None, b"null", "application/json"),
        (1.5, b"1.5", "application/json"),
    ],
)
def test_body_is_written_by_what_it_is(body: Any, data: bytes, content_type: str) -> None:
    """Bytes as they are, str as UTF-8, all else as JSON; and the content type says which."""
    assert write(body) == (data, content_type)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Order, Order(item="tea", count=2)),
        (Parcel, Parcel(Size.LARGE, b"\xff")),
        (str, "ä"),
        (list[int], [1, 2]),
        (TypeAdapter(Order | int), 7),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
    ],
)
def test_body_of_a_type_is_read_as_it_was_written(kind: Any, body: Any) -> None:
    """What the writer of a type writes, its reader reads."""
    read = reader_of(kind)

    assert read is not None
    assert read(writer_of(kind)(body)[0]) == body
    assert read(write(body)[0]) == body


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Any, b"hello"),
        (Any, (1, 2)),
        (Any, {1: 2}),
        (object, float("nan")),
        (Decimal, Decimal("NaN")),
        (Annotated[int, Field(ge=0)], -1),
        (Annotated[str, Field(max_length=2)], "abc"),
    ],
)
def test_body_that_no_reader_could_have_is_refused(kind: Any, body: Any) -> None:
    """The producer says it, and not the dead letters."""
    with pytest.raises(RpcError, match="INVALID_ARGUMENT"):
        writer_of(kind)(body)


@pytest.mark.parametrize("kind", [Any, object])
@pytest.mark.parametrize("body", ["hello", 1, [None, {"a": "b"}]])
def test_json_value_is_read_as_it_was_written(kind: Any, body: Any) -> None:
    """Text too, which is JSON where any value may stand."""
    read = reader_of(kind)

    assert read is not None
    assert read(writer_of(kind)(body)[0]) == body


def test_bytes_need_no_reading() -> None:
    """They are there already."""
    assert reader_of(bytes) is None
    assert writer_of(bytes)(b"a") == (b"a", "")


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (Order, b'{"item":1}', "the body does not fit Order: item: Input should be a valid string"),
        (Order, b"{}", "the body does not fit Order: item: Field required"),
        (Order, b'{"count":"x"}', "the body does not fit Order: item: Field required (and 1 more)"),
        (list[int], b'{"a":1}', "the body does not fit list: Input should be a valid array"),
        (str, b"a\xff", "the body is no UTF-8 text: invalid start byte at byte 1"),
    ],
)
def test_reason_of_a_body_that_does_not_fit_is_one_line(kind: Any, data: bytes, reason: str) -> None:
    """It names the type, the place and the problem."""
    read = reader_of(kind)

    assert read is not None
    with pytest.raises(BodyError) as caught:
        read(data)
    assert str(caught.value) == reason


class Letter(BaseModel):
    """A body with text that must be there, and bytes that are text."""

    model_config = ConfigDict(ser_json_bytes="utf8")

    text: str
    seal: bytes = b""
    reply: str | None = None
    more: Any = None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Letter, Letter(text="null")),
        (list[Letter | None], [None, Letter(text="x")]),
        (int | None, None),
        (Any, None),
        (dict[str, Any], {"a": None}),
    ],
)
def test_none_is_written_where_the_type_has_it(kind: Any, body: Any) -> None:
    """What may be None is."""
    data, _ = writer_of(kind)(body)

    read = reader_of(kind)
    assert read is not None
    assert read(data) == body


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (None, object(), "a body of type object has no form in JSON"),
        (None, "\ud800", "the body has no form in UTF-8: surrogates not allowed"),
        (Order, {"item": "tea"}, "a body of type dict is no Order"),
        (Order, None, "None is no Order"),
        (Letter, None, "None is no Letter"),
        (int, "5", "a body of type str is no int"),
        (list[Letter], [None], r"the body does not fit list\[Letter\]: 0 is None"),
        (list[Letter], [{"text": "x"}], r"the body does not fit list\[Letter\]: it has a dict in it"),
        (dict[str, Letter], {"a": None}, r"the body does not fit dict\[str, Letter\]: a is None"),
        (Letter, Letter.model_construct(text=None), "the body does not fit Letter: text is None"),
        (Letter, Letter.model_construct(text=5), "the body does not fit Letter: text is of type int"),
        (Letter, Letter(text="x", seal=b"\xff"), "seal: these bytes are no UTF-8; let the model have model_config"),
        (list[Letter], [Letter(text="x"), Letter(text="x", seal=b"\xff")], "1.seal: these bytes are no UTF-8"),
        (Letter, Letter(text="x", more={"a": ["\ud800"]}), r"more\.a\.0: half of a character"),
        (None, {"a": [Letter(text="x", seal=b"\xff")]}, r"a\.0\.seal: these bytes are no UTF-8"),
    ],
)
def test_body_without_a_form_is_refused(kind: Any, body: Any, reason: str) -> None:
    """The error says what it is."""
    with pytest.raises(RpcError, match=reason) as caught:
        writer_of(kind)(body)

    assert caught.value.code is Code.INVALID_ARGUMENT


class Twin(BaseModel):
    """A model with the fields of an order."""

    item: str
    count: int = 1


class Named(NamedTuple):
    """A body that is a tuple."""

    item: str


class Keys(TypedDict):
    """A body that is a dict."""

    item: str


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (str, 5, "a body of type int is no str"),
        (str, b"a", "a body of type bytes is no str"),
        (str, None, "None is no str"),
        (str, Order(item="tea"), "a body of type Order is no str"),
        (bytes, "a", "a body of type str is no bytes"),
        (bytes, 5, "a body of type int is no bytes"),
        (bytes, [1], "a body of type list is no bytes"),
        (Order, Twin(item="tea"), "a body of type Twin is no Order"),
        (Order, Parcel(Size.LARGE), "the body does not fit Order: item: Field required"),
        (Order, Size.LARGE, "the body does not fit Order: item: Field required"),
        (Order | None, Twin(item="tea"), r"a body of type Twin is no Order \| None"),
        (list[Order], [Order(item="tea"), Twin(item="tea")], r"does not fit list\[Order\]: 1 is of type Twin"),
        (dict[str, Order], {"a": Twin(item="tea")}, r"does not fit dict\[str, Order\]: a is of type Twin"),
        (Parcel, Order(item="tea"), "a body of type Order is no Parcel"),
        (Keys, {}, "the body does not fit Keys: item: Field required"),
        (Literal["a", 1], "b", "the body does not fit Literal: Input should be 'a' or 1"),
        (Path, "a", "a body of type str is no Path"),
        (IPv4Address, "x", "the body does not fit IPv4Address"),
        (Size, "L", "a body of type str is no Size"),
        (datetime, date(2026, 1, 2), "a body of type date is no datetime"),
        (set[int], [1], r"a body of type list is no set\[int\]"),
    ],
)
def test_body_of_another_type_is_refused(kind: Any, body: Any, reason: str) -> None:
    """By its producer, in one line, also where its JSON could be read as the type."""
    with pytest.raises(RpcError, match=reason) as caught:
        writer_of(kind)(body)

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in str(caught.value)


class Grade(IntEnum):
    """An integer with a name."""

    FIRST = 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (str, Hue.RED),
        (bytes, bytearray(b"ab")),
        (bytes, memoryview(b"ab")),
        (int, True),
        (int, Grade.FIRST),
        (float, 5),
        (Order | None, None),
        (Order | Parcel, Parcel(Size.LARGE)),
        (Json[list[int]], [1, 2]),
        (Base64Bytes, b"abc"),
        (ByteSize, ByteSize(1024)),
        (Named, Named("tea")),
        (Keys, {"item": "tea"}),
        (Annotated[str, BeforeValidator(str.strip)], "tea"),
        (Sequence[int], [1]),
        (Literal["a", 1], 1),
    ],
)
def test_body_of_the_type_is_taken(kind: Any, body: Any) -> None:
    """Whatever a type checker takes for it, and what it is although its validation reads something else."""
    read = reader_of(kind) or bytes

    assert read(writer_of(kind)(body)[0]) == body


def test_type_without_a_form_is_refused() -> None:
    """When the producer or consumer is made, not with the first message."""

    class Formless: ...

    with pytest.raises(DefinitionError, match=r"body: .*Formless"):
        reader_of(Formless)


# -- messages ------------------------------------------------------------------------------------------------


def entry_of(body: Any = b"body", **options: Any) -> Entry:
    """Return the entry of a message."""
    (entry,) = decode_entries(prepare(write, lambda: b"made", body, **options)[0])
    return entry


def test_entry_holds_what_was_said() -> None:
    """Times become ms, text UTF-8, and the content type stands among the headers."""
    entry = entry_of("ä", key="k", tag="t", id="i", headers={"a": "ä"}, ttl=1.5, delay=0.25)

    assert entry[:3] == (1500, 250, 0)
    assert entry[3:6] == (b"i", b"t", b"k")
    assert entry.headers == '{"content-type":"text/plain","a":"ä"}'.encode()
    assert entry.body == "ä".encode()
    assert entry_of(b"x", headers={"content-type": "image/png"}).headers == b'{"content-type":"image/png"}'


def test_message_has_an_id_in_any_case() -> None:
    """One is made where none is given; which of both it was is told."""
    assert entry_of().id == b"made"
    assert prepare(write, lambda: b"made", b"")[1] == b""
    assert prepare(write, lambda: b"made", b"", id="own")[1] == b"own"


def test_time_to_live_is_never_for_ever_by_mistake() -> None:
    """On the wire 0 is for ever: the shortest time is 1 ms."""
    assert entry_of(ttl=0.0000001).first == 1
    assert entry_of(delay=0).second == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"id": "i" * 256}, "the id of 256 bytes exceeds the limit of 255 bytes: 'iii"),
        ({"tag": "ä" * 128}, "the tag of 256 bytes exceeds the limit of 255 bytes"),
        ({"key": "k" * 1025}, "the key of 1025 bytes exceeds the limit of 1024 bytes"),
        ({"key": "a\0b"}, r"key = 'a\\x00b': it may not hold a NUL"),
        ({"key": 7}, "key = 7: it is a str, not int"),
        ({"tag": "\ud800"}, "tag has no form in UTF-8"),
        ({"headers": {"a": "b" * 70_000}}, "the headers of 70008 bytes exceed the limit of 65536 bytes"),
        ({"headers": {"a": 1}}, r"headers = \{'a': 1\}: names and values are strings"),
        ({"headers": {"a": "\ud800"}}, "headers = "),
        ({"delay": "5s"}, "delay = '5s': it is a number of seconds, not str"),
        ({"ttl": 0}, "ttl = 0: write more than 0 seconds, at most 3153600000"),
        ({"ttl": -1.0}, "ttl = -1"),
        ({"ttl": float("nan")}, "ttl = nan"),
        ({"delay": -0.1}, "delay = -0.1: write 0 or more seconds"),
        ({"delay": 1e12}, "delay = 1000000000000.0"),
    ],
)
def test_values_beyond_their_limits_are_refused(options: dict[str, Any], reason: str) -> None:
    """The error names the value and the limit."""
    with pytest.raises(RpcError, match=reason) as caught:
        entry_of(**options)

    assert caught.value.code is Code.INVALID_ARGUMENT


def test_topic_that_fits_no_frame_is_refused() -> None:
    """Before anything is opened."""
    assert topic_bytes("bestellungen-ä") == "bestellungen-ä".encode()
    for name, reason in (("", "of 0 bytes"), ("x" * 300, "of 300 bytes: 1 to 255 bytes"), (b"x", "is named by a str")):
        with pytest.raises(UsageError, match=reason):
            topic_bytes(name)  # type: ignore[arg-type]


# -- options and places --------------------------------------------------------------------------------------


def test_options_go_over_the_wire_with_their_units() -> None:
    """Seconds become ms where the wire has ms, and come back."""
    topic: TopicOptions = {"keep": None, "ttl": 1.5, "duplicate_window": 2.5, "compact": True}
    group: GroupOptions = {"lease": 0.5, "backoff": 1, "filter": "a.*"}

    assert to_wire(topic, TopicOptions) == {
        "keep_s": None,
        "ttl_ms": 1500,
        "duplicate_window_s": 2.5,
        "compact": True,
    }
    assert to_wire(group, GroupOptions) == {"lease_ms": 500, "backoff_ms": 1000, "filter": "a.*"}
    assert from_wire(to_wire(topic, TopicOptions)) == topic
    assert from_wire(to_wire(group, GroupOptions)) == group


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"leese": 1}, "there is no option leese; did you mean lease"),
        ({"lease": "1"}, "lease='1': a number of seconds"),
        ({"lease": float("inf")}, "lease=inf: a number of seconds"),
    ],
)
def test_options_that_cannot_be_are_refused(options: Any, reason: str) -> None:
    """The error names the option."""
    with pytest.raises(UsageError, match=reason):
        to_wire(options, GroupOptions)


@pytest.mark.parametrize(
    ("start", "wire"),
    [
        (None, None),
        ("oldest", "oldest"),
        ("newest", "newest"),
        (0, {"offset": 0}),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), {"time_ms": 0}),
        (AtMessage("m"), {"id": "m"}),
        (AtMessage("m", 7), {"id": "m", "offset": 7}),
        (LikeGroup("g"), {"group": "g"}),
    ],
)
def test_places_go_over_the_wire(start: Any, wire: Any) -> None:
    """Each in its own form."""
    assert start_to_wire(start) == wire


@pytest.mark.parametrize("start", ["first", True, datetime(2026, 1, 1), 1.5])
def test_places_that_are_none_are_refused(start: Any) -> None:
    """The error shows the value."""
    with pytest.raises(UsageError, match="start="):
        start_to_wire(start)


# -- receipts and infos --------------------------------------------------------------------------------------


def test_receipts_follow_one_by_one_but_for_duplicates() -> None:
    """Duplicates take no offset; the others do not notice."""
    result = {"offset": 5, "timestamp_ms": 1500, "durability": "os", "duplicates": [[1, 2], [3, 0]]}

    receipts = receipts_of(result, 5)

    assert [(one.offset, one.is_duplicate) for one in receipts] == [
        (5, False),
        (2, True),
        (6, False),
        (0, True),
        (7, False),
    ]
    assert receipts[0].timestamp == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert repr(receipts[1]) == "Receipt(offset=2, durability='os', is_duplicate=True)"


TOPIC_REPORT: dict[str, Any] = {
    "topic": "orders",
    "durability": "disk",
    "messages": 2,
    "start_offset": 0,
    "next_offset": 2,
    "bytes": 100,
    "created_ms": 1500,
    "group_count": 3,
    "consumers": 1,
    "produced": 2,
    "duplicates": 0,
    "closed_because": None,
    "options": {"ttl_ms": 1500, "keep_s": None, "of_the_future": 1},
    "of_the_future": 1,
}


def test_infos_ignore_what_they_do_not_know() -> None:
    """A newer broker may tell more."""
    info = TopicInfo.model_validate(TOPIC_REPORT)
    details = TopicDetails.model_validate(TOPIC_REPORT | {"groups": [], "group_count": 0})

    assert (info.name, info.group_count, info.is_new) == ("orders", 3, False)
    assert info.created_at == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert info.options == {"ttl": 1.5, "keep": None, "of_the_future": 1}
    assert (details.group_count, details.groups) == (0, [])
    assert GroupInfo.model_fields["name"].validation_alias == "group"


def test_bodies_that_are_no_text_come_in_base64() -> None:
    """Either way they are bytes again."""
    message = {"offset": 0, "timestamp_ms": 0, "id": "", "tag": "", "key": "", "headers": {}, "size": 1}
    result = {"messages": [message | {"body": "ä"}, message | {"body": None, "body_base64": "/w=="}]}

    page = page_of(result | {"next_offset": 2, "end_offset": 2}, StoredMessage)

    assert [one.body for one in page] == ["ä".encode(), b"\xff"]


def test_dead_letter_that_says_nothing_of_itself() -> None:
    """Somebody may have sent it there by hand."""
    message = {"offset": 0, "timestamp_ms": 0, "id": "", "tag": "", "key": "", "size": 1, "body": "a"}
    letter = DeadLetter.model_validate(message | {"headers": {"dead-offset": "x"}})

    assert (letter.reason, letter.group, letter.attempts, letter.failed_offset) == ("", "", 0, None)
