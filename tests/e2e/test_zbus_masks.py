"""Masks of topics and groups, `ack` and `unconsume`, as clients of zbus 0.9 and later use them on the 0.8 wire."""

import pytest

from tests.support.fixtures import Site
from tests.support.waiting import wait_until
from tests.support.zbus_client import MqClient, ZbusLab
from tests.support.zbus_profiles import PROFILES, ZbusMessage

JAVA = PROFILES["java"]
MEMORY, RPC, PAUSE, EXCLUSIVE, DELETE_ON_EXIT, ACK_REQUIRED = 1, 2, 8, 16, 32, 64


@pytest.fixture
def client(zbus: ZbusLab) -> MqClient:
    """Return a connection."""
    return zbus.client(JAVA)


@pytest.fixture
def other(zbus: ZbusLab) -> MqClient:
    """Return another connection."""
    return zbus.client(JAVA)


def groups_of(client: MqClient, topic: str) -> list[str]:
    """Return the names of a topic's groups."""
    return [group["groupName"] for group in client.ask_json("query", topic=topic)["consumeGroupList"]]


# -- masks ---------------------------------------------------------------------------------------------------


def test_memory_topic_carries_messages(client: MqClient, topic: str) -> None:
    """A topic in memory has independent groups, like any other."""
    assert client.ask_json("declare", topic=topic, topic_mask=MEMORY)["mask"] == MEMORY
    client.ask("declare", topic=topic, consume_group="g")

    client.ask("produce", "hello", topic=topic)

    for group in (topic, "g"):
        assert client.ask("consume", topic=topic, consume_group=group).body == b"hello"


def test_rpc_topic_without_service_refuses_calls(client: MqClient, other: MqClient, topic: str) -> None:
    """Calls to a topic of the RPC mask are answered 502 while nobody consumes there, also when ack is false."""
    client.ask("declare", topic=topic, topic_mask=RPC)

    for command in ("produce", "rpc"):
        refusal = client.refusal(command, b"{}", topic=topic, ack=False)
        assert refusal.status == 502
        assert refusal.text.startswith(f"Service({topic}) Down")

    parked = other.post("consume", topic=topic)
    other.ask("query", topic=topic)
    call = client.post("produce", b"{}", topic=topic, ack=False)
    assert other.wait(parked).headers["origin_id"] == call


def test_paused_group_delivers_when_it_is_resumed(client: MqClient, other: MqClient, topic: str) -> None:
    """A group of the pause mask holds its messages back until it is declared without."""
    client.ask("declare", topic=topic, consume_group="g", group_mask=PAUSE)
    parked = other.post("consume", topic=topic, consume_group="g")
    client.ask("produce", "hello", topic=topic)
    other.ask("query", topic=topic)
    assert other.unclaimed == []

    client.ask("declare", topic=topic, consume_group="g", group_mask=0)

    assert other.wait(parked).body == b"hello"


def test_exclusive_group_takes_one_session(client: MqClient, other: MqClient, topic: str) -> None:
    """The second session is answered 401, and takes over when the first has gone."""
    client.ask("declare", topic=topic, consume_group="g", group_mask=EXCLUSIVE)
    client.post("consume", topic=topic, consume_group="g")
    client.ask("query", topic=topic)

    assert other.refusal("consume", topic=topic, consume_group="g").status == 401
    client.kill()
    other.ask("produce", "hello", topic=topic)

    def consume() -> ZbusMessage | None:
        reply = other.invoke(other.command("consume", topic=topic, consume_group="g"))
        return reply if reply.status != 401 else None

    taken = wait_until(consume, "place of the first session")
    assert taken is not None
    assert taken.body == b"hello"


def test_group_goes_with_its_last_session(client: MqClient, other: MqClient, topic: str) -> None:
    """A group that is deleted on exit stays until a consumer was there, and goes with the last one."""
    client.ask("declare", topic=topic)
    client.ask("declare", topic=topic, consume_group="g", group_mask=DELETE_ON_EXIT)
    assert sorted(groups_of(client, topic)) == sorted([topic, "g"])
    other.post("consume", topic=topic, consume_group="g")
    other.ask("query", topic=topic)
    assert sorted(groups_of(client, topic)) == sorted([topic, "g"])

    other.close()

    wait_until(lambda: groups_of(client, topic) == [topic], "end of the group")


