"""A broker that is killed, stopped or ended under load: the ledger says that nothing which it promised is lost."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.ledger import Sent
from tests.support.processes import Processes, port_of
from tests.support.queue_load import Load, end
from tests.support.queue_peer import QueuePeer
from tests.support.successors import Successors

SEED = 20240611
ROUNDS = 20
ROUNDS_LONG = 500
BYTES_PER_ROUND = 6000
"""A round is not over before so much happened, about 60 messages: then the broker is killed at any moment."""
LEVELS = {"level-os": "os", "level-disk": "disk"}
FILTER = "eu.*"
SEGMENT_BYTES = 8192
KEEP = {"keep_bytes": SEGMENT_BYTES, "duplicate_window_ids": 10_000}
"""More ids than are stored while a producer looks for its broker; what is older goes at once."""
UPKEEP_S = 1.05
"""So long a broker must live to remove what is not kept."""


def is_european(sent: Sent) -> bool:
    """Say whether a message passes the filter of these tests."""
    return sent.tag.startswith("eu.")


def declare(address: str, levels: dict[str, str]) -> None:
    """Make topics, whose files are small, so that new ones are begun and old ones removed all the time."""
    with QueuePeer(address) as peer:
        for topic, level in levels.items():
            peer.declare(topic, durability=level, segment_bytes=SEGMENT_BYTES, **KEEP)


def assert_all_is_good(load: Load, groups: dict[str, list[str]]) -> None:
    """See that all that was promised to these groups, by topic, was kept."""
    verdicts = []
    for topic, names in groups.items():
        for name in names:
            is_wanted = is_european if name == "european" else lambda sent: True
            verdicts.append(load.ledger.verdict(topic, name, is_wanted))
            print(f"{topic}, {name}: {verdicts[-1]}")
    assert all(verdict.is_good and verdict.acked for verdict in verdicts)


@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(ROUNDS_LONG, marks=pytest.mark.long)])
def test_nothing_acknowledged_is_lost(processes: Processes, tmp_path: Path, rounds: int) -> None:
    """Through kills at any moment each group gets all that was acknowledged for it, in the order of each key.

    Single messages, batches and pipelines, some delayed, go into a topic of each level. What is promised of the order:
    the first deliveries of the messages with one key come as they were sent; after a kill some come again.
    """
    rng = random.Random(SEED)
    print(f"seed {SEED}, {rounds} rounds")
    brokers = Successors(processes, "--data-dir", str(tmp_path / "data"))
    declare(brokers.address, LEVELS)
    load = Load(processes, brokers.address)
    consumers = [load.consume(topic, "all") for topic in LEVELS]
    consumers += [load.consume("level-os", "all", window=8)]
    consumers += [load.consume("level-disk", "european", options={"filter": FILTER})]
    producers = [load.produce(*LEVELS, label=f"p{number}") for number in range(2)]
    for number in range(rounds):
        load.grow(BYTES_PER_ROUND)
        time.sleep(rng.random() * 0.02 + (UPKEEP_S if number % 10 == 5 else 0.0))
        brokers.broker.kill()
        if number % 3 == 0:  # and once more, while it puts in order what the last one left
            brokers.begin()
            time.sleep(rng.random() * 0.03)
            brokers.broker.kill()
        brokers.start()
        if number == rounds // 2:  # what it knew not to be stored is unknown from now on
            producers.pop().kill()
            producers.append(load.produce(*LEVELS, label="again"))
    end(*producers)
    load.drain("level-os", "all")
    load.drain("level-disk", "all")
    load.drain("level-disk", "european")
    end(*consumers)
    errors = brokers.errors

    assert_all_is_good(load, {"level-os": ["all"], "level-disk": ["all", "european"]})
    assert "Traceback" not in errors


def test_stopped_broker_loses_nothing(processes: Processes, tmp_path: Path) -> None:
    """A broker that stands still (SIGSTOP), for longer than leases and than it takes to be taken for dead, goes on."""
    broker, address = processes.broker("--data-dir", str(tmp_path / "data"), "--idle", "0.9")
    declare(address, LEVELS)
    load = Load(processes, address)
    consumers = [load.consume(topic, "all", options={"lease": 0.2, "backoff": 0.01}) for topic in LEVELS]
    producer = load.produce(*LEVELS, label="p")
    for seconds in (0.4, 1.3):
        load.grow(BYTES_PER_ROUND)
        broker.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        broker.send_signal(signal.SIGCONT)
    load.grow(BYTES_PER_ROUND)
    end(producer)
    for topic in LEVELS:
        load.drain(topic, "all")
    end(*consumers)

    assert_all_is_good(load, {topic: ["all"] for topic in LEVELS})
    assert "producer.link_lost" in producer.errors


def test_orderly_end_under_load_loses_nothing(processes: Processes, tmp_path: Path) -> None:
    """On SIGTERM under load the broker exits with 0, when consumers have finished what they had; the next goes on."""
    arguments = ("--data-dir", str(tmp_path / "data"))
    broker, address = processes.broker(*arguments)
    declare(address, LEVELS)
    load = Load(processes, address)
    consumers = [load.consume(topic, "all", handle_s=0.002) for topic in LEVELS]
    producer = load.produce(*LEVELS, label="p")
    for _ in range(2):
        load.grow(BYTES_PER_ROUND)
        broker.send_signal(signal.SIGTERM)
        assert broker.wait_exit() == 0, broker.errors
        assert "Traceback" not in broker.errors
        broker, _ = processes.broker(*arguments, port=port_of(address))
    load.grow(BYTES_PER_ROUND)
    end(producer)
    for topic in LEVELS:
        load.drain(topic, "all")
    end(*consumers)

    assert_all_is_good(load, {topic: ["all"] for topic in LEVELS})
