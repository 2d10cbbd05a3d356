"""The interface of a service as values: its methods with JSON schemas of parameters and results, for people and pages.

An instance tells it to the broker with its subscription, and the monitor makes forms of it.
"""

from typing import Any, Final

import orjson
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from zbusrpc.service.definition import Definition, Method
from zbusrpc.service.forms.form import Form
from zbusrpc.service.schema import arguments_form, result_form

INTERFACE_BYTES_MAX: Final = 64 * 1024
"""As JSON; a larger one is not told."""


def interface_of(definition: Definition) -> bytes:
    """Return what is told of a service, as JSON; nothing where that would be too much."""
    methods = {name: _method(definition, method) for name, method in definition.methods.items()}
    interface = orjson.dumps({"doc": definition.doc, "methods": methods})
    return interface if len(interface) <= INTERFACE_BYTES_MAX else b""


def _method(definition: Definition, method: Method) -> dict[str, Any]:
    params = _schema_of(arguments_form(definition.name, method), "validation")
    return {
        "doc": method.doc,
        "params": params if params.get("type") == "object" else {},  # parameters without names make a list
        "result": _schema_of(result_form(definition.name, method), "serialization"),
        "idempotent": method.options.idempotent,
        "deprecated": method.options.deprecated,
        "is_durable": definition.durable,
    }


def _schema_of(form: Form, mode: JsonSchemaMode) -> dict[str, Any]:
    """Return the JSON schema of what a form reads or writes; {} where there is none."""
    try:
        schema = form.json_schema(mode, _Generator)
        orjson.dumps(schema)
    except (PydanticUserError, TypeError, ValueError):  # a type of its own
        return {}
    return schema


class _Generator(GenerateJsonSchema):
    """Says nothing of defaults that have no form in JSON: they are left out."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic has it
