"""Dead letters: they are kept with their reason, and can be looked at, given back and forgotten, but not lost."""

import contextlib
import errno
from typing import Any

import pytest

from tests.support.faulty_disk import PowerCut
from tests.support.queue_lab import Peer, QueueLab, bodies_of, entry, lab_with, outcome
from tests.support.steps import steps_of
from zbusrpc.broker.dialects.zbus.infos import topic_facts
from zbusrpc.broker.mq.dead_letter import Origin, dead_letter, origin_of, revived
from zbusrpc.broker.mq.letter_counts import AT_ONCE_MAX
from zbusrpc.broker.storage.record import HEADERS_BYTES_MAX, Record
from zbusrpc.errors import RpcError

ORIGIN = Origin(topic="orders", group="billing", offset=7, attempts=3, reason="no stock")


def lab_with_dead(*bodies: str | bytes, **options: Any) -> tuple[QueueLab, Peer]:
    """Return a lab in which some messages of group billing are dead, and a peer."""
    lab, anna = lab_with(*bodies, **options)
    consumer = anna.consume("orders")
    consumer.nack(*range(len(bodies)), then="dead", reason="bad")
    consumer.leave()
    return lab, anna


def letters(lab: QueueLab, topic: str = "orders") -> list[str]:
    return bodies_of(lab.peer().command("dlq", topic=topic))


# -- what a letter says ----------------------------------------------------------------------------------


def test_letter_is_the_message_and_says_where_it_comes_from() -> None:
    """A dead letter has everything the message had, and headers that tell its origin."""
    record = Record(
        b"body", b"id", b"tag", b"key", b'{"x":"y"}', expiry_ms=5, due_ms=6, owner=9, offset=7, timestamp_ms=8
    )

    letter = dead_letter(record, ORIGIN)

    assert (letter.body, letter.id, letter.tag, letter.key) == (b"body", b"id", b"tag", b"key")
    assert letter.owner == 9
    assert (letter.expiry_ms, letter.due_ms) == (0, 0)
    assert origin_of(letter) == ORIGIN
    assert revived(letter).headers == b'{"x":"y"}'


@pytest.mark.parametrize("headers", [b"", b"no json", b'{"x": 5}', b'{"x":"%b"}' % (b"y" * (HEADERS_BYTES_MAX - 8))])
def test_letter_can_be_made_of_any_headers(headers: bytes) -> None:
    """Headers that are none, or fill all the room, do not keep a message from becoming a dead letter."""
    letter = dead_letter(Record(b"body", headers=headers), ORIGIN)

    assert len(letter.headers) <= HEADERS_BYTES_MAX
    assert origin_of(letter) == ORIGIN


@pytest.mark.parametrize("headers", [b"", b"x", b'{"dead-topic":"a"}', b'{"dead-offset":"x"}'])
def test_record_that_is_no_letter_has_no_origin(headers: bytes) -> None:
    """What somebody else put into a dead-letter topic is told apart."""
    assert origin_of(Record(headers=headers)) is None


# -- how letters come to be ------------------------------------------------------------------------------


def test_dead_letter_topic_is_made_when_it_is_needed() -> None:
    """There is no dead-letter topic before the first letter; then it is called after its topic."""
    _lab, anna = lab_with("one")
    assert anna.command("dlq", topic="orders") == {"topic": "", "messages": [], "next_offset": 0, "end_offset": 0}
    consumer = anna.consume("orders")

    consumer.nack(0, then="dead", reason="bad")

    shown = anna.command("dlq", topic="orders")
    assert shown["topic"] == "orders.dlq"
    headers = shown["messages"][0]["headers"]
    assert (headers["dead-topic"], headers["dead-group"], headers["dead-offset"]) == ("orders", "billing", "0")
    assert headers["dead-reason"] == "bad"


def test_dead_letters_go_where_the_topic_says() -> None:
    """A topic may name its dead-letter topic, or have its dead messages dropped."""
    lab, anna = lab_with("one", dead_letter_topic="cemetery")
    anna.declare("mails", dead_letter_topic="")
    anna.produce("mails", "two")

    anna.consume("orders").nack(0, then="dead")
    anna.consume("mails").nack(0, then="dead")

    assert bodies_of(anna.command("peek", topic="cemetery")) == ["one"]
    assert [topic["topic"] for topic in anna.command("topics")] == ["cemetery", "mails", "orders"]
    assert lab.group("mails").pending == {}


