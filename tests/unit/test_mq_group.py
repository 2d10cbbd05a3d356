"""A consume group: who gets what, what comes again, and what a move of the group does."""

import errno

import pytest

from tests.support.queue_lab import Consumer, QueueLab, bodies_of, entry, lab_with
from zbusrpc.broker.mq import group as group_module
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind
from zbusrpc.transport.entries import RANGE, encode_ranges

TEN = [f"{number}" for number in range(10)]


def counters(lab: QueueLab, group: str = "billing") -> dict[str, int]:
    """Return what a listing counts of a group."""
    return lab.group(name=group).counters.as_dict()


# -- handing out -----------------------------------------------------------------------------------------


def test_messages_come_in_the_order_of_the_log_up_to_the_window() -> None:
    """A consumer gets messages in order, and never more unanswered than its window."""
    lab, _ = lab_with(*TEN)

    consumer = lab.peer().consume("orders", window=3)

    assert consumer.take() == TEN[:3]
    consumer.ack(1)
    assert consumer.take() == TEN[3:4]
    consumer.ack(0, 2)
    assert consumer.take() == TEN[4:6]


def test_consumers_of_a_group_share_and_groups_repeat() -> None:
    """Each message goes to one consumer of each group."""
    lab, anna = lab_with()
    first, second = (lab.peer().consume("orders", window=5) for _ in range(2))
    other = lab.peer().consume("orders", "audit")

    anna.produce("orders", *TEN)
    shared = first.take(), second.take()

    assert sorted([*shared[0], *shared[1]]) == TEN
    assert len(shared[0]) == len(shared[1]) == 5
    assert other.take() == TEN


def test_consumer_with_the_most_credit_is_served_first() -> None:
    """Who has taken less gets the next message."""
    lab, anna = lab_with()
    small, large = lab.peer().consume("orders", window=2), lab.peer().consume("orders", window=10)

    anna.produce("orders", *TEN[:8])

    assert small.take() == []
    assert large.take() == TEN[:8]


def test_new_group_begins_where_it_is_told() -> None:
    """A named group gets what is there, one that is told "newest" what comes."""
    lab, anna = lab_with("old")
    oldest, newest = lab.peer().consume("orders", "a"), lab.peer().consume("orders", "b", start="newest")

    anna.produce("orders", "new")

    assert oldest.take() == ["old", "new"]
    assert newest.take() == ["new"]


