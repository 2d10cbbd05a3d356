"""`zbusrpc serve`: services in this process, or in several, with a broker in it if there is none."""

import asyncio
import logging
import os
import sys
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, NoReturn, TextIO

from zbusrpc.broker.assembly.server import Server
from zbusrpc.cli.broker import address_of, make_server
from zbusrpc.cli.children import Child, kill_all
from zbusrpc.cli.loading import load
from zbusrpc.cli.parent import Parent
from zbusrpc.cli.shell import announce, fail, reserve_output, run, stop_event
from zbusrpc.config import DEFAULT_BROKER, Settings
from zbusrpc.errors import ConfigError, LinkError, TokenRefusedError, ZbusError
from zbusrpc.service.definition import Definition
from zbusrpc.service.lifespan import check_target, hosted
from zbusrpc.service.worker import Worker
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import parse_addresses
from zbusrpc.version import __version__

PROBE_TIMEOUT_S = 1.0
SIGNALLED: Final = 128
"""What a shell adds to the number of the signal that has ended a process."""
CALLS_SHOWN_MAX: Final = 8
"""Methods that the line names on which the end waits."""

log = get_logger("serve")


def run_serve(
    targets: list[str], settings: Settings, *, waits: bool = False, parent: Parent | None = None, as_json: bool
) -> None:
    """Serve until a signal comes.

    Args:
        waits: Whether to wait for a broker that is not there yet.
        parent: What keeps this process, and with which it ends.
        as_json: Standard output has the ready line and nothing else: what services print goes to standard error.
    """
    out = reserve_output() if as_json else sys.stdout
    loaded = [load(target) for target in targets]
    if settings.workers > 1:
        for target in loaded:
            check_target(target)  # a mistake is shown once, here
        run(_serve_in_processes(targets, settings, waits=waits, as_json=as_json, out=out))
    else:
        run(_serve(loaded, settings, waits=waits, parent=parent, as_json=as_json, out=out))


async def _enter(stack: AsyncExitStack, target: Any) -> tuple[Definition, Any]:
    """Start a service up.

    Raises:
        ZbusError: it is no service.
        ConfigError: its own code failed; the log has the traceback.
    """
    try:
        return await stack.enter_async_context(hosted(target))
    except ZbusError:
        raise
    except Exception as error:
        name = getattr(target, "__name__", type(target).__name__)
        log.exception("serve.start_failed", service=name)
        raise ConfigError(f"{name} cannot start: {type(error).__name__}: {error}; the log says where") from error


async def _serve(
    loaded: list[Any], settings: Settings, *, waits: bool, parent: Parent | None, as_json: bool, out: TextIO
) -> None:
    embedded = await _embed_broker(settings)
    address = _address(embedded, settings)
    stop = stop_event()
    if parent is not None:
        parent.stop_with(stop)
    workers: list[Worker] = []
    try:
        async with AsyncExitStack() as stack:
            for target in loaded:
                definition, instance = await _enter(stack, target)
                worker = Worker(
                    definition,
                    instance,
                    parse_addresses(address),
                    concurrency=settings.concurrency,
                    dev=settings.dev,
                    logs_calls=settings.access_log,
                )
                workers.append(worker)
                try:
                    await _unless(stop, worker.start(waits=waits))
                except LinkError as error:
                    if waits or isinstance(error, TokenRefusedError):
                        raise
                    raise LinkError(f"{error}, or wait for it with: zbusrpc serve --wait") from None
                worker.refused.add_done_callback(lambda _: stop.set())
            if not stop.is_set():
                _tell_ready(workers, address, parent, is_embedded=embedded is not None, as_json=as_json, out=out)
            await stop.wait()
            _tell_what_is_waited_for(workers, settings.grace)
            await asyncio.gather(*[worker.close(settings.grace) for worker in workers])
            stuck = [worker.definition.name for worker in workers if worker.has_stuck_calls]
            refusals = [worker.refused.result() for worker in workers if worker.refused.done()]
            workers.clear()
    finally:
        for worker in workers:
            await worker.close()
        if embedded is not None:
            await embedded.close(settings.grace)
    if stuck:
        log.warning("serve.calls_left", services=stuck)
        logging.shutdown()
        os._exit(1 if refusals else 0)  # Python would wait for them for ever
    if refusals:
        fail(str(refusals[0]))


async def _unless(stop: asyncio.Event, start: Coroutine[Any, Any, None]) -> None:
    """Wait for a start, unless a signal comes before it is done."""
    starting, stopped = asyncio.ensure_future(start), asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    elif not stop.is_set():
        starting.result()


