"""The deadline wheel: nothing is due early, everything within one tick, and removing is exact."""

import random

from zbusrpc.deadlines import PRUNE_MIN, Deadlines


def test_nothing_is_due_before_its_deadline_and_all_within_a_tick() -> None:
    """An item is due between its deadline and one tick (10 ms) later."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    for _ in range(300):
        wheel: Deadlines[str] = Deadlines()
        deadline = rng.uniform(0, 1e6)
        wheel.add("x", deadline)

        assert wheel.due(deadline - 1e-6) == []
        assert wheel.due(deadline + 0.0101) == ["x"]


def test_asking_at_the_named_time_gives_what_is_due() -> None:
    """`due(next_at)` is never empty: a timer that is set by it need not be set twice."""
    for number in range(20_000):
        wheel: Deadlines[int] = Deadlines()
        wheel.add(number, number / 100 - 0.005)

        next_at = wheel.next_at

        assert next_at is not None
        assert wheel.due(next_at) == [number]


def test_items_are_due_in_the_order_of_their_ticks() -> None:
    """Earlier ticks come first; within one, what was added first."""
    wheel: Deadlines[str] = Deadlines()
    for item, deadline in [("late", 3.0), ("b", 1.001), ("a", 1.002), ("first", 0.5)]:
        wheel.add(item, deadline)

    assert wheel.due(10.0) == ["first", "b", "a", "late"]
    assert wheel.next_at is None


def test_next_time_is_always_that_of_the_first_tick() -> None:
    """Whatever is added, taken out or forgotten, `next_at` is when something may be due, and not later."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    wheel: Deadlines[int] = Deadlines()
    left: dict[int, float] = {}
    now = 0.0
    for number in range(4 * PRUNE_MIN):
        deadline = now + rng.uniform(0, 1000)
        tick = wheel.add(number, deadline)
        if rng.random() < 0.9:
            tick.pop(number)
        else:
            left[number] = deadline
        if rng.random() < 0.01:
            now += rng.uniform(0, 50)
            for item in wheel.due(now):
                del left[item]

        if left:
            assert wheel.next_at is not None
            assert wheel.next_at <= min(left.values()) + 0.0101

    wheel.due(float("inf"))

    assert wheel.next_at is None


def test_item_that_was_taken_off_its_tick_is_never_due() -> None:
    """What was removed does not come, its neighbours do, and removing twice does nothing."""
    wheel: Deadlines[str] = Deadlines()
    tick = wheel.add("gone", 1.0)
    wheel.add("stays", 1.0)

    tick.pop("gone", None)
    tick.pop("gone", None)

    assert wheel.due(2.0) == ["stays"]


def test_tick_can_be_filled_again_after_it_was_emptied() -> None:
    """An emptied tick is still asked for, and takes new items."""
    wheel: Deadlines[str] = Deadlines()
    wheel.add("gone", 1.0).pop("gone")
    wheel.add("new", 1.0)

    assert wheel.due(2.0) == ["new"]
    assert wheel.due(3.0) == []


def test_empty_ticks_are_forgotten() -> None:
    """However many long time limits were set and taken back, only those that are left are kept."""
    wheel: Deadlines[int] = Deadlines()
    wheel.add(-1, 1e9)
    for number in range(5 * PRUNE_MIN):
        wheel.add(number, 1e6 + number).pop(number)

    assert len(wheel._numbers) <= PRUNE_MIN + 1
    assert wheel.due(1e9 + 1) == [-1]


def test_no_tick_with_items_is_forgotten() -> None:
    """What is left stays, in its order, however many ticks there are."""
    wheel: Deadlines[int] = Deadlines()
    for number in range(3 * PRUNE_MIN):
        tick = wheel.add(number, number / 10)
        if number % 3:
            tick.pop(number)

    assert wheel.due(float("inf")) == list(range(0, 3 * PRUNE_MIN, 3))
