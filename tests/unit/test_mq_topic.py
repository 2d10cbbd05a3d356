"""A topic and its producers: receipts, batches, duplicates, levels of durability, and what a bad disk does to them."""

import errno

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.queue_lab import START_MS, Peer, QueueLab, bodies_of, entry, lab_with
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind
from zbusrpc.transport.entries import Entry

TOPIC_LOG = "/data/topics"


def refusal_of(peer: Peer, *messages: str | bytes, topic: str = "orders") -> RpcError:
    """Return why a frame of messages is refused."""
    with pytest.raises(RpcError) as caught:
        peer.produce(topic, *messages)
    return caught.value


def all_of(peer: Peer, topic: str = "orders") -> list[str]:
    """Return the bodies of everything in a topic."""
    return bodies_of(peer.command("peek", topic=topic, count=1000))


# -- receipts --------------------------------------------------------------------------------------------


def test_receipt_names_offset_time_and_level() -> None:
    """A receipt says where the first message of the frame is, when it was stored, and how safe it is."""
    lab, anna = lab_with()

    first = anna.produce("orders", "one", "two")
    lab.pass_time(5)
    second = anna.produce("orders", "three")

    assert first == {"offset": 0, "timestamp_ms": START_MS, "durability": "disk"}
    assert second == {"offset": 2, "timestamp_ms": START_MS + 5000, "durability": "disk"}


def test_receipts_come_in_the_order_of_the_frames() -> None:
    """Frames of one turn are stored, and answered, in the order they came."""
    lab, anna = lab_with()

    ids = [anna.send_produce("orders", f"{number}") for number in range(5)]
    lab.run()

    assert [anna.answer(id_)["offset"] for id_ in ids] == [0, 1, 2, 3, 4]
    assert [frame.id for frame in anna.frames if frame.id in ids] == ids


def test_every_field_of_a_message_reaches_its_consumer() -> None:
    """Id, tag, key, headers and body are delivered as they were produced, with offset, time and attempt."""
    _lab, anna = lab_with()
    anna.produce("orders", entry("body", id_="id", tag="a.b", key="k", headers={"x": "y"}))

    consumer = anna.consume("orders", "billing")

    delivered = consumer.entries
    assert delivered == [Entry(0, START_MS, 1, b"id", b"a.b", b"k", b'{"x":"y"}', b"body")]


def test_produce_without_id_is_stored_and_not_answered() -> None:
    """A producer that wants no receipt gets none, not even when it is refused."""
    lab, anna = lab_with()
    frames = len(anna.frames)

    anna.send(Kind.PRODUCE, entry("one"), topic="orders", is_answered=False)
    anna.send(Kind.PRODUCE, entry("two"), topic="nowhere", is_answered=False)
    lab.run()

    assert len(anna.frames) == frames
    assert all_of(anna) == ["one"]


@pytest.mark.parametrize(
    ("topic", "code", "said"),
    [
        ("nowhere", Code.NOT_FOUND, "there is no topic nowhere"),
        ("order", Code.NOT_FOUND, "did you mean orders?"),
        ("a/b", Code.INVALID_ARGUMENT, "may not hold '/'"),
        ("", Code.INVALID_ARGUMENT, "a topic needs a name"),
    ],
)
def test_message_for_no_topic_is_refused(topic: str, code: Code, said: str) -> None:
    """A topic that there is not is not made by producing to it."""
    _, anna = lab_with()

    refused = refusal_of(anna, "one", topic=topic)

    assert refused.code is code
    assert said in refused.message


def test_frame_without_messages_is_refused() -> None:
    """A frame that holds no message is a mistake of its producer."""
    _, anna = lab_with()

    assert refusal_of(anna).message == "topic orders: the frame holds no message"


def test_bad_message_fails_its_whole_frame_and_no_other() -> None:
    """A message whose time is out of range takes the messages of its frame with it; the next frame is stored."""
    _, anna = lab_with()

    refused = refusal_of(anna, "good", entry("late", delay_ms=2**63 - 1))
    anna.produce("orders", "after")

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.message == "topic orders: delay of 9223372036854775807 ms exceeds the limit of 31536000000 ms"
    assert all_of(anna) == ["after"]


# -- what groups are shown -------------------------------------------------------------------------------


def test_batch_is_shown_as_a_whole_and_not_before_it_is_safe() -> None:
    """At level disk nobody gets a message of a frame before all of it is on the disk."""
    lab, anna = lab_with()
    consumer = lab.peer().consume("orders")
    lab.hold_workers()

    request = anna.send_produce("orders", "one", "two", "three")
    lab.run()
    assert consumer.take() == []
    assert request not in anna.replies
    lab.release_workers()

    assert consumer.take() == ["one", "two", "three"]
    assert anna.answer(request)["offset"] == 0