def test_group_name_may_be_left_to_the_broker(client: MqClient, topic: str) -> None:
    """group_name_auto makes a group with a name of its own, which gets all messages."""
    client.ask("declare", topic=topic)
    names = [
        client.ask_json("declare", topic=topic, consume_group=topic, group_name_auto=True)["groupName"]
        for _ in range(2)
    ]

    client.ask("produce", "hello", topic=topic)

    assert len({topic, *names}) == 3
    for name in names:
        assert client.ask("consume", topic=topic, consume_group=name).body == b"hello"


# -- acknowledgements ----------------------------------------------------------------------------------------


def test_message_that_is_not_acknowledged_comes_again(client: MqClient, other: MqClient, topic: str) -> None:
    """It is delivered again after the group's time, to whoever waits, and says how often that was."""
    group = {"topic": topic, "consume_group": "g"}
    client.ask("declare", **group, group_mask=ACK_REQUIRED, group_ack_timeout=50)
    client.ask("produce", "hello", topic=topic)

    first = client.ask("consume", **group)
    again = other.ask("consume", **group)
    third = client.ask("consume", **group)

    assert [first.body, again.body, third.body] == [b"hello"] * 3
    assert "retry" not in first.headers
    assert [int(again.headers["retry"]), int(third.headers["retry"])] == [1, 2]
    assert first.headers["offset"] == again.headers["offset"] == third.headers["offset"]


def test_message_that_is_acknowledged_is_done(client: MqClient, other: MqClient, topic: str) -> None:
    """`ack` with the offset of the delivery is answered 200, unless nobody wants to know; the next message follows."""
    group = {"topic": topic, "consume_group": "g"}
    client.ask("declare", **group, group_mask=ACK_REQUIRED)
    for body in ("one", "two", "three"):
        client.ask("produce", body, topic=topic)

    one = client.ask("consume", **group)
    assert client.ask("ack", **group, offset=one.headers["offset"]).status == 200
    two = client.ask("consume", **group)
    client.post("ack", **group, offset=two.headers["offset"], ack=False)
    client.ask("query", topic=topic)

    assert (one.body, two.body) == (b"one", b"two")
    assert client.unclaimed == []
    client.kill()
    three = other.ask("consume", **group)
    assert (three.body, "retry" in three.headers) == (b"three", False)


def test_message_of_a_lost_session_comes_to_another(client: MqClient, other: MqClient, topic: str) -> None:
    """What a consumer had and did not acknowledge when its connection ended goes to the next at once."""
    group = {"topic": topic, "consume_group": "g"}
    client.ask("declare", **group, group_mask=ACK_REQUIRED, group_ack_timeout=600_000)
    client.ask("produce", "hello", topic=topic)
    assert client.ask("consume", **group).body == b"hello"

    client.kill()

    again = other.ask("consume", **group)
    assert (again.body, again.headers["retry"]) == (b"hello", "1")


def test_unacknowledged_messages_are_bounded(client: MqClient, topic: str) -> None:
    """With as many as the group's window outstanding, the next message waits for an acknowledgement."""
    group = {"topic": topic, "consume_group": "g"}
    client.ask("declare", **group, group_mask=ACK_REQUIRED, group_ack_window=2)
    for body in ("one", "two", "three"):
        client.ask("produce", body, topic=topic)
    taken = [client.ask("consume", **group) for _ in range(2)]

    parked = client.post("consume", **group)
    client.ask("query", topic=topic)
    assert client.unclaimed == []
    client.ask("ack", **group, offset=taken[0].headers["offset"])

    assert client.wait(parked).body == b"three"


