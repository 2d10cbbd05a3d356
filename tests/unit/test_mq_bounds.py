"""What peers may ask for costs a bounded amount of time and memory, and a fault in one group harms no other."""

import random

import pytest

from tests.support.queue_lab import entry, lab_with
from zbusrpc.broker.mq.group import DISPATCH_BYTES_MAX
from zbusrpc.broker.mq.ranges import FEW, narrowed
from zbusrpc.broker.mq.topic import TAIL_RECORDS_MAX
from zbusrpc.errors import ProtocolError
from zbusrpc.message import Kind
from zbusrpc.transport.entries import RANGE, RANGES_MAX, decode_ranges

LAST = 2**63 - 1


def test_narrowed_ranges_hold_the_same_once() -> None:
    """Whatever ranges say, in any order and over each other, narrowed they hold the same offsets, and each once."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(300):
        offsets = rng.sample(range(5000), rng.choice([0, 1, 50, 3000]))
        firsts = [rng.randrange(5000) for _ in range(rng.randrange(6))]
        ranges = [(first, first + rng.choice([0, 0, 3, FEW, LAST - 5000])) for first in firsts]

        narrow = narrowed(ranges, offsets)

        wanted = {offset for offset in offsets if any(first <= offset <= last for first, last in ranges)}
        found = [number for first, last in narrow for number in range(first, last + 1)]
        assert wanted <= set(found)
        assert len(found) == len(set(found))
        assert all(any(first <= offset <= last for first, last in ranges) for offset in found)
        assert len(found) <= max(len(offsets), FEW) + len(ranges)


def test_what_a_consumer_got_is_not_looked_at_twice() -> None:
    """Ranges as consumers send them, in rising order and no longer than what they have, are taken as they are."""
    ranges = [(1, 3), (5, 5), (9, 20)]

    assert narrowed(ranges, range(100)) is ranges


def test_number_of_ranges_in_a_frame_is_bounded() -> None:
    """A frame with more ranges than anybody can have messages breaks the rules."""
    assert len(decode_ranges(RANGE.pack(1, 1) * RANGES_MAX)) == RANGES_MAX
    with pytest.raises(ProtocolError, match="over 65536 ranges"):
        decode_ranges(RANGE.pack(1, 1) * (RANGES_MAX + 1))


def test_large_frame_does_not_stay_in_memory() -> None:
    """However many messages one frame has, no more than the usual ones are kept for consumers that follow closely."""
    lab, anna = lab_with()
    consumer = anna.consume("orders", "billing", window=1)

    anna.produce("orders", *[entry("")] * (10 * TAIL_RECORDS_MAX))

    assert len(consumer.entries) == 1
    assert len(lab.topic()._tail) <= TAIL_RECORDS_MAX


def test_answered_pull_is_not_watched_any_more() -> None:
    """A pull that was answered long before its time is over leaves nothing behind."""
    lab, anna = lab_with("one")
    consumer = anna.consume("orders", "billing", window=0)

    delivered = anna.ask(Kind.PULL, {"max": 1}, session=consumer.number, timeout_ms=2**32 - 1)

    assert delivered == 1
    assert lab.queues._pull_times.due(float("inf")) == []


def test_group_hands_out_a_bounded_number_of_bytes_at_a_time() -> None:
    """Between two portions of large messages there is a turn, in which a consumer that does not read is noticed."""
    size = DISPATCH_BYTES_MAX // 4
    lab, anna = lab_with(*["x" * size] * 12)
    request = anna.send(Kind.CONSUME, b'{"group": "billing"}', topic="orders")
    while request not in anna.replies:
        lab.turn() if not lab.scheduler.work else lab.work()
    (consumer,) = anna.consumers.values()
    portions = []
    while sum(portions) < 12:
        portions.append(len(consumer.take()))
        lab.queues.settle()

    assert max(portions) == 4


def test_fault_in_one_group_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """When handing out fails in a way that nobody foresaw, other groups get their messages."""
    lab, anna = lab_with()
    anna.consume("orders", "broken")
    consumer = anna.consume("orders", "billing")

    def fail(now: float, now_ms: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lab.group(name="broken"), "dispatch", fail)
    with pytest.raises(ZeroDivisionError):  # the lab tells it; a broker only logs it
        anna.produce("orders", "one")

    assert consumer.take() == ["one"]