def test_one_frame_holds_what_came_in_one_turn() -> None:
    """Messages that are handed out together leave as one frame, and as several where they are large."""
    lab, anna = lab_with(*TEN)
    bert = lab.peer()

    bert.consume("orders")
    anna.produce("orders", *["x" * 100_000] * 5)

    frames = [frame for frame in bert.frames if frame.kind == Kind.DELIVER]
    assert len(frames[0].body) == sum(30 + 1 for _ in TEN)
    assert [len(frame.body) // 100_000 for frame in frames[1:]] == [2, 2, 1]


def test_frame_is_no_larger_than_its_consumer_takes() -> None:
    """A consumer with a small limit gets more frames, and none that would break its connection."""
    lab, _ = lab_with(*["x" * 300] * 10)
    small = lab.peer(message_bytes_max=1000)

    consumer = small.consume("orders")

    assert len(consumer.take()) == 10
    assert max(len(frame.body) for frame in small.frames) <= 1000


def test_group_with_much_to_do_lets_others_have_their_turn() -> None:
    """One group hands out a bounded number of messages at a time, and goes on in the next turn."""
    lab, anna = lab_with(*[f"{number}" for number in range(1000)])
    consumer = lab.peer().consume("orders", "a", window=4096, start="newest")

    request = anna.send_command("seek", topic="orders", group="a", start="oldest")
    lab.queues.settle()
    first = len(consumer.entries)
    lab.run()

    assert first == group_module.DISPATCH_MAX
    assert len(consumer.entries) == 1000
    assert anna.answer(request)["offset"] == 0


def test_message_larger_than_its_consumer_takes_is_dead_and_the_next_one_comes() -> None:
    """A message that would break its consumer's connection is a dead letter, and holds up nobody."""
    lab, anna = lab_with()
    small = lab.peer(message_bytes_max=1000).consume("orders", window=1)

    anna.produce("orders", "x" * 2000, "after")

    assert small.take() == ["after"]
    letters = anna.command("dlq", topic="orders")["messages"]
    assert len(letters) == 1
    assert "exceed what its consumer takes" in letters[0]["headers"]["dead-reason"]


def test_message_larger_than_its_consumer_takes_is_not_lost_where_nothing_is_acknowledged() -> None:
    """Without acknowledgements too a message that could not be handed out becomes a dead letter."""
    lab, anna = lab_with()
    small = lab.peer(message_bytes_max=1000).consume("orders", ack=False)

    anna.produce("orders", "x" * 2000, "after")

    assert small.take() == ["after"]
    assert len(anna.command("dlq", topic="orders")["messages"]) == 1


def test_group_without_acknowledgements_is_done_when_it_hands_out() -> None:
    """With `ack` false messages are done when they leave, whatever becomes of them, and the window never fills."""
    lab, anna = lab_with(ttl_ms=None)
    consumer = lab.peer().consume("orders", ack=False, window=1)

    anna.produce("orders", *TEN)

    assert consumer.take() == TEN
    assert consumer.ack(0) == 0
    consumer.peer.disconnect()
    assert lab.peer().consume("orders").take() == []


def test_filter_leaves_out_what_is_not_wanted() -> None:
    """Messages that do not pass the filter are done, and are counted."""
    lab, anna = lab_with(entry("a", tag="x.a"), entry("b", tag="y"), entry("c", tag="x.b.c"), "d")

    consumer = lab.peer().consume("orders", filter="x.*")

    assert consumer.take() == ["a", "c"]
    assert counters(lab)["skipped"] == 2
    assert anna.command("topic", topic="orders")["groups"][0]["lag"] == 2


def test_paused_group_rests_and_goes_on() -> None:
    """A paused group hands out nothing, also not what comes back, until it is resumed."""
    lab, anna = lab_with("one")
    consumer = lab.peer().consume("orders", window=2)
    assert consumer.take() == ["one"]

    anna.command("pause", topic="orders", group="billing")
    anna.produce("orders", "two")
    consumer.nack(0, delay_ms=0)
    assert consumer.take() == []
    anna.command("resume", topic="orders", group="billing")

    assert consumer.take() == ["one", "two"]


# -- answers ---------------------------------------------------------------------------------------------


def test_answer_says_how_many_messages_it_concerned() -> None:
    """An acknowledgement counts the messages that it ended; what the consumer does not have is left out."""
    lab, _ = lab_with(*TEN)
    first, second = (lab.peer().consume("orders", window=5) for _ in range(2))
    mine, theirs = sorted(one.first for one in first.entries), sorted(one.first for one in second.entries)

    assert first.ack(*mine[:2]) == 2
    assert first.ack(*mine[:2]) == 0
    assert first.ack(*theirs) == 0
    assert second.extend(*theirs) == 5
    assert second.nack(*theirs[:1]) == 1
    assert second.ack(*range(5000, 5003)) == 0


def test_range_may_be_as_long_as_it_likes() -> None:
    """One range over all offsets ends what the consumer has, at once."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders")

    count = consumer.peer.ask(Kind.ACK, RANGE.pack(0, 2**63 - 1), session=consumer.number)

    assert count == 10


def test_answer_of_a_subscription_that_has_ended_changes_nothing() -> None:
    """What comes for a subscription that is over is refused, or ignored where nobody waits for an answer."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders")
    consumer.leave()

    consumer.peer.send(Kind.ACK, encode_ranges([0]), session=consumer.number, is_answered=False)
    with pytest.raises(RpcError, match="subscription 1 has ended") as caught:
        consumer.ack(0)

    assert caught.value.code is Code.ABORTED
    assert lab.peer().consume("orders").take() == TEN


def test_refused_message_comes_again_after_the_asked_wait() -> None:
    """A NACK with a delay brings the message again then, with the next attempt's number."""
    lab, _ = lab_with("one")
    consumer = lab.peer().consume("orders")
    assert consumer.attempts() == [("one", 1)]

    consumer.nack(0, delay_ms=5000)
    lab.pass_time(4.9)
    assert consumer.take() == []
    lab.pass_time(0.2)

    assert consumer.attempts() == [("one", 2)]


def test_last_word_about_a_refused_message_counts() -> None:
    """A message is delayed by the first NACK; a second one is not about a message that the consumer has."""
    lab, _ = lab_with("one")
    consumer = lab.peer().consume("orders")

    consumer.nack(0, delay_ms=60_000)
    assert consumer.nack(0, delay_ms=0) == 0
    lab.pass_time(59)
    assert consumer.attempts() == [("one", 1)]
    lab.pass_time(2)

    assert consumer.attempts() == [("one", 2)]


