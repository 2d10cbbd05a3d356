"""The client: `connect` makes a proxy whose methods are calls.

A proxy holds no connection: each call finds the one of its event loop (see `calls.py`), so a proxy may be shared
between loops and threads. Parameters are written by the method's annotations and sent as they are; it is the
service that checks them. What comes back is validated by the annotation of the result.
"""

import asyncio
import functools
import inspect
import random
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from zbusrpc import envelope
from zbusrpc.config import TIMEOUT_S, default_broker
from zbusrpc.errors import Code, DefinitionError, RpcError, UsageError
from zbusrpc.message import HEADER_METADATA_PREFIX, Flag, Kind, Message, encode_headers
from zbusrpc.service import schema
from zbusrpc.service.blocking import run_blocking
from zbusrpc.service.calls import Caller, caller_of_loop
from zbusrpc.service.context import ambient_deadline
from zbusrpc.service.definition import Color, Definition, Method, define
from zbusrpc.telemetry import client_span, is_tracing
from zbusrpc.transport.address import Address, parse_addresses
from zbusrpc.transport.backoff import Backoff

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

LOST_RETRIES: Final = 3
"""How often an idempotent call is sent again because its connection was lost, whatever `retries` says."""
RETRYABLE: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})
TWIN: Final = "__zbusrpc_async__"
"""Attribute of a proxy's method: the coroutine function behind it."""
PARTS: Final = "__zbusrpc_parts__"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How a proxy calls."""

    brokers: tuple[Address, ...]
    timeout: float | None = None
    """Seconds; None for the method's own limit, or 10 s."""
    retries: int = 0
    wait_for_ready: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Further message headers, for tools."""


@overload
def connect(service: type[T], /, *, broker: str | None = None) -> T: ...
@overload
def connect(service: str, /, *, broker: str | None = None) -> Any: ...
def connect(service: type[T] | str, /, *, broker: str | None = None) -> T | Any:
    """Return a proxy for a service: for type checkers it is an instance of the class.

    An `async def` method is awaited, a `def` method blocks. A name instead of a class gives a proxy without types:
    every method is awaited and returns JSON values. Nothing is opened before the first call.

    Args:
        service: A class declared with `@service`, or the name of a service.
        broker: Brokers as `host:port;host2:port`; by default `ZBUSRPC_BROKER` or localhost:15555.

    Raises:
        DefinitionError: the class is no service.
        ConfigError: `broker` is no address.
    """
    options = CallOptions(brokers=parse_addresses(broker or default_broker()))
    if isinstance(service, str):
        return DynamicProxy(service, options)
    return _typed_proxy(define(service), options)


def options(
    proxy: T,
    /,
    *,
    timeout: float | None = None,
    retries: int | None = None,
    metadata: dict[str, str] | None = None,
    wait_for_ready: bool | None = None,
) -> T:
    """Return a proxy of the same type that calls in another way; what is not given stays.

    Args:
        timeout: Time limit of each call in seconds, retries included.
        retries: How often to try again after UNAVAILABLE or RESOURCE_EXHAUSTED, where the call has not run or is
            idempotent; with growing, jittered waits.
        metadata: Strings that the handler finds in `context().metadata`; added to those of `proxy`.
        wait_for_ready: Wait for a broker and an instance until the time limit, instead of failing at once.
    """
    if timeout is not None and timeout <= 0:
        raise UsageError(f"options(timeout={timeout}): a time limit is greater than 0")
    old, rebuild = _parts(proxy)
    changes: dict[str, Any] = {"timeout": timeout, "retries": retries, "wait_for_ready": wait_for_ready}
    changes = {name: value for name, value in changes.items() if value is not None}
    if metadata:
        changes["metadata"] = tuple({**dict(old.metadata), **metadata}.items())
    return cast("T", rebuild(replace(old, **changes)))


def aio(method: Callable[P, R], /) -> Callable[P, Awaitable[R]]:
    """Return the awaitable twin of a proxy's blocking method.

    >>> # await aio(calc.factor)(91)
    """
    twin: Callable[P, Awaitable[R]] | None = getattr(method, TWIN, None)
    if twin is None:
        raise UsageError(f"aio() takes a method of a proxy, such as calc.add, not {method!r}")
    return twin


def blocking(method: Callable[P, Awaitable[R]], /) -> Callable[P, R]:
    """Return the blocking twin of a proxy's awaitable method.

    >>> # blocking(calc.add)(1, 2)
    """
    twin: Callable[P, Awaitable[R]] | None = getattr(method, TWIN, None)
    if twin is None:
        raise UsageError(f"blocking() takes a method of a proxy, such as calc.add, not {method!r}")
    return _blocking(twin)


def _blocking(twin: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    name = getattr(twin, "__qualname__", "call")

    @functools.wraps(twin)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", run_blocking(name, _with_deadline, ambient_deadline.get(), twin, args, kwargs))

    setattr(call, TWIN, twin)
    return call


async def _with_deadline(
    deadline: float | None, twin: Callable[..., Awaitable[R]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    """Call with the deadline of the thread that waits."""
    ambient_deadline.set(deadline)
    return await twin(*args, **kwargs)


# -- proxies -------------------------------------------------------------------------------------------------


class DynamicProxy:
    """A service known by its name only: every attribute is a method, awaited, with JSON values."""

    def __init__(self, service: str, call_options: CallOptions) -> None:
        self._service = service
        setattr(self, PARTS, (call_options, functools.partial(DynamicProxy, service)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        call = _make_call(DynamicCodec(self._service, name), getattr(self, PARTS)[0])
        setattr(self, name, call)
        return call

    def __repr__(self) -> str:
        return f"<proxy of service {self._service}>"


class Proxy:
    """A service known by its class: its methods are attributes of the instance."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition

    def __getattr__(self, name: str) -> Any:
        from zbusrpc.errors import did_you_mean

        attributes = [method.attribute for method in self._definition.methods.values()]
        raise AttributeError(f"service {self._definition.name} has no method {name}{did_you_mean(name, attributes)}")

    def __repr__(self) -> str:
        return f"<proxy of service {self._definition.name}>"


