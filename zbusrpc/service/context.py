"""The context of a call: what a handler may ask about the call it works on, and the deadline it inherits.

Both are context variables, so they follow a task into the tasks it starts and into worker threads.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from zbusrpc.errors import Code, ProtocolError, RpcError, UsageError
from zbusrpc.message import HEADER_ATTEMPT, HEADER_CALLER, HEADER_METADATA_PREFIX, Message, decode_headers
from zbusrpc.telemetry import current_call

ambient_deadline: ContextVar[float | None] = ContextVar("zbusrpc_deadline", default=None)
"""When calls made from here must have ended, by `time.monotonic()`; None for no limit."""

MS: Final = 1000


class Context:
    """The call that a handler works on. Headers are read when they are asked for."""

    __slots__ = ("_header_bytes", "_id", "_session", "deadline", "method", "service")

    def __init__(self, message: Message, service: str, method: str, deadline: float | None) -> None:
        self._header_bytes = message.header_bytes
        self._session = message.session
        self._id = message.id
        self.service = service
        """Name of the service."""
        self.method = method
        """Name of the method."""
        self.deadline = deadline
        """When the call must have ended, by `time.monotonic()`; None for no limit."""

    @property
    def call_id(self) -> str:
        """Names the call on client, broker and service alike: `session-number`."""
        return f"{self._session}-{self._id}"

    @property
    def caller(self) -> str:
        """Who called, as it says of itself; otherwise its session at the broker. Not proof of anything."""
        return self._headers().get(HEADER_CALLER) or f"session {self._session}"

    @property
    def attempt(self) -> int:
        """1, or more when other instances were given this call before and died."""
        attempt = self._headers().get(HEADER_ATTEMPT, "1")
        return int(attempt) if attempt.isdecimal() and len(attempt) < 10 else 1

    @property
    def metadata(self) -> dict[str, str]:
        """What the caller sent along with `options(metadata=...)` or `Meta-...` headers."""
        prefix = HEADER_METADATA_PREFIX
        return {key.removeprefix(prefix): value for key, value in self._headers().items() if key.startswith(prefix)}

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline, not below 0; None for no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _headers(self) -> dict[str, str]:
        try:
            return decode_headers(self._header_bytes)
        except ProtocolError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"unusable headers: {error}") from None


def context() -> Context:
    """Return the call that the running handler works on.

    Raises:
        UsageError: no handler is running here.
    """
    current = current_call.get()
    if not isinstance(current, Context):
        raise UsageError("context() is for handlers: no call is being worked on here")
    return current


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit all calls made in the block to `seconds` from now, together; an earlier limit stays.

    >>> with deadline(2.0):
    ...     pass
    """
    until = time.monotonic() + seconds
    outer = ambient_deadline.get()
    token = ambient_deadline.set(until if outer is None else min(outer, until))
    try:
        yield
    finally:
        ambient_deadline.reset(token)
