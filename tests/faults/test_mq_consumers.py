"""Consumers that die, hang, or read too slowly: others get their messages, and nobody else notices."""

import signal
import time
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.queue_load import Load, end
from tests.support.queue_peer import QueuePeer, entry
from tests.support.successors import Successors
from tests.support.waiting import wait_until

MIB = 1024 * 1024
POISON = "single-7"
"""In the names of some messages, which every consumer refuses."""


@pytest.fixture
def address(processes: Processes, tmp_path: Path) -> str:
    """Run a broker with a data directory, and return where."""
    return processes.broker("--data-dir", str(tmp_path / "data"))[1]


# -- consumers that die ----------------------------------------------------------------------------------


def test_others_take_over_at_once_and_first_in_line(address: str) -> None:
    """What a dead consumer had goes to others before anything else, long before its lease would end."""
    with QueuePeer(address) as producer, QueuePeer(address) as survivor:
        producer.declare("orders")
        producer.command("declare_group", topic="orders", group="billing", lease_ms=3_600_000)
        producer.produce("orders", *"abcdef")
        with QueuePeer(address) as victim:
            lost = victim.take(victim.consume("orders", "billing", window=3), 3)
            subscription = survivor.consume("orders", "billing", window=1)
            (current,) = survivor.take(subscription, 1)
            began = time.monotonic()
        wait_until(lambda: survivor.group("orders", "billing")["waiting"] == len(lost), "end noticed")
        order = [current]
        while len(order) < 6:
            survivor.ack(subscription, order[-1].first)
            order += survivor.take(subscription, 1)

    assert [one.body for one in lost] == [b"a", b"b", b"c"]
    assert [(one.body, one.attempts) for one in order] == [
        (b"d", 1),
        (b"a", 2),
        (b"b", 2),
        (b"c", 2),
        (b"e", 1),
        (b"f", 1),
    ]
    assert time.monotonic() - began < 5


def test_consumers_killed_in_the_middle_lose_nothing(processes: Processes, address: str) -> None:
    """Consumers are killed with -9 while they handle; what is poison ends as a dead letter, and nothing else does."""
    load = Load(processes, address)
    options = {"max_attempts": 8, "backoff": 0.01, "backoff_max": 0.02}
    settings: dict[str, object] = {"options": options, "handle_s": 0.001, "refuse": POISON, "window": 16}
    consumers = [load.consume("orders", "billing", **settings) for _ in range(2)]
    producer = load.produce("orders", label="p", styles=["single"], pause_s=0.002)
    for _ in range(4):
        load.grow(4000)
        consumers.pop(0).kill()
        consumers.append(load.consume("orders", "billing", **settings))
    end(producer)
    load.drain("orders", "billing")
    end(*consumers)
    with QueuePeer(address) as peer:
        letters = peer.command("dlq", topic="orders", count=1000)["messages"]

    verdict = load.ledger.verdict("orders", "billing")
    poison = {name for name in load.ledger.acked("orders") if POISON in name}
    print(f"{verdict}; dead letters {len(letters)}")
    assert verdict.is_good
    assert len(letters) == len(poison)
    assert {letter["body"] for letter in letters} == poison
    for letter in letters:
        refused, killed = f"{letter['body']} is refused (attempt 8 of 8)", "its consumer left (attempt 8 of 8)"
        assert letter["headers"]["dead-reason"] in (refused, killed)
        assert letter["headers"]["dead-group"] == "billing"


def test_attempts_are_counted_across_kills_of_the_broker(processes: Processes, tmp_path: Path) -> None:
    """Whoever restarts, the third failure of three is the last: the message is dead, with the reason."""
    brokers = Successors(processes, "--data-dir", str(tmp_path / "data"))
    with QueuePeer(brokers.address) as peer:
        peer.declare("orders")
        peer.command("declare_group", topic="orders", group="billing", max_attempts=3)
        peer.produce("orders", "poison")
    attempts = []
    for number in range(3):
        with QueuePeer(brokers.address) as peer:
            subscription = peer.consume("orders", "billing")
            (poison,) = peer.take(subscription, 1)
            attempts.append(poison.attempts)
            peer.nack(subscription, poison.first, reason=f"failure {number}", delay_ms=100)
            if number == 2:
                wait_until(lambda: peer.command("dlq", topic="orders")["messages"], "dead letter")
                peer.command("pause", topic="orders", group="billing")  # which stores that the group let go of it
            brokers.restart()
    with QueuePeer(brokers.address) as peer:
        letters = peer.command("dlq", topic="orders")["messages"]

    assert attempts == [1, 2, 3]
    assert [letter["body"] for letter in letters] == ["poison"]
    assert letters[0]["headers"]["dead-reason"] == "failure 2 (attempt 3 of 3)"
    assert letters[0]["headers"]["dead-attempts"] == "3"


# -- consumers that hang ---------------------------------------------------------------------------------


