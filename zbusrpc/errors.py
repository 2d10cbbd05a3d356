"""The errors of zbusrpc: one class for what a call can end with, a few for what goes wrong on this side.

`RpcError` carries one of the 16 codes that gRPC and Connect share, a message for people and details for
programs. It is the same class on both sides of the wire: what a handler raises, the caller catches. A
subclass with fields of its own is a *declared error*: it travels by its name and is the same class again at a
Python caller.

Everything here promises one clear line as its text. No traceback crosses the wire unless the service runs in
dev mode.
"""

import difflib
import functools
import inspect
from collections.abc import Iterable
from enum import StrEnum
from heapq import nlargest
from itertools import islice
from typing import Any, ClassVar, Final, overload

NEAREST_MAX: Final = 200
"""Names that a wrong one is compared with. A broker with ten thousand topics has more to do than to guess."""
NEAREST_CHARACTERS_MAX: Final = 64
"""Longer names are not compared: people do not type them, and what comparing costs grows with the third power."""
LOOKED_AT_MAX: Final = 5
"""Names with the same letters, about, that are compared in their order: 1.6 ms each, where somebody means harm."""
SIMILAR: Final = 0.6
"""The cut-off of difflib itself, which catches one or two wrong letters."""
SHOWN_CHARACTERS_MAX: Final = 80
"""Of a name that came from outside, in a line that says what is wrong with it."""
HAS_NOT_RUN: Final = "__zbusrpc_has_not_run__"
"""Where an error keeps that; see `outcome.py`, which sets it."""


_PYTHONS_OWN: Final = {"__traceback__", "__cause__", "__context__", "__suppress_context__", "__notes__"}


class Code(StrEnum):
    """How a call failed. The names and meanings are those of gRPC (grpc.io, "Status codes")."""

    CANCELED = "CANCELED"
    """The caller gave the call up."""
    UNKNOWN = "UNKNOWN"
    """An error of a kind that this side does not know."""
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """The arguments are wrong whatever the state of the service."""
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    """The time given to the call passed before its result came."""
    NOT_FOUND = "NOT_FOUND"
    """A thing that the call names does not exist."""
    ALREADY_EXISTS = "ALREADY_EXISTS"
    """A thing that the call wanted to create exists."""
    PERMISSION_DENIED = "PERMISSION_DENIED"
    """The caller is known and may not do this."""
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    """A bound was reached: a queue is full or a message too large."""
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    """The state of the service forbids it; retrying does not help until that changes."""
    ABORTED = "ABORTED"
    """A conflict with another call; the whole transaction may be tried again."""
    OUT_OF_RANGE = "OUT_OF_RANGE"
    """Past the valid end, for example of a list that is being read."""
    UNIMPLEMENTED = "UNIMPLEMENTED"
    """The service has no such method."""
    INTERNAL = "INTERNAL"
    """A fault of the service."""
    UNAVAILABLE = "UNAVAILABLE"
    """Nobody is there to take the call now; it may be tried again."""
    DATA_LOSS = "DATA_LOSS"
    """Data was lost or damaged beyond repair."""
    UNAUTHENTICATED = "UNAUTHENTICATED"
    """The caller did not show who it is."""


class ZbusError(Exception):
    """Everything that zbusrpc raises on purpose.

    All of them can be copied and pickled, whatever their `__init__` takes: it is not called again.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, object.__getstate__(self))


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: Any) -> BaseException:
    """Return the copy of an error, past its `__init__` and past a `__setattr__` that refuses."""
    error = cls.__new__(cls)
    object.__setattr__(error, "args", args)
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    for name, value in [*(attributes or {}).items(), *(slots or {}).items()]:
        object.__setattr__(error, name, value)
    return error


class UsageError(ZbusError, RuntimeError):
    """The program uses the library in a way that cannot work; the text names the fix."""


class DefinitionError(ZbusError, TypeError):
    """A class cannot be a service as it is written; the text names class, method and fix."""


class ConfigError(ZbusError, ValueError):
    """A setting has a value that cannot be used; the text names setting and value."""


class ProtocolError(ZbusError):
    """The peer sent bytes that the protocol does not allow. The connection is closed, nothing else suffers."""


class FrameTooLargeError(ProtocolError):
    """A frame is longer than the limit of this side."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"frame of {size} bytes exceeds the limit of {limit} bytes")
        self.size = size
        self.limit = limit


class LinkError(ZbusError):
    """The connection to a broker cannot be made, was refused or was lost; the text says which and why."""

    last_request: int | None = None
    """Where the broker said goodbye: the last request that it took; later ones have not run."""


