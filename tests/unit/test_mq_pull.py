"""Pulling: a consumer without a window gets as many messages as it asks for, when it asks."""

import pytest

from tests.support.queue_lab import Consumer, QueueLab, entry, lab_with
from zbusrpc.broker.mq import queues
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

FIVE = [f"{number}" for number in range(5)]


def puller_of(lab: QueueLab, group: str = "billing") -> Consumer:
    return lab.peer().consume("orders", group, window=0)


def credit_of(consumer: Consumer) -> int:
    return consumer.peer.session.subscriptions[consumer.number].credit


def test_nothing_comes_unasked() -> None:
    """A consumer with window 0 gets nothing before it pulls, and no more than it asked for."""
    lab, anna = lab_with(*FIVE)
    puller = puller_of(lab)
    assert puller.take() == []

    assert puller.pull(2) == 2

    assert puller.take() == ["0", "1"]
    anna.produce("orders", "more")
    assert puller.take() == []


def test_answer_comes_after_the_messages() -> None:
    """All messages of a pull are delivered before its answer, which says how many they were."""
    lab, _ = lab_with("x" * 200_000, "y" * 200_000, "z")
    puller = puller_of(lab)
    frames = len(puller.peer.frames)

    request = puller.send_pull(10)
    lab.run()

    came = puller.peer.frames[frames:]
    assert [frame.kind for frame in came] == [Kind.DELIVER, Kind.DELIVER, Kind.REPLY]
    assert came[-1].id == request
    assert puller.peer.answer(request) == 3


def test_pull_without_time_does_not_wait() -> None:
    """Where there is nothing, a pull without a timeout is answered at once with 0."""
    lab, anna = lab_with()
    puller = puller_of(lab)

    assert puller.pull(5) == 0

    anna.produce("orders", "late")
    assert puller.take() == []
    assert puller.pull(5) == 1


def test_patient_pull_waits_for_the_first_message() -> None:
    """A pull with a timeout ends with what there is as soon as there is something."""
    lab, anna = lab_with()
    puller = puller_of(lab)
    request = puller.send_pull(5, timeout_ms=10_000)
    lab.pass_time(3)
    assert request not in puller.peer.replies

    anna.produce("orders", "one", "two")

    assert puller.peer.answer(request) == 2
    assert puller.take() == ["one", "two"]
    assert credit_of(puller) == 0


def test_patient_pull_ends_when_its_time_is_over() -> None:
    """A pull for which nothing came is answered with 0 when its timeout has passed, not long after."""
    lab, anna = lab_with()
    puller = puller_of(lab)

    request = puller.send_pull(5, timeout_ms=2000)
    lab.pass_time(1.9)
    assert request not in puller.peer.replies
    lab.pass_time(0.15)

    assert puller.peer.answer(request) == 0
    anna.produce("orders", "late")
    assert puller.take() == []


def test_several_pulls_are_served_in_order() -> None:
    """Pulls of one consumer are filled one after the other; each is answered once."""
    lab, anna = lab_with()
    puller = puller_of(lab)
    requests = [puller.send_pull(2, timeout_ms=1000 * number) for number in (5, 1, 9)]
    lab.run()

    anna.produce("orders", "0", "1", "2")
    first, second = (puller.peer.answer(request) for request in requests[:2])
    lab.pass_time(6)
    assert requests[2] not in puller.peer.replies
    anna.produce("orders", "3")

    assert (first, second) == (2, 1)
    assert puller.peer.answer(requests[2]) == 1
    assert puller.take() == ["0", "1", "2", "3"]


def test_impatient_pull_behind_a_patient_one_does_not_wait() -> None:
    """Each pull has its own patience."""
    lab, _ = lab_with()
    puller = puller_of(lab)

    patient = puller.send_pull(1, timeout_ms=1000)
    assert puller.pull(1) == 0

    assert patient not in puller.peer.replies


def test_pulled_messages_are_in_flight() -> None:
    """What was pulled has a lease, can be refused, and goes to others when its consumer leaves."""
    lab, _ = lab_with(*FIVE)
    first, second = puller_of(lab), puller_of(lab)
    first.pull(3)

    assert first.ack(0) == 1
    assert first.nack(1, delay_ms=0) == 1
    first.leave()
    assert second.pull(10) == 4

    assert second.attempts() == [("1", 2), ("2", 2), ("3", 1), ("4", 1)]


