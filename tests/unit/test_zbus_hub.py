"""The hub: names in any case, versions that only grow, the topology for those who want it, and for whose eyes it is."""

from typing import Any

import orjson
import pytest

from tests.support.zbus_core import TextSession, ZbusCore, read
from zbusrpc.broker.access.rights import Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.dialects.zbus.hub import BROADCAST_S
from zbusrpc.broker.tracker import tracker
from zbusrpc.broker.tracker.tracker import PUSH_DELAY_S, TOLD_FIRST_S_MAX
from zbusrpc.errors import RpcError
from zbusrpc.message import Kind, Message

SEEING = frozenset({Operation.QUERY, Operation.TRACK_SUB, Operation.TRACKER, Operation.SERVER})


@pytest.fixture
def core() -> ZbusCore:
    """Return a broker's core without topics."""
    return ZbusCore()


def rights(name: str, *topics: str) -> Rights:
    """Return the rights of a token that may see some topics."""
    return Rights(name, (Rule(operations=SEEING, topics=topics),), digest_of(name))


def serve(core: ZbusCore, name: str) -> TextSession:
    """Run a native service."""
    instance = core.session()
    core.broker.receive(instance.session, Message(Kind.SUBSCRIBE, 1, name.encode(), b'{"window":1}'), 0.0)
    core.run()
    return instance


def told(session: TextSession) -> list[dict[str, Any]]:
    """Return what a subscriber was told, and forget it."""
    pushes, session.pushes[:] = list(session.pushes), []
    assert all(b"\r\ncmd: track_pub\r\n" in push and b"\r\nid: " not in push for push in pushes)
    return [orjson.loads(push.partition(b"\r\n\r\n")[2]) for push in pushes]


def topics_of(info: dict[str, Any]) -> list[str]:
    """Return the names of the topics in a TrackerInfo."""
    (server,) = info["serverTable"].values()
    return list(server["topicTable"])


# -- names ---------------------------------------------------------------------------------------------------


def test_topics_are_found_in_any_case(core: ZbusCore) -> None:
    """And are told as they were declared."""
    session = core.session()
    session.zbus("declare", topic="Größe.Orders")

    for name in ("Größe.Orders", "GRÖßE.ORDERS", "größe.orders"):
        found = core.hub.topic(name)
        assert found is not None
        assert found.name == "Größe.Orders"
    assert core.hub.topic("orders") is None
    assert core.hub.name_of("orders") == "orders"


def test_topic_of_just_this_name_comes_first(core: ZbusCore) -> None:
    """Native clients may have made two that differ in case only."""
    for name in ("orders", "Orders"):
        core.lab.store.declare(name, {}, update=False, done=lambda topic, error: None)
    core.run()

    for name in ("orders", "Orders"):
        found = core.hub.topic(name)
        assert found is not None
        assert found.name == name


def test_declaring_in_another_case_declares_the_same(core: ZbusCore) -> None:
    """As zbus has it."""
    session = core.session()
    session.zbus("declare", topic="Orders")

    info = orjson.loads(read(session.zbus("declare", topic="ORDERS", topic_mask="8")).body)

    assert (info["topicName"], info["mask"]) == ("Orders", 8)
    assert list(core.lab.store.topics) == ["Orders"]


def test_name_of_what_is_gone_is_free(core: ZbusCore) -> None:
    """What is remembered of names does not outlive them."""
    session = core.session()
    session.zbus("declare", topic="Orders")
    assert core.hub.topic("orders") is not None

    session.zbus("remove", topic="orders")
    assert core.hub.topic("orders") is None

    session.zbus("declare", topic="ORDERS")
    found = core.hub.topic("orders")
    assert found is not None
    assert found.name == "ORDERS"


def test_services_are_found_in_any_case(core: ZbusCore) -> None:
    """While they run; a topic that only stores messages is none."""
    session = core.session()
    session.zbus("declare", topic="Queue")
    instance = serve(core, "Calc")

    assert (core.hub.service("Calc"), core.hub.service("CALC"), core.hub.service("queue")) == (b"Calc", b"Calc", None)
    instance.close()
    assert core.hub.service("Calc") is None


