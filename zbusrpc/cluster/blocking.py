"""Blocking calls: a coroutine run to its end from a thread that has no event loop.

All of them share one background thread with an event loop (anyio's blocking portal), so that 64 threads may call
through one connection. A forked child starts a thread of its own.
"""

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.errors import UsageError
from zbusrpc.transport.address import Address

R = TypeVar("R")

_lock = threading.Lock()
_portal: BlockingPortal | None = None
_keeper: AbstractContextManager[BlockingPortal] | None = None
_inherited: list[Any] = []


def run_blocking(name: str, function: Callable[..., Awaitable[R]], *args: Any, instead: str = "") -> R:
    """Run `function(*args)` in the background loop and return its result.

    Args:
        name: What is called, for the error.
        instead: What to write where a loop is running.

    Raises:
        UsageError: an event loop is running in this thread, which the call would block; or there are no threads that
            could run it, because the interpreter ends or a library has replaced them.
    """
    if asyncio._get_running_loop() is not None:
        fix = instead or f"await aio({name})(...)"
        raise UsageError(f"{name} blocks, and an event loop is running here; write: {fix}")
    _check_threads(name)
    portal = _portal or _start()
    future = portal.start_task_soon(function, *args)
    try:
        return future.result()
    except BaseException:  # KeyboardInterrupt reaches only the waiting: let go of the call, too
        future.cancel()
        raise


def _check_threads(name: str) -> None:
    """See that the background thread can run: without it a call would wait for ever.

    Raises:
        UsageError: it cannot.
    """
    if sys.is_finalizing():  # no thread but this one runs any more
        raise UsageError(f"{name}: the interpreter ends, and runs no calls; call before that, or by atexit.register")
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        library, fix = "gevent", "monkey.patch_all(thread=False), or workers of threads such as gunicorn -k gthread"
    elif eventlet is not None and eventlet.is_monkey_patched("thread"):
        library, fix = "eventlet", "monkey_patch(thread=False), or workers of threads such as gunicorn -k gthread"
    else:
        return
    raise UsageError(f"{name} blocks, and {library} has replaced the threads that it needs; use {fix}")


async def close_blocking_callers(brokers: tuple[Address, ...]) -> None:
    """Close the connection that blocking calls have opened to `brokers`, from another event loop."""
    if _portal is not None:
        await asyncio.wrap_future(_portal.start_task_soon(close_fleets, brokers))


def _start() -> BlockingPortal:
    global _portal, _keeper  # noqa: PLW0603 - one thread for the process
    with _lock:
        if _portal is None:
            _keeper = start_blocking_portal("asyncio", {"use_uvloop": os.name != "nt"})
            _portal = _keeper.__enter__()
        return _portal


def _stop() -> None:
    global _portal, _keeper
    portal, keeper, _portal, _keeper = _portal, _keeper, None, None
    if portal is not None and keeper is not None:
        portal.call(close_fleets)
        keeper.__exit__(None, None, None)


def _forget_in_child() -> None:
    global _portal, _keeper, _lock  # noqa: PLW0603
    _inherited.append((_portal, _keeper))
    _portal = _keeper = None
    _lock = threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
