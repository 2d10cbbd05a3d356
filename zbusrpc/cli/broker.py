"""`zbusrpc broker`: a broker in a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from typing import Final

from structlog.contextvars import bind_contextvars

from zbusrpc.broker.access.rights import Access
from zbusrpc.broker.access.token_file import is_readable_by_others, read_tokens
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.enclosing import TOPICS_DIRECTORY
from zbusrpc.cli.parent import Parent
from zbusrpc.cli.shell import announce, calm_collector, run, stop_event
from zbusrpc.config import DATA_DIR, Settings
from zbusrpc.errors import ConfigError
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.address import TLS_SCHEME, Address, parse_addresses
from zbusrpc.transport.tls import certificates_in, expiry_of_chain, renew_certificate, server_context
from zbusrpc.version import __version__

log = get_logger("broker")

ZBUS_SCHEME: Final = "zbus://"
"""Before the address of a tracker of zbus."""
NODE_PREFIX: Final = "node-"
"""Before the number of a node, in the name of its directory."""
JOIN_S: Final = 10.0
"""How long a node waits for the others before it says that it is ready, and JOIN_NODE_S more for each of them: far more
than they need to start and to find each other."""
JOIN_NODE_S: Final = 1.0
JOIN_POLL_S: Final = 0.02


def make_server(settings: Settings) -> Server:
    """Return a broker with the bounds and rules that the settings name.

    Raises:
        ConfigError: a file or directory that they name cannot be used, or they would open the broker to everybody.
    """
    check_exposure(settings)
    if settings.nodes == 1:
        _check_directory(data_dir_of(settings))
    limits = Limits(
        queue_calls_max=settings.queue_calls_max,
        queued_bytes_max=settings.queued_bytes_max,
        connections_per_address_max=settings.connections_per_address_max,
    )
    trackers, zbus_trackers = parse_trackers(settings.tracker)
    tls = None
    if settings.tls_cert is not None:
        tls = server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        _note_expiry(settings.tls_cert)
    return Server(
        limits=limits,
        message_bytes_max=settings.message_bytes_max,
        idle_s=settings.idle,
        data_dir=data_dir_of(settings),
        durability=Durability(settings.durability),
        access=_read_access(settings),
        tls=tls,
        allow_origins=settings.allow_origins,
        advertise=settings.advertise,
        certificate=certificates_in(settings.tls_cert) if settings.tls_cert is not None else "",
        trackers=trackers,
        zbus_trackers=zbus_trackers,
        is_tracker_only=settings.tracker_only,
    )


def parse_trackers(text: str) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """Return the trackers that `text` names, and those of zbus, which are written with `zbus://`.

    Raises:
        ConfigError: one of them is no address; the text names it.
    """
    parts = [part.strip() for part in text.replace(",", ";").split(";") if part.strip()]
    native = [part for part in parts if not part.startswith(ZBUS_SCHEME)]
    of_zbus = [part.removeprefix(ZBUS_SCHEME) for part in parts if part.startswith(ZBUS_SCHEME)]
    for part in of_zbus:
        if part.startswith(TLS_SCHEME):
            raise ConfigError(
                f"{ZBUS_SCHEME}{part}: trackers of zbus are reported to without TLS; leave {TLS_SCHEME} away"
            )
    return tuple(parse_addresses(part)[0] for part in native), tuple(parse_addresses(part)[0] for part in of_zbus)


def check_exposure(settings: Settings) -> None:
    """See that a broker without tokens is for this machine only, unless somebody takes that upon himself.

    Raises:
        ConfigError: it would not be; or there is a key and no certificate.
    """
    if settings.tls_cert is None and (settings.tls_key or settings.tls_client_ca):
        given = "tls_key" if settings.tls_key else "tls_client_ca"
        raise ConfigError(f"{given} is given and tls_cert is not: name the certificate of the broker, too")
    if settings.tokens is None and not settings.insecure and not is_loopback(settings.host):
        raise ConfigError(
            f"a broker on {settings.host} without tokens would let everybody do everything: "
            "make a token (zbusrpc token add) and say --tokens FILE, or say --insecure"
        )


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches what listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def address_of(server: Server) -> str:
    """Return what clients call a broker that has started."""
    return f"{TLS_SCHEME if server.tls else ''}{server.broker.name}"


def run_broker(
    settings: Settings, *, siblings: tuple[str, ...] = (), parent: Parent | None = None, as_json: bool
) -> None:
    """Serve until a signal comes, or until somebody has it drained.

    Args:
        siblings: Addresses of all nodes, where this is one that `nodes.py` keeps.
        parent: The process that does so.
    """
    if siblings:
        bind_contextvars(node=settings.port)  # they all log to the same place
    run(_run(settings, siblings, parent, as_json=as_json))


async def _run(settings: Settings, siblings: tuple[str, ...], parent: Parent | None, *, as_json: bool) -> None:
    server = make_server(settings)
    await server.start(settings.host, settings.port)
    calm_collector()
    stop = stop_event()
    server.broker.on_drain = stop.set
    reload_on_signal(server, settings)
    if parent is not None:
        parent.stop_with(stop)
        await _announce_node(server, siblings, parent, stop)
    else:
        _announce(server, settings, as_json=as_json)
    await stop.wait()
    if calls := server.broker.unfinished():
        hint = "another Ctrl-C or SIGTERM ends it now"
        log.info("broker.waits_for_calls", calls=calls, seconds_max=settings.grace, hint=hint)
    await server.close(settings.grace)


def _announce(server: Server, settings: Settings, *, as_json: bool) -> None:
    address = address_of(server)
    url = f"http{'s' if server.tls else ''}://{server.broker.name}"
    about = [
        f"  call with    curl {url}/rpc/<service>/<method>/<value>",
        describe_storage(server.data_dir, settings.durability),
    ]
    lines = [
        f"zbusrpc {__version__} broker at {address} (native, zbus, HTTP and WebSocket on one port)",
        *(["  tracks       other brokers, and has no topics itself"] if settings.tracker_only else about),
        *([f"  reports to   {settings.tracker}"] if settings.tracker else []),
        f"  look at      {url}/",
        *describe_access(settings),
        "  stop with    Ctrl-C",
    ]
    facts = {"broker": address, "durability": settings.durability, "data_dir": server.data_dir}
    announce(facts, lines, as_json=as_json)
    note_unseen(server.data_dir, 1)


async def _announce_node(server: Server, siblings: tuple[str, ...], parent: Parent, stop: asyncio.Event) -> None:
    """Tell the parent that this node is there, and again when it lists all the others, or after a while."""
    parent.tell({"event": "listening"})
    tracker = server.hub.tracker
    others = set(siblings) - {tracker.own.address}
    now = asyncio.get_running_loop().time
    until = now() + JOIN_S + JOIN_NODE_S * len(siblings)
    while others - tracker.registry.servers.keys() and now() < until:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), JOIN_POLL_S)
            return
    missing = sorted(others - tracker.registry.servers.keys())
    parent.tell({"event": "ready", "broker": address_of(server), "missing": missing}, is_last=True)


# -- who may do what -----------------------------------------------------------------------------------------


def reload_on_signal(server: Server, settings: Settings) -> None:
    """Read tokens and certificate again on SIGHUP, where there are any; in the background it ends no broker.

    What cannot be used is logged, and the old ones stay in force.
    """
    on_hangup(settings, partial(_reload, server, settings))


def on_hangup(settings: Settings, act: Callable[[], None]) -> None:
    """Do something on SIGHUP, unless that is to end the process: of a terminal that closes, where no file is read."""
    has_files = settings.tokens is not None or settings.tls_cert is not None
    if sys.platform != "win32" and (has_files or not sys.stdin.isatty()):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, act)


def _reload(server: Server, settings: Settings) -> None:
    try:
        access = _read_access(settings)
        if server.tls is not None and settings.tls_cert is not None:
            renew_certificate(server.tls, settings.tls_cert, settings.tls_key)
            server.hub.certificate = certificates_in(settings.tls_cert)
            _note_expiry(settings.tls_cert)
    except ConfigError as error:
        log.error("broker.reload_failed", reason=str(error))
        return
    if access is not None:
        server.replace_access(access)
    log.info("broker.reloaded", tokens=settings.tokens, tls_cert=settings.tls_cert)


def _read_access(settings: Settings) -> Access | None:
    if settings.tokens is None:
        return None
    access = read_tokens(settings.tokens).access()
    if is_readable_by_others(settings.tokens):
        log.warning("broker.tokens_readable", file=settings.tokens, fix=f"chmod o-r {settings.tokens}")
    if settings.tls_cert is None and not is_loopback(settings.host):
        log.warning("broker.tokens_unencrypted", host=settings.host, fix="say --tls-cert FILE")
    return access


def _note_expiry(tls_cert: str) -> None:
    """Log that a certificate holds no more: no client that checks it will connect."""
    expiry = expiry_of_chain(certificates_in(tls_cert))
    if expiry is not None and expiry < datetime.now(UTC):
        fix = "renew it, then send SIGHUP"
        log.warning("broker.certificate_expired", tls_cert=tls_cert, expired=expiry.isoformat(), fix=fix)


def describe_access(settings: Settings) -> list[str]:
    """Return the line that says who may do what, where that is not everybody on this machine."""
    if settings.tokens is not None:
        return [f"  access       by the tokens in {settings.tokens}; after a change: kill -HUP {os.getpid()}"]
    return [] if is_loopback(settings.host) else ["  access       everybody may do everything (--insecure)"]


# -- what is stored ------------------------------------------------------------------------------------------


def data_dir_of(settings: Settings) -> str | None:
    """Return where topics are stored, if anywhere: by default where the broker was started, if it may write there."""
    if settings.tracker_only:
        return None
    if settings.data_dir is not None:
        return settings.data_dir or None
    may_write = os.access(DATA_DIR if os.path.isdir(DATA_DIR) else os.curdir, os.W_OK)
    return DATA_DIR if settings.port and may_write else None


def _check_directory(data_dir: str | None) -> None:
    """See that the directory of one broker is not that of several, whose topics it would not see.

    Raises:
        ConfigError: it is.
    """
    names: list[str] = []
    if data_dir is not None:
        with suppress(OSError):  # who opens it says what is wrong with it
            names = os.listdir(data_dir)
    nodes = [name for name in names if name.startswith(NODE_PREFIX)]
    if nodes and TOPICS_DIRECTORY not in names:
        raise ConfigError(
            f"{data_dir} has the topics of {len(nodes)} nodes, which one broker would not see: "
            f"say --nodes {len(nodes)}, or name another --data-dir"
        )


def note_unseen(data_dir: str | None, nodes: int) -> None:
    """Log which directories of nodes nobody has open, because there were more of them once."""
    own = {f"{NODE_PREFIX}{index}" for index in range(nodes if nodes > 1 else 0)}
    found = os.listdir(data_dir) if data_dir is not None and os.path.isdir(data_dir) else []
    unseen = sorted(name for name in found if name.startswith(NODE_PREFIX) and name not in own)
    if unseen:
        log.warning("broker.data_unseen", data_dir=data_dir, nodes=unseen, fix="say --nodes as before")


def describe_storage(data_dir: str | None, durability: str) -> str:
    """Return the line that says what is kept where."""
    if data_dir is None:
        return "  topics       are not stored; start with --data-dir DIR for that"
    return f"  topics       in {os.path.abspath(data_dir)}, durability {durability}; calls are not kept over a restart"
