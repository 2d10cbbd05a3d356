"""Upkeep: what all have passed goes, and never what a restart still needs to know duplicates by."""

import pytest

from tests.support.queue_lab import QueueLab, entry, lab_with
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
