"""The client: `connect` makes a proxy whose methods are calls.

A proxy holds no connection: each call finds those of its event loop (see `cluster/fleet.py`), so a proxy may be shared
between loops and threads. Parameters are written by the method's annotations and sent as they are; it is the
service that checks them. What comes back is validated by the annotation of the result.
"""

import asyncio
import functools
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from types import MethodType
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from zbusrpc import envelope
from zbusrpc.cluster.blocking import run_blocking
from zbusrpc.cluster.fleet import Fleet
from zbusrpc.cluster.fleets import close_fleets, fleet_of_loop
from zbusrpc.cluster.policy import as_begun, may_retry
from zbusrpc.cluster.selection import Selector, selector_of
from zbusrpc.config import TIMEOUT_S
from zbusrpc.errors import RpcError, UsageError
from zbusrpc.message import (
    HEADER_CALLER,
    HEADER_MESSAGE_ID,
    HEADER_METADATA_PREFIX,
    HEADER_TRACE,
    Flag,
    Kind,
    Message,
    encode_headers,
)
from zbusrpc.outcome import note_origin, note_run, was_lost
from zbusrpc.service.call_options import CallOptions
from zbusrpc.service.checks import check_kind, check_line, check_metadata, check_seconds, check_whole
from zbusrpc.service.codec import DynamicCodec, codec_of
from zbusrpc.service.context import Limit, ambient_deadline, ambient_limit
from zbusrpc.service.definition import Color, Definition, define
from zbusrpc.service.likeness import NAME, PARTS, Likeness, MethodLikeness, proxy_class, renamed
from zbusrpc.telemetry import client_span, current_call, is_tracing
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.backoff import Backoff
from zbusrpc.transport.naming import one_spelling
from zbusrpc.transport.native import TOPIC_BYTES_MAX

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


@overload
def connect(service: type[T], /, *, broker: str | None = None, selector: str | Selector = ...) -> T: ...
@overload
def connect(service: str, /, *, broker: str | None = None, selector: str | Selector = ...) -> Any: ...
def connect(
    service: type[T] | str, /, *, broker: str | None = None, selector: str | Selector = "least-loaded"
) -> T | Any:
    """Return a proxy for a service: for type checkers it is an instance of the class.

    An `async def` method is awaited, a `def` method blocks. A name instead of a class gives a proxy without types:
    every method is awaited and returns JSON values. Nothing is opened before the first call.

    Args:
        service: A class declared with `@service`, or the name of a service.
        broker: Brokers as `host:port;host2:port`; by default `ZBUSRPC_BROKER`, then `broker` in `zbusrpc.toml`, then
            localhost:15555, as they are at the first call. Each of them tells of the others that it tracks: calls go to
            all that have the service.
        selector: Who chooses the broker of each call, where there are several: `least-loaded`, `round-robin`, `random`,
            `most-consumers`, `consistent-hash`, or an object of your own (see `Selector`).

    Raises:
        DefinitionError: the class is no service.
        ConfigError: `broker` is no address.
        UsageError: the name is empty or longer than 255 bytes, or there is no such selector.
    """
    brokers = None if broker is None else parse_addresses(broker)
    options = CallOptions(brokers=brokers, selector=selector_of(selector))
    if isinstance(service, str):
        return DynamicProxy(service, options)
    return _typed_proxy(define(service), options)


async def disconnect() -> None:
    """Close the connections that calls have opened in this event loop; the next call opens a new one.

    Calls that are under way end with UNAVAILABLE. The end of the event loop closes them, too: this is for programs
    that must let go earlier.
    """
    await close_fleets()


def options(
    proxy: T,
    /,
    *,
    timeout: float | None = None,
    retries: int | None = None,
    metadata: dict[str, str] | None = None,
    wait_for_ready: bool | None = None,
    caller: str | None = None,
    key: str | None = None,
) -> T:
    """Return a proxy of the same type that calls in another way; what is not given stays.

    Args:
        timeout: Time limit of each call in seconds, retries included.
        retries: How often to try again after UNAVAILABLE or RESOURCE_EXHAUSTED, where the call has not run or is
            idempotent; with growing, jittered waits.
        metadata: Strings by names without blanks, for the handler's `context().metadata`; added to those of `proxy`.
        wait_for_ready: Wait for a broker and an instance until the time limit, instead of failing at once.
        caller: Who calls, on one line: what the handler finds in `context().caller`.
        key: Calls with the same key go to the same broker as long as it is there, where there are several.

    Raises:
        UsageError: `proxy` is none, or a value cannot be used.
    """
    if timeout is not None:
        check_seconds("options(timeout", timeout)
    if retries is not None:
        check_whole("options(retries", retries, 0, None)
    if metadata is not None:
        check_metadata("options(metadata", metadata)
    if wait_for_ready is not None:
        check_kind("options(wait_for_ready", wait_for_ready, bool)
    if caller is not None:
        check_line("options(caller", caller)
    if key is not None and not isinstance(key, str):
        raise UsageError(f"options(key={key!r}): a key is a str")
    old, rebuild = _parts(proxy)
    changes: dict[str, Any] = {"timeout": timeout, "retries": retries, "wait_for_ready": wait_for_ready, "key": key}
    changes = {name: value for name, value in changes.items() if value is not None}
    if metadata:
        changes["metadata"] = tuple({**dict(old.metadata), **metadata}.items())
    if caller is not None:
        changes["headers"] = tuple({**dict(old.headers), HEADER_CALLER: caller}.items())
    return cast("T", rebuild(replace(old, **changes)))


