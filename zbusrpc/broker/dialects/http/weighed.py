"""A weighed connection: what its peer makes the broker keep is counted, see `memory.py`."""

import asyncio
from typing import Protocol

from zbusrpc.broker.dialects import seams
from zbusrpc.broker.dialects.http import router
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.guard import is_known
from zbusrpc.broker.dialects.http.pipeline import Pipeline
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.sessions.memory import SMALL_BYTES
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.connection import OUTBOX_BYTES_MAX, format_peername

log = get_logger("broker")


class House(seams.House, router.House, Protocol):
    """The broker, as text connections know it."""

    hub: Hub


class Weighed(asyncio.Protocol):
    """What text connections have in common with others that are counted."""

    _transport: asyncio.Transport
    _pipeline: Pipeline
    """Whole requests that wait."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._is_held_back = self._is_congested = False
        self._unsent_bytes = 0
        """Of answers that are known, and wait for those before them or for the end of the turn."""

    def eof_received(self) -> None:
        """Let the transport close itself: a caller that hangs up gives its calls up."""

    def hold_back(self, is_held_back: bool) -> None:
        """Read no more, or go on: the broker holds too many parts of messages."""
        self._is_held_back = is_held_back
        self._adjust_reading()

    def cut_off(self) -> None:
        """End the connection at once: too much waits for a peer that does not read."""
        log.warning("broker.does_not_read", peer=format_peername(self._transport.get_extra_info("peername")))
        self._transport.abort()

    def _adjust_reading(self) -> None:
        raise NotImplementedError

    def _limit_of(self, headers: dict[str, str], target: bytes) -> int:
        """Return how large the body of a request may be of which the head has come."""
        return self._house.message_bytes_max if is_known(self._house, headers, target) else SMALL_BYTES

    def _lose(self, exchange: Exchange) -> None:
        """Give the message in an answer back, which nobody got."""
        if exchange.on_lost is not None:
            exchange.on_lost()
            self._house.turns.flush_soon()

    def _weigh_answer(self, data: bytes | None) -> None:
        """Count an answer that is known."""
        self._unsent_bytes += len(data or b"")
        if self._unsent_bytes > OUTBOX_BYTES_MAX:
            self.cut_off()

    def _weigh_waiting(self) -> None:
        """Count what was written and waits for a peer that reads too slowly, and its requests behind that."""
        waiting = self._pipeline.held_bytes
        if self._is_congested:
            waiting += self._transport.get_write_buffer_size()
        self._house.output.hold(self, waiting)
        if waiting > OUTBOX_BYTES_MAX:
            self.cut_off()

    def _weigh_nothing(self) -> None:
        """Count nothing any more: the connection is gone."""
        self._house.input.hold(self, 0)
        self._house.output.hold(self, 0)
