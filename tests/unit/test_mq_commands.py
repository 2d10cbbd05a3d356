"""Commands: what people and tools ask for, and what they are told."""

import base64
from typing import Any

import pytest

from tests.support.queue_lab import START_MS, Consumer, QueueLab, bodies_of, entry, lab_with
from zbusrpc.broker.mq import reports
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

ALL = [
    ("declare", {"topic": "orders"}),
    ("declare_group", {"topic": "orders", "group": "billing"}),
    ("topics", {}),
    ("topic", {"topic": "orders"}),
    ("pause", {"topic": "orders", "group": "billing"}),
    ("resume", {"topic": "orders", "group": "billing"}),
    ("seek", {"topic": "orders", "group": "billing", "start": "oldest"}),
    ("peek", {"topic": "orders"}),
    ("dlq", {"topic": "orders"}),
    ("retry_dead", {"topic": "orders"}),
    ("purge_dead", {"topic": "orders"}),
    ("stats", {}),
    ("empty", {"topic": "orders", "group": "billing"}),
    ("empty", {"topic": "orders"}),
    ("remove", {"topic": "orders", "group": "billing"}),
    ("remove", {"topic": "orders"}),
]


# -- all of them -----------------------------------------------------------------------------------------


def test_each_command_is_answered_once() -> None:
    """Every command, in a sensible order, succeeds and is answered once."""
    lab = QueueLab()
    anna = lab.peer()

    for name, fields in ALL:
        anna.command(name, **fields)

    assert sorted(anna.replies) == list(range(1, len(ALL) + 1))


@pytest.mark.parametrize(("name", "fields"), [one for one in ALL if "topic" in one[1] and one[0] != "declare"])
def test_command_for_a_topic_that_there_is_not_is_refused(name: str, fields: dict[str, Any]) -> None:
    """Every command about a topic says that there is none of that name, with the nearest."""
    _, anna = lab_with(topic="orderz")

    with pytest.raises(RpcError) as caught:
        anna.command(name, **fields)

    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.message == "there is no topic orders; did you mean orderz?"


@pytest.mark.parametrize(
    ("name", "fields"), [one for one in ALL if "group" in one[1] and one[0] not in {"declare_group"}]
)
def test_command_for_a_group_that_there_is_not_is_refused(name: str, fields: dict[str, Any]) -> None:
    """Every command about a group says that there is none of that name, with the nearest."""
    _, anna = lab_with()
    anna.command("declare_group", topic="orders", group="biling")

    with pytest.raises(RpcError) as caught:
        anna.command(name, **fields)

    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.message == "topic orders has no group billing; did you mean biling?"


def test_command_without_id_is_carried_out_and_not_answered() -> None:
    """Who wants no answer gets none, not even an error."""
    lab, anna = lab_with()
    count = len(anna.frames)

    anna.send(Kind.COMMAND, b'{"command": "remove", "topic": "orders"}', is_answered=False)
    anna.send(Kind.COMMAND, b'{"command": "nonsense"}', is_answered=False)
    lab.run()

    assert len(anna.frames) == count
    assert lab.store.topics == {}


# -- listings --------------------------------------------------------------------------------------------


def test_topics_are_listed_by_name_and_by_part_of_it() -> None:
    """All topics are listed in order; `match` leaves those whose name has it."""
    lab = QueueLab()
    anna = lab.peer()
    for name in ("mails", "orders.eu", "orders.us"):
        anna.declare(name)

    assert [topic["topic"] for topic in anna.command("topics")] == ["mails", "orders.eu", "orders.us"]
    assert [topic["topic"] for topic in anna.command("topics", match="orders")] == ["orders.eu", "orders.us"]


def test_topic_is_described_with_its_groups() -> None:
    """Sizes, options and the place of each group are told."""
    lab, anna = lab_with("one", "two", keep_s=60)
    lab.peer("bert").consume("orders", "billing", window=1)
    anna.command("declare_group", topic="orders", group="audit", start="newest")

    shown = anna.command("topic", topic="orders")

    assert (shown["topic"], shown["durability"], shown["messages"], shown["next_offset"]) == ("orders", "disk", 2, 2)
    assert (shown["created_ms"], shown["consumers"], shown["closed_because"]) == (START_MS, 1, None)
    assert shown["options"]["keep_s"] == 60
    assert shown["bytes"] > 100
    assert [group["group"] for group in shown["groups"]] == ["audit", "billing"]
    assert [group["lag"] for group in shown["groups"]] == [0, 2]
    assert shown["groups"][1]["counters"]["delivered"] == 1


def test_statistics_count_what_happened() -> None:
    """The counters of the broker are the sums over its topics and groups."""
    lab, anna = lab_with(entry("one", id_="a"), "two", "three")
    anna.produce("orders", entry("one", id_="a"))
    consumer = lab.peer().consume("orders")
    consumer.ack(0)
    consumer.nack(1, delay_ms=0)
    consumer.nack(2, then="dead")

    counters = anna.command("stats")

    assert (counters["topics"], counters["groups"], counters["consumers"]) == (2, 1, 1)
    assert (counters["produced"], counters["duplicates"]) == (4, 1)  # with the dead letter
    assert (counters["delivered"], counters["acked"], counters["redelivered"], counters["dead"]) == (4, 1, 1, 1)
    assert counters["in_flight"] == 1


