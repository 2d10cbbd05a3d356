"""Bad values: options and arguments that are no number, or none that may be, told in the one line of all mistakes."""

from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from zbusrpc.cli.shell import USAGE, fail


class Commands(TyperGroup):
    """The commands, of which a bad value is refused in one line; whatever else cannot be read shows how it is used."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            fail(_line(error, error.__cause__), USAGE)


def _line(error: typer.BadParameter, cause: ValidationError) -> str:
    first = cause.errors(include_url=False)[0]
    reason = first["msg"]
    return f"{_name_of(error.param)} = {first['input']!r}: {reason[0].lower()}{reason[1:]}"


def _name_of(param: Any) -> str:
    """Return what people write for an option, or what stands for an argument in the help."""
    is_option = param.opts[0].startswith("-")
    return str(max(param.opts, key=len) if is_option else param.metavar or param.name.upper())
