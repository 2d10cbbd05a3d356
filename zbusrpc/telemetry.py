"""Logs and traces: structlog lines that carry the call's id, OpenTelemetry spans where somebody collects them.

Lines of a handler have `call`, the id of its call, and `trace`, which they share with those of all handlers that work
for the same outermost call, with OpenTelemetry or without.

A program that uses the library keeps its own logging: lines go to the standard loggers `zbusrpc.*`. The command
line calls `configure_logging`, which makes human lines on a terminal and JSON elsewhere, for our loggers and for
everybody else's.

Spans are made only when the program has imported an OpenTelemetry SDK and set a provider; otherwise a call pays for
one look into `sys.modules`. Trace context travels in the message headers as W3C has it.
"""

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol

import structlog

from zbusrpc.log_lines import LineHandler


class HasCallId(Protocol):
    """What a log line needs to know of the call it belongs to."""

    @property
    def call_id(self) -> str:
        """Names the call on client, broker and service alike."""

    @property
    def trace(self) -> str:
        """Shared by a call and all calls that are made for it."""


current_call: ContextVar[HasCallId | None] = ContextVar("zbusrpc_current_call", default=None)
"""The call that this task or thread works on; set by the worker."""

_is_configured = False


def get_logger(component: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of one component; events are named `component.event`."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(f"zbusrpc.{component}"),
        processors=[structlog.stdlib.filter_by_level, *_shared_processors(), _hand_over],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger


def configure_logging(level: str, *, as_json: bool | None = None) -> None:
    """Send every log line of this process to standard error, for people or (not on a terminal) as JSON.

    Logging never waits for whoever reads them: see `log_lines.py`.
    """
    global _is_configured  # noqa: PLW0603 - one process has one logging
    _is_configured = True
    use_json = not sys.stderr.isatty() if as_json is None else as_json
    if use_json:
        finish: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:  # plain tracebacks: the pretty ones fill a screen each, and show local variables and so perhaps secrets
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )
        finish = [_shorten_time, renderer]
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        foreign_pre_chain=_shared_processors(),
    )
    log = get_logger("log")
    handler = LineHandler(log.warning)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[*_shared_processors(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _shared_processors() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        _add_call_id,
        structlog.stdlib.add_log_level,
        _add_time,
    ]


def _add_time(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the local time with its offset, so that lines of machines in several zones can be put in order."""
    event["timestamp"] = datetime.now().astimezone().isoformat(timespec="microseconds")
    return event


def _shorten_time(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave the time of day: a person at a terminal knows the date."""
    event["timestamp"] = str(event["timestamp"])[11:19]
    return event


def _add_call_id(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    call = current_call.get()
    if call is not None:
        event.setdefault("call", call.call_id)
        event.setdefault("trace", call.trace)
    return event


def _hand_over(logger: Any, name: str, event: MutableMapping[str, Any]) -> Any:
    """Give the event to the formatter that `configure_logging` set, or make a line for a foreign one."""
    if _is_configured:
        return structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, name, event)
    exc_info = event.pop("exc_info", None)
    event.pop("timestamp", None)
    event.pop("level", None)
    line = f"{event.pop('event')} " + " ".join(f"{key}={value!r}" for key, value in event.items())
    return (line.rstrip(),), {"exc_info": exc_info}


# -- traces ----------------------------------------------------------------------------------------------


def is_tracing() -> bool:
    """Whether spans would go anywhere: an SDK was imported, and a provider was set."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return False
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def client_span(service: str, method: str, headers: dict[str, str]) -> Iterator[None]:
    """Make a span around a call, and put its context into the call's headers."""
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    with _span(service, method, SpanKind.CLIENT, None):
        TraceContextTextMapPropagator().inject(headers)
        yield


@contextmanager
def server_span(service: str, method: str, headers: dict[str, str]) -> Iterator[None]:
    """Make a span around a handler, as a child of the caller's."""
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    with _span(service, method, SpanKind.SERVER, TraceContextTextMapPropagator().extract(headers)):
        yield


@contextmanager
def _span(service: str, method: str, kind: Any, parent: Any) -> Iterator[None]:
    from opentelemetry import trace

    attributes = {"rpc.system": "zbusrpc", "rpc.service": service, "rpc.method": method}
    tracer = trace.get_tracer("zbusrpc")
    with tracer.start_as_current_span(
        f"{service}/{method}", context=parent, kind=kind, attributes=attributes, record_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_attribute("error.type", str(getattr(error, "code", type(error).__name__)))
            raise
