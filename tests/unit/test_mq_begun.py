"""Attempts are what an application was handed: what lay in its consumer's buffer is given to others as if never sent.

Each way in which a consumer can be lost is tried with a message that it has begun and with many that it has not.
"""

from collections.abc import Callable

import pytest

from tests.support.queue_lab import Consumer, Peer, QueueLab, bodies_of, lab_with

MANY = [f"{number}" for number in range(20)]
ATTEMPTS = 3
LEASE_MS = 10_000


def lab_of(name: str) -> tuple[QueueLab, Peer]:
    lab, anna = lab_with(*MANY)
    anna.command("declare_group", topic="orders", group="billing", lease_ms=LEASE_MS, max_attempts=ATTEMPTS)
    return lab, anna


def cut(lab: QueueLab, consumer: Consumer) -> None:
    consumer.peer.disconnect()


def leave(lab: QueueLab, consumer: Consumer) -> None:
    consumer.leave()


def hang(lab: QueueLab, consumer: Consumer) -> None:
    lab.pass_time(LEASE_MS / 1000 + 1)
    consumer.peer.disconnect()
    lab.pass_time(300)  # what it had begun waits for its time


def crash(lab: QueueLab, consumer: Consumer) -> None:
    lab.pass_time(0.01)  # the journal is written
    lab.crash()


def restart(lab: QueueLab, consumer: Consumer) -> None:
    lab.restart()


WAYS: list[Callable[[QueueLab, Consumer], None]] = [cut, leave, hang, crash, restart]


def letters(lab: QueueLab) -> list[str]:
    return bodies_of(lab.peer().command("dlq", topic="orders", count=100))


@pytest.mark.parametrize("way", WAYS)
def test_what_nobody_began_counts_no_attempt(way: Callable[[QueueLab, Consumer], None]) -> None:
    """However often its consumers are lost, a message that they have not begun is on its first delivery."""
    lab, _ = lab_of("billing")

    for _ in range(2 * ATTEMPTS):
        way(lab, lab.peer().consume("orders", says_begun=True))
    lab.run()

    assert letters(lab) == []
    assert lab.peer().consume("orders").attempts() == [(body, 1) for body in MANY]


@pytest.mark.parametrize("way", WAYS)
def test_what_was_begun_counts_alone(way: Callable[[QueueLab, Consumer], None]) -> None:
    """A message at which every consumer is lost goes to the dead letters; those behind it do not."""
    lab, _ = lab_of("billing")

    for attempt in range(1, ATTEMPTS + 1):
        consumer = lab.peer().consume("orders", says_begun=True)
        assert dict(consumer.attempts())["0"] == attempt
        assert consumer.begin(0) == 1
        assert consumer.begin(0) == 0
        way(lab, consumer)
    lab.run()

    assert letters(lab) == ["0"]
    assert lab.peer().consume("orders").attempts() == [(body, 1) for body in MANY[1:]]


@pytest.mark.parametrize("way", WAYS)
def test_who_says_nothing_has_begun_all(way: Callable[[QueueLab, Consumer], None]) -> None:
    """A consumer that does not say what it begins is taken to have begun what was sent to it."""
    lab, _ = lab_of("billing")

    for _ in range(ATTEMPTS - 1):
        way(lab, lab.peer().consume("orders", window=len(MANY)))

    assert lab.peer().consume("orders").attempts() == [(body, ATTEMPTS) for body in MANY]


def test_answer_says_that_a_message_was_begun() -> None:
    """A refusal counts as an attempt, whether or not the message was said to be begun; a release does not."""
    lab, _ = lab_of("billing")
    consumer = lab.peer().consume("orders", says_begun=True)
    consumer.begin(0)

    consumer.nack(0, 1, delay_ms=0)
    consumer.nack(2, then="release")

    assert consumer.attempts()[len(MANY) :] == [("0", 2), ("1", 2), ("2", 1)]


def test_beginning_counts_only_while_a_message_is_there() -> None:
    """What another consumer was given meanwhile, or what is done, cannot be begun."""
    lab, _ = lab_of("billing")
    late = lab.peer().consume("orders", says_begun=True)
    lab.pass_time(LEASE_MS / 1000 + 1)
    heir = lab.peer().consume("orders", says_begun=True)
    heir.ack(1)

    assert late.begin(0, 1, 5000) == 0
    late.peer.disconnect()
    heir.peer.disconnect()

    assert ("0", 1) in lab.peer().consume("orders").attempts()
