"""Upkeep: what all have passed goes, and never what a restart still needs to know duplicates by."""

import pytest

from tests.support.queue_lab import QueueLab, entry, lab_with
from zbusrpc.broker.mq.counters import DONE
from zbusrpc.broker.mq.upkeep import Upkeep

COUNT = 100
WINDOW_S = 10


def filled(**options: object) -> QueueLab:
    """Return a lab whose topic holds many segments of messages that its group is done with."""
    lab, anna = lab_with(segment_bytes=4096, duplicate_window_s=WINDOW_S, **options)
    consumer = anna.consume("orders", "billing", window=COUNT)
    for number in range(COUNT):
        anna.produce("orders", entry("x" * 200, id_=f"id {number}", key="key"))
        consumer.ack(number)
    return lab


def look_after(lab: QueueLab) -> None:
    """Do what is done each second."""
    Upkeep(lab.store).look_after_some()
    lab.run()


@pytest.mark.parametrize("options", [{"keep_consumed": False}, {"compact": True}, {"keep_s": 1}, {"keep_bytes": 1}])
def test_ids_of_consumed_messages_survive_a_restart(options: dict[str, object]) -> None:
    """A message that could go is kept for the duplicate window: sent again it is not stored again."""
    lab = filled(**options)
    lab.pass_time(WINDOW_S - 1)

    look_after(lab)
    lab.restart()

    assert lab.peer().produce("orders", entry("again", id_="id 5"))["duplicates"] == [[0, 5]]


@pytest.mark.parametrize("options", [{"keep_consumed": False}, {"compact": True}, {"keep_s": 1}, {"keep_bytes": 1}])
def test_what_is_past_the_window_goes(options: dict[str, object]) -> None:
    """When nobody needs them any more, consumed messages go, but those in the segment that is being written."""
    lab = filled(**options)
    lab.pass_time(WINDOW_S + 1)

    look_after(lab)

    assert lab.topic().log.start_offset > COUNT * 3 / 4
    assert lab.topic().log.next_offset == COUNT


def test_what_a_group_needs_stays() -> None:
    """A segment with a message that one of the groups is not done with is not removed."""
    lab = filled(keep_consumed=False)
    peer = lab.peer()
    peer.command("declare_group", topic="orders", group="audit", start={"offset": 40})
    lab.pass_time(WINDOW_S + 1)

    look_after(lab)

    assert 0 < lab.topic().log.start_offset <= 40
    assert peer.consume("orders", "audit").entries[0].first == 40


def test_keep_bytes_holds_beyond_the_ids_that_are_remembered() -> None:
    """What is kept for the duplicate window is bounded by the ids that it holds: the disk is saved beyond them."""
    lab = filled(keep_bytes=1, duplicate_window_ids=20)

    look_after(lab)

    assert 60 < lab.topic().log.start_offset <= 80
    assert lab.peer().produce("orders", entry("again", id_="id 85"))["duplicates"] == [[0, 85]]


# -- who holds a topic back ----------------------------------------------------------------------------------


def test_message_that_nobody_could_consume_is_not_consumed() -> None:
    """Before there is a group, a topic that keeps until consumed keeps everything, for the first one."""
    lab, anna = lab_with(segment_bytes=4096, duplicate_window_s=0, keep_consumed=False)
    for _ in range(50):
        anna.produce("orders", entry("x" * 500))
    lab.pass_time(3600)

    look_after(lab)

    assert len(lab.peer().consume("orders", "billing").entries) == 50


def test_messages_without_a_group_go_by_age() -> None:
    """That nobody consumes a topic keeps nothing from what its age says."""
    lab, anna = lab_with(segment_bytes=4096, duplicate_window_s=0, keep_consumed=False, keep_s=60)
    for _ in range(50):
        anna.produce("orders", entry("x" * 500))
    lab.pass_time(3600)

    look_after(lab)

    assert lab.topic().log.start_offset > 30


@pytest.mark.parametrize("options", [{"keep_consumed": False}, {"keep_s": 5}, {"keep_bytes": 4096}])
def test_group_that_holds_a_topic_back_is_named(options: dict[str, object]) -> None:
    """Listings name the group without which more would have been removed, until it has caught up or gone."""
    lab = filled(**options)
    peer = lab.peer()
    peer.command("declare_group", topic="orders", group="audit", start="oldest")
    lab.pass_time(WINDOW_S + 1)

    look_after(lab)
    held = peer.command("topic", topic="orders")["held_back_by"]
    peer.command("remove", topic="orders", group="audit")
    look_after(lab)

    assert held == "audit"
    assert peer.command("topic", topic="orders")["held_back_by"] is None
    assert lab.topic().log.start_offset > 0


# -- groups that end by themselves ---------------------------------------------------------------------------


def idle(lab: QueueLab, seconds: float) -> list[str]:
    """Let time pass, looked after as in a broker, and return the groups that there are then."""
    upkeep = Upkeep(lab.store)
    for _ in range(10):
        upkeep.look_after_some()
        lab.pass_time(seconds / 10)
    upkeep.look_after_some()
    lab.run()
    return sorted(lab.topic().groups)