def test_released_message_comes_again_at_once_and_does_not_count() -> None:
    """A message that was not begun goes back first in line, as the same attempt."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders", window=3)
    consumer.take()

    consumer.nack(1, then="release")

    assert consumer.attempts() == [("1", 1)]


def test_message_is_released_once() -> None:
    """Releasing a message again and again neither brings it twice nor takes attempts away that it had."""
    lab, _ = lab_with("one")
    consumer = lab.peer().consume("orders", paused=False)
    consumer.nack(0, delay_ms=0)
    assert consumer.attempts() == [("one", 1), ("one", 2)]
    body = b'{"ranges": [[0, 0], [0, 0], [0, 0]], "then": "release"}'

    count = consumer.peer.ask(Kind.NACK, body, session=consumer.number)

    assert count == 1
    assert consumer.attempts() == [("one", 2)]


def test_message_of_a_consumer_that_leaves_goes_to_the_next_first_in_line() -> None:
    """What a consumer had goes to others before anything newer, in order, as the next attempt."""
    lab, _ = lab_with(*TEN)
    leaver, stayer = lab.peer().consume("orders", window=4), lab.peer().consume("orders", window=1)
    had = leaver.take()
    assert had == TEN[:4]
    stayer.take()

    leaver.leave()
    heir = lab.peer().consume("orders", window=6)

    assert heir.attempts() == [("0", 2), ("1", 2), ("2", 2), ("3", 2), ("5", 1), ("6", 1)]


def test_message_of_a_lost_connection_comes_again() -> None:
    """A consumer whose connection is cut loses what it had to the others."""
    lab, _ = lab_with("one", "two")
    lost = lab.peer().consume("orders")
    lost.ack(0)

    lost.peer.disconnect()

    assert lab.peer().consume("orders").attempts() == [("two", 2)]


def test_message_that_fails_too_often_is_dead() -> None:
    """After `max_attempts` deliveries a message is a dead letter with its reason, and does not come again."""
    lab, anna = lab_with("one", "two")
    consumer = lab.peer().consume("orders", max_attempts=3)

    for _ in range(3):
        consumer.nack(0, delay_ms=0, reason="no stock")
    lab.pass_time(3600)

    assert [number for body, number in consumer.attempts() if body == "one"] == [1, 2, 3]
    letter = anna.command("dlq", topic="orders")["messages"][0]
    assert letter["body"] == "one"
    assert letter["headers"]["dead-reason"] == "no stock (attempt 3 of 3)"
    assert letter["headers"]["dead-attempts"] == "3"


def test_rejected_message_is_dead_at_once() -> None:
    """A NACK that says "dead" makes a dead letter of it with the reason that was given."""
    lab, anna = lab_with("one")
    consumer = lab.peer().consume("orders")

    consumer.nack(0, then="dead", reason="not an order")

    letter = anna.command("dlq", topic="orders")["messages"][0]
    assert letter["headers"]["dead-reason"] == "not an order"
    assert counters(lab)["dead"] == 1
    assert lab.group().pending == {}


def test_consumer_that_leaves_at_the_last_attempt_leaves_a_dead_letter() -> None:
    """A message that was with a consumer at each attempt when that one died has used up its attempts."""
    lab, anna = lab_with("poison")

    for _ in range(2):
        lab.peer().consume("orders", max_attempts=2).peer.disconnect()

    assert lab.peer().consume("orders").take() == []
    assert anna.command("dlq", topic="orders")["messages"][0]["headers"]["dead-attempts"] == "2"


# -- bounds ----------------------------------------------------------------------------------------------


def test_group_reads_no_further_than_it_may_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a group keeps in memory is bounded; it goes on when something is done."""
    monkeypatch.setattr("zbusrpc.broker.mq.pending_room.PENDING_MAX", 5)
    lab, anna = lab_with()
    bodies = [f"{number}" * 100_000 for number in range(9)]
    for body in bodies:
        anna.produce("orders", entry(body, delay_ms=10_000))
    anna.produce("orders", "now")

    consumer = lab.peer().consume("orders", window=100)
    assert 5 <= len(lab.group().pending) <= 8  # as many as the last read gave
    assert consumer.take() == []
    lab.pass_time(10.1)
    consumer.ack_all()

    assert sorted(consumer.take()) == [*bodies, "now"]


# -- moving ----------------------------------------------------------------------------------------------


def seek(lab: QueueLab, start: object, group: str = "billing") -> int:
    """Move a group, and return where it is."""
    return int(lab.peer().command("seek", topic="orders", group=group, start=start)["offset"])


