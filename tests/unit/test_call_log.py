"""What services log of their calls: one id for all that a call leads to, and each end where that is wanted."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from tests.support.inprocess import http_call, running_broker, serving
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, aio, blocking, connect, options, service, telemetry
from zbusrpc.telemetry import get_logger

pytestmark = pytest.mark.anyio

log = get_logger("app")


@service
class Inner:
    """Called by `Outer`."""

    async def work(self) -> str:
        """Log a line."""
        log.warning("app.inner")
        return "done"


@service
class Outer:
    """Calls `Inner`."""

    def __init__(self, broker: str) -> None:
        self.inner = connect(Inner, broker=broker)
        self.waiting = 0

    async def work(self) -> str:
        """Log a line, and have another one logged."""
        log.warning("app.outer")
        return await self.inner.work()

    def work_in_thread(self) -> str:
        """Do the same by a blocking call."""
        log.warning("app.outer")
        return blocking(self.inner.work)()

    async def fail(self) -> None:
        """Refuse."""
        raise RpcError(Code.NOT_FOUND, "no")

    async def wait(self) -> None:
        """Take for ever."""
        self.waiting += 1
        await asyncio.sleep(60)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that gives the JSON lines that were logged."""
    output = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(telemetry, "_is_configured", False)
    telemetry.configure_logging("info", as_json=True)
    (usual,) = root.handlers
    here = logging.StreamHandler(output)
    here.setFormatter(usual.formatter)
    root.handlers[:] = [here]
    try:
        yield lambda: [json.loads(line) for line in output.getvalue().splitlines()]
    finally:
        usual.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


@pytest.mark.parametrize("method", ["work", "work_in_thread"])
async def test_lines_of_nested_calls_share_an_id(lines: Any, method: str) -> None:
    """`trace` is the same in both services, and `call` is each one's own."""
    async with (
        running_broker() as server,
        serving(server, Inner),
        serving(server, lambda: Outer(server.broker.name)),
    ):
        await aio(getattr(connect(Outer, broker=server.broker.name), method))()

    outer, inner = (line for line in lines() if line["event"].startswith("app."))
    assert outer["trace"] == inner["trace"] == outer["call"]
    assert inner["call"] != outer["call"]


async def test_trace_of_the_world_outside_is_kept(lines: Any) -> None:
    """A call over HTTP that has a `traceparent` gives its trace id to all that it leads to."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with (
        running_broker() as server,
        serving(server, Inner),
        serving(server, lambda: Outer(server.broker.name)),
    ):
        await http_call(server, "GET /rpc/Outer/work", traceparent=f"00-{trace}-00f067aa0ba902b7-01")

    assert [line["trace"] for line in lines() if line["event"].startswith("app.")] == [trace, trace]


async def test_each_end_of_a_call_is_a_line_where_that_is_wanted(lines: Any) -> None:
    """Results, errors, time limits and cancellations, with the method and how long it took."""
    async with running_broker() as server:
        name = server.broker.name
        made = Outer(name)
        async with serving(server, Inner), serving(server, made, logs_calls=True):
            outer = connect(Outer, broker=name)
            await outer.work()
            for call in (outer.fail(), options(outer, timeout=0.05).wait(), connect("Outer", broker=name).steal()):
                with pytest.raises(RpcError):
                    await call
            waiting = asyncio.ensure_future(outer.wait())
            await eventually(lambda: made.waiting == 2, "start")
            waiting.cancel()

    ends = [line for line in lines() if line["event"] == "service.call"]
    assert [(line["method"], line["code"]) for line in ends][:2] == [("work", "OK"), ("fail", "NOT_FOUND")]
    assert {(line["method"], line["code"]) for line in ends[2:]} >= {("steal", "UNIMPLEMENTED"), ("wait", "CANCELED")}
    assert len(ends) == 5
    assert all(line["ms"] >= 0 and line["service"] == "Outer" and line["call"] for line in ends)


async def test_ends_of_calls_are_no_lines_otherwise(lines: Any) -> None:
    """Nothing is logged of a call that went well."""
    async with running_broker() as server, serving(server, Inner):
        await connect(Inner, broker=server.broker.name).work()

    assert [line["event"] for line in lines()] == ["app.inner"]


async def test_line_of_an_unknown_method_names_it(lines: Any) -> None:
    """Whoever looks for who calls what there is not finds the name."""
    async with running_broker() as server, serving(server, Inner):
        for method in ("steal", "x" * 300):
            with pytest.raises(RpcError):
                await getattr(connect("Inner", broker=server.broker.name), method)()

    first, second = (line["method"] for line in lines() if line["event"] == "service.refused")
    assert first == "steal"
    assert len(second) < 100


def test_times_of_lines_have_an_offset(lines: Any) -> None:
    """Lines of machines in several time zones can be put in order."""
    log.warning("app.now")

    (line,) = lines()
    assert re.search(r"[+-]\d\d:\d\d$", line["timestamp"])
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
