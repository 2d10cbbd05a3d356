"""Logs and traces of real processes."""

import json
import re
import sys
import urllib.request

import pytest

from tests.support.fixtures import Site, open_site
from tests.support.lab import Lab
from tests.support.native import NativePeer
from tests.support.processes import Processes
from tests.support.waiting import eventually, wait_until
from zbusrpc import RpcError, connect, envelope
from zbusrpc.message import Message, encode_headers

pytestmark = pytest.mark.anyio

SERVICE = """
import asyncio, logging
import structlog
from zbusrpc import context, service

@service
class Talker:
    async def talk(self, word: str) -> str:
        logging.getLogger("app").warning("standard %s", word)
        structlog.get_logger("app").warning("app.structured", word=word)
        await asyncio.sleep(0.01)
        logging.getLogger("app").warning("again %s", word)
        return context().call_id

    def talk_in_a_thread(self, word: str) -> str:
        logging.getLogger("app").warning("thread %s", word)
        return context().call_id
"""

TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from zbusrpc import connect, service
import os

trace.set_tracer_provider(TracerProvider())

def here() -> list[str]:
    span = trace.get_current_span()
    context = span.get_span_context()
    parent = span.parent
    return [format(context.trace_id, "032x"), format(context.span_id, "016x"),
            format(parent.span_id, "016x") if parent else "", span.name, span.kind.name]

@service
class Traced:
    async def where(self) -> list[str]:
        return here()

    def where_in_a_thread(self) -> list[str]:
        return here()

    async def onward(self) -> list[list[str]]:
        return [here(), await connect(Traced, broker=os.environ["LAB_BROKER"]).where()]
"""

TRACED_CALLER = """
import asyncio, json, sys
from opentelemetry import trace
from traced import Traced, here
from zbusrpc import aio, connect

async def main():
    proxy = connect(Traced, broker=sys.argv[1])
    with trace.get_tracer("test").start_as_current_span("outer"):
        print(json.dumps([here(), await proxy.where(), await aio(proxy.where_in_a_thread)(), *await proxy.onward()]))

asyncio.run(main())
"""


async def test_each_line_of_a_call_carries_its_id(processes: Processes, links: None) -> None:
    """Lines that a handler logs, by structlog or logging, in a task or a thread, are JSON and carry the call's id."""
    (processes.directory / "talker.py").write_text(SERVICE)
    _, address = processes.broker()
    service = processes.zbusrpc("serve", "talker:Talker", "--broker", address, "--json", cwd=processes.directory)
    service.wait_ready()
    proxy = connect("Talker", broker=address)

    ids = {word: await proxy.talk(word) for word in ("one", "two")}
    in_thread = await proxy.talk_in_a_thread("three")

    lines = await eventually(
        lambda: [json.loads(line) for line in service.errors.splitlines() if "three" in service.errors], "lines"
    )
    for word, call_id in ids.items():
        assert {line["call"] for line in lines if word in str(line)} == {call_id}
        assert len([line for line in lines if word in str(line)]) == 3
    assert [line["call"] for line in lines if "three" in str(line)] == [in_thread]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


async def test_refusal_is_logged_with_the_id_that_the_caller_can_know(site: Site, links: None) -> None:
    """A declared error is one line of level info, with the id `session-number` of its call."""
    with NativePeer(site.address) as peer:
        peer.request(17, "Lab", envelope.request_body("refuse", ["NOT_FOUND"]))
        peer.receive()

    (line,) = wait_until(lambda: site.service.log("service.refused"), "log line")
    assert line["call"].endswith("-17")
    assert (line["level"], line["method"], line["error"]) == ("info", "refuse", "NOT_FOUND: as was asked")


async def test_log_level_and_form_can_be_chosen(processes: Processes, links: None) -> None:
    """--log-level leaves out what is less, --log-text makes lines for people."""
    site = open_site(processes, "--log-level", "error", "--log-text")
    lab = connect(Lab, broker=site.address)

    with pytest.raises(RpcError):
        await lab.refuse("NOT_FOUND")
    with pytest.raises(RpcError):
        await lab.explode("x")

    await eventually(lambda: "service.failed" in site.service.errors, "log line")
    assert "service.refused" not in site.service.errors
    assert not site.service.errors.startswith("{")


