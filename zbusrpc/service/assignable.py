"""Assignable: whether values of one type may stand where another one is annotated, as type checkers have it.

What an overriding method takes and gives is compared so. It is for mistakes, not for proofs: what cannot be told at run
time (protocols, typed dicts, variables, how generic types vary) is let pass. Nothing that a checker takes is refused.

Pure: types in, a verdict out.
"""

import inspect
import re
import types
from typing import Annotated, Any, Final, Literal, NewType, Union, get_args, get_origin

from typing_extensions import is_typeddict

from zbusrpc.service.generics import parts_of

_ANYTHING: Final = (Any, object, inspect.Parameter.empty)
_PROMOTED: Final = {(int, float), (int, complex), (float, complex), (bytearray, bytes), (memoryview, bytes)}
"""Classes that checkers let stand for another one, although they do not derive from it."""
_MODULES: Final = re.compile(r"(?:\w+\.|<locals>\.)+(?=\w)")


def is_assignable(given: Any, wanted: Any) -> bool:
    """Return False where a value of `given` certainly is none of `wanted`."""
    given, wanted = _bare(given), _bare(wanted)
    if given is Any or given == wanted or any(wanted is one for one in _ANYTHING):
        return True
    if _is_union(given):
        return all(is_assignable(member, wanted) for member in get_args(given))
    if _is_union(wanted):
        return any(is_assignable(given, member) for member in get_args(wanted))
    if get_origin(wanted) is Literal:
        return get_origin(given) is not Literal or set(get_args(given)) <= set(get_args(wanted))
    if get_origin(given) is Literal:
        return all(is_assignable(type(value), wanted) for value in get_args(given))
    return _is_subclass(given, wanted)


def shown_type(annotation: Any) -> str:
    """Return a type as people write it."""
    if inspect.isclass(annotation) and not parts_of(annotation)[1]:
        return annotation.__name__
    return _MODULES.sub("", str(annotation))


def _is_subclass(given: Any, wanted: Any) -> bool:
    ours, our_items = parts_of(given)
    theirs, their_items = parts_of(wanted)
    ours, theirs = ours or given, theirs or wanted
    if not inspect.isclass(ours) or not inspect.isclass(theirs) or is_typeddict(ours) or is_typeddict(theirs):
        return True
    if getattr(theirs, "_is_protocol", False):
        return True
    promotes = any(issubclass(ours, one) and issubclass(other, theirs) for one, other in _PROMOTED)
    if not issubclass(ours, theirs) and not promotes:
        return False
    if ours is not theirs or len(our_items) != len(their_items):
        return True
    pairs = zip(our_items, their_items, strict=True)
    return all(is_assignable(one, other) or is_assignable(other, one) for one, other in pairs)


def _bare(annotation: Any) -> Any:
    """Return a type without what only validation adds, and None as its class."""
    while True:
        if annotation is None:
            return types.NoneType
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in {Union, types.UnionType}
