"""Old zbus programs in Node, as processes: over TCP and, as in a browser, over WebSocket."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import Site
from tests.support.processes import Process, Processes
from tests.support.waiting import wait_until
from tests.support.zbus_client import ZbusLab
from tests.support.zbus_profiles import PROFILES
from tests.support.zbus_rpc import RpcInvoker
from zbusrpc import blocking, connect

CLIENT = Path(__file__).parents[1] / "support" / "zbus_client.mjs"
GO = PROFILES["go"]
EVERY_WAY = pytest.mark.parametrize("way", [[], ["--ws"]], ids=["tcp", "websocket"])
Start = Callable[..., Process]

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture
def node(zbus_site: Site, processes: Processes) -> Start:
    """Start the Node client in some mode, at the shared broker."""

    def start(mode: str, *arguments: str) -> Process:
        return processes.start("node", str(CLIENT), mode, zbus_site.address, *arguments)

    return start


def lines_of(process: Process) -> list[dict[str, Any]]:
    """Return what a process has printed, once it has ended well."""
    assert process.wait_exit() == 0, process.errors
    return [json.loads(line) for line in process.output.splitlines()]


def wait_consumers(zbus: ZbusLab, topic: str, count: int = 1, *processes: Process) -> None:
    """Wait until a topic's default group has so many consumers."""

    def is_there() -> bool:
        assert all(process.is_running for process in processes), [process.errors for process in processes]
        reply = client.invoke(client.command("query", topic=topic, consume_group=topic))
        return reply.status == 200 and json.loads(reply.body)["consumerCount"] == count

    client = zbus.client(GO)
    wait_until(is_there, f"{count} consumers of {topic}")


@EVERY_WAY
def test_node_produces_and_consumes(node: Start, topic: str, way: list[str]) -> None:
    """Bodies arrive in order, with tags and ids; the producer gets its acknowledgements."""
    bodies = ["one", "naïve ☃", "", "x" * 200, "y" * 70_000]

    acks = lines_of(node("produce", topic, *bodies, "--tag", "eu.new", *way))
    messages = lines_of(node("consume", topic, str(len(bodies)), *way))

    assert [ack["status"] for ack in acks] == [200] * len(bodies)
    assert [message["body"] for message in messages] == bodies
    assert {message["headers"]["tag"] for message in messages} == {"eu.new"}
    assert all(message["headers"]["id"] for message in messages)


@EVERY_WAY
def test_node_consumer_that_is_killed_takes_nothing_along(
    zbus: ZbusLab, node: Start, topic: str, way: list[str]
) -> None:
    """kill -9 while it waits: the next messages go to the consumer that is left."""
    dying = node("consume", topic, "1", *way)
    wait_consumers(zbus, topic, 1, dying)
    left = node("consume", topic, "2", *way)
    wait_consumers(zbus, topic, 2, left)

    dying.kill()
    wait_consumers(zbus, topic, 1, left)
    node("produce", topic, "one", "two", *way)

    assert [message["body"] for message in lines_of(left)] == ["one", "two"]


@EVERY_WAY
def test_node_calls_a_python_service(node: Start, way: list[str]) -> None:
    """Results and errors are the JSON that JavaScript expects."""
    assert lines_of(node("call", "Lab", "add", "[1, 2]", *way)) == [{"status": 200, "result": 3, "error": None}]
    (failed,) = lines_of(node("call", "Lab", "refuse", '["NOT_FOUND"]', *way))
    assert failed == {"status": 200, "result": None, "error": "NOT_FOUND: as was asked"}


@EVERY_WAY
def test_node_serves_everybody(zbus: ZbusLab, zbus_site: Site, node: Start, topic: str, way: list[str]) -> None:
    """A service in Node is called by Node, by an old client over TCP and by Python."""
    service = node("serve", topic, *way)
    wait_consumers(zbus, topic, 1, service)
    proxy: Any = connect(topic, broker=zbus_site.address)

    by_node = lines_of(node("call", topic, "add", "[1, 2]", *way))
    by_python = blocking(proxy.echo)({"deep": ["naïve ☃"]})
    by_php = RpcInvoker(zbus.broker(PROFILES["php"]), topic).invoke("echo", "hello")

    assert by_node == [{"status": 200, "result": 3, "error": None}]
    assert (by_python, by_php) == ({"deep": ["naïve ☃"]}, "hello")


@EVERY_WAY
def test_call_whose_service_is_killed_fails_at_once(zbus: ZbusLab, node: Start, topic: str, way: list[str]) -> None:
    """The caller gets a 5xx as soon as the process that has its call is killed."""
    service = node("serve", topic, *way)
    wait_consumers(zbus, topic, 1, service)
    client = zbus.client(GO)

    call = RpcInvoker(zbus.broker(GO), topic).post(client, "hang")
    service.wait_line()
    service.kill()

    assert client.wait(call).status in {502, 503}


def test_call_whose_python_service_is_killed_fails_at_once(
    zbus: ZbusLab, processes: Processes, zbus_site: Site
) -> None:
    """The caller of a Python service gets a 5xx as soon as its process is killed."""
    service = processes.serve(zbus_site.address, target="tests.support.lab:Greenhouse")
    client = zbus.client(GO)

    call = RpcInvoker(zbus.broker(GO), "Greenhouse").post(client, "grow", 60.0)
    wait_until(lambda: "started" in processes.marks("greenhouse"), "start of the call")
    service.kill()

    assert client.wait(call).status in {502, 503}


@EVERY_WAY
def test_node_is_told_of_new_topics(zbus: ZbusLab, node: Start, topic: str, way: list[str]) -> None:
    """The tracker's words reach a program that only listens."""
    tracking = node("track", "1", *way)
    tracking.wait_line()

    zbus.client(GO).ask("declare", topic=topic)

    told = [server for line in lines_of(tracking) for server in line["info"]["serverTable"].values()]
    assert topic in told[-1]["topicTable"]
