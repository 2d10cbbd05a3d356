"""docs/protocol.md says what the code does: its example, its tables and its numbers."""

import re
from pathlib import Path

from zbusrpc.broker.gateway import METADATA_BYTES_MAX, STATUS
from zbusrpc.broker.limits import Limits
from zbusrpc.config import MESSAGE_BYTES_MAX
from zbusrpc.errors import Code
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.native import HEADERS_BYTES_MAX, HELLO_BYTES_MAX, TOPIC_BYTES_MAX, Decoder

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_example_in_hex_is_the_message_that_the_text_names() -> None:
    """The example decodes to what stands beside it."""
    (example,) = re.findall(r"```hex\n(.*?)```", DOCUMENT, re.DOTALL)

    (message,) = Decoder().feed(bytes.fromhex(example))

    assert message == Message(Kind.REQUEST, 1, b"Calc", b'{"method":"add","params":[1,2]}', timeout_ms=10_000)


def test_table_of_kinds_is_complete() -> None:
    """Each kind stands in the table with its number."""
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", DOCUMENT, re.MULTILINE)

    assert {name: int(number) for number, name in rows} == {kind.name: kind.value for kind in Kind}


def test_table_of_codes_is_complete_with_its_statuses() -> None:
    """Each code stands in the table with its HTTP status."""
    rows = re.findall(r"^\| ([A-Z_]+) \| [^|]+ \| (\d{3}) \|$", DOCUMENT, re.MULTILINE)

    assert {name: int(status) for name, status in rows} == {code.value: int(STATUS[code]) for code in Code}


def test_flags_and_fields_of_hello_are_named() -> None:
    """Nothing that is on the wire is missing from the text."""
    assert all(f"{flag.value} {flag.name}" in DOCUMENT for flag in Flag if flag)
    assert all(f"| `{name}` |" in DOCUMENT for name in Hello.model_fields)


def test_limits_are_those_of_the_code() -> None:
    """The numbers in the text are the constants."""
    assert (HELLO_BYTES_MAX, TOPIC_BYTES_MAX, HEADERS_BYTES_MAX) == (4096, 255, 65536)
    assert f"| {MESSAGE_BYTES_MAX} |" in DOCUMENT
    assert f"up to {METADATA_BYTES_MAX} bytes" in DOCUMENT
    limits = Limits()
    for number in (limits.queue_calls_max, limits.topics_max, limits.calls_per_session_max):
        assert f"| {number} |" in DOCUMENT
