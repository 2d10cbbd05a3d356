"""docs/protocol.md says what the code does: its example, its tables and its numbers."""

import re
from pathlib import Path

from zbusrpc import bounds
from zbusrpc.broker.dialects.http.gateway import METADATA_BYTES_MAX, STATUS
from zbusrpc.broker.sessions.limits import ABOUT_BYTES_MAX, SERVICES_PER_SESSION_MAX, SUBSCRIBE_BYTES_MAX, Limits
from zbusrpc.broker.sessions.memory import INPUT_BYTES_MAX, OUTPUT_BYTES_MAX, SMALL_BYTES
from zbusrpc.broker.tracker import registry, teller, tracker
from zbusrpc.cluster.topology import VOTE_FACTOR
from zbusrpc.config import MESSAGE_BYTES_MAX, MIB
from zbusrpc.errors import Code
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport import topology
from zbusrpc.transport.connection import OUTBOX_BYTES_MAX
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
    for number in (limits.queue_calls_max, limits.waiting_calls_max, limits.topics_max, limits.calls_per_session_max):
        assert f"| {number} |" in DOCUMENT


def test_section_on_tracking_names_every_field_and_number() -> None:
    """Its tables hold what is on the wire, its text the constants."""
    text = DOCUMENT.partition("## 8. Tracking")[2]
    models = (
        topology.GroupFacts,
        topology.TopicFacts,
        topology.ServerFacts,
        topology.Report,
        topology.Noted,
        topology.ServerChange,
        topology.Topology,
    )
    fields = {name for model in models for name in model.model_fields}

    assert {name for name in fields if f"`{name}`" not in text and f'"{name}"' not in text} == set()
    assert f"one comes every {registry.HEARTBEAT_S:g} s" in text
    assert f"everything again every {teller.REFRESH_S:g} s" in text
    assert f"listed for {registry.LEASE_S:g} s" in text
    assert f"looked at leases for {2 * registry.LOOK_S:g} s" in text
    assert f"{teller.REFUSED_S:g} s after the last time" in text
    assert f"false in the first {tracker.LEARN_S:g} s" in text
    assert f"Changes within {tracker.PUSH_DELAY_S * 1000:g} ms" in text
    assert f"({tracker.PUSH_BYTES_PER_S >> 20} MiB per second" in text
    assert (VOTE_FACTOR, "at least half" in text) == (0.5, True)
    assert (topology.VERSION_MAX, topology.LEARNT_MAX) == (2**53 - 1, 2**52)
    assert f"| {registry.SERVERS_MAX}, {registry.TOPICS_MAX} |" in DOCUMENT
    assert topology.REPORT_BYTES_MAX == 16 * 1024 * 1024


def test_bounds_of_memory_are_those_of_the_code() -> None:
    """Each row of bytes says what the code does."""
    rows = {
        "a peer that does not read what is sent to it": f"{OUTBOX_BYTES_MAX // MIB} MiB waiting for it",
        "body of a SUBSCRIBE": f"{SUBSCRIBE_BYTES_MAX // MIB} MiB, {ABOUT_BYTES_MAX // 1024} KiB",
        "services of one session": f"{SERVICES_PER_SESSION_MAX}",
        "parts of messages that wait for the rest": f"{INPUT_BYTES_MAX // MIB} MiB",
        "what waits for peers that do not read": f"{OUTPUT_BYTES_MAX // MIB} MiB",
        "a payload, the body of a request, or a WebSocket message, of who has shown": f"{SMALL_BYTES // 1024} KiB",
        "delay of a message": f"{bounds.DELAY_MS.most // 1000 // 31_536_000} year",
    }
    for start, said in rows.items():
        (row,) = re.findall(rf"^\| {start}.*$", DOCUMENT, re.MULTILINE)
        assert said in row