def test_group_ends_when_nobody_has_consumed_for_its_time() -> None:
    """One that was made to expire goes, with a line in the log and on the disk; others stay for ever."""
    lab, anna = lab_with("one")
    anna.command("declare_group", topic="orders", group="kept")
    anna.command("declare_group", topic="orders", group="left", expires_s=100)

    assert idle(lab, 95) == ["kept", "left"]
    assert idle(lab, 110) == ["kept"]
    lab.crash()
    assert sorted(lab.topic().groups) == ["kept"]


@pytest.mark.parametrize("is_there", [True, False])
def test_consumer_keeps_a_group(is_there: bool) -> None:
    """While it is there, and from its last visit on, however short."""
    lab, anna = lab_with("one")
    anna.command("declare_group", topic="orders", group="left", expires_s=100)
    assert idle(lab, 90) == ["left"]

    consumer = lab.peer().consume("orders", "left", create=False)
    if not is_there:
        consumer.leave()

    assert idle(lab, 90) == ["left"]
    assert idle(lab, 300) == (["left"] if is_there else [])


def test_time_without_consumers_is_known_after_restarts_and_goes_by_the_steady_clock() -> None:
    """It adds up over restarts, without the time in which the broker was down; a clock that is set changes nothing."""
    lab, anna = lab_with("one")
    anna.command("declare_group", topic="orders", group="left", expires_s=100)
    idle(lab, 60)

    lab.restart()
    lab.jump_clock(10**10)
    assert idle(lab, 20) == ["left"]
    assert idle(lab, 40) == []


def test_group_that_is_asked_for_by_its_name_stays() -> None:
    """A consumer that makes its group if there is none adopts one that was left behind."""
    lab, anna = lab_with("one")
    anna.command("declare_group", topic="orders", group="left", expires_s=100)

    lab.peer().consume("orders", "left").leave()

    assert idle(lab, 300) == ["left"]


# -- what is counted -----------------------------------------------------------------------------------------


def test_what_was_removed_unread_is_counted_and_in_no_lag() -> None:
    """A group's lag is what exists, with consumers and without, and what it will not get is in a counter of its own."""
    lab = filled(keep_bytes=1, keep_unconsumed=False)
    peer = lab.peer()
    peer.command("declare_group", topic="orders", group="idle", start="oldest")
    lab.pass_time(WINDOW_S + 1)

    look_after(lab)
    shown = peer.command("topic", topic="orders")
    idle_group = next(group for group in shown["groups"] if group["group"] == "idle")
    exist = shown["next_offset"] - shown["start_offset"]
    consumer = peer.consume("orders", "idle")

    assert 0 < exist < COUNT
    assert (idle_group["lag"], idle_group["counters"]["removed"]) == (exist, COUNT - exist)
    assert len(consumer.work_off()) == exist
    assert lab.group(name="idle").counters.removed == COUNT - exist
    assert lab.group(name="billing").counters.removed == 0


def test_listings_count_what_compaction_has_left() -> None:
    """Messages of a topic and the lag of a group that begins, is under way, or was moved, after a restart, too."""
    lab, anna = lab_with(segment_bytes=4096, duplicate_window_s=0, duplicate_window_ids=0, compact=True)
    for number in range(60):
        anna.produce("orders", entry("x" * 300, key=f"{number}" if number % 6 == 0 else f"key {number % 3}"))
    lab.pass_time(3600)
    look_after(lab)
    consumer = anna.consume("orders", "late", window=1)

    def lag() -> int:
        groups = {group["group"]: group for group in anna.command("topic", topic="orders")["groups"]}
        return int(groups["late"]["lag"])

    exist = anna.command("topic", topic="orders")["messages"]
    lags, seen = [lag()], 0
    while consumer.take():
        seen += 1
        consumer.ack_all()
        lab.run()
        lags.append(lag())
    assert 0 < exist < 30
    assert seen == exist
    assert lags == list(range(exist, -1, -1))

    moved = anna.command("seek", topic="orders", group="late", start={"offset": 31})
    behind = lag()
    back = anna.command("seek", topic="orders", group="late", start="oldest")
    ahead = anna.command("seek", topic="orders", group="late", start={"offset": 31})
    assert (moved["offset"], back["passed"], ahead["passed"]) == (31, 0, exist - behind)
    lab.restart()
    anna = lab.peer()
    assert (anna.command("topic", topic="orders")["messages"], lag()) == (exist, behind)


def test_every_message_is_in_one_counter() -> None:
    """Acknowledged, dead, expired, left out by the filter, compacted: the counters add up to what there was."""
    lab, anna = lab_with(segment_bytes=4096, duplicate_window_s=0, duplicate_window_ids=0, compact=True)
    anna.produce("orders", entry("first", key="first", tag="a"))
    for number in range(60):
        anna.produce("orders", entry("x" * 300, key=f"key {number % 3}", tag="a"))
    lab.pass_time(3600)
    look_after(lab)
    anna.produce("orders", entry("one", tag="a"), entry("bad", tag="a"), entry("short", tag="a", ttl_ms=5))
    anna.produce("orders", entry("other", tag="b"))
    lab.pass_time(1)

    consumer = anna.consume("orders", "billing", filter="a")
    consumer.nack(consumer.offset_of("bad"), then="dead")
    consumer.work_off()
    consumer.ack_all()

    counters = lab.group().counters.as_dict()
    assert lab.group().pending == {}
    assert {name: counters[name] for name in ("dead", "expired", "skipped")} == {"dead": 1, "expired": 1, "skipped": 1}
    assert counters["compacted"] > 0
    assert sum(counters[name] for name in DONE) == 65
