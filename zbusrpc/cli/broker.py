"""`zbusrpc broker`: a broker in a process of its own."""

from zbusrpc.broker.limits import Limits
from zbusrpc.broker.server import Server
from zbusrpc.cli.shell import announce, run, stop_event
from zbusrpc.config import Settings
from zbusrpc.version import __version__


def make_server(settings: Settings) -> Server:
    """Return a broker with the bounds that the settings name."""
    limits = Limits(queue_calls_max=settings.queue_calls_max, queued_bytes_max=settings.queued_bytes_max)
    return Server(limits=limits, message_bytes_max=settings.message_bytes_max, idle_s=settings.idle)


def run_broker(settings: Settings, *, as_json: bool) -> None:
    """Serve until a signal comes."""
    run(_run(settings, as_json=as_json))


async def _run(settings: Settings, *, as_json: bool) -> None:
    server = make_server(settings)
    address = await server.start(settings.host, settings.port)
    stop = stop_event()
    lines = [
        f"zbusrpc {__version__} broker at {address} (native and HTTP on one port)",
        f"  call with    curl http://{address}/rpc/<service>/<method>/<value>",
        "  durability   memory: calls are not kept over a restart",
        "  stop with    Ctrl-C",
    ]
    announce({"broker": address, "durability": "memory"}, lines, as_json=as_json)
    await stop.wait()
    await server.close(settings.grace)
