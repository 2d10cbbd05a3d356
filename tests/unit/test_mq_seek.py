"""Groups that are moved while messages are in hand: an answer names a delivery, and nothing is passed in silence."""

import pytest

from tests.support.queue_lab import Peer, QueueLab, entry, lab_with
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind
from zbusrpc.transport.entries import encode_ranges

THREE = ["one", "two", "three"]


def move(peer: Peer, start: object, how: str = "seek") -> dict[str, int]:
    if how == "empty":
        return dict(peer.command("empty", topic="orders", group="billing"))
    return dict(peer.command("seek", topic="orders", group="billing", start=start))


@pytest.mark.parametrize("kind", [Kind.ACK, Kind.NACK, Kind.EXTEND, Kind.BEGUN])
def test_answer_to_a_delivery_before_the_move_does_not_count(kind: Kind) -> None:
    """What was in a handler when its group was moved back is delivered again, whatever is said of it then."""
    lab, anna = lab_with(*THREE)
    consumer = anna.consume("orders")
    before = consumer.number
    consumer.take()
    move(anna, "oldest")
    assert consumer.take() == THREE

    body = b'{"ranges":[[0,2]],"then":"dead"}' if kind == Kind.NACK else encode_ranges([0, 1, 2])
    with pytest.raises(RpcError, match=f"subscription {before} has ended") as caught:
        anna.ask(kind, body, session=before)
    anna.send(kind, body, session=before, is_answered=False)
    lab.run()
    consumer.peer.disconnect()

    assert caught.value.code is Code.ABORTED
    assert lab.peer().consume("orders").take() == THREE


def test_consumer_is_told_before_anything_comes_from_the_new_place() -> None:
    """The frame that names the new subscription stands between what came before and what comes after."""
    _lab, anna = lab_with(*THREE)
    bert = anna.lab.peer()
    consumer = bert.consume("orders")
    bert.frames.clear()

    move(anna, {"offset": 1})

    assert [frame.kind for frame in bert.frames] == [Kind.MOVED, Kind.DELIVER]
    assert (bert.frames[0].session, bert.frames[1].session) == (1, consumer.number)
    assert bert.frames[0].body == b'{"subscription":2,"next":1}'


def test_whole_window_is_free_after_a_move() -> None:
    """Messages that were never answered before the move take no room after it."""
    _, anna = lab_with(*THREE)
    consumer = anna.consume("orders", window=2)

    move(anna, "oldest")

    assert consumer.take() == ["one", "two", "one", "two"]
    consumer.ack(0, 1)
    assert consumer.take() == ["three"]


def test_pull_that_waits_is_answered_after_a_move() -> None:
    """Whoever has asked for messages gets those of the new place."""
    lab, anna = lab_with("one")
    consumer = anna.consume("orders", window=0)
    assert consumer.pull(5) == 1
    consumer.ack_all()
    waiting = consumer.send_pull(5, 1000)

    move(anna, "oldest")
    lab.run()

    assert anna.answer(waiting) == 1


def test_topic_that_is_emptied_moves_its_consumers() -> None:
    """An answer to what was in hand when its topic was emptied does not concern what comes later."""
    _lab, anna = lab_with("one")
    consumer = anna.consume("orders")
    before = consumer.number

    anna.command("empty", topic="orders")

    assert consumer.number != before


# -- what is passed ------------------------------------------------------------------------------------------


def lab_of_all_kinds() -> tuple[QueueLab, Peer]:
    """Return a lab with a group that has six messages: done, in flight, refused, delayed, and two not read."""
    lab, anna = lab_with("done", "in flight", "refused", entry("delayed", delay_ms=60_000), "unread", "unread")
    consumer = anna.consume("orders", window=4)
    consumer.ack(0)
    consumer.nack(2, delay_ms=60_000)
    anna.command("pause", topic="orders", group="billing")
    return lab, anna


@pytest.mark.parametrize(
    ("start", "passed", "delayed"),
    [("oldest", 0, 0), ("newest", 5, 2), ({"offset": 3}, 2, 1), ({"offset": 4}, 3, 2), ({"offset": 1}, 0, 0)],
)
def test_move_tells_what_is_passed(start: object, passed: int, delayed: int) -> None:
    """The answer counts the messages that the group had not done and will not get, and the delayed ones of them."""
    lab, anna = lab_of_all_kinds()
    assert lab.group().position <= 6

    result = move(anna, start)

    assert (result["passed"], result["delayed"]) == (passed, delayed)


def test_copy_of_a_group_passes_nothing_that_it_has_pending() -> None:
    """A group that goes on where another is takes over what that one has not done."""
    _, anna = lab_of_all_kinds()
    anna.command("declare_group", topic="orders", group="other", start={"group": "billing"})

    result = move(anna, {"group": "other"})

    assert (result["passed"], result["delayed"]) == (0, 0)
