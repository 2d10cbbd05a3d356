"""Messages that come again while the application has them: one answer is for both copies."""

from collections import deque

from zbusrpc.mq.doubles import Doubles
from zbusrpc.transport.entries import Entry


def entries(*offsets: int) -> list[Entry]:
    return [Entry(offset, 0, 1, b"", b"", b"", b"", b"") for offset in offsets]


def test_answer_takes_what_came_again_out_of_the_buffer() -> None:
    """What was handed out and has come again goes with its answer, and nothing else does."""
    doubles, buffer = Doubles(), deque(entries(3))
    buffer.extend(doubles.sift(entries(1, 2, 4), {1: True, 9: False}))

    doubles.drop(2, buffer)
    doubles.drop(1, buffer)

    assert [entry.first for entry in buffer] == [3, 2, 4]


def test_what_comes_after_its_answer_waits_again() -> None:
    """An answer that did not count is followed by another delivery, which is handed out."""
    doubles, buffer = Doubles(), deque(entries(1))
    doubles.sift(entries(1), {1: True})
    doubles.drop(1, buffer)

    buffer.extend(doubles.sift(entries(1), {}))
    doubles.drop(1, deque())

    assert [entry.first for entry in buffer] == [1]


def test_what_crosses_a_confirmation_is_left_out() -> None:
    """What the broker sent before it confirmed is settled or another's; what it sends later counts."""
    doubles = Doubles()
    doubles.begin_confirming(1)
    crossed = doubles.sift(entries(1, 2), {})
    doubles.end_confirming(1)
    later = doubles.sift(entries(1, 2), {})

    assert [entry.first for entry in crossed] == [2]
    assert [entry.first for entry in later] == [1, 2]