class TokenRefusedError(LinkError):
    """The broker does not know the token that it was shown: trying again with the same does not help."""


class RpcError(ZbusError):
    """A call that failed.

    Raise it in a handler to give the caller that code; raise a subclass to give it a class of its own. A subclass
    sets `code`, and takes message and details as this class does:

    >>> class Gone(RpcError):
    ...     code = Code.NOT_FOUND
    >>> str(Gone("order 7 was cancelled"))
    'NOT_FOUND: order 7 was cancelled'

    To have typed fields it names them as parameters of an `__init__` of its own, each kept in an attribute of the same
    name. A dataclass does just that:

    >>> from dataclasses import dataclass
    >>> @dataclass(eq=False)
    ... class InsufficientFunds(RpcError):
    ...     code = Code.FAILED_PRECONDITION
    ...     message = "{missing} cents are missing"
    ...     missing: int
    >>> str(InsufficientFunds(missing=250))
    'FAILED_PRECONDITION: 250 cents are missing'

    A field may be called `code`, `message` or `details`, too. Of these the first is the code of the call if it is one,
    the second the line for people if it is a text.
    """

    code: Code = Code.UNKNOWN
    """How the call failed."""
    message: str = ""
    """One line for people. In a subclass: a template that may name the fields, for errors that are given no other."""
    details: Any = None
    """More for programs, as JSON values: for INVALID_ARGUMENT a list of {loc, msg, type}, of a dataclass its fields."""

    declared: ClassVar[bool] = False
    """Whether this class has a name of its own on the wire."""

    @overload
    def __init__(self, code: Code | str = ..., message: str = "", details: Any = None) -> None: ...
    @overload
    def __init__(self, message: str, details: Any, /) -> None: ...
    def __init__(self, code: Code | str | None = None, message: Any = "", details: Any = None) -> None:
        """Make an error.

        Args:
            code: How it failed. A subclass has one already, and may leave it out: `Gone("order 7", {"order": 7})`.
            message: One line for people; anything else is shown as `str` shows it.
            details: More for programs, as JSON values.
        """
        if self.declared:
            code, message, details = _with_code_of(type(self), code, message, details)
        elif code is None:
            raise TypeError(f"{type(self).__name__} takes a code first, such as Code.NOT_FOUND")
        put = functools.partial(object.__setattr__, self)  # a frozen dataclass may call this, too
        put("code", Code(code))
        put("message", ("" if message is None else str(message)) or class_template(type(self)))
        put("details", details)
        if type(self).__init__ is RpcError.__init__:
            put("args", (self.code, self.message, details))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.declared = True

    def __post_init__(self, *init_only: Any) -> None:
        """Complete a dataclass subclass: its fields are the details, its template the message."""
        if "__setattr__" in vars(type(self)):
            _let_python_set(type(self))
        fields = error_fields(self)
        if "message" not in fields:
            object.__setattr__(self, "message", _fill(type(self), fields) or type(self).__name__)
        if "details" not in fields:
            object.__setattr__(self, "details", fields)

    def __str__(self) -> str:
        code, message = code_of(self), message_of(self)
        return f"{code}: {message}" if message else str(code)

    @property
    def retry_after_s(self) -> float | None:
        """How long the broker asks to wait before another try, in seconds, where it knows."""
        value = self.details.get("retry_after_s") if isinstance(self.details, dict) else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def may_have_run(self) -> bool:
        """Whether the handler may have begun: False means that trying again cannot do the work twice.

        Only whoever knows says False: a broker that gave the call to nobody, a service before its handler began, this
        side before it sent anything. What a handler raises has run, whatever its details say.
        """
        return not self.__dict__.get(HAS_NOT_RUN)


def _with_code_of(cls: type[RpcError], code: Any, message: Any, details: Any) -> tuple[Any, Any, Any]:
    """Return code, message and details of an error that may have been given without the first: its class has one."""
    if code is None or isinstance(code, Code):
        return code or class_code(cls), message, details
    is_text = isinstance(message, str)
    if (isinstance(code, str) and code in Code.__members__) or (is_text and message):
        return code, message, details
    return class_code(cls), code, details if is_text else message


def _let_python_set(cls: type[RpcError]) -> None:
    """Let Python note what it does on errors of a frozen dataclass: process pools and context managers need it."""
    refuse: Any = cls.__setattr__
    if getattr(refuse, "lets_python_set", False):
        return

    def set_attribute(self: RpcError, name: str, value: Any) -> None:
        if name in _PYTHONS_OWN:
            object.__setattr__(self, name, value)
        else:
            refuse(self, name, value)

    set_attribute.lets_python_set = True  # type: ignore[attr-defined]
    cls.__setattr__ = set_attribute  # type: ignore[method-assign,assignment]