def test_dead_message_of_a_dead_letter_topic_is_dropped() -> None:
    """There is no dead-letter topic of a dead-letter topic, and no loop."""
    lab, anna = lab_with_dead("one")

    anna.consume("orders.dlq", "repair").nack(0, then="dead")
    lab.pass_time(60)

    assert [topic["topic"] for topic in anna.command("topics")] == ["orders", "orders.dlq"]
    assert lab.group("orders.dlq", "repair").pending == {}


def test_dead_letter_topic_of_the_longest_name_can_be_looked_at() -> None:
    """The name of a dead-letter topic may be longer than a topic may be called, and works in every command."""
    name = "x" * 127
    lab, anna = lab_with("one", topic=name)
    anna.consume(name).nack(0, then="dead")

    assert letters(lab, name) == ["one"]
    assert bodies_of(anna.command("peek", topic=f"{name}.dlq")) == ["one"]
    assert anna.consume(f"{name}.dlq", "repair").take() == ["one"]
    assert anna.command("remove", topic=f"{name}.dlq") is None


def test_message_is_not_let_go_before_its_letter_is_safe() -> None:
    """A crash between a message's death and its burial leaves it in one of both places at least."""
    lab, anna = lab_with("one")
    anna.declare("orders.dlq")
    consumer = anna.consume("orders", max_attempts=1)
    start = lab.disk.changes
    consumer.nack(0)
    lab.pass_time(1)
    changes = lab.disk.changes - start

    for cut_after in range(1, changes + 1):
        again, anna = lab_with("one")
        anna.declare("orders.dlq")
        consumer = anna.consume("orders", max_attempts=1)
        again.disk.cut_after = again.disk.changes + cut_after
        with contextlib.suppress(PowerCut):
            consumer.nack(0)
            again.pass_time(1)
        for title, image in again.disk.images():
            left = QueueLab(image)
            left.run()
            places = {*letters(left), *left.peer().consume("orders").take()}
            left.pass_time(1)
            assert places | set(letters(left)) == {"one"}, (cut_after, title)


@pytest.mark.parametrize("operation", ["append", "create", "make_directory"])
def test_letter_that_cannot_be_stored_is_tried_again(operation: str) -> None:
    """While the disk does not take the letter the message is kept, and its burial is tried again."""
    lab, anna = lab_with("one", "two")
    consumer = anna.consume("orders")
    lab.disk.fail(operation, errno.ENOSPC, calls=3)

    with contextlib.suppress(RpcError):  # the journal could not be written
        consumer.nack(0, then="dead")
    assert anna.command("topic", topic="orders")["groups"][0]["dead"] == 1
    lab.pass_time(60)

    assert letters(lab) == ["one"]
    assert sorted(lab.group().pending) == [1]


def test_death_survives_a_restart() -> None:
    """A message that had used up its attempts before a crash is buried by the next start."""
    lab, anna = lab_with("one")
    anna.consume("orders", max_attempts=1)
    lab.pass_time(1)

    lab.crash()
    lab.run()

    assert letters(lab) == ["one"]
    assert lab.peer().consume("orders").take() == []


# -- giving back -----------------------------------------------------------------------------------------


def test_letter_is_given_back_to_the_group_in_which_it_failed_only() -> None:
    """A retried message comes again, as if new, to its group and to no other."""
    lab, anna = lab_with_dead("one", "two")
    other = lab.peer().consume("orders", "other")
    other.ack_all()
    other.take()

    retried = anna.command("retry_dead", topic="orders", offsets=[1])
    assert (retried["retried"], retried["left"]) == (1, [])

    assert anna.consume("orders").attempts() == [("two", 1)]
    assert other.take() == []
    assert letters(lab) == ["one"]


def test_all_letters_are_given_back() -> None:
    """Without offsets all letters are meant; what was dealt with is not dealt with again."""
    lab, anna = lab_with_dead("one", "two", "three")
    anna.command("purge_dead", topic="orders", offsets=[1])

    first = anna.command("retry_dead", topic="orders")
    second = anna.command("retry_dead", topic="orders")

    assert (first["retried"], second["retried"]) == (2, 0)
    assert anna.consume("orders").take() == ["one", "three"]
    assert letters(lab) == []


