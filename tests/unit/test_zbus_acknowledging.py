"""Acknowledgements of zbus, HTTP and WebSocket: an `ack` settles the delivery that it is about, or nothing."""

from collections.abc import Callable

import pytest

from tests.support.web import Answer
from tests.support.zbus_core import TextSession, ZbusCore, read
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.zbus.acknowledging import GIVEN_MAX, MOVES_MAX, Given
from zbusrpc.broker.mq.delivery import Delivery, State
from zbusrpc.broker.mq.options import Start

LEASE_S = 10.0
"""Of groups that are declared without another."""
Ask = Callable[[TextSession, str, dict[str, str]], Exchange]


def by_zbus(session: TextSession, command: str, headers: dict[str, str]) -> Exchange:
    """Ask as clients of zbus do, also by WebSocket."""
    return session.zbus(command, topic="T", consume_group="a", **headers)


def by_http(session: TextSession, command: str, headers: dict[str, str]) -> Exchange:
    """Ask as browsers and curl do."""
    query = "&".join(f"{name}={value}" for name, value in headers.items())
    return session.http(f"/{command}/T/a?{query}")


@pytest.fixture(params=[by_zbus, by_http])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Return each way to ask."""
    way: Ask = request.param
    return way


@pytest.fixture
def core() -> ZbusCore:
    """Return a broker's core with the topic T, and a group that wants acknowledgements."""
    made = ZbusCore()
    assert read(made.session().zbus("declare", topic="T", consume_group="a", group_mask="64")).status == 200
    for body in (b"0", b"1"):
        assert read(made.session().zbus("produce", body, topic="T")).status == 200
    return made


@pytest.fixture
def anna(core: ZbusCore) -> TextSession:
    """Return a session."""
    return core.session()


@pytest.fixture
def bert(core: ZbusCore) -> TextSession:
    """Return another session."""
    return core.session()


def take(ask: Ask, session: TextSession) -> Answer:
    """Consume a message, of whose attempts the earlier may have to wait."""
    return read(ask(session, "consume", {}))


def ack(ask: Ask, session: TextSession, answer: Answer, *, by_id: bool = False) -> None:
    """Acknowledge a message by its offset, or by the delivery's id."""
    named = {"delivery_id": answer.headers["delivery_id"]} if by_id else {}
    assert read(ask(session, "ack", {"offset": answer.headers["offset"], **named})).status == 200


def move(core: ZbusCore, offset: int) -> None:
    """Move the group."""
    topic = core.lab.store.topics["T"]
    core.lab.store.seek(topic, core.group("T", "a"), Start(offset=offset), lambda error: None)
    core.run()


def acked(core: ZbusCore) -> int:
    return core.group("T", "a").counters.acked


def test_acknowledgement_settles_what_its_session_was_given(ask: Ask, core: ZbusCore, anna: TextSession) -> None:
    """Once; said again it does nothing."""
    first = take(ask, anna)
    ack(ask, anna, first)
    ack(ask, anna, first)

    assert acked(core) == 1
    assert take(ask, anna).body == b"1"


def test_any_session_may_say_it(ask: Ask, core: ZbusCore, anna: TextSession, bert: TextSession) -> None:
    """As in zbus 0.11: HTTP clients have several connections."""
    ack(ask, bert, take(ask, anna))

    assert acked(core) == 1


@pytest.mark.parametrize("by_id", [False, True])
def test_acknowledgement_from_before_a_move_settles_nothing(
    ask: Ask, core: ZbusCore, anna: TextSession, bert: TextSession, *, by_id: bool
) -> None:
    """What another session has of the replay stays its own, and so does what the same session has."""
    old = take(ask, anna)
    move(core, 0)
    replayed = take(ask, bert)

    ack(ask, anna, old, by_id=by_id)
    assert acked(core) == 0
    ack(ask, bert, replayed, by_id=by_id)
    assert acked(core) == 1