# -- peek ------------------------------------------------------------------------------------------------


def test_peek_shows_every_field() -> None:
    """A message is shown with all that it has; times only where there are some."""
    _lab, anna = lab_with()
    anna.produce(
        "orders", "plain", entry("full", id_="i", tag="t", key="k", headers={"x": "y"}, ttl_ms=5000, delay_ms=1000)
    )

    plain, full = anna.command("peek", topic="orders")["messages"]

    assert plain == {
        "offset": 0,
        "timestamp_ms": START_MS,
        "id": "",
        "tag": "",
        "key": "",
        "headers": {},
        "size": 5,
        "body": "plain",
    }
    assert (full["id"], full["tag"], full["key"], full["headers"]) == ("i", "t", "k", {"x": "y"})
    assert (full["due_ms"], full["expiry_ms"]) == (START_MS + 1000, START_MS + 5000)


def test_peek_shows_bytes_that_are_no_text_in_base64() -> None:
    """A body that is no UTF-8 is shown so that it can be had back; bad headers that were stored do no harm."""
    lab, anna = lab_with()
    body = bytes(range(256))
    lab.topic().append([Record(body, headers=b"{x}")], lambda offset, error: None)
    lab.run()

    shown = anna.command("peek", topic="orders")["messages"][0]

    assert shown["body"] is None
    assert base64.b64decode(shown["body_base64"]) == body
    assert shown["headers"] == {"": "{x}"}


def test_peek_cuts_long_bodies() -> None:
    """Of a body no more is shown than was asked for; its size is told."""
    _, anna = lab_with("x" * 1000)

    shown = anna.command("peek", topic="orders", body_bytes_max=10)["messages"][0]

    assert shown["body"] == "x" * 10
    assert shown["size"] == 1000


def test_cut_in_the_middle_of_a_letter_leaves_a_text() -> None:
    """A text that is cut between the bytes of a letter is still shown as text."""
    _, anna = lab_with("aé" * 10)

    shown = anna.command("peek", topic="orders", body_bytes_max=5)["messages"][0]

    assert shown["body"] == "aéa"


def test_peek_goes_page_by_page_with_a_filter() -> None:
    """Filter, start and count choose; `next_offset` says where to go on, `end_offset` where the end is."""
    _, anna = lab_with(*(entry(f"{number}", tag="a" if number % 3 else "b") for number in range(10)))

    first = anna.command("peek", topic="orders", start={"offset": 1}, count=3, filter="a")
    second = anna.command("peek", topic="orders", start={"offset": first["next_offset"]}, filter="a")

    assert bodies_of(first) == ["1", "2", "4"]
    assert (first["next_offset"], first["end_offset"]) == (5, 10)
    assert bodies_of(second) == ["5", "7", "8"]
    assert second["next_offset"] == 10


def test_peek_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command looks at, and shows, a bounded number of messages and bytes, and tells where to go on."""
    monkeypatch.setattr(reports, "PEEK_SCAN_MAX", 4)
    monkeypatch.setattr(reports, "PEEK_BYTES_MAX", 250)
    _, anna = lab_with(*(entry("x" * 100, tag="a") for _ in range(10)))

    by_bytes = anna.command("peek", topic="orders")
    by_count = anna.command("peek", topic="orders", filter="b")

    assert (len(by_bytes["messages"]), by_bytes["next_offset"]) == (3, 3)
    assert (by_count["messages"], by_count["next_offset"]) == ([], 4)


def test_peek_changes_nothing() -> None:
    """Who looks takes nothing away from those who consume."""
    lab, anna = lab_with("one", "two")

    anna.command("peek", topic="orders")
    consumer: Consumer = lab.peer().consume("orders")

    assert consumer.attempts() == [("one", 1), ("two", 1)]


# -- groups ----------------------------------------------------------------------------------------------


def test_pause_and_resume_survive_a_crash() -> None:
    """A group that rests does so after a restart too, until it is told to go on."""
    lab, anna = lab_with("one")
    anna.command("declare_group", topic="orders", group="billing")
    assert anna.command("pause", topic="orders", group="billing") is None
    lab.crash()

    consumer = lab.peer().consume("orders")
    assert consumer.take() == []
    lab.peer().command("resume", topic="orders", group="billing")
    assert consumer.take() == ["one"]
    lab.crash()

    assert lab.peer().consume("orders").take() == ["one"]


def test_start_of_a_group_that_is_there_moves_nothing() -> None:
    """Declaring a group again, or consuming from it, with a start does not move it: `seek` does."""
    lab, anna = lab_with("one", "two")
    anna.command("declare_group", topic="orders", group="billing", start={"offset": 1})

    result = anna.command("declare_group", topic="orders", group="billing", start="oldest")

    assert (result["created"], result["next_offset"]) == (False, 1)
    assert lab.peer().consume("orders", start="oldest").take() == ["two"]


def test_exclusive_and_filter_are_shown() -> None:
    """What a group was declared with is what is listed."""
    _, anna = lab_with()

    result = anna.command("declare_group", topic="orders", group="billing", exclusive=True, filter="a.#", lease_ms=500)

    options = result["options"]
    assert (options["exclusive"], options["filter"], options["lease_ms"]) == (True, "a.#", 500)
