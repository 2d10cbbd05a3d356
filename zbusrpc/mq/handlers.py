"""Handlers: functions that messages are given to, several at a time, and whose outcome is the answer.

A handler that returns has handled its message, one that raises has not. `async def` handlers run in the event loop,
others in threads. The lease of a message is renewed while its handler works, however long that takes.
"""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from zbusrpc.errors import RpcError
from zbusrpc.mq.message import ReceivedMessage
from zbusrpc.telemetry import get_logger

T = TypeVar("T")

Handler = Callable[[ReceivedMessage[T]], object]
"""Returns anything, or an awaitable of anything."""

log = get_logger("consumer")


async def run_handlers(messages: AsyncIterator[ReceivedMessage[T]], handler: Handler[T], concurrency: int) -> None:
    """Give each message to a handler, so many at a time, until there are no more.

    Raises:
        RpcError: what ended the messages; handlers that run have finished.
        asyncio.CancelledError: handlers that ran were cancelled, their messages not answered. Threads go on.
    """
    threads: ThreadPoolExecutor | None = None
    if not _is_async(handler):
        threads = ThreadPoolExecutor(concurrency, thread_name_prefix="zbusrpc-consumer")

    async def work() -> None:
        async for message in messages:
            await _handle(message, handler, threads)

    try:
        outcomes = await asyncio.gather(*[work() for _ in range(concurrency)], return_exceptions=True)
    finally:
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


async def _handle(message: ReceivedMessage[T], handler: Handler[T], threads: ThreadPoolExecutor | None) -> None:
    message.keep()
    try:
        if threads is None:
            result = handler(message)
        else:
            act = functools.partial(contextvars.copy_context().run, handler, message)
            result = await asyncio.get_running_loop().run_in_executor(threads, act)
        if isinstance(result, Awaitable):
            await result
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        message.nack_nowait(reason="the handler cancelled itself")
    except RpcError as error:  # what the handler says on purpose, or was told by a service
        log.warning("consumer.handler_failed", message=repr(message), reason=str(error))
        message.nack_nowait(reason=str(error))
    except Exception as error:
        log.warning("consumer.handler_failed", message=repr(message), exc_info=True)
        message.nack_nowait(reason=f"{type(error).__name__}: {error}")
    else:
        message.ack_nowait()
    finally:
        message.let_go()


def _is_async(handler: object) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004
