"""Long work of the broker goes in slices: counted are steps, messages and reads of a turn of the loop, not seconds."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from tests.support.queue_lab import DATA_DIR, QueueLab, entry, lab_with
from zbusrpc.broker.assembly.data_directory import SAID_EVERY_S, Progress
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.mq import deliveries
from zbusrpc.broker.mq.backend import FileBackend
from zbusrpc.broker.mq.deliveries import LEARN_MAX
from zbusrpc.broker.mq.group import DISPATCH_MAX, EXPIRE_MAX
from zbusrpc.broker.mq.names import LETTERS_GROUP
from zbusrpc.broker.mq.slices import BYTES_MAX, STEPS_MAX, do_slice, in_slices
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.storage.errors import ReadFailedError
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

READS_MAX = 2 * DISPATCH_MAX
"""Reads of the disk in one turn, where each message takes one and some find the way."""


class Turns:
    """What each turn of a lab's loop took of the disk."""

    def __init__(self, lab: QueueLab) -> None:
        self.lab = lab
        self.reads: list[int] = []

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Go on until there is nothing to do, or something is so."""
        scheduler = self.lab.scheduler
        while (scheduler.turns or scheduler.work or not self.reads) and not is_over():
            before = self.lab.disk.calls["pread"]
            self.lab.turn()
            self.reads.append(self.lab.disk.calls["pread"] - before)
            while scheduler.work:
                self.lab.work()


def produce_many(lab: QueueLab, count: int, **fields: int) -> None:
    """Store messages in a few frames; each third has a key."""
    anna = lab.peer()
    for first in range(0, count, 500):
        numbers = range(first, min(count, first + 500))
        anna.produce("orders", *(entry(f"{n}", key=f"{n}" if n % 3 == 0 else "", **fields) for n in numbers))


def test_restart_with_many_delayed_messages_holds_no_turn() -> None:
    """A group that has thousands in hand is served after a restart turn by turn, and reads them as blocks."""
    count = 4 * LEARN_MAX
    lab, _ = lab_with()
    consumer = lab.peer().consume("orders", window=8)
    produce_many(lab, count, delay_ms=60_000)
    lab.pass_time(1)
    assert len(lab.group().pending) == count
    consumer.leave()
    lab.restart()

    before = lab.disk.calls["pread"]
    heir = lab.peer()
    heir.send(Kind.CONSUME, b'{"group":"billing","window":8}', topic="orders")
    turns = Turns(lab)
    turns.run()

    assert len(turns.reads) >= count / LEARN_MAX / 2, (
        "a turn of the lab hands out before and after what was to be called"
    )
    assert max(turns.reads) <= READS_MAX
    assert lab.disk.calls["pread"] - before < count / 4, "they are read as blocks"
    lab.peer().produce("orders", "new")
    lab.pass_time(61)
    assert len(lab.group().pending) == count + 1


def test_keys_are_learnt_a_bounded_number_at_a_time() -> None:
    """No dispatch looks at more than its share, and nothing is handed out before all are known."""
    count = 3 * LEARN_MAX + 1
    lab, _ = lab_with()
    consumer = lab.peer().consume("orders", window=8)
    produce_many(lab, count, delay_ms=60_000)
    lab.pass_time(1)
    consumer.leave()
    lab.restart()
    group = lab.group()

    lefts = []
    while group._unlearned:
        lefts.append(len(group._unlearned))
        assert group.dispatch(lab.scheduler.now(), lab.scheduler.now_ms()) == []
    assert lefts == [count, count - LEARN_MAX, count - 2 * LEARN_MAX, 1]


def test_many_messages_that_are_due_at_once_hold_no_turn() -> None:
    """Each look at the clock takes a share of them; the next comes at once."""
    count = 2 * EXPIRE_MAX + 10
    lab, _ = lab_with()
    lab.peer().consume("orders", window=1)
    produce_many(lab, count, delay_ms=60_000)
    lab.pass_time(1)
    group = lab.group()
    lab.scheduler.advance(lab.scheduler.now_s + 60)

    waiting = []
    while (at := group.next_at()) is not None and at <= lab.scheduler.now_s:
        group.expire(lab.scheduler.now_s, lab.scheduler.now_ms())
        waiting.append(len(group._waiting))

    assert waiting == [EXPIRE_MAX, 2 * EXPIRE_MAX, count]


def lab_with_letters(count: int) -> QueueLab:
    """Return a lab with so many dead letters."""
    lab, anna = lab_with()
    consumer = anna.consume("orders", window=1000)
    produce_many(lab, count)
    while consumer.take():
        pass
    for first in range(0, count, 500):
        consumer.nack(*range(first, min(count, first + 500)), then="dead", reason="bad")
    lab.pass_time(1)
    consumer.leave()
    lab.run()
    return lab


def test_giving_back_many_letters_holds_no_turn() -> None:
    """Each turn gives back a share; others are served in between, and all come in the end, once."""
    count = 5 * STEPS_MAX
    lab = lab_with_letters(count)
    lab.restart()
    anna, group = lab.peer(), lab.group()

    request = anna.send_command("retry_dead", topic="orders")
    pending = [len(group.pending)]
    with pytest.raises(RpcError, match="are being given back") as caught:
        anna.answer(anna.send_command("retry_dead", topic="orders"))
    turns = Turns(lab)
    turns.run(lambda: pending.append(len(group.pending)) is not None)

    assert caught.value.code is Code.ABORTED
    assert max(after - before for before, after in pairwise(pending)) <= STEPS_MAX
    assert max(turns.reads) <= READS_MAX
    assert anna.answer(request) == {"retried": count, "left": [], "next_offset": count, "end_offset": count}
    assert anna.command("dlq", topic="orders")["messages"] == []
    assert anna.command("retry_dead", topic="orders")["retried"] == 0
    consumer = lab.peer().consume("orders", window=1000)
    assert sorted(consumer.take()) == sorted(f"{number}" for number in range(count))


def test_letters_are_given_back_some_at_a_time() -> None:
    """Each command deals with as many as it says, and tells where to go on, and where those ended that were there."""
    lab = lab_with_letters(10)
    anna = lab.peer()

    told, start = [], 0
    while start < 10:
        some = anna.command("retry_dead", topic="orders", start=start, count=4)
        told.append((some["retried"], start := some["next_offset"], some["end_offset"]))

    assert told == [(4, 4, 10), (4, 8, 10), (2, 10, 10)]
    assert len(lab.group().pending) == 10


def test_forgetting_many_letters_holds_no_turn() -> None:
    """They are read as blocks, a share in each turn."""
    count = 4 * STEPS_MAX
    lab = lab_with_letters(count)
    anna = lab.peer()

    request = anna.send_command("purge_dead", topic="orders")
    turns = Turns(lab)
    turns.run()

    assert len(turns.reads) >= count / STEPS_MAX
    assert anna.answer(request) == {"purged": count}
    assert anna.command("dlq", topic="orders")["messages"] == []


@pytest.mark.parametrize("command", ["purge_dead", "retry_dead"])
def test_dealing_with_one_letter_behind_many_holds_no_turn(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it are passed turn by turn, stay, and are written down as they are passed, and not all at once."""
    monkeypatch.setattr(deliveries, "PASS_STEP", 1)
    count = 5 * STEPS_MAX
    lab = lab_with_letters(count)
    lab.restart()
    anna = lab.peer()

    request = anna.send_command(command, topic="orders", offsets=[count - 1])
    letters = lab.group("orders.dlq", LETTERS_GROUP)
    positions = [0]
    Turns(lab).run(lambda: positions.append(letters.position) is not None)

    assert positions[-1] == count
    assert max(after - before for before, after in pairwise(positions)) <= 2 * STEPS_MAX
    assert anna.answer(request)["purged" if command == "purge_dead" else "retried"] == 1
    lab.restart()
    anna = lab.peer()
    found = anna.command("dlq", topic="orders", count=1000)["messages"]
    assert [one["offset"] for one in found] == list(range(count - 1))