def test_declared_service_is_one_without_an_instance(core: ZbusCore) -> None:
    """By its mask, so that a caller is told that it is down and not that it is unknown."""
    core.session().zbus("declare", topic="MyRpc", topic_mask="2")

    assert core.hub.service("myrpc") == b"MyRpc"


def test_broker_without_stored_topics_says_so() -> None:
    """It has services all the same."""
    core = ZbusCore(has_queues=False)
    session = core.session()
    serve(core, "Calc")

    refused = read(session.zbus("declare", topic="T"))

    assert (refused.status, "start it with --data-dir DIR" in refused.text) == (503, True)
    assert read(session.zbus("produce", b"x", topic="T")).status == 404
    assert topics_of(core.hub.tracker_info(None)) == ["Calc"]
    with pytest.raises(RpcError, match="stores no topics"):
        _ = core.hub.queues


# -- sessions ------------------------------------------------------------------------------------------------


def test_sessions_have_names_that_are_used_once() -> None:
    """Also by another broker, or after a restart: a reply must not reach a stranger. PHP reads up to a colon."""
    first, second = ZbusCore(), ZbusCore()
    sessions = [core.session() for core in (first, second) for _ in range(3)]

    names = {session.dialect.name for session in sessions}

    assert len(names) == 6
    assert not any(":" in name for name in names)
    assert first.hub.session(sessions[0].dialect.name) is sessions[0].dialect
    assert first.hub.session(sessions[3].dialect.name) is None
    sessions[0].close()
    assert first.hub.session(sessions[0].dialect.name) is None


# -- versions ------------------------------------------------------------------------------------------------


def test_versions_only_grow(core: ZbusCore) -> None:
    """While the clock stands still, and when somebody sets it back."""
    versions = [core.hub.tracker_info(None)["infoVersion"] for _ in range(3)]
    core.lab.jump_clock(-3_600_000)
    versions += [core.hub.server_info(None)["infoVersion"] for _ in range(3)]
    core.lab.pass_time(7200)
    versions += [core.hub.tracker_info(None)["infoVersion"]]

    assert versions == sorted(set(versions))
    assert versions[-1] == core.lab.scheduler.now_ms()


def test_broker_that_was_restarted_has_a_later_version(core: ZbusCore) -> None:
    """It begins at its clock, which has gone on further than anybody asks."""
    for _ in range(100):
        last = core.hub.tracker_info(None)["infoVersion"]
    later = ZbusCore()
    later.lab.pass_time(1)

    assert later.hub.tracker_info(None)["infoVersion"] > last


def test_servers_in_a_table_have_its_version(core: ZbusCore) -> None:
    """Clients compare them one by one."""
    info = core.hub.tracker_info(None)

    assert [server["infoVersion"] for server in info["serverTable"].values()] == [info["infoVersion"]]


# -- pushes --------------------------------------------------------------------------------------------------


def test_subscriber_is_told_at_once_and_of_each_change(core: ZbusCore) -> None:
    """First by the answer, then by pushes that have no id."""
    subscriber, other = core.session(), core.session()
    answer = read(subscriber.zbus("track_sub", id="7"))
    assert (answer.headers["id"], answer.headers["cmd"], topics_of(answer.json)) == ("7", "track_pub", [])

    other.zbus("declare", topic="T")
    core.pass_time(PUSH_DELAY_S)

    (info,) = told(subscriber)
    assert topics_of(info) == ["T"]
    assert info["infoVersion"] > answer.json["infoVersion"]


def test_many_changes_are_one_push(core: ZbusCore) -> None:
    """Of all that came together the subscriber is told the end; the first it hears of at once."""
    subscriber, other = core.session(), core.session()
    subscriber.zbus("track_sub")

    for number in range(50):
        other.zbus("declare", topic=f"T{number % 10}")
        other.zbus("consume", topic=f"T{number % 10}")
    other.zbus("remove", topic="T0")
    core.pass_time(1.0)

    first, last = told(subscriber)
    assert topics_of(first) == ["T0"]
    assert topics_of(last) == [f"T{number}" for number in range(1, 10)]
    core.pass_time(1.0)
    assert told(subscriber) == []


