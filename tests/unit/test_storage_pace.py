"""The pace of a disk: who is quick is waited for, who is slow hardly ever."""

from zbusrpc.broker.storage.pace import SLOW_S, SPELL_MAX, SPELL_MIN, Pace


def waited_for(pace: Pace, seconds: float, count: int) -> int:
    """Return how many of `count` syncs of a disk are waited for on the spot."""
    waited = 0
    for _ in range(count):
        if pace.is_quick():
            waited += 1
            pace.note(seconds)
    return waited


def test_quick_disk_is_waited_for() -> None:
    """A disk that syncs in 40 us never sees a thread."""
    assert waited_for(Pace(), 0.000_04, 1000) == 1000


def test_slow_disk_is_tried_less_and_less() -> None:
    """Each try that is slow doubles the time until the next."""
    pace = Pace()

    assert waited_for(pace, 0.005, SPELL_MIN + 1) == 1
    assert waited_for(pace, 0.005, 2 * SPELL_MIN + 1) == 1
    assert waited_for(pace, 0.005, 10 * SPELL_MAX) < 25


def test_disk_that_gets_quick_is_found_out() -> None:
    """After its spell in a thread one sync shows that it is quick now."""
    pace = Pace()
    waited_for(pace, 0.005, 1)

    assert waited_for(pace, 0.000_04, SPELL_MIN + 100) == 100


def test_one_slow_sync_of_a_quick_disk_costs_one_spell() -> None:
    """A hiccup is forgiven: the spell after it is short again once the disk was quick for a while."""
    pace = Pace()
    for _ in range(5):
        waited_for(pace, 0.000_04, 1000)
        waited_for(pace, 2 * SLOW_S, 1)
        assert waited_for(pace, 0.000_04, SPELL_MIN) <= SPELL_MIN
    assert waited_for(pace, 0.000_04, 10_000) > 9_000
