"""Hosting: from what a user names (a class, an instance, a factory) to a running service instance.

A class is instantiated and a factory, `def` or `async def`, called without arguments. An instance that is an (async)
context manager is entered before it serves and left after its last call has ended.
"""

import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from zbusrpc.errors import DefinitionError
from zbusrpc.service.definition import Definition, define, is_service


@asynccontextmanager
async def hosted(target: Any) -> AsyncIterator[tuple[Definition, object]]:
    """Enter the service that `target` is, and yield its definition and instance.

    Raises:
        DefinitionError: it is no service and makes none.
    """
    instance = await make_instance(target)
    definition = define(type(instance))
    async with AsyncExitStack() as stack:
        entered: Any = instance
        if hasattr(type(instance), "__aenter__"):
            entered = await stack.enter_async_context(instance)  # type: ignore[arg-type]
        elif hasattr(type(instance), "__enter__"):
            entered = stack.enter_context(instance)  # type: ignore[arg-type]
        yield definition, entered if isinstance(entered, type(instance)) else instance


def check_target(target: Any) -> None:
    """See that `target` is a service, or could make one, without making it.

    Raises:
        DefinitionError: it is none and makes none; what a factory returns is not known yet.
    """
    name = _name_of(target)
    if not inspect.isclass(target):
        if not is_service(type(target)) and not callable(target):
            raise DefinitionError(f"{name} is no service: put @service above its class")
        return
    define(target)
    if missing := sorted(getattr(target, "__abstractmethods__", ())):
        raise DefinitionError(f"{name} is abstract ({', '.join(missing)}); serve a subclass of it that has them")
    try:
        inspect.signature(target).bind()
    except TypeError as error:
        raise DefinitionError(
            f"{name} cannot be made without arguments ({error}); name an instance or a factory instead"
        ) from None


async def make_instance(target: Any) -> object:
    """Return the instance of a service class, of a factory, or `target` itself.

    Raises:
        DefinitionError: it is no service and makes none.
    """
    check_target(target)
    if inspect.isclass(target):
        return target()
    if is_service(type(target)):
        return target
    made = target()
    if inspect.isawaitable(made):
        made = await made
    if not is_service(type(made)):
        raise DefinitionError(f"{_name_of(target)}() returned {type(made).__name__}, which is no service")
    return made


def _name_of(target: Any) -> str:
    return getattr(target, "__name__", type(target).__name__)
