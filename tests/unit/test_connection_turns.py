"""The turns of a native connection: how much of what came is handled before others have theirs."""

import asyncio
from typing import Any

import pytest

from zbusrpc.message import Kind, Message
from zbusrpc.transport.connection import MESSAGES_PER_TURN, WIDE_KINDS, Connection
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.native import encode

pytestmark = pytest.mark.anyio


class Turns:
    """A receiver that notes how many messages came in each turn."""

    def __init__(self) -> None:
        self.counts = [0]

    def connection_opened(self, hello: Hello) -> None:
        """Be told of the HELLO."""

    def message_received(self, message: Message) -> None:
        self.counts[-1] += 1

    def turn_ended(self, held_bytes: int) -> None:
        self.counts.append(0)

    def congestion_changed(self, is_congested: bool) -> None:
        """Be told of it."""

    def connection_closed(self, error: Exception | None) -> None:
        """Be told of the end."""


class Transport(asyncio.Transport):
    """One that nothing leaves by."""

    def write(self, data: Any) -> None:
        """Forget it."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have none."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


def frames(*messages: Message) -> bytes:
    """Return what a peer writes."""
    chunks: list[bytes | bytearray | memoryview] = []
    for message in messages:
        encode(message, chunks)
    return b"".join(chunks)


def received(*messages: Message) -> tuple[Connection, Turns]:
    """Return a connection to which these have come in one block."""
    receiver = Turns()
    connection = Connection(receiver, Hello(), is_client=False)
    connection.connection_made(Transport())
    connection.data_received(frames(hello_message(Hello())))
    receiver.counts = [0]
    connection.data_received(frames(*messages))
    return connection, receiver


async def turns_of(*messages: Message) -> list[int]:
    """Return how many of these, that come in one block, are handled in each turn of the loop."""
    connection, receiver = received(*messages)
    while sum(receiver.counts) < len(messages):  # noqa: ASYNC110 - no events there
        await asyncio.sleep(0)
    connection.connection_lost(None)
    return [count for count in receiver.counts if count]


async def test_small_messages_are_handled_some_a_turn() -> None:
    """What one peer pipelines does not keep the others from their turn."""
    turns = await turns_of(*[Message(Kind.ACK)] * (2 * MESSAGES_PER_TURN + 1))

    assert turns == [MESSAGES_PER_TURN, MESSAGES_PER_TURN, 1]


@pytest.mark.parametrize("kind", sorted(WIDE_KINDS))
async def test_what_may_take_long_has_a_turn_of_its_own(kind: Kind) -> None:
    """A block holds hundreds of commands, each of which lists all topics."""
    turns = await turns_of(*[Message(kind, number) for number in range(5)], *[Message(Kind.ACK)] * 5)

    assert turns == [1, 1, 1, 1, 1, 5]


async def test_of_who_has_gone_only_messages_count() -> None:
    """What came before the end is taken at once; nobody is there for listings, and a block of them takes minutes."""
    wide = [Message(kind, 1) for kind in sorted(WIDE_KINDS)]
    connection, receiver = received(*wide, *[Message(Kind.ACK)] * 5, *wide)

    connection.connection_lost(None)

    assert sum(receiver.counts) == 1 + 5