def aio(method: Callable[P, R], /) -> Callable[P, Awaitable[R]]:
    """Return the awaitable twin of a proxy's blocking method.

    >>> # await aio(calc.factor)(91)
    """
    return cast("Callable[P, Awaitable[R]]", _awaitable(method, "aio"))


def blocking(method: Callable[P, Awaitable[R]], /) -> Callable[P, R]:
    """Return the blocking twin of a proxy's awaitable method.

    >>> # blocking(calc.add)(1, 2)
    """
    return BlockingCall(_awaitable(method, "blocking"))


def _awaitable(method: Any, function: str) -> Any:
    """Return the `MethodCall` behind a method of either color."""
    if isinstance(method, BlockingCall):
        return method.awaitable
    if isinstance(method, MethodCall):
        return method
    raise UsageError(f"{function}() takes a method of a proxy, such as calc.add, not {method!r}")


# -- proxies -------------------------------------------------------------------------------------------------


class DynamicProxy(Likeness):
    """A service known by its name only: every attribute is a method, awaited, with JSON values."""

    def __init__(self, service: str, call_options: CallOptions) -> None:
        if not 1 <= len(service.encode()) <= TOPIC_BYTES_MAX:
            raise UsageError(f"service name {service!r}: 1 to {TOPIC_BYTES_MAX} bytes")
        service = one_spelling(service)
        Likeness.__init__(self, service, call_options, functools.partial(_remake, service))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or PARTS not in vars(self):
            raise AttributeError(name)
        service, call_options = vars(self)[NAME], vars(self)[PARTS][0]
        call = vars(self)[name] = MethodCall(DynamicCodec(service, name), call_options)
        return call


def _typed_proxy(definition: Definition, call_options: CallOptions) -> Any:
    calls: dict[str, Any] = {}
    for method in definition.methods.values():
        call = MethodCall(codec_of(definition, method), call_options)
        calls[method.attribute] = call if method.color is Color.ASYNC else BlockingCall(call)
    remake = functools.partial(_remake, definition.cls)
    return proxy_class(definition.cls, calls)(definition.name, call_options, remake, calls)


def _remake(source: type | str, call_options: CallOptions) -> Any:
    """Return a proxy of the same service that calls in another way, perhaps in another process."""
    return DynamicProxy(source, call_options) if isinstance(source, str) else _typed_proxy(define(source), call_options)


def _remake_call(source: type | str, attribute: str, call_options: CallOptions) -> "MethodCall":
    return cast("MethodCall", _awaitable(getattr(_remake(source, call_options), attribute), "aio"))


def _parts(proxy: object) -> tuple[CallOptions, Callable[[CallOptions], Any]]:
    parts: tuple[CallOptions, Callable[[CallOptions], Any]] | None = getattr(proxy, "__dict__", {}).get(PARTS)
    if parts is None:
        raise UsageError(f"options() takes what connect() returned, not {proxy!r}")
    return parts


# -- calls ---------------------------------------------------------------------------------------------------


_REQUEST: Final = int(Kind.REQUEST)
_ERROR: Final = int(Flag.ERROR)
_NOT_RUN: Final = int(Flag.NOT_RUN)