def test_no_message_of_a_group_with_acknowledgement_is_lost(client: MqClient, other: MqClient, topic: str) -> None:
    """Consumers that die with messages in their hands leave all of them to the next."""
    group = {"topic": topic, "consume_group": "g"}
    client.ask("declare", **group, group_mask=ACK_REQUIRED, group_ack_timeout=600_000)
    messages = [client.command("produce", str(number), topic=topic) for number in range(50)]
    client.send(*messages)
    for message in messages:
        client.wait(message.id)

    held = [client.ask("consume", **group).body for _ in range(10)]
    client.kill()
    received = []
    for _ in range(50):
        message = other.ask("consume", **group)
        other.ask("ack", **group, offset=message.headers["offset"])
        received.append(message.body)

    expected = [str(number).encode() for number in range(50)]
    assert held == expected[:10]
    assert sorted(received, key=int) == expected


# -- where a group begins ------------------------------------------------------------------------------------


def produced(client: MqClient, topic: str, *bodies: str) -> None:
    """Send messages whose ids are their bodies."""
    for body in bodies:
        client.ask("produce", body, topic=topic, id=body)


def consumed(client: MqClient, topic: str, group: str) -> bytes:
    """Consume a message."""
    return bytes(client.ask("consume", topic=topic, consume_group=group).body)


def test_new_group_begins_where_the_most_advanced_one_is(client: MqClient, topic: str) -> None:
    """The first group of a topic begins at the oldest message, the next ones beside it; or where they are told to."""
    client.ask("declare", topic=topic)
    produced(client, topic, "one", "two", "three")
    assert consumed(client, topic, topic) == b"one"

    client.ask("declare", topic=topic, consume_group="beside")
    assert consumed(client, topic, "beside") == b"two"
    client.ask("declare", topic=topic, consume_group="ahead")
    client.ask("declare", topic=topic, consume_group="copy", group_start_copy=topic)

    assert consumed(client, topic, "ahead") == b"three"
    assert consumed(client, topic, "copy") == b"two"


def test_group_begins_at_an_offset_or_a_time(client: MqClient, topic: str) -> None:
    """group_start_offset, which the message's id confirms, and group_start_time; they move an old group as well."""
    client.ask("declare", topic=topic)
    produced(client, topic, "one", "two", "three")
    heads = [client.ask("consume", topic=topic).headers for _ in range(3)]
    where = {"group_start_offset": heads[1]["offset"], "group_start_msgid": "two"}

    client.ask("declare", topic=topic, consume_group="g", **where)
    assert consumed(client, topic, "g") == b"two"
    client.ask("declare", topic=topic, consume_group="g", group_start_time=heads[0]["timestamp"])
    assert consumed(client, topic, "g") == b"one"
    client.ask("declare", topic=topic, consume_group="g", group_start_offset=heads[2]["offset"])
    assert consumed(client, topic, "g") == b"three"

    wrong = client.refusal("declare", topic=topic, consume_group="new", **where | {"group_start_msgid": "another"})
    assert wrong.status >= 400


def test_message_is_read_by_its_offset(client: MqClient, topic: str) -> None:
    """`consume` with an offset reads without moving the group; 404 where nothing is."""
    client.ask("declare", topic=topic)
    produced(client, topic, "one", "two")

    assert client.ask("consume", topic=topic, offset=1).body == b"two"
    assert consumed(client, topic, topic) == b"one"
    assert client.refusal("consume", topic=topic, offset=7).status == 404


# -- unconsume -----------------------------------------------------------------------------------------------


def test_session_that_does_not_want_to_consume_any_more(client: MqClient, other: MqClient, topic: str) -> None:
    """`unconsume` is not answered; the next message goes to somebody else. Consuming again is possible."""
    client.ask("declare", topic=topic)
    parked = client.post("consume", topic=topic)
    client.post("unconsume", topic=topic)
    client.ask("query", topic=topic)

    other.ask("produce", "one", topic=topic)
    assert other.ask("consume", topic=topic).body == b"one"
    other.ask("produce", "two", topic=topic)
    two = client.ask("consume", topic=topic)

    assert (two.body, parked not in {reply.id for reply in client.unclaimed}) == (b"two", True)
    assert client.unclaimed == []


def test_unconsume_of_a_group_that_is_not_there(client: MqClient, zbus_site: Site, topic: str) -> None:
    """It is answered 404, and the connection stays."""
    client.ask("declare", topic=topic)

    assert client.refusal("unconsume", topic=topic, consume_group="g").text == "ConsumeGroup(g) not found"
    assert client.ask("ping").status == 200
