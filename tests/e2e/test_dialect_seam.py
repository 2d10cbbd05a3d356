"""The seam of dialects: one of thirty lines is served beside the others, with nothing told to anybody else."""

import asyncio
from typing import Any, cast

import pytest

from tests.support.inprocess import running_broker, serving
from tests.support.lab import Lab
from tests.support.waiting import eventually
from zbusrpc import connect
from zbusrpc.broker.core.turns import Place
from zbusrpc.broker.dialects.seams import Claim, House
from zbusrpc.broker.listeners.arrival import FIRST_BYTES_MAX
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio

MAGIC = b"\x00\x00LINES\n"
"""Its first byte is that of a native connection, too."""


class Lines(asyncio.Protocol):
    """Calls `add` of Lab with the two numbers of each line, and answers with a line."""

    def __init__(self, house: House, place: Place) -> None:
        self._turns, self._place, self._last = house.turns, place, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._session = self._turns.connect("lines", self, self._place)

    def data_received(self, data: bytes) -> None:
        for line in data.removeprefix(MAGIC).split():
            self._last += 1
            body = b'{"method":"add","params":[%b]}' % line
            self._turns.receive(self._session, Message(Kind.REQUEST, self._last, b"Lab", body))
        self._turns.flush_soon()

    def send(self, messages: list[Any]) -> None:
        self._transport.writelines([bytes(message.body) + b"\n" for message in messages])

    def close(self, reason: str) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._turns.disconnect(self._session)


class LinesDialect:
    """Opens such connections."""

    def __init__(self, house: House) -> None:
        self._house = house

    def claims(self, first: bytes) -> Claim:
        if MAGIC.startswith(first):
            return Claim.YES if first == MAGIC else Claim.MORE
        return Claim.YES if first.startswith(MAGIC) else Claim.NO

    def open(self, place: Place) -> asyncio.Protocol:
        return Lines(self._house, place)


class Undecided:
    """Never knows."""

    def claims(self, first: bytes) -> Claim:
        return Claim.MORE

    def open(self, place: Place) -> asyncio.Protocol:
        raise AssertionError


@pytest.mark.parametrize("pieces", [[MAGIC + b"1,2\n"], [MAGIC[:1], MAGIC[1:4], MAGIC[4:], b"1,2\n"]])
async def test_another_dialect_is_served_on_the_port(pieces: list[bytes]) -> None:
    """Whether its first bytes come together or one by one; others go on beside it, and its places come back."""
    async with running_broker() as server, serving(server, Lab):
        server.dialects.insert(0, LinesDialect(server))
        host, port, _ = parse_addresses(server.broker.name)[0]
        reader, writer = await asyncio.open_connection(host, port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

        assert b"3" in await reader.readline()
        assert await connect(Lab, broker=server.broker.name).add(1, 2) == 3
        taken = server.quotas.taken
        writer.close()
        await eventually(lambda: server.quotas.taken == taken - 1, "its place is free again")


async def test_connection_that_nobody_claims_in_time_is_closed() -> None:
    """After so many bytes each dialect knows its own."""
    async with running_broker() as server:
        server.dialects[:] = [Undecided()]
        host, port, _ = parse_addresses(server.broker.name)[0]
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(bytes(FIRST_BYTES_MAX + 1))
        assert await reader.read() == b""
        await eventually(lambda: not server.quotas.taken and not server.arrivals, "nothing is left")
        writer.close()