def test_rewound_group_delivers_again_to_those_who_are_there() -> None:
    """A group that is moved back hands everything out anew, as first attempts, with a whole window."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders", window=4)
    consumer.nack(0, delay_ms=0)
    consumer.take()

    assert seek(lab, "oldest") == 0

    assert consumer.attempts() == [("0", 1), ("1", 1), ("2", 1), ("3", 1)]


def test_acknowledgement_from_before_a_seek_is_late() -> None:
    """What was in flight when the group was moved is not there any more to be acknowledged."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders", window=4)
    consumer.take()

    seek(lab, {"offset": 6})
    count = consumer.ack(0, 1, 2, 3)

    assert count == 0
    assert counters(lab)["late"] == 4
    assert consumer.take() == TEN[6:]
    assert consumer.ack(6, 7, 8, 9) == 4


def test_window_is_whole_after_a_seek_and_late_answers() -> None:
    """Neither the seek nor answers from before it give or take credit."""
    lab, anna = lab_with(*TEN)
    consumer = lab.peer().consume("orders", window=4)

    for _ in range(3):
        seek(lab, "oldest")
        consumer.nack(0, then="release")
        consumer.nack(9)
    seek(lab, "newest")
    consumer.take()
    anna.produce("orders", *TEN)

    assert consumer.take() == TEN[:4]


def test_seek_forgets_leases_and_delays() -> None:
    """Times of what was in flight before the move mean nothing after it."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders", window=4, lease_ms=1000)
    consumer.nack(3, delay_ms=500)

    seek(lab, "newest")
    consumer.take()
    lab.pass_time(60)

    assert consumer.take() == []
    assert lab.group().pending == {}
    assert lab.peer().command("topic", topic="orders")["groups"][0]["consumers"][0]["in_flight"] == 0
    assert consumer.peer.session.subscriptions[consumer.number].credit == 4


def test_copy_has_what_the_other_group_has_pending() -> None:
    """A group that begins as a copy of another is given what that one was not done with."""
    lab, _ = lab_with(*TEN[:4])
    first = lab.peer().consume("orders", window=3)
    first.ack(0)
    first.nack(1, delay_ms=60_000)

    copy = lab.peer().consume("orders", "copy", start={"group": "billing"})
    assert copy.attempts() == [("2", 2), ("3", 2)]
    copy.ack(2, 3)
    lab.pass_time(61)

    assert copy.attempts() == [("1", 2)]
    assert lab.group(name="copy").position == 4
    assert sorted(lab.group().pending) == [1, 2, 3]


def test_moved_group_stays_moved_after_a_crash() -> None:
    """A seek that was answered is not undone by a crash, with what it copied."""
    lab, _ = lab_with(*TEN)
    first = lab.peer().consume("orders", window=4)
    first.ack(0, 2)
    lab.peer().command("declare_group", topic="orders", group="other")
    seek(lab, {"group": "billing"}, "other")

    lab.crash()

    assert lab.peer().consume("orders", "other").take() == ["1", *TEN[3:]]


def test_seek_that_is_refused_changes_nothing() -> None:
    """A group that cannot go somewhere stays where it is, with what it has in flight."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders", window=2)

    with pytest.raises(RpcError) as caught:
        seek(lab, {"offset": 11})

    assert caught.value.code is Code.OUT_OF_RANGE
    assert caught.value.message == "topic orders has no offset 11: the next message gets 10"
    assert consumer.ack(0, 1) == 2


# -- revival and settling --------------------------------------------------------------------------------


def test_revived_message_comes_as_if_new() -> None:
    """A message that is done can be brought back: once, as its first attempt."""
    lab, _ = lab_with("one", "two")
    consumer = lab.peer().consume("orders")
    consumer.ack(0, 1)
    consumer.take()

    for _ in range(2):
        lab.store.take_back(lab.group(), 0)
    lab.run()

    assert consumer.attempts() == [("one", 1)]


def test_revived_message_is_not_moved_by_times_of_its_first_life() -> None:
    """A wait that ran for a message before it was done says nothing about it afterwards."""
    lab, _ = lab_with("one")
    consumer = lab.peer().consume("orders", lease_ms=100, backoff_ms=2000)
    lab.pass_time(0.2)
    assert consumer.ack(0) == 1
    consumer.take()
    lab.store.take_back(lab.group(), 0)
    lab.run()

    consumer.nack(0, delay_ms=60_000)
    consumer.take()
    lab.pass_time(30)
    assert consumer.take() == []
    lab.pass_time(31)

    assert consumer.take() == ["one"]


