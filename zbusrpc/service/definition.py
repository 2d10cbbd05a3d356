"""A service's definition: what `@service` and `@rpc` say about a class, read into plain values.

The decorators only attach options: a decorated class stays the class it was, for type checkers and for tests. The
definition is read from the class when it is first needed, by the service and by its clients alike.
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints, overload

from zbusrpc.config import CONCURRENCY, CONCURRENCY_MAX
from zbusrpc.errors import DefinitionError, RpcError
from zbusrpc.service.arguments import options_of, type_of
from zbusrpc.service.assignable import is_assignable, shown_type
from zbusrpc.service.checks import check_kind, check_name, check_seconds, check_whole
from zbusrpc.service.declared import Errors, errors_of
from zbusrpc.service.forms.form import NotReadyError, check_type
from zbusrpc.service.generics import Types, resolve, types_of_bases, unresolved
from zbusrpc.service.members import RPC_ATTRIBUTE, VARIABLE, Member, check_method, check_override, methods_of
from zbusrpc.transport.naming import one_spelling
from zbusrpc.transport.native import TOPIC_BYTES_MAX

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

SERVICE_ATTRIBUTE: Final = "__zbusrpc_service__"
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
    receiver: str | None = None
    """What `self` is called, where `**more` cannot take a value of that name."""
    doc: str
    options: RpcOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A service's interface."""

    cls: type
    """What it was read from."""
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
        if name is not None:
            check_kind("@service(name", name, str, DefinitionError)
        check_kind("@service(version", version, str, DefinitionError)
        check_kind("@service(durable", durable, bool, DefinitionError)
        check_whole("@service(concurrency", concurrency, 1, CONCURRENCY_MAX, DefinitionError)
        chosen = one_spelling(decorated.__name__ if name is None else name)
        is_seen = chosen != "" and chosen.isprintable() and not any(mark in chosen for mark in "/.? #%")
        if len(chosen.encode()) > TOPIC_BYTES_MAX or not is_seen:
            raise DefinitionError(
                f"service name {chosen!r}: 1 to {TOPIC_BYTES_MAX} bytes, without / . ? # % and blanks"
            )
        options = ServiceOptions(name=chosen, version=version, concurrency=concurrency, durable=durable)
        setattr(decorated, SERVICE_ATTRIBUTE, options)
        for attribute, members in methods_of(decorated).items():
            check_method(f"{decorated.__name__}.{attribute}", members[0])
            for inherited in members[1:]:
                check_override(f"{decorated.__name__}.{attribute}", members[0], inherited)
        _check_forms_early(decorated)
        return decorated

    return decorate if cls is None else decorate(cls)


@overload
def rpc(function: F, /) -> F: ...
@overload
def rpc(
    *,
    name: str | None = None,
    timeout: float | None = None,
    idempotent: bool | None = None,
    deprecated: str | None = None,
    errors: tuple[type[RpcError], ...] = (),
) -> Callable[[F], F]: ...
def rpc(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    idempotent: bool | None = None,
    deprecated: str | None = None,
    errors: tuple[type[RpcError], ...] = (),
) -> F | Callable[[F], F]:
    """Set options of one method; what is not given is as the method has it that this one overrides, or the default.

    Args:
        name: What it is called on the wire; by default its own name.
        timeout: Time limit in seconds for calls that name none.
        idempotent: Running it twice does no harm: when an instance dies, another runs the call again.
        deprecated: Why it should not be used any more; callers get a DeprecationWarning that says so.
        errors: Declared errors it raises, where they are not visible in the module of the class.
    """
    options = {"name": name, "timeout": timeout, "idempotent": idempotent, "deprecated": deprecated, "errors": errors}
    given = {option: value for option, value in options.items() if value is not None}
    _check_options(given)

    def decorate(decorated: F) -> F:
        function: Any = decorated.__func__ if isinstance(decorated, staticmethod | classmethod) else decorated
        if inspect.isclass(function) or not hasattr(type(function), "__get__") or isinstance(function, property):
            raise DefinitionError(f"@rpc decorates a method, not {decorated!r}; options go by name, as in name=...")
        setattr(function, RPC_ATTRIBUTE, given)
        return decorated

    return decorate if function is None else decorate(function)


