"""The members of a class: which of them callers can call, and what is in the way of the others.

    def, async def, also as staticmethod or classmethod     methods
    partialmethod, functools.cache and its like             methods
    properties, constants, classes, annotations             data: no methods, and no mistakes
    anything else that can be called                        refused: it would vanish without a word

What begins with `_` is private. Pure.
"""

import functools
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from zbusrpc.errors import DefinitionError

RPC_ATTRIBUTE: Final = "__zbusrpc_rpc__"
"""Where a function keeps what `@rpc` was given."""

_TYPES: Final = (typing.TypeVar, typing.NewType, typing.ForwardRef)
_AWAITED: Final = {"Awaitable", "Coroutine", "Future", "Task"}
"""Results that are awaited, where annotations are strings still."""
_EMPTY: Final = inspect.Parameter.empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A method as a class has it."""

    attribute: str
    owner: type
    """The class in whose body it stands."""
    function: Callable[..., Any]
    """What runs, with `self` or the class in front unless it is a staticmethod."""
    annotated: Callable[..., Any]
    """What has the annotations."""
    receiver: str | None
    """What `self` or `cls` is called, where a value given by that name would be taken for it: not before a `/`."""
    parameters: tuple[inspect.Parameter, ...]
    """Without `self`."""
    result: Any
    """As it is written; `Signature.empty` where it is not."""
    given: dict[str, Any]
    """What `@rpc` was given."""

    @property
    def is_async(self) -> bool:
        """Whether calling it gives an awaitable; a decorator that is not async itself hands on that of its function."""
        functions = [self.function, self.annotated, inspect.unwrap(self.annotated)]
        return any(
            inspect.iscoroutinefunction(function) or getattr(function, "_is_coroutine", None) for function in functions
        )

    @property
    def is_awaited(self) -> bool:
        """Whether callers await it: also a `def` whose annotation says that its result can be awaited."""
        if self.is_async or not isinstance(self.result, str):
            kind = typing.get_origin(self.result) or self.result
            return self.is_async or (inspect.isclass(kind) and issubclass(kind, Awaitable))
        return self.result.partition("[")[0].rpartition(".")[2] in _AWAITED


def methods_of(cls: type) -> dict[str, list[Member]]:
    """Return the methods that are a class's interface, in the order in which they are written, bases first.

    Each has all that the class inherits of it, the nearest first: that one runs.

    Raises:
        DefinitionError: a member looks like a method and cannot be called.
    """
    found: dict[str, list[Member]] = {}
    for base in reversed(cls.__mro__[:-1]):
        for attribute, value in vars(base).items():
            where = f"{cls.__name__}.{attribute}"
            if attribute.startswith("_"):
                _check_private(where, value)
            elif (member := _member_of(base, attribute, value, where)) is not None:
                found.setdefault(attribute, []).insert(0, member)
            elif attribute in found:
                method = f"{found[attribute][0].owner.__name__}.{attribute}"
                raise DefinitionError(f"{where} hides the method {method}; give it another name")
    return found


def check_method(where: str, member: Member) -> None:
    """Refuse what cannot be called over the wire, with the fix.

    Raises:
        DefinitionError: with one line that names it.
    """
    inner = inspect.unwrap(member.annotated)
    if inspect.isgeneratorfunction(member.function) or inspect.isasyncgenfunction(inner):
        raise DefinitionError(f"{where} is a generator, and a call has one result; return a list")
    for parameter in member.parameters:
        if parameter.annotation is _EMPTY:
            hidden = all(other.annotation is _EMPTY and other.kind in VARIABLE for other in member.parameters)
            fix = "let its decorator use functools.wraps, " if hidden else ""
            raise DefinitionError(
                f"{where}: parameter {parameter.name} has no type; {fix}annotate it, or name a method that is "
                f"not to be called from outside _{member.attribute}"
            )
    if member.result is _EMPTY:
        raise DefinitionError(f"{where} has no return type; annotate it, -> None where nothing is returned")


def check_override(where: str, method: Member, inherited: Member) -> None:
    """Refuse a method that cannot take the calls that the one it overrides takes: they come from other programs.

    Names and numbers of parameters count, and whether its result is awaited; for types see `assignable.py`.

    Raises:
        DefinitionError: with one line that names both.
    """
    contract = f"{inherited.owner.__name__}.{inherited.attribute}"
    if method.is_awaited != inherited.is_awaited:
        ours, theirs = ("async def" if one.is_awaited else "def" for one in (method, inherited))
        raise DefinitionError(f"{where} is {ours}, and {contract}, which it overrides, {theirs}; make it {theirs}")
    signature = inspect.Signature([parameter.replace(annotation=_EMPTY) for parameter in method.parameters])
    for args, kwargs in _calls(inherited.parameters):
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise DefinitionError(
                f"{where} does not take the calls of {contract}, which it overrides: {error}"
            ) from None


def as_awaitable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose result can be awaited, whether it returns an awaitable or, at times, the value itself."""
    if inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        return value if inspect.isawaitable(value) else _Ready(value)

    return run


