"""The sender of a producer: batches that end before they are sent, and what comes after them."""

import asyncio
import gc
from pathlib import Path

import pytest

from tests.support.broker_set import fleet_at
from tests.support.inprocess import running_broker
from zbusrpc import Producer
from zbusrpc.errors import Code, RpcError
from zbusrpc.mq.in_flight import InFlight
from zbusrpc.mq.sender import FRAME_BYTES_MAX, Sender, Terms
from zbusrpc.outcome import not_run
from zbusrpc.transport.entries import decode_entries, encode_entry

pytestmark = pytest.mark.anyio


class Nobody:
    """Knows no other lanes."""

    def lane_stuck(self, lane: Sender) -> None:
        """Let the messages wait."""

    def lane_refused(self, lane: Sender, error: RpcError) -> None:
        """Do nothing: there is no broker that could refuse."""

    def trouble(self) -> object:
        """Say why there is no broker."""
        return "there is no broker"


def sender(timeout_s: float = 30.0) -> tuple[Sender, Terms]:
    """Return a sender that reaches no broker, and what holds for it."""
    terms = Terms(b"orders", InFlight(100, 100_000), timeout_s=timeout_s, declares=False)
    return Sender(terms, Nobody(), None), terms


async def test_message_is_not_added_to_a_batch_that_has_failed() -> None:
    """Within the turn in which its batch fails, a further message begins another batch."""
    own, terms = sender()
    in_flight = terms.in_flight
    in_flight.take(2, 2)
    first = own.add(b"1", b"", None)
    own.fail_unsent(RpcError(Code.NOT_FOUND, "no topic"))
    second = own.add(b"2", b"", None)

    assert isinstance(first.exception(), RpcError)
    assert own.unanswered() == [second]
    own.stop()
    assert isinstance(second.exception(), RpcError)
    assert (in_flight.messages, in_flight.bytes) == (0, 0)


async def test_room_is_given_back_when_time_is_over() -> None:
    """What could not be sent in time is forgotten, whether or not anybody still waits for it."""
    own, terms = sender(timeout_s=0.01)
    terms.in_flight.take(3, 3)
    given_up, waiting, unwatched = (
        own.add(b"1", b"", None),
        own.add(b"2", b"", None),
        own.add(b"3", b"", None, is_unwatched=True),
    )
    given_up.cancel()
    own.flush()
    with pytest.raises(RpcError, match="not sent in time"):
        await waiting

    assert isinstance(unwatched.exception(), RpcError)
    assert terms.failure is not None
    assert own.unanswered() == []
    assert terms.in_flight.messages == 0
    own.stop()


async def test_frames_end_at_their_size_at_a_second_id_and_at_longer_times() -> None:
    """Each of them begins another frame, in order."""
    own, _ = sender()
    half = bytes(FRAME_BYTES_MAX // 2)
    for entry, given_id, timeout_s in (
        (half, b"", None),
        (half, b"", None),
        (b"next", b"a", None),
        (b"same", b"b", 1.0),
        (b"next", b"a", None),
        (b"same", b"", 30.0),
        (b"next", b"", 60.0),
        (b"same", b"", None),
    ):
        own.add(entry, given_id, timeout_s)
    own.add_batch([b"own", b"own"], None)
    own.add(b"after", b"", None)

    entries = [[bytes(entry[-5:]).strip(b"\0") for entry in batch.entries] for batch in own.batches()]
    assert entries == [
        [b"", b""],
        [b"next", b"same"],
        [b"next", b"same"],
        [b"next", b"same"],
        [b"own", b"own"],
        [b"after"],
    ]
    futures = own.unanswered()
    own.stop()
    assert all(isinstance(future.exception(), RpcError) for future in futures)


async def test_batches_that_are_given_up_are_parted_by_key() -> None:
    """Each key goes to its lane, in order and with its ids; what must stay together does, and time limits go along."""
    own, terms = sender()
    lanes = {key: Sender(terms, Nobody(), None) for key in (b"", b"a", b"b")}
    entries = [
        encode_entry(0, 0, 0, b"%d" % number, b"", key, b"", b"body")
        for number, key in enumerate((b"a", b"b", b"", b"a", b"b"))
    ]
    futures = [own.add(entry, b"", 0.05 if number == 1 else None) for number, entry in enumerate(entries)]
    atomic = own.add_batch(entries[3:], None)
    own.batches()[0].seal()  # as if it had been sent

    for batch in own.give_up():
        for lane, part in batch.parted(lanes.__getitem__):
            lane.take(part)

    placed = {key: [decode_entries(batch.seal()) for batch in lane.batches()] for key, lane in lanes.items()}
    assert {key: [[entry.id for entry in batch] for batch in batches] for key, batches in placed.items()} == {
        b"": [[b"2"]],
        b"a": [[b"0", b"3"], [b"3", b"4"]],
        b"b": [[b"1", b"4"]],
    }
    assert atomic.is_over
    assert own.unanswered() == []
    with pytest.raises(RpcError, match="may or may not be stored"):
        await futures[1]
    assert len(lanes[b"b"].unanswered()) == 1
    for lane in lanes.values():
        lane.stop()
    assert all(isinstance(future.exception(), RpcError) for future in futures)


async def test_forgotten_producer_leaves_nothing_behind(tmp_path: Path) -> None:
    """Though nobody has closed it, and no broker comes or goes."""
    async with running_broker(data_dir=str(tmp_path)) as server:
        fleet = fleet_at(server.broker.name)
        for _ in range(3):
            producer = Producer("orders", broker=server.broker.name)
            await producer.send(b"1")
            assert len(fleet.listeners) == 1
            del producer
            gc.collect()
            assert not fleet.listeners


@pytest.mark.parametrize("count", [1, 2, 40])
async def test_message_that_was_not_sent_in_time_is_never_sent(count: int) -> None:
    """With less time than its batch it is taken out of that, and its room is given back; the others stay."""
    own, terms = sender()
    terms.in_flight.take(count, count)
    futures = [own.add(b"%d" % (number % 10), b"", 0.01 if number % 2 == 0 else None) for number in range(count)]
    late, others = futures[0::2], futures[1::2]

    await asyncio.wait(late)

    for future in late:
        error = future.exception()
        assert isinstance(error, RpcError)
        assert not error.may_have_run
    assert own.unanswered() == others
    assert [entry for batch in own.batches() for entry in batch.entries] == [
        b"%d" % (number % 10) for number in range(1, count, 2)
    ]
    assert terms.in_flight.messages == len(others)
    own.stop()
    assert terms.in_flight.messages == terms.in_flight.bytes == 0


async def test_message_that_a_lost_broker_may_have_is_not_denied() -> None:
    """It was sent, and its broker was lost; what another one says of it later is no proof that it is stored nowhere."""
    own, _ = sender()
    first = own.add(b"1", b"", None)
    (batch,) = own.batches()
    batch.seal()
    own._sent[batch] = None
    own._unsent.clear()
    entry = encode_entry(0, 0, 0, b"id", b"", b"", b"", b"body")
    batch.entries = [entry]

    (lost,) = own.give_up()
    for lane, part in lost.parted(lambda key: own):
        lane.take(part)
    own.fail_unsent(not_run(Code.RESOURCE_EXHAUSTED, "no room"))

    error = first.exception()
    assert isinstance(error, RpcError)
    assert error.may_have_run
    assert "may have stored it before" in error.message