def _check_options(given: dict[str, Any]) -> None:
    """Refuse values that `@rpc` cannot have."""
    for option, value in given.items():
        if option == "timeout":
            check_seconds("@rpc(timeout", value, DefinitionError)
        elif option == "errors":
            is_list = isinstance(value, tuple | list)
            if not is_list or not all(inspect.isclass(error) and issubclass(error, RpcError) for error in value):
                raise DefinitionError(f"@rpc(errors={value!r}): a tuple of subclasses of RpcError, as in (NotThere,)")
        else:
            check_kind(f"@rpc({option}", value, bool if option == "idempotent" else str, DefinitionError)
        if option == "name":
            check_name("@rpc(name", value, DefinitionError)


def is_service(cls: object) -> bool:
    """Whether `cls` is a class that was declared with `@service`."""
    return inspect.isclass(cls) and SERVICE_ATTRIBUTE in vars(cls)


def define(cls: type) -> Definition:
    """Return the definition of a service class.

    Raises:
        DefinitionError: it is no service, its annotations cannot be read, or what they stand for has no form in JSON
            that comes out as it went in.
    """
    if not is_service(cls):
        if is_service(type(cls)):
            raise DefinitionError(f"{type(cls).__name__} is a service, and this is an instance of it; name the class")
        if is_service(getattr(cls, "__class__", None)):
            raise DefinitionError(f"{cls!r} stands for an instance already; name the class")
        if get_origin(cls) is not None:
            raise DefinitionError(f"{cls!r} is no class; put @service above one: class Mine({cls!r})")
        raise DefinitionError(f"{getattr(cls, '__name__', cls)!s} is no service; put @service above the class")
    known: Definition | None = vars(cls).get(DEFINITION_ATTRIBUTE)
    if known is None:
        known = _read_class(cls)
        _check_forms(known)
        setattr(cls, DEFINITION_ATTRIBUTE, known)
    return known


def _check_forms(definition: Definition) -> None:
    """Refuse parameters and results that would not come out as they went in, or not be those of what is overridden."""
    _check_overrides(definition)
    for method in definition.methods.values():
        where = f"{definition.name}.{method.name}"
        for parameter in method.signature.parameters.values():
            options = {name: option.annotation for name, option in options_of(parameter).items()}
            for name, annotation in (options or {parameter.name: type_of(parameter)}).items():
                check_type(annotation, f"{where}, parameter {name}")
        check_type(method.signature.return_annotation, f"result of {where}")


def _check_overrides(definition: Definition) -> None:
    """Refuse methods that do not take, or give, the types of those that they override: callers go by either."""
    types = types_of_bases(definition.cls)
    ours = {method.attribute: method for method in definition.methods.values()}
    for attribute, members in methods_of(definition.cls).items():
        for inherited in members[1:]:
            try:
                theirs = _read_method(definition.cls, [inherited], types.get(inherited.owner, {}))
            except DefinitionError:  # a base may leave its types open
                continue
            contract = f"{inherited.owner.__name__}.{attribute}"
            _check_types(
                f"{definition.cls.__name__}.{attribute}", ours[attribute].signature, contract, theirs.signature
            )


def _check_types(where: str, ours: inspect.Signature, contract: str, theirs: inspect.Signature) -> None:
    by_position = [one for one in ours.parameters.values() if one.kind is not one.KEYWORD_ONLY]
    for place, parameter in enumerate(theirs.parameters.values()):
        taking = ours.parameters.get(parameter.name)
        if taking is None and parameter.kind is parameter.POSITIONAL_ONLY and place < len(by_position):
            taking = by_position[place]
        if taking is None or taking.kind in VARIABLE or parameter.kind in VARIABLE:
            continue
        if not is_assignable(parameter.annotation, taking.annotation):
            raise DefinitionError(
                f"{where}: parameter {taking.name} is {shown_type(taking.annotation)}, and {contract}, which it "
                f"overrides, takes {shown_type(parameter.annotation)}; take that, or more"
            )
    if not is_assignable(ours.return_annotation, theirs.return_annotation):
        raise DefinitionError(
            f"{where} returns {shown_type(ours.return_annotation)}, and {contract}, which it overrides, "
            f"{shown_type(theirs.return_annotation)}; return that"
        )