@pytest.mark.parametrize("as_new", [False, True])
@pytest.mark.parametrize("is_gone", [False, True])
@pytest.mark.parametrize("end", ["none", "crash", "restart"])
@pytest.mark.parametrize("key", ["", "k"])
def test_time_to_live_does_not_count_for_who_is_tried_again(as_new: bool, is_gone: bool, end: str, key: str) -> None:
    """A letter whose message has outlived its time is delivered all the same when it is retried, or it stays."""
    lab, anna = lab_with(entry("one", ttl_ms=5000, key=key), ttl_ms=8000)
    consumer = anna.consume("orders")
    consumer.nack(0, then="dead", reason="bad")
    consumer.leave()
    if is_gone:
        anna.command("empty", topic="orders")
    lab.pass_time(3600)

    result = anna.command("retry_dead", topic="orders", as_new=as_new)
    if end != "none":
        lab.crash() if end == "crash" else lab.restart()
    lab.pass_time(3600)

    is_retried = as_new or not is_gone
    assert result["retried"] == is_retried
    assert lab.peer().consume("orders").take() == (["one"] if is_retried else [])
    assert (letters(lab) == ["one"]) != is_retried


def test_message_that_is_tried_again_fails_as_others_do() -> None:
    """Its time to live does not count for later attempts either, and at last it is a letter again."""
    lab, anna = lab_with(entry("one", ttl_ms=5000))
    consumer = anna.consume("orders", max_attempts=2)
    consumer.nack(0, then="dead", reason="bad")
    lab.pass_time(60)
    anna.command("retry_dead", topic="orders")

    consumer.nack(0, delay_ms=60_000)
    lab.crash()
    lab.pass_time(61)
    heir = lab.peer().consume("orders")
    heir.nack(0)
    lab.run()

    assert heir.attempts() == [("one", 2)]
    assert letters(lab) == ["one"]


def test_letter_of_a_group_that_was_moved_back_is_left() -> None:
    """A group that is to read the message again would find that it has expired: the letter stays, and says why."""
    lab, anna = lab_with(entry("one", ttl_ms=5000))
    anna.consume("orders").nack(0, then="dead", reason="bad")
    anna.command("pause", topic="orders", group="billing")
    anna.command("seek", topic="orders", group="billing", start="oldest")
    lab.pass_time(60)

    result = anna.command("retry_dead", topic="orders")

    assert result["retried"] == 0
    assert "group billing was moved back" in result["left"][0]["reason"]
    assert letters(lab) == ["one"]


def test_letter_that_fails_again_is_a_new_letter() -> None:
    """A message that was given back and dies again is in the dead-letter topic again, once."""
    _lab, anna = lab_with_dead("one")
    anna.command("retry_dead", topic="orders")

    anna.consume("orders").nack(0, then="dead", reason="again")

    shown = anna.command("dlq", topic="orders")["messages"]
    assert [message["headers"]["dead-reason"] for message in shown] == ["again"]
    assert shown[0]["offset"] == 1


@pytest.mark.parametrize("gone", ["group", "topic", "message"])
def test_letter_whose_origin_is_gone_is_left_with_its_reason(gone: str) -> None:
    """What cannot be given back stays, and the reason says what can be done."""
    _lab, anna = lab_with_dead("one", dead_letter_topic="cemetery")
    if gone == "group":
        anna.command("remove", topic="orders", group="billing")
    elif gone == "topic":
        anna.command("remove", topic="orders")
        anna.declare("orders2", dead_letter_topic="cemetery")
    else:
        anna.command("empty", topic="orders")

    result = anna.command("retry_dead", topic="orders2" if gone == "topic" else "orders")

    assert result["retried"] == 0
    assert gone in result["left"][0]["reason"]
    assert "gone" in result["left"][0]["reason"]
    assert bodies_of(anna.command("peek", topic="cemetery")) == ["one"]


def test_letter_is_not_mistaken_for_a_message_of_a_later_topic() -> None:
    """When its topic was made anew, a letter is not given back in the form of another message at its offset."""
    lab, anna = lab_with_dead("one", dead_letter_topic="cemetery")
    anna.command("remove", topic="orders")
    anna.declare("orders", dead_letter_topic="cemetery")
    anna.produce("orders", "other")
    anna.consume("orders").ack(0)

    result = anna.command("retry_dead", topic="orders")

    assert result["retried"] == 0
    assert "the message at offset 0 is gone" in result["left"][0]["reason"]
    assert letters(lab) == ["one"]


def test_letter_whose_original_is_gone_can_be_produced_again() -> None:
    """With `as_new` such a letter becomes a new message, for all groups, without the marks of its death."""
    lab, anna = lab_with_dead(entry("one", id_="a", tag="t", key="k", headers={"x": "y"}))
    anna.command("empty", topic="orders")

    result = anna.command("retry_dead", topic="orders", as_new=True)
    lab.crash()

    assert (result["retried"], result["left"]) == (1, [])
    assert letters(lab) == []
    entries = lab.peer().consume("orders", "anybody").entries
    assert [(one.body, one.tag, one.key, one.headers) for one in entries] == [(b"one", b"t", b"k", b'{"x":"y"}')]