class _Ready:
    """A value that is awaited without waiting."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[None, None, Any]:
        return self._value
        yield


VARIABLE: Final = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _member_of(owner: type, attribute: str, value: Any, where: str) -> Member | None:
    """Return the method that a value in a class is; None where it is data."""
    if isinstance(value, staticmethod | classmethod):
        function, takes_self = value.__func__, isinstance(value, classmethod)
        decorated: Any = function
        if not callable(function):  # a property of the class
            return None
    elif _is_data(value):
        return None
    else:
        function, takes_self = value, True
        decorated = value
        _check_kind(where, attribute, value)
    annotated = function
    if isinstance(function, functools.partialmethod):
        function, annotated = function.__get__(None, owner), function.func
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{where} has no signature ({error}); write a def that calls it") from None
    first = next(iter(signature.parameters.values()), None) if takes_self else None
    return Member(
        attribute=attribute,
        owner=owner,
        function=function,
        annotated=annotated,
        receiver=first.name if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else None,
        parameters=tuple(_without_self(where, signature) if takes_self else signature.parameters.values()),
        result=signature.return_annotation,
        given=getattr(decorated, RPC_ATTRIBUTE, {}),
    )


def _is_data(value: Any) -> bool:
    if isinstance(value, functools.partialmethod | functools.singledispatchmethod):
        return False
    is_type = inspect.isclass(value) or isinstance(value, _TYPES) or typing.get_origin(value) is not None
    return is_type or not callable(value)


def _check_kind(where: str, attribute: str, value: Any) -> None:
    """Refuse what can be called, and is no method."""
    if isinstance(value, functools.singledispatchmethod):
        raise DefinitionError(
            f"{where} is a singledispatchmethod, and callers send JSON, not classes; write one method for each type, "
            "or one that takes a union"
        )
    binds = hasattr(type(value), "__get__") and not isinstance(value, types.MethodType)
    if not binds:
        raise DefinitionError(
            f"{where} is of type {type(value).__name__}, which can be called, and no method; write a def that "
            f"calls it, or name it _{attribute}"
        )
    is_cache = hasattr(value, "cache_parameters")
    if is_cache and inspect.iscoroutinefunction(inspect.unwrap(value)):
        raise DefinitionError(
            f"{where} is an async def in a functools cache, which keeps a coroutine, and that can be awaited once; let "
            "the async def keep its results, or call a cached def"
        )


def _check_private(where: str, value: Any) -> None:
    function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    if isinstance(getattr(function, "__dict__", None), dict) and RPC_ATTRIBUTE in function.__dict__:
        name = where.partition(".")[2].lstrip("_")
        raise DefinitionError(
            f"{where} has @rpc, and what begins with _ cannot be called from outside; name it {name}, or take @rpc away"
        )


def _without_self(where: str, signature: inspect.Signature) -> list[inspect.Parameter]:
    parameters = list(signature.parameters.values())
    kinds = inspect.Parameter
    if not parameters or parameters[0].kind in {kinds.KEYWORD_ONLY, kinds.VAR_KEYWORD}:
        raise DefinitionError(f"{where} takes no self; a method of a service has one, or is a @staticmethod")
    return parameters if parameters[0].kind is kinds.VAR_POSITIONAL else parameters[1:]


def _calls(parameters: tuple[inspect.Parameter, ...]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Yield calls that a method takes: the shortest, and the longest by position and by name."""
    kinds = inspect.Parameter
    fixed = [parameter for parameter in parameters if parameter.kind not in VARIABLE]
    required = [parameter for parameter in fixed if parameter.default is _EMPTY]
    more = ["more"] if any(parameter.kind is kinds.VAR_POSITIONAL for parameter in parameters) else []
    others = any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters)
    for asked, rest in ((required, []), (fixed, more)):
        named = {parameter.name: None for parameter in asked if parameter.kind is kinds.KEYWORD_ONLY}
        yield [None for parameter in asked if parameter.kind is not kinds.KEYWORD_ONLY] + rest, named
    by_position = [None for parameter in fixed if parameter.kind is kinds.POSITIONAL_ONLY]
    named = {parameter.name: None for parameter in fixed if parameter.kind is not kinds.POSITIONAL_ONLY}
    yield by_position, named | ({"others": None} if others else {})
