"""Work that does not grow with what there is: counted are steps, with few messages, groups and consumers and many."""

import pytest

from tests.support.queue_lab import QueueLab, entry, lab_with
from tests.support.steps import steps_of
from zbusrpc.broker.mq.pending_room import PENDING_SHARE
from zbusrpc.broker.mq.reports import describe_group, describe_topic
from zbusrpc.message import Kind

FEW, MANY = 20, 2000
SLACK = 60
"""Steps that may differ: none of them is one for each of MANY."""


def lab_with_delayed(count: int) -> QueueLab:
    """Return a lab whose group has so many delayed messages in hand."""
    lab, anna = lab_with()
    anna.consume("orders", window=4)
    for first in range(0, count, 500):
        anna.produce("orders", *(entry("x", delay_ms=60_000) for _ in range(first, min(count, first + 500))))
    lab.pass_time(1)
    assert len(lab.group().pending) == count
    return lab


def test_consumer_that_leaves_walks_over_its_own_messages_alone() -> None:
    """What others have in hand costs nothing when one leaves."""
    steps = []
    for count in (FEW, MANY):
        lab = lab_with_delayed(count)
        bert = lab.peer().consume("orders", window=4)
        lab.peer().produce("orders", "mine")
        steps.append(steps_of(bert.leave))

    assert abs(steps[1] - steps[0]) < SLACK


def test_listing_of_a_group_walks_over_no_messages() -> None:
    """How many messages are in each state, and which is the oldest, is known."""
    steps = []
    for count in (FEW, MANY):
        lab = lab_with_delayed(count)
        group = lab.group()
        assert describe_group(lab.topic(), group, lag=0, letters=0)["delayed"] == count
        steps.append(steps_of(lambda lab=lab, group=group: describe_group(lab.topic(), group, lag=0, letters=0)))

    assert steps[0] == steps[1]


