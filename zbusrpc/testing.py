"""For tests of services: a real broker and real service instances inside the test's own event loop.

    from zbusrpc.testing import running

    async def test_adds() -> None:
        async with running(Calc) as calc:
            assert await calc.add(1, 2) == 3

Calls travel as they do in production, through the wire format and a broker on a free port of the loopback, so that
validation, errors, deadlines and cancellation behave as they will; it takes a few milliseconds. Several services meet
at one broker of `running_broker`:

    async with running_broker() as broker, running(Calc, broker=broker) as calc, running(Bank, broker=broker) as bank:
        ...

A service under test that itself calls `connect(Calc)` finds that broker by `ZBUSRPC_BROKER`; with pytest:
`monkeypatch.setenv("ZBUSRPC_BROKER", broker)`. A `def` method of the proxy blocks, so a test that is a coroutine writes
`await aio(calc.factor)(91)`.

Promises: when a block is left, no task that it started runs any more, and connections to its broker are closed. A
thread in the middle of a `def` method cannot be stopped and runs to its end.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, overload

from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.cluster.blocking import close_blocking_callers
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.config import MESSAGE_BYTES_MAX
from zbusrpc.errors import UsageError
from zbusrpc.service.checks import check_whole
from zbusrpc.service.client import connect
from zbusrpc.service.definition import is_service
from zbusrpc.service.lifespan import hosted
from zbusrpc.service.worker import Worker
from zbusrpc.transport.address import parse_addresses

T = TypeVar("T")

HOST = "127.0.0.1"


@overload
def running(
    service: type[T],
    /,
    *,
    broker: str | None = None,
    instances: int = 1,
    concurrency: int | None = None,
    grace: float = 0.0,
    dev: bool = False,
) -> AbstractAsyncContextManager[T]: ...
@overload
def running(
    service: Callable[[], T],
    /,
    *,
    broker: str | None = None,
    instances: int = 1,
    concurrency: int | None = None,
    grace: float = 0.0,
    dev: bool = False,
) -> AbstractAsyncContextManager[T]: ...
@overload
def running(
    service: T,
    /,
    *,
    broker: str | None = None,
    instances: int = 1,
    concurrency: int | None = None,
    grace: float = 0.0,
    dev: bool = False,
) -> AbstractAsyncContextManager[T]: ...
def running(
    service: Any,
    /,
    *,
    broker: str | None = None,
    instances: int = 1,
    concurrency: int | None = None,
    grace: float = 0.0,
    dev: bool = False,
) -> AbstractAsyncContextManager[Any]:
    """Serve in this event loop, and yield a proxy that calls what is served.

    Args:
        service: A service class, a factory of one without arguments, or an instance. A context manager is entered
            before it serves, and left after its last call.
        broker: Broker to serve at, as `host:port`; by default one of its own, which ends with the block.
        instances: How many instances share the calls; more than one need a class or a factory.
        concurrency: Calls that an instance works on at a time; by default what the service says.
        grace: Seconds that calls under way get to finish when the block is left.
        dev: Whether callers get the traceback of an unexpected error.

    Raises:
        DefinitionError: `service` is no service and makes none.
        LinkError: `broker` cannot be reached.
        UsageError: the event loop is not asyncio's, or there are to be several of one instance.
    """
    check_whole("running(instances", instances, 1, None)
    if concurrency is not None:
        check_whole("running(concurrency", concurrency, 1, None)
    if instances > 1 and is_service(type(service)):
        raise UsageError(
            f"instances={instances} needs a class or a factory, not one instance of {type(service).__name__}"
        )
    return _running(service, broker, instances, grace, {"concurrency": concurrency, "dev": dev})


@asynccontextmanager
async def running_broker(
    *,
    limits: Limits | None = None,
    message_bytes_max: int = MESSAGE_BYTES_MAX,
    data_dir: str | os.PathLike[str] | None = None,
    port: int = 0,
) -> AsyncIterator[str]:
    """Run a broker in this event loop on a free port of the loopback, and yield its address as `host:port`.

    Args:
        limits: Bounds of its queues, for tests of what happens when they are full.
        message_bytes_max: Largest request or reply.
        data_dir: Where stored topics are kept, for example pytest's `tmp_path`; without one there are none.
        port: Port to listen on, for a broker that comes back where it was.

    Raises:
        UsageError: the event loop is not asyncio's.
        ConfigError: the directory is in use.
    """
    _check_loop()
    directory = None if data_dir is None else os.fspath(data_dir)
    server = Server(limits=limits, message_bytes_max=message_bytes_max, data_dir=directory)
    address = await server.start(HOST, port)
    try:
        yield address
    finally:
        await close_fleets(parse_addresses(address))
        await close_blocking_callers(parse_addresses(address))
        await server.close()


@asynccontextmanager
async def _running(
    service: Any, broker: str | None, instances: int, grace: float, options: dict[str, Any]
) -> AsyncIterator[Any]:
    _check_loop()
    async with AsyncExitStack() as stack:
        address = broker if broker else await stack.enter_async_context(running_broker())
        for _ in range(instances):
            definition, instance = await stack.enter_async_context(hosted(service))
            worker = Worker(definition, instance, parse_addresses(address), **options)
            await worker.start()
            stack.push_async_callback(worker.close, grace)
        yield connect(type(instance), broker=address)


def _check_loop() -> None:
    if asyncio._get_running_loop() is None:
        raise UsageError(
            "zbusrpc runs on asyncio, and this is another event loop; for anyio's pytest plugin define a fixture "
            "anyio_backend that returns 'asyncio'"
        )
