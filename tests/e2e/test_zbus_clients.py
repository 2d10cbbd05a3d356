"""Old zbus programs of every language produce and consume: clients that do step by step what each language's does."""

import threading
from collections.abc import Sequence

import pytest

from tests.support.fixtures import Site
from tests.support.waiting import WAIT_S, wait_until
from tests.support.zbus_client import NoServer, Refused, ZbusLab
from tests.support.zbus_consumer import Consumer, Producer, text_of
from tests.support.zbus_profiles import PROFILES, Profile
from tests.support.zbus_topology import check_topic
from zbusrpc.mq import SyncConsumer, SyncProducer

EVERY_PROFILE = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
PYTHON, JAVA, GO = PROFILES["python"], PROFILES["java"], PROFILES["go"]
YEAR_2020_MS = 1_577_836_800_000


# -- from producer to consumer -------------------------------------------------------------------------------


@EVERY_PROFILE
def test_message_goes_from_producer_to_consumer(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """Body, id, tag and headers arrive; what was for the broker only does not."""
    broker = zbus.broker(profile)
    producer, consumer = Producer(broker, topic), Consumer(broker, topic)
    producer.declare()

    receipt = producer.publish("naïve ☃", id="my-id", tag="eu.new", **{"x-trace": "a b"})
    (message,) = consumer.take(1)

    assert text_of(message.body) == "naïve ☃"
    expected = {"id": "my-id", "tag": "eu.new", "x-trace": "a b", "topic": topic}
    assert {name: message.headers[name] for name in expected} == expected
    assert not {"cmd", "ack", "token", "origin_id", "origin_url"} & set(message.headers)
    assert message.headers["sender"]
    assert (message.status, message.url) == (None, "/")
    assert receipt.id == "my-id"
    assert int(receipt.body.decode()) > YEAR_2020_MS
    assert "content-type" not in receipt.headers


@EVERY_PROFILE
def test_producer_may_want_no_acknowledgement(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """However a language spells false, the message is stored and nothing is answered."""
    client = zbus.client(profile)
    client.ask("declare", topic=topic)

    client.post("produce", "hello", topic=topic, ack=False)

    assert client.ask("consume", topic=topic).body == b"hello"
    assert client.unclaimed == []


@EVERY_PROFILE
def test_consumer_that_comes_first_makes_the_topic(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """The loop of 404, declare and consume ends at the group that is named like the topic."""
    broker = zbus.broker(profile)
    with pytest.raises(NoServer) if profile.needs_known_topic else pytest.raises(Exception, match="404"):
        Producer(broker, topic).publish("too early")

    consumer = Consumer(broker, topic)
    consumer.wait_parked()
    broker.wait_topic(topic)
    Producer(broker, topic).publish("in time")

    assert consumer.bodies(1) == ["in time"]
    (info,) = broker.admin("query", topic=topic)
    assert [group["groupName"] for group in check_topic(info)["consumeGroupList"]] == [topic]


@EVERY_PROFILE
def test_consumer_finds_the_default_group_of_an_old_topic(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """A declare without group makes the group of the topic's name, also where the topic has others already."""
    broker = zbus.broker(profile)
    broker.declare(topic, consume_group="other")

    consumer = Consumer(broker, topic)
    consumer.wait_parked()
    broker.wait_topic(topic)
    Producer(broker, topic).publish("hello")

    assert consumer.bodies(1) == ["hello"]


@EVERY_PROFILE
def test_groups_each_get_what_their_filter_wants(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """Two groups are a broadcast; a filter leaves out what it does not want; consumers of one group share."""
    broker = zbus.broker(profile)
    filtered = Consumer(broker, topic, consume_group="filtered", group_filter="abc.*")
    filtered.wait_parked()
    sharing = [Consumer(broker, topic, consume_group="all", connections=1) for _ in range(2)]
    sharing[0].wait_parked(2)
    broker.wait_topic(topic)
    producer = Producer(broker, topic)

    for tag in ("abc.x", "abc", "abc.x.y", "other", "abc.last"):
        producer.publish(tag, tag=tag)

    assert sorted(filtered.bodies(3)) == ["abc.last", "abc.x", "abc.x.y"]
    wait_until(lambda: sum(len(one.received) for one in sharing) == 5, "all messages in the other group")
    shared = [text_of(message.body) for one in sharing for message in one.received]
    assert sorted(shared) == ["abc", "abc.last", "abc.x", "abc.x.y", "other"]
    assert len(filtered.received) == 3


TAGS = ("", "abc", "abc.x", "abc.x.y", "x.abc", "x.y.abc", "other")


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("abc", ["abc"]),
        ("abc.*", ["abc.x", "abc.x.y"]),
        ("abc.+", ["abc.x"]),
        ("abc.#", ["abc", "abc.x", "abc.x.y"]),
        ("*.abc", ["x.abc"]),
        ("+.abc", ["x.abc"]),
        ("+", ["", "abc", "other"]),
        ("*", list(TAGS)),
        ("other;x.*", ["x.abc", "x.y.abc", "other"]),
    ],
)
def test_filters_are_those_of_both_generations(zbus: ZbusLab, topic: str, filter: str, expected: Sequence[str]) -> None:
    """`+` one segment, `*` one or at the end more, `#` the rest if any, `;` or."""
    client = zbus.client(GO)
    client.ask("declare", topic=topic, consume_group="g", group_filter=filter)

    for tag in TAGS:
        client.ask("produce", tag, topic=topic, tag=tag or None)
    received = [client.ask("consume", topic=topic, consume_group="g").body.decode() for _ in expected]
    client.post("consume", topic=topic, consume_group="g")
    client.ask("query", topic=topic)

    assert received == list(expected)
    assert client.unclaimed == []


@pytest.mark.parametrize("consuming", [1, 4])
def test_messages_of_one_connection_keep_their_order(zbus: ZbusLab, topic: str, consuming: int) -> None:
    """Pipelined messages are stored in the order they were sent, and acknowledged one by one."""
    broker, client = zbus.broker(JAVA), zbus.client(JAVA)
    client.ask("declare", topic=topic)
    messages = [client.command("produce", str(number), topic=topic) for number in range(500)]

    client.send(*messages)
    acks = [client.wait(message.id) for message in messages]
    consumer = Consumer(broker, topic, connections=consuming)

    assert {ack.status for ack in acks} == {200}
    expected = [str(number) for number in range(500)]
    received = consumer.bodies(500)
    assert (received if consuming == 1 else sorted(received, key=int)) == expected


# -- consumers that ask again, and consumers that go ------------------------------------------------------------


@EVERY_PROFILE
def test_consume_that_is_sent_again_replaces_the_first(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """After its own time-outs a client is one consumer still, and no message goes to an id that it has forgotten."""
    broker = zbus.broker(profile)
    producer = Producer(broker, topic)
    producer.declare()
    consumer = Consumer(broker, topic, timeouts_s=(0.05, 0.05, WAIT_S), connections=1)
    wait_until(lambda: consumer.issued >= 3, "consumes that were sent again")
    consumer.settle()

    assert broker.group(topic)["consumerCount"] == 1
    for number in range(4):
        producer.publish(str(number))

    assert consumer.bodies(4) == ["0", "1", "2", "3"]
    assert consumer.clients[0].unclaimed == []


@EVERY_PROFILE
def test_consumer_that_dies_while_it_waits_takes_nothing_along(zbus: ZbusLab, topic: str, profile: Profile) -> None:
    """After a connection is lost, all messages go to the consumer that is left."""
    broker = zbus.broker(profile)
    dying = Consumer(broker, topic, connections=3)
    dying.wait_parked()
    left = Consumer(broker, topic, connections=1)
    left.wait_parked(4)
    broker.wait_topic(topic)

    dying.kill()
    left.wait_parked(1)
    for number in range(4):
        Producer(broker, topic).publish(str(number))

    assert left.bodies(4) == ["0", "1", "2", "3"]
    assert dying.received == []


def test_message_for_a_reset_connection_goes_to_the_next(zbus: ZbusLab, topic: str) -> None:
    """A message whose bytes find no connection any more is not consumed, even when the loss was not noticed yet."""
    dying, left, client = zbus.client(GO), zbus.client(GO), zbus.client(GO)
    client.ask("declare", topic=topic)
    dying.post("consume", topic=topic)
    dying.ask("query", topic=topic)

    dying.kill()
    client.ask("produce", "hello", topic=topic)

    assert left.ask("consume", topic=topic).body == b"hello"


def test_miscounted_body_harms_only_its_own_connection(zbus: ZbusLab, topic: str) -> None:
    """Python's client counts letters where it should count bytes; the broker and other clients go on."""
    broken, client = zbus.client(PYTHON), zbus.client(PYTHON)
    client.ask("declare", topic=topic)
    body = "naïve ☃"
    head = f"GET / HTTP/1.1\r\ncmd: produce\r\ntopic: {topic}\r\nid: 1\r\ncontent-length: {len(body)}\r\n\r\n"

    broken.send_bytes((head + body).encode())
    assert broken.wait("1").status == 200
    broken.send_bytes(b"GET / HTTP/1.1\r\ncmd: ping\r\nid: 2\r\n\r\n")

    client.ask("produce", "ok", topic=topic)
    assert client.ask("consume", topic=topic).body == body.encode()[: len(body)]
    assert client.ask("consume", topic=topic).body == b"ok"


def test_many_producers_and_consumers_lose_and_double_nothing(zbus: ZbusLab, topic: str) -> None:
    """Four languages produce at once while consumers of three come and go by their time-outs."""
    names = ("python", "javascript", "java", "php")
    zbus.client(GO).ask("declare", topic=topic)
    consumers = [Consumer(zbus.broker(PROFILES[name]), topic) for name in ("php", "dotnet", "cpp")]
    brokers = [(name, zbus.broker(PROFILES[name])) for name in names]

    def produce(number: int) -> None:
        name, broker = brokers[number]
        for count in range(50):
            Producer(broker, topic).publish(f"{name} {count}")

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(len(brokers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: sum(len(consumer.received) for consumer in consumers) == 200, "all messages")

    received = [text_of(message.body) for consumer in consumers for message in consumer.received]
    assert sorted(received) == sorted(f"{name} {count}" for name in names for count in range(50))


def test_impatient_consumers_lose_and_double_nothing(zbus: ZbusLab, topic: str) -> None:
    """Python's consumers ask again all the time, with the same id, while messages come."""
    client = zbus.client(JAVA)
    client.ask("declare", topic=topic)
    consumers = [Consumer(zbus.broker(PYTHON), topic, timeouts_s=(0.001,)) for _ in range(3)]
    expected = [str(number) for number in range(300)]

    for body in expected:
        client.ask("produce", body, topic=topic)
    wait_until(lambda: sum(len(consumer.received) for consumer in consumers) >= 300, "all messages")
    for consumer in consumers:
        consumer.settle()

    assert sorted((text_of(one.body) for consumer in consumers for one in consumer.received), key=int) == expected


# -- between the dialects ------------------------------------------------------------------------------------


@EVERY_PROFILE
def test_message_of_zbus_is_consumed_by_python(zbus: ZbusLab, zbus_site: Site, topic: str, profile: Profile) -> None:
    """`zbusrpc.Consumer` gets body, id, tag and headers of a message that an old client produced."""
    producer = Producer(zbus.broker(profile), topic)
    producer.declare()

    producer.publish("naïve ☃", id="my-id", tag="eu.new", **{"x-trace": "a b"})

    with SyncConsumer(topic, group=topic, broker=zbus_site.address) as consumer:
        (message,) = consumer.fetch(1, timeout=WAIT_S)
        message.ack(confirmed=True)
    assert message.body == "naïve ☃".encode()
    assert (message.id, message.tag, message.headers["x-trace"]) == ("my-id", "eu.new", "a b")
    assert not {"cmd", "ack", "token"} & set(message.headers)


@EVERY_PROFILE
def test_message_of_python_is_consumed_by_zbus(zbus: ZbusLab, zbus_site: Site, topic: str, profile: Profile) -> None:
    """An old client gets body, id, tag and headers of a message that `zbusrpc.Producer` sent."""
    consumer = Consumer(zbus.broker(profile), topic)
    consumer.wait_parked()

    with SyncProducer(topic, broker=zbus_site.address) as producer:
        producer.send("naïve ☃".encode(), id="my-id", tag="eu.new", headers={"x-trace": "a b"})

    (message,) = consumer.take(1)
    assert text_of(message.body) == "naïve ☃"
    expected = {"id": "my-id", "tag": "eu.new", "x-trace": "a b"}
    assert {name: message.headers[name] for name in expected} == expected
    assert message.status is None


def test_groups_are_shared_by_the_dialects(zbus: ZbusLab, zbus_site: Site, topic: str) -> None:
    """What an old client has consumed, Python's consumer of the same group does not get."""
    client = zbus.client(GO)
    client.ask("declare", topic=topic, consume_group="g")
    for body in ("one", "two"):
        client.ask("produce", body, topic=topic)

    first = client.ask("consume", topic=topic, consume_group="g").body
    with SyncConsumer(topic, group="g", broker=zbus_site.address, auto_ack=True) as consumer:
        rest = [message.body for message in consumer.fetch(5, timeout=WAIT_S)]

    assert (first, rest) == (b"one", [b"two"])


def test_topic_of_python_has_its_own_group_when_it_is_asked_for(zbus: ZbusLab, topic: str) -> None:
    """What a native producer has stored is there for a zbus client that never declared anything."""
    with SyncProducer(topic, broker=zbus.address) as producer:
        producer.send("before")
    client = zbus.client(PYTHON)

    assert client.ask("consume", topic=topic).body == "before"
    with pytest.raises(Refused, match=r"ConsumeGroup\(other\) not found"):
        client.ask("consume", topic=topic, consume_group="other")