def test_hanging_consumer_loses_its_messages_and_burns_no_others(processes: Processes, address: str) -> None:
    """What a stopped consumer (SIGSTOP) had goes to others when its lease ends; it gets no more until it goes on.

    Otherwise it would take message after message, and hold each for a lease. When it goes on, what it says of messages
    that others have had is ignored, and it works again.
    """
    options = {"lease": 0.3, "backoff": 0}
    load = Load(processes, address)
    hanging = load.consume("orders", "billing", options=options, window=4, handle_s=0.2, confirm_every=1)
    producer = load.produce("orders", label="p", styles=["single"], pause_s=0, count=60)
    wait_until(lambda: load.ledger.got("orders", "billing"), "first delivery")
    hanging.send_signal(signal.SIGSTOP)
    other = load.consume("orders", "billing", options=options, window=4)
    assert producer.wait_exit() == 0, producer.errors
    load.drain("orders", "billing")
    with QueuePeer(address) as peer:
        redelivered = peer.group("orders", "billing")["counters"]["redelivered"]
    confirmed = load.ledger.done("orders", "billing")
    hanging.send_signal(signal.SIGCONT)
    again = load.produce("orders", label="again", styles=["single"], pause_s=0.01, count=60)
    assert again.wait_exit() == 0, again.errors
    wait_until(lambda: "again-" in load.ledger.written_by(1), "work of the consumer that goes on")
    load.drain("orders", "billing")
    end(hanging, other)

    verdict = load.ledger.verdict("orders", "billing")
    print(f"{verdict}; redelivered {redelivered}")
    got = load.ledger.got("orders", "billing")
    assert verdict.is_good
    assert verdict.acked == 120
    assert 1 <= redelivered <= 4
    assert sum(one.attempt > 1 for one in got) == redelivered
    assert max(one.attempt for one in got) == 2
    assert not [name for name in confirmed if f"done orders billing {name} " in load.ledger.written_by(1)]


def test_what_came_while_a_consumer_stood_still_is_not_handed_out(processes: Processes, address: str) -> None:
    """Messages that were sent to a stopped consumer, and that another has done since, are given back unseen.

    They were on their way when their leases ended, so that the consumer cannot tell from its buffer.
    """
    options = {"lease": 0.3, "backoff": 0}
    load = Load(processes, address)
    stopped = load.consume("orders", "billing", options=options, window=4, confirm_every=1)
    stopped.send_signal(signal.SIGSTOP)
    with QueuePeer(address) as peer:
        peer.produce("orders", *"abc")
        wait_until(lambda: peer.group("orders", "billing")["in_flight"] == 3, "messages sent")
    other = load.consume("orders", "billing", options=options, window=4, confirm_every=1)
    load.drain("orders", "billing")
    stopped.send_signal(signal.SIGCONT)
    again = load.produce("orders", label="again", styles=["single"], pause_s=0.01, count=60)
    assert again.wait_exit() == 0, again.errors
    wait_until(lambda: "again-" in load.ledger.written_by(1), "work of the consumer that goes on")
    load.drain("orders", "billing")
    end(stopped, other)

    assert load.ledger.done("orders", "billing").keys() >= set("abc")
    assert not [body for body in "abc" if f"got orders billing {body} " in load.ledger.written_by(1)]
    assert not load.ledger.verdict("orders", "billing").repeated


# -- consumers that read too slowly ----------------------------------------------------------------------


def test_consumer_that_reads_nothing_costs_bounded_memory(processes: Processes, tmp_path: Path) -> None:
    """While a consumer stands still amid 192 MiB, the broker stays small, and others finish at full speed."""
    broker, address = processes.broker("--data-dir", str(tmp_path / "data"), "--durability", "os")
    body = b"x" * MIB
    with QueuePeer(address) as slow, QueuePeer(address) as fast:
        slow.declare("films")
        memory_before = broker.memory_bytes
        slow.consume("films", "slow", window=4096)
        subscription = fast.consume("films", "fast", window=64)
        for number in range(192):
            fast.produce("films", entry(body))
            (film,) = fast.take(subscription, 1)
            fast.ack(subscription, film.first)
            assert film.first == number
            assert broker.memory_bytes - memory_before < 64 * MIB
        group = fast.group("films", "slow")

    assert 0 < group["lag"] <= 192
    assert not broker.log("broker.disconnected")


def test_backlog_of_large_messages_is_consumed(processes: Processes, tmp_path: Path) -> None:
    """A consumer with the usual window gets a backlog of large messages bit by bit, and keeps its connection.

    All of its window at once would be half a GiB, and look like a consumer that does not read.
    """
    broker, address = processes.broker("--data-dir", str(tmp_path / "data"), "--durability", "os")
    body, count = b"x" * (2 * MIB), 160
    with QueuePeer(address) as peer:
        peer.declare("films")
        for _ in range(count):
            peer.produce("films", entry(body))
    memory_before = broker.memory_bytes
    with QueuePeer(address) as peer:
        subscription = peer.consume("films", "cinema", window=256)
        time.sleep(0.2)
        assert broker.memory_bytes - memory_before < 64 * MIB
        offsets = [peer.take(subscription, 1)[0].first for _ in range(count)]

    assert offsets == list(range(count))
    assert broker.memory_bytes - memory_before < 64 * MIB


def test_consumer_with_a_small_limit_gets_small_frames(processes: Processes, tmp_path: Path) -> None:
    """However many messages wait, no frame is longer than its consumer said that it takes."""
    _, address = processes.broker("--data-dir", str(tmp_path / "data"), "--message-bytes-max", "4096")
    load = Load(processes, address)
    producer = load.produce("orders", label="p", styles=["single"], pause_s=0, count=100, padding=700)
    assert producer.wait_exit() == 0, producer.errors
    consumer = load.consume("orders", "billing")
    load.drain("orders", "billing")
    end(consumer)

    verdict = load.ledger.verdict("orders", "billing")
    assert verdict.is_good
    assert verdict.acked == 100
    assert not verdict.duplicated
