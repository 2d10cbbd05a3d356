"""The store: topics and groups are declared, changed, moved and removed, and each is told when it is so."""

import errno
import re
from typing import Any

import pytest

from tests.support.faulty_disk import PowerCut
from tests.support.queue_lab import START_MS, QueueLab, bodies_of, entry, lab_with, outcome, refusals
from zbusrpc.broker.mq.upkeep import Upkeep
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind


def peek(lab: QueueLab, topic: str = "orders") -> list[str]:
    """Return the bodies of all messages of a topic."""
    return bodies_of(lab.peer().command("peek", topic=topic))


def names(lab: QueueLab) -> list[str]:
    return [topic["topic"] for topic in lab.peer().command("topics")]


# -- declaring a topic -----------------------------------------------------------------------------------


def test_declared_topic_survives_a_power_cut() -> None:
    """Whoever was told that a topic is there finds it, with its options, whatever the disk forgets."""
    lab = QueueLab()
    result = lab.peer().declare("orders", keep_s=5, durability="os")

    assert result["created"] is True
    assert result["options"]["keep_s"] == 5
    for title, image in lab.disk.images():
        found = QueueLab(image).topic()
        assert found.options.keep_s == 5, title
        assert found.options.durability.value == "os", title


def test_topic_is_declared_again_as_it_is() -> None:
    """Declaring what is there changes nothing and says so."""
    lab, anna = lab_with("one", keep_s=5)

    again = anna.declare("orders", keep_s=5)

    assert again["created"] is False
    assert peek(lab) == ["one"]


def test_level_of_the_broker_is_that_of_topics_that_name_none() -> None:
    """A topic that does not say how safe it is gets what the broker was started with."""
    lab = QueueLab(durability="os")  # type: ignore[arg-type]
    anna = lab.peer()

    assert anna.declare("plain")["durability"] == "os"
    assert anna.declare("safe", durability="disk")["durability"] == "disk"


def test_topic_with_other_options_is_refused_unless_they_shall_change() -> None:
    """Options that differ are refused with both values; with `update` they change, also on the disk."""
    lab, anna = lab_with(keep_s=5)

    with pytest.raises(RpcError) as caught:
        anna.declare("orders", keep_s=6)
    changed = anna.declare("orders", keep_s=6, update=True)
    lab.crash()

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert (
        caught.value.message
        == "topic orders exists with keep_s = 5.0, not 6.0; to change it, say update: zbusrpc declare orders --update"
    )
    assert changed["options"]["keep_s"] == 6
    assert lab.topic().options.keep_s == 6


def test_topic_that_is_declared_by_two_at_once_is_made_once() -> None:
    """Both are told when it is there, one of them that it made it; the second one's options are looked at too."""
    lab = QueueLab()
    anna, bert, carl = lab.peer(), lab.peer(), lab.peer()

    first = anna.send_command("declare", topic="orders", keep_s=5)
    second = bert.send_command("declare", topic="orders", keep_s=5)
    third = carl.send_command("declare", topic="orders", keep_s=6)
    lab.run()

    assert anna.answer(first)["created"] is True
    assert bert.answer(second)["created"] is False
    with pytest.raises(RpcError, match=r"exists with keep_s = 5.0, not 6.0"):
        carl.answer(third)
    assert [path for path in lab.disk.names if path.endswith("topic.json")] == [
        path for path in lab.disk.names if "/orders-" in path and path.endswith("topic.json")
    ]


def test_changes_that_meet_are_both_made() -> None:
    """Two who change different options of a topic at a time do not undo each other."""
    lab, anna = lab_with()
    bert = lab.peer()

    anna.send_command("declare", topic="orders", keep_s=5, update=True)
    bert.send_command("declare", topic="orders", ttl_ms=7, update=True)
    lab.run()
    lab.crash()

    assert (lab.topic().options.keep_s, lab.topic().options.ttl_ms) == (5, 7)


def test_change_of_a_topic_that_is_being_removed_does_not_bring_it_back() -> None:
    """Who changes a topic while another removes it leaves nothing behind."""
    lab, anna = lab_with("one")
    bert = lab.peer()

    anna.send_command("declare", topic="orders", keep_s=5, update=True)
    bert.send_command("remove", topic="orders")
    lab.run()
    lab.crash()

    assert names(lab) == []
    assert not [path for path in lab.disk.names if "/orders-" in path]


