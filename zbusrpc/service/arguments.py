"""Arguments: from the JSON of a call to what a method is called with.

    a list, or an object            one pass of pydantic's own validator
    a list, and an object beside    values are put beside the names of their parameters first; see `Mixture`

What stands as `Field(default=20, ge=1)` in place of a default means what it means in a model. Other defaults are taken
as they are, as Python does. Pure.
"""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin

import typing_extensions
from pydantic import Field, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from zbusrpc import envelope
from zbusrpc.service.forms.form import Build, Form

_MODES: Final[dict[Any, Any]] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional_or_keyword",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
}
_BY_POSITION: Final = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_BY_NAME: Final = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
_QUALIFIERS: Final[dict[Any, bool]] = {
    typing.Required: True,
    typing.NotRequired: False,
    typing_extensions.Required: True,
    typing_extensions.NotRequired: False,
}
_UNPACKS: Final = {typing.Unpack, typing_extensions.Unpack}
PROBLEMS_MAX: Final = 100
"""More things than this that are wrong with a mixture are counted, and not looked at."""

Config = core_schema.CoreConfig
Place = tuple[Any, ...]


def arguments_schema(
    signature: inspect.Signature, handler: GetCoreSchemaHandler, config: Config, receiver: str | None = None
) -> CoreSchema:
    """Return the schema of a list or an object that becomes `(args, kwargs)`.

    Args:
        signature: Of the method, without `self`.
        handler: Makes schemas of types.
        config: A typed dict takes none from what it stands in, so this is for those.
        receiver: What `self` is called, where `**more` cannot take a value of that name.
    """
    items: list[core_schema.ArgumentsParameter] = []
    more: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            more["var_args_schema"] = _schema_of(parameter, handler)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            options = options_of(parameter)
            more["var_kwargs_schema"] = (
                _options_schema(options, handler, config) if options else _schema_of(parameter, handler)
            )
            more["var_kwargs_mode"] = "unpacked-typed-dict" if options else "uniform"
        else:
            schema, alias = _parameter_schema(parameter, handler)
            more |= {"validate_by_name": True, "validate_by_alias": True} if alias else {}
            items.append(
                core_schema.arguments_parameter(parameter.name, schema, mode=_MODES[parameter.kind], alias=alias)
            )
    as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
    schema = core_schema.arguments_schema(items, **more, serialization=as_it_is)
    if receiver is None:
        return schema

    def refuse_receiver(arguments: Any) -> Any:
        if receiver in arguments[1]:
            raise _taken(receiver)
        return arguments

    return core_schema.no_info_after_validator_function(refuse_receiver, schema)


@dataclass(frozen=True, slots=True)
class Option:
    """One of the names in `**options: Unpack[Options]`."""

    annotation: Any
    is_required: bool


def options_of(parameter: inspect.Parameter) -> dict[str, Option]:
    """Return what a typed dict says of the names that `**options: Unpack[Options]` takes; {} where there is none."""
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD or get_origin(parameter.annotation) not in _UNPACKS:
        return {}
    options: dict[str, Option] = {}
    typed_dict = get_args(parameter.annotation)[0]
    for name, written in typing_extensions.get_type_hints(typed_dict, include_extras=True).items():
        annotation, is_required = written, name in typed_dict.__required_keys__
        while get_origin(annotation) in _QUALIFIERS:  # in annotations that are strings nobody has read them yet
            is_required = _QUALIFIERS.get(get_origin(annotation), is_required)
            annotation = get_args(annotation)[0]
        options[name] = Option(annotation, is_required)
    return options


