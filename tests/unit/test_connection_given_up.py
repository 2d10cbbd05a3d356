"""A connection that is given up while it is dialled is closed as soon as it is made: nobody else would do it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from zbusrpc.transport.connection import Connection
from zbusrpc.transport.hello import Hello

pytestmark = pytest.mark.anyio


class Transport(asyncio.Transport):
    """One that takes note."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.is_aborted = b"", False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class Nobody:
    """The receiver of what is never received."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


@pytest.mark.parametrize("give_up", [Connection.abandon, Connection.close], ids=["cancelled", "timed out"])
async def test_connection_that_is_made_late_is_closed(give_up: Callable[[Connection], None]) -> None:
    """It says nothing, and leaves neither a timer nor a descriptor."""
    connection, transport = Connection(Nobody(), Hello(name="late"), is_client=True), Transport()
    give_up(connection)

    connection.connection_made(transport)
    await asyncio.sleep(0)

    assert transport.is_aborted
    assert transport.written == b""
    assert connection._timer is None
