"""The power goes at every point of a small history of the message queue; whatever a disk then holds, promises are kept.

Promised is: a topic or group that was answered is there, one that was removed is not; a message with a receipt comes to
each group that there was, unless the group acknowledged it, or is a dead letter; no group stands behind the end of
its topic's log; what was emptied is gone.
"""

import contextlib

import pytest

from tests.support.faulty_disk import FaultyDisk, PowerCut
from tests.support.queue_lab import Consumer, Peer, QueueLab, bodies_of, entry
from tests.support.sweeps import one_of


class Ledger:
    """What was promised, and what was asked for and may be so."""

    def __init__(self) -> None:
        self.topics: dict[str, bool | None] = {}
        """Whether there is a topic; None while that is being changed."""
        self.groups: dict[tuple[str, str], bool | None] = {}
        self.owed: dict[tuple[str, str], set[str]] = {}
        """By topic and group: the messages that must come or be dead letters."""
        self.emptied: set[str] = set()
        """Messages that must not come back."""

    def check(self, disk: FaultyDisk) -> None:
        """Open what is left, and compare."""
        lab = QueueLab(disk)
        lab.run()
        for topic, is_there in self.topics.items():
            assert is_there is None or (topic in lab.store.topics) == is_there, topic
        for (topic, name), is_there in self.groups.items():
            found = topic in lab.store.topics and name in lab.topic(topic).groups
            assert is_there is None or found == is_there, f"group {name} of {topic}"
        for found_topic in lab.store.topics.values():
            for group in found_topic.groups.values():
                assert group.position <= found_topic.log.next_offset
                assert not group.pending or max(group.pending) < found_topic.log.next_offset
        for (topic, name), owed in self.owed.items():
            if self.groups[topic, name]:
                self._check_messages(lab, topic, name, owed)

    def _check_messages(self, lab: QueueLab, topic: str, name: str, owed: set[str]) -> None:
        consumer = lab.peer().consume(topic, name)
        for _ in range(3):
            consumer.work_off()
            lab.pass_time(3)  # what was refused, or delayed, waits
        found = {one.body.decode() for one in consumer.entries} | set(bodies_of(lab.peer().command("dlq", topic=topic)))
        assert not owed - found, f"group {name} of {topic} lost {sorted(owed - found)}"
        assert not self.emptied & {one.body.decode() for one in consumer.entries}


class History:
    """What happens before the power goes."""

    def __init__(self, disk: FaultyDisk, ledger: Ledger) -> None:
        self.lab, self.ledger = QueueLab(disk), ledger

    @property
    def peer(self) -> Peer:
        return self.lab.peer()

    def declare(self, topic: str, **options: object) -> None:
        self.ledger.topics[topic] = None
        self.peer.declare(topic, **options)
        self.ledger.topics[topic] = True

    def remove(self, topic: str) -> None:
        self.ledger.topics[topic] = None
        for key in [key for key in self.ledger.groups if key[0] == topic]:
            self.ledger.groups[key] = None
        self.peer.command("remove", topic=topic)
        self.ledger.topics[topic] = False

    def consume(self, topic: str, name: str, **options: object) -> Consumer:
        if (topic, name) in self.ledger.groups:
            return self.peer.consume(topic, name)
        self.ledger.groups[topic, name] = None
        consumer = self.peer.consume(topic, name, **options)
        self.ledger.groups[topic, name] = True
        self.ledger.owed[topic, name] = set()
        return consumer

    def remove_group(self, topic: str, name: str) -> None:
        self.ledger.groups[topic, name] = None
        self.peer.command("remove", topic=topic, group=name)
        self.ledger.groups[topic, name] = False

    def produce(self, topic: str, *messages: str | bytes, bodies: tuple[str, ...] = ()) -> None:
        self.peer.produce(topic, *messages)
        for key, owed in self.ledger.owed.items():
            if key[0] == topic:
                owed.update(bodies or (one for one in messages if isinstance(one, str)))

    def ack(self, consumer: Consumer, topic: str, *bodies: str) -> None:
        for body in bodies:
            self.ledger.owed[topic, consumer.group].discard(body)
        consumer.ack(*(consumer.offset_of(body) for body in bodies))

    def empty(self, topic: str) -> None:
        gone = set().union(*(owed for key, owed in self.ledger.owed.items() if key[0] == topic))
        for key in self.ledger.owed:
            if key[0] == topic:
                self.ledger.owed[key] = set()
        self.peer.command("empty", topic=topic)
        self.ledger.emptied |= gone

    def run(self) -> None:
        """Do a little of everything."""
        self.declare("orders", segment_bytes=4096)
        billing = self.consume("orders", "billing", window=4, max_attempts=2, backoff_ms=1000)
        self.produce("orders", "0", "1" * 1500, "2")
        self.consume("orders", "audit", start="newest").leave()
        self.produce("orders", "3" * 1500, "4" * 1500)
        self.produce("orders", entry("5", key="k"), entry("6", key="k", delay_ms=2000), bodies=("5", "6"))
        self.ack(billing, "orders", "0", "2")
        billing.nack(1, delay_ms=500)
        self.lab.pass_time(1)
        billing.nack(1, reason="again")  # its last attempt: it is dead
        self.lab.pass_time(1)
        self.declare("mails")
        self.consume("mails", "all")
        self.produce("mails", "a", "b")
        self.peer.declare("orders", keep_s=99, update=True)
        self.empty("mails")
        self.produce("mails", "c")
        self.remove_group("orders", "audit")
        self.lab.restart()
        billing = self.consume("orders", "billing")
        self.peer.command("retry_dead", topic="orders")
        self.ledger.owed["orders", "billing"] -= {"1" * 1500}  # the group passes it
        self.peer.command("seek", topic="orders", group="billing", start={"offset": 3})
        self.produce("orders", "7")
        self.ack(billing, "orders", "7")
        self.remove("mails")
        self.lab.restart()


def count_changes() -> int:
    disk = FaultyDisk()
    History(disk, Ledger()).run()
    return disk.changes


@pytest.mark.parametrize("cut_after", one_of(5, range(1, count_changes() + 1)))
def test_power_cut_keeps_every_promise(cut_after: int) -> None:
    """Every image of every crash holds the topics, groups and messages that were promised, and nothing removed."""
    disk, ledger = FaultyDisk(), Ledger()
    disk.cut_after = cut_after
    with contextlib.suppress(PowerCut):
        History(disk, ledger).run()
    seen: set[frozenset[tuple[str, bytes]]] = set()
    for title, image in disk.images():
        contents = frozenset((path, bytes(inode.data)) for path, inode in image.names.items())
        if contents in seen:  # what a damage leaves alone is the same as before
            continue
        seen.add(contents)
        try:
            ledger.check(image)
        except BaseException:
            print(f"image: {title}")
            raise
