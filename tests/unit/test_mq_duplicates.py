"""The duplicate window: which ids it remembers, for how long and how many."""

from zbusrpc.broker.mq.duplicates import RESERVED, DuplicateWindow

ALL = 1000


def find(window: DuplicateWindow, id_: bytes, now_ms: int) -> int | None:
    """Look for an id as a topic does."""
    window.forget_old(now_ms)
    return window.find(id_)


def store(window: DuplicateWindow, id_: bytes, offset: int, now_ms: int) -> None:
    """Let one message be handed in and stored."""
    window.reserve([id_], now_ms)
    window.settle([(id_, offset)])


def test_id_is_reserved_then_known() -> None:
    """From being handed in on an id is found: first as reserved, then with its offset."""
    window = DuplicateWindow(1000, ALL)
    assert find(window, b"a", 0) is None

    window.reserve([b"a", b"b"], 0)
    assert find(window, b"a", 0) == RESERVED
    window.settle([(b"a", 17), (b"b", 18)])

    assert find(window, b"a", 0) == 17
    assert find(window, b"b", 0) == 18


def test_failed_message_may_come_again() -> None:
    """The id of a message that could not be stored is free."""
    window = DuplicateWindow(1000, ALL)
    ids = [b"a"]
    window.reserve(ids, 0)

    window.free(ids)

    assert find(window, b"a", 0) is None
    assert len(window) == 0


def test_id_leaves_after_its_time_even_when_nothing_else_came() -> None:
    """An id is found to the end of the window and not after, also where nothing was stored meanwhile."""
    window = DuplicateWindow(1000, ALL)
    store(window, b"a", 1, now_ms=5000)

    assert find(window, b"a", 5999) == 1
    assert find(window, b"a", 6000) is None
    assert len(window) == 0


def test_oldest_ids_leave_when_there_are_too_many() -> None:
    """No more than so many ids are kept; the oldest go first."""
    window = DuplicateWindow(1000, 3)

    for number in range(5):
        store(window, b"%d" % number, number, now_ms=0)

    assert [find(window, b"%d" % number, 0) for number in range(5)] == [None, None, 2, 3, 4]


def test_window_of_nothing_remembers_nothing() -> None:
    """With no room, or no time, an id is forgotten at once."""
    no_room, no_time = DuplicateWindow(1000, 0), DuplicateWindow(0, ALL)
    store(no_room, b"a", 1, now_ms=0)
    store(no_time, b"a", 1, now_ms=0)

    assert find(no_room, b"a", 0) is None
    assert find(no_time, b"a", 0) is None


def test_id_that_failed_first_stays_as_long_as_others() -> None:
    """A message that was stored at the second attempt is remembered from then on, not from the first."""
    window = DuplicateWindow(1000, ALL)
    first = [b"a"]
    window.reserve(first, 0)
    window.free(first)
    store(window, b"a", 7, now_ms=900)

    store(window, b"b", 8, now_ms=1500)

    assert find(window, b"a", 1500) == 7
    assert find(window, b"a", 1901) is None


def test_id_that_left_while_its_message_was_stored_stays_away() -> None:
    """A message that took longer to be stored than the window lasts is not remembered."""
    window = DuplicateWindow(1000, ALL)
    window.reserve([b"a"], 0)
    window.reserve([b"b"], 5000)

    window.settle([(b"a", 1)])

    assert find(window, b"a", 5000) is None


def test_clock_that_is_set_back_keeps_ids() -> None:
    """When the clock jumps back nothing is forgotten, and the window does not grow for ever."""
    window = DuplicateWindow(1000, ALL)
    store(window, b"a", 1, now_ms=3_600_000)
    store(window, b"b", 2, now_ms=0)

    assert find(window, b"a", 0) == 1
    store(window, b"c", 3, now_ms=3_601_001)
    assert len(window) == 1