def test_safer_topic_is_safe_at_once() -> None:
    """When a topic gets a safer level what was written before is synced, and groups get all of it."""
    lab, anna = lab_with(durability="os")
    anna.produce("orders", "one", "two")

    anna.declare("orders", durability="disk", update=True)
    late = lab.peer().consume("orders")

    assert late.take() == ["one", "two"]
    assert anna.produce("orders", "three")["durability"] == "disk"
    assert late.take() == ["three"]


@pytest.mark.parametrize("target", ["orders", "a/b", "x" * 128])
def test_bad_dead_letter_topic_is_refused(target: str) -> None:
    """A topic cannot be its own dead-letter topic, nor have one without a proper name; also not later on."""
    lab, anna = lab_with()

    for error in refusals(
        lambda: anna.declare("orders", dead_letter_topic=target, update=True),
        lambda: anna.declare("mails", dead_letter_topic="mails" if target == "orders" else target),
    ):
        assert error.code is Code.INVALID_ARGUMENT
        assert "dead-letter topic" in error.message
    lab.crash()
    assert lab.topic().options.dead_letter_topic is None


@pytest.mark.parametrize("operation", ["make_directory", "create", "append", "sync", "rename", "sync_directory"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_topic_that_could_not_be_made_leaves_nothing_that_shadows_the_next(operation: str, call: int) -> None:
    """After a failed declare the topic can be declared again, and what it stores is there after a restart."""
    lab = QueueLab()
    anna = lab.peer()
    lab.disk.fail(operation, errno.ENOSPC, call=call)

    first = outcome(lambda: anna.declare("orders"))
    lab.disk.faults.clear()
    anna.declare("orders")
    produced = outcome(lambda: anna.produce("orders", "precious"))
    if isinstance(produced, RpcError):  # it was made, and then its first sync failed
        assert "restart the broker" in produced.message
        lab.crash()
        lab.peer().produce("orders", "precious")
    for _ in range(2):
        lab.crash()
        lab.run()

    if isinstance(first, RpcError):
        assert first.code is Code.RESOURCE_EXHAUSTED
        assert re.fullmatch("topic orders cannot be made: (cannot .*: )?No space left on device", first.message)
        assert "/" not in first.message
    assert peek(lab) == ["precious"]
    assert len([path for path in lab.disk.names if path.endswith("topic.json")]) == 1


# -- removing --------------------------------------------------------------------------------------------


def test_removed_topic_is_gone_for_its_consumers_and_after_a_crash() -> None:
    """Consumers are told why their subscription ended, files and groups go, and nothing comes back."""
    lab, anna = lab_with("one")
    consumer = lab.peer().consume("orders")

    assert anna.command("remove", topic="orders") is None
    ended = consumer.ended
    for title, image in lab.disk.images():
        again = QueueLab(image)
        assert names(again) == [], title
        assert again.peer().declare("orders")["created"] is True
    lab.crash()

    assert ended is not None
    assert ended.code is Code.NOT_FOUND
    assert ended.message == "topic orders was removed"
    assert names(lab) == []
    assert not [path for path in lab.disk.names if "/orders-" in path]


def test_topic_of_a_removed_ones_name_is_new() -> None:
    """A topic that is made again has none of the messages, groups and ids of the one before."""
    lab, anna = lab_with(entry("old", id_="a"))
    anna.consume("orders").ack(0)
    anna.command("remove", topic="orders")

    anna.declare("orders")
    receipt = anna.produce("orders", entry("new", id_="a"))
    lab.crash()

    assert receipt["offset"] == 0
    assert "duplicates" not in receipt
    assert lab.peer().consume("orders").take() == ["new"]


def test_topic_is_removed_while_producers_wait() -> None:
    """Who waits for a receipt gets one or an error before the topic is gone, and nobody hangs."""
    lab, anna = lab_with()
    lab.hold_workers()
    produced = anna.send_produce("orders", "one")
    lab.run()

    removed = lab.peer()
    request = removed.send_command("remove", topic="orders")
    late = anna.send_produce("orders", "two")
    lab.release_workers()

    assert anna.answer(produced)["offset"] == 0
    assert removed.answer(request) is None
    with pytest.raises(RpcError, match="there is no topic orders"):
        anna.answer(late)


def test_topic_that_cannot_be_removed_says_so_and_is_not_replaced() -> None:
    """When the disk refuses, the topic is not made again in the place of what will come back."""
    lab, anna = lab_with("one")
    lab.disk.fail("rename", errno.EACCES, calls=5)

    with pytest.raises(RpcError, match="topic orders cannot be removed: Permission denied"):
        anna.command("remove", topic="orders")
    with pytest.raises(RpcError, match="topic orders cannot be read"):
        anna.declare("orders")
    lab.crash()
    lab.run()

    assert peek(lab) == ["one"]


def test_group_is_removed_for_good() -> None:
    """A removed group tells its consumers, and begins anew when it is made again, also after a crash."""
    lab, anna = lab_with("one", "two")
    consumer = lab.peer().consume("orders")
    consumer.ack(0)

    anna.command("remove", topic="orders", group="billing")
    lab.crash()

    assert consumer.ended is not None
    assert consumer.ended.message == "group billing of topic orders was removed"
    assert lab.topic().groups == {}
    assert lab.peer().consume("orders").take() == ["one", "two"]


def test_group_of_a_topic_that_is_removed_while_it_is_made_is_refused() -> None:
    """Who asks for a group of a topic that goes meanwhile is told so, and does not wait for ever."""
    lab, anna = lab_with("one")
    bert = lab.peer()
    lab.hold_workers()

    request = bert.send(Kind.CONSUME, b'{"group": "billing"}', topic="orders")
    anna.send_command("remove", topic="orders")
    lab.run()
    lab.release_workers()

    with pytest.raises(RpcError) as caught:
        bert.answer(request)
    assert caught.value.code is Code.NOT_FOUND
    assert bert.consumers == {}


# -- emptying --------------------------------------------------------------------------------------------


def test_emptied_topic_has_nothing_and_goes_on() -> None:
    """All messages go, groups get none of them, and the next one has the next offset."""
    lab, anna = lab_with("one", "two", "three")
    consumer = lab.peer().consume("orders", window=1)
    behind = lab.peer().consume("orders", "behind", window=0)

    assert anna.command("empty", topic="orders") == {"removed": 3}
    receipt = anna.produce("orders", "four")

    assert receipt["offset"] == 3
    assert consumer.take() == ["one", "four"]
    assert behind.pull(10) == 1
    assert behind.take() == ["four"]
    assert peek(lab) == ["four"]


def test_message_that_was_emptied_away_is_no_reason_to_refuse_another() -> None:
    """After a topic was emptied messages with the same ids are new, with a restart in between or without."""
    for has_restart in (False, True):
        lab, anna = lab_with(entry("one", id_="a"))
        anna.command("empty", topic="orders")
        if has_restart:
            lab.restart()

        receipt = lab.peer().produce("orders", entry("two", id_="a"))

        assert "duplicates" not in receipt
        assert peek(lab) == ["two"]


@pytest.mark.parametrize("cut_after", range(1, 15))
def test_emptied_topic_stays_empty_after_a_power_cut(cut_after: int) -> None:
    """Once `empty` was answered no power cut brings a message back; before, all are there or some are gone."""
    lab, anna = lab_with("one", "two")
    lab.peer().consume("orders", window=1)
    lab.pass_time(1)
    lab.disk.cut_after = lab.disk.changes + cut_after
    was_told = False

    try:
        anna.command("empty", topic="orders")
        was_told = True
        lab.pass_time(1)
    except PowerCut:
        pass

    for title, image in lab.disk.images():
        again = QueueLab(image)
        again.run()
        found = peek(again)
        assert found in ([], ["one", "two"]), title
        assert not (found and was_told), title
        consumer = again.peer().consume("orders")
        assert again.peer().produce("orders", "new")["offset"] == 2, title
        assert consumer.take() in ([*found, "new"], ["new"]), title


def test_emptied_group_passes_what_waited_for_it() -> None:
    """A group that is emptied is done with everything, in flight, delayed and not read; others are not touched."""
    lab, anna = lab_with("one", "two", "three", entry("late", delay_ms=1000))
    consumer, other = lab.peer().consume("orders", window=2), lab.peer().consume("orders", "other")
    consumer.ack(0)

    assert anna.command("empty", topic="orders", group="billing") == {"removed": 3}
    lab.pass_time(5)
    anna.produce("orders", "four")

    assert consumer.take() == ["one", "two", "three", "four"]
    assert sorted(other.take()) == ["four", "late", "one", "three", "two"]


def test_topic_that_cannot_be_emptied_is_as_before() -> None:
    """When the disk refuses, messages and groups stay."""
    lab, anna = lab_with("one", "two")
    consumer = lab.peer().consume("orders")
    lab.disk.fail("create", errno.ENOSPC)

    with pytest.raises(RpcError) as caught:
        anna.command("empty", topic="orders")

    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert peek(lab) == ["one", "two"]
    assert consumer.ack(0, 1) == 2


# -- declaring a group -----------------------------------------------------------------------------------


def test_declared_group_survives_a_power_cut() -> None:
    """Whoever was told that a group is there finds it, with its options and its place."""
    lab, anna = lab_with("one", "two")
    result = anna.command(
        "declare_group", topic="orders", group="billing", start={"offset": 1}, lease_ms=500, filter="a.*"
    )

    assert result["created"] is True
    for title, image in lab.disk.images():
        group = QueueLab(image).group()
        assert group.position == 1, title
        assert group.options.lease_ms == 500, title
        assert group.options.filter == "a.*", title


def test_group_with_other_options_is_refused_unless_they_shall_change() -> None:
    """Options that differ are refused with both values, by CONSUME too; with `update` they change."""
    lab, anna = lab_with()
    anna.command("declare_group", topic="orders", group="billing", lease_ms=500)

    for error in refusals(
        lambda: anna.command("declare_group", topic="orders", group="billing", lease_ms=600),
        lambda: anna.consume("orders", "billing", lease_ms=600),
        lambda: anna.consume("orders", "billing", filter="x"),
    ):
        assert error.code is Code.FAILED_PRECONDITION
        assert error.message.startswith("group billing of topic orders exists with ")
    changed = anna.command("declare_group", topic="orders", group="billing", lease_ms=600, update=True)
    lab.crash()

    assert changed["options"]["lease_ms"] == 600
    assert lab.peer().consume("orders", lease_ms=600).result["lease_ms"] == 600


def test_bad_filter_of_a_changed_group_is_refused_and_not_kept() -> None:
    """A filter that cannot be used does not get into the group's options, and so not into the next start."""
    lab, anna = lab_with(entry("a", tag="a"), entry("b", tag="b"))
    anna.command("declare_group", topic="orders", group="billing", filter="a")

    with pytest.raises(RpcError, match="must be the last segment") as caught:
        anna.command("declare_group", topic="orders", group="billing", filter="#.a", update=True)
    anna.command("declare_group", topic="orders", group="billing", lease_ms=500, update=True)
    lab.crash()

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert lab.peer().consume("orders", filter="a").take() == ["a"]


def test_group_that_two_ask_for_at_once_is_told_to_both_when_it_is_safe() -> None:
    """Nobody hears of a group, nor gets its messages, before it is on the disk."""
    lab, _ = lab_with("one")
    anna, bert = lab.peer(), lab.peer()
    lab.hold_workers()

    requests = [peer.send(Kind.CONSUME, b'{"group": "billing"}', topic="orders") for peer in (anna, bert)]
    lab.run()
    assert not anna.replies
    assert not bert.replies
    lab.release_workers()

    assert [anna.answer(requests[0])["group"], bert.answer(requests[1])["group"]] == ["billing", "billing"]
    assert sum(len(consumer.entries) for peer in (anna, bert) for consumer in peer.consumers.values()) == 1


def test_group_that_cannot_be_stored_is_refused_to_all_who_wait() -> None:
    """When the journal cannot be written nobody is left in a group that there is not."""
    lab, _ = lab_with("one")
    anna, bert = lab.peer(), lab.peer()
    lab.disk.fail("append", errno.ENOSPC)

    requests = [peer.send(Kind.CONSUME, b'{"group": "billing"}', topic="orders") for peer in (anna, bert)]
    lab.run()

    for peer, request in zip((anna, bert), requests, strict=True):
        with pytest.raises(RpcError) as caught:
            peer.answer(request)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert not peer.session.subscriptions
    assert lab.topic().groups == {}
    assert lab.peer().consume("orders").take() == ["one"]


def test_group_of_a_consumer_that_left_before_it_was_made_does_not_stay() -> None:
    """A group that goes with its consumer goes also when that one was gone before it came."""
    lab, _ = lab_with("one")
    anna = lab.peer()
    lab.hold_workers()

    anna.send(Kind.CONSUME, b"{}", topic="orders")
    lab.run()
    anna.disconnect()
    lab.release_workers()
    lab.pass_time(60)

    assert lab.topic().groups == {}


# -- where a group begins --------------------------------------------------------------------------------


def seek(lab: QueueLab, start: Any) -> int:
    return int(lab.peer().command("seek", topic="orders", group="billing", start=start)["offset"])


def lab_for_seeking() -> QueueLab:
    """Return a lab with a message a second, each with an id, and a group."""
    lab, anna = lab_with()
    for number in range(6):
        anna.produce("orders", entry(f"{number}", id_=f"id-{number}"))
        lab.pass_time(1)
    anna.command("declare_group", topic="orders", group="billing")
    return lab


@pytest.mark.parametrize(
    ("start", "offset"),
    [
        ("oldest", 0),
        ("newest", 6),
        ({"offset": 4}, 4),
        ({"offset": 6}, 6),
        ({"id": "id-3"}, 3),
        ({"id": "id-3", "offset": 3}, 3),
        ({"time_ms": 0}, 0),
        ({"time_ms": START_MS + 2000}, 2),
        ({"time_ms": START_MS + 2001}, 3),
        ({"time_ms": START_MS + 99_000}, 6),
    ],
)
def test_group_goes_where_it_is_told(start: Any, offset: int) -> None:
    """Each kind of start leads to its message; what follows is what comes after it."""
    lab = lab_for_seeking()

    assert seek(lab, start) == offset

    assert lab.peer().consume("orders").take() == [f"{number}" for number in range(offset, 6)]


@pytest.mark.parametrize(
    ("start", "code", "said"),
    [
        ({"offset": 7}, Code.OUT_OF_RANGE, "topic orders has no offset 7: the next message gets 6"),
        ({"id": "id-9"}, Code.NOT_FOUND, "topic orders: no message id-9 among the last ones; name its offset too"),
        (
            {"id": "id-9", "offset": 3},
            Code.NOT_FOUND,
            "topic orders: message id-9 is not at offset 3, there is message id-3",
        ),
        (
            {"id": "id-9", "offset": 8},
            Code.NOT_FOUND,
            "topic orders: message id-9 is not at offset 8, there is nothing",
        ),
        ({"group": "biling"}, Code.NOT_FOUND, "topic orders has no group biling"),
        ({}, Code.INVALID_ARGUMENT, "a start is one of offset, id, time_ms, group, or id with offset, not nothing"),
        (
            {"offset": 1, "time_ms": 5},
            Code.INVALID_ARGUMENT,
            "a start is one of offset, id, time_ms, group, or id with offset, not offset with time_ms",
        ),
    ],
)
def test_place_that_there_is_not_is_refused(start: Any, code: Code, said: str) -> None:
    """A start that leads nowhere is refused with what was asked for and what there is."""
    lab = lab_for_seeking()

    with pytest.raises(RpcError) as caught:
        seek(lab, start)

    assert caught.value.code is code
    assert caught.value.message == said
    assert lab.group().position == 0


def test_id_is_found_by_its_offset_however_old_it_is() -> None:
    """Where a message is too old to be known by its id, its offset tells; the id is checked."""
    lab = lab_for_seeking()
    lab.pass_time(3600)
    lab.peer().produce("orders", entry("new", id_="new"))

    with pytest.raises(RpcError, match="name its offset too"):
        seek(lab, {"id": "id-2"})
    assert seek(lab, {"id": "id-2", "offset": 2}) == 2


def test_newest_is_the_end_also_right_after_a_crash() -> None:
    """A group that begins at the newest message after a crash is not given the old ones."""
    lab, anna = lab_with("one", "two")
    anna.produce("orders", "three")
    lab.hold_workers()
    lab.crash()

    bert = lab.peer()
    request = bert.send(Kind.CONSUME, b'{"group": null}', topic="orders")
    lab.run()
    lab.release_workers()
    lab.peer().produce("orders", "new")

    assert bert.consumers[bert.answer(request)["subscription"]].take() == ["new"]


# -- closing ---------------------------------------------------------------------------------------------


def test_clean_restart_keeps_everything() -> None:
    """After a broker was asked to stop everything is on the disk: nothing that was done comes again."""
    lab, anna = lab_with("one", "two")
    anna.declare("fast", durability="memory")
    anna.produce("fast", "memory")
    consumer = lab.peer().consume("orders")
    consumer.peer.send(Kind.ACK, b"\0" * 16, session=consumer.number, is_answered=False)

    lab.restart()

    for title, image in lab.disk.images():
        again = QueueLab(image)
        again.run()
        assert again.peer().consume("orders").take() == ["two"], title
        assert peek(again, "fast") == ["memory"], title


def test_closing_waits_for_what_is_on_its_way() -> None:
    """Who produced before the end gets a receipt; closing is told after the disk has it."""
    lab, anna = lab_with()
    lab.hold_workers()
    request = anna.send_produce("orders", "one")
    closed: list[bool] = []

    lab.store.close(lambda: closed.append(True))
    lab.run()
    assert not closed
    lab.release_workers()

    assert closed == [True]
    assert anna.answer(request)["offset"] == 0


def test_closing_waits_for_a_topic_that_is_being_made() -> None:
    """A store that is closed while a topic is being made closes that one too; afterwards none is made."""
    lab = QueueLab()
    made: list[object] = []
    closed: list[bool] = []

    lab.store.declare("orders", {}, update=False, done=lambda topic, error: made.append(topic))
    lab.store.close(lambda: closed.append(True))
    lab.run()

    assert made[0] is not None
    assert closed == [True]
    assert lab.store.topics["orders"].log.closed_because is not None
    with pytest.raises(RpcError, match="shutting down"):
        lab.store.declare("mails", {}, update=False, done=lambda topic, error: None)


# -- what is kept for how long -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "keep_s"),
    [
        ({"compact": True}, {}, None),
        ({"compact": True, "keep_s": 60}, {}, 60),
        ({"compact": False}, {}, 604_800),
        ({}, {"compact": True}, None),
        ({}, {"compact": True, "keep_s": 60}, 60),
        ({"keep_s": 60}, {"compact": True}, None),
        ({"compact": True, "keep_s": 60}, {"compact": True, "ttl_ms": 5}, 60),
        ({"compact": True}, {"keep_s": 60}, 60),
        ({"compact": True}, {"compact": False}, None),
    ],
)
def test_compacted_topic_keeps_for_ever_unless_told_otherwise(
    first: dict[str, object], second: dict[str, object], keep_s: float | None
) -> None:
    """The last message of a key does not go with its age, unless whoever declares the topic says how long it stays."""
    lab, anna = lab_with()
    anna.declare("states", **first)
    anna.declare("states", **first)  # what is so already is fine

    shown = anna.declare("states", **second, update=True)

    assert shown["options"]["keep_s"] == keep_s
    lab.crash()
    assert lab.topic("states").options.keep_s == keep_s


def test_last_message_of_a_key_outlives_the_week() -> None:
    """A compacted topic that was declared without more still has the last value of each key after years."""
    lab, anna = lab_with()
    anna.declare("states", compact=True, segment_bytes=4096)
    anna.produce("states", entry("kept", key="k"))
    anna.produce("states", *(entry("x" * 500, key=f"other {number}") for number in range(20)))

    lab.pass_time(400 * 86_400)
    Upkeep(lab.store).look_after_some()
    lab.run()

    assert anna.command("peek", topic="states", start="oldest", count=1)["messages"][0]["body"] == "kept"
