"""Places: requests that wait in a consume group, who is answered by what, and what is left when nobody waits."""

import asyncio
import gc

import pytest

from tests.support.inprocess import running_broker
from tests.support.waiting import eventually
from tests.support.zbus_core import TextSession, ZbusCore, read
from zbusrpc.broker.access.rights import Operation, Rights, Rule
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.connection import TextPeer
from zbusrpc.broker.dialects.zbus.declaring import EXPIRES_S
from zbusrpc.broker.dialects.zbus.session import ZbusSession
from zbusrpc.broker.dialects.zbus.waiting import Place
from zbusrpc.broker.mq.upkeep import Upkeep
from zbusrpc.transport.address import parse_addresses


@pytest.fixture
def core() -> ZbusCore:
    """Return a broker's core with the topic T."""
    made = ZbusCore()
    assert read(made.session().zbus("declare", topic="T")).status == 200
    return made


@pytest.fixture
def anna(core: ZbusCore) -> TextSession:
    """Return a session."""
    return core.session()


@pytest.fixture
def bert(core: ZbusCore) -> TextSession:
    """Return another session."""
    return core.session()


def produce(core: ZbusCore, *bodies: bytes) -> None:
    """Store messages."""
    producer = core.session()
    for body in bodies:
        assert read(producer.zbus("produce", body, topic="T")).status == 200


def test_request_waits_until_there_is_a_message(core: ZbusCore, anna: TextSession) -> None:
    """And is answered with the first."""
    waiting = anna.zbus("consume", topic="T", id="7")
    assert waiting.data is None

    produce(core, b"one", b"two")

    assert (read(waiting).body, read(waiting).headers["id"]) == (b"one", "7")
    assert core.group("T").position == 1


def test_request_of_zbus_replaces_the_one_before(core: ZbusCore, anna: TextSession) -> None:
    """Its client has given up: the first is not answered, and takes no message."""
    first, second = anna.zbus("consume", topic="T", id="1"), anna.zbus("consume", topic="T", id="2")

    produce(core, b"one", b"two")

    assert first.data is None
    assert read(second).body == b"one"
    assert core.group("T").position == 1


def test_requests_of_http_wait_each_for_its_own(core: ZbusCore, anna: TextSession) -> None:
    """In their order."""
    waiting = [anna.http("/consume/T") for _ in range(3)]

    produce(core, b"1", b"2", b"3")

    assert [read(one).body for one in waiting] == [b"1", b"2", b"3"]


def test_request_of_zbus_does_not_replace_one_of_http(core: ZbusCore, anna: TextSession) -> None:
    """An ordered line of answers has no gaps."""
    ordered, first = anna.http("/consume/T"), anna.zbus("consume", topic="T", id="1")
    second = anna.zbus("consume", topic="T", id="2")

    produce(core, b"1", b"2", b"3")

    assert (read(ordered).body, first.data, read(second).body) == (b"1", None, b"2")


def test_poll_ends_in_its_time(core: ZbusCore, anna: TextSession) -> None:
    """Not before, and then it takes no message any more."""
    waiting = anna.http("/consume/T?timeout=20")
    core.pass_time(19.9)
    assert waiting.data is None

    core.pass_time(0.2)
    produce(core, b"late")

    assert (read(waiting).status, read(waiting).body) == (204, b"")
    assert core.group("T").position == 0
    assert read(anna.http("/consume/T")).body == b"late"


def test_timer_of_a_poll_ends_with_it(core: ZbusCore, anna: TextSession) -> None:
    """What was answered, replaced or whose session has ended rings no more."""
    anna.http("/consume/T?timeout=20")
    produce(core, b"one")
    assert core.timers == 0

    anna.zbus("consume", topic="T", timeout="20")
    anna.zbus("consume", topic="T", timeout="30")
    assert core.timers == 1

    anna.http("/consume/T?timeout=3600")
    anna.close()
    assert core.timers == 0


def test_ends_of_polls_take_only_their_own_credit(core: ZbusCore, anna: TextSession) -> None:
    """Of three that wait two end: one message comes, and only one."""
    waiting = [anna.http(f"/consume/T?timeout={seconds}") for seconds in (1, 60, 2)]
    core.pass_time(3)

    produce(core, b"one", b"two")

    assert [read(one).status for one in waiting] == [204, 200, 204]
    assert core.group("T").position == 1


def test_session_that_wants_no_more_gets_no_more(core: ZbusCore, anna: TextSession, bert: TextSession) -> None:
    """Requests of zbus get no answer then; those of HTTP one, since others may follow."""
    waiting, ordered = anna.zbus("consume", topic="T"), bert.http("/consume/T")

    anna.zbus("unconsume", topic="T")
    bert.zbus("unconsume", topic="T")
    produce(core, b"one")

    assert waiting.data is None
    assert read(ordered).status == 204
    assert not core.group("T").pool.members


