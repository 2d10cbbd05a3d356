"""`zbusrpc broker`: a broker in a process of its own."""

import os

from zbusrpc.broker.limits import Limits
from zbusrpc.broker.server import Server
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.cli.shell import announce, calm_collector, run, stop_event
from zbusrpc.config import DATA_DIR, Settings
from zbusrpc.version import __version__


def make_server(settings: Settings) -> Server:
    """Return a broker with the bounds that the settings name."""
    limits = Limits(queue_calls_max=settings.queue_calls_max, queued_bytes_max=settings.queued_bytes_max)
    return Server(
        limits=limits,
        message_bytes_max=settings.message_bytes_max,
        idle_s=settings.idle,
        data_dir=settings.data_dir or _default_data_dir(settings),
        durability=Durability(settings.durability),
    )


def run_broker(settings: Settings, *, as_json: bool) -> None:
    """Serve until a signal comes."""
    run(_run(settings, as_json=as_json))


async def _run(settings: Settings, *, as_json: bool) -> None:
    server = make_server(settings)
    address = await server.start(settings.host, settings.port)
    calm_collector()
    stop = stop_event()
    lines = [
        f"zbusrpc {__version__} broker at {address} (native and HTTP on one port)",
        f"  call with    curl http://{address}/rpc/<service>/<method>/<value>",
        _describe_storage(server.data_dir, settings.durability),
        "  stop with    Ctrl-C",
    ]
    facts = {"broker": address, "durability": settings.durability, "data_dir": server.data_dir}
    announce(facts, lines, as_json=as_json)
    await stop.wait()
    await server.close(settings.grace)


def _default_data_dir(settings: Settings) -> str | None:
    """Return where topics are stored when nobody said it: where the broker was started, if it may write there."""
    may_write = os.access(DATA_DIR if os.path.isdir(DATA_DIR) else os.curdir, os.W_OK)
    return DATA_DIR if settings.port and may_write else None


def _describe_storage(data_dir: str | None, durability: str) -> str:
    """Return the line that says what is kept where."""
    if data_dir is None:
        return "  topics       are not stored; start with --data-dir DIR for that"
    return f"  topics       in {os.path.abspath(data_dir)}, durability {durability}; calls are not kept over a restart"
