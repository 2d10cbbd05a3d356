"""Integers of more digits than parsers read: found where they stand, in JSON, TOML, bodies, commands and answers."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import from_json

from tests.unit.test_zbus_calling import routed
from zbusrpc import envelope
from zbusrpc.broker.access.token_file import read_tokens
from zbusrpc.broker.mq.requests import parse_command
from zbusrpc.config import load_settings
from zbusrpc.errors import Code, ConfigError, RpcError
from zbusrpc.long_integers import DIGITS_MAX, LongIntegerError, check_json, long_integer_in
from zbusrpc.message import Flag
from zbusrpc.mq.bodies import BodyError, reader_of, writer_of

LONG = b"7" * 5000
REASON = "an integer of 5000 digits, and 4300 are the most"


class Count(BaseModel):
    """A body with an integer."""

    n: int
    text: str = ""


def found_in(data: bytes) -> LongIntegerError | None:
    """Return what is found in a text that pydantic refuses."""
    with pytest.raises(ValueError, match=r"line \d+ column") as refused:
        from_json(data)
    return long_integer_in(data, str(refused.value))


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"%b", ()),
        (b"-%b", ()),
        (b"[1,%b]", (1,)),
        (b'{"a":[{},{"b":-%b}],"c":1}', ("a", 1, "b")),
        ('{"ä": "ä",\n\n "b": [\n%b'.encode(), ("b", 0)),
        (b'{"a":"%b","b":%%b}' % LONG, ("b",)),
        (b'{"a":%b.5}', ("a",)),
        (b'{"a":1,"b":2,"a":%b}', ()),
        (b"[" * 50 + b"%b", (0,) * 50),
    ],
)
def test_place_of_a_long_integer_is_found(data: bytes, place: tuple[Any, ...]) -> None:
    """Nested, negative, behind other lines and letters; where names are given twice it is not guessed."""
    found = found_in(data % LONG)

    assert found is not None
    assert (found.place, found.reason) == (place, REASON)


@pytest.mark.parametrize(
    "data", [b"[1,}", b'{"a":' + LONG[:DIGITS_MAX] + b"x}", b'"' + LONG, b"[" + LONG[:4000] + b"]["]
)
def test_what_else_is_wrong_is_left_to_the_parser(data: bytes) -> None:
    """No long integer is found where something else is wrong."""
    assert found_in(data) is None


def test_a_text_of_very_many_lines_costs_nothing() -> None:
    """Nobody has the service count them."""
    assert found_in(b"[" + b"\n" * 100_000 + LONG) is None


@pytest.mark.parametrize("before", [0, 1, DIGITS_MAX - 1, DIGITS_MAX, DIGITS_MAX + 1, 9000, 12902])
@pytest.mark.parametrize("digits", [1, DIGITS_MAX, DIGITS_MAX + 1, 2 * DIGITS_MAX + 2])
def test_what_was_written_is_checked_wherever_the_integer_stands(before: int, digits: int) -> None:
    """An integer of just as many digits as are read passes; texts of digits do."""
    data = b'["%b",%b]' % (b"x" * before, b"7" * digits)
    check_json(b'["%b"]' % (b"7" * digits))

    if digits <= DIGITS_MAX:
        check_json(data)
    else:
        with pytest.raises(LongIntegerError, match=f"^1: an integer of {digits} digits"):
            check_json(data)


@pytest.mark.parametrize(
    ("kind", "body", "place"),
    [
        (int, 10**4999, ""),
        (Count, Count(n=10**4999), "n: "),
        (list[int], [1, 10**4999], "1: "),
        (dict[str, Any], {"a": 10**4999}, "a: "),
        (None, {"a": [10**4999]}, "a.0: "),
    ],
    ids=["integer", "model", "list", "dict", "untyped"],
)
def test_body_with_a_long_integer_is_refused_by_its_producer(kind: Any, body: Any, place: str) -> None:
    """And by a consumer that is sent one by somebody else, not by the whole body."""
    with pytest.raises(RpcError, match=f"INVALID_ARGUMENT: .*: {place}{REASON}$"):
        writer_of(kind)(body)

    read = reader_of(kind if kind is not None else dict)
    assert read is not None
    with pytest.raises(BodyError, match=f"^the body does not fit .*: {place}{REASON}$"):
        read(envelope.dump(body))


def test_text_of_digits_is_a_body() -> None:
    """Only integers have a most."""
    body = Count(n=1, text="7" * 9000)

    assert writer_of(Count)(body)[0] == envelope.dump(body)


def test_command_names_the_option() -> None:
    """Commands come from any language."""
    with pytest.raises(RpcError, match=f"INVALID_ARGUMENT: command: ttl_ms: {REASON}"):
        parse_command(b'{"command":"declare","topic":"t","ttl_ms":%b}' % LONG)


def test_answer_of_a_zbus_service_is_no_text_instead() -> None:
    """What cannot be read is an error, and its result is not handed on as another value."""
    reply = routed(b'{"result":{"n":%b}}' % LONG)

    assert reply.flags & Flag.ERROR
    error = envelope.parse_error(reply.body)
    assert (error.code, error.message) == (Code.UNKNOWN, f"the answer cannot be read: result.n: {REASON}")


def test_setting_is_named_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In zbusrpc.toml and in the file of tokens, with a line and no traceback."""
    text = 'host = "x"\n\nport = 7' + "_777" * 2000 + "\n"
    file = tmp_path / "zbusrpc.toml"
    file.write_text(text)
    file.chmod(0o600)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match=r"zbusrpc.toml: an integer of 6001 digits, .* \(at line 3\)$"):
        load_settings()
    with pytest.raises(ConfigError, match=r"an integer of 6001 digits, .* \(at line 3\)$"):
        read_tokens(str(file))