def type_of(parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter with the bounds that `Field` adds to it."""
    field = _field_of(parameter)
    if field is None:
        return parameter.annotation
    words: dict[str, Any] = {"title": field.title, "description": field.description, "examples": field.examples}
    more: Any = Field(discriminator=field.discriminator, json_schema_extra=field.json_schema_extra, **words)
    return Annotated[(field.annotation, *field.metadata, more)]


class Mixture:
    """Reads calls of one method that have values by position, and others by name."""

    def __init__(
        self,
        signature: inspect.Signature,
        config: Config,
        make_form: Callable[[Build], Form],
        receiver: str | None = None,
    ) -> None:
        self._signature = signature
        self._config = config
        self._make_form = make_form
        self._receiver = receiver
        self._form: Form | None = None

    def read(self, args: list[Any], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return `(args, kwargs)`.

        Raises:
            ValidationError: they do not fit; places begin with the position or name that the caller gave.
        """
        if self._form is None:  # few methods are ever called so
            self._form = self._make_form(self._schema)
        values, places, problems = self._assign(args, named)
        if not problems:
            try:
                fields = self._form.validator.validate_json(envelope.dump(values))
            except ValidationError as error:
                if error.error_count() > PROBLEMS_MAX:
                    raise
                problems = [_moved(problem, places) for problem in error.errors(include_url=False)]
        if problems:
            raise ValidationError.from_exception_data("arguments", problems)
        bound = inspect.BoundArguments(self._signature, fields)
        return bound.args, bound.kwargs

    def _schema(self, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of an object of all parameters by name: `*rest` is a list, `**more` an object."""
        fields: dict[str, core_schema.TypedDictField] = {}
        for parameter in self._signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                schema: CoreSchema = core_schema.list_schema(_schema_of(parameter, handler))
            elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                schema, _ = _parameter_schema(parameter, handler)
            elif options := options_of(parameter):
                schema = _options_schema(options, handler, self._config)
            else:
                schema = core_schema.dict_schema(values_schema=_schema_of(parameter, handler))
            fields[parameter.name] = core_schema.typed_dict_field(schema, required=schema["type"] != "default")
        return core_schema.typed_dict_schema(fields, config=self._config)

    def _assign(self, args: list[Any], named: dict[str, Any]) -> tuple[dict[str, Any], dict[Place, Any], list[Any]]:
        """Return the values by the names of their parameters, where each was given, and what is wrong already."""
        parameters = self._signature.parameters.values()
        positional = [parameter for parameter in parameters if parameter.kind in _BY_POSITION]
        by_name = {name: parameter for parameter in parameters for name in _names(parameter)}
        variable = {parameter.kind: parameter.name for parameter in parameters}
        rest = variable.get(inspect.Parameter.VAR_POSITIONAL)
        more = variable.get(inspect.Parameter.VAR_KEYWORD)
        values: dict[str, Any] = ({rest: []} if rest else {}) | ({more: {}} if more else {})
        places: dict[Place, Any] = {}
        problems: list[Any] = []
        for position, value in enumerate(args):
            if position < len(positional):
                name = positional[position].name
                values[name], places[name,] = value, position
            elif rest:
                places[rest, len(values[rest])] = position
                values[rest].append(value)
            else:
                problems.append({"type": "unexpected_positional_argument", "loc": (position,), "input": value})
        for name, value in named.items():
            parameter = by_name.get(name)
            if parameter is not None and parameter.name in values:
                problems.append({"type": "multiple_argument_values", "loc": (name,), "input": value})
            elif parameter is not None:
                values[parameter.name], places[parameter.name,] = value, name
            elif more and name == self._receiver:
                problems.append({"type": _taken(name), "loc": (name,), "input": value})
            elif more:
                values[more][name], places[more, name] = value, name
            else:
                problems.append({"type": "unexpected_keyword_argument", "loc": (name,), "input": value})
        return values, places, problems


def _parameter_schema(parameter: inspect.Parameter, handler: GetCoreSchemaHandler) -> tuple[CoreSchema, str | None]:
    """Return the schema of one parameter with its default, and the other name that it has."""
    schema, field = _schema_of(parameter, handler), _field_of(parameter)
    if field is None:
        if parameter.default is inspect.Parameter.empty:
            return schema, None
        return core_schema.with_default_schema(schema, default=parameter.default), None
    if field.is_required():
        return schema, field.alias
    given = {"default": field.default} if field.default_factory is None else {"default_factory": field.default_factory}
    return core_schema.with_default_schema(schema, **given, validate_default=field.validate_default), field.alias


def _schema_of(parameter: inspect.Parameter, handler: GetCoreSchemaHandler) -> CoreSchema:
    return handler.generate_schema(type_of(parameter))


def _options_schema(options: dict[str, Option], handler: GetCoreSchemaHandler, config: Config) -> CoreSchema:
    fields = {
        name: core_schema.typed_dict_field(handler.generate_schema(option.annotation), required=option.is_required)
        for name, option in options.items()
    }
    return core_schema.typed_dict_schema(fields, extra_behavior="forbid", config=config)


def _field_of(parameter: inspect.Parameter) -> FieldInfo | None:
    """Return what `Field` says of a parameter, as its default or in its type."""
    annotation: Any = parameter.annotation
    if isinstance(parameter.default, FieldInfo):
        return FieldInfo.from_annotated_attribute(annotation, parameter.default)
    if get_origin(annotation) is Annotated and any(isinstance(one, FieldInfo) for one in annotation.__metadata__):
        if parameter.default is inspect.Parameter.empty:
            return FieldInfo.from_annotation(annotation)
        return FieldInfo.from_annotated_attribute(annotation, parameter.default)
    return None


def _names(parameter: inspect.Parameter) -> list[str]:
    """Return what a parameter may be called by callers: its name, and its alias."""
    if parameter.kind not in _BY_NAME:
        return []
    field = _field_of(parameter)
    return [parameter.name, field.alias] if field is not None and field.alias else [parameter.name]


def _taken(name: str) -> PydanticCustomError:
    """Return what is wrong with a further parameter of the name that `self` has: Python would give it twice."""
    text = "the method's own {name} has that name; a / behind it, as in def method({name}, /, **more), frees it"
    return PydanticCustomError("unexpected_keyword_argument", text, {"name": name})


def _moved(problem: Any, places: dict[Place, Any]) -> Any:
    """Return a problem at the place where its value was given."""
    loc = problem["loc"]
    kind, text = problem["type"], problem["msg"]
    size = 2 if loc[:2] in places else 1
    if loc[:size] not in places:  # nobody has given it
        kind, text = "missing_argument", "Missing required argument"
    moved = (places[loc[:size]], *loc[size:]) if loc[:size] in places else loc[-1:]
    told = PydanticCustomError(kind, "{text}", {"text": text})
    return {"type": told, "loc": moved, "input": problem["input"]}