def test_letter_that_cannot_be_produced_again_is_left() -> None:
    """When the disk does not take the new message its letter stays, with the reason."""
    lab, anna = lab_with_dead("one", "two")
    anna.command("remove", topic="orders", group="billing")
    lab.disk.fail("append", errno.ENOSPC)

    result = anna.command("retry_dead", topic="orders", as_new=True)

    assert result["retried"] == 0
    assert [one["offset"] for one in result["left"]] == [0, 1]
    assert "No space left on device" in result["left"][0]["reason"]
    assert letters(lab) == ["one", "two"]


@pytest.mark.parametrize("as_new", [False, True])
def test_power_cut_while_letters_are_given_back_loses_none(as_new: bool) -> None:
    """Wherever the power goes, a letter is still there or its message comes again."""
    cut_after, is_over = 0, False
    while not is_over:
        cut_after += 1
        lab, anna = lab_with_dead("one", "two")
        lab.pass_time(1)
        if as_new:
            anna.command("remove", topic="orders", group="billing")
        lab.disk.cut_after = lab.disk.changes + cut_after
        try:
            anna.command("retry_dead", topic="orders", as_new=as_new)
            is_over = True
        except PowerCut:
            pass
        for title, image in lab.disk.images():
            again = QueueLab(image)
            again.run()
            found = [*letters(again), *again.peer().consume("orders").take()]
            assert set(found) == {"one", "two"}, (cut_after, title)
            if not as_new and is_over:
                assert letters(again) == [], (cut_after, title)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_failed_write_while_letters_are_given_back_loses_none(calls: int) -> None:
    """When the journal cannot be written the letters are still there after a restart, or their messages come."""
    lab, anna = lab_with_dead("one", "two")
    lab.pass_time(1)
    lab.disk.fail("append", errno.ENOSPC, calls=calls)

    with pytest.raises(RpcError, match="No space left"):
        anna.command("retry_dead", topic="orders")
    lab.crash()
    lab.run()

    assert {*letters(lab), *lab.peer().consume("orders").take()} == {"one", "two"}


def test_letter_that_cannot_be_read_back_is_left() -> None:
    """A disk that does not give the original back costs no letter."""
    lab, anna = lab_with_dead("one", "two")
    lab.restart()
    anna = lab.peer()
    assert letters(lab) == ["one", "two"]
    lab.disk.fail("pread", errno.EIO, call=2)

    result = outcome(lambda: anna.command("retry_dead", topic="orders"))

    found = [*letters(lab), *anna.consume("orders").take()]
    assert sorted(found) == ["one", "two"]
    assert isinstance(result, RpcError) or result["retried"] < 2
    assert "Input/output error" in str(result)


# -- forgetting ------------------------------------------------------------------------------------------


def test_purged_letters_stay_purged() -> None:
    """Letters that were purged are not shown again, also after a power cut; others are."""
    lab, anna = lab_with_dead("one", "two", "three")

    assert anna.command("purge_dead", topic="orders", offsets=[0, 2, 2, 99]) == {"purged": 2}

    assert letters(lab) == ["two"]
    for title, image in lab.disk.images():
        again = QueueLab(image)
        again.run()
        assert letters(again) == ["two"], title
    assert anna.command("purge_dead", topic="orders") == {"purged": 1}
    assert letters(lab) == []


def test_letters_that_come_after_a_purge_are_there() -> None:
    """A purge is about what is there, not about what comes."""
    lab, anna = lab_with_dead("one")
    anna.command("purge_dead", topic="orders")
    anna.produce("orders", "two")

    anna.consume("orders").nack(1, then="dead")

    assert letters(lab) == ["two"]


def test_nothing_to_do_is_no_error() -> None:
    """Retrying and purging where there are no letters tells so."""
    _, anna = lab_with("one")

    assert anna.command("retry_dead", topic="orders")["retried"] == 0
    assert anna.command("purge_dead", topic="orders") == {"purged": 0}


def test_letters_are_shown_page_by_page() -> None:
    """A long list is looked at in pieces; `next_offset` tells where to go on."""
    _lab, anna = lab_with_dead(*(f"{number}" for number in range(25)))
    anna.command("purge_dead", topic="orders", offsets=[3, 4])

    first = anna.command("dlq", topic="orders", count=10)
    second = anna.command("dlq", topic="orders", count=100, start={"offset": first["next_offset"]})

    assert bodies_of(first) == [f"{number}" for number in range(12) if number not in {3, 4}]
    assert bodies_of(second) == [f"{number}" for number in range(12, 25)]