@pytest.mark.parametrize("durability", ["memory", "os"])
def test_message_is_shown_before_a_sync_at_lower_levels(durability: str) -> None:
    """At levels memory and os messages are answered and delivered without waiting for the disk."""
    lab, anna = lab_with(durability=durability)
    consumer = lab.peer().consume("orders")
    lab.hold_workers()

    receipts = [anna.produce("orders", f"{number}") for number in range(3)]

    assert [receipt["offset"] for receipt in receipts] == [0, 1, 2]
    assert {receipt["durability"] for receipt in receipts} == {durability}
    assert consumer.take() == ["0", "1", "2"]


def test_many_frames_of_one_turn_reach_a_consumer_in_memory_too() -> None:
    """At level memory what is answered before it is written is delivered all the same, in order, each once."""
    lab, anna = lab_with(durability="memory")
    consumer = lab.peer().consume("orders")

    for number in range(10):
        anna.send_produce("orders", f"{number}")
    lab.run()

    assert consumer.take() == [f"{number}" for number in range(10)]


def test_group_follows_far_behind_the_end() -> None:
    """What is no longer in memory is read from the log: nothing is left out, nothing comes twice."""
    lab, anna = lab_with()
    slow = lab.peer().consume("orders", "slow", window=1)
    quick = lab.peer().consume("orders", "quick", window=4096)
    expected = [f"{number}" for number in range(3000)]

    for start in range(0, 3000, 100):
        anna.produce("orders", *expected[start : start + 100])
    for offset in range(20):
        slow.ack(offset)
    rest = lab.peer().consume("orders", "slow", window=4096)

    assert quick.take() == expected
    assert slow.take() == expected[:21]
    assert rest.take() == expected[21:]


# -- duplicates ------------------------------------------------------------------------------------------


def test_message_whose_id_is_known_is_not_stored_again() -> None:
    """A message that was stored is not stored again; the receipt says where it is."""
    _lab, anna = lab_with(entry("one", id_="a"), entry("two", id_="b"))

    receipt = anna.produce("orders", entry("one", id_="a"), entry("three", id_="c"), entry("two", id_="b"))

    assert receipt["offset"] == 2
    assert receipt["duplicates"] == [[0, 0], [2, 1]]
    assert all_of(anna) == ["one", "two", "three"]
    assert anna.command("topic", topic="orders")["duplicates"] == 2


@pytest.mark.parametrize("durability", ["memory", "os", "disk"])
def test_frame_that_is_sent_again_is_answered_as_before(durability: str) -> None:
    """Whoever did not get a receipt and sends the same frame again learns where its messages are, at every level."""
    lab, anna = lab_with(durability=durability)
    frame = entry("one", id_="a"), entry("two", id_="b")
    anna.produce("orders", *frame)

    receipt = lab.peer().produce("orders", *frame)

    assert receipt["duplicates"] == [[0, 0], [1, 1]]
    assert all_of(anna) == ["one", "two"]


@pytest.mark.parametrize("durability", ["memory", "os", "disk"])
def test_duplicate_of_a_message_on_its_way_waits_for_it(durability: str) -> None:
    """A frame that comes again while the first one is being stored is answered after it, with its offset."""
    lab, anna = lab_with(durability=durability)
    bert = lab.peer()
    lab.hold_workers()

    first = anna.send_produce("orders", entry("one", id_="a"))
    again = bert.send_produce("orders", entry("one", id_="a"))
    lab.run()
    if durability == "disk":
        assert again not in bert.replies
    lab.release_workers()

    assert anna.answer(first)["offset"] == 0
    assert bert.answer(again)["duplicates"] == [[0, 0]]
    assert all_of(anna) == ["one"]


def test_message_that_failed_is_stored_by_the_next_attempt() -> None:
    """A message that could not be stored is no duplicate when it comes again."""
    lab, anna = lab_with()
    lab.disk.fail("append", errno.EIO)

    refused = refusal_of(anna, entry("one", id_="a"))
    again = anna.produce("orders", entry("one", id_="a"), entry("two", id_="b"))

    assert "Input/output error" in refused.message
    assert again == {"offset": 0, "timestamp_ms": START_MS, "durability": "disk"}


def test_pending_duplicate_fails_with_the_message_it_waits_for() -> None:
    """A duplicate of a message whose write fails later is no success either, and can be sent again."""
    lab, anna = lab_with()
    bert = lab.peer()
    lab.disk.fail("append", errno.EIO)

    anna.send_produce("orders", entry("one", id_="a"))
    again = bert.send_produce("orders", entry("one", id_="a"))
    lab.run()

    with pytest.raises(RpcError) as caught:
        bert.answer(again)
    assert caught.value.code in {Code.ABORTED, Code.INTERNAL}
    assert bert.produce("orders", entry("one", id_="a"))["offset"] == 0
    assert all_of(anna) == ["one"]