def _check_forms_early(cls: type) -> None:
    """Refuse what can be told while the class is being declared: its annotations may name what comes below it."""
    try:
        definition = _read_class(cls)
    except DefinitionError:
        return
    with suppress(NotReadyError):
        _check_forms(definition)


def _read_class(cls: type) -> Definition:
    options: ServiceOptions = getattr(cls, SERVICE_ATTRIBUTE)
    types = types_of_bases(cls)
    methods: dict[str, Method] = {}
    for members in methods_of(cls).values():
        method = _read_method(cls, members, types.get(members[0].owner, {}))
        if method.name in methods:
            raise DefinitionError(f"{cls.__name__}: two methods are called {method.name} on the wire")
        methods[method.name] = method
    if not methods:
        raise DefinitionError(f"{cls.__name__} has no public method; a service offers at least one")
    return Definition(
        cls=cls,
        name=options.name,
        version=options.version,
        concurrency=options.concurrency,
        durable=options.durable,
        doc=inspect.cleandoc(cls.__doc__ or ""),
        methods=methods,
        errors=errors_of(cls, [error for method in methods.values() for error in method.options.errors]),
    )


def _read_method(cls: type, members: list[Member], types: Types) -> Method:
    """Return a method: the first of `members`, which overrides the others; `types` is what type variables stand for."""
    member = members[0]
    where = f"{cls.__name__}.{member.attribute}"
    hints = _read_hints(where, cls, member)

    def read(name: str, written: Any) -> Any:
        """Return the type of a parameter or of the result."""
        annotation = resolve(hints.get(name, written), types)
        variable = unresolved(annotation)
        if variable is not None:
            owner = member.owner.__name__
            fix = f"class {cls.__name__ if member.owner is not cls else 'Mine'}({owner}[...])"
            is_own = variable not in getattr(member.owner, "__parameters__", ())
            fix = "name the type, or a union of types" if is_own else f"give it to the base: {fix}"
            raise DefinitionError(f"{where}: nothing says what {variable} of {name} is; {fix}")
        return annotation

    parameters = [one.replace(annotation=read(one.name, one.annotation)) for one in member.parameters]
    is_async, result = member.is_async, read("return", member.result)
    if not is_async and inspect.isclass(get_origin(result)) and issubclass(get_origin(result), Awaitable):
        is_async, result = True, get_args(result)[-1]
    options = _merge(members)
    return Method(
        name=options.name or member.attribute,
        attribute=member.attribute,
        color=Color.ASYNC if is_async else Color.SYNC,
        signature=inspect.Signature(parameters, return_annotation=result),
        receiver=member.receiver if any(one.kind is one.VAR_KEYWORD for one in parameters) else None,
        doc=inspect.getdoc(getattr(cls, member.attribute)) or "",
        options=options,
    )


def _read_hints(where: str, cls: type, member: Member) -> dict[str, Any]:
    """Return the annotations of a method as types."""
    variables = getattr(member.owner, "__parameters__", ())
    names = {
        cls.__name__: cls,
        **{variable.__name__: variable for variable in variables},
        member.owner.__name__: member.owner,
    }
    try:
        return get_type_hints(member.annotated, localns=names, include_extras=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise DefinitionError(f"{where}: unreadable annotation: {reason}") from None


def _merge(members: list[Member]) -> RpcOptions:
    """Return the options of a method: what it was not given, it has from those that it overrides."""
    merged: dict[str, Any] = {}
    for member in reversed(members):
        errors = (*member.given.get("errors", ()), *merged.get("errors", ()))
        merged |= member.given | {"errors": tuple(dict.fromkeys(errors))}
    return RpcOptions(**merged)
