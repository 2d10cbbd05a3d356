"""Messages of one key come one at a time, in the order of the log, whatever happens to them."""

import pytest

from tests.support.queue_lab import Consumer, QueueLab, entry, lab_with

ABC = ["a1", "b1", "a2", "c1", "a3", "b2"]


def keyed(*bodies: str) -> list[bytes]:
    """Return messages whose key is the first letter of their body."""
    return [entry(body, key=body[0]) for body in bodies]


def finish(consumer: Consumer, body: str) -> list[str]:
    """Acknowledge a message, and return what comes then."""
    assert consumer.ack(consumer.offset_of(body)) == 1
    return consumer.take()


def test_second_message_of_a_key_waits_for_the_first() -> None:
    """Of each key one message is out; the next one comes when it is done, and other keys are not held up."""
    lab, _ = lab_with(*keyed(*ABC))
    consumer = lab.peer().consume("orders")

    assert consumer.take() == ["a1", "b1", "c1"]
    assert finish(consumer, "a1") == ["a2"]
    assert finish(consumer, "c1") == []
    assert finish(consumer, "a2") == ["a3"]
    assert finish(consumer, "b1") == ["b2"]
    assert finish(consumer, "a3") == []


def test_key_is_busy_for_all_consumers() -> None:
    """The next message of a key may go to another consumer, but not before the first is done."""
    lab, anna = lab_with()
    first, second = (lab.peer().consume("orders", window=1) for _ in range(2))
    anna.produce("orders", *keyed("a1", "a2"))
    assert (first.take(), second.take()) == (["a1"], [])

    first.ack(0)

    assert sorted([*first.take(), *second.take()]) == ["a2"]


def test_messages_without_a_key_are_free() -> None:
    """An empty key is none."""
    lab, _ = lab_with("1", "2", entry("k", key="k"), "3")

    assert lab.peer().consume("orders").take() == ["1", "2", "k", "3"]


def test_refused_message_keeps_its_key() -> None:
    """While a message waits to come again, those behind it wait too."""
    lab, _ = lab_with(*keyed("a1", "a2"))
    consumer = lab.peer().consume("orders")

    consumer.nack(0, delay_ms=5000)
    lab.pass_time(4)
    assert consumer.take() == ["a1"]
    lab.pass_time(2)

    assert consumer.take() == ["a1"]
    assert finish(consumer, "a1") == ["a2"]


def test_key_is_kept_when_a_lease_ends() -> None:
    """A message whose consumer hangs holds up its key until it is done."""
    lab, _ = lab_with(*keyed("a1", "a2"))
    consumer = lab.peer().consume("orders", lease_ms=1000, backoff_ms=1000)

    lab.pass_time(2.5)

    assert set(consumer.take()) == {"a1"}
    assert finish(consumer, "a1") == ["a2"]


def test_key_is_kept_when_its_consumer_leaves() -> None:
    """The heir gets the message that was out before those behind it."""
    lab, _ = lab_with(*keyed("a1", "a2", "b1"))
    lab.peer().consume("orders").peer.disconnect()

    heir = lab.peer().consume("orders")

    assert heir.take() == ["a1", "b1"]
    assert finish(heir, "a1") == ["a2"]


def test_released_message_comes_before_those_of_its_key() -> None:
    """A message that was put back is still the first of its key."""
    lab, _ = lab_with(*keyed("a1", "a2"))
    consumer = lab.peer().consume("orders", window=2)

    consumer.nack(0, then="release")

    assert consumer.take() == ["a1", "a1"]
    assert finish(consumer, "a1") == ["a2"]


def test_dead_message_frees_its_key_when_it_is_stored() -> None:
    """The next message of a key comes once the dead one is safe in the dead-letter topic."""
    lab, anna = lab_with(*keyed("a1", "a2"))
    anna.declare("orders.dlq")
    consumer = lab.peer().consume("orders")
    lab.hold_workers()

    consumer.nack(0, then="dead")
    assert consumer.take() == ["a1"]
    lab.release_workers()

    assert consumer.take() == ["a2"]


@pytest.mark.parametrize("is_clean", [True, False])
def test_order_of_keys_survives_a_restart(is_clean: bool) -> None:
    """After a restart what was out comes first, and what was held is still held behind it."""
    lab, _ = lab_with(*keyed(*ABC))
    consumer = lab.peer().consume("orders")
    finish(consumer, "b1")
    consumer.nack(consumer.offset_of("c1"), delay_ms=3000)
    lab.pass_time(0.1)

    if is_clean:
        lab.restart()
    else:
        lab.crash()
    consumer = lab.peer().consume("orders")

    assert consumer.take() == ["a1", "b2"]
    lab.pass_time(3)
    assert consumer.take() == ["c1"]
    assert finish(consumer, "a1") == ["a2"]
    assert finish(consumer, "a2") == ["a3"]


def test_refused_message_keeps_its_key_over_a_restart() -> None:
    """A message that waits to come again holds up its key after a restart as before."""
    lab, _ = lab_with(*keyed("a1", "a2"))
    lab.peer().consume("orders").nack(0, delay_ms=5000)
    lab.restart()

    consumer = lab.peer().consume("orders")
    assert consumer.take() == []
    lab.pass_time(5.1)

    assert consumer.take() == ["a1"]
    assert finish(consumer, "a1") == ["a2"]


