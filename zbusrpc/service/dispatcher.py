"""The dispatcher: from the body of a request to a method with converted parameters, and from what the method
gave to the body of the reply.

Pure: it runs no handler and waits for nothing; `worker.py` does between `prepare` and the reply. A plain request
takes the fast way, one pass of one validator over its bytes. Everything else (JSON-RPC, parameters typed as text,
mistakes) takes the thorough way, which also finds the words for what is wrong.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import PydanticCustomError, from_json

from zbusrpc import envelope
from zbusrpc.envelope import Request
from zbusrpc.errors import Code, ProtocolError, RpcError, cut, did_you_mean, one_of
from zbusrpc.long_integers import LongIntegerError
from zbusrpc.message import HEADER_PARAMS, decode_headers
from zbusrpc.service import error_codec, schema
from zbusrpc.service.arguments import Mixture
from zbusrpc.service.definition import Color, Definition, Method
from zbusrpc.service.failures import Failures
from zbusrpc.service.forms.form import Form, Write
from zbusrpc.service.forms.guards import WRITE_ERRORS
from zbusrpc.service.members import as_awaitable
from zbusrpc.service.undecodable import reason_of
from zbusrpc.telemetry import get_logger

_PARAMS: Final = HEADER_PARAMS.encode()

log = get_logger("service")


@dataclass(slots=True, kw_only=True, frozen=True)
class BoundMethod:
    """A method of an instance with its schemas."""

    method: Method
    function: Callable[..., Any]
    arguments: Callable[[], Form]
    """Makes what reads the parameters alone, at the first call: plain requests never need it."""
    mixture: Mixture
    is_async: bool
    take_result: Callable[[Any], Any]
    """Validates what the method returned."""
    write_result: Write
    """Writes what was taken; two steps, as one function for both would be one more for each call."""


class Invocation:
    """One request: the method to run and its parameters, or the error to answer with."""

    __slots__ = ("args", "bound", "error", "kwargs", "request")

    def __init__(
        self,
        bound: BoundMethod | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        request: Request | None = None,
    ) -> None:
        self.bound = bound
        self.args = args
        self.kwargs = kwargs
        self.request = request
        """The request as it was read; None when it took the fast way."""
        self.error: Exception | None = None
        """Why it is not carried out."""

    @property
    def method(self) -> str:
        """What is asked for, as far as that could be read."""
        if self.bound is not None:
            return self.bound.method.name
        return cut(self.request.method) if self.request is not None else ""


class Dispatcher:
    """The methods of one service instance, as requests see them."""

    def __init__(self, definition: Definition, instance: object, *, dev: bool = False) -> None:
        self._definition = definition
        self._failures = Failures(definition, dev=dev)
        self._bound = {
            name: BoundMethod(
                method=method,
                function=_function_of(instance, method),
                arguments=functools.cache(functools.partial(schema.arguments_form, definition.name, method)),
                mixture=schema.mixture_of(definition.name, method),
                is_async=method.color is Color.ASYNC,
                take_result=take,
                write_result=write,
            )
            for name, method in definition.methods.items()
            for take, write in [schema.result_form(definition.name, method).result_steps()]
        }
        for error in {error for method in definition.methods.values() for error in method.options.errors}:
            error_codec.check_error(error)
        self._validate = schema.envelope_form(definition).validator.validate_json

    def prepare(self, body: bytes | bytearray, header_bytes: bytes) -> Invocation:
        """Return what a request asks for. Nothing is raised: mistakes are the invocation's `error`."""
        if header_bytes and _PARAMS in header_bytes:
            return self._prepare_or_refuse(body, header_bytes)
        try:
            values = self._validate(body)
            args, kwargs = values["params"]
            return Invocation(self._bound[values["method"]], args, kwargs)
        except Exception:  # ValidationError, or whatever a model's own validator raises
            # The thorough way says what is wrong, if anything is.
            return self._prepare_or_refuse(body, header_bytes)

    def _prepare_or_refuse(self, body: bytes | bytearray, header_bytes: bytes) -> Invocation:
        """Return what a request asks for, or what is wrong with it, by the thorough way."""
        invocation = Invocation(None, (), {})
        try:
            self._prepare_thoroughly(invocation, body, header_bytes)
        except Exception as error:  # not only RpcError: a validator of a model may raise anything
            invocation.error = error
        return invocation

    def result_body(self, invocation: Invocation, value: Any) -> bytes:
        """Return the reply for what a handler returned.

        Raises:
            RpcError: INTERNAL, when it does not fit the method's annotation.
        """
        bound = invocation.bound
        assert bound is not None
        try:
            result = bound.write_result(bound.take_result(value))
        except ValidationError as error:
            raise self._misfit(bound.method, error.errors()[0]["msg"]) from None
        except WRITE_ERRORS as error:
            raise self._misfit(bound.method, reason_of(error, value)) from None
        request = invocation.request
        if request is not None and request.is_jsonrpc:
            return envelope.jsonrpc_result(request.jsonrpc_id, result)
        return b'{"result":%b}' % result

    def error_body(self, invocation: Invocation, error: BaseException, *, is_late: bool = False) -> bytes:
        """Return the reply for an error, and log it; see `failures.py`.

        Args:
            is_late: Whether the deadline of the call has passed.
        """
        body = self._failures.body(invocation.method, error, is_late=is_late)
        request = invocation.request
        if request is not None and request.is_jsonrpc:
            return envelope.jsonrpc_error(request.jsonrpc_id, body)
        return body

    def _misfit(self, method: Method, reason: str) -> RpcError:
        annotation = method.signature.return_annotation
        wanted = getattr(annotation, "__name__", str(annotation))
        log.error("service.result_misfit", service=self._definition.name, method=method.name, reason=reason)
        return RpcError(
            Code.INTERNAL,
            f"{self._definition.name}.{method.name} returned something that is not {wanted}: {reason}",
        )

    # -- the thorough way --------------------------------------------------------------------------------

    def _prepare_thoroughly(self, invocation: Invocation, body: bytes | bytearray, header_bytes: bytes) -> None:
        try:
            invocation.request = request = envelope.parse_request(body)
        except LongIntegerError as error:
            raise self._unread(error) from None
        bound = invocation.bound = self._bound.get(request.method)
        try:
            is_text = decode_headers(header_bytes).get(HEADER_PARAMS) == "text"
        except ProtocolError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"unusable headers: {error}") from None
        if is_text and bound is not None and "module" in bound.method.signature.parameters:
            request = invocation.request = _with_module(request)
        if request.module not in {"", self._definition.name}:
            raise RpcError(
                Code.INVALID_ARGUMENT,
                f"module {cut(request.module)!r} is not here; this is service {self._definition.name}",
            )
        if bound is None:
            raise self._unknown_method(request.method)
        convert = _convert_text if is_text else _convert
        invocation.args, invocation.kwargs = convert(bound, request.params, request.named, self._definition.name)

    def _unread(self, error: LongIntegerError) -> RpcError:
        """Return the error for a request that an integer has kept from being read: by the parameter, if it is one."""
        method = error.before.get("method") if isinstance(error.before, dict) else None
        bound = self._bound.get(method) if isinstance(method, str) else None
        if bound is None or len(error.place) < 2 or error.place[0] not in {"params", "named"}:
            return RpcError(Code.INVALID_ARGUMENT, f"the request cannot be read: {error}")
        kind = PydanticCustomError("int_parsing_size", error.reason)
        problem = ValidationError.from_exception_data("", [{"type": kind, "loc": error.place[1:], "input": None}])
        return schema.invalid_arguments(problem, self._definition.name, bound.method)

    def _unknown_method(self, name: str) -> RpcError:
        names = list(self._bound)
        message = f"service {self._definition.name} has no method {cut(name)}"
        return RpcError(
            Code.UNIMPLEMENTED,
            f"{message}{did_you_mean(name, names) or '; it has ' + one_of(names)}",
            {"methods": names},
        )


