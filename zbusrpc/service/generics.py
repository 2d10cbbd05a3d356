"""Type variables: what those of generic base classes stand for in a class, and in the types of its methods.

`class Items(Repo[Item])` says that `T` of `Repo` is `Item`, over any number of levels; a variable that is given nothing
has its default. Pure.
"""

from types import UnionType
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin

from typing_extensions import NoDefault, get_original_bases

Types = dict[Any, Any]
"""Type variables, and what each stands for."""


def types_of_bases(cls: type) -> dict[type, Types]:
    """Return for each class that `cls` is made of what its type variables stand for."""
    found: dict[type, Types] = {}
    _collect(cls, {}, found)
    return found


def resolve(annotation: Any, types: Types) -> Any:
    """Return a type with its variables replaced; those that nothing is known of stay."""
    if isinstance(annotation, TypeVar):
        return types.get(annotation, annotation)
    if own := _variables_of_model(annotation):  # what `Page[T]` is to pydantic where `T` is the variable of Page
        return annotation[tuple(types.get(variable, variable) for variable in own)]
    origin, arguments = parts_of(annotation)
    resolved = tuple(resolve(argument, types) for argument in arguments)
    if all(new is old for new, old in zip(resolved, arguments, strict=True)):
        return annotation
    if origin is Annotated:
        return Annotated[resolved]
    return Union[resolved] if origin is UnionType else origin[resolved]  # noqa: UP007 - how many, is not known


def unresolved(annotation: Any) -> Any:
    """Return the first variable in a type that nothing is known of, or None."""
    if isinstance(annotation, TypeVar):
        return annotation
    found = (unresolved(argument) for argument in parts_of(annotation)[1])
    return next((variable for variable in found if variable is not None), None)


def _collect(cls: type, own: Types, found: dict[type, Types]) -> None:
    found.setdefault(cls, {}).update(own)
    for written in get_original_bases(cls):
        base: Any = get_origin(written) or written
        if base in {Generic, Protocol, object} or not isinstance(base, type):
            continue
        variables = getattr(base, "__parameters__", ())
        given = [resolve(argument, own) for argument in get_args(written)]
        types = dict(zip(variables, given, strict=False)) if len(given) == len(variables) else {}
        for variable in variables:
            default = getattr(variable, "__default__", NoDefault)
            if variable not in types and default is not NoDefault and default is not None:
                types[variable] = resolve(default, types)
        _collect(base, types, found)


def parts_of(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what a type is made of: `list[int]` is a list of int."""
    model = getattr(annotation, "__pydantic_generic_metadata__", None) if isinstance(annotation, type) else None
    if model and model["origin"]:
        return model["origin"], tuple(model["args"])
    origin, arguments = get_origin(annotation), get_args(annotation)
    return origin, () if origin is None or origin is Literal else arguments


def _variables_of_model(annotation: Any) -> tuple[Any, ...]:
    model = getattr(annotation, "__pydantic_generic_metadata__", None) if isinstance(annotation, type) else None
    return tuple(model["parameters"]) if model and not model["origin"] else ()