def test_topic_that_is_removed_while_letters_are_passed_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is told, and nothing of the group comes back."""
    monkeypatch.setattr(deliveries, "PASS_STEP", 1)
    count = 3 * STEPS_MAX
    lab = lab_with_letters(count)
    anna = lab.peer()
    request = anna.send_command("purge_dead", topic="orders", offsets=[count - 1])
    letters = lab.topic("orders.dlq")
    lab.store.remove_topic(letters, lambda error: None)
    lab.run()

    with pytest.raises(RpcError, match="was removed") as caught:
        anna.answer(request)

    assert caught.value.code is Code.NOT_FOUND
    lab.restart()
    assert "orders.dlq" not in lab.store.topics


def test_ids_are_read_in_slices_while_producers_wait() -> None:
    """The first message after a restart waits until the ids of late ones are known, and so do those after it."""
    size = BYTES_MAX // 3
    lab, anna = lab_with()
    for number in range(12):
        anna.produce("orders", entry("x" * size, id_=f"id-{number}"))
    lab.restart()
    anna = lab.peer()

    requests = [anna.send_produce("orders", entry(f"new-{number}", id_=f"id-{number}")) for number in (20, 3, 21)]
    turns = Turns(lab)
    turns.run()

    assert len(turns.reads) >= 4
    assert max(turns.reads) <= 16
    receipts = [anna.answer(request) for request in requests]
    assert [receipt["offset"] for receipt in receipts][::2] == [12, 13]
    assert receipts[1]["duplicates"] == [[0, 3]]


def test_looking_for_an_id_does_not_read_all_at_once() -> None:
    """Who looks for a message by its id while they are being read is asked to come again."""
    size = BYTES_MAX // 3
    lab, anna = lab_with()
    for number in range(12):
        anna.produce("orders", entry("x" * size, id_=f"id-{number}"))
    lab.restart()
    anna = lab.peer()

    with pytest.raises(RpcError, match="are being read; ask again") as caught:
        anna.answer(anna.send_command("peek", topic="orders", start={"id": "id-11"}, count=1))
    lab.run()

    assert caught.value.code is Code.UNAVAILABLE
    assert anna.command("peek", topic="orders", start={"id": "id-11"}, count=1)["messages"][0]["offset"] == 11


def test_what_waits_for_ids_that_cannot_be_read_is_told() -> None:
    """A disk that does not give them refuses the message; the next one tries again."""
    lab, _ = lab_with(entry("one", id_="a"))
    lab.restart()
    anna = lab.peer()
    lab.disk.fail("pread", 5)

    with pytest.raises(RpcError, match="Input/output error"):
        anna.produce("orders", entry("two", id_="b"))

    assert anna.produce("orders", entry("two", id_="b"))["offset"] == 1


def lab_with_requests(count: int, body: bytes = b"x") -> QueueLab:
    """Return a lab, opened again, whose durable service has so many requests that are not done."""
    lab, _ = lab_with(topic="Pay", rpc=True)
    for first in range(0, count, 500):
        records = [Record(body, id=f"{number}".encode()) for number in range(first, min(count, first + 500))]
        lab.topic("Pay").append(records, lambda offset, error: None)
        lab.run()
    lab.restart()
    return lab


@pytest.mark.parametrize(("count", "size", "slices"), [(10 * STEPS_MAX, 1, 10), (12, BYTES_MAX // 3, 3)])
def test_requests_of_durable_services_are_read_in_slices(count: int, size: int, slices: int) -> None:
    """A restart reads them as blocks, a share in each turn, and all of them wait for an instance in the end."""
    lab = lab_with_requests(count, b"x" * size)
    broker = Broker()
    broker.attach(lab.store)

    steps, reads, waiting = broker.restoring(), [lab.disk.calls["pread"]], [0]
    while do_slice(steps):
        reads.append(lab.disk.calls["pread"])
        waiting.append(broker.restored)

    assert max(after - before for before, after in pairwise(waiting)) <= STEPS_MAX
    assert len(waiting) - 1 == slices
    assert max(after - before for before, after in pairwise(reads)) <= 16
    assert broker.restored == broker.statistics()["queued"] == count


def test_opening_takes_a_turn_for_each_topic() -> None:
    """A start with many topics goes on turn by turn, and tells how many it has opened of how many."""
    lab, anna = lab_with()
    for number in range(20):
        anna.declare(f"t{number}")
    lab.restart()
    store = Store(FileBackend(lab.disk, DATA_DIR), lab.scheduler)

    steps, opened = store.opening(), [0]
    while do_slice(steps):
        opened.append(len(store.topics))

    assert max(after - before for before, after in pairwise(opened)) == 1
    assert opened[-1] == store.found == 21


def test_restart_gives_one_group_back_what_it_had_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with very much in hand takes many turns of a start, and has all of it in the end."""
    monkeypatch.setattr(deliveries, "PASS_STEP", 1)
    count = 5 * STEPS_MAX
    lab, _ = lab_with()
    consumer = lab.peer().consume("orders", window=8)
    produce_many(lab, count, delay_ms=60_000)
    lab.pass_time(1)
    consumer.leave()
    had = lab.group().pending_copy()
    lab.restart()
    store = Store(FileBackend(lab.disk, DATA_DIR), lab.scheduler)

    steps, restored = store.opening(), [0]
    while do_slice(steps):
        topic = store.topics.get("orders")
        restored.append(len(topic.groups["billing"].pending) if topic is not None else 0)

    assert max(after - before for before, after in pairwise(restored)) <= STEPS_MAX
    assert store.topics["orders"].groups["billing"].pending_copy() == had
    assert len(had) == count


