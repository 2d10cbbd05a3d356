"""`zbusrpc broker --nodes N`: brokers in processes of their own, one for each core, which track one another.

Node 0 listens on the port that is named, the others on those that follow, and each has a directory of its own in the
data directory, `node-0`, `node-1` and so on. They take the settings that this process has. It keeps them (see
`children.py`) and is no broker itself: clients find all nodes by any of them.
"""

import asyncio
import os
import signal
import sys
from typing import Any, Final, TextIO

from zbusrpc.broker.access.rights import Access, Operation
from zbusrpc.broker.listeners.advertise import advertised
from zbusrpc.broker.listeners.tls_listener import listening_sockets
from zbusrpc.broker.storage.enclosing import TOPICS_DIRECTORY
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.lock import lock_directory
from zbusrpc.cli.broker import (
    NODE_PREFIX,
    data_dir_of,
    describe_access,
    describe_storage,
    make_server,
    note_unseen,
    on_hangup,
)
from zbusrpc.cli.children import Child, kill_all, signal_all, usable_cores
from zbusrpc.cli.shell import announce, fail, reserve_output, run, stop_event
from zbusrpc.config import Settings, client_security, environment_of
from zbusrpc.errors import ConfigError
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import TLS_SCHEME
from zbusrpc.version import __version__

PORT_MAX: Final = 65535

log = get_logger("broker")


def run_nodes(settings: Settings, *, as_json: bool) -> None:
    """Keep the nodes until a signal comes, or until the last of them has been drained."""
    run(_run(settings, as_json=as_json, out=reserve_output() if as_json else sys.stdout))


async def _run(settings: Settings, *, as_json: bool, out: TextIO) -> None:
    data_dir = await check(settings)
    ports = await _free_ports(settings)
    children = _children(settings, ports, data_dir)
    stop = stop_event(lambda: kill_all(children))
    on_hangup(settings, lambda: signal_all(children, signal.SIGHUP))
    keepers = [asyncio.create_task(child.keep(stop)) for child in children]
    ready = [facts for facts in [await child.ready for child in children] if facts is not None]
    if len(ready) == len(children):
        _announce(settings, ready, data_dir, as_json=as_json, out=out)
    await asyncio.gather(*keepers)
    _fail_as(children)


# -- mistakes, which are told once, here ---------------------------------------------------------------------


async def check(settings: Settings) -> str | None:
    """See that nodes could start with these settings, and return where they store, if anywhere.

    Raises:
        ConfigError: they could not.
    """
    access = make_server(settings).access
    if settings.advertise is not None and ":" in settings.advertise.rpartition("]")[2]:
        host = settings.advertise.rpartition(":")[0]
        raise ConfigError(
            f"--advertise {settings.advertise} names a port, and each of {settings.nodes} nodes has its own: "
            f"say --advertise {host}"
        )
    if settings.port and settings.port + settings.nodes - 1 > PORT_MAX:
        raise ConfigError(f"--port {settings.port} with --nodes {settings.nodes}: ports end at {PORT_MAX}")
    if access is not None:
        _check_token(access)
    data_dir = data_dir_of(settings)
    if data_dir is not None:
        _check_directory(data_dir, settings.nodes)
    return data_dir


def _check_token(access: Access) -> None:
    rights = access.rights_of(client_security().token.get_secret_value())
    if rights is None or not rights.allows(Operation.TRACK_PUB):
        raise ConfigError(
            "nodes report to one another, with the token in ZBUSRPC_TOKEN: set it to one that may track_pub "
            "(zbusrpc token add nodes --operations track_pub)"
        )


def _check_directory(data_dir: str, nodes: int) -> None:
    if os.path.isdir(os.path.join(data_dir, TOPICS_DIRECTORY)):
        first = _directory(data_dir, 0)
        place = "a directory of its own, beside those of the nodes" if os.path.isdir(first) else first
        raise ConfigError(
            f"{data_dir} has the topics of one broker, which no node would see: "
            f"move its topics and journal to {place}, or name another --data-dir"
        )
    try:
        for index in range(nodes):
            lock_directory(_directory(data_dir, index)).close()
    except StorageError as error:
        raise ConfigError(str(error)) from None


async def _free_ports(settings: Settings) -> list[int]:
    """Return the ports of the nodes, on which nobody listens now.

    Raises:
        ConfigError: somebody does.
    """
    wanted = [settings.port + index if settings.port else 0 for index in range(settings.nodes)]
    sockets = []
    try:
        for port in wanted:
            try:
                sockets.append(await listening_sockets(settings.host, port, 1))
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise ConfigError(f"cannot listen on {settings.host}:{port}: {reason}") from None
        return [of_port[0].getsockname()[1] for of_port in sockets]
    finally:
        for of_port in sockets:
            for one in of_port:
                one.close()


# -- the nodes -----------------------------------------------------------------------------------------------


def _children(settings: Settings, ports: list[int], data_dir: str | None) -> list[Child]:
    scheme = TLS_SCHEME if settings.tls_cert is not None else ""
    addresses = [f"{scheme}{advertised(settings.advertise, settings.host, port)}" for port in ports]
    cores = usable_cores()
    found = []
    for index, port in enumerate(ports):
        own = {
            "nodes": 1,
            "port": port,
            "data_dir": "" if data_dir is None else _directory(data_dir, index),
            "tracker": ";".join([*addresses, *([settings.tracker] if settings.tracker else [])]),
        }
        command = [sys.executable, "-m", "zbusrpc", "broker", "--port", str(port), "--siblings", ";".join(addresses)]
        environment = os.environ | environment_of(settings.model_copy(update=own))
        core = cores[index % len(cores)] if cores else None
        found.append(Child(command, what="broker.node", env=environment, core=core, is_node=True))
    return found


def _directory(data_dir: str, index: int) -> str:
    return os.path.join(data_dir, f"{NODE_PREFIX}{index}")


def _announce(
    settings: Settings, ready: list[dict[str, Any]], data_dir: str | None, *, as_json: bool, out: TextIO
) -> None:
    brokers = [facts["broker"] for facts in ready]
    missing = {facts["broker"]: facts["missing"] for facts in ready if facts["missing"]}
    if missing:
        fix = "tracker.unreachable says why; with TLS, nodes trust what ZBUSRPC_TLS_CA names"
        log.warning("broker.nodes_apart", missing=missing, fix=fix)
    note_unseen(data_dir, settings.nodes)
    directories = None if data_dir is None else f"{_directory(data_dir, 0)} to {NODE_PREFIX}{settings.nodes - 1}"
    lines = [
        f"zbusrpc {__version__}: {settings.nodes} brokers that track one another (all protocols on each port)",
        *[f"  broker       {broker}" for broker in brokers],
        *([] if settings.tracker_only else [describe_storage(directories, settings.durability)]),
        *describe_access(settings),
        "  stop with    Ctrl-C; one of them: zbusrpc broker drain HOST:PORT",
    ]
    facts = {
        "broker": ";".join(brokers),
        "brokers": brokers,
        "nodes": settings.nodes,
        "durability": settings.durability,
        "data_dir": data_dir,
    }
    announce(facts, lines, as_json=as_json, out=out)


def _fail_as(children: list[Child]) -> None:
    """Exit with 1 where a node could not start: it has said why, unless something else has ended it."""
    failures = [child.failure for child in children if child.failure is not None]
    if any(code != 1 for code in failures):
        fail(f"a node ended before it was ready, with exit code {next(code for code in failures if code != 1)}")
    if failures:
        raise SystemExit(1)