def _typed_proxy(definition: Definition, call_options: CallOptions) -> Any:
    proxy = Proxy(definition)
    setattr(proxy, PARTS, (call_options, functools.partial(_typed_proxy, definition)))
    for method in definition.methods.values():
        call = _make_call(TypedCodec(definition, method), call_options)
        setattr(proxy, method.attribute, call if method.color is Color.ASYNC else _blocking(call))
    return proxy


def _parts(proxy: object) -> tuple[CallOptions, Callable[[CallOptions], Any]]:
    parts: tuple[CallOptions, Callable[[CallOptions], Any]] | None = getattr(proxy, "__dict__", {}).get(PARTS)
    if parts is None:
        raise UsageError(f"options() takes what connect() returned, not {proxy!r}")
    return parts


# -- calls ---------------------------------------------------------------------------------------------------


class DynamicCodec:
    """Writes requests and reads replies of a method that nothing is known of."""

    is_idempotent = False
    timeout: float | None = None
    deprecated: str | None = None

    def __init__(self, service: str, method: str) -> None:
        self.service = service
        self.method = method
        self.doc = ""

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the request."""
        if args and kwargs:
            raise RpcError(
                Code.INVALID_ARGUMENT,
                f"{self.service}.{self.method}: give all parameters by position or all by name",
            )
        return envelope.request_body(self.method, kwargs or list(args))

    def decode(self, body: bytes | bytearray) -> Any:
        """Return the result."""
        return orjson.loads(body)["result"]

    def revive(self, error: envelope.WireError) -> RpcError:
        """Return the error to raise."""
        return RpcError(error.code, error.message, error.details)


class TypedCodec(DynamicCodec):
    """Writes requests and reads replies by a method's annotations. Schemas are built by the first call."""

    def __init__(self, definition: Definition, method: Method) -> None:
        super().__init__(definition.name, method.name)
        self._definition = definition
        self._method = method
        self.doc = method.doc
        self.is_idempotent = method.options.idempotent
        self.timeout = method.options.timeout
        self.deprecated = method.options.deprecated
        self._parameters = list(method.signature.parameters.values())
        self._prefix = b'{"method":%b,"params":' % orjson.dumps(method.name)
        self._reply: TypeAdapter[Any] | None = None
        self._writers: list[Callable[[Any], bytes]] = []

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if self._reply is None:
            self._build()
        try:
            if kwargs or len(args) > len(self._writers):
                return b"%b%b}" % (self._prefix, self._encode_unusual(args, kwargs))
            params = b",".join([write(value) for write, value in zip(self._writers, args, strict=False)])
            return b"%b[%b]}" % (self._prefix, params)
        except PydanticSerializationError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"{self.service}.{self.method}: {error}") from None

    def decode(self, body: bytes | bytearray) -> Any:
        assert self._reply is not None
        try:
            return self._reply.validator.validate_json(body)["result"]
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            message = f"the result of {self.service}.{self.method} does not fit its annotation: {reason}"
            raise RpcError(Code.INTERNAL, message) from None

    def revive(self, error: envelope.WireError) -> RpcError:
        declared = self._definition.errors.get(error.type_name)
        if declared is not None and isinstance(error.details, dict):
            try:
                args, kwargs = schema.error_adapter(declared).validate_json(orjson.dumps(error.details))
                revived = declared(*args, **kwargs)
            except (ValidationError, DefinitionError, TypeError):
                pass  # the two sides have different versions of the class: its base says what is common
            else:
                revived.message, revived.details = error.message, error.details
                return revived
        return super().revive(error)

    def _build(self) -> None:
        self._writers = []
        for parameter in self._parameters:
            what = f"{self.service}.{self.method}, parameter {parameter.name}"
            serializer = schema.value_adapter(parameter.annotation, what).serializer
            self._writers.append(functools.partial(serializer.to_json, warnings=False))
        self._reply = schema.reply_adapter(self.service, self._method)

    def _encode_unusual(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Write named parameters, *args and **kwargs; a mixture goes by name as far as it has names."""
        kinds = inspect.Parameter
        by_name = {parameter.name: write for parameter, write in zip(self._parameters, self._writers, strict=True)}
        rest = next((by_name[p.name] for p in self._parameters if p.kind is kinds.VAR_KEYWORD), envelope.dump)
        if not kwargs:
            more = next((by_name[p.name] for p in self._parameters if p.kind is kinds.VAR_POSITIONAL), envelope.dump)
            fixed = [by_name[p.name] for p in self._parameters if p.kind is not kinds.VAR_POSITIONAL]
            writers = fixed + [more] * (len(args) - len(fixed))
            return b"[%b]" % b",".join(write(value) for write, value in zip(writers, args, strict=False))
        names = [p.name for p in self._parameters if p.kind in {kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY}]
        if len(args) > len(names) or set(names[: len(args)]) & kwargs.keys():
            raise RpcError(Code.INVALID_ARGUMENT, f"{self.service}.{self.method}: a parameter is given twice")
        named = dict(zip(names, args, strict=False)) | kwargs
        items = [b"%b:%b" % (orjson.dumps(name), by_name.get(name, rest)(value)) for name, value in named.items()]
        return b"{%b}" % b",".join(items)


def _make_call(codec: DynamicCodec, call_options: CallOptions) -> Callable[..., Awaitable[Any]]:
    """Return the coroutine function that is one method of a proxy."""
    topic = codec.service.encode()
    seconds = call_options.timeout or codec.timeout or TIMEOUT_S
    headers = {HEADER_METADATA_PREFIX + key: value for key, value in call_options.metadata} | dict(call_options.headers)
    header_bytes = encode_headers(headers)
    flags = int(
        (Flag.IDEMPOTENT if codec.is_idempotent else Flag.NONE)
        | (Flag.WAIT_FOR_READY if call_options.wait_for_ready else Flag.NONE)
    )
    known: Caller | None = None

    async def request(args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float, header_bytes: bytes) -> Any:
        nonlocal known
        caller = known
        if caller is None or caller.is_closed or caller.loop is not asyncio._get_running_loop():
            caller = known = caller_of_loop(call_options.brokers)
        message = Message(_REQUEST, 0, topic, codec.encode(args, kwargs), header_bytes, flags)
        try:
            reply = await caller.request(message, deadline, wait_for_ready=call_options.wait_for_ready)
            if reply.flags & _ERROR:
                raise codec.revive(envelope.parse_error(reply.body))
        except RpcError as error:
            if not _may_retry(codec, call_options, error, tries=0):
                raise
            reply = await _retry(codec, call_options, error, message, deadline)
        return codec.decode(reply.body)

    async def traced(args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float) -> Any:
        with_context = dict(headers)
        with client_span(codec.service, codec.method, with_context):
            return await request(args, kwargs, deadline, encode_headers(with_context))

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", run_blocking(name, _with_deadline, ambient_deadline.get(), twin, args, kwargs))

    setattr(call, TWIN, twin)
    return call


async def _with_deadline(
    deadline: float | None, twin: Callable[..., Awaitable[R]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    """Call with the deadline of the thread that waits."""
    ambient_deadline.set(deadline)
    return await twin(*args, **kwargs)


# -- proxies -------------------------------------------------------------------------------------------------


class DynamicProxy:
    """A service known by its name only: every attribute is a method, awaited, with JSON values."""

    def __init__(self, service: str, call_options: CallOptions) -> None:
        self._service = service
        setattr(self, PARTS, (call_options, functools.partial(DynamicProxy, service)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        call = _make_call(DynamicCodec(self._service, name), getattr(self, PARTS)[0])
        setattr(self, name, call)
        return call

    def __repr__(self) -> str:
        return f"<proxy of service {self._service}>"


class Proxy:
    """A service known by its class: its methods are attributes of the instance."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition

    def __getattr__(self, name: str) -> Any:
        from zbusrpc.errors import did_you_mean

        attributes = [method.attribute for method in self._definition.methods.values()]
        raise AttributeError(f"service {self._definition.name} has no method {name}{did_you_mean(name, attributes)}")

    def __repr__(self) -> str:
        return f"<proxy of service {self._definition.name}>"


def _typed_proxy(definition: Definition, call_options: CallOptions) -> Any:
    proxy = Proxy(definition)
    setattr(proxy, PARTS, (call_options, functools.partial(_typed_proxy, definition)))
    for method in definition.methods.values():
        call = _make_call(TypedCodec(definition, method), call_options)
        setattr(proxy, method.attribute, call if method.color is Color.ASYNC else _blocking(call))
    return proxy


def _parts(proxy: object) -> tuple[CallOptions, Callable[[CallOptions], Any]]:
    parts: tuple[CallOptions, Callable[[CallOptions], Any]] | None = getattr(proxy, "__dict__", {}).get(PARTS)
    if parts is None:
        raise UsageError(f"options() takes what connect() returned, not {proxy!r}")
    return parts


# -- calls ---------------------------------------------------------------------------------------------------


class DynamicCodec:
    """Writes requests and reads replies of a method that nothing is known of."""

    is_idempotent = False
    timeout: float | None = None
    deprecated: str | None = None

    def __init__(self, service: str, method: str) -> None:
        self.service = service
        self.method = method
        self.doc = ""

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the request."""
        if args and kwargs:
            raise RpcError(
                Code.INVALID_ARGUMENT,
                f"{self.service}.{self.method}: give all parameters by position or all by name",
            )
        return envelope.request_body(self.method, kwargs or list(args))

    def decode(self, body: bytes | bytearray) -> Any:
        """Return the result."""
        return orjson.loads(body)["result"]

    def revive(self, error: envelope.WireError) -> RpcError:
        """Return the error to raise."""
        return RpcError(error.code, error.message, error.details)


class TypedCodec(DynamicCodec):
    """Writes requests and reads replies by a method's annotations. Schemas are built by the first call."""

    def __init__(self, definition: Definition, method: Method) -> None:
        super().__init__(definition.name, method.name)
        self._definition = definition
        self._method = method
        self.doc = method.doc
        self.is_idempotent = method.options.idempotent
        self.timeout = method.options.timeout
        self.deprecated = method.options.deprecated
        self._parameters = list(method.signature.parameters.values())
        self._prefix = b'{"method":%b,"params":' % orjson.dumps(method.name)
        self._reply: TypeAdapter[Any] | None = None
        self._writers: list[Callable[[Any], bytes]] = []

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if self._reply is None:
            self._build()
        try:
            if kwargs or len(args) > len(self._writers):
                return b"%b%b}" % (self._prefix, self._encode_unusual(args, kwargs))
            params = b",".join([write(value) for write, value in zip(self._writers, args, strict=False)])
            return b"%b[%b]}" % (self._prefix, params)
        except PydanticSerializationError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"{self.service}.{self.method}: {error}") from None

    def decode(self, body: bytes | bytearray) -> Any:
        assert self._reply is not None
        try:
            return self._reply.validator.validate_json(body)["result"]
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            message = f"the result of {self.service}.{self.method} does not fit its annotation: {reason}"
            raise RpcError(Code.INTERNAL, message) from None

    def revive(self, error: envelope.WireError) -> RpcError:
        declared = self._definition.errors.get(error.type_name)
        if declared is not None and isinstance(error.details, dict):
            try:
                args, kwargs = schema.error_adapter(declared).validate_json(orjson.dumps(error.details))
                revived = declared(*args, **kwargs)
            except (ValidationError, DefinitionError, TypeError):
                pass  # the two sides have different versions of the class: its base says what is common
            else:
                revived.message, revived.details = error.message, error.details
                return revived
        return super().revive(error)

    def _build(self) -> None:
        self._writers = []
        for parameter in self._parameters:
            what = f"{self.service}.{self.method}, parameter {parameter.name}"
            serializer = schema.value_adapter(parameter.annotation, what).serializer
            self._writers.append(functools.partial(serializer.to_json, warnings=False))
        self._reply = schema.reply_adapter(self.service, self._method)

    def _encode_unusual(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Write named parameters, *args and **kwargs; a mixture goes by name as far as it has names."""
        kinds = inspect.Parameter
        by_name = {parameter.name: write for parameter, write in zip(self._parameters, self._writers, strict=True)}
        rest = next((by_name[p.name] for p in self._parameters if p.kind is kinds.VAR_KEYWORD), envelope.dump)
        if not kwargs:
            more = next((by_name[p.name] for p in self._parameters if p.kind is kinds.VAR_POSITIONAL), envelope.dump)
            fixed = [by_name[p.name] for p in self._parameters if p.kind is not kinds.VAR_POSITIONAL]
            writers = fixed + [more] * (len(args) - len(fixed))
            return b"[%b]" % b",".join(write(value) for write, value in zip(writers, args, strict=False))
        names = [p.name for p in self._parameters if p.kind in {kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY}]
        if len(args) > len(names) or set(names[: len(args)]) & kwargs.keys():
            raise RpcError(Code.INVALID_ARGUMENT, f"{self.service}.{self.method}: a parameter is given twice")
        named = dict(zip(names, args, strict=False)) | kwargs
        items = [b"%b:%b" % (orjson.dumps(name), by_name.get(name, rest)(value)) for name, value in named.items()]
        return b"{%b}" % b",".join(items)


def _make_call(codec: DynamicCodec, call_options: CallOptions) -> Callable[..., Awaitable[Any]]:
    """Return the coroutine function that is one method of a proxy."""
    topic = codec.service.encode()
    seconds = call_options.timeout or codec.timeout or TIMEOUT_S
    headers = {HEADER_METADATA_PREFIX + key: value for key, value in call_options.metadata} | dict(call_options.headers)
    header_bytes = encode_headers(headers)
    flags = int(
        (Flag.IDEMPOTENT if codec.is_idempotent else Flag.NONE)
        | (Flag.WAIT_FOR_READY if call_options.wait_for_ready else Flag.NONE)
    )
    known: Caller | None = None

    async def request(args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float, header_bytes: bytes) -> Any:
        nonlocal known
        caller = known
        if caller is None or caller.is_closed or caller.loop is not asyncio._get_running_loop():
            caller = known = caller_of_loop(call_options.brokers)
        message = Message(_REQUEST, 0, topic, codec.encode(args, kwargs), header_bytes, flags)
        try:
            reply = await caller.request(message, deadline, wait_for_ready=call_options.wait_for_ready)
            if reply.flags & _ERROR:
                raise codec.revive(envelope.parse_error(reply.body))
        except RpcError as error:
            if not _may_retry(codec, call_options, error, tries=0):
                raise
            reply = await _retry(codec, call_options, error, message, deadline)
        return codec.decode(reply.body)

    async def traced(message: Message, deadline: float) -> Any:
        with_context = dict(headers)
        with client_span(codec.service, codec.method, with_context):
            message.header_bytes = encode_headers(with_context)
            return await request(message, deadline)

    def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        if codec.deprecated is not None:
            warnings.warn(f"{codec.service}.{codec.method}: {codec.deprecated}", DeprecationWarning, stacklevel=2)
        deadline = time.monotonic() + seconds
        ambient = ambient_deadline.get()
        if ambient is not None and ambient < deadline:
            deadline = ambient
        if is_tracing():
            return traced(args, kwargs, deadline)
        return request(args, kwargs, deadline, header_bytes)

    call.__name__ = codec.method
    call.__qualname__ = f"{codec.service}.{codec.method}"
    call.__doc__ = codec.doc or None
    setattr(call, TWIN, call)
    return call


_REQUEST: Final = int(Kind.REQUEST)
_ERROR: Final = int(Flag.ERROR)


async def _retry(
    codec: DynamicCodec, call_options: CallOptions, error: RpcError, message: Message, deadline: float
) -> Message:
    """Try a call again as often as its options and its nature allow; return the reply or raise the last error."""
    backoff = Backoff(rng=random.Random())
    tries = 0
    while _may_retry(codec, call_options, error, tries):
        tries += 1
        wait_s = max(backoff.next_s(), error.retry_after_s or 0.0)
        if time.monotonic() + wait_s >= deadline:
            break
        await asyncio.sleep(wait_s)
        was_lost = isinstance(error.details, dict) and error.details.get("lost") is True
        again = Message(_REQUEST, 0, message.topic, message.body, message.header_bytes, message.flags)
        again.flags |= int(Flag.WAIT_FOR_READY) if was_lost else 0
        try:
            reply = await caller_of_loop(call_options.brokers).request(
                again, deadline, wait_for_ready=call_options.wait_for_ready or was_lost
            )
            if not reply.flags & _ERROR:
                return reply
            error = codec.revive(envelope.parse_error(reply.body))
        except RpcError as next_error:
            error = next_error
    raise error


def _may_retry(codec: DynamicCodec, call_options: CallOptions, error: RpcError, tries: int) -> bool:
    if error.code not in RETRYABLE or (error.code is Code.RESOURCE_EXHAUSTED and error.retry_after_s is None):
        return False
    if error.may_have_run and not codec.is_idempotent:
        return False
    was_lost = isinstance(error.details, dict) and error.details.get("lost") is True
    return tries < max(call_options.retries, LOST_RETRIES if was_lost else 0)