class MethodCall(MethodLikeness):
    """One method of a proxy: calling it returns a coroutine that makes the call."""

    def __init__(self, codec: DynamicCodec, call_options: CallOptions) -> None:
        metadata = {HEADER_METADATA_PREFIX + key: value for key, value in call_options.metadata}
        self._codec = codec
        self._look_like(codec)
        name = self.__qualname__
        self._request = MethodType(renamed(MethodCall._request, name), self)  # type: ignore[method-assign]
        self._request_traced = MethodType(renamed(MethodCall._request_traced, name), self)  # type: ignore[method-assign]
        self._options = call_options
        self._topic = codec.service.encode()
        self._timeout_s = call_options.timeout or codec.timeout or TIMEOUT_S
        self._headers = metadata | dict(call_options.headers)
        self._header_bytes = encode_headers(self._headers)
        self._flags = _flags(codec, call_options)
        self._fleet: Fleet | None = None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        codec = self._codec
        if codec.deprecated is not None:
            warnings.warn(f"{self.__qualname__}: {codec.deprecated}", DeprecationWarning, stacklevel=2)
        deadline = time.monotonic() + self._timeout_s
        if ambient_limit.get() is not None:
            deadline = min(deadline, ambient_deadline() or deadline)
        if is_tracing():
            return self._request_traced(args, kwargs, deadline)
        if codec.is_durable or current_call.get() is not None:
            return self._request(args, kwargs, deadline, encode_headers(self._own_headers()))
        return self._request(args, kwargs, deadline, self._header_bytes)

    async def _request(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float, header_bytes: bytes
    ) -> Any:
        codec, call_options = self._codec, self._options
        fleet = self._fleet
        if fleet is None or fleet.is_closed or fleet.loop is not asyncio._get_running_loop():
            fleet = self._fleet = fleet_of_loop(call_options.brokers)
        try:
            message = Message(_REQUEST, 0, self._topic, codec.encode(args, kwargs), header_bytes, self._flags)
            reply = await fleet.request(
                message,
                deadline,
                wait_for_ready=call_options.wait_for_ready,
                selector=call_options.selector,
                key=call_options.key,
            )
            if reply.flags & _ERROR:
                raise _error_of(reply, codec)
            return codec.decode(reply.body)
        except RpcError as error:
            note_origin(error, codec.service, codec.method)
            if not _may_retry(codec, call_options, fleet, error, 0):
                raise
            return await _retry(codec, call_options, fleet, error, message, deadline)

    __code__ = _request.__code__
    """Tells `inspect` that this is a coroutine function."""

    @property
    def _key(self) -> Any:
        return self._codec.source, self._codec.method, self._options.identity

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake_call, (self._codec.source, self._codec.attribute, self._options)

    def _own_headers(self) -> dict[str, str]:
        """Return the headers of one request.

        To a durable service it has an id: sent again, it is the same request. In a handler it says what it is for.
        """
        headers = dict(self._headers)
        if self._codec.is_durable:
            headers[HEADER_MESSAGE_ID] = uuid.uuid4().hex
        call = current_call.get()
        if call is not None:
            headers[HEADER_TRACE] = call.trace
        return headers

    async def _request_traced(self, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float) -> Any:
        headers = self._own_headers()
        with client_span(self._codec.service, self._codec.method, headers):
            return await self._request(args, kwargs, deadline, encode_headers(headers))


class BlockingCall(MethodLikeness):
    """One method of a proxy: calling it waits for the result in this thread."""

    def __init__(self, awaitable: "MethodCall") -> None:
        self.awaitable = awaitable
        self._look_like(awaitable._codec)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return run_blocking(self.__qualname__, self._run, ambient_deadline(), args, kwargs)

    @property
    def _key(self) -> Any:
        return self.awaitable

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockingCall, (self.awaitable,)

    async def _run(self, deadline: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call with the deadline of the thread that waits."""
        ambient_limit.set(Limit(deadline))
        return await self.awaitable(*args, **kwargs)


def _flags(codec: DynamicCodec, call_options: CallOptions) -> int:
    flags = Flag.IDEMPOTENT if codec.is_idempotent else Flag.NONE
    return int(flags | (Flag.WAIT_FOR_READY if call_options.wait_for_ready else Flag.NONE))


def _may_retry(
    codec: DynamicCodec, call_options: CallOptions, fleet: Fleet, error: RpcError, tries: int, *, was_cut: bool = False
) -> bool:
    """Say whether to try again; who has called `disconnect` meanwhile waits no more."""
    retries, waits = call_options.retries, (call_options.wait_for_ready or was_cut) and not fleet.is_closed
    return may_retry(error, tries=tries, retries=retries, is_idempotent=codec.is_idempotent, waits=waits)


async def _retry(
    codec: DynamicCodec, call_options: CallOptions, fleet: Fleet, error: RpcError, message: Message, deadline: float
) -> Any:
    """Try a call again as often as the policy allows; return the result or raise the last error.

    A call that lost its broker waits for the broker and the service to be back. What one try may have begun, no later
    error denies.
    """
    backoff = Backoff()
    tries = 0
    was_cut, has_begun = was_lost(error), error.may_have_run
    while _may_retry(codec, call_options, fleet, error, tries, was_cut=was_cut):
        tries += 1
        wait_s = max(backoff.next_s(), error.retry_after_s or 0.0)
        if time.monotonic() + wait_s >= deadline:
            break
        await asyncio.sleep(wait_s)
        waits = call_options.wait_for_ready or was_cut
        flags = message.flags | (int(Flag.WAIT_FOR_READY) if waits else 0)
        again = Message(_REQUEST, 0, message.topic, message.body, message.header_bytes, flags)
        try:
            fleet = fleet_of_loop(call_options.brokers)
            selector, key = call_options.selector, call_options.key
            reply = await fleet.request(again, deadline, wait_for_ready=waits, selector=selector, key=key)
            if not reply.flags & _ERROR:
                return codec.decode(reply.body)
            error = _error_of(reply, codec)
        except RpcError as next_error:
            error = next_error
        was_cut, has_begun = was_cut or was_lost(error), has_begun or error.may_have_run
    error = as_begun(error) if has_begun else error
    note_origin(error, codec.service, codec.method)
    raise error


def _error_of(reply: Message, codec: DynamicCodec) -> RpcError:
    """Return the error in a reply. Whether the call has run is what its flags say, and not what a handler wrote."""
    error = codec.revive(envelope.parse_error(reply.body))
    note_run(error, may_have_run=not reply.flags & _NOT_RUN)
    return error