def test_id_is_forgotten_after_its_window_on_a_quiet_topic() -> None:
    """A message with the same id is new when the window is over, though nothing was produced in between."""
    lab, anna = lab_with(duplicate_window_s=10)
    anna.produce("orders", entry("monday", id_="report"))
    lab.pass_time(9)
    assert "duplicates" in anna.produce("orders", entry("monday", id_="report"))

    lab.pass_time(1.1)
    receipt = anna.produce("orders", entry("tuesday", id_="report"))

    assert "duplicates" not in receipt
    assert all_of(anna) == ["monday", "tuesday"]


def test_window_is_bounded_by_count() -> None:
    """Only the last so many ids are known."""
    _lab, anna = lab_with(duplicate_window_ids=2)
    for id_ in ("a", "b", "c"):
        anna.produce("orders", entry(id_, id_=id_))

    receipts = [anna.produce("orders", entry(id_, id_=id_)) for id_ in ("b", "c", "a")]

    assert [receipt.get("duplicates") for receipt in receipts] == [[[0, 1]], [[0, 2]], None]


def test_ids_are_known_after_a_crash() -> None:
    """A producer that sends again after the broker has crashed does not store its messages twice."""
    lab, anna = lab_with(entry("one", id_="a"))
    anna.produce("orders", entry("two", id_="b"))
    lab.crash()

    receipt = lab.peer().produce("orders", entry("two", id_="b"), entry("three", id_="c"))

    assert receipt["duplicates"] == [[0, 1]]
    assert all_of(lab.peer()) == ["one", "two", "three"]


def test_ids_older_than_the_window_are_not_known_after_a_restart() -> None:
    """The window is filled from the log with what is young enough and no more."""
    lab, anna = lab_with(duplicate_window_s=10)
    anna.produce("orders", entry("old", id_="a"))
    lab.pass_time(8)
    anna.produce("orders", entry("young", id_="b"))
    lab.pass_time(4)
    lab.restart()

    receipt = lab.peer().produce("orders", entry("old", id_="a"), entry("young", id_="b"))

    assert receipt["duplicates"] == [[1, 1]]


def test_unreadable_log_does_not_make_duplicates() -> None:
    """When the ids cannot be read from the log, producers are refused until they can be."""
    lab, _anna = lab_with(entry("one", id_="a"))
    lab.crash()
    bert = lab.peer()
    lab.disk.fail("pread", errno.EIO, calls=3)

    refused = refusal_of(bert, entry("one", id_="a"))
    lab.disk.faults.clear()
    receipt = bert.produce("orders", entry("one", id_="a"))

    assert refused.code is Code.INTERNAL
    assert "Input/output error" in refused.message
    assert receipt["duplicates"] == [[0, 0]]


def test_same_id_twice_in_one_frame_is_refused() -> None:
    """Two messages of one frame with one id are a mistake; nothing of the frame is stored."""
    _, anna = lab_with()

    refused = refusal_of(anna, entry("one", id_="a"), entry("two", id_="a"))

    assert refused.code is Code.INVALID_ARGUMENT
    assert "two messages of one frame have the same id" in refused.message
    assert all_of(anna) == []
    assert anna.produce("orders", entry("one", id_="a"))["offset"] == 0


# -- a bad disk ------------------------------------------------------------------------------------------


def test_full_disk_refuses_with_its_cause_until_there_is_room() -> None:
    """While the disk is full producers are told so and asked to wait; afterwards all goes on."""
    lab, anna = lab_with("before")
    consumer = lab.peer().consume("orders")
    lab.disk.fail("append", errno.ENOSPC, calls=1000)

    refused = refusal_of(anna, entry("one", id_="a"))
    lab.disk.faults.clear()
    receipt = anna.produce("orders", entry("one", id_="a"))

    assert refused.code is Code.RESOURCE_EXHAUSTED
    assert "No space left on device" in refused.message
    assert refused.message.startswith("topic orders: ")
    assert refused.details["retry_after_s"] > 0
    assert refused.details["may_have_run"] is False
    assert receipt == {"offset": 1, "timestamp_ms": START_MS, "durability": "disk"}
    assert consumer.take() == ["before", "one"]


