"""Schemas: how pydantic reads parameters and results out of JSON, and writes them.

One validator for the whole service reads envelope and parameters in a single pass over the bytes: it picks the
method by name and converts each parameter by its annotation. That is faster than parsing first (0.5 us against
0.9 us for two integers) and keeps what a JSON parser in between would lose, such as large integers.

Everything follows pydantic's lax mode for JSON. Bytes travel as base64, NaN and infinities as strings.
"""

from typing import Any, Final

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from zbusrpc.errors import Code, RpcError
from zbusrpc.service.arguments import Mixture, arguments_schema
from zbusrpc.service.definition import Definition, Method
from zbusrpc.service.forms.finite import CONFIG
from zbusrpc.service.forms.form import Build, Form, core_schema_of

PROBLEMS_MAX: Final = 100
"""Parameters that do not fit, of which each is told; of more only how many."""


def form_of(build: Build, what: str) -> Form:
    """Return the form of what `build` makes.

    Raises:
        DefinitionError: a type has no form in JSON, or none that is read back equal; `what` says where it stands.
    """
    return Form(core_schema_of(build, what), what)


def value_form(annotation: Any, what: str) -> Form:
    """Return the form of one type."""
    return form_of(lambda handler: handler.generate_schema(annotation), what)


def result_form(service: str, method: Method) -> Form:
    """Return the form of a method's result."""
    return value_form(method.signature.return_annotation, f"result of {service}.{method.name}")


def reply_form(service: str, method: Method) -> Form:
    """Return the form of a whole reply to a method."""
    result = method.signature.return_annotation
    return form_of(
        lambda handler: core_schema.typed_dict_schema(
            {"result": core_schema.typed_dict_field(handler.generate_schema(result), required=True)},
        ),
        f"result of {service}.{method.name}",
    )


def arguments_form(service: str, method: Method) -> Form:
    """Return the form that turns a JSON list or object into `(args, kwargs)` for a method."""
    return form_of(
        lambda handler: arguments_schema(method.signature, handler, CONFIG, method.receiver), f"{service}.{method.name}"
    )


def mixture_of(service: str, method: Method) -> Mixture:
    """Return what reads calls of a method that have values by position, and others by name."""
    make_form = lambda build: form_of(build, f"{service}.{method.name}")  # noqa: E731
    return Mixture(method.signature, CONFIG, make_form, method.receiver)


def envelope_form(definition: Definition) -> Form:
    """Return the form that reads a whole request: `{"method": name, "params": (args, kwargs)}`.

    It takes only plain requests; anything else (JSON-RPC, no params, mistakes) is for the slow and thorough way.
    """

    def build(handler: GetCoreSchemaHandler) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {
            name: core_schema.typed_dict_schema(
                {
                    "method": core_schema.typed_dict_field(core_schema.any_schema()),
                    "params": core_schema.typed_dict_field(
                        arguments_schema(method.signature, handler, CONFIG, method.receiver)
                    ),
                    "module": core_schema.typed_dict_field(
                        core_schema.nullable_schema(core_schema.literal_schema(["", definition.name])),
                        required=False,
                    ),
                },
                extra_behavior="forbid",
            )
            for name, method in definition.methods.items()
        }
        return core_schema.tagged_union_schema(choices, discriminator="method")

    return form_of(build, definition.name)


def invalid_arguments(error: ValidationError, service: str, method: Method) -> RpcError:
    """Return the error for parameters that do not fit: its details are a list of {loc, msg, type}.

    A place begins with the position or name that the caller gave; the message names the parameter in any case.
    """
    count = error.error_count()
    if count > PROBLEMS_MAX:  # looking at each would keep the service busy
        text = f"{service}.{method.name}: {count} things are wrong with its arguments"
        return RpcError(Code.INVALID_ARGUMENT, text, [])
    problems = [
        {
            "loc": list(problem["loc"]),
            "msg": problem["msg"],
            "type": problem["type"],
        }
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    place, reason = list(error.errors()[0]["loc"]), problems[0]["msg"]
    names = list(method.signature.parameters)
    if place and isinstance(place[0], int):
        place[0] = names[place[0]] if place[0] < len(names) else f"argument {place[0] + 1}"
    where = f"{'.'.join(map(str, place))}: " if place else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return RpcError(Code.INVALID_ARGUMENT, f"{service}.{method.name}: {where}{reason}{more}", problems)