def test_removal_answers_everybody(core: ZbusCore, anna: TextSession, bert: TextSession) -> None:
    """With what is gone."""
    waiting = [anna.zbus("consume", topic="T"), bert.http("/consume/T?timeout=60"), bert.http("/consume/T")]

    core.session().zbus("remove", topic="T")

    assert [(read(one).status, read(one).body) for one in waiting] == [(404, b"Topic(T) not found")] * 3
    assert core.timers == 0
    assert not anna.dialect.places
    assert not bert.dialect.places


def test_message_that_was_not_handed_over_comes_again(core: ZbusCore, anna: TextSession, bert: TextSession) -> None:
    """First in line, to whoever waits, and not as one that was tried."""
    first = anna.zbus("consume", topic="T")
    waiting = bert.zbus("consume", topic="T")
    produce(core, b"one")
    lost, left = (first, waiting) if first.data else (waiting, first)
    assert left.data is None

    assert lost.on_lost is not None
    lost.on_lost()
    core.run()

    assert read(left).body == b"one"
    assert "retry" not in read(left).headers
    produce(core, b"two")
    assert read(bert.zbus("consume", topic="T", consume_group="T")).body == b"two"


def test_messages_that_were_not_handed_over_keep_their_order(core: ZbusCore, anna: TextSession) -> None:
    """They come before all that follow."""
    waiting = [anna.http("/consume/T") for _ in range(3)]
    produce(core, b"1", b"2", b"3", b"4")
    anna.close()

    for exchange in waiting:
        assert exchange.on_lost is not None
        exchange.on_lost()
    core.run()

    bert = core.session()
    assert [read(bert.http("/consume/T")).body for _ in range(4)] == [b"1", b"2", b"3", b"4"]
    assert core.group("T").counters.acked == 4, "each is in one counter, once"


def test_message_that_has_to_be_acknowledged_is_not_given_back_twice(core: ZbusCore, anna: TextSession) -> None:
    """Where the mask asks for it the group keeps it: the session's end is what makes it come again."""
    anna.zbus("declare", topic="T", consume_group="a", group_mask="64")
    produce(core, b"one")
    waiting = anna.zbus("consume", topic="T", consume_group="a")

    assert read(waiting).body == b"one"
    assert waiting.on_lost is None
    anna.close()
    again = read(core.session().zbus("consume", topic="T", consume_group="a"))
    assert (again.body, again.headers["retry"]) == (b"one", "1")


def test_lost_message_of_a_topic_that_is_gone_is_gone(core: ZbusCore, anna: TextSession) -> None:
    """Nothing comes back into a group that was removed."""
    waiting = anna.zbus("consume", topic="T")
    produce(core, b"one")
    core.session().zbus("remove", topic="T")

    assert waiting.on_lost is not None
    waiting.on_lost()
    core.run()

    assert read(core.session().zbus("query", topic="T")).status == 404


# -- streams -------------------------------------------------------------------------------------------------


def test_stream_is_sent_all_and_to_the_end(core: ZbusCore, anna: TextSession) -> None:
    """What was stored before and after, and the reason of its end."""
    produce(core, b"1")
    stream = anna.http("/consume/T", accept="text/event-stream")
    produce(core, b"2")

    assert stream.data is not None
    assert stream.data.partition(b"\r\n\r\n")[2] == b"id: 0\ndata: 1\n\nid: 1\ndata: 2\n\n"
    core.session().zbus("remove", topic="T")
    assert stream.data.endswith(b"event: end\ndata: Topic(T) not found\n\n")
    assert not stream.is_stream


def test_stream_does_not_begin_behind_others(core: ZbusCore, anna: TextSession) -> None:
    """Its events could not be written, and would pile up."""
    anna.is_behind = True

    refused = anna.http("/consume/T", accept="text/event-stream")

    assert read(refused).status == 400
    assert not core.group("T").pool.members


def test_stream_that_goes_back_takes_no_message_from_the_group(core: ZbusCore, anna: TextSession) -> None:
    """What another consumer had and did not acknowledge comes, too, though it stands before the last id."""
    anna.zbus("declare", topic="T", consume_group="a", group_mask="64")
    produce(core, b"0", b"1", b"2", b"3")
    for _ in range(4):
        read(anna.zbus("consume", topic="T", consume_group="a"))
    for offset in ("1", "2", "3"):
        anna.zbus("ack", topic="T", consume_group="a", offset=offset)
    anna.close()

    stream = core.session().http("/consume/T/a", accept="text/event-stream", last_event_id="1")

    assert stream.data is not None
    assert [line for line in stream.data.split(b"\n") if line.startswith(b"data: ")] == [
        b"data: 0",
        b"data: 2",
        b"data: 3",
    ]