def test_failed_sync_closes_the_topic_with_a_clear_error() -> None:
    """After a failed sync nobody is told that a message is safe; the error says what to do, and reading goes on."""
    lab, anna = lab_with("before")
    lab.disk.fail("sync", errno.EIO)

    first = refusal_of(anna, "one")
    second = refusal_of(anna, "two")
    consumer = lab.peer().consume("orders")

    for refused in (first, second):
        assert refused.code is Code.INTERNAL
        assert "Input/output error" in refused.message
        assert "restart the broker" in refused.message
    assert "Input/output error" in anna.command("topic", topic="orders")["closed_because"]
    assert consumer.take() == ["before"]


def test_topic_that_was_closed_is_whole_after_a_restart() -> None:
    """What was acknowledged before a failed sync is there after a restart, and producing works again."""
    lab, anna = lab_with("before")
    lab.disk.fail("sync", errno.EIO)
    refusal_of(anna, entry("one", id_="a"))
    lab.disk.faults.clear()
    lab.crash()

    anna = lab.peer()
    anna.produce("orders", entry("one", id_="a"))

    assert sorted(set(all_of(anna))) == ["before", "one"]


def test_failed_write_in_memory_is_lost_and_harms_nobody_else() -> None:
    """At level memory a failed write loses what was acknowledged, as documented; the next message gets through."""
    lab, anna = lab_with(durability="memory")
    consumer = lab.peer().consume("orders")
    lab.disk.fail("append", errno.EIO)

    lost = anna.produce("orders", "lost")
    kept = anna.produce("orders", "kept")

    assert (lost["offset"], kept["offset"]) == (0, 0)
    assert consumer.take() == ["kept"]


def test_backlog_that_is_full_refuses() -> None:
    """What waits for a slow disk is bounded; the producer is told to come again."""
    lab, anna = lab_with()
    lab.topic().committer.backlog_bytes_max = 200
    lab.hold_workers()

    anna.send_produce("orders", "x" * 100)
    lab.run()
    refused = refusal_of(anna, "y" * 100)
    lab.release_workers()

    assert refused.code is Code.RESOURCE_EXHAUSTED
    assert "limit of 200 bytes" in refused.message
    assert anna.produce("orders", "y")["offset"] == 1


def test_level_of_a_topic_decides_what_a_power_cut_takes() -> None:
    """What was acknowledged at level disk is on the disk at that moment; at level os it may not be."""
    lab, anna = lab_with()
    anna.declare("fast", durability="os")
    anna.produce("orders", "safe")
    anna.produce("fast", "unsafe")

    image = next(image for title, image in lab.disk.images() if title.startswith("unsafe bytes gone"))

    assert b"safe" in _bytes_of(image, "orders")
    assert b"unsafe" not in _bytes_of(image, "fast")


def _bytes_of(disk: FaultyDisk, topic: str) -> bytes:
    return b"".join(bytes(inode.data) for path, inode in disk.names.items() if f"{TOPIC_LOG}/{topic}-" in path)


# -- after a restart -------------------------------------------------------------------------------------


def test_consumer_that_comes_before_the_first_sync_gets_everything() -> None:
    """After a crash messages are shown once they are on the disk, though nothing new is produced."""
    lab, anna = lab_with("one", "two")
    consumer = anna.consume("orders", window=1)
    assert consumer.take() == ["one"]
    lab.pass_time(0.1)
    lab.hold_workers()
    lab.crash()

    bert = lab.peer()
    request = bert.send(Kind.CONSUME, b'{"group": "billing"}', topic="orders")
    lab.run()
    lab.release_workers()

    assert bert.consumers[bert.answer(request)["subscription"]].take() == ["one", "two"]


def test_messages_after_a_power_cut_are_not_taken_for_those_that_were_lost() -> None:
    """When a power cut takes messages that a group has passed (level os), the group gets what comes after them."""
    lab, anna = lab_with("lost 1", "lost 2", durability="os")
    consumer = anna.consume("orders")
    consumer.ack(0)
    anna.command("declare_group", topic="orders", group="other", start={"group": "billing"})  # the journal is synced

    image = next(image for title, image in lab.disk.images() if title.startswith("unsafe bytes gone"))
    again = QueueLab(image)
    receipt = again.peer().produce("orders", "new")

    assert receipt["offset"] == 2
    for group in ("billing", "other"):
        assert again.peer().consume("orders", group).take() == ["new"]


def test_dead_letter_that_was_left_by_a_crash_is_stored_before_the_first_sync_ends() -> None:
    """A message that had used up its attempts when the broker crashed becomes a dead letter, however slow the disk."""
    lab, anna = lab_with("one")
    anna.consume("orders", max_attempts=1)
    lab.pass_time(0.1)
    lab.hold_workers()
    lab.crash()

    lab.run()
    lab.release_workers()

    assert bodies_of(lab.peer().command("dlq", topic="orders")) == ["one"]
