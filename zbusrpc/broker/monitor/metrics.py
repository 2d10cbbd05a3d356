"""The figures of a broker for Prometheus, read when it asks.

What is one topic's, group's or service's goes as far as the token may see. docs/monitor.md lists the names.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from zbusrpc.broker.access.rights import Rights
from zbusrpc.broker.calls.statistics import CallStatistics, octaves
from zbusrpc.broker.monitor.live import shown
from zbusrpc.broker.monitor.rows import GroupRow, ServerRow, ServiceRow, TopicRow
from zbusrpc.transport.http import HttpResponse

if TYPE_CHECKING:
    from zbusrpc.broker.monitor.monitor import Monitor

_CALLS: Final = {
    "requests": "Calls that came.",
    "replies": "Calls that an instance has answered.",
    "refused": "Calls that the broker has answered with an error itself.",
    "expired": "Of those: the deadline passed.",
    "redelivered": "Calls given to another instance after one died or handed them back.",
    "late_replies": "Replies to calls that had ended; they were dropped.",
}
_TOPIC: Final = {
    "messages": "Messages that are stored.",
    "bytes": "Bytes on the disk.",
    "next_offset": "Offset of the next message.",
    "consumers": "Consumers of all groups.",
    "dead_letters": "Dead letters that nobody has dealt with.",
}
_GROUP: Final = {
    "lag": "Messages that the group is not done with.",
    "in_flight": "Messages with a consumer.",
    "waiting": "Messages for the next consumer.",
    "delayed": "Messages that wait for their time.",
    "held": "Messages behind another with their key.",
    "dead_letters": "Dead letters of the group that nobody has dealt with.",
}


def response(monitor: "Monitor", rights: Rights | None, accept: str) -> HttpResponse:
    """Return the answer to `GET /metrics`, in the form that whoever asks prefers."""
    registry = CollectorRegistry()
    registry.register(_Figures(monitor, rights))
    encode, content_type = choose_encoder(accept)
    return HttpResponse(status=200, body=encode(registry), headers={"Content-Type": content_type})


class _Figures(Collector):
    """Reads everything once, as far as a token may see."""

    def __init__(self, monitor: "Monitor", rights: Rights | None) -> None:
        self._monitor, self._rights = monitor, rights

    def describe(self) -> Iterable[Metric]:
        """Tell nothing before it is asked: the registry would read everything to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all figures."""
        monitor = self._monitor
        yield from _of_broker(monitor.own_row(), monitor.statistics(), monitor.usage().cpu_s)
        yield _of_servers(monitor.servers(None))
        table = monitor.table()
        visible = shown(table, self._rights, table)
        yield from _of_topics(visible["topics"])
        yield from _of_groups(visible["groups"], monitor.now_ms())
        yield from _of_services(visible["services"], monitor.call_statistics)


def _of_broker(row: ServerRow, counted: dict[str, int], cpu_s: float) -> Iterator[Metric]:
    info = GaugeMetricFamily("zbusrpc_build_info", "Which broker this is.", labels=["address", "version"])
    info.add_metric([row["address"], row["version"]], 1)
    yield info
    yield GaugeMetricFamily("zbusrpc_uptime_seconds", "Since it started.", value=row["uptime_s"] or 0)
    yield GaugeMetricFamily("zbusrpc_draining", "1 where it takes no new work.", value=row["state"] == "draining")
    yield CounterMetricFamily("zbusrpc_cpu_seconds", "Processor time of its process.", value=cpu_s)
    yield GaugeMetricFamily("zbusrpc_memory_bytes", "Resident memory of its process.", value=row["memory_bytes"] or 0)
    yield GaugeMetricFamily("zbusrpc_sessions", "Connections.", value=counted["sessions"])
    for name, about in _CALLS.items():
        yield CounterMetricFamily(f"zbusrpc_calls_{name}", about, value=counted[name])
    yield GaugeMetricFamily("zbusrpc_calls_queued", "Calls that wait for an instance.", value=counted["queued"])
    yield GaugeMetricFamily("zbusrpc_calls_queued_bytes", "Their bytes.", value=counted["queued_bytes"])
    lost = counted.get("mq_lost_after_ack", 0)
    yield CounterMetricFamily("zbusrpc_lost_after_ack", "Batches of level memory that no disk has taken.", value=lost)
    refused = counted.get("mq_refused", 0)
    yield CounterMetricFamily("zbusrpc_messages_refused", "Messages that no disk has taken.", value=refused)
    is_failing = row["journal_fails_because"] is not None
    about = "1 where a fault of the disk keeps what consume groups do from being stored."
    yield GaugeMetricFamily("zbusrpc_journal_failing", about, value=is_failing)
    yield GaugeMetricFamily("zbusrpc_calls_in_flight", "Calls with an instance.", value=counted["in_flight"])


def _of_servers(rows: list[ServerRow]) -> Metric:
    states = Counter(row["state"] for row in rows)
    each = [([state], states[state]) for state in ("live", "draining")]
    return _gauge("zbusrpc_servers", "Brokers that it knows, itself included.", ["state"], each)


def _of_topics(rows: list[TopicRow]) -> Iterator[Metric]:
    labels = ["topic"]
    unreadable = [([row["topic"]], row["unreadable_because"] is not None) for row in rows]
    yield _gauge("zbusrpc_topic_unreadable", "1 where it is on the disk and cannot be read.", labels, unreadable)
    each = [([row["topic"]], row) for row in rows if row["unreadable_because"] is None]
    yield _counter("zbusrpc_topic_produced", "Messages stored.", labels, [(key, row["produced"]) for key, row in each])
    closed = [(key, row["closed_because"] is not None) for key, row in each]
    yield _gauge("zbusrpc_topic_closed", "1 where a fault of the disk keeps it from taking messages.", labels, closed)
    for name, about in _TOPIC.items():
        yield _gauge(f"zbusrpc_topic_{name}", about, labels, [(key, _value(row, name)) for key, row in each])


def _of_groups(rows: list[GroupRow], now_ms: int) -> Iterator[Metric]:
    labels = ["topic", "group"]
    each = [([row["topic"], row["group"]], row) for row in rows]
    for name, about in _GROUP.items():
        yield _gauge(f"zbusrpc_group_{name}", about, labels, [(key, _value(row, name)) for key, row in each])
    consumers = [(key, len(row["consumers"])) for key, row in each]
    yield _gauge("zbusrpc_group_consumers", "Consumers.", labels, consumers)
    paused = [(key, row["paused"]) for key, row in each]
    yield _gauge("zbusrpc_group_paused", "1 where nothing is delivered.", labels, paused)
    ages = [
        (key, max(0, now_ms - stored_ms) / 1000 if stored_ms is not None else 0)
        for key, stored_ms in ((key, row["oldest_unacked_ms"]) for key, row in each)
    ]
    about = "Age of the oldest message that the group is not done with; 0 without one."
    yield _gauge("zbusrpc_group_oldest_unacked_age_seconds", about, labels, ages)
    for name in each[0][1]["counters"] if each else ():
        counts = [(key, row["counters"][name]) for key, row in each]
        yield _counter(f"zbusrpc_group_{name}", "What happened to messages in the group.", labels, counts)


def _of_services(rows: list[ServiceRow], statistics_of: Callable[[str], CallStatistics | None]) -> Iterator[Metric]:
    labels = ["service"]
    each = [([row["service"]], row) for row in rows]
    yield _counter("zbusrpc_service_calls", "Calls that ended.", labels, [(key, row["calls"]) for key, row in each])
    errors = [(key, row["errors"]) for key, row in each]
    yield _counter("zbusrpc_service_errors", "Calls that ended with an error.", labels, errors)
    yield _gauge("zbusrpc_service_queued", "Calls that wait.", labels, [(key, row["queued"]) for key, row in each])
    instances = [(key, len(row["instances"])) for key, row in each]
    yield _gauge("zbusrpc_service_instances", "Instances.", labels, instances)
    latency = HistogramMetricFamily(
        "zbusrpc_service_latency_seconds", "From the arrival of a call to the reply of an instance.", labels=labels
    )
    for key, row in each:
        counted = statistics_of(row["service"])
        if counted is not None:
            buckets = [(f"{bound:.6g}", count) for bound, count in octaves(counted.buckets)]
            latency.add_metric(key, [*buckets, ("+Inf", sum(counted.buckets))], counted.seconds)
    yield latency


def _value(row: Any, name: str) -> float:
    return float(row[name])


def _gauge(name: str, about: str, labels: list[str], values: Iterable[tuple[list[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _counter(name: str, about: str, labels: list[str], values: Iterable[tuple[list[str], float]]) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
