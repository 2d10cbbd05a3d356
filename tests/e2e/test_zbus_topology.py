"""What old zbus clients are told of servers, topics, groups and consumers, and how soon."""

import json
import signal
from contextlib import closing

import pytest

from tests.support.fixtures import Site
from tests.support.processes import Processes, port_of
from tests.support.text_wire import BINARY, TextWire, body_of, command, frame, get, status_of, wire
from tests.support.zbus_client import READY_S, ZbusLab
from tests.support.zbus_consumer import Consumer, Producer
from tests.support.zbus_profiles import PROFILES, Profile, value_of
from tests.support.zbus_topology import check_group, check_server, check_topic, check_tracker, key_of

TRACKED = [profile for profile in PROFILES.values() if profile.has_tracker]
EVERY_TRACKED = pytest.mark.parametrize("profile", TRACKED, ids=[profile.name for profile in TRACKED])
EVERY_PROFILE = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
PYTHON, GO = PROFILES["python"], PROFILES["go"]


@EVERY_TRACKED
def test_tracker_names_a_server_that_can_be_reached(zbus: ZbusLab, zbus_site: Site, profile: Profile) -> None:
    """The broker is its own tracker: its table holds its own address, where it answers."""
    broker = zbus.broker(profile)

    first = broker.pushes[0]
    info = check_tracker(value_of(first, profile))

    assert first.status == 200
    assert first.id
    assert info["serverAddress"] == {"address": zbus_site.address, "sslEnabled": False}
    assert broker.servers == [zbus_site.address]
    assert broker.client(broker.servers[0]).ask("ping").body == b"OK"