# -- what an error of any class says ---------------------------------------------------------------------------


def code_of(error: RpcError) -> Code:
    """Return how a call failed, also where a class has a field of its own that is called `code`."""
    code: Any = error.code
    return Code(code) if isinstance(code, str) and code in Code.__members__ else class_code(type(error))


def message_of(error: RpcError) -> str:
    """Return the line for people, also where a class has a field of its own that is called `message`."""
    message: Any = error.message
    if not isinstance(message, str):
        return type(error).__name__
    if "message" in error.__dict__ or any(parameter.name == "message" for parameter in error_parameters(type(error))):
        return message
    return _fill(type(error), error_fields(error))  # its own __init__ or __post_init__ has not called ours


def class_code(cls: type[RpcError]) -> Code:
    """Return the code of a class of errors."""
    codes = (vars(base).get("code") for base in cls.__mro__)
    return next(Code(code) for code in codes if isinstance(code, str) and code in Code.__members__)


def class_template(cls: type[RpcError]) -> str:
    """Return the text that makes the messages of a class of errors."""
    texts = (vars(base).get("message") for base in cls.__mro__)
    return next(text for text in texts if isinstance(text, str))


def error_parameters(cls: type[RpcError]) -> tuple[inspect.Parameter, ...]:
    """Return the fields of a class of errors: the parameters of an `__init__` of its own."""
    if cls.__init__ is RpcError.__init__:
        return ()
    return tuple(inspect.signature(cls.__init__).parameters.values())[1:]


def error_fields(error: RpcError) -> dict[str, Any]:
    """Return the fields of a declared error: the parameters of its `__init__` with their values.

    A value is what the attribute of that name holds, or, where there is none, what was given by position. `*rest` is a
    list, `**more` a dict.
    """
    parameters = error_parameters(type(error))
    given = _given(parameters, error.args)
    fields = {}
    for name in [parameter.name for parameter in parameters]:
        if name in given and (hasattr(RpcError, name) or not hasattr(error, name)):
            fields[name] = given[name]  # such as `message`: the attribute may be a text that was made of it
        elif hasattr(error, name) and not hasattr(BaseException, name):
            fields[name] = getattr(error, name)
    return fields


def _given(parameters: tuple[inspect.Parameter, ...], args: tuple[Any, ...]) -> dict[str, Any]:
    """Return what an error was given by position: Python keeps it in `args`, unless `__init__` has set others."""
    try:
        return dict(inspect.Signature(parameters).bind_partial(*args).arguments)
    except TypeError:
        return {}


def _fill(cls: type[RpcError], fields: dict[str, Any]) -> str:
    """Return a class's template with the fields in their places; as it is where it does not fit them."""
    template = class_template(cls)
    try:
        return template.format_map(fields)
    except Exception:  # a format may be wrong in many ways, and the error that is being raised must not get lost
        return template


def one_of(names: Iterable[str]) -> str:
    """List names for the end of an error line, shortened after eight."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:8])
    return f"{shown}, ... ({len(ordered)} in all)" if len(ordered) > 8 else shown


def cut(text: str) -> str:
    """Return a text that came from outside, cut where it is longer than a line has room for."""
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}..."


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name most like `name`, or None when nothing is close; what it costs has a bound, whatever they are.

    Case is ignored. Of very many names only the first NEAREST_MAX are compared, and only those that most of its letters
    are in are looked at closely.
    """
    if len(name) > NEAREST_CHARACTERS_MAX:
        return None
    folded = name.casefold()
    matcher = difflib.SequenceMatcher(b=folded)
    alike: list[tuple[float, str]] = []
    for candidate in islice(names, NEAREST_MAX):
        length = len(candidate)
        if length <= NEAREST_CHARACTERS_MAX and 2 * min(length, len(folded)) >= SIMILAR * (length + len(folded)):
            matcher.set_seq1(candidate.casefold())
            ratio = matcher.quick_ratio()
            if ratio >= SIMILAR:
                alike.append((ratio, candidate))
    best, found = SIMILAR, None
    for _, candidate in nlargest(LOOKED_AT_MAX, alike):
        matcher.set_seq1(candidate.casefold())
        ratio = matcher.ratio()
        if ratio >= best:
            best, found = ratio, candidate
    return found


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean X?" or nothing, to be put at the end of an error line."""
    found = nearest(name, names)
    return f"; did you mean {found}?" if found else ""
