"""The clock of a broker: it does not jump when the clock on the wall is set."""

import pytest

from zbusrpc.broker.assembly.clock import LOOK_NS, SLEW, Clock

SECOND_NS = 1_000_000_000
HOUR_S = 3600
START_NS = 1_700_000_000 * SECOND_NS


class Walls:
    """A clock on the wall that can be set, and one that only counts."""

    def __init__(self) -> None:
        self.wall_ns, self.passed_ns = START_NS, 77 * SECOND_NS
        self.clock = Clock(lambda: self.wall_ns, lambda: self.passed_ns)

    def pass_time(self, seconds: int) -> None:
        """Let time pass on both."""
        self.wall_ns += seconds * SECOND_NS
        self.passed_ns += seconds * SECOND_NS


def test_clock_begins_with_that_on_the_wall_and_goes_on() -> None:
    """It says what the wall says while nobody sets that."""
    walls = Walls()
    assert walls.clock.now_ms() == START_NS // 1_000_000
    walls.pass_time(HOUR_S)
    assert walls.clock.now_ms() == walls.wall_ns // 1_000_000


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 10 * 365 * 24 * HOUR_S])
def test_clock_does_not_jump(jump_s: int) -> None:
    """When the wall is set, what passes is counted as before, but for the little by which the wall is followed."""
    walls = Walls()
    walls.wall_ns += jump_s * SECOND_NS
    before = last = walls.clock.now_ms()

    for _ in range(1000):
        walls.pass_time(1)
        now = walls.clock.now_ms()
        assert abs(now - last - 1000) <= 1000 // SLEW + 1
        last = now

    assert abs(last - before - 1_000_000) <= 1_000_000 // SLEW + 1


@pytest.mark.parametrize("jump_s", [20, -20])
def test_wall_is_followed_until_both_say_the_same(jump_s: int) -> None:
    """What people see comes right again."""
    walls = Walls()
    walls.wall_ns += jump_s * SECOND_NS

    for _ in range(21_000):
        walls.pass_time(LOOK_NS // SECOND_NS)
        walls.clock.now_ms()

    assert walls.clock.now_ms() == walls.wall_ns // 1_000_000


def test_clock_goes_as_that_of_the_system() -> None:
    """What it counts by default is time that passes."""
    clock = Clock()
    first = clock.now_ms()
    while clock.now_ms() == first:
        pass
