"""Delayed messages are counted until they are due, in little memory."""

import random

from zbusrpc.broker.mq.delayed import FINENESS, Delayed


def test_messages_count_until_they_are_due() -> None:
    """Not shorter, and not longer than by a part of the delay."""
    rng = random.Random(1)
    for _ in range(300):
        delayed, delay_s, now = (
            Delayed(),
            rng.choice([0.001, 1, 59, 3600, 10**7]) * (1 + rng.random()),
            rng.random() * 1e6,
        )
        delayed.take(7, [round(delay_s * 1000)], now)

        assert delayed.of(7, now + delay_s * 0.999) == 1
        assert delayed.of(8, now) == 0
        assert delayed.of(7, now + delay_s * (1 + 3 / FINENESS) + 0.1) == 0
        assert not delayed._ends


def test_what_was_not_stored_is_given_back_once() -> None:
    """Also when it was due, or forgotten, meanwhile."""
    delayed = Delayed()
    charge = delayed.take(7, [1000, 1000, 5000], 0.0)
    delayed.take(7, [1000], 0.0)

    delayed.give_back(7, charge)
    assert delayed.of(7, 0.0) == 1
    delayed.forget()
    delayed.give_back(7, charge)
    assert delayed.of(7, 0.0) == 0
    assert not delayed._ends


def test_memory_does_not_grow_with_the_messages() -> None:
    """A million times are a few thousand."""
    delayed, rng = Delayed(), random.Random(2)
    for now in range(1000):
        delayed.take(7, [round(1000 * 2 ** (25 * rng.random())) for _ in range(100)], float(now))

    assert delayed.of(7, 1000.0) > 50_000
    assert len(delayed._ends) < 4000
    assert len(delayed._due) < 4000


def test_memory_does_not_grow_with_what_was_given_back() -> None:
    """However often the same is refused: each time is remembered once, until it has come."""
    delayed = Delayed()
    for _ in range(100):
        delayed.give_back(7, delayed.take(7, [3_600_000], 0.0))

    assert delayed.of(7, 0.0) == 0
    assert len(delayed._due) == len(delayed._ends) == 1
    assert delayed.of(7, 4000.0) == 0
    assert len(delayed._due) == len(delayed._ends) == 0