def _tell_what_is_waited_for(workers: list[Worker], grace_s: float) -> None:
    """Say why the process does not end at once, where calls are under way."""
    calls = Counter(f"{worker.definition.name}.{one.method}" for worker in workers for one in worker.unfinished())
    if calls:
        shown = ", ".join(f"{name} ({count})" for name, count in calls.most_common(CALLS_SHOWN_MAX))
        hint = "another Ctrl-C or SIGTERM ends it now"
        log.info("serve.waits_for_calls", calls=calls.total(), methods=shown, seconds_max=grace_s, hint=hint)


async def _embed_broker(settings: Settings) -> Server | None:
    """Start a broker here if none was named and none is running; a race for the port is nobody's loss."""
    if settings.broker != DEFAULT_BROKER or (settings.port and await _is_listening("localhost", settings.port)):
        return None
    server = make_server(settings)
    try:
        await server.start(settings.host, settings.port)
    except ConfigError:
        if not await _is_listening("localhost", settings.port):
            raise  # for example, the data directory is in use
        return None
    return server


def _address(embedded: Server | None, settings: Settings) -> str:
    """Return where to serve: at the broker that was named, else at the one on this machine, in this process or not."""
    if embedded is not None:
        return address_of(embedded)
    return f"localhost:{settings.port}" if settings.broker == DEFAULT_BROKER else settings.broker


async def _is_listening(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _tell_ready(
    workers: list[Worker], address: str, parent: Parent | None, *, is_embedded: bool, as_json: bool, out: TextIO
) -> None:
    """Say that the services can be called: to the parent, else to people or programs."""
    if parent is not None:
        parent.tell({"event": "ready"}, is_last=True)
        return
    services = [_describe(worker.definition, worker.concurrency) for worker in workers]
    where = f"{address} (started here, ends with this process)" if is_embedded else address
    lines = [f"zbusrpc {__version__}"]
    for service in services:
        version = f" {service['version']}" if service["version"] else ""
        lines += [
            f"  service      {service['service']}{version}, up to {service['concurrency']} calls at a time",
            f"  methods      {', '.join(service['methods'])}",
        ]
    lines += [
        f"  broker       {where}",
        "  durability   memory: calls are not kept over a restart",
        f"  try          zbusrpc call {services[0]['service']}.{services[0]['methods'][0]} ...",
    ]
    facts = {"services": services, "broker": address, "embedded": is_embedded, "durability": "memory"}
    announce(facts, lines, as_json=as_json, out=out)


def _describe(definition: Definition, concurrency: int) -> dict[str, Any]:
    return {
        "service": definition.name,
        "version": definition.version,
        "methods": list(definition.methods),
        "concurrency": concurrency,
    }


# -- several processes ---------------------------------------------------------------------------------------


async def _serve_in_processes(
    targets: list[str], settings: Settings, *, waits: bool, as_json: bool, out: TextIO
) -> None:
    """Run the services in `workers` processes, and start again those that die. This process has no instance itself.

    The first one shows whether they can serve at all: the others are started once it does.
    """
    embedded = await _embed_broker(settings)
    address = _address(embedded, settings)
    command = [sys.executable, "-m", "zbusrpc", "serve", *targets, "--broker", address, "--workers", "1"]
    command += ["--grace", str(settings.grace), "--log-level", settings.log_level]
    if settings.concurrency:
        command += ["--concurrency", str(settings.concurrency)]
    command += ["--dev"] if settings.dev else []
    command += ["--access-log"] if settings.access_log else []
    if settings.log_json is not None:
        command += ["--log-json" if settings.log_json else "--log-text"]
    command += ["--wait"] if waits else []
    first = Child(command, what="serve.worker", says_ready=True)
    children = [first, *[Child(command, what="serve.worker") for _ in range(1, settings.workers)]]
    stop = stop_event(lambda: kill_all(children))
    keepers = [asyncio.create_task(first.keep(stop))]
    if await first.ready is not None:
        keepers += [asyncio.create_task(child.keep(stop)) for child in children[1:]]
        text = f"zbusrpc {__version__}: {settings.workers} processes serve {', '.join(targets)} at broker {address}"
        facts = {"targets": targets, "workers": settings.workers, "broker": address}
        announce(facts, [text], as_json=as_json, out=out)
    await asyncio.gather(*keepers)
    if embedded is not None:
        await embedded.close(settings.grace)
    if first.failure is not None:
        _fail_as(first.failure)


def _fail_as(code: int) -> NoReturn:
    """Exit as a process that could not serve has, or as a shell tells of one that a signal has ended."""
    if code == 1:
        raise SystemExit(1)  # it has said why
    fail(f"a process ended before it served, with exit code {code}", code if code >= 0 else SIGNALLED - code)
