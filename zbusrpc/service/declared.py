"""Declared errors: which ones a service has, and what they are called on the wire.

That is the name of the class. Where several classes of a service have one name, each goes by its full name, with its
module. Pure.
"""

import inspect
import sys
from collections.abc import Iterable
from string import Formatter

from zbusrpc.errors import DefinitionError, RpcError, class_template, error_parameters, one_of

Errors = dict[str, type[RpcError]]
"""The declared errors of a service, by name on the wire."""


def errors_of(cls: type, named: Iterable[type[RpcError]]) -> Errors:
    """Return the declared errors of a service: those visible in its modules, and those its methods name.

    Raises:
        DefinitionError: the message of one that is named does not fit its fields.
    """
    named = list(named)
    for error in named:
        _check(error)
    modules = [sys.modules.get(base.__module__) for base in cls.__mro__[:-1]]
    visible = [value for module in modules if module for value in vars(module).values() if _is_declared(value)]
    by_name: dict[str, dict[type[RpcError], None]] = {}
    for error in [*visible, *named]:
        by_name.setdefault(error.__name__, {})[error] = None
    return {
        name if len(errors) == 1 else f"{error.__module__}.{error.__qualname__}": error
        for name, errors in by_name.items()
        for error in errors
    }


def _check(error: type[RpcError]) -> None:
    """Refuse a class whose template names what is no field of it."""
    names = [parameter.name for parameter in error_parameters(error)]
    template = class_template(error)
    if names and "message" not in names:
        try:
            asked = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
        except ValueError as wrong:
            raise DefinitionError(f"{error.__name__}.message {template!r} is no template: {wrong}") from None
        unknown = [field for field in asked if field.partition(".")[0].partition("[")[0] not in names]
        if unknown:
            raise DefinitionError(
                f"{error.__name__}.message {template!r} names {{{unknown[0]}}}, and its fields are {one_of(names)}"
            )


def _is_declared(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, RpcError) and value is not RpcError
