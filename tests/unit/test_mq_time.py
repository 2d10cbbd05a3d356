"""What time does: leases, back-off, delays and times to live, also when somebody sets the clock."""

import pytest

from tests.support.queue_lab import HOUR_MS, QueueLab, bodies_of, entry, lab_with
from zbusrpc.broker.mq.upkeep import Upkeep
from zbusrpc.message import Kind
from zbusrpc.transport.entries import encode_ranges

# -- leases ----------------------------------------------------------------------------------------------


def test_lease_that_ends_brings_the_message_again_after_the_back_off() -> None:
    """A consumer that does not answer in time loses the message; it comes again after a wait of half random length."""
    lab, anna = lab_with("one")
    hanging = lab.peer().consume("orders", window=1, lease_ms=10_000, backoff_ms=4000)
    other = lab.peer().consume("orders", window=1)

    lab.pass_time(10.05)
    assert other.take() == []
    assert anna.command("topic", topic="orders")["groups"][0]["delayed"] == 1
    lab.pass_time(1.9)
    assert other.take() == []
    lab.pass_time(2.1)

    assert hanging.attempts() == [("one", 1)]
    assert other.attempts() == [("one", 2)]


def test_back_off_doubles_up_to_its_bound_with_jitter() -> None:
    """The n-th wait is between half and all of backoff * 2^(n-1), and no longer than the bound."""
    lab, _ = lab_with("one")
    consumer = lab.peer().consume("orders", backoff_ms=1000, backoff_max_ms=5000, max_attempts=50)
    waits = []

    for attempt in range(1, 30):
        begin = lab.scheduler.now_s
        consumer.nack(0)
        while len(consumer.entries) == attempt:
            lab.pass_time(0.05)
        waits.append(lab.scheduler.now_s - begin)

    for number, wait in enumerate(waits):
        longest = min(1.0 * 2**number, 5.0)
        assert longest / 2 <= wait <= longest + 0.1
    assert len({round(wait, 1) for wait in waits[5:]}) > 5


def test_lease_that_is_renewed_does_not_end() -> None:
    """A consumer that says it still works on a message keeps it as long as it says so."""
    lab, _ = lab_with("one", "two")
    consumer = lab.peer().consume("orders", lease_ms=1000)

    for _ in range(10):
        lab.pass_time(0.8)
        assert consumer.extend(0) == 1
    assert consumer.ack(0) == 1

    assert {body for body, number in consumer.attempts() if number == 1} == {"one", "two"}
    assert lab.group().counters.redelivered >= 1


def test_message_that_hangs_at_each_attempt_is_dead() -> None:
    """Leases count as attempts: a message that hangs every consumer is a dead letter in the end."""
    lab, anna = lab_with("poison", "good")
    consumer = lab.peer().consume("orders", lease_ms=1000, backoff_ms=0, max_attempts=3, window=10)
    consumer.ack(1)

    lab.pass_time(10)
    consumer.extend(0)
    lab.pass_time(10)

    assert [number for body, number in consumer.attempts() if body == "poison"] == [1, 2, 3]
    letter = anna.command("dlq", topic="orders")["messages"][0]
    assert letter["headers"]["dead-reason"] == "its lease ended (attempt 3 of 3)"


def test_late_acknowledgement_counts_until_the_message_is_given_to_another() -> None:
    """Whoever finished after its lease had ended, but before the message came again, has finished."""
    lab, _ = lab_with("one")
    slow = lab.peer().consume("orders", lease_ms=1000, backoff_ms=4000)
    lab.pass_time(1.5)

    assert slow.ack(0) == 1
    lab.pass_time(60)

    assert slow.attempts() == [("one", 1)]
    assert lab.group().pending == {}


def test_late_acknowledgement_of_what_another_has_is_left_out() -> None:
    """Once another consumer has the message, the first one's answers say nothing about it."""
    lab, _ = lab_with("one")
    slow = lab.peer().consume("orders", window=1, lease_ms=1000, backoff_ms=0)
    heir = lab.peer().consume("orders", window=1)
    lab.pass_time(1.1)
    assert heir.attempts() == [("one", 2)]

    assert slow.ack(0) == 0
    assert slow.nack(0, then="dead") == 0
    assert slow.extend(0) == 0

    assert lab.group().counters.late == 3
    assert heir.ack(0) == 1


def test_consumer_that_hangs_is_not_given_message_after_message() -> None:
    """The room of a message whose lease has ended stays taken until its consumer says anything at all."""
    lab, anna = lab_with(*(f"{number}" for number in range(10)))
    hanging = lab.peer().consume("orders", window=3, lease_ms=1000, backoff_ms=0, max_attempts=100)
    assert len(hanging.take()) == 3

    lab.pass_time(30)
    assert hanging.take() == []
    hanging.extend(0)
    lab.pass_time(0.5)

    assert hanging.take() == ["0", "1", "2"]
    assert anna.command("topic", topic="orders")["groups"][0]["in_flight"] == 3