def test_stream_goes_on_with_what_is_left(core: ZbusCore) -> None:
    """Where what comes next was removed meanwhile the oldest that there is comes: of the rest nothing is missing."""
    core.lab.store.declare(
        "R",
        {"segment_bytes": 4096, "keep_bytes": 8192, "duplicate_window_ids": 0},
        update=False,
        done=lambda made, error: None,
    )
    core.run()
    producer, first = core.session(), core.session()
    producer.zbus("declare", topic="R")
    first.http("/consume/R", accept="text/event-stream")
    for _ in range(100):
        producer.zbus("produce", b"x" * 200, topic="R")
    first.close()
    Upkeep(core.lab.store).look_after_some()
    core.run()
    start = core.lab.topic("R").log.start_offset
    assert start > 10

    stream = core.session().http("/consume/R", accept="text/event-stream", last_event_id="5")

    assert stream.data is not None
    ids = [int(line[4:]) for line in stream.data.decode().split("\n") if line.startswith("id: ")]
    assert ids == list(range(start, 100))


def test_group_with_acknowledgement_needs_none_of_a_stream(core: ZbusCore, anna: TextSession) -> None:
    """An EventSource cannot send any: an event is done when it is sent."""
    anna.zbus("declare", topic="T", consume_group="a", group_mask="64")
    produce(core, *(b"%d" % number for number in range(300)))

    stream = anna.http("/consume/T/a", accept="text/event-stream")

    assert stream.data is not None
    assert stream.data.count(b"data: ") == 300
    assert not core.group("T", "a").pending


# -- nothing is left -----------------------------------------------------------------------------------------


def count(kind: type) -> int:
    """Return how many objects of a kind there are."""
    gc.collect()
    return sum(type(one) is kind for one in gc.get_objects())


@pytest.mark.anyio
async def test_connections_that_were_cut_leave_no_object_behind(tmp_path: object) -> None:
    """After 200 polls of an hour whose clients are gone, the process holds nothing of them, nor rings for them."""
    kinds = (TextPeer, ZbusSession, Place, Exchange)
    async with running_broker(data_dir=str(tmp_path)) as server:
        host, port, _ = parse_addresses(server.broker.name)[0]
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /declare/T HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in await reader.read()
        writer.close()
        assert server.broker.queues is not None
        group = server.broker.queues.store.topics["T"].groups["T"]
        await eventually(lambda: not server.turns.peers, "the end of the first connection")
        before, tasks = [count(kind) for kind in kinds], len(asyncio.all_tasks())

        for number in range(200):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /consume/T?timeout=3600 HTTP/1.1\r\n\r\n" * (1 + number % 3))
            if number % 2:
                await eventually(lambda: group.pool.members, "a consumer")
            writer.transport.abort()
            del writer
        await eventually(lambda: not server.turns.peers and not server.arrivals, "the end of all connections")
        await eventually(lambda: [count(kind) for kind in kinds] == before, "the end of all objects")

        assert len(asyncio.all_tasks()) == tasks
        assert not group.pool.members


def test_group_that_is_made_for_a_consumer_which_has_gone_stays_empty(core: ZbusCore, anna: TextSession) -> None:
    """The group of its own name is made for who asks for it; nobody consumes there who left before it was there."""
    core.lab.store.declare("native", {}, update=False, done=lambda topic, error: None)
    core.run()
    anna.start("consume", topic="native")
    anna.close()
    core.run()

    assert not core.group("native").pool.members


def test_consume_that_waits_for_its_group_keeps_its_rights(core: ZbusCore, anna: TextSession) -> None:
    """What the next request on the connection shows decides nothing about the one before."""
    mine = Rights("mine", [Rule(operations=frozenset({Operation.CONSUME}))])
    core.lab.store.declare("native", {}, update=False, done=lambda topic, error: None)
    core.run()
    anna.session.rights = mine
    waiting = anna.start("consume", topic="native")
    anna.session.rights = Rights("other")
    core.run()

    assert waiting.data is None
    (consumer,) = core.group("native").pool.members
    assert consumer.rights is mine
    assert anna.session.rights is not mine


# -- groups that are left behind -----------------------------------------------------------------------------


def test_group_that_a_url_has_left_behind_ends_by_itself(core: ZbusCore) -> None:
    """The topic's own group, made without being named, expires; one that somebody has named stays."""
    session = core.session()
    session.http("/declare/A")
    session.http("/consume/A?timeout=0")
    session.http("/declare/B/named")
    session.http("/declare/C")
    session.http("/declare/C/C")
    core.run()

    def expiry(topic: str, group: str) -> int | None:
        return core.lab.group(topic, group).options.expires_s

    assert expiry("A", "A") == EXPIRES_S
    assert expiry("B", "named") is None
    assert expiry("C", "C") is None
