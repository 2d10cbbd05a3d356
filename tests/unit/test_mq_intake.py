"""The intake: messages that come one by one in a turn are one batch, and each is answered for itself."""

import pytest

from tests.support.queue_lab import QueueLab
from zbusrpc.broker.mq.intake import GATHERED_BYTES_MAX
from zbusrpc.errors import RpcError
from zbusrpc.transport.entries import Entry


def entry(body: bytes, id_: bytes = b"", tag: bytes = b"") -> Entry:
    """Return a message."""
    return Entry(0, 0, 0, id_, tag, b"", b"", body)


class Told:
    """What was told of messages, in the order it was told."""

    def __init__(self) -> None:
        self.stored_ms: list[int] = []
        self.errors: list[RpcError] = []

    def __call__(self, stored_ms: int, error: RpcError | None) -> None:
        if error is None:
            self.stored_ms.append(stored_ms)
        else:
            self.errors.append(error)


@pytest.fixture
def lab() -> QueueLab:
    lab = QueueLab()
    lab.peer().declare("orders")
    return lab


def bodies(lab: QueueLab) -> list[bytes]:
    """Return the bodies of the stored messages."""
    return [record.body for record in lab.topic().log.read(0)]


def test_messages_of_one_turn_are_one_write(lab: QueueLab) -> None:
    """All that come in a turn are stored together, in their order, and each is told of."""
    told, writes = Told(), lab.topic().committer.writes

    for number in range(100):
        lab.queues.intake.store(lab.topic(), entry(b"%d" % number), told)
    lab.run()

    assert bodies(lab) == [b"%d" % number for number in range(100)]
    assert lab.topic().committer.writes == writes + 1
    assert len(told.stored_ms) == 100
    assert not told.errors


def test_message_is_not_told_of_before_it_is_safe(lab: QueueLab) -> None:
    """At level disk a message is told of when it is synced."""
    told = Told()
    lab.hold_workers()

    lab.queues.intake.store(lab.topic(), entry(b"one"), told)
    lab.run()
    assert not told.stored_ms
    lab.release_workers()
    lab.run()

    assert len(told.stored_ms) == 1


def test_message_with_the_id_of_another_is_stored_as_well(lab: QueueLab) -> None:
    """Clients of zbus send one message object again and mean another message."""
    told = Told()
    for _ in range(2):
        lab.queues.intake.store(lab.topic(), entry(b"same", id_=b"1"), told)
    lab.run()

    assert bodies(lab) == [b"same", b"same"]


def test_message_that_does_not_fit_hurts_no_other(lab: QueueLab) -> None:
    """Each is checked for itself, before it joins the others."""
    told = Told()
    lab.queues.intake.store(lab.topic(), entry(b"before"), told)
    with pytest.raises(RpcError, match="tag of 300 bytes"):
        lab.queues.intake.store(lab.topic(), entry(b"x", tag=b"t" * 300), told)
    lab.queues.intake.store(lab.topic(), entry(b"after"), told)
    lab.run()

    assert bodies(lab) == [b"before", b"after"]
    assert len(told.stored_ms) == 2


def test_much_is_handed_over_before_the_turn_ends(lab: QueueLab) -> None:
    """What is gathered stays small: a batch is written as a whole."""
    told, body = Told(), b"x" * (GATHERED_BYTES_MAX // 2 + 1)
    for _ in range(5):
        lab.queues.intake.store(lab.topic(), entry(body), told)
    lab.run()

    assert len(bodies(lab)) <= 5
    assert lab.topic().log.next_offset == 5
    assert len(told.stored_ms) == 5


def test_all_of_a_failed_write_are_told(lab: QueueLab) -> None:
    """A topic that is closed takes nothing, and says so for each message."""
    told = Told()
    for body in (b"one", b"two"):
        lab.queues.intake.store(lab.topic(), entry(body), told)
    lab.topic().log.fail("the disk is gone")
    lab.run()

    assert lab.queues.intake.shares.total == 0
    assert len(told.errors) == 2
    assert "the disk is gone" in told.errors[0].message
