"""What the JSON of consumers and tools may say: each bad field gives one line that names field and value."""

import re
from typing import Any

import orjson
import pytest

from zbusrpc.broker.mq import requests
from zbusrpc.broker.mq.options import GroupOptions, TopicOptions
from zbusrpc.broker.mq.requests import Consume, Nack, PullBody, parse, parse_command
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.errors import Code, RpcError

DECLARE = {"command": "declare", "topic": "orders"}
GROUP = {"command": "declare_group", "topic": "orders", "group": "billing"}
SEEK = {"command": "seek", "topic": "orders", "group": "billing"}
PEEK = {"command": "peek", "topic": "orders"}


def said_of(kind: type | None, body: Any) -> str:
    """Return why a body is refused."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    with pytest.raises(RpcError) as caught:
        parse_command(data) if kind is None else parse(kind, data)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    return caught.value.message


# -- what is good ----------------------------------------------------------------------------------------


def test_consume_has_the_documented_defaults() -> None:
    """A CONSUME that says nothing gets a group of its own and the documented window."""
    asked = parse(Consume, b"{}")

    assert (asked.group, asked.window, asked.create, asked.start) == (None, 256, True, None)
    assert asked.group_options() == {}


def test_only_given_options_count() -> None:
    """Options that were not named are told apart from those that were given their default."""
    asked = parse(Consume, b'{"group": "g", "window": 5, "lease_ms": 30000, "start": "oldest"}')

    assert asked.group_options() == {"lease_ms": 30_000}


def test_options_have_the_documented_defaults() -> None:
    """What docs and wire say is the default is the default."""
    topic, group = TopicOptions(), GroupOptions()

    assert (topic.durability, topic.keep_s, topic.keep_bytes) == (Durability.DISK, 604_800, None)
    assert (topic.duplicate_window_s, topic.duplicate_window_ids, topic.segment_bytes) == (120, 100_000, 67_108_864)
    assert (group.lease_ms, group.max_attempts, group.backoff_ms, group.backoff_max_ms) == (30_000, 10, 1000, 300_000)
    assert group.ack
    assert not group.paused
    assert not group.exclusive


@pytest.mark.parametrize(
    "start", ["newest", "oldest", {"offset": 3}, {"id": "x"}, {"id": "x", "offset": 3}, {"time_ms": 5}, {"group": "g"}]
)
def test_each_start_can_be_said(start: Any) -> None:
    """Every start of the wire is understood."""
    command = parse_command(orjson.dumps({**SEEK, "start": start}))

    assert isinstance(command, requests.Seek)


# -- what is bad -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group", 7),
        ("window", -1),
        ("window", 4097),
        ("window", "many"),
        ("create", "perhaps"),
        ("filter", 5),
        ("exclusive", "x"),
        ("lease_ms", 99),
        ("lease_ms", 86_400_001),
        ("max_attempts", 0),
        ("max_attempts", 60_001),
        ("backoff_ms", -1),
        ("backoff_max_ms", 86_400_001),
    ],
)
def test_bad_field_of_consume_is_named_with_its_value(field: str, value: Any) -> None:
    """One line says which field of CONSUME is wrong and what it was."""
    said = said_of(Consume, {field: value})

    assert said.startswith(f"CONSUME: {field} = {value!r}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("topic", 5),
        ("durability", "paper"),
        ("keep_s", -1),
        ("keep_bytes", 0),
        ("keep_consumed", "x"),
        ("compact", 7),
        ("segment_bytes", 4095),
        ("segment_bytes", 1_073_741_825),
        ("duplicate_window_s", -0.5),
        ("duplicate_window_ids", 10_000_001),
        ("ttl_ms", 0),
        ("dead_letter_topic", 5),
        ("update", "x"),
    ],
)
def test_bad_field_of_declare_is_named_with_its_value(field: str, value: Any) -> None:
    """One line says which field of `declare` is wrong and what it was."""
    said = said_of(None, {**DECLARE, field: value})

    assert said.startswith(f"command declare: {field} = {value!r}: ")


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({**GROUP, "max_attempts": 0}, "max_attempts", "0"),
        ({**PEEK, "count": 0}, "count", "0"),
        ({**PEEK, "count": 1001}, "count", "1001"),
        ({**PEEK, "body_bytes_max": -1}, "body_bytes_max", "-1"),
        ({**SEEK, "start": "middle"}, "start", "'middle'"),
        ({**SEEK, "start": {"offset": -1}}, "offset", "-1"),
        ({**SEEK, "start": {"time_ms": "noon"}}, "time_ms", "'noon'"),
        ({**SEEK, "start": 5}, "start", "5"),
        ({"command": "retry_dead", "topic": "t", "offsets": [-1]}, "offsets", "-1"),
        ({"command": "purge_dead", "topic": "t", "offsets": "all"}, "offsets", "'all'"),
        ({"command": "topics", "match": 5}, "match", "5"),
    ],
)
def test_bad_field_of_command_is_named_with_its_value(body: dict[str, Any], field: str, value: str) -> None:
    """One line says which field of a command is wrong and what it was."""
    said = said_of(None, body)

    assert said.startswith(f"command {body['command']}: ")
    assert field in said
    assert f" = {value}: " in said


@pytest.mark.parametrize("field", ["topic", "group", "start"])
def test_missing_field_is_named(field: str) -> None:
    """What must be said and was not is named."""
    body = {name: value for name, value in {**SEEK, "start": "oldest"}.items() if name != field}

    assert said_of(None, body) == f"command seek: {field}: field required"


def test_misspelled_option_is_named_with_the_nearest() -> None:
    """An option that there is not is refused, with the one that was perhaps meant."""
    assert said_of(Consume, {"lease": 5}).startswith("CONSUME has no option lease; did you mean lease_ms?")
    assert "did you mean durability?" in said_of(None, {**DECLARE, "durabilty": "os"})
    assert said_of(None, {**SEEK, "start": {"offest": 5}}).startswith("command seek has no option offest")


def test_unknown_command_is_told_what_there_is() -> None:
    """A command that there is not is refused with its name and those that there are."""
    said = said_of(None, {"command": "format", "topic": "t"})

    assert "format" in said
    assert re.search(r"declare.*seek.*stats", said)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"command": 5}', b"{}"])
def test_body_that_is_no_request_is_refused(body: bytes) -> None:
    """What is no JSON object, or none that names a command, is refused in one line."""
    assert said_of(None, body).startswith("command")
    if body != b"{}" and b"5" not in body:
        assert said_of(Consume, body).startswith("CONSUME")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ranges": [[1]]},
        {"ranges": [[-1, 2]]},
        {"ranges": [[0, 2**63]]},
        {"ranges": [], "then": "again"},
        {"ranges": [], "delay_ms": -1},
        {"ranges": [[0, 0]] * 10_001},
    ],
)
def test_bad_nack_is_refused(body: dict[str, Any]) -> None:
    """A NACK that is no NACK is refused with its field."""
    assert said_of(Nack, body).startswith("NACK: ")


@pytest.mark.parametrize("value", [0, -1, 4097, "x", None])
def test_bad_pull_is_refused(value: Any) -> None:
    """A PULL for nothing, or for more than a window may be, is refused."""
    assert said_of(PullBody, {"max": value}).startswith("PULL: max")
