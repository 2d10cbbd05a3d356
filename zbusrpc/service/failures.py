"""Failures: what a caller is told of an error that ended a handler.

    raised on purpose     an RpcError of the handler's own, or one of the errors that the service declares: as it is
    nested                an RpcError that came back from a call or command of the handler's, and that it let pass: a
                          fault of this service, INTERNAL, with its cause; it says nothing about the caller's arguments
    out of time           the same, where the deadline was the caller's own: DEADLINE_EXCEEDED
    anything else         INTERNAL; the log has the rest

An exception group, as task groups raise it, is told by what is in it where that is one error.

Promises: whatever the error is, there is an answer; no text but that of an RpcError leaves the service, except in dev
mode.
"""

import traceback
from collections.abc import Iterator
from typing import Any, Final

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError, code_of, message_of
from zbusrpc.long_integers import check_json
from zbusrpc.outcome import OF_COMMAND, origin_of
from zbusrpc.service import error_codec
from zbusrpc.service.definition import Definition
from zbusrpc.telemetry import get_logger

_OWN_PACKAGES: Final = {"zbusrpc", "concurrent"}

log = get_logger("service")


class Failures:
    """The failures of one service."""

    def __init__(self, definition: Definition, *, dev: bool = False) -> None:
        self._definition = definition
        self._dev = dev

    def body(self, method: str, error: BaseException, *, is_late: bool = False) -> bytes:
        """Return the reply for what a handler raised, and log it.

        Args:
            method: What was called.
            error: What it raised.
            is_late: Whether the deadline of the call has passed, so that nested calls could not be answered in time.
        """
        try:
            body = self._body(method, error, is_late=is_late)
            check_json(body)
        except Exception as unwritable:  # its fields or its text have no form in JSON, or none that can be read
            log.error("service.unwritable_error", service=self._definition.name, method=method, exc_info=unwritable)
            message = f"{self._definition.name}.{method} failed, and its error cannot be written as JSON"
            return envelope.error_body(RpcError(Code.INTERNAL, message))
        return body

    def _body(self, method: str, error: BaseException, *, is_late: bool) -> bytes:
        service = self._definition.name
        leaves = list(_leaves(error))
        nested = [leaf for leaf in leaves if isinstance(leaf, RpcError) and origin_of(leaf)]
        if is_late and len(nested) == len(leaves) and {code_of(leaf) for leaf in nested} == {Code.DEADLINE_EXCEEDED}:
            message = f"the deadline of this call to {service} passed in the handler"
            return envelope.error_body(RpcError(Code.DEADLINE_EXCEEDED, message))
        if len(leaves) == 1 and isinstance(leaves[0], RpcError) and self._is_meant(leaves[0]):
            log.info("service.refused", service=service, method=method, error=str(leaves[0]))
            return error_codec.error_body(leaves[0], self._definition.errors)
        cause = _cause_of(nested[0]) if nested else None
        _leave_out_own_frames(error)
        facts = {"cause": cause} if cause is not None else {}
        log.error("service.failed", service=service, method=method, exc_info=error, **facts)
        return envelope.error_body(self._internal(method, error, cause))

    def _is_meant(self, error: RpcError) -> bool:
        """Whether the service says this to its caller, and not somebody whom it has called."""
        return origin_of(error) is None or type(error) in self._definition.errors.values()

    def _internal(self, method: str, error: BaseException, cause: dict[str, str] | None) -> RpcError:
        """Return what a caller may know of an unexpected error."""
        text = f"{self._definition.name}.{method} failed; the service's log says why"
        details: dict[str, Any] = {}
        if cause is not None:
            of = f"its call of {cause['service']}.{cause['method']}" if "service" in cause else "a command of it"
            text = f"{self._definition.name}.{method} failed: {of} ended with {cause['code']}: {cause['message']}"
            details["cause"] = cause
        if self._dev:
            text = f"{self._definition.name}.{method}: {type(error).__name__}: {error}"
            details["traceback"] = "".join(traceback.format_exception(error))
        return RpcError(Code.INTERNAL, text, details or None)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Return the errors in a group of any depth, or the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in error.exceptions:
        yield from _leaves(inner)


def _cause_of(error: RpcError) -> dict[str, str]:
    """Return which call of the handler's ended, and with what."""
    service, method = origin_of(error) or OF_COMMAND
    called = {"service": service, "method": method} if service else {}
    return {**called, "code": str(code_of(error)), "message": message_of(error)}


def _leave_out_own_frames(error: BaseException) -> None:
    """Let the traceback begin where the user's code does."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _OWN_PACKAGES:
        frames = frames.tb_next
    if frames is not None:
        error.__traceback__ = frames
