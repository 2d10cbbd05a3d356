"""A service's definition: what `@service` and `@rpc` say about a class, read into plain values.

The decorators only attach options: a decorated class stays the class it was, for type checkers and for tests. The
definition is read from the class when it is first needed, by the service and by its clients alike.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeVar, get_type_hints, overload

from zbusrpc.config import CONCURRENCY, CONCURRENCY_MAX
from zbusrpc.errors import DefinitionError, RpcError
from zbusrpc.service.declared import Errors, errors_of
from zbusrpc.transport.native import TOPIC_BYTES_MAX

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

SERVICE_ATTRIBUTE: Final = "__zbusrpc_service__"
RPC_ATTRIBUTE: Final = "__zbusrpc_rpc__"
DEFINITION_ATTRIBUTE: Final = "__zbusrpc_definition__"


class Color(Enum):
    """How a method is run, and how its proxy is called."""

    ASYNC = auto()
    """`async def`: a task; the proxy's call is awaited."""
    SYNC = auto()
    """`def`: a thread; the proxy's call blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """What `@service` was given."""

    name: str
    version: str
    concurrency: int
    durable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcOptions:
    """What `@rpc` was given."""

    name: str | None = None
    timeout: float | None = None
    idempotent: bool = False
    deprecated: str | None = None
    errors: tuple[type[RpcError], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a service's interface."""

    name: str
    """On the wire."""
    attribute: str
    """In the class."""
    color: Color
    signature: inspect.Signature
    """Without `self`; annotations are types, not strings."""
    doc: str
    options: RpcOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A service's interface."""

    name: str
    """The topic its calls travel through."""
    version: str
    concurrency: int
    durable: bool
    """Whether the broker stores requests until they are answered."""
    doc: str
    methods: dict[str, Method]
    """By name on the wire."""
    errors: Errors
    """The declared errors that its callers can get back as their own class."""


@overload
def service(cls: type[T], /) -> type[T]: ...
@overload
def service(
    *, name: str | None = None, version: str = "", concurrency: int = CONCURRENCY, durable: bool = False
) -> Callable[[type[T]], type[T]]: ...
def service(
    cls: type[T] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    concurrency: int = CONCURRENCY,
    durable: bool = False,
) -> type[T] | Callable[[type[T]], type[T]]:
    """Declare a class as a service: its public methods are what clients can call.

    Args:
        name: The topic its calls travel through; by default the name of the class.
        version: For people; shown where services are listed.
        concurrency: How many calls one instance works on at a time.
        durable: The broker stores each request before an instance gets it, and until it is answered: calls wait while
            no instance is there, and survive a restart of the broker, on both sides. A request may then run twice,
            so methods must be fit for that. Needs a broker with a data directory.

    Raises:
        DefinitionError: the class or an option cannot be used; the text names it and the fix.
    """

    def decorate(decorated: type[T]) -> type[T]:
        if not inspect.isclass(decorated):
            raise DefinitionError(f"@service decorates a class, not {decorated!r}; options go by name, as in name=...")
        chosen = name or decorated.__name__
        if len(chosen.encode()) > TOPIC_BYTES_MAX or any(mark in chosen for mark in "/.? #%"):
            raise DefinitionError(
                f"service name {chosen!r}: up to {TOPIC_BYTES_MAX} bytes, without / . ? # % and blanks"
            )
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise DefinitionError(f"concurrency {concurrency} of service {chosen} is not in 1..{CONCURRENCY_MAX}")
        options = ServiceOptions(name=chosen, version=version, concurrency=concurrency, durable=durable)
        setattr(decorated, SERVICE_ATTRIBUTE, options)
        for attribute, function in _public_functions(decorated):
            _check_function(decorated, attribute, function)
        return decorated

    return decorate if cls is None else decorate(cls)


