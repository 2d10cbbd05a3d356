"""Consumers come and go: alone in a group, with a group of their own, congested, or cut off."""

import pytest

from tests.support.queue_lab import QueueLab, lab_with
from zbusrpc.broker.mq.groups import ABANDONED_S
from zbusrpc.broker.mq.queues import LINGER_S
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

FIVE = [f"{number}" for number in range(5)]


def groups(lab: QueueLab) -> list[str]:
    return list(lab.topic().groups)


# -- alone -----------------------------------------------------------------------------------------------


def test_exclusive_group_takes_one_consumer_at_a_time() -> None:
    """A second consumer is refused with the name of the first, and taken when that one has gone."""
    lab, _ = lab_with("one")
    first = lab.peer("anna").consume("orders", exclusive=True)

    with pytest.raises(RpcError) as caught:
        lab.peer("bert").consume("orders")
    first.leave()
    heir = lab.peer("carl").consume("orders")

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.message == "group billing of topic orders is exclusive, and anna consumes it"
    assert heir.take() == ["one"]


def test_exclusive_group_is_free_when_its_consumer_is_cut_off() -> None:
    """A connection that is lost does not keep others out."""
    lab, _ = lab_with("one")
    lab.peer().consume("orders", exclusive=True).peer.disconnect()

    assert lab.peer().consume("orders").take() == ["one"]


def test_missing_group_is_not_made_where_that_is_not_wanted() -> None:
    """With `create` false a group that there is not is not found, with the nearest name."""
    lab, _ = lab_with()
    lab.peer().consume("orders", "billing")

    with pytest.raises(RpcError) as caught:
        lab.peer().consume("orders", "biling", create=False)

    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.message == "topic orders has no group biling; did you mean billing?"
    assert groups(lab) == ["billing"]


@pytest.mark.parametrize("group", ["", "a/b", "x" * 128])
def test_bad_name_of_a_group_is_refused(group: str) -> None:
    """What cannot be a name makes no group."""
    lab, _ = lab_with()

    with pytest.raises(RpcError) as caught:
        lab.peer().consume("orders", group)

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert groups(lab) == []


# -- with a group of one's own ---------------------------------------------------------------------------


def test_consumer_without_a_group_gets_one_of_its_own() -> None:
    """Each such consumer gets everything that comes from then on, under a name that the broker makes up."""
    lab, anna = lab_with("old")
    first, second = lab.peer().consume("orders", None), lab.peer().consume("orders", None)

    anna.produce("orders", "new")

    assert first.group != second.group
    assert first.take() == second.take() == ["new"]


def test_group_of_ones_own_goes_with_its_consumer() -> None:
    """When the consumer says that it leaves, its group goes at once, on the disk too."""
    lab, _ = lab_with()
    consumer = lab.peer().consume("orders", None)

    consumer.leave()

    assert groups(lab) == []
    lab.crash()
    assert groups(lab) == []


def test_group_stays_a_while_for_a_consumer_that_was_cut_off() -> None:
    """A consumer that comes back in time goes on where it was; the group goes when nobody does."""
    lab, anna = lab_with()
    consumer = lab.peer().consume("orders", None)
    consumer.peer.disconnect()
    anna.produce("orders", "meanwhile")

    lab.pass_time(LINGER_S - 1)
    again = lab.peer().consume("orders", consumer.group, create=False)
    lab.pass_time(LINGER_S)
    assert again.take() == ["meanwhile"]
    again.peer.disconnect()
    lab.pass_time(LINGER_S + 1)

    assert groups(lab) == []


def test_group_that_goes_with_its_last_consumer_stays_while_one_is_there() -> None:
    """Only the last of several consumers takes the group along."""
    lab, _ = lab_with()
    first, second = (lab.peer().consume("orders", delete_on_exit=True) for _ in range(2))

    first.leave()
    assert groups(lab) == ["billing"]
    second.leave()

    assert groups(lab) == []


def test_group_that_nobody_takes_up_after_a_restart_goes() -> None:
    """After a restart such a group waits a minute for its consumer, and keeps its place for it."""
    lab, anna = lab_with("one", "two")
    anna.consume("orders", "kept", delete_on_exit=True).ack(0)
    anna.consume("orders", "left", delete_on_exit=True)
    lab.crash()

    kept = lab.peer().consume("orders", "kept")
    lab.pass_time(ABANDONED_S + 1)

    assert kept.take()[:1] == ["two"]
    assert groups(lab) == ["kept"]


