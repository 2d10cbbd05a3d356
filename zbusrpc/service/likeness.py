"""Likeness: what makes a proxy look like the service it stands for, to people, to `inspect` and to libraries.

A proxy of a class is of a class of its own, with the documentation and the methods of the one that it stands for, and
`isinstance` takes it for that. What makes calls looks like the method: `inspect.signature`, `help` and
`inspect.iscoroutinefunction` say what they say of the method itself, so that what schedules, retries or replaces
functions treats both alike.

Both are values: a copy is the same, and pickled they connect again where they are unpickled.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, Self

from zbusrpc.errors import did_you_mean, one_of

PARTS: Final = "__zbusrpc_parts__"
"""Where a proxy keeps its options, and what makes another one of others."""
NAME: Final = "__zbusrpc_name__"
"""Where it keeps the name of its service."""
NAMES_MAX: Final = 4096
"""Methods whose names are kept ready: more than a program calls by `options(proxy, ...)` again and again."""
_NOTHING: Final = object()
LIKENESS_ATTRIBUTE: Final = "__zbusrpc_likeness__"
"""Where a service's class keeps the class of its proxies."""


class Described(Protocol):
    """A method, as far as others look at it."""

    service: str
    source: type | str
    attribute: str
    doc: str
    signature: inspect.Signature


class MethodLikeness:
    """Looks like a method that is bound already."""

    __defaults__ = None
    __kwdefaults__ = None

    @property
    def _key(self) -> Any:
        """What is equal where two of them are."""
        raise NotImplementedError

    def _look_like(self, method: Described) -> None:
        self.__name__ = method.attribute
        self.__qualname__ = f"{method.service}.{method.attribute}"
        self.__doc__ = method.doc or None
        self.__module__ = getattr(method.source, "__module__", __name__)
        self.__signature__ = method.signature

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return annotations_of(self.__signature__)

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        return self  # for `help` it is what describes a method; it is bound

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key == getattr(other, "_key", None)

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"<method {self.__qualname__} of a proxy>"


def annotations_of(signature: inspect.Signature) -> dict[str, Any]:
    """Return what a function of this signature has as `__annotations__`."""
    parameters = signature.parameters.values()
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    annotations["return"] = signature.return_annotation
    return {name: annotation for name, annotation in annotations.items() if annotation is not inspect.Signature.empty}


@functools.lru_cache(maxsize=NAMES_MAX)
def renamed(function: Callable[..., Any], qualname: str) -> Callable[..., Any]:
    """Return a function whose coroutines have another name: Python names those that are never awaited."""
    assert isinstance(function, types.FunctionType)
    code, defaults = function.__code__, function.__defaults__
    own = types.FunctionType(code, function.__globals__, qualname.rpartition(".")[2], defaults, function.__closure__)
    own.__qualname__ = qualname
    return own


class Likeness:
    """Looks like a service: its methods are there, and nothing else can be set or is private."""

    def __init__(self, service: str, options: Any, remake: "functools.partial[Any]") -> None:
        vars(self)[PARTS] = (options, remake)
        vars(self)[NAME] = service

    def __setattr__(self, name: str, value: Any) -> None:
        if not callable(value) or not self._has(name):
            raise AttributeError(
                f"{name} of {self!r} cannot be set; options(proxy, ...) makes one that calls in another way, and "
                "a test may put a function in place of a method"
            )
        vars(self)[name] = value

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of {self!r} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        options, remake = vars(self)[PARTS]
        return remake, (options,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _identity(self) == _identity(other)

    def __hash__(self) -> int:
        return hash(_identity(self))

    def __repr__(self) -> str:
        return f"<proxy of service {vars(self)[NAME]}>"

    def _has(self, name: str) -> bool:
        return not name.startswith("_")


class TypedLikeness(Likeness):
    """Looks like an instance of a service's class."""

    def __init__(self, service: str, options: Any, remake: "functools.partial[Any]", methods: dict[str, Any]) -> None:
        Likeness.__init__(self, service, options, remake)
        vars(self).update(methods)

    def __getattr__(self, name: str) -> Any:
        if PARTS not in vars(self):  # it is being made, by who goes past `__init__`
            raise AttributeError(name)
        (cls,) = vars(self)[PARTS][1].args
        value = inspect.getattr_static(cls, name, _NOTHING)
        methods, service = _methods_of(self), vars(self)[NAME]
        is_public = value is not _NOTHING and not name.startswith("_")
        if is_public and not hasattr(type(value), "__get__"):
            return value  # a constant, or a class: the same wherever the class is
        if not is_public:
            hint = did_you_mean(name, methods) or f"; it has {one_of(methods)}"
            raise AttributeError(f"service {service} has no method {name}{hint}")
        raise AttributeError(f"{name} of service {service} is data, and a proxy has methods: write one that returns it")

    def __dir__(self) -> list[str]:
        return sorted({*_methods_of(self), *dir(type(self))})

    def _has(self, name: str) -> bool:
        return name in _methods_of(self)


def proxy_class(cls: type, methods: Iterable[str]) -> type[TypedLikeness]:
    """Return the class of the proxies that stand for `cls`, whose methods have these names; it is made once."""
    known: type[TypedLikeness] | None = vars(cls).get(LIKENESS_ATTRIBUTE)
    if known is None:
        described = {
            name: inspect.getattr_static(cls, name) for name in methods
        }  # each proxy has its own in their places
        own = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__class__": property(lambda _: cls)}
        known = type(f"{cls.__name__}Proxy", (TypedLikeness,), described | own)
        setattr(cls, LIKENESS_ATTRIBUTE, known)
    return known


def _methods_of(proxy: Likeness) -> list[str]:
    return [name for name in vars(proxy) if not name.startswith("_")]


def _identity(proxy: object) -> Any:
    options, remake = vars(proxy)[PARTS]
    return remake.args, options.identity
