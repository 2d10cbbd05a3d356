"""Hosting: from what a user names (a class, an instance, a factory) to a running service instance.

A class is instantiated and a factory called without arguments. An instance that is an (async) context manager is
entered before it serves and left after its last call has ended.
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
    instance = make_instance(target)
    definition = define(type(instance))
    async with AsyncExitStack() as stack:
        entered: Any = instance
        if hasattr(type(instance), "__aenter__"):
            entered = await stack.enter_async_context(instance)  # type: ignore[arg-type]
        elif hasattr(type(instance), "__enter__"):
            entered = stack.enter_context(instance)  # type: ignore[arg-type]
        yield definition, entered if isinstance(entered, type(instance)) else instance


def make_instance(target: Any) -> object:
    """Return the instance of a service class, of a factory, or `target` itself."""
    name = getattr(target, "__name__", type(target).__name__)
    if inspect.isclass(target):
        define(target)
        if missing := sorted(getattr(target, "__abstractmethods__", ())):
            raise DefinitionError(f"{name} is abstract ({', '.join(missing)}); serve a subclass of it that has them")
        try:
            inspect.signature(target).bind()
        except TypeError as error:
            raise DefinitionError(
                f"{name} cannot be made without arguments ({error}); name an instance or a factory instead"
            ) from None
        return target()
    if is_service(type(target)):
        return target
    if callable(target):
        made = target()
        if is_service(type(made)):
            return made
        raise DefinitionError(f"{name}() returned {type(made).__name__}, which is no service")
    raise DefinitionError(f"{name} is no service: put @service above its class")