def test_shorter_leases_end_in_time() -> None:
    """When a group is given shorter leases those that begin then are not kept up by the long ones before."""
    lab, anna = lab_with("one")
    consumer = lab.peer().consume("orders", lease_ms=3_600_000, backoff_ms=0)

    anna.command("declare_group", topic="orders", group="billing", lease_ms=1000, update=True)
    anna.produce("orders", "two")
    lab.pass_time(1.5)

    assert consumer.attempts() == [("one", 1), ("two", 1), ("two", 2)]


def test_lease_that_is_renewed_twice_at_a_time_ends_once() -> None:
    """One EXTEND that names a message several times renews one lease: its end is one failed attempt."""
    lab, _ = lab_with("one")
    consumer = lab.peer().consume("orders", lease_ms=1000, backoff_ms=0, max_attempts=2)

    consumer.peer.ask(Kind.EXTEND, encode_ranges([0]) * 3, session=consumer.number)
    lab.pass_time(1.1)
    consumer.extend(0)

    assert consumer.attempts() == [("one", 1), ("one", 2)]
    assert consumer.peer.session.subscriptions[consumer.number].in_flight == 1


def test_many_renewals_are_not_kept() -> None:
    """A consumer that renews its lease for ever does not make the broker's memory grow."""
    lab, _ = lab_with("one")
    consumer = lab.peer().consume("orders")

    for _ in range(5000):
        lab.group().extend(consumer.peer.session.subscriptions[consumer.number], 0, 0, lab.scheduler.now_s)

    assert len(lab.group()._leases._queue) < 3000


# -- delays and times to live ----------------------------------------------------------------------------


def test_delayed_message_comes_when_it_is_due() -> None:
    """A message with a delay waits aside, and those behind it do not."""
    lab, anna = lab_with()
    consumer = lab.peer().consume("orders")

    anna.produce("orders", entry("late", delay_ms=5000), "now")
    assert consumer.take() == ["now"]
    lab.pass_time(4.9)
    assert consumer.take() == []
    lab.pass_time(0.2)

    assert consumer.attempts() == [("late", 1)]


def test_delay_runs_while_nobody_consumes() -> None:
    """A delay begins when the message is stored, not when somebody reads it."""
    lab, anna = lab_with(entry("late", delay_ms=5000))
    lab.pass_time(6)

    assert anna.consume("orders").take() == ["late"]


def test_expired_message_is_not_delivered() -> None:
    """A message whose time to live is over is passed over and counted, whether new or coming again."""
    lab, anna = lab_with(entry("short", ttl_ms=1000), entry("long", ttl_ms=60_000), "for ever")
    first = anna.consume("orders", "first")
    first.nack(0, delay_ms=3000)
    first.take()

    lab.pass_time(3.5)
    second = anna.consume("orders", "second")

    assert first.take() == []
    assert second.take() == ["long", "for ever"]
    assert lab.group(name="first").counters.expired == lab.group(name="second").counters.expired == 1
    assert 0 not in lab.group(name="first").pending


def test_topic_gives_a_time_to_live_to_messages_that_name_none() -> None:
    """The topic's own time to live holds for messages without one, and only for those."""
    lab, anna = lab_with(ttl_ms=1000)
    anna.produce("orders", "default", entry("own", ttl_ms=5000))
    lab.pass_time(2)

    assert anna.consume("orders").take() == ["own"]


# -- the clock is set ------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_running_leases_and_waits_keep_their_time_when_the_clock_is_set(jump_ms: int) -> None:
    """While the broker runs, leases, delays and back-offs take as long as they should, whatever the clock says."""
    lab, anna = lab_with("leased", "refused", entry("delayed", delay_ms=8000))
    consumer = lab.peer().consume("orders", lease_ms=10_000, backoff_ms=0)
    consumer.nack(1, delay_ms=6000)
    consumer.take()

    lab.jump_clock(jump_ms)
    anna.produce("orders", "after")
    assert consumer.take() == ["after"]
    consumer.ack(3)
    lab.pass_time(5.9)
    assert consumer.take() == []
    lab.pass_time(0.2)
    assert consumer.take() == ["refused"]
    lab.pass_time(2)
    assert consumer.take() == ["delayed"]
    lab.pass_time(2)

    assert consumer.attempts() == [("leased", 2)]


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_waits_of_what_nobody_has_read_keep_their_time_when_the_clock_is_set(jump_ms: int) -> None:
    """A delay, a time to live, and what is written of them, are as long as they were said to be, read or not."""
    lab, anna = lab_with(entry("delayed", delay_ms=8000), entry("mortal", ttl_ms=9000))

    lab.jump_clock(jump_ms)
    anna.produce("orders", entry("after", delay_ms=4000))
    consumer = lab.peer().consume("orders")
    assert consumer.take() == ["mortal"]
    lab.pass_time(3.9)
    assert consumer.take() == []
    lab.pass_time(0.2)
    assert consumer.take() == ["after"]
    lab.pass_time(3.8)
    assert consumer.take() == []
    lab.pass_time(0.2)
    assert consumer.take() == ["delayed"]

    lab.pass_time(1)
    assert lab.peer().consume("orders", group="late").take() == ["delayed", "after"]


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_duplicate_window_is_as_long_as_it_was_when_the_clock_is_set(jump_ms: int) -> None:
    """An id is known until the window's time has passed, and no longer."""
    lab, anna = lab_with(entry("one", id_="a"), duplicate_window_s=60)

    lab.jump_clock(jump_ms)
    lab.pass_time(59)
    assert "duplicates" in anna.produce("orders", entry("one", id_="a"))
    lab.pass_time(2)
    assert "duplicates" not in anna.produce("orders", entry("one", id_="a"))


