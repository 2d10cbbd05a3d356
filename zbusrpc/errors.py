"""The errors of zbusrpc: one class for what a call can end with, a few for what goes wrong on this side.

`RpcError` carries one of the 16 codes that gRPC and Connect share, a message for people and details for
programs. It is the same class on both sides of the wire: what a handler raises, the caller catches. A
subclass with fields of its own is a *declared error*: it travels by its name and is the same class again at a
Python caller.

Everything here promises one clear line as its text. No traceback crosses the wire unless the service runs in
dev mode.
"""

import difflib
import inspect
from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import Any, ClassVar, Final

NEAREST_MAX: Final = 1000
"""Names that a wrong one is compared with: 4 ms. A broker with ten thousand topics has more to do than to guess."""


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
    """Everything that zbusrpc raises on purpose."""


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

    Raise it in a handler to give the caller that code; raise a subclass to give it typed fields as well. A
    subclass sets `code` and names its fields as parameters of `__init__`, each kept in an attribute of the
    same name. A dataclass does just that:

    >>> from dataclasses import dataclass
    >>> @dataclass(eq=False)
    ... class InsufficientFunds(RpcError):
    ...     code = Code.FAILED_PRECONDITION
    ...     message = "{missing} cents are missing"
    ...     missing: int
    >>> str(InsufficientFunds(missing=250))
    'FAILED_PRECONDITION: 250 cents are missing'
    """

    code: Code = Code.UNKNOWN
    """How the call failed."""
    message: str = ""
    """One line for people. On a declared dataclass: a template that may name the fields."""
    details: Any = None
    """More for programs, as JSON values: for INVALID_ARGUMENT a list of {loc, msg, type}."""

    declared: ClassVar[bool] = False
    """Whether this class has a name of its own on the wire."""

    def __init__(self, code: Code | str, message: str = "", details: Any = None) -> None:
        super().__init__(code, message, details)
        self.code = Code(code)
        self.message = message
        self.details = details

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.declared = True

    def __post_init__(self) -> None:
        """Complete a dataclass subclass: its fields are the details, its template the message."""
        fields = error_fields(self)
        template = type(self).message
        self.message = template.format_map(fields) if template else type(self).__name__

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else str(self.code)

    @property
    def retry_after_s(self) -> float | None:
        """How long the broker asks to wait before another try, in seconds, where it knows."""
        value = self.details.get("retry_after_s") if isinstance(self.details, dict) else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def may_have_run(self) -> bool:
        """Whether the handler may have started: False means that trying again cannot do the work twice."""
        return not (isinstance(self.details, dict) and self.details.get("may_have_run") is False)


def error_fields(error: RpcError) -> dict[str, Any]:
    """Return the fields of a declared error: the parameters of its `__init__` with their values."""
    names = list(inspect.signature(type(error).__init__).parameters)[1:]
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def one_of(names: Iterable[str]) -> str:
    """List names for the end of an error line, shortened after eight."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:8])
    return f"{shown}, ... ({len(ordered)} in all)" if len(ordered) > 8 else shown


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name most like `name`, or None when nothing is close.

    Case is ignored; the cut-off of 0.6 is difflib's own, which catches one or two wrong letters. Of very many names
    only the first NEAREST_MAX are compared.
    """
    by_folded = {candidate.casefold(): candidate for candidate in islice(names, NEAREST_MAX)}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean X?" or nothing, to be put at the end of an error line."""
    found = nearest(name, names)
    return f"; did you mean {found}?" if found else ""