def test_revival_of_what_is_not_done_changes_nothing() -> None:
    """What is in flight, or was not read yet, comes once."""
    lab, _ = lab_with(*TEN)
    consumer = lab.peer().consume("orders", window=2)

    lab.store.take_back(lab.group(), 1)
    lab.store.take_back(lab.group(), 7)
    lab.run()
    consumer.peer.disconnect()

    assert lab.peer().consume("orders").take() == TEN


def test_settled_messages_are_done_wherever_they_stand() -> None:
    """Messages can be done in any order, before and behind the place of the group; the rest stays."""
    lab, anna = lab_with(*TEN)
    anna.command("declare_group", topic="orders", group="billing")
    group = lab.group()

    group.settle([7, 2])
    group.settle([3])
    lab.store.note_change(group)
    lab.pass_time(1)

    assert [group.is_done(offset) for offset in range(10)] == [number in {2, 3, 7} for number in range(10)]
    assert lab.peer().consume("orders").take() == ["0", "1", "4", "5", "6", "8", "9"]


# -- a bad disk ------------------------------------------------------------------------------------------


def test_message_that_cannot_be_read_comes_when_it_can() -> None:
    """While the disk does not give a message back its group waits; nothing is lost and nothing counts."""
    lab, _ = lab_with(*TEN)
    lab.disk.fail("pread", errno.EIO, calls=1)
    consumer = lab.peer().consume("orders")
    assert consumer.take() == []

    lab.pass_time(2)

    assert consumer.attempts() == [(body, 1) for body in TEN]


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_returned_message_that_cannot_be_read_is_not_lost(call: int) -> None:
    """When reading fails at any message that comes again, those before it are handed out and it comes later."""
    lab, _ = lab_with(*TEN[:4])
    first = lab.peer().consume("orders")
    first.peer.disconnect()
    lab.disk.fail("pread", errno.EIO, call=call)

    heir = lab.peer().consume("orders")
    lab.pass_time(2)

    assert heir.attempts() == [(body, 2) for body in TEN[:4]]
    assert heir.ack_all() == 4


@pytest.mark.parametrize("call", range(1, 9))
def test_pull_is_right_when_reading_fails_in_between(call: int) -> None:
    """A pull that meets a bad disk is answered with what it got, and the next ones get the rest."""
    lab, _ = lab_with(*TEN[:4])
    lab.peer().consume("orders").peer.disconnect()
    lab.disk.fail("pread", errno.EIO, call=call)
    puller = lab.peer().consume("orders", window=0)

    counts = []
    for _ in range(4):
        counts.append(puller.pull(3))
        lab.pass_time(2)

    assert sum(counts) == 4
    assert puller.take() == TEN[:4]
    assert puller.peer.session.subscriptions[puller.number].credit == 0


def test_order_of_keys_is_known_though_reading_failed_at_first() -> None:
    """A restart that cannot read the pending messages at once still hands out one message of a key at a time."""
    lab, _ = lab_with(*(entry(body, key="k") for body in TEN[:3]))
    lab.peer().consume("orders")
    lab.pass_time(1)
    lab.crash()
    lab.disk.fail("pread", errno.EIO, call=2, calls=2)

    lab.run()
    consumer = lab.peer().consume("orders")
    lab.pass_time(3)

    assert consumer.take() == ["0"]
    consumer.ack(0)
    assert consumer.take() == ["1"]


def test_listing_shows_where_messages_are() -> None:
    """What a listing says of a group adds up: in flight, waiting, delayed, held and not read."""
    lab, anna = lab_with(*(entry(body, key="k") for body in "abc"), *TEN)
    consumer = lab.peer("bert").consume("orders", window=3)
    consumer.nack(consumer.offset_of("0"), delay_ms=60_000)

    shown = anna.command("topic", topic="orders")["groups"][0]

    assert (shown["in_flight"], shown["delayed"], shown["held"], shown["waiting"]) == (3, 1, 2, 0)
    assert shown["lag"] == 13
    assert shown["oldest_offset"] == 0
    assert shown["consumers"] == [{"name": "bert", "session": 2, "window": 3, "in_flight": 3}]


def test_dead_letters_keep_the_order_of_their_messages() -> None:
    """Messages that die together stand in the dead-letter topic in the order they had."""
    lab, anna = lab_with(*TEN)
    consumer: Consumer = lab.peer().consume("orders")

    consumer.nack(*range(10), then="dead")

    assert bodies_of(anna.command("dlq", topic="orders")) == TEN
