"""The functions about topics and groups as a whole, against a real broker."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zbusrpc import Code, Consumer, Producer, RpcError, UsageError, deadline, mq
from zbusrpc.testing import running_broker

pytestmark = pytest.mark.anyio

TOPIC, GROUP = "orders", "billing"


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Run a broker that stores topics, and is the default one."""
    async with running_broker(data_dir=tmp_path) as address:
        monkeypatch.setenv("ZBUSRPC_BROKER", address)
        yield address


async def store(*bodies: str) -> None:
    """Store messages, one by one."""
    async with Producer(TOPIC) as producer:
        for body in bodies:
            await producer.send(body)


@pytest.mark.usefixtures("broker")
async def test_declared_topic_is_as_its_options_say() -> None:
    """The info has the options in Python's words; declaring again changes nothing."""
    options: mq.TopicOptions = {"durability": "os", "keep": None, "ttl": 60.0, "duplicate_window": 5.0}
    made = await mq.declare(TOPIC, **options)
    again = await mq.declare(TOPIC, durability="os")

    assert (made.name, made.durability, made.is_new, again.is_new) == (TOPIC, "os", True, False)
    assert {name: made.options[name] for name in options} == options
    assert abs(datetime.now(UTC) - made.created_at) < timedelta(minutes=1)
    assert (made.messages, made.start_offset, made.next_offset, made.group_count, made.consumers) == (0, 0, 0, 0, 0)


@pytest.mark.usefixtures("broker")
async def test_other_options_need_an_update() -> None:
    """An existing topic or group is not changed by mistake."""
    await mq.declare(TOPIC, keep=60.0)
    await mq.declare_group(TOPIC, GROUP, lease=5.0)
    with pytest.raises(RpcError, match="exists with keep_s = 60") as caught:
        await mq.declare(TOPIC, keep=61.0)
    assert caught.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(RpcError, match="exists with lease_ms = 5000"):
        await mq.declare_group(TOPIC, GROUP, lease=6.0)

    assert (await mq.declare(TOPIC, keep=61.0, update=True)).options["keep"] == 61.0
    assert (await mq.declare_group(TOPIC, GROUP, lease=6.0, update=True)).options["lease"] == 6.0
    with pytest.raises(UsageError, match="there is no option kep; did you mean keep"):
        await mq.declare(TOPIC, kep=1)  # type: ignore[call-arg]


@pytest.mark.usefixtures("broker")
async def test_listings_show_topics_and_groups() -> None:
    """All topics or those with a part of the name; a topic with its groups and consumers."""
    await store("a", "b")
    await mq.declare("other")
    async with Consumer(TOPIC, group=GROUP, window=1) as consumer:
        await consumer.fetch(1)
        listed = await mq.topics(match="ord")
        details = await mq.topic(TOPIC)

    assert [topic.name for topic in await mq.topics()] == [TOPIC, "other"]
    assert [(topic.name, topic.messages, topic.group_count, topic.consumers) for topic in listed] == [(TOPIC, 2, 1, 1)]
    (group,) = details.groups
    assert (details.group_count, group.name, group.lag, group.in_flight, group.next_offset) == (1, GROUP, 2, 1, 1)
    assert [(one.window, one.in_flight) for one in group.consumers] == [(1, 1)]
    assert (await mq.stats())["produced"] == 2


@pytest.mark.usefixtures("broker")
async def test_group_begins_where_it_is_told() -> None:
    """Every kind of place: ends, offset, time, message, other group."""
    await store("0", "1")
    middle = datetime.now(UTC) + timedelta(milliseconds=2)
    while datetime.now(UTC) < middle + timedelta(milliseconds=2):
        pass
    await store("2", "3")
    known = (await mq.peek(TOPIC, start=1, count=1))[0].id
    places: list[tuple[mq.StartAt, int]] = [
        ("oldest", 0),
        ("newest", 4),
        (3, 3),
        (middle, 2),
        (mq.AtMessage(known), 1),
        (mq.AtMessage(known, offset=1), 1),
    ]
    for number, (start, offset) in enumerate(places):
        assert (await mq.declare_group(TOPIC, f"g{number}", start=start)).next_offset == offset
        assert (await mq.seek(TOPIC, "g0", start)).offset == offset
    assert (await mq.declare_group(TOPIC, "copy", start=mq.LikeGroup("g2"))).next_offset == 3
    with pytest.raises(RpcError, match="is not at offset 2"):
        await mq.seek(TOPIC, "g0", mq.AtMessage(known, offset=2))
    with pytest.raises(RpcError) as caught:
        await mq.seek(TOPIC, "g0", 99)
    assert caught.value.code is Code.OUT_OF_RANGE


