"""The pipeline of a text connection: requests that have come and wait for their turn, in the order they came.

A block of bytes may hold thousands of small requests with large answers, or that take long; some are carried out a
turn, by their number and by the time they take, and none while the peer does not take its answers. A request also
waits for the answer to a `declare`, `remove` or `empty` before it: what it names may not be there yet.

Pure.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.transport.http import HttpRequest

TURN_MAX: Final = 64
"""Requests of one connection that are carried out before others have their turn."""
TURN_S: Final = 0.005
"""And so long at most, but one in any case: what a listing takes depends on what there is, and on the rights of who
asks, which no table of requests knows. Others wait that long for the disk as well."""
REQUEST_BYTES: Final = 512
"""What a request takes besides its body: measured of one with few headers. More of them take as much as they did in
the block in which they came, of which there is one for each connection."""


class Pipeline:
    """Requests that wait for their turn."""

    def __init__(
        self, take: Callable[[HttpRequest], None], is_open: Callable[[], bool], now: Callable[[], float]
    ) -> None:
        """Have `take` carry a request out, while `is_open` says that its answer can be taken.

        Args:
            now: A clock that goes on within a turn, unlike that of some loops.
        """
        self._take, self._is_open, self._now = take, is_open, now
        self._held: deque[HttpRequest] = deque()
        self._step: Exchange | None = None
        self.held_bytes = 0
        """What the requests take that wait."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def awaits_step(self) -> bool:
        """Whether those that come wait for the answer to one before them."""
        return self._step is not None

    @property
    def can_move(self) -> bool:
        """Whether there is a request that may be carried out now."""
        return bool(self._held) and self._step is None and self._is_open()

    @property
    def is_free(self) -> bool:
        """Whether a request that comes now need not wait."""
        return not self._held and self._step is None and self._is_open()

    def join(self, request: HttpRequest) -> None:
        """Let a request wait."""
        self._held.append(request)
        self.held_bytes += REQUEST_BYTES + len(request.body)

    def move(self, most: int = TURN_MAX) -> None:
        """Carry out what may be, up to so many, and for so long as a turn may take."""
        if not self.can_move:
            return
        until = self._now() + TURN_S
        while most and self.can_move:
            most -= 1
            request = self._held.popleft()
            self.held_bytes -= REQUEST_BYTES + len(request.body)
            self._take(request)
            if self._now() >= until:
                return

    def drain(self, is_wanted: Callable[[HttpRequest], bool]) -> None:
        """Carry out those that are wanted though nobody waits for the answers any more, and forget the others."""
        held, self._held = self._held, deque()
        self.held_bytes = 0
        for request in held:
            if is_wanted(request):
                self._take(request)

    def end(self) -> None:
        """Let go of whoever carries requests out, which holds this pipeline; none joins any more."""
        self._held.clear()
        self.held_bytes = 0
        self._step = None
        self._take, self._is_open = _take_nothing, _is_shut

    def wait_for(self, exchange: Exchange) -> None:
        """Stop until a request has its answer."""
        if exchange.data is None:
            self._step = exchange

    def note_answer(self, exchange: Exchange) -> bool:
        """Take note of an answer; say whether the pipeline may move because of it."""
        if exchange is not self._step:
            return False
        self._step = None
        return bool(self._held)


def _take_nothing(request: HttpRequest) -> None:
    """Take no request: the connection has ended."""


def _is_shut() -> bool:
    return False