def _with_module(request: Request) -> Request:
    """Return the request of a URL whose query names the parameter `module` of a method, and not the service."""
    if not request.module:
        return request
    if isinstance(request.params, dict):
        return replace(request, params=request.params | {"module": request.module}, module="")
    return replace(request, named=request.named | {"module": request.module}, module="")


def _function_of(instance: object, method: Method) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(instance, method.attribute)
    return as_awaitable(function) if method.color is Color.ASYNC else function


def _convert(bound: BoundMethod, params: list[Any] | dict[str, Any], named: dict[str, Any], service: str) -> Any:
    try:
        if named and isinstance(params, list):
            return bound.mixture.read(params, named)
        return bound.arguments().validator.validate_json(envelope.dump(params))
    except ValidationError as error:
        raise schema.invalid_arguments(error, service, bound.method) from None


def _convert_text(bound: BoundMethod, params: list[Any] | dict[str, Any], named: dict[str, Any], service: str) -> Any:
    """Convert parameters that a person typed: each as a string first and, where that does not fit, as JSON."""
    try:
        return _convert(bound, params, named, service)
    except RpcError as error:
        places = {problem["loc"][0] for problem in error.details if problem["loc"]}
        first_error = error
    again: Any = dict(params) if isinstance(params, dict) else list(params)
    again_named = dict(named)
    for place in places:
        values = again_named if place in again_named else again
        try:
            values[place] = from_json(values[place])
        except (ValueError, KeyError, IndexError, TypeError):
            continue
    try:
        return _convert(bound, again, again_named, service)
    except RpcError:
        raise first_error from None
