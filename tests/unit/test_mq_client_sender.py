"""The sender of a producer: batches that end before they are sent, and what comes after them."""

import asyncio

import pytest

from zbusrpc.errors import Code, RpcError
from zbusrpc.mq.in_flight import InFlight
from zbusrpc.mq.sender import FRAME_BYTES_MAX, Sender
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio

NOBODY = parse_addresses("127.0.0.1:1")


def sender(timeout_s: float = 30.0) -> tuple[Sender, InFlight]:
    """Return a sender that reaches no broker, and what it has in flight."""
    in_flight = InFlight(100, 100_000)
    return Sender(b"orders", NOBODY, in_flight, timeout_s=timeout_s, declares=False), in_flight


async def test_message_is_not_added_to_a_batch_that_has_failed() -> None:
    """Within the turn in which its batch fails, a further message begins another batch."""
    own, in_flight = sender()
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
    own, in_flight = sender(timeout_s=0.01)
    in_flight.take(3, 3)
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
    assert own.failure is not None
    assert own.unanswered() == []
    assert in_flight.messages == 0
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
    own.stop()
    await asyncio.sleep(0)
