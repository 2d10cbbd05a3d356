"""The other brokers of the set, as the monitor shows them: what this broker knows as their tracker.

What a broker tells of itself on its own page is more; here are the figures that trackers are told. Pure.
"""

from zbusrpc.broker.dialects.zbus.infos import plain_address
from zbusrpc.broker.dialects.zbus.masks import Mask
from zbusrpc.broker.monitor.rows import ServerRow
from zbusrpc.broker.tracker.registry import Server
from zbusrpc.broker.tracker.tracker import Tracker


def other_servers(tracker: Tracker, now_ms: int) -> list[ServerRow]:
    """Return the rows of all brokers that report to this one, by address."""
    seen_by = [plain_address(tracker.own.address)[0]]
    servers = sorted(tracker.registry.servers.items())
    return [_row(server, seen_by, now_ms) for _, server in servers if server.source is not None]


def _row(server: Server, seen_by: list[str], now_ms: int) -> ServerRow:
    facts = server.facts
    address, is_tls = plain_address(facts.address)
    services = sum(1 for topic in server.topics.values() if topic.mask & Mask.RPC)
    return {
        "address": address,
        "url": f"http{'s' if is_tls else ''}://{address}/",
        "version": facts.software.removeprefix("zbusrpc-"),
        "started_ms": facts.started_ms or None,
        "uptime_s": max(0.0, round((now_ms - facts.started_ms) / 1000, 1)) if facts.started_ms else None,
        "state": facts.state,
        "is_self": False,
        "is_tracker_only": False,
        "trackers": [plain_address(one)[0] for one in facts.trackers],
        "seen_by": seen_by,
        "topics": len(server.topics) - services,
        "services": services,
        "consumers": sum(topic.consumers for topic in server.topics.values()),
        "sessions": None,
        "load": None,
        "memory_bytes": None,
        "in_rate": None,
        "out_rate": None,
        "call_rate": None,
        "journal_fails_because": None,
    }
