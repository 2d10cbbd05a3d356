"""Telemetry: spans where somebody collects them, and log lines that carry the call's id."""

import io
import logging
import sys

import orjson
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from zbusrpc import telemetry
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.service.context import Context
from zbusrpc.telemetry import client_span, configure_logging, current_call, get_logger, is_tracing, server_span


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Collect the spans of this test alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def test_nothing_is_traced_without_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK that is imported but not set up makes no spans."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)

    assert "opentelemetry.sdk.trace" in sys.modules
    assert not is_tracing()


def test_server_span_is_a_child_of_the_clients_span(exporter: InMemorySpanExporter) -> None:
    """Trace context travels in the headers as W3C has it."""
    headers: dict[str, str] = {"meta-user": "ann"}
    assert is_tracing()

    with client_span("Calc", "add", headers):
        pass
    with server_span("Calc", "add", headers):
        pass

    client, server = exporter.get_finished_spans()
    version, trace_id, span_id, flags = headers["traceparent"].split("-")
    assert version == "00"
    assert int(flags, 16) & 1, "sampled"
    assert client.context is not None
    assert server.context is not None
    assert server.parent is not None
    assert int(trace_id, 16) == client.context.trace_id == server.context.trace_id
    assert int(span_id, 16) == client.context.span_id == server.parent.span_id
    assert (client.kind, server.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert client.name == "Calc/add"
    assert dict(client.attributes or {}) == {"rpc.system": "zbusrpc", "rpc.service": "Calc", "rpc.method": "add"}


def test_span_of_a_failed_call_says_how_it_failed(exporter: InMemorySpanExporter) -> None:
    """The code of the error is an attribute, and the status is that of an error."""
    with pytest.raises(RpcError), client_span("Calc", "add", {}):
        raise RpcError(Code.NOT_FOUND, "no")

    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "NOT_FOUND"
    assert not span.status.is_ok


def test_log_lines_carry_the_id_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    """Every line that is written while a call is worked on names it."""
    log = get_logger("unit")
    token = current_call.set(Context(Message(Kind.REQUEST, 7, session=3), "Calc", "add", None))
    try:
        with caplog.at_level(logging.INFO, "zbusrpc.unit"):
            log.info("unit.happened", value=1)
    finally:
        current_call.reset(token)

    assert caplog.messages == ["unit.happened value=1 call='3-7' trace='3-7'"]


def test_line_with_an_error_hands_it_to_the_programs_own_logging(caplog: pytest.LogCaptureFixture) -> None:
    """Without our own configuration a line is an ordinary log record with its exception."""
    try:
        raise ValueError("inner")
    except ValueError as error:
        get_logger("unit").error("unit.failed", exc_info=error)

    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.getMessage() == "unit.failed"


def test_configured_logging_writes_json_for_ours_and_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on a terminal, each line is one JSON object, whoever writes it."""
    out = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(telemetry, "_is_configured", False)
    try:
        configure_logging("info")
        get_logger("fresh").info("fresh.ours", value=1)
        logging.getLogger("others").warning("theirs")
        get_logger("fresh").debug("fresh.hidden")
        root.handlers[0].flush()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()

    ours, theirs = (orjson.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["value"], ours["level"]) == ("fresh.ours", 1, "info")
    assert (theirs["event"], theirs["level"]) == ("theirs", "warning")