def test_trace_crosses_processes(processes: Processes) -> None:
    """Client, service and nested call are spans of one trace, each the child of the one before."""
    (processes.directory / "traced.py").write_text(TRACED)
    (processes.directory / "caller.py").write_text(TRACED_CALLER)
    _, address = processes.broker()
    processes.zbusrpc(
        "serve", "traced:Traced", "--broker", address, "--json", cwd=processes.directory, LAB_BROKER=address
    ).wait_ready()

    caller = processes.start(sys.executable, "caller.py", address, cwd=processes.directory)

    assert caller.wait_exit() == 0, caller.errors
    outer, where, in_thread, onward, nested = json.loads(caller.output)
    assert {span[0] for span in (where, in_thread, onward, nested)} == {outer[0]}
    assert (where[3], where[4]) == ("Traced/where", "SERVER")
    assert in_thread[3] == "Traced/where_in_a_thread"
    assert len({span[1] for span in (outer, where, in_thread, onward, nested)}) == 5
    assert where[2] not in {"", outer[1]}, "between the two stands the client's span"


def test_trace_context_of_any_client_is_continued(processes: Processes) -> None:
    """A `traceparent` from HTTP or in the headers of a message is the parent of the service's span."""
    (processes.directory / "traced.py").write_text(TRACED)
    _, address = processes.broker()
    processes.zbusrpc("serve", "traced:Traced", "--broker", address, "--json", cwd=processes.directory).wait_ready()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    request = urllib.request.Request(f"http://{address}/rpc/Traced/where", headers={"traceparent": parent})
    with urllib.request.urlopen(request) as response:
        over_http = json.loads(response.read())["result"]
    with NativePeer(address) as peer:
        message = Message(5, 1, b"Traced", envelope.request_body("where", []), timeout_ms=5000)
        message.header_bytes = encode_headers({"traceparent": parent})
        peer.send(message)
        native = json.loads(peer.receive().body)["result"]

    for span in (over_http, native):
        assert (span[0], span[2]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def test_unusable_trace_context_hurts_nobody(shared_site: Site) -> None:
    """A broken `traceparent` is ignored."""
    with NativePeer(shared_site.address) as peer:
        message = Message(5, 1, b"Lab", envelope.request_body("add", [1, 2]), timeout_ms=5000)
        message.header_bytes = encode_headers({"traceparent": "rubbish"})
        peer.send(message)

        assert bytes(peer.receive().body) == b'{"result":3}'


def test_unusable_headers_hurt_only_their_call(shared_site: Site) -> None:
    """Headers that are no JSON object do not stop a call that needs none of them, nor its connection."""
    with NativePeer(shared_site.address) as peer:
        for number, headers in enumerate((b"\xff", b"[1]", b'{"params": 1}'), start=1):
            message = Message(5, number, b"Lab", envelope.request_body("add", [1, 2]), timeout_ms=5000)
            message.header_bytes = headers
            peer.send(message)
            assert peer.receive().id == number

        peer.request(10, "Lab", envelope.request_body("add", [1, 2]))
        assert bytes(peer.receive().body) == b'{"result":3}'


async def test_traceback_for_people_is_short_and_shows_no_variables(processes: Processes, links: None) -> None:
    """Text logs have the time of day and a traceback that begins in the user's code and holds no local variables."""
    _, address = processes.broker()
    service = processes.serve(address, "--log-text")

    with pytest.raises(RpcError):
        await connect(Lab, broker=address).explode("hunter2")

    await eventually(lambda: "Traceback" in service.errors, "log line")
    assert re.search(r"\d\d:\d\d:\d\d\S* \[", service.errors)
    assert "worker.py" not in service.errors
    assert "locals" not in service.errors
    assert "in explode" in service.errors