@overload
def rpc(function: F, /) -> F: ...
@overload
def rpc(
    *,
    name: str | None = None,
    timeout: float | None = None,
    idempotent: bool = False,
    deprecated: str | None = None,
    errors: tuple[type[RpcError], ...] = (),
) -> Callable[[F], F]: ...
def rpc(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    idempotent: bool = False,
    deprecated: str | None = None,
    errors: tuple[type[RpcError], ...] = (),
) -> F | Callable[[F], F]:
    """Set options of one method; a public method without it has the defaults.

    Args:
        name: What it is called on the wire; by default its own name.
        timeout: Time limit in seconds for calls that name none.
        idempotent: Running it twice does no harm: when an instance dies, another runs the call again.
        deprecated: Why it should not be used any more; callers get a DeprecationWarning that says so.
        errors: Declared errors it raises, where they are not visible in the module of the class.
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise DefinitionError(f"@rpc(timeout={timeout}): a time limit is a number greater than 0")
    options = RpcOptions(name=name, timeout=timeout, idempotent=idempotent, deprecated=deprecated, errors=tuple(errors))

    def decorate(decorated: F) -> F:
        if not inspect.isfunction(decorated):
            raise DefinitionError(f"@rpc decorates a method, not {decorated!r}; options go by name, as in name=...")
        setattr(decorated, RPC_ATTRIBUTE, options)
        return decorated

    return decorate if function is None else decorate(function)


def is_service(cls: object) -> bool:
    """Whether `cls` is a class that was declared with `@service`."""
    return inspect.isclass(cls) and SERVICE_ATTRIBUTE in vars(cls)


def define(cls: type) -> Definition:
    """Return the definition of a service class.

    Raises:
        DefinitionError: it is no service, or its annotations cannot be read.
    """
    if not is_service(cls):
        if is_service(type(cls)):
            raise DefinitionError(f"{type(cls).__name__} is a service, and this is an instance of it; name the class")
        raise DefinitionError(f"{getattr(cls, '__name__', cls)!s} is no service; put @service above the class")
    known: Definition | None = vars(cls).get(DEFINITION_ATTRIBUTE)
    if known is None:
        known = _read_class(cls)
        setattr(cls, DEFINITION_ATTRIBUTE, known)
    return known


def _read_class(cls: type) -> Definition:
    options: ServiceOptions = getattr(cls, SERVICE_ATTRIBUTE)
    methods: dict[str, Method] = {}
    for attribute, function in _public_functions(cls):
        method = _read_method(cls, attribute, function)
        if method.name in methods:
            raise DefinitionError(f"{cls.__name__}: two methods are called {method.name} on the wire")
        methods[method.name] = method
    if not methods:
        raise DefinitionError(f"{cls.__name__} has no public method; a service offers at least one")
    return Definition(
        name=options.name,
        version=options.version,
        concurrency=options.concurrency,
        durable=options.durable,
        doc=inspect.cleandoc(cls.__doc__ or ""),
        methods=methods,
        errors=errors_of(cls, [error for method in methods.values() for error in method.options.errors]),
    )


def _read_method(cls: type, attribute: str, function: Callable[..., Any]) -> Method:
    options: RpcOptions = getattr(function, RPC_ATTRIBUTE, RpcOptions())
    try:
        hints = get_type_hints(function, localns={cls.__name__: cls}, include_extras=True)
    except Exception as error:
        raise DefinitionError(f"{cls.__name__}.{attribute}: unreadable annotation: {error}") from None
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=hints[parameter.name]) for parameter in list(signature.parameters.values())[1:]
    ]
    return Method(
        name=options.name or attribute,
        attribute=attribute,
        color=Color.ASYNC if inspect.iscoroutinefunction(function) else Color.SYNC,
        signature=inspect.Signature(parameters, return_annotation=hints["return"]),
        doc=inspect.cleandoc(function.__doc__ or ""),
        options=options,
    )


def _public_functions(cls: type) -> list[tuple[str, Callable[..., Any]]]:
    """Return the methods that are the interface, in the order in which they are written, bases first."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        for attribute, value in vars(base).items():
            if not attribute.startswith("_"):
                found[attribute] = value
    return [(attribute, value) for attribute, value in found.items() if inspect.isfunction(value)]


def _check_function(cls: type, attribute: str, function: Callable[..., Any]) -> None:
    """Refuse what cannot be called over the wire, with the fix."""
    where = f"{cls.__name__}.{attribute}"
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise DefinitionError(f"{where} is a generator, and a call has one result; return a list")
    signature = inspect.signature(function)
    if not signature.parameters:
        raise DefinitionError(f"{where} takes no self; a method of a service is a method of its instance")
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.annotation is inspect.Parameter.empty:
            raise DefinitionError(
                f"{where}: parameter {parameter.name} has no type; annotate it, or name a method that is "
                f"not to be called from outside _{attribute}"
            )
    required = {p.kind for p in signature.parameters.values() if p.default is inspect.Parameter.empty}
    if len(required & {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY}) == 2:
        raise DefinitionError(
            f"{where} needs parameters that go only by position and others that go only by name; a call sends a list "
            "or an object, so let all of them go one way"
        )
    if signature.return_annotation is inspect.Signature.empty:
        raise DefinitionError(f"{where} has no return type; annotate it, -> None where nothing is returned")