@pytest.mark.parametrize("by_id", [False, True])
def test_session_that_was_given_both_settles_each_by_its_own(
    ask: Ask, core: ZbusCore, anna: TextSession, *, by_id: bool
) -> None:
    """The first acknowledgement is about what came before the move, the second about what came after."""
    old = take(ask, anna)
    move(core, 0)
    replayed = take(ask, anna)
    assert (old.headers["offset"], replayed.headers["offset"]) == ("0", "0")

    ack(ask, anna, old, by_id=by_id)
    assert acked(core) == 0
    ack(ask, anna, replayed, by_id=by_id)
    assert acked(core) == 1


def test_replay_is_settled_in_the_end_also_if_the_first_was_never(ask: Ask, core: ZbusCore, anna: TextSession) -> None:
    """A handler that failed before the move costs one delivery more."""
    take(ask, anna)
    move(core, 0)
    ack(ask, anna, take(ask, anna))
    assert acked(core) == 0

    core.pass_time(LEASE_S + 2)
    ack(ask, anna, take(ask, anna))

    assert acked(core) == 1


@pytest.mark.parametrize("by_id", [False, True])
def test_late_acknowledgement_leaves_the_delivery_to_another_alone(
    ask: Ask, core: ZbusCore, anna: TextSession, bert: TextSession, *, by_id: bool
) -> None:
    """It counts as long as nobody else has got the message."""
    late = take(ask, anna)
    core.pass_time(LEASE_S + 2)
    ack(ask, bert, take(ask, bert))
    core.pass_time(2)
    again = take(ask, bert)
    assert (again.headers["offset"], again.headers["retry"]) == ("0", "1")

    ack(ask, anna, late, by_id=by_id)
    assert acked(core) == 1
    ack(ask, bert, again, by_id=by_id)
    assert acked(core) == 2


def test_late_acknowledgement_counts_while_nobody_has_the_message(ask: Ask, core: ZbusCore, anna: TextSession) -> None:
    """It was done, if slowly."""
    late = take(ask, anna)
    core.pass_time(LEASE_S + 2)
    ack(ask, anna, late)

    assert acked(core) == 1
    assert take(ask, anna).body == b"1"


def test_id_names_the_delivery_whoever_says_it(ask: Ask, core: ZbusCore, anna: TextSession, bert: TextSession) -> None:
    """From another connection, too, so that clients with several need not guess."""
    old = take(ask, anna)
    move(core, 0)
    replayed = take(ask, anna)

    ack(ask, bert, old, by_id=True)
    assert acked(core) == 0
    ack(ask, bert, replayed, by_id=True)
    assert acked(core) == 1


def test_id_is_only_there_where_it_is_of_use(core: ZbusCore, anna: TextSession) -> None:
    """Groups without the mask have none, nor can a producer make one up."""
    producer = core.session()
    producer.zbus("produce", b"2", topic="T", delivery_id="x")
    bodies = [read(anna.zbus("consume", topic="T")) for _ in range(3)]

    assert [one.body for one in bodies] == [b"0", b"1", b"2"]
    assert not any("delivery_id" in one.headers for one in bodies)


def test_what_is_known_of_a_session_has_a_bound(core: ZbusCore) -> None:
    """Of one that never acknowledges, however much it is given."""
    given, group = Given(), core.group("T", "a")
    for offset in range(GIVEN_MAX + 10):
        for _ in range(2 * MOVES_MAX):
            given.note(group, Delivery(offset, b"", State.IN_FLIGHT))

    assert given.take(group, 9) is None
    assert sum(given.take(group, 10) is not None for _ in range(100)) == MOVES_MAX


def test_lost_message_does_not_come_back_into_a_group_that_was_moved(core: ZbusCore, anna: TextSession) -> None:
    """Nobody wants what was passed on purpose, nor again what is delivered anyway."""
    core.session().zbus("declare", topic="T", consume_group="b")
    waiting = anna.zbus("consume", topic="T", consume_group="b")
    assert read(waiting).body == b"0"
    assert waiting.on_lost is not None
    group = core.group("T", "b")
    core.lab.store.seek(core.lab.store.topics["T"], group, Start(offset=2), lambda error: None)
    core.run()

    waiting.on_lost()

    assert not group.pending