@EVERY_TRACKED
def test_tracker_tells_every_change_at_once(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """Declare, a new group, the first consume, a lost consumer and remove are told before an old client gives up."""
    broker, other = zbus.broker(profile), zbus.broker(GO)

    other.declare(topic)
    broker.wait_topic(topic, lambda info: info["consumerCount"] == 0)
    other.declare(topic, consume_group="g")
    broker.wait_topic(topic, lambda info: "g" in [group["groupName"] for group in info["consumeGroupList"]])
    consumer = Consumer(other, topic, consume_group="g")
    broker.wait_topic(topic, lambda info: info["consumerCount"] == 1)
    consumer.kill()
    broker.wait_topic(topic, lambda info: info["consumerCount"] == 0)
    other.admin("remove", topic=topic, consume_group="g")
    broker.wait_topic(topic, lambda info: "g" not in [group["groupName"] for group in info["consumeGroupList"]])
    other.admin("remove", topic=topic)
    broker.table.wait(lambda table: table.topic(topic) is None, "the topic is gone", READY_S)

    later = broker.pushes[1:]
    assert {(push.status, push.id) for push in later} == {(200, "")}
    versions = [value_of(push, profile)["infoVersion"] for push in broker.pushes]
    assert versions == sorted(set(versions))


def test_broker_that_was_restarted_is_not_taken_for_an_old_one(processes: Processes) -> None:
    """infoVersion grows from question to question and over a restart; topics and groups are told again."""
    data_dir = str(processes.directory / "data")
    broker, address = processes.broker("--data-dir", data_dir)
    with closing(ZbusLab(address)) as zbus:
        zbus.client(GO).ask("declare", topic="t", consume_group="g", group_filter="abc.*")
        versions = [check_tracker(zbus.client(GO).ask_json("tracker"))["infoVersion"] for _ in range(3)]
        broker.kill()
        processes.broker("--data-dir", data_dir, port=port_of(address))
        info = check_tracker(zbus.client(GO).ask_json("tracker"))

    versions.append(info["infoVersion"])
    assert versions == sorted(set(versions))
    (group,) = [
        group
        for group in info["serverTable"][address]["topicTable"]["t"]["consumeGroupList"]
        if group["groupName"] == "g"
    ]
    assert group["filter"] == "abc.*"


@pytest.mark.parametrize("by", ["tcp", "http", "websocket"])
def test_subscriber_knows_a_topic_before_declare_is_answered(zbus_site: Site, topic: str, by: str) -> None:
    """What a client is told on one connection is there when the answer comes on another: it may produce at once."""
    with wire(zbus_site.address) as subscriber, wire(zbus_site.address) as client:
        subscriber.ask(command("track_sub", id="sub"))
        if by == "websocket":
            client.upgrade()
        declare = command("declare", topic=topic, id="d")
        client.send({"tcp": declare, "http": get(f"/declare/{topic}"), "websocket": frame(BINARY, declare)}[by])
        answer = message_of(client, by == "websocket")
        subscriber.socket.setblocking(False)
        told = [subscriber.receive()]
        while topic.encode() not in told[-1]:  # changes that other tests have made come first
            told.append(subscriber.receive())

    assert status_of(answer) == 200


@pytest.mark.parametrize("is_websocket", [False, True], ids=["tcp", "websocket"])
def test_lone_broker_that_ends_stays_listed(processes: Processes, is_websocket: bool) -> None:
    """Until the connection ends nobody is told that there is no server: clients would never come back to this one."""
    broker, address = processes.broker("--data-dir", str(processes.directory / "data"))
    with wire(address) as subscriber:
        if is_websocket:
            subscriber.upgrade()
        subscribe = command("track_sub", id="sub")
        subscriber.send(frame(BINARY, subscribe) if is_websocket else subscribe)
        told = [message_of(subscriber, is_websocket)]
        broker.send_signal(signal.SIGTERM)
        while told[-1]:
            told.append(message_of(subscriber, is_websocket))

    tables = [json.loads(body_of(message))["serverTable"] for message in told[:-1]]
    assert len(tables) >= 2, "it is told that something has changed"
    assert [list(table) for table in tables] == [[address]] * len(tables)


def message_of(connection: TextWire, is_websocket: bool) -> bytes:
    """Return the next message of zbus; nothing at the end."""
    if not is_websocket:
        return connection.receive()
    opcode, message = connection.receive_frame()
    return message if opcode == BINARY else b""


@EVERY_PROFILE
def test_server_tells_its_topics(zbus: ZbusLab, zbus_site: Site, topic: str, profile: Profile) -> None:
    """`server`, and `query` without a topic, answer the ServerInfo."""
    client = zbus.client(profile)
    client.ask("declare", topic=topic, topic_mask=1)

    for info in (client.ask_json("server"), client.ask_json("query")):
        assert key_of(check_server(info)["serverAddress"]) == zbus_site.address
        assert info["topicTable"][topic]["mask"] == 1
        assert info["trackerList"] == []


@EVERY_PROFILE
def test_declare_and_query_tell_topic_and_group(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """Without a group it is the topic, with one the group; names are found in any case, and told as declared."""
    broker = zbus.broker(profile)

    made = check_topic(broker.declare(topic, topic_mask=1))
    group = check_group(broker.declare(topic, consume_group="Group", group_filter="abc.*", group_mask=8))
    producer = Producer(broker, topic.lower())
    broker.wait_topic(topic)
    producer.publish("hello", tag="abc.x")
    (info,) = broker.admin("query", topic=topic.upper())

    assert (made["topicName"], made["mask"], made["messageDepth"]) == (topic, 1, 0)
    assert [one["groupName"] for one in made["consumeGroupList"]] == [topic]
    expected = {"topicName": topic, "groupName": "Group", "filter": "abc.*", "mask": 8, "consumerCount": 0}
    assert {name: group[name] for name in expected} == expected
    assert check_topic(info)["messageDepth"] == 1
    assert {one["groupName"] for one in info["consumeGroupList"]} == {topic, "Group"}
    assert broker.group(topic.upper(), "GROUP")["messageCount"] == 1


@EVERY_PROFILE
def test_what_is_removed_or_emptied_is_gone(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """`empty` leaves no message, `remove` neither group nor topic; both answer with the time, as text."""
    broker = zbus.broker(profile)
    broker.declare(topic)
    broker.declare(topic, consume_group="g")
    broker.wait_topic(topic)
    producer, client = Producer(broker, topic), broker.client(broker.servers[0])
    producer.publish("old")

    times = broker.admin("empty", topic=topic)
    counts = [broker.group(topic, name)["messageCount"] for name in (topic, "g")]
    producer.publish("new")
    received = client.ask("consume", topic=topic, consume_group="g").body
    times += broker.admin("remove", topic=topic, consume_group="g")
    without_group = client.refusal("consume", topic=topic, consume_group="g")
    times += broker.admin("remove", topic=topic)
    without_topic = client.refusal("query", topic=topic)

    assert all(time.isdigit() for time in times)
    assert counts == [0, 0]
    assert received == b"new"
    assert (without_group.status, without_group.text) == (404, "ConsumeGroup(g) not found")
    assert (without_topic.status, without_topic.text) == (404, f"Topic({topic}) not found")


def test_removal_answers_the_consumers_that_wait(zbus: ZbusLab, topic: str) -> None:
    """Who is parked at a topic that is removed learns it by a 404, and so declares it again."""
    broker = zbus.broker(PYTHON)
    consumer = Consumer(broker, topic)
    consumer.wait_parked()

    broker.admin("remove", topic=topic)
    consumer.wait_parked()
    broker.wait_topic(topic)
    Producer(broker, topic).publish("again")

    assert consumer.bodies(1) == ["again"]


def test_ping_and_heartbeat(zbus: ZbusLab) -> None:
    """`ping` is answered OK with its id; a heartbeat is not answered at all."""
    client = zbus.client(GO)

    client.heartbeat()

    assert client.ask("ping").body == b"OK"
    assert client.unclaimed == []
