"""The monitor's live rows: what viewers are told, when, and for whose eyes it is."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter

from tests.support.zbus_core import TextSession, ZbusCore, read
from zbusrpc.broker.access.logins import Logins
from zbusrpc.broker.access.rights import Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.monitor.live import SHARE_MAX, TICK_S
from zbusrpc.broker.monitor.monitor import Monitor, Usage
from zbusrpc.broker.monitor.openapi import Snapshot
from zbusrpc.message import Kind, Message
from zbusrpc.transport.http import HttpRequest


@dataclass
class Process:
    """What the broker's process takes, as the test says."""

    cpu_s: float = 0.0
    looks: int = 0
    """How often it was looked at."""

    def usage(self) -> Usage:
        self.looks += 1
        return Usage(self.cpu_s, 1_000_000)


class Watched:
    """A broker's core with its monitor."""

    def __init__(self) -> None:
        self.core, self.process = ZbusCore(), Process()
        self.monitor = Monitor(self.core.hub, usage=self.process.usage, logins=Logins(lambda: 0.0))

    def ask(
        self, session: TextSession, line: str, body: bytes = b"", *, is_ordered: bool = True, **headers: str
    ) -> Any:
        """Send a request, and return what the answer holds."""
        method, target = line.split(" ")
        request = HttpRequest(method, target.encode(), dict(headers), body, True)
        exchange = Exchange(lambda answered: self.core.broker.send(session.session, answered), is_ordered=is_ordered)
        self.monitor.take(request, exchange, session.asker, lambda token: None)
        self.core.run()
        return orjson.loads(read(exchange).body)

    def watch(self, rights: Rights | None = None) -> tuple[TextSession, Any]:
        """Have a session watch, and return it with its Snapshot."""
        viewer = self.core.session()
        viewer.session.rights = rights
        return viewer, self.ask(viewer, "GET /api/live", is_ordered=False)["result"]

    def tick(self, viewer: TextSession) -> Any:
        """Let one tick pass, and return what the viewer is told, or None."""
        viewer.pushes.clear()
        self.core.pass_time(TICK_S)
        assert len(viewer.pushes) <= 1
        if not viewer.pushes:
            return None
        head, _, body = viewer.pushes[0].partition(b"\r\n\r\n")
        assert b"\r\ncmd: live\r\n" in head
        return orjson.loads(body)


@pytest.fixture
def watched() -> Watched:
    """Return a broker's core with its monitor."""
    return Watched()


def rights(*topics: str, operations: frozenset[Operation] = frozenset({Operation.QUERY})) -> Rights:
    """Return the rights of a token."""
    return Rights("eye", (Rule(operations=operations, topics=topics),), digest_of("eye"))


def names(rows: list[dict[str, Any]], field: str = "topic") -> list[str]:
    """Return the names of some rows."""
    return [row[field] for row in rows]


def serve(core: ZbusCore, name: str) -> TextSession:
    """Run a native service."""
    instance = core.session()
    body = orjson.dumps({"window": 4, "about": {"version": "2", "methods": ["add", 7], "interface": {"doc": "Sums."}}})
    core.broker.receive(instance.session, Message(Kind.SUBSCRIBE, 1, name.encode(), body), core.hub.now())
    core.run()
    return instance


# -- pushes --------------------------------------------------------------------------------------------------


def test_viewer_is_told_what_has_changed_and_nothing_else(watched: Watched) -> None:
    """The Snapshot has all rows, each Push those that differ, and the names of what is gone."""
    user = watched.core.session()
    user.zbus("declare", topic="old")
    viewer, snapshot = watched.watch()

    quiet = watched.tick(viewer)
    user.zbus("declare", topic="new", consume_group="g")
    changed = watched.tick(viewer)
    user.zbus("produce", b"1", topic="new")
    produced = watched.tick(viewer)
    user.zbus("remove", topic="old")
    removed = watched.tick(viewer)

    assert names(snapshot["topics"]) == names(snapshot["groups"]) == ["old"]
    assert quiet["changed"]["topics"][0]["in_rate"] == 0, "the rate became known"
    assert names(changed["changed"]["topics"]) == ["new"]
    assert names(changed["changed"]["groups"], "group") == ["g"]
    assert names(produced["changed"]["topics"]) == ["new"]
    assert produced["changed"]["topics"][0]["in_rate"] == 1.0
    assert produced["changed"]["groups"][0]["lag"] == 1
    assert removed["gone"] == {"topics": ["old"], "groups": [["old", "old"]], "services": []}
    assert names(removed["changed"]["topics"]) == ["new"], "its rate is 0 again"


