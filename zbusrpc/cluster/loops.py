"""Event loops and what belongs to them: it is closed just before its loop is, and forgotten with a loop that is lost.

    belongings_of(loop) ──> what it has, by key ──> `loop.close()`: all of it is closed, then the loop

A program may run a hundred thousand event loops one after the other (`asyncio.run` for each request), with one call in
each. asyncio has no hook for the end of a loop, so the `close` of those that have anything is replaced by one that
does its work before. `asyncio.run` has cancelled all tasks by then; who ends a loop by hand mostly has not.

A loop that is dropped without being closed is garbage together with all that belongs to it, in no order: nothing runs
there any more, and what stays open is closed by asyncio, which warns of it.

Promises: nothing here keeps a loop alive; closing waits for no peer; a forked child closes nothing of its parent.
"""

import asyncio
import os
import weakref
from collections.abc import Coroutine, Hashable
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

TURNS: Final = 2
"""Of the loop, after the last word of a connection: the first closes its transport, the second its socket."""
_NAME: Final = "_zbusrpc_belongings"


class Belongings(dict[Hashable, Any]):
    """What belongs to one event loop, by whatever names it.

    Each has `close`, which ends it in that loop, and `forget`, which ends it in a forked child without touching what
    belongs to the parent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = weakref.ref(loop)
        self._close_loop = loop.close

    __hash__ = object.__hash__  # type: ignore[assignment]  # for the set of all: each is equal to itself alone

    def close_loop(self) -> None:
        """Close all there is, and then the loop: what `loop.close` is while there are belongings."""
        loop = self._loop()
        if loop is None:  # it was dropped, and closes itself while it is cleared away
            self.clear()
            self._close_loop()
            return
        if loop.is_running():
            self._close_loop()  # says that this cannot be
            return
        try:
            if self and not loop.is_closed() and asyncio._get_running_loop() is None:
                loop.run_until_complete(self._close_all())
        finally:
            self.clear()
            with suppress(AttributeError):
                delattr(loop, "close")  # which leads to the loop, and would keep it until it is found to be garbage
            self._close_loop()

    async def _close_all(self) -> None:
        """Close what belongs to the loop; whatever else is due there may run once more or twice."""
        await asyncio.gather(*[one.close() for one in self.values()], return_exceptions=True)
        for _ in range(TURNS):
            await asyncio.sleep(0)


def belongings_of(loop: asyncio.AbstractEventLoop) -> Belongings:
    """Return what belongs to a loop; it may be added to, and taken from."""
    found: Belongings | None = getattr(loop, _NAME, None)
    if found is None:
        found = Belongings(loop)
        setattr(loop, _NAME, found)
        setattr(loop, "close", found.close_loop)  # noqa: B010 - as `loop.close = ...`, which mypy takes for a mistake
        _all.add(found)
    return found


def begin(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin a task that serves a loop until the loop ends: asyncio says nothing when both are dropped together."""
    task = loop.create_task(main)
    with suppress(AttributeError):  # a program may have tasks of its own kind
        setattr(task, "_log_destroy_pending", False)  # noqa: B010 - as asyncio has it for its own; mypy knows it not
    return task


_all: weakref.WeakSet[Belongings] = weakref.WeakSet()
_inherited: list[Any] = []
"""What a forked child got from its parent: it must not be closed here, nor collected, which would close it."""


def _forget_in_child() -> None:
    for belongings in list(_all):
        _inherited.append((belongings._loop(), dict(belongings)))
        for one in belongings.values():
            one.forget()
        belongings.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