def test_long_work_is_told_now_and_then() -> None:
    """Work of a moment is not told, long work each few seconds and not at each look."""
    progress = Progress(100.0)
    looks = [100.0 + number * SAID_EVERY_S / 10 for number in range(36)]

    told = [number for number, now in enumerate(looks) if progress.is_due(now)]

    assert told == [10, 20, 30]


@pytest.mark.parametrize(("size", "turns"), [(1, 3), (BYTES_MAX // 2, 151)])
def test_slice_has_a_bound_in_steps_and_bytes(size: int, turns: int) -> None:
    """No turn does more than its share of either."""
    lab = QueueLab()
    count, ended = 2 * STEPS_MAX + 46, list[object]()
    done: list[int] = []

    def steps() -> Iterator[int]:
        for number in range(count):
            done.append(number)
            yield size

    in_slices(lab.scheduler, steps(), ended.append)
    taken = 1
    while not ended:
        callbacks, lab.scheduler.turns = lab.scheduler.turns, []
        for callback in callbacks:
            callback()
        taken += 1

    assert ended == [None]
    assert len(done) == count
    assert taken == pytest.approx(turns, abs=1)


def test_slice_that_fails_tells_why() -> None:
    """What a step raises ends the work."""
    ended: list[object] = []

    def steps() -> Iterator[int]:
        yield 1
        raise ReadFailedError("no")

    in_slices(QueueLab().scheduler, steps(), ended.append)

    assert isinstance(ended[0], ReadFailedError)
