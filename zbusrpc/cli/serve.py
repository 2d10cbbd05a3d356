"""`zbusrpc serve`: services in this process, or in several, with a broker in it if there is none."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import Any

from zbusrpc.broker.server import Server
from zbusrpc.cli.broker import make_server
from zbusrpc.cli.loading import load
from zbusrpc.cli.shell import announce, run, stop_event
from zbusrpc.config import DEFAULT_BROKER, DEFAULT_PORT, Settings
from zbusrpc.errors import ConfigError
from zbusrpc.service.definition import Definition
from zbusrpc.service.hosting import hosted, make_instance
from zbusrpc.service.worker import Worker
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import parse_addresses
from zbusrpc.version import __version__

RESPAWN_S = 1.0
"""Wait before a worker process that died is started again: one that cannot start must not spin."""
PROBE_TIMEOUT_S = 1.0

log = get_logger("serve")


def run_serve(targets: list[str], settings: Settings, *, as_json: bool) -> None:
    """Serve until a signal comes."""
    loaded = [load(target) for target in targets]
    if settings.workers > 1:
        run(_serve_in_processes(targets, settings, as_json=as_json))
    else:
        run(_serve(loaded, settings, as_json=as_json))


async def _serve(loaded: list[Any], settings: Settings, *, as_json: bool) -> None:
    embedded = await _embed_broker(settings)
    address = embedded.broker.name if embedded else settings.broker
    stop = stop_event()
    workers: list[Worker] = []
    try:
        async with AsyncExitStack() as stack:
            for target in loaded:
                definition, instance = await stack.enter_async_context(hosted(target))
                worker = Worker(
                    definition,
                    instance,
                    parse_addresses(address),
                    concurrency=settings.concurrency,
                    dev=settings.dev,
                )
                await worker.start()
                workers.append(worker)
            _announce(workers, address, is_embedded=embedded is not None, as_json=as_json)
            await stop.wait()
            await asyncio.gather(*[worker.close(settings.grace) for worker in workers])
            stuck = [worker.definition.name for worker in workers if worker.has_stuck_threads]
            workers.clear()
    finally:
        for worker in workers:
            await worker.close()
        if embedded is not None:
            await embedded.close(settings.grace)
    if stuck:
        log.warning("serve.threads_left", services=stuck)
        os._exit(0)  # Python would wait for their threads for ever


async def _embed_broker(settings: Settings) -> Server | None:
    """Start a broker here if none was named and none is running; a race for the port is nobody's loss."""
    if settings.broker != DEFAULT_BROKER or await _is_listening("localhost", DEFAULT_PORT):
        return None
    server = make_server(settings)
    try:
        await server.start("127.0.0.1", DEFAULT_PORT)
    except ConfigError:
        return None
    return server


async def _is_listening(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _announce(workers: list[Worker], address: str, *, is_embedded: bool, as_json: bool) -> None:
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
    announce(facts, lines, as_json=as_json)


def _describe(definition: Definition, concurrency: int) -> dict[str, Any]:
    return {
        "service": definition.name,
        "version": definition.version,
        "methods": list(definition.methods),
        "concurrency": concurrency,
    }


# -- several processes ---------------------------------------------------------------------------------------


async def _serve_in_processes(targets: list[str], settings: Settings, *, as_json: bool) -> None:
    """Run the services in `workers` processes, and start again those that die."""
    for target in targets:
        make_instance(load(target))  # a mistake is shown once, here
    embedded = await _embed_broker(settings)
    address = embedded.broker.name if embedded else settings.broker
    stop = stop_event()
    command = [sys.executable, "-m", "zbusrpc", "serve", *targets, "--broker", address, "--workers", "1", "--json"]
    command += ["--grace", str(settings.grace), "--log-level", settings.log_level]
    if settings.concurrency:
        command += ["--concurrency", str(settings.concurrency)]
    if settings.dev:
        command += ["--dev"]
    if settings.log_json is not None:
        command += ["--log-json" if settings.log_json else "--log-text"]
    keepers = [asyncio.create_task(_keep_running(command, stop)) for _ in range(settings.workers)]
    text = f"zbusrpc {__version__}: {settings.workers} processes serve {', '.join(targets)} at broker {address}"
    announce({"targets": targets, "workers": settings.workers, "broker": address}, [text], as_json=as_json)
    await asyncio.gather(*keepers)
    if embedded is not None:
        await embedded.close(settings.grace)


async def _keep_running(command: list[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            os.kill(process.pid, signal.SIGTERM)
            await ended
        elif not stop.is_set():
            log.warning("serve.worker_died", pid=process.pid, exit_code=process.returncode)
            await asyncio.wait({stopped}, timeout=RESPAWN_S)
        stopped.cancel()
