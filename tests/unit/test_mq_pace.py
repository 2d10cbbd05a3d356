"""The pace of consumers: what a slow or hanging one has not begun goes to who is idle, and windows follow the pace."""

import pytest

from tests.support.queue_lab import Consumer, Peer, QueueLab, bodies_of, lab_with
from zbusrpc.broker.mq.pace import LOOK_S

MANY = [f"{number}" for number in range(40)]
SOON_S = 3 * LOOK_S


def lab_with_slow() -> tuple[QueueLab, Peer, Consumer]:
    """Return a lab in which a consumer has all messages and has begun the first, and a peer."""
    lab, anna = lab_with(*MANY)
    slow = lab.peer("slow").consume("orders", says_begun=True, lease_ms=3_600_000)
    slow.begin(0)
    return lab, anna, slow


def give_back(consumer: Consumer) -> list[str]:
    """Answer a recall as a client does, and return what was given back."""
    lost = [one for one in consumer.entries if one.first][-consumer.recalls[-1] :]
    consumer.nack(*(one.first for one in lost), then="release")
    return [one.body.decode() for one in lost]


def test_what_was_not_begun_goes_to_who_is_idle() -> None:
    """A consumer that hangs at one message is asked for the others as soon as somebody else has nothing to do."""
    lab, _, slow = lab_with_slow()
    idle = lab.peer("idle").consume("orders", says_begun=True)

    lab.pass_time(SOON_S)
    assert slow.recalls == [39]
    returned = give_back(slow)

    assert idle.attempts() == [(body, 1) for body in returned]
    assert returned == MANY[1:]


def test_consumer_that_hangs_is_sent_nothing_more() -> None:
    """Its window stays closed until it answers, and is asked for nothing again."""
    lab, anna, slow = lab_with_slow()
    idle = lab.peer("idle").consume("orders", says_begun=True)
    lab.pass_time(SOON_S)
    give_back(slow)
    slow.take()
    idle.work_off()

    anna.produce("orders", *(f"later {number}" for number in range(300)))
    idle.work_off()
    lab.pass_time(SOON_S)

    assert slow.take() == []
    assert len(slow.recalls) == 1
    assert list(lab.group().pending) == [0]


def test_window_opens_again_with_each_answer() -> None:
    """Who answers is sent one more for each answer, so that its window follows its pace; all of it in the end."""
    lab, _, slow = lab_with_slow()
    lab.peer("idle").consume("orders", says_begun=True, window=4)
    lab.pass_time(SOON_S)
    give_back(slow)
    subscription = next(iter(slow.peer.session.subscriptions.values()))

    credits_ = []
    for offset in range(36):
        slow.ack(offset)
        credits_.append(subscription.credit)

    assert slow.recalls == [4]
    assert credits_ == [*range(2, 72, 2), 256]
    assert subscription.withheld == 0


def test_consumer_that_was_stopped_for_a_while_works_again() -> None:
    """Its window is whole again once it has nothing in hand: else those with more credit would get everything."""
    lab, anna, slow = lab_with_slow()
    quick = lab.peer("quick").consume("orders", says_begun=True)
    lab.pass_time(SOON_S)
    give_back(slow)
    quick.work_off()
    slow.take()
    slow.ack(0)

    seen = []
    for number in range(4):
        anna.produce("orders", f"later {number}")
        seen += slow.work_off()
        quick.work_off()

    assert len(seen) == 2


def test_quick_consumers_are_asked_for_nothing() -> None:
    """Who begins what it has within a moment keeps it, however idle others are."""
    lab, anna = lab_with()
    first, second = (lab.peer().consume("orders", says_begun=True) for _ in range(2))

    for number in range(20):
        anna.produce("orders", *(f"{number} {part}" for part in range(10)))
        lab.pass_time(LOOK_S / 2)
        first.work_off()
        second.work_off()

    assert (first.recalls, second.recalls) == ([], [])


def test_slow_consumer_keeps_what_it_will_begin_soon() -> None:
    """It is asked for what is more than it answers between two looks."""
    lab, _, slow = lab_with_slow()
    lab.peer("idle").consume("orders", says_begun=True)

    lab.pass_time(LOOK_S * 1.5)
    for offset in range(5):
        slow.begin(offset, offset + 1)
        slow.ack(offset)
    lab.pass_time(LOOK_S)

    assert slow.recalls == [40 - 6 - 5]


@pytest.mark.parametrize("says_begun", [False, True])
def test_nobody_is_asked_while_nobody_is_idle(says_begun: bool) -> None:
    """Neither one that is alone, nor two that both have enough, nor one that says nothing of what it begins."""
    lab, _ = lab_with(*MANY)
    alone = lab.peer().consume("orders", says_begun=says_begun, lease_ms=3_600_000)
    lab.pass_time(SOON_S)
    assert alone.recalls == []
    busy = lab.peer().consume("orders", says_begun=True, window=1)
    if not says_begun:
        lab.pass_time(SOON_S)
        assert alone.recalls == []
        return
    lab.pass_time(SOON_S)
    give_back(alone)
    busy.begin(1)
    lab.pass_time(SOON_S)

    assert alone.recalls == [1]


def test_idle_poll_is_served_from_the_buffer_of_another() -> None:
    """One that asks for a message is idle as well, and is given what it asked for."""
    lab, _, slow = lab_with_slow()
    idle = lab.peer().consume("orders", window=0)
    waiting = idle.send_pull(3, 60_000)

    lab.pass_time(SOON_S)
    assert slow.recalls == [3]
    give_back(slow)
    lab.run()

    assert idle.peer.answer(waiting) == 3


def test_recalled_messages_of_a_consumer_that_is_lost_count_no_attempt() -> None:
    """It makes no difference whether it could give them back."""
    lab, _, slow = lab_with_slow()
    idle = lab.peer("idle").consume("orders", says_begun=True)
    lab.pass_time(SOON_S)

    slow.peer.disconnect()

    assert idle.attempts() == [("0", 2), *((body, 1) for body in MANY[1:])]
    assert bodies_of(lab.peer().command("dlq", topic="orders")) == []


def test_subscription_that_is_moved_has_its_whole_window() -> None:
    """What was kept back for its pace is given back when its group goes on elsewhere."""
    lab, anna, slow = lab_with_slow()
    lab.peer("idle").consume("orders", says_begun=True, window=1)
    lab.pass_time(SOON_S)

    anna.command("seek", topic="orders", group="billing", start="newest")

    subscription = next(iter(slow.peer.session.subscriptions.values()))
    assert (subscription.credit, subscription.withheld, subscription.begun) == (256, 0, 0)