@pytest.mark.parametrize("jump_ms", [10 * HOUR_MS, -10 * HOUR_MS])
def test_retention_goes_by_what_has_passed_when_the_clock_is_set(jump_ms: int) -> None:
    """Messages are kept for as long as the topic says, and no longer."""
    lab, anna = lab_with("x" * 3000, keep_s=3600, segment_bytes=4096)
    anna.produce("orders", "y" * 3000)
    upkeep = Upkeep(lab.store)

    lab.jump_clock(jump_ms)
    lab.pass_time(3500)
    upkeep.look_after_some()
    assert lab.topic().log.start_offset == 0
    lab.pass_time(200)
    upkeep.look_after_some()
    assert lab.topic().log.start_offset == 1


@pytest.mark.parametrize("jump_ms", [HOUR_MS, 0, -HOUR_MS])
def test_nothing_is_lost_by_a_clock_that_is_set(jump_ms: int) -> None:
    """Whatever was in flight, refused or delayed when the clock was set comes, also when the broker restarts then."""
    lab, anna = lab_with("leased", "refused", entry("delayed", delay_ms=8000), "unread")
    consumer = lab.peer().consume("orders", window=2)
    consumer.nack(1, delay_ms=6000)
    lab.pass_time(0.1)

    lab.jump_clock(jump_ms)
    lab.crash()
    anna, heir = lab.peer(), lab.peer().consume("orders")
    lab.pass_time(2 * HOUR_MS / 1000)
    anna.produce("orders", "new")

    bodies = {one.body.decode() for one in heir.entries}
    assert bodies == {"leased", "refused", "delayed", "unread", "new"}


def test_waits_go_by_the_clock_after_a_restart() -> None:
    """A delay that has passed while the broker was down is over; what is left of it is waited for."""
    lab, _ = lab_with("soon", "later", entry("delayed", delay_ms=20_000))
    consumer = lab.peer().consume("orders")
    consumer.nack(0, delay_ms=5000)
    consumer.nack(1, delay_ms=30_000)
    lab.restart()

    lab.scheduler.advance(lab.scheduler.now_s + 10)
    lab.crash()
    consumer = lab.peer().consume("orders")

    assert consumer.attempts() == [("soon", 2)]
    lab.pass_time(9.9)
    assert consumer.take() == []
    lab.pass_time(0.2)
    assert consumer.attempts() == [("delayed", 1)]
    lab.pass_time(10)
    assert [body for body in consumer.take() if body != "soon"] == ["later"]


def test_wait_that_was_over_does_not_begin_again_when_the_clock_is_set_back() -> None:
    """A message that was due, and in flight when the broker crashed, comes at once, whatever the clock says then."""
    lab, _ = lab_with(entry("delayed", delay_ms=5000), "refused")
    consumer = lab.peer().consume("orders")
    consumer.nack(1, delay_ms=5000)
    lab.pass_time(5.1)
    assert sorted(consumer.take()) == ["delayed", "refused", "refused"]
    lab.pass_time(0.1)

    lab.jump_clock(-HOUR_MS)
    lab.crash()

    assert sorted(lab.peer().consume("orders").attempts()) == [("delayed", 2), ("refused", 3)]


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_producing_goes_on_when_the_clock_is_set(jump_ms: int) -> None:
    """Offsets, receipts, duplicates and seeking by time do not break when the clock jumps."""
    lab, anna = lab_with(entry("before", id_="a"))
    lab.jump_clock(jump_ms)
    lab.pass_time(1)

    receipt = anna.produce("orders", entry("after", id_="b"))
    again = anna.produce("orders", entry("after", id_="b"))
    found = anna.command("seek", topic="orders", group=make_group(lab), start={"time_ms": receipt["timestamp_ms"]})

    assert receipt["offset"] == 1
    assert again["duplicates"] == [[0, 1]]
    assert found["offset"] == 1
    assert bodies_of(anna.command("peek", topic="orders")) == ["before", "after"]


def make_group(lab: QueueLab) -> str:
    """Make a group and return its name."""
    lab.peer().command("declare_group", topic="orders", group="billing")
    return "billing"