def test_group_that_the_broker_keeps_for_itself_is_not_behind() -> None:
    """Which letters were dealt with is kept by a group: that nobody reads them is no lag; those who do read may lag."""
    lab, anna = lab_with_dead("a", "b")
    name = lab.store.dead_letter_name(lab.store.topics["orders"])
    anna.command("purge_dead", topic="orders", offsets=[0])
    anna.command("declare_group", topic=name, group="watchers")

    lags = {group["group"]: group["lag"] for group in anna.command("topic", topic=name)["groups"]}

    assert lags == {"letters": 0, "watchers": 2}
    facts = topic_facts(lab.topic(name), None, lab.store.lag_of, is_service=False)
    assert {group.name: group.lag for group in facts.groups} == lags, "zbus clients and trackers are told the same"
    assert letters(lab) == ["b"]


# -- counts ----------------------------------------------------------------------------------------------


def count_of(lab: QueueLab, topic: str = "orders", group: str = "billing") -> int:
    """Return the dead letters of a group, as its listing tells them."""
    groups = {one["group"]: one for one in lab.peer().command("topic", topic=topic)["groups"]}
    return int(groups[group]["dead_letters"])


def test_groups_tell_the_letters_that_nobody_has_dealt_with() -> None:
    """A group counts its own letters, from death to retry or purge, in each way by which they come and go."""
    lab, anna = lab_with_dead("one", "two", "three", "four")
    other = anna.consume("orders", "audit")
    other.nack(1, then="dead")
    assert (count_of(lab), count_of(lab, group="audit")) == (4, 1)

    anna.command("purge_dead", topic="orders", offsets=[0, 4])
    assert (count_of(lab), count_of(lab, group="audit")) == (3, 0)
    anna.command("purge_dead", topic="orders", offsets=[0])
    assert count_of(lab) == 3
    anna.command("retry_dead", topic="orders", offsets=[1, 2])
    assert count_of(lab) == 1

    lab.restart()
    assert count_of(lab) == 1
    lab.crash()
    assert count_of(lab) == 1 == len(letters(lab))

    lab.peer().command("empty", topic="orders.dlq")
    assert count_of(lab) == 0


def test_letters_that_are_removed_by_retention_are_counted_no_more() -> None:
    """What goes with a segment of the dead-letter topic goes from the counts."""
    lab, anna = lab_with_dead("one", "two")
    log = lab.topic("orders.dlq").log
    log._roll(log.next_offset, lab.scheduler.now_ms())
    consumer = anna.consume("orders")
    anna.produce("orders", "three")
    consumer.nack(2, then="dead")
    assert count_of(lab) == 3

    anna.command("purge_dead", topic="orders", offsets=[0])
    log._let_go(1).remove()

    assert count_of(lab) == 1 == len(letters(lab))


def test_counting_letters_is_no_walk_over_them() -> None:
    """A listing costs the same with few letters and with many."""
    few, many = lab_with_dead(*map(str, range(3))), lab_with_dead(*map(str, range(200)))
    steps = []
    for lab, _ in (few, many):
        assert count_of(lab) in {3, 200}
        steps.append(steps_of(lambda lab=lab: lab.store.letters_of(lab.topic(), lab.group())))

    assert steps[0] == steps[1] < 50


def test_many_letters_that_are_produced_at_once_are_counted_in_slices() -> None:
    """Whoever writes letters by the thousand holds no turn, and what is no letter counts for nobody."""
    lab, anna = lab_with_dead("one")
    headers = {"dead-topic": "orders", "dead-group": "billing", "dead-offset": "0", "dead-attempts": "1"}
    headers["dead-reason"] = "none"
    forged = [entry("x", headers=headers) for _ in range(AT_ONCE_MAX + 1)]
    anna.produce("orders.dlq", *forged, entry("no letter"))

    assert lab.store.letters_of(lab.topic(), lab.group()) == 1
    lab.run()
    assert count_of(lab) == AT_ONCE_MAX + 2


def test_origins_that_are_counted_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up origins take no more memory than that."""
    monkeypatch.setattr("zbusrpc.broker.mq.letter_counts.COUNTS_MAX", 3)
    lab, anna = lab_with_dead("one")
    for number in range(5):
        said = {"dead-topic": f"t{number}", "dead-group": "g", "dead-offset": "0", "dead-attempts": "1"}
        anna.produce("orders.dlq", entry("x", headers={**said, "dead-reason": "none"}))

    assert count_of(lab) == 1
    assert len(lab.store.letter_counts.follow(lab.topic("orders.dlq")).totals) == 3