def test_declared_group_waits_for_its_first_consumer() -> None:
    """A group that goes with its last consumer does not go before it had one."""
    lab, anna = lab_with()
    anna.command("declare_group", topic="orders", group="billing", delete_on_exit=True)

    lab.pass_time(3600)

    assert groups(lab) == ["billing"]


# -- congested -------------------------------------------------------------------------------------------


def test_congested_consumer_is_given_nothing_until_it_has_caught_up() -> None:
    """A peer that reads too slowly gets no more; others get what it would have, and it gets its share later."""
    lab, anna = lab_with()
    slow, quick = lab.peer().consume("orders", window=4), lab.peer().consume("orders", window=2)

    slow.peer.congest(True)
    anna.produce("orders", *FIVE)
    assert slow.take() == []
    assert quick.take() == ["0", "1"]
    slow.peer.congest(False)

    assert slow.take() == ["2", "3", "4"]


def test_consumer_that_joins_congested_waits() -> None:
    """A peer that is congested when it subscribes is given nothing before it has caught up."""
    lab, _ = lab_with("one")
    peer = lab.peer()
    peer.congest(True)

    consumer = peer.consume("orders")
    assert consumer.take() == []
    peer.congest(False)

    assert consumer.take() == ["one"]


def test_answers_of_a_congested_consumer_count() -> None:
    """Acknowledging while congested gives room back, which is used afterwards."""
    lab, _ = lab_with(*FIVE)
    consumer = lab.peer().consume("orders", window=2)
    consumer.take()

    consumer.peer.congest(True)
    assert consumer.ack(0, 1) == 2
    assert consumer.take() == []
    consumer.peer.congest(False)

    assert consumer.take() == ["2", "3"]


def test_group_without_acknowledgements_stops_for_a_congested_consumer() -> None:
    """Where nothing limits what is in flight, congestion does."""
    lab, anna = lab_with()
    consumer = lab.peer().consume("orders", ack=False, window=1)
    consumer.peer.congest(True)

    anna.produce("orders", *FIVE)
    assert consumer.take() == []
    consumer.peer.congest(False)

    assert consumer.take() == FIVE


def test_congested_puller_gets_its_messages_later() -> None:
    """A patient pull of a congested peer is served when it has caught up."""
    lab, _ = lab_with(*FIVE)
    puller = lab.peer().consume("orders", window=0)
    puller.peer.congest(True)

    request = puller.send_pull(2, timeout_ms=5000)
    lab.run()
    assert puller.take() == []
    puller.peer.congest(False)

    assert puller.peer.answer(request) == 2
    assert puller.take() == ["0", "1"]


# -- cut off ---------------------------------------------------------------------------------------------


def test_session_that_ends_leaves_nothing_behind() -> None:
    """All subscriptions of a lost session end, each group goes on with the others."""
    lab, anna = lab_with(*FIVE)
    lost = lab.peer()
    consumers = [lost.consume("orders", f"group {number}".replace(" ", "-")) for number in range(3)]

    lost.disconnect()
    anna.produce("orders", "more")

    for consumer in consumers:
        assert not lab.group(name=consumer.group).pool.members
        assert lab.peer().consume("orders", consumer.group).take() == [*FIVE, "more"]
    assert lost.session.subscriptions == {}


def test_one_session_may_consume_several_groups_and_one_group_twice() -> None:
    """Subscriptions of a session are told apart by their numbers."""
    lab, _ = lab_with(*FIVE)
    peer = lab.peer()

    first = peer.consume("orders", window=2)
    second = peer.consume("orders", window=2)
    other = peer.consume("orders", "other")

    assert sorted([*first.take(), *second.take()]) == FIVE[:4]
    assert other.take() == FIVE
    assert len({first.number, second.number, other.number}) == 3


def test_messages_on_their_way_to_a_consumer_that_leaves_are_no_attempts() -> None:
    """A consumer that leaves says how many messages have come; what crossed its leaving counts for nobody."""
    lab, anna = lab_with("one", "two", "three")
    first = anna.consume("orders", max_attempts=1)

    anna.ask(Kind.LEAVE, (1).to_bytes(8, "big"), session=first.number)
    second = lab.peer().consume("orders")

    assert second.attempts() == [("two", 1), ("three", 1)]
    assert [letter["body"] for letter in anna.command("dlq", topic="orders")["messages"]] == ["one"]