def test_room_in_flight_and_pulls_cost_nothing_for_each_consumer() -> None:
    """A dispatch looks at those whom it concerns: not at all who take part, or wait with a pull."""
    steps = []
    for count in (FEW, MANY // 10):
        lab, anna = lab_with()
        anna.command("declare_group", topic="orders", group="billing", update=True, in_flight_max=1000)
        for _ in range(count):
            one = lab.peer().consume("orders", window=0)
            one.peer.send(Kind.PULL, b'{"max":1}', session=one.number, timeout_ms=60_000)
        lab.run()
        anna.send(Kind.PRODUCE, entry("x"), topic="orders")
        steps.append(steps_of(lab.run))

    assert abs(steps[1] - steps[0]) < SLACK


def test_groups_that_nobody_consumes_from_cost_nothing_when_a_topic_grows() -> None:
    """A message wakes the groups with consumers; the others are not looked at."""
    steps = []
    for count in (FEW, MANY // 10):
        lab, anna = lab_with()
        for number in range(count):
            anna.command("declare_group", topic="orders", group=f"g{number}")
        anna.consume("orders")
        topic = lab.topic()
        steps.append(steps_of(lambda lab=lab, topic=topic: (lab.queues._topic_grew(topic), describe_topic(topic))))

    assert steps[0] == steps[1]


def test_message_that_cannot_be_sent_counts_once() -> None:
    """One that its consumer cannot take is dead, and not acknowledged as well, where nobody has to acknowledge."""
    lab, anna = lab_with()
    anna.command("declare_group", topic="orders", group="billing", update=True, ack=False)
    lab.peer(message_bytes_max=5000).consume("orders")
    anna.produce("orders", "x" * 6000)

    counters = lab.group().counters
    assert (counters.acked, counters.dead) == (0, 1)


def test_messages_in_hand_have_a_bound_for_all_groups_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all groups have used up the room each has a share; they go on when there is room again."""
    total = 2 * PENDING_SHARE
    monkeypatch.setattr("zbusrpc.broker.mq.pending_room.PENDING_TOTAL_MAX", total)
    lab, anna = lab_with()
    names = ["billing", "audit", "search"]
    for name in names:
        anna.consume("orders", name)
    for _ in range(20):
        anna.produce("orders", *(entry("x", delay_ms=60_000) for _ in range(PENDING_SHARE)))
        lab.pass_time(1)
    counts = [len(lab.group(name=name).pending) for name in names]
    assert max(counts) < 20 * PENDING_SHARE
    assert lab.store.room.taken == sum(counts)

    anna.command("seek", topic="orders", group=names[counts.index(max(counts))], start="newest")
    anna.command("remove", topic="orders", group=names[counts.index(min(counts))])

    lab.pass_time(1)
    left = {name: len(group.pending) for name, group in lab.topic().groups.items()}
    assert lab.store.room.taken == sum(left.values())


def lab_past_retention(count: int) -> QueueLab:
    """Return a lab whose group has so many delayed messages in hand, of which retention has removed most."""
    lab, anna = lab_with(segment_bytes=4096, keep_bytes=4096, keep_unconsumed=False, duplicate_window_ids=0)
    anna.consume("orders", window=1000)
    for _ in range(count // 100):
        anna.produce("orders", *(entry("x" * 10, delay_ms=60_000) for _ in range(100)))
    lab.pass_time(1)
    lab.topic().retire(lab.scheduler.now_ms()).remove()
    assert 0 < lab.topic().log.start_offset < lab.topic().log.next_offset
    assert len(lab.group().pending) == count
    return lab


def lag_by_hand(lab: QueueLab) -> int:
    """Count what the group is not done with, one by one."""
    group, log = lab.group(), lab.topic().log
    unread = range(max(group.position, log.start_offset), log.next_offset)
    return len(unread) + sum(offset >= log.start_offset for offset in group.pending)


def test_what_retention_has_passed_is_counted_once() -> None:
    """How far a group is behind is known, also where it has much in hand that is removed."""
    steps = []
    for count in (10 * FEW, MANY):
        lab = lab_past_retention(count)
        topic, group = lab.topic(), lab.group()
        assert lab.store.lag_of(topic, group) == lag_by_hand(lab)
        steps.append(steps_of(lambda lab=lab, topic=topic, group=group: lab.store.lag_of(topic, group)))

    assert steps[0] == steps[1]


def test_group_is_behind_by_what_exists_whatever_becomes_of_its_messages() -> None:
    """Counted as by hand after each step: due, acknowledged, refused, come again, removed, sought."""
    lab = lab_past_retention(400)
    topic, group = lab.topic(), lab.group()

    def check() -> None:
        assert lab.store.lag_of(topic, group) == lag_by_hand(lab)

    check()
    lab.pass_time(60)
    check()
    bert = lab.peer().consume("orders", window=1000)
    first = topic.log.start_offset
    for offset in (first - 1, first, first + 1):
        group.take_back(offset)
        check()
    anna = lab.peer()
    anna.produce("orders", *(f"{number}" * 20 for number in range(300)))
    check()
    topic.retire(lab.scheduler.now_ms()).remove()
    assert topic.log.start_offset > first
    check()
    bert.work_off()
    check()
    for start in ("oldest", {"offset": topic.log.next_offset - 3}, "newest"):
        anna.command("seek", topic="orders", group="billing", start=start)
        check()
        anna.produce("orders", entry("late", delay_ms=5000))
        lab.pass_time(1)
        check()


def test_where_dead_letters_go_is_known_without_a_look_at_all_topics() -> None:
    """And stays so when topics are made, changed and removed, and after a restart."""
    lab, anna = lab_with()
    for number in range(FEW):
        anna.declare(f"t{number}", dead_letter_topic="letters" if number % 2 else "others")
    few = steps_of(lambda: lab.store.holds_letters("letters"))
    for number in range(FEW, MANY // 10):
        anna.declare(f"t{number}")
    assert steps_of(lambda: lab.store.holds_letters("none")) == few
    assert lab.store.holds_letters("letters")
    assert lab.store.holds_letters("orders.dlq")
    assert not lab.store.holds_letters("orders")

    for number in range(FEW):
        if number % 2:
            anna.command("remove", topic=f"t{number}")
        else:
            anna.declare(f"t{number}", dead_letter_topic="letters" if number else "", update=True)
    assert lab.store.holds_letters("letters")
    assert not lab.store.holds_letters("others")
    lab.restart()
    assert lab.store.holds_letters("letters")
    assert not lab.store.holds_letters("others")


def test_letters_that_were_dealt_with_are_not_taken_off_again_when_their_segment_goes() -> None:
    """Of a group none of whose letters are left nothing is counted, and its listing is answered."""
    lab, anna = lab_with("one", "two")
    consumer = anna.consume("orders")
    consumer.nack(0, 1, then="dead")
    lab.run()
    assert anna.command("topic", topic="orders")["groups"][0]["dead_letters"] == 2

    anna.command("purge_dead", topic="orders")
    anna.command("empty", topic="orders.dlq")

    assert anna.command("topic", topic="orders")["groups"][0]["dead_letters"] == 0