def test_seek_frees_all_keys() -> None:
    """After a move the first message of each key comes again, and nothing waits for what was out before."""
    lab, anna = lab_with(*keyed(*ABC))
    consumer = lab.peer().consume("orders")
    consumer.take()

    anna.command("seek", topic="orders", group="billing", start="oldest")
    assert consumer.take() == ["a1", "b1", "c1"]
    anna.command("seek", topic="orders", group="billing", start={"offset": 2})

    assert consumer.take() == ["a2", "c1", "b2"]
    assert finish(consumer, "a2") == ["a3"]


def test_delayed_message_does_not_hold_up_its_key() -> None:
    """A message whose time has not come holds up nobody; when it has, it takes its turn."""
    lab, anna = lab_with()
    anna.produce("orders", entry("a1", key="a", delay_ms=1000), entry("a2", key="a"), entry("a3", key="a"))
    consumer = lab.peer().consume("orders")
    assert consumer.take() == ["a2"]

    lab.pass_time(1.1)
    assert consumer.take() == []

    assert finish(consumer, "a2") == ["a3"]
    assert finish(consumer, "a3") == ["a1"]


def test_delayed_message_does_not_hold_up_its_key_after_a_restart() -> None:
    """A message that was read before a restart, and whose time has not come, holds up nobody after it either."""
    lab, anna = lab_with()
    anna.produce("orders", entry("a1", key="a", delay_ms=60_000), *keyed("a2", "a3"))
    lab.peer().consume("orders")
    lab.pass_time(0.1)
    lab.crash()

    consumer = lab.peer().consume("orders")

    assert consumer.work_off() == ["a2", "a3"]
    lab.pass_time(61)
    assert consumer.take() == ["a1"]


def test_delayed_message_that_a_seek_passed_takes_no_key() -> None:
    """When the time of a message comes that the group does not wait for any more, its key stays free."""
    lab, anna = lab_with(entry("a1", key="a", delay_ms=1000))
    consumer = lab.peer().consume("orders")

    anna.command("seek", topic="orders", group="billing", start="newest")
    lab.pass_time(2)
    anna.produce("orders", *keyed("a2", "a3"))

    assert consumer.work_off() == ["a2", "a3"]


def test_expired_message_frees_its_key() -> None:
    """A message that has expired while it was held, or waited, lets the next one of its key through."""
    lab, anna = lab_with()
    anna.produce("orders", *keyed("a1"), entry("a2", key="a", ttl_ms=500), *keyed("a3"))
    consumer = lab.peer().consume("orders")
    lab.pass_time(1)
    consumer.take()

    assert finish(consumer, "a1") == ["a3"]


def test_filtered_message_takes_no_key() -> None:
    """What a group does not want holds up nobody."""
    lab, _ = lab_with(entry("a1", key="a", tag="x"), entry("a2", key="a", tag="y"))

    assert lab.peer().consume("orders", filter="y").take() == ["a2"]


def test_group_without_acknowledgements_keeps_the_order() -> None:
    """Where nothing is acknowledged all messages of a key come, in order."""
    lab, _ = lab_with(*keyed(*ABC))

    assert lab.peer().consume("orders", ack=False).take() == ABC


def test_revived_message_waits_for_its_key() -> None:
    """A message that is brought back waits while another one of its key is out."""
    lab, _ = lab_with(*keyed("a1", "a2", "a3"))
    consumer = lab.peer().consume("orders")
    finish(consumer, "a1")

    lab.store.take_back(lab.group(), 0)
    lab.run()
    assert consumer.take() == []

    assert finish(consumer, "a2") in (["a1"], ["a3"])


def test_message_revived_in_a_resting_group_after_a_restart_comes() -> None:
    """A group that is paused while a message is brought back hands it out when it goes on."""
    lab, anna = lab_with(*keyed("a1", "a2", "b1"))
    consumer = lab.peer().consume("orders")
    finish(consumer, "a1")
    anna.command("pause", topic="orders", group="billing")
    lab.crash()

    lab.store.take_back(lab.group(), 0)
    lab.peer().command("resume", topic="orders", group="billing")

    assert sorted(lab.peer().consume("orders").work_off()) == ["a1", "a2", "b1"]


def test_held_messages_are_read_again_where_there_was_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large messages that wait behind their key are not kept in memory, and come all the same."""
    monkeypatch.setattr("zbusrpc.broker.mq.keys.HELD_BYTES_MAX", 1500)
    bodies = [f"a{number}" * 500 for number in range(4)]
    lab, _ = lab_with(*(entry(body, key="a") for body in bodies))
    consumer = lab.peer().consume("orders")

    found = consumer.take()
    for body in bodies:
        found += finish(consumer, body)

    assert found == bodies


def test_a_thousand_keys_are_bounded_by_what_is_pending() -> None:
    """When everything is done nothing is kept of any key."""
    lab, anna = lab_with()
    consumer = lab.peer().consume("orders", window=4096)
    for number in range(10):
        anna.produce("orders", *(entry(f"{number}-{key}", key=f"{key}") for key in range(100)))

    assert len(consumer.work_off()) == 1000
    assert lab.group().pending == {}
    assert held_keys(lab) == 0


def held_keys(lab: QueueLab) -> int:
    """Return of how many keys a group knows."""
    return len(lab.group()._keys._held)
