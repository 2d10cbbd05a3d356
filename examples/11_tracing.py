"""Tracing: with an OpenTelemetry SDK, a call makes a span at the client and a child of it at the service.

Needs: pip install opentelemetry-sdk. Any exporter will do; this one prints.
"""

import asyncio

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from zbusrpc import service
from zbusrpc.testing import running


class Printer(SpanExporter):
    """Prints the spans as they end."""

    def export(self, spans: "tuple[ReadableSpan, ...]") -> SpanExportResult:  # type: ignore[override]
        """Print one line a span."""
        for span in spans:
            assert span.context is not None
            child = " (child of the client's)" if span.parent and span.parent.is_remote else ""
            print(f"trace {span.context.trace_id:032x}: {span.kind.name} {span.name}{child}")
        return SpanExportResult.SUCCESS


@service
class Calc:
    """Arithmetic over the bus."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b


async def main() -> None:
    """Call once; both spans have the same trace id."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Printer()))
    trace.set_tracer_provider(provider)
    async with running(Calc) as calc:
        print("result", await calc.add(1, 2))


asyncio.run(main())
