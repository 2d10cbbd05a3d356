"""Options of every command that talks to a broker, which say how it does."""

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Annotated, Any, Final, TypeVar

import typer

from zbusrpc.config import set_client_security

F = TypeVar("F", bound=Callable[..., None])

OPTIONS: Final[dict[str, Any]] = {
    "token": Annotated[
        str | None, typer.Option(metavar="SECRET", help="What to show; ZBUSRPC_TOKEN is seen by nobody else.")
    ],
    "tls": Annotated[bool | None, typer.Option("--tls", help="Speak TLS, as with a broker at tls://host:port.")],
    "tls_ca": Annotated[str | None, typer.Option(metavar="FILE", help="CA of the broker [default: the system's]")],
    "tls_client_cert": Annotated[str | None, typer.Option(metavar="FILE", help="Certificate to show, where asked.")],
    "tls_client_key": Annotated[str | None, typer.Option(metavar="FILE", help="Its key [default: in the same file]")],
}
"""By the names of settings."""


def client_options(function: F) -> F:
    """Give a command these options, which hold for whatever it connects to or starts."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        set_client_security(**{name: kwargs.pop(name, None) for name in OPTIONS})
        function(*args, **kwargs)

    own = inspect.signature(function)
    added = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in OPTIONS.items()]
    vars(command)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *added])
    command.__annotations__ = function.__annotations__ | OPTIONS
    return command  # type: ignore[return-value]  # for typer, which reads the signature