def test_pulling_and_pushing_consumers_share_a_group() -> None:
    """Consumers of both kinds can take part in one group."""
    lab, anna = lab_with()
    pushed, puller = lab.peer().consume("orders", window=2), puller_of(lab)

    anna.produce("orders", *FIVE)
    assert puller.pull(2) == 2

    assert pushed.take() == ["0", "1"]
    assert puller.take() == ["2", "3"]


def test_delayed_message_wakes_a_patient_pull() -> None:
    """A pull waits for a message whose time comes while it waits."""
    lab, anna = lab_with()
    puller = puller_of(lab)
    anna.produce("orders", entry("late", delay_ms=2000))

    request = puller.send_pull(5, timeout_ms=5000)
    lab.pass_time(2.1)

    assert puller.peer.answer(request) == 1


def test_pull_of_many_is_answered_when_all_have_come() -> None:
    """A pull for more than is handed out at a time goes on until it is full or nothing is left."""
    lab, anna = lab_with()
    for _ in range(10):
        anna.produce("orders", *(f"{number}" for number in range(100)))
    puller = puller_of(lab)

    counts = [puller.pull(700), puller.pull(700), puller.pull(700)]

    assert counts == [700, 300, 0]


def test_pull_passes_over_what_its_filter_leaves_out() -> None:
    """What the group does not want does not count."""
    lab, _ = lab_with(*(entry(f"{number}", tag="x" if number % 10 == 9 else "y") for number in range(30)))
    puller = lab.peer().consume("orders", window=0, filter="x")

    assert puller.pull(2) == 2
    assert puller.take() == ["9", "19"]


@pytest.mark.parametrize("how", ["leave", "disconnect", "removed"])
def test_end_of_a_subscription_ends_its_pulls(how: str) -> None:
    """A pull that waits is answered when its subscription ends, whoever ends it."""
    lab, anna = lab_with()
    puller = puller_of(lab)
    request = puller.send_pull(5, timeout_ms=60_000)

    if how == "leave":
        puller.leave()
    elif how == "disconnect":
        puller.peer.disconnect()
    else:
        anna.command("remove", topic="orders", group="billing")
    lab.pass_time(61)

    assert puller.peer.answer(request) == 0


def test_pull_of_a_subscription_with_a_window_is_refused() -> None:
    """A consumer that is sent messages unasked must not pull as well."""
    lab, _ = lab_with()
    consumer = lab.peer().consume("orders", window=5)

    with pytest.raises(RpcError, match="use window 0") as caught:
        consumer.pull(1)

    assert caught.value.code is Code.FAILED_PRECONDITION


def test_what_is_pulled_and_not_answered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that pulls and never acknowledges is stopped, and can go on when it has acknowledged."""
    monkeypatch.setattr(queues, "IN_FLIGHT_MAX", 4)
    lab, _ = lab_with(*FIVE)
    puller = puller_of(lab)
    puller.pull(3)

    with pytest.raises(RpcError) as caught:
        puller.pull(2)
    puller.ack(0, 1)

    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert puller.pull(2) == 2


def test_pull_of_a_resting_group_gets_nothing() -> None:
    """A paused group answers pulls with what it hands out: nothing, until it goes on."""
    lab, anna = lab_with("one")
    puller = puller_of(lab)
    anna.command("pause", topic="orders", group="billing")

    assert puller.pull(1) == 0
    request = puller.send_pull(1, timeout_ms=5000)
    lab.pass_time(1)
    assert request not in puller.peer.replies
    anna.command("resume", topic="orders", group="billing")

    assert puller.peer.answer(request) == 1


def test_seek_serves_a_waiting_pull() -> None:
    """A pull that waits at the end gets what the group is moved back to."""
    lab, anna = lab_with("one")
    puller = puller_of(lab)
    puller.pull(1)
    request = puller.send_pull(1, timeout_ms=5000)
    lab.run()

    anna.command("seek", topic="orders", group="billing", start="oldest")

    assert puller.peer.answer(request) == 1
    assert credit_of(puller) == 0
