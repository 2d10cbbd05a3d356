"""Old and new together: servers of zbus that report to our tracker, our broker that reports to a tracker of zbus."""

import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.inprocess import bare_client, running_broker
from tests.support.native import NativePeer
from tests.support.old_tracker import OldTracker, old_tracker
from tests.support.processes import Process, Processes, port_of
from tests.support.waiting import eventually
from tests.support.zbus_client import MqClient, ZbusLab
from tests.support.zbus_profiles import PROFILES
from zbusrpc.broker.dialects.zbus import reporter as text_reporter
from zbusrpc.cli.broker import parse_trackers
from zbusrpc.errors import ConfigError
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.topology import Topology, parse_topology

OLD = "10.1.2.3:15555"
GO, JAVA = PROFILES["go"], PROFILES["java"]


def server_event(*, live: bool = True, version: int = 1, topics: tuple[str, ...] = ("Orders",)) -> bytes:
    """Return what a server of zbus 0.8 reports: with nulls where it has nothing."""
    server = {"serverAddress": {"address": OLD, "sslEnabled": False}, "serverVersion": "0.8.0"}
    times = {"creator": "", "createdTime": 1, "lastUpdatedTime": 1}
    group: dict[str, Any] = {"groupName": "g", "mask": 0, "filter": None, "messageCount": 4, "consumerCount": 2}
    group |= {"error": None, "consumerList": None, **times}
    table = {
        name: {
            "error": None,
            **server,
            "topicName": name,
            "mask": 2,
            "messageDepth": 9,
            "consumerCount": 2,
            "consumeGroupList": [{"topicName": name, **group}],
            **times,
        }
        for name in topics
    }
    info = {"error": None, **server, "infoVersion": version, "trackerList": [], "topicTable": table}
    return json.dumps({"serverInfo": info, "live": live}).encode()


class Watcher:
    """A native client that tracks."""

    def __init__(self, peer: NativePeer) -> None:
        self._peer = peer
        peer.send(Message(Kind.TRACK, 1))
        assert peer.receive().kind == Kind.REPLY

    def wait(self, address: str) -> Topology:
        """Return what is told next of a broker: of its topics, or of its end."""
        while True:
            told = parse_topology(self._peer.receive().body)
            if address in told.servers or address in told.gone:
                return told


@pytest.fixture
def tracker(processes: Processes) -> str:
    """Run a broker."""
    return processes.broker()[1]


@pytest.fixture
def watcher(tracker: str) -> Iterator[Watcher]:
    """Track natively."""
    with NativePeer(tracker) as peer:
        yield Watcher(peer)


def test_server_of_zbus_is_listed_while_it_is_connected(tracker: str, watcher: Watcher) -> None:
    """To clients of zbus with all that it said, to native ones with its topics; its changes are told, and its end."""
    with closing(ZbusLab(tracker)) as zbus:
        server, client = MqClient(tracker, GO), zbus.broker(JAVA)
        server.post("track_pub", server_event(), ack="false")

        assert watcher.wait(OLD).servers[OLD].topics == {"Orders": (2, 2)}
        info = client.table.wait(lambda table: table.topic("Orders"), "the topic", 5.0)
        assert (info["serverAddress"]["address"], info["messageDepth"]) == (OLD, 9)
        assert [(one["groupName"], one["messageCount"]) for one in info["consumeGroupList"]] == [("g", 4)]
        assert client.servers == [tracker, OLD]

        server.post("track_pub", server_event(version=2, topics=("Orders", "Mail")), ack="false")
        assert watcher.wait(OLD).servers[OLD].topics == {"Mail": (2, 2)}
        server.post("track_pub", server_event(live=False, version=3), ack="false")
        assert watcher.wait(OLD).gone == (OLD,)
        client.table.wait(lambda table: OLD not in table.servers, "the end of the server", 5.0)

        server.post("track_pub", server_event(version=4), ack="false")
        watcher.wait(OLD)
        server.kill()
        assert watcher.wait(OLD).gone == (OLD,)
        client.table.wait(lambda table: OLD not in table.servers, "the end of the server", 5.0)


def test_server_of_zbus_that_comes_back_is_the_one_that_counts(tracker: str, watcher: Watcher) -> None:
    """The end of its old connection, which the tracker hears of later, is not its own."""
    with closing(MqClient(tracker, GO)) as first, closing(MqClient(tracker, GO)) as second:
        assert first.ask("track_pub", server_event(), ack="true").status == 200
        assert second.ask("track_pub", server_event(version=2, topics=("Mail",)), ack="true").status == 200
        watcher.wait(OLD)

        first.kill()
        assert second.ask("track_pub", server_event(version=3, topics=("Mail", "News")), ack="true").status == 200

        told = watcher.wait(OLD)
        while "News" not in told.servers[OLD].topics:
            told = watcher.wait(OLD)
        assert told.gone == ()
    assert watcher.wait(OLD).gone == (OLD,)


def test_report_that_cannot_be_read_is_refused(tracker: str) -> None:
    """In one line, where an answer is wanted; the connection stays."""
    with closing(MqClient(tracker, GO)) as server:
        for body in (b"", b"{}", b'{"serverInfo":null,"live":true}', server_event()[:-9], b"\xff"):
            refusal = server.refusal("track_pub", body, ack="true")

            assert refusal.status == 400
            assert "track_pub: " in refusal.text
        assert server.ask("ping").body == b"OK"