def test_rows_are_as_they_are_described(watched: Watched) -> None:
    """Each field of a Snapshot is in the description of the API, with its type, and no other."""
    user = watched.core.session()
    user.zbus("declare", topic="orders", topic_mask="64")
    user.zbus("produce", b"1", topic="orders")
    serve(watched.core, "Calc")

    _, snapshot = watched.watch()

    TypeAdapter(Snapshot).validate_python(snapshot, strict=True)
    assert snapshot["topics"][0]["mask_names"] == ["ACK_REQUIRED"]
    assert snapshot["groups"][0]["oldest_unacked_ms"] == watched.core.hub.now_ms()
    assert snapshot["services"][0]["methods"] == ["add"], "what is no name is left out"
    assert snapshot["servers"][0]["memory_bytes"] == 1_000_000


def test_methods_that_not_all_instances_have_are_shown(watched: Watched) -> None:
    """Two versions side by side are seen on the page, by their methods; one version is not."""
    core = watched.core
    for number, methods in enumerate((["add"], ["add", "div"], ["add"])):
        instance = core.session()
        body = orjson.dumps({"window": 4, "about": {"methods": methods}})
        topic = b"Sum" if number == 2 else b"Calc"
        core.broker.receive(instance.session, Message(Kind.SUBSCRIBE, 1, topic, body), core.hub.now())
    core.run()

    _, snapshot = watched.watch()

    assert {row["service"]: row["not_everywhere"] for row in snapshot["services"]} == {"Calc": ["div"], "Sum": []}
    assert [entry["not_everywhere"] for entry in core.broker.services()] == [["div"], []]


def test_nothing_is_computed_while_nobody_watches(watched: Watched) -> None:
    """The tick after the last viewer has gone is the last one."""
    viewer, _ = watched.watch()
    watched.tick(viewer)
    viewer.close()
    before = watched.process.looks

    watched.core.pass_time(5 * TICK_S)

    assert watched.process.looks == before
    again, snapshot = watched.watch()
    assert snapshot["server"]["in_rate"] is None
    assert watched.tick(again)["server"]["in_rate"] == 0.0


def test_viewer_that_reads_too_slowly_gets_a_snapshot_when_it_has_caught_up(watched: Watched) -> None:
    """It misses pushes in between, and nothing of what they said."""
    user = watched.core.session()
    viewer, _ = watched.watch()
    other, _ = watched.watch()
    watched.tick(viewer)

    viewer.session.is_congested = True
    user.zbus("declare", topic="T")
    missed = watched.tick(viewer)
    viewer.session.is_congested = False
    caught_up = watched.tick(viewer)

    assert missed is None
    assert names(caught_up["topics"]) == ["T"]
    assert "changed" not in caught_up
    assert "changed" in orjson.loads(other.pushes[-1].partition(b"\r\n\r\n")[2])
    assert "changed" in watched.tick(viewer)


def test_load_is_the_share_of_a_core_since_the_last_tick(watched: Watched) -> None:
    """It is not known before the first tick."""
    viewer, snapshot = watched.watch()
    watched.process.cpu_s += 0.25 * TICK_S

    assert snapshot["server"]["load"] is None
    assert watched.tick(viewer)["server"]["load"] == 0.25


def test_ticks_are_rarer_where_they_take_long(watched: Watched) -> None:
    """They cost a share of the time, and not more."""
    viewer, _ = watched.watch()
    clock = watched.core.lab.scheduler
    usage = watched.process.usage

    def slowly() -> Usage:
        clock.now_s += 0.05
        return usage()

    watched.monitor.usage = slowly
    watched.core.pass_time(TICK_S)
    watched.monitor.usage = usage
    viewer.pushes.clear()
    watched.core.pass_time(TICK_S * 1.5)
    assert not viewer.pushes
    watched.core.pass_time(0.2 / SHARE_MAX)
    assert viewer.pushes


# -- for whose eyes ------------------------------------------------------------------------------------------


