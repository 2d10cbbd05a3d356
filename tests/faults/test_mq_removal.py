"""What was removed or emptied is gone: also when the broker is killed with -9 right after it said so, under load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.queue_peer import QueuePeer, entry
from tests.support.successors import Successors
from zbusrpc.errors import Code, RpcError

ROUNDS = 6
OLD = 20
NEW = 60
LEVELS = ("memory", "os", "disk")


@pytest.fixture
def brokers(processes: Processes, tmp_path: Path) -> Iterator[Successors]:
    """Run brokers on one data directory."""
    brokers = Successors(processes, "--data-dir", str(tmp_path / "data"))
    yield brokers
    assert "Traceback" not in brokers.errors


def begin_round(peer: QueuePeer, number: int) -> str:
    """Make a topic with messages and two groups, of which one has some in hand; return its name."""
    topic = f"topic-{number}"
    peer.declare(topic, durability=LEVELS[number % len(LEVELS)], segment_bytes=4096)
    peer.command("declare_group", topic=topic, group="idle")
    peer.produce(topic, *[entry(f"old {one}", id_=f"{number}-{one}", delay_ms=one % 2) for one in range(OLD)])
    subscription = peer.consume(topic, "busy", window=8)
    peer.ack(subscription, *[one.first for one in peer.take(subscription, 4)[:2]])
    return topic


def post_load(peer: QueuePeer, topic: str) -> list[int]:
    """Send messages that are on their way while something else is done."""
    return [peer.post_produce(topic, entry(f"new {number} {'x' * 200}")) for number in range(NEW)]


def topics(peer: QueuePeer) -> set[str]:
    """Return the names of the topics that there are."""
    return {one["topic"] for one in peer.command("topics")}


def test_removed_topics_never_come_back(brokers: Successors, tmp_path: Path) -> None:
    """A topic that was said to be removed is gone after a kill -9, with its files; another of its name is empty."""
    for number in range(ROUNDS):
        with QueuePeer(brokers.address) as peer, QueuePeer(brokers.address) as loading:
            topic = begin_round(peer, number)
            requests = post_load(loading, topic)
            peer.command("remove", topic=topic)
            assert all(is_stored_or_gone(loading, request) for request in requests[: NEW // 2])
            brokers.restart()
        with QueuePeer(brokers.address) as peer:
            assert topic not in topics(peer)
            with pytest.raises(RpcError) as refused:
                peer.produce(topic, "late")
            assert refused.value.code is Code.NOT_FOUND

    assert not list((tmp_path / "data" / "topics").glob("topic-*"))
    with QueuePeer(brokers.address) as peer:
        peer.declare("topic-0")
        described = peer.command("topic", topic="topic-0")
        assert (described["messages"], described["next_offset"], described["groups"]) == (0, 0, [])


def is_stored_or_gone(peer: QueuePeer, request_id: int) -> bool:
    """Say whether a producer was told either of the two."""
    outcome = peer.outcome(request_id)
    return outcome.code is Code.NOT_FOUND if isinstance(outcome, RpcError) else outcome["offset"] >= 0


def test_removed_groups_never_come_back(brokers: Successors) -> None:
    """A group that was said to be removed is gone after a kill -9; its consumer was told; another begins anew."""
    for number in range(ROUNDS):
        with QueuePeer(brokers.address) as peer, QueuePeer(brokers.address) as loading:
            topic = begin_round(peer, number)
            post_load(loading, topic)
            peer.command("remove", topic=topic, group="busy")
            assert [error.code for error in peer.ended.values()] == [Code.NOT_FOUND]
            brokers.restart()
        with QueuePeer(brokers.address) as peer:
            assert [group["group"] for group in peer.command("topic", topic=topic)["groups"]] == ["idle"]
            again = peer.take(peer.consume(topic, "busy"), 1)[0]
            assert (again.body, again.attempts) == (b"old 0", 1)


def test_emptied_topics_stay_empty(brokers: Successors) -> None:
    """What a topic held when it was said to be empty is gone after a kill -9; its offsets are not given out again."""
    for number in range(ROUNDS):
        with QueuePeer(brokers.address) as peer, QueuePeer(brokers.address) as loading:
            topic = begin_round(peer, number)
            requests = post_load(loading, topic)
            removed = peer.command("empty", topic=topic)["removed"]
            stored = [loading.answer(request)["offset"] for request in requests[: NEW // 2]]
            brokers.restart()
        with QueuePeer(brokers.address) as peer:
            last = peer.produce(topic, "last")["offset"]
            bodies = read_all(peer, topic, "idle")
            assert bodies[-1] == "last"
            assert not [body for body in bodies if body.startswith("old")]
            assert not [body for body in read_all(peer, topic, "busy") if body.startswith("old")]
        assert removed >= OLD
        assert last > max(stored) or LEVELS[number % len(LEVELS)] == "memory"
        assert last >= removed


def test_emptied_groups_stay_empty(brokers: Successors) -> None:
    """What a group was said to have passed does not come to it after a kill -9; the other group gets all of it."""
    for number in range(ROUNDS):
        with QueuePeer(brokers.address) as peer:
            topic = begin_round(peer, number)
            assert peer.command("empty", topic=topic, group="busy")["removed"] == OLD - 2
            brokers.restart()
        with QueuePeer(brokers.address) as peer:
            peer.produce(topic, "last")
            assert read_all(peer, topic, "busy") == ["last"]
            assert read_all(peer, topic, "idle") == [f"old {one}" for one in range(OLD)] + ["last"]


def read_all(peer: QueuePeer, topic: str, group: str) -> list[str]:
    """Return what a group gets, up to the message that was stored last."""
    subscription = peer.consume(topic, group)
    bodies: list[str] = []
    while not bodies or bodies[-1] != "last":
        (got,) = peer.take(subscription, 1)
        peer.ack(subscription, got.first)
        bodies.append(got.body.decode().partition(" x")[0])
    return bodies
