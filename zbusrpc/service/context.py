"""The context of a call: what a handler may ask about the call it works on, and the deadline it inherits.

Both are context variables, so they follow a task into the tasks it starts and into worker threads.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from zbusrpc.errors import Code, ProtocolError, RpcError, UsageError
from zbusrpc.message import HEADER_ATTEMPT, HEADER_CALLER, HEADER_METADATA_PREFIX, HEADER_TRACE, Message, decode_headers
from zbusrpc.service.checks import check_number
from zbusrpc.telemetry import current_call

TRACE_LETTERS_MAX: Final = 100
"""A longer trace is none: it would stand in every line of the log."""


class Limit:
    """A time limit for the calls that are made under it, until what set it has ended.

    A task that was begun under a limit has it as long as that holds, and no longer.
    """

    __slots__ = ("deadline", "is_over", "outer")

    def __init__(self, deadline: float | None, outer: "Limit | None" = None) -> None:
        self.deadline = deadline
        """When calls must have ended, by `time.monotonic()`; None for no limit."""
        self.is_over = False
        """Whether the handler or the block that set it has ended; a handler that is told to stop has it lifted for its
        clean-up."""
        self.outer = outer
        """What holds as well, and after this one."""


ambient_limit: ContextVar[Limit | None] = ContextVar("zbusrpc_limit", default=None)
"""The innermost limit of what runs here; whoever calls asks `ambient_deadline`."""


def ambient_deadline() -> float | None:
    """Return when calls made from here must have ended, by `time.monotonic()`; None for no limit."""
    limit, earliest = ambient_limit.get(), None
    while limit is not None:
        deadline = limit.deadline
        if deadline is not None and not limit.is_over and (earliest is None or deadline < earliest):
            earliest = deadline
        limit = limit.outer
    return earliest


class Context(Limit):
    """The call that a handler works on. Headers are read when they are asked for.

    In a task that outlives the handler it is still the call in which that was begun.
    """

    __slots__ = ("_header_bytes", "_id", "_session", "method", "service")

    def __init__(self, message: Message, service: str, method: str, deadline: float | None) -> None:
        self.deadline, self.is_over, self.outer = deadline, False, None  # super() costs as much as all of this
        self._header_bytes = message.header_bytes
        self._session = message.session
        self._id = message.id
        self.service = service
        """Name of the service."""
        self.method = method
        """Name of the method."""

    @property
    def call_id(self) -> str:
        """Names the call on client, broker and service alike: `session-number`."""
        return f"{self._session}-{self._id}"

    @property
    def trace(self) -> str:
        """Shared by a call and all that are made for it: W3C's trace id, or the id of the outermost handler's call."""
        headers = self._headers()
        trace = headers.get(HEADER_TRACE) or headers.get("traceparent", "")[3:35]
        return trace if 1 <= len(trace) <= TRACE_LETTERS_MAX else self.call_id

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
        try:
            headers = decode_headers(self._header_bytes)
        except ProtocolError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"unusable headers: {error}") from None
        return {key.removeprefix(prefix): value for key, value in headers.items() if key.startswith(prefix)}

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline, not below 0; None for no limit, also once the handler has ended."""
        return None if self.deadline is None or self.is_over else max(0.0, self.deadline - time.monotonic())

    def _headers(self) -> dict[str, str]:
        """Return the headers, or none where they cannot be read."""
        try:
            return decode_headers(self._header_bytes)
        except ProtocolError:
            return {}


def context() -> Context:
    """Return the call that the running handler works on.

    In a task that the handler has begun and that outlives it, it is that call, too: its metadata and its id may still
    be asked for, and there is no time limit any more.

    Raises:
        UsageError: no handler is running here.
    """
    current = current_call.get()
    if not isinstance(current, Context):
        raise UsageError("context() is for handlers: no call is being worked on here")
    return current


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Limit all calls made in the block to `seconds` from now, together; an earlier limit stays.

    None lifts all limits, also that of the call which a handler works on: for its clean-up, and around the start of a
    task that is to outlive it. What was begun in a block is limited no longer than the block lasts, as what a handler
    began is no longer than the handler runs.

    >>> with deadline(2.0):
    ...     pass

    Raises:
        UsageError: it is no number.
    """
    if seconds is not None:
        check_number("deadline", seconds)
    outer = ambient_limit.get()
    limit = Limit(None) if seconds is None else Limit(time.monotonic() + seconds, outer)
    token = ambient_limit.set(limit)
    try:
        yield
    finally:
        limit.is_over = True
        ambient_limit.reset(token)
