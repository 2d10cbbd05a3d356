"""The codec of declared errors: how they are written by a service, and revived by a client.

On the wire an error has the name of its class as `type`, and its fields as `details`, written and read by their
annotations. An error of a class that the service does not show is what its nearest ancestor is that it does.

Pure.
"""

import inspect
from typing import Any, Final, get_type_hints
from weakref import WeakKeyDictionary

from pydantic_core import core_schema

from zbusrpc import envelope
from zbusrpc.errors import DefinitionError, RpcError, error_fields, error_parameters
from zbusrpc.service import schema
from zbusrpc.service.declared import Errors
from zbusrpc.service.forms.form import Form
from zbusrpc.service.generics import resolve, types_of_bases, unresolved

_KINDS: Final[dict[Any, Any]] = {
    inspect.Parameter.VAR_POSITIONAL: lambda item: list[item],  # type: ignore[valid-type]
    inspect.Parameter.VAR_KEYWORD: lambda item: dict[str, item],  # type: ignore[valid-type]
}
_forms: "WeakKeyDictionary[type[RpcError], Form]" = WeakKeyDictionary()


def check_error(cls: type[RpcError]) -> None:
    """Make sure that the errors of a class can be sent.

    Raises:
        DefinitionError: a field has no form in JSON.
    """
    if error_parameters(cls):
        _form(cls)


def error_body(error: RpcError, errors: Errors) -> bytes:
    """Return the reply for an error that a handler raised on purpose."""
    if not error.declared:
        return envelope.error_body(error)
    names = {known: name for name, known in errors.items()}
    shown = next((base for base in type(error).__mro__ if base in names), type(error))
    details = _dump(shown, error) if error_parameters(shown) else b""
    return envelope.error_body(error, type_name=names.get(shown, shown.__name__), details_json=details)


def revive(wire: envelope.WireError, errors: Errors) -> RpcError:
    """Return the error that came in a reply, as its own class where this side knows it."""
    cls = errors.get(wire.type_name)
    if cls is None:
        return RpcError(wire.code, wire.message, wire.details)
    try:
        return _revive(cls, wire)
    except Exception:  # its __init__ may raise anything
        # The two sides have different versions of the class: its base says what is common.
        return RpcError(wire.code, wire.message, wire.details)


def _revive(cls: type[RpcError], wire: envelope.WireError) -> RpcError:
    parameters = error_parameters(cls)
    if not parameters:
        return cls(wire.code, wire.message, wire.details)
    fields = _form(cls).validator.validate_json(envelope.dump(wire.details))
    bound = inspect.BoundArguments(inspect.Signature(parameters), fields)
    error = cls(*bound.args, **bound.kwargs)
    names = {parameter.name for parameter in parameters}
    if isinstance(error.message, str) and error.message != wire.message:
        object.__setattr__(error, "message", wire.message)
    if "code" not in names and error.code != wire.code:
        object.__setattr__(error, "code", wire.code)
    if error.details is None and "details" not in names:
        object.__setattr__(error, "details", wire.details)
    return error


def _dump(cls: type[RpcError], error: RpcError) -> bytes:
    """Return the fields of an error as JSON."""
    fields = error_fields(error)
    try:
        form = _form(cls)
    except DefinitionError:  # its callers get the base class
        return envelope.dump(fields)
    shown = {parameter.name for parameter in error_parameters(cls)}
    return form.writer()({name: value for name, value in fields.items() if name in shown})


def _form(cls: type[RpcError]) -> Form:
    """Return what reads and writes the fields of a class.

    Raises:
        DefinitionError: pydantic has no form for one of them.
    """
    form = _forms.get(cls)
    if form is None:
        form = _forms[cls] = schema.form_of(
            lambda handler: core_schema.typed_dict_schema(
                {
                    parameter.name: core_schema.typed_dict_field(
                        handler.generate_schema(annotation),
                        required=parameter.default is parameter.empty and parameter.kind not in _KINDS,
                    )
                    for parameter, annotation in _types(cls).items()
                },
            ),
            f"error {cls.__name__}",
        )
    return form


def _types(cls: type[RpcError]) -> dict[inspect.Parameter, Any]:
    """Return the types of the fields; what cannot be read, or has none, is any JSON value."""
    try:
        hints = get_type_hints(cls.__init__, include_extras=True)
    except Exception:  # names that are known to type checkers only
        hints = {}
    variables = {variable: known for types in types_of_bases(cls).values() for variable, known in types.items()}
    types = {}
    for parameter in error_parameters(cls):
        annotation = resolve(hints.get(parameter.name, Any), variables)
        annotation = Any if isinstance(annotation, str) or unresolved(annotation) else annotation
        types[parameter] = _KINDS[parameter.kind](annotation) if parameter.kind in _KINDS else annotation
    return types