def test_viewer_sees_what_its_token_may_query(watched: Watched) -> None:
    """Rows of other topics and services come neither with the Snapshot nor later, nor does what the broker tells."""
    user = watched.core.session()
    for topic in ("mine.a", "other"):
        user.zbus("declare", topic=topic)
    serve(watched.core, "Calc")
    viewer, snapshot = watched.watch(rights("mine.*"))
    watched.tick(viewer)

    for topic in ("mine.a", "other"):
        user.zbus("produce", b"1", topic=topic)
    pushed = watched.tick(viewer)
    for topic in ("mine.a", "other"):
        user.zbus("remove", topic=topic)
    removed = watched.tick(viewer)

    assert names(snapshot["topics"]) == names(pushed["changed"]["topics"]) == removed["gone"]["topics"] == ["mine.a"]
    assert names(snapshot["groups"]) == names(pushed["changed"]["groups"]) == ["mine.a"]
    assert snapshot["services"] == []
    assert snapshot["server"]["statistics"] == {}
    assert snapshot["server"]["sessions"] is None


def test_viewer_whose_token_changes_sees_what_it_may_now(watched: Watched) -> None:
    """It gets a new Snapshot; one whose token is gone hears nothing any more."""
    user = watched.core.session()
    for topic in ("mine", "other"):
        user.zbus("declare", topic=topic)
    viewer, _ = watched.watch(rights("mine"))

    watched.monitor.live.renew(Access([rights("other")]))
    changed = watched.tick(viewer)
    watched.monitor.live.renew(Access([]))
    gone = watched.tick(viewer)

    assert names(changed["topics"]) == ["other"]
    assert gone is None


def test_token_that_may_see_nothing_any_more_ends_its_own_view_alone(watched: Watched) -> None:
    """Others are told on."""
    other = Rights("other", rights("*").rules, digest_of("other"))
    blind, seeing = watched.watch(rights("*"))[0], watched.watch(other)[0]

    watched.monitor.live.renew(Access([rights("*", operations=frozenset({Operation.PRODUCE})), other]))

    assert watched.tick(seeing) is not None
    assert watched.tick(seeing) is not None, "ticks go on"
    assert blind.pushes == []


def test_who_logs_out_on_a_websocket_is_told_nothing_more(watched: Watched) -> None:
    """Pushes were for the token that was shown before."""
    viewer, _ = watched.watch()

    watched.ask(viewer, "POST /api/logout", is_ordered=False)

    assert watched.tick(viewer) is None


# -- the same by request -------------------------------------------------------------------------------------


def test_instance_tells_its_interface_to_who_asks_for_the_service(watched: Watched) -> None:
    """Listings do not show it."""
    serve(watched.core, "Calc")
    user = watched.core.session()

    found = watched.ask(user, "GET /api/services/Calc")["result"]

    assert found["interface"] == {"doc": "Sums."}
    assert found["version"] == "2"
    assert "interface" not in watched.ask(user, "GET /api/services")["result"][0]
    assert "interface" not in watched.core.broker.services()[0]["instances"][0]


@pytest.mark.parametrize("start", ["offset:99999999999999999999", "time:0001-01-01T00:00:00Z"])
def test_place_that_is_no_number_of_64_bits_is_refused(watched: Watched, start: str) -> None:
    """And not more than that happens."""
    user = watched.core.session()
    user.zbus("declare", topic="orders")

    answer = watched.ask(user, f"GET /api/topics/orders/messages?start={start}")

    assert answer["error"]["code"] == "INVALID_ARGUMENT"


def test_body_of_many_levels_is_refused(watched: Watched) -> None:
    """It can be read, and not be written again."""
    user = watched.core.session()
    user.zbus("declare", topic="orders", consume_group="g")
    body = b'{"start": {"offset": ' + b"[" * 500 + b"]" * 500 + b"}}"

    answer = watched.ask(user, "POST /api/topics/orders/groups/g/seek", body)

    assert answer["error"]["code"] == "INVALID_ARGUMENT"


def test_dead_letters_that_wait_are_counted(watched: Watched) -> None:
    """Those that were purged are not, and the topic that holds them is known as what it is."""
    user = watched.core.session()
    user.zbus("declare", topic="T")
    user.zbus("declare", topic="T.dlq")
    for _ in range(3):
        user.zbus("produce", b"x", topic="T.dlq")

    before = watched.ask(user, "GET /api/topics")["result"]
    watched.ask(user, "POST /api/topics/T/dead-letters/purge", b'{"offsets": [0, 2]}')
    after = watched.ask(user, "GET /api/topics/T")["result"]

    assert [(row["topic"], row["dead_letters"], row["is_dead_letter_topic"]) for row in before] == [
        ("T", 3, False),
        ("T.dlq", 0, True),
    ]
    assert after["dead_letters"] == 1