# -- our broker and a tracker of zbus ------------------------------------------------------------------------


def topics_at(tracker: OldTracker, address: str) -> list[str] | None:
    """Return the topics that a tracker of zbus lists of a server, or None."""
    info = tracker.servers.get(address)
    return None if info is None else sorted(info["topicTable"])


@pytest.mark.anyio
async def test_broker_reports_to_a_tracker_of_zbus() -> None:
    """Which dials back, and lists it with its topics; changes are told soon, together, and so is its end."""
    async with old_tracker() as tracker:
        targets = parse_addresses(tracker.address)
        async with running_broker(zbus_trackers=targets) as server:
            address = server.hub.address
            await eventually(lambda: topics_at(tracker, address) == [], "the broker is listed")
            before = tracker.events
            async with bare_client(server) as client:
                for name in ("Calc", "Mail", "News"):
                    await client.subscribe(name, 1)
                await eventually(lambda: topics_at(tracker, address) == ["Calc", "Mail", "News"], "its services")
            await eventually(lambda: topics_at(tracker, address) == [], "their end")
            assert tracker.events <= before + 4
        await eventually(lambda: not tracker.servers, "its end")

    assert [one["cmd"] for one in tracker.requests][:3] == ["tracker", "track_pub", "heartbeat"]
    assert {one["ack"] for one in tracker.requests} == {"false"}


@pytest.mark.anyio
async def test_broker_that_drains_is_listed_no_more() -> None:
    """Though it is there, and its tracker could connect to it."""
    async with old_tracker() as tracker, running_broker(zbus_trackers=parse_addresses(tracker.address)) as server:
        await eventually(lambda: server.hub.address in tracker.servers, "the broker is listed")

        server.hub.tracker.set_state("draining")

        await eventually(lambda: not tracker.servers, "it is not listed")
        assert not tracker._dialled


@pytest.mark.anyio
async def test_tracker_of_zbus_may_come_late_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker tries again and again."""
    monkeypatch.setattr(text_reporter, "REDIAL_S", 0.02)
    tracker = OldTracker()
    await tracker.start()
    await tracker.close()
    port = port_of(tracker.address)
    async with running_broker(zbus_trackers=parse_addresses(tracker.address)) as server:
        for _ in range(3):
            await tracker.start(port)
            await eventually(lambda: server.hub.address in tracker.servers, "the broker is listed")
            await tracker.close()


@pytest.mark.anyio
async def test_tracker_of_zbus_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the environment, as for all that a process connects to; without it the broker goes on by itself."""
    monkeypatch.setattr(text_reporter, "REDIAL_S", 0.02)
    async with old_tracker("sesame") as tracker:
        targets = parse_addresses(tracker.address)
        async with running_broker(zbus_trackers=targets):
            await eventually(lambda: len(tracker.requests) > 3, "some tries")
            assert {one["cmd"] for one in tracker.requests} == {"tracker"}
        monkeypatch.setenv("ZBUSRPC_TOKEN", "sesame")
        async with running_broker(zbus_trackers=targets) as server:
            await eventually(lambda: server.hub.address in tracker.servers, "the broker is listed")


@pytest.mark.anyio
async def test_certificate_is_reported(tmp_path: Path) -> None:
    """By the broker whose port speaks TLS, under the name that zbus has for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with (
        old_tracker() as tracker,
        running_broker(zbus_trackers=parse_addresses(tracker.address), tls=context, certificate="PEM") as server,
    ):
        key = f"[SSL]{server.hub.address}"
        await eventually(lambda: tracker.certificates.get(key) == "PEM", "the certificate")


def last_warning(broker: Process) -> str:
    """Return why a broker cannot report, as it says."""
    lines = broker.log("tracker.unreachable")
    return str(lines[-1]["reason"]) if lines else ""


@pytest.mark.anyio
async def test_command_line_names_trackers_of_zbus(processes: Processes) -> None:
    """With `zbus://` before them, among others; a broker that is killed is found out by the tracker."""
    async with old_tracker() as tracker:
        trackers = f"127.0.0.1:1;zbus://{tracker.address};zbus://127.0.0.1:1"
        broker, address = processes.broker("--tracker", trackers)

        await eventually(lambda: address in tracker.servers, "the broker is listed")
        await eventually(lambda: last_warning(broker), "a warning")
        assert "cannot reach broker 127.0.0.1:1: nothing listens there" in last_warning(broker)
        broker.kill()
        await eventually(lambda: not tracker.servers, "its end")


def test_addresses_of_trackers_are_told_apart() -> None:
    """One line says which is none."""
    native, of_zbus = parse_trackers("one:1; zbus://two:2,tls://three:3;")
    assert (native, of_zbus) == (parse_addresses("one:1;tls://three:3"), parse_addresses("two:2"))
    assert parse_trackers("") == ((), ())

    for given, said in (
        ("zbus://", "no broker in ''"),
        ("zbus://h:x", "'h:x' is no broker address"),
        ("zbus://tls://h:1", "without TLS; leave tls:// away"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_trackers(given)