@pytest.mark.usefixtures("broker")
async def test_peek_shows_messages_page_by_page() -> None:
    """A page is a sequence of messages, and says where to go on."""
    await store("a", "b", "c")
    async with Producer(TOPIC) as producer:
        await producer.send(b"\xff" * 100, tag="eu.x", ttl=60.0, delay=30.0)

    page = await mq.peek(TOPIC, count=2)
    rest = await mq.peek(TOPIC, start=page.next_offset, body_bytes_max=10)

    assert [message.body for message in page] == [b"a", b"b"]
    assert (len(page), page.next_offset, page.end_offset, page[1].offset) == (2, 2, 4, 1)
    assert [message.offset for message in page[:1]] == [0]
    assert (rest[1].body, rest[1].size) == (b"\xff" * 10, 100)
    assert rest[1].due is not None
    assert rest[1].expiry is not None
    assert rest[0].due is None
    assert [message.tag for message in await mq.peek(TOPIC, filter="eu.*")] == ["eu.x"]


@pytest.mark.usefixtures("broker")
async def test_paused_group_rests_until_it_is_resumed() -> None:
    """Nothing is delivered in between."""
    await store("a")
    await mq.declare_group(TOPIC, GROUP)
    await mq.pause(TOPIC, GROUP)
    async with Consumer(TOPIC, group=GROUP, window=0) as consumer:
        assert await consumer.fetch(1, timeout=0.02) == []
        await mq.resume(TOPIC, GROUP)

        assert len(await consumer.fetch(1)) == 1


@pytest.mark.usefixtures("broker")
async def test_emptying_and_removing() -> None:
    """A group passes all messages; a topic loses them; what is removed is gone."""
    await store("a", "b", "c")
    await mq.declare_group(TOPIC, GROUP)
    await mq.declare_group(TOPIC, "other", start=1)
    assert await mq.empty(TOPIC, group=GROUP) == 3
    assert await mq.empty(TOPIC, group=GROUP) == 0
    assert (await mq.topic(TOPIC)).messages == 3
    assert await mq.empty(TOPIC) == 3
    assert (await mq.topic(TOPIC)).messages == 0

    await mq.remove(TOPIC, group="other")
    assert [group.name for group in (await mq.topic(TOPIC)).groups] == [GROUP]
    await mq.remove(TOPIC)
    with pytest.raises(RpcError) as caught:
        await mq.topic(TOPIC)
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.usefixtures("broker")
async def test_dead_letters_whose_message_is_gone_are_left() -> None:
    """They come back only as new messages, and the result says so."""
    await store("a")
    async with Consumer(TOPIC, group=GROUP) as consumer:
        (message,) = await consumer.fetch(1)
        await message.reject("bad")
        await message.ack(confirmed=True)
        while not len(letters := await mq.dead_letters(TOPIC)):
            pass
    await mq.empty(TOPIC)

    result = await mq.retry_dead(TOPIC)
    assert (result.retried, [one.offset for one in result.left]) == (0, [letters[0].offset])
    assert "say as_new" in result.left[0].reason
    assert (await mq.retry_dead(TOPIC, as_new=True)).retried == 1
    assert [message.body for message in await mq.peek(TOPIC)] == [b"a"]
    assert await mq.purge_dead(TOPIC) == 0


async def test_dead_letters_of_a_topic_without_any(broker: str) -> None:
    """There is no dead-letter topic yet."""
    await mq.declare(TOPIC, broker=broker)

    page = await mq.dead_letters(TOPIC, broker=broker)

    assert (list(page), page.topic) == ([], "")


async def test_broker_that_is_away_is_told(broker: str) -> None:
    """At once, with its address; and a deadline of the block counts."""
    with pytest.raises(RpcError, match=r"cannot reach broker 127\.0\.0\.1:1") as caught:
        await mq.topics(broker="127.0.0.1:1")
    assert caught.value.code is Code.UNAVAILABLE
    with deadline(-1.0), pytest.raises(RpcError) as late:
        await mq.topics(broker=broker)
    assert late.value.code is Code.DEADLINE_EXCEEDED


async def test_broker_without_data_directory_refuses() -> None:
    """The error says what it needs."""
    async with running_broker() as broker:
        with pytest.raises(RpcError, match="data") as caught:
            await mq.topics(broker=broker)

    assert caught.value.code is Code.FAILED_PRECONDITION