def test_declare_is_answered_when_subscribers_know(core: ZbusCore) -> None:
    """Clients send to a topic by the table that they were pushed, at once when `declare` is answered."""
    subscriber, other = core.session(), core.session()
    subscriber.zbus("track_sub")
    core.pass_time(1.0)
    told(subscriber)

    for headers in ({"topic": "T"}, {"topic": "U", "consume_group": "g"}, {"topic": "T", "consume_group": "h"}):
        assert other.zbus("declare", **headers).data is not None, "no time has passed"
        (info,) = told(subscriber)
        (server,) = info["serverTable"].values()
        groups = [one["groupName"] for one in server["topicTable"][headers["topic"]]["consumeGroupList"]]
        assert headers.get("consume_group", "T") in groups
        core.pass_time(1.0)
        assert told(subscriber) == [], "once is enough"


def test_declare_waits_while_telling_takes_its_time(core: ZbusCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many changes are told together all the same, and no answer waits for long."""
    subscriber, other, third = core.session(), core.session(), core.session()
    subscriber.zbus("track_sub")
    monkeypatch.setattr(tracker, "PUSH_BYTES_PER_S", 10_000)
    first = other.zbus("declare", topic="T")
    size = sum(map(len, subscriber.pushes))
    pause_s = size / 10_000
    assert first.data is not None
    assert PUSH_DELAY_S < pause_s < TOLD_FIRST_S_MAX

    second, again = other.zbus("declare", topic="U"), third.zbus("declare", topic="V")
    assert (second.data, again.data) == (None, None)
    core.pass_time(pause_s + 0.001)
    assert second.data is not None
    assert again.data is not None
    assert len(told(subscriber)) == 2
    core.pass_time(1.0)
    monkeypatch.setattr(tracker, "PUSH_BYTES_PER_S", 100)
    other.zbus("declare", topic="W")
    assert other.zbus("declare", topic="X").data is not None, "telling would take longer than anybody waits"


def test_declare_waits_for_nobody(core: ZbusCore) -> None:
    """Where there is no subscriber, or one that does not read."""
    subscriber, other = core.session(), core.session()
    assert other.zbus("declare", topic="T").data is not None
    subscriber.zbus("track_sub")
    subscriber.session.is_congested = True

    assert other.zbus("declare", topic="U").data is not None
    assert subscriber.pushes == []


def test_every_kind_of_change_is_told(core: ZbusCore) -> None:
    """Topics, groups, consumers and services that come and go, and masks; a message is none."""
    subscriber, other = core.session(), core.session()
    subscriber.zbus("track_sub")

    def count() -> int:
        core.pass_time(1.0)
        return len(told(subscriber))

    other.zbus("declare", topic="T")
    assert count() == 1
    other.zbus("declare", topic="T", consume_group="g")
    assert count() == 1
    other.zbus("declare", topic="T", topic_mask="8")
    assert count() == 1
    consumer = core.session()
    consumer.zbus("consume", topic="T")
    assert count() == 1
    consumer.zbus("consume", topic="T")
    other.zbus("produce", b"x", topic="T", consume_group="g")
    assert count() == 0
    consumer.close()
    assert count() == 1
    instance = serve(core, "Calc")
    assert count() == 1
    instance.close()
    assert count() == 1
    other.zbus("remove", topic="T", consume_group="g")
    assert count() == 1
    other.zbus("remove", topic="T")
    assert count() == 1


def test_broker_that_drains_is_listed_while_there_is_no_other(core: ZbusCore) -> None:
    """Clients of zbus know of no server but those they are told: with none they would not come back to it."""
    subscriber, other = core.session(), core.session()
    subscriber.zbus("track_sub")
    second = {"serverAddress": {"address": "mq2:15555", "sslEnabled": False}, "topicTable": {}}

    core.hub.tracker.set_state("draining")
    alone = told(subscriber)[-1]
    other.zbus("track_pub", orjson.dumps({"serverInfo": second, "live": True}))
    core.pass_time(1.0)
    beside_another = told(subscriber)[-1]
    other.close()
    core.pass_time(1.0)
    alone_again = told(subscriber)[-1]

    assert list(alone["serverTable"]) == [core.hub.address]
    assert list(beside_another["serverTable"]) == ["mq2:15555"]
    assert list(alone_again["serverTable"]) == [core.hub.address]


def test_subscriber_that_has_gone_is_not_told(core: ZbusCore) -> None:
    """Nor does anything ring for nobody."""
    subscriber, other = core.session(), core.session()
    subscriber.zbus("track_sub")
    subscriber.close()

    other.zbus("declare", topic="T")
    core.pass_time(2 * BROADCAST_S)

    assert subscriber.pushes == []
    assert core.timers == 0


def test_subscriber_is_told_at_intervals_too(core: ZbusCore) -> None:
    """As trackers of zbus do, whether or not anything has changed."""
    subscriber = core.session()
    subscriber.zbus("track_sub")

    core.pass_time(3 * BROADCAST_S + 1)

    assert len(told(subscriber)) == 3


def test_subscribing_twice_is_once(core: ZbusCore) -> None:
    """Clients that are not sure ask again."""
    subscriber = core.session()
    subscriber.zbus("track_sub")
    subscriber.zbus("track_sub")

    core.session().zbus("declare", topic="T")
    core.pass_time(1.0)

    assert len(told(subscriber)) == 1


def test_subscription_by_http_is_one_answer(core: ZbusCore) -> None:
    """In an ordered line of answers nothing can be pushed."""
    browser = core.session()
    assert read(browser.http("/track_sub")).status == 200

    core.session().zbus("declare", topic="T")
    core.pass_time(1.0)

    assert browser.pushes == []


# -- whose eyes ----------------------------------------------------------------------------------------------


def test_infos_show_what_rights_may_see(core: ZbusCore) -> None:
    """Topics and services, in the answers and the pushes; the numbers are those of what is shown."""
    session = core.session()
    for name in ("red.1", "red.2", "blue.1"):
        session.zbus("declare", topic=name)
    serve(core, "red.Service")
    serve(core, "blue.Service")

    assert topics_of(core.hub.tracker_info(None)) == ["blue.1", "blue.Service", "red.1", "red.2", "red.Service"]
    assert topics_of(core.hub.tracker_info(rights("red", "red.*"))) == ["red.1", "red.2", "red.Service"]
    assert list(core.hub.server_info(rights("one", "blue.1"))["topicTable"]) == ["blue.1"]
    assert topics_of(core.hub.tracker_info(Rights("nobody"))) == []


def test_each_subscriber_is_told_what_it_may_see(core: ZbusCore) -> None:
    """By the rights that it had when it subscribed, whatever token it shows afterwards."""
    red, blue, both = core.session(), core.session(), core.session()
    red.session.rights, blue.session.rights = rights("red", "red.*"), rights("blue", "blue.*")
    for subscriber in (red, blue, both):
        assert read(subscriber.zbus("track_sub")).status == 200
    blue.session.rights = None

    owner = core.session()
    owner.zbus("declare", topic="red.1")
    owner.zbus("declare", topic="blue.1")
    core.pass_time(1.0)

    assert [topics_of(told(one)[-1]) for one in (red, blue, both)] == [["red.1"], ["blue.1"], ["blue.1", "red.1"]]


def test_subscriber_is_told_by_rights_that_have_changed(core: ZbusCore) -> None:
    """When the file of tokens was read again; whose token is gone is told nothing more."""
    narrowed, gone = core.session(), core.session()
    narrowed.session.rights, gone.session.rights = rights("a", "*"), rights("b", "*")
    owner = core.session()
    owner.zbus("declare", topic="red")
    owner.zbus("declare", topic="blue")
    for subscriber in (narrowed, gone):
        subscriber.zbus("track_sub")

    core.hub.renew(Access((rights("a", "red"),)))
    core.pass_time(1.0)

    assert [topics_of(info) for info in told(narrowed)] == [["red"]]
    assert gone.pushes == []
