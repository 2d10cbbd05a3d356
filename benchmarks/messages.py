"""How fast stored topics are, beside a JetStream file stream: produce and consume, each role in a process of its own.

python benchmarks/messages.py [--rounds 3] [--seconds 2] [--sections rates,backlog,topics,rolling] [--backlog 10000000]

Prints JSON: for each rate the median over the rounds; in each round all contenders have their turn. The peer is left
out where nats-server or nats-py is not installed. JetStream does not sync before it acknowledges, so that its peer is
level `os`; level `disk` does more.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import queue_client as ours
import queue_peers as theirs
import uvloop
from processes import cpu_s, free_port, machine, nats_server, process, rss_kib, wait_for_port, zbusrpc

BODY = b"x" * 100
IN_FLIGHT = 128
BATCH = 100
BATCHES = 4

Rates = dict[str, list[float]]
Run = Callable[[Coroutine[Any, Any, float]], float]


def measure_rates(rounds: int, seconds: float) -> dict[str, Any]:
    """Return messages a second of each contender, and the ratios to the peer."""
    rates: Rates = {}
    for _ in range(rounds):
        for level in ("os", "disk"):
            measure_ours(level, seconds, rates)
        for name, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
            if nats_server() is not None:
                measure_theirs(name, run, seconds, rates)
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    return {"messages_per_s": medians, "ratios": ratios_of(medians)}


def measure_ours(level: str, seconds: float, rates: Rates) -> None:
    """Add one round of our rates at one level of durability."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory, broker_at(directory, level) as (_, address):
        produce = {
            "produce, one task each": ours.produce_tasks_per_s(address, BODY, IN_FLIGHT, seconds),
            "produce, pipelined": ours.produce_pipelined_per_s(address, BODY, IN_FLIGHT, seconds),
            "produce, batches of 100": ours.produce_batches_per_s(address, BODY, BATCH, BATCHES, seconds),
        }
        for name, work in produce.items():
            rates.setdefault(f"zbusrpc {level}: {name}", []).append(uvloop.run(work))
        messages = int(rates[f"zbusrpc {level}: produce, pipelined"][-1] * seconds * 0.9)
        for name, work in {
            "consume + ack, window 256": ours.consume_per_s(address, messages),
            "consume + ack, fetch 256": ours.fetch_per_s(address, messages, 256),
        }.items():
            rates.setdefault(f"zbusrpc {level}: {name}", []).append(uvloop.run(work))


def measure_theirs(name: str, run: Any, seconds: float, rates: Rates) -> None:
    """Add one round of the peer's rates."""
    port = free_port()
    command = (str(nats_server()), "-p", str(port), "-js", "-sd")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory, process(*command, directory):
        wait_for_port(port)
        published = run(theirs.publish_per_s(port, BODY, IN_FLIGHT, seconds))
        rates.setdefault(f"JetStream {name}: produce", []).append(published)
        consumed = run(theirs.consume_per_s(port, int(published * seconds * 0.9)))
        rates.setdefault(f"JetStream {name}: consume + ack", []).append(consumed)


def ratios_of(medians: dict[str, int]) -> dict[str, float]:
    """Return how many times as fast we are."""
    ratios = {}
    for name, rate in medians.items():
        kind = "produce" if "produce" in name else "consume + ack"
        for peer in ("asyncio", "uvloop"):
            other = medians.get(f"JetStream {peer}: {kind}")
            if other and name.startswith("zbusrpc"):
                ratios[f"{name} / JetStream {peer}"] = round(rate / other, 2)
    return ratios


class broker_at:  # noqa: N801 - used as a with statement, as a function would be
    """A broker on a data directory; gives its process and address."""

    def __init__(self, directory: str, level: str, *options: str) -> None:
        self._server = zbusrpc("broker", "--port", "0", "--data-dir", directory, "--durability", level, *options)

    def __enter__(self) -> tuple[Any, str]:
        started, ready = self._server.__enter__()
        return started, ready["broker"]

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)


def measure_backlog(messages: int) -> dict[str, Any]:
    """Return how a topic behaves that holds many messages: rates, memory, reopening after kill -9, seeks."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        with broker_at(directory, "os") as (broker, address):
            before_kib = rss_kib(broker.pid)
            rates = uvloop.run(ours.fill(address, BODY, messages))
            grown_mib = (rss_kib(broker.pid) - before_kib) / 1024
            broker.kill()
            broker.wait()
        begin = time.perf_counter()
        with broker_at(directory, "os") as (broker, address):
            started_s = time.perf_counter() - begin
            seeks = uvloop.run(ours.seek_ms(address, messages))
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as empty:
            begin = time.perf_counter()
            with broker_at(empty, "os"):
                empty_s = time.perf_counter() - begin
    tenth = max(1, len(rates) // 10)
    first, last = statistics.median(rates[:tenth]), statistics.median(rates[-tenth:])
    return {
        "messages": messages,
        "produce_per_s_first_tenth": round(first),
        "produce_per_s_last_tenth": round(last),
        "last_to_first": round(last / first, 3),
        "broker_memory_grown_mib": round(grown_mib, 1),
        "start_after_kill_s": round(started_s, 2),
        "start_with_nothing_s": round(empty_s, 2),
        "seek_ms": seeks,
    }


def measure_topics(count: int) -> dict[str, Any]:
    """Return what many topics with one group each cost."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        with broker_at(directory, "os") as (_, address):
            begin = time.perf_counter()
            uvloop.run(ours.declare_many(address, count))
            declared_s = time.perf_counter() - begin
        begin = time.perf_counter()
        with broker_at(directory, "os") as (broker, _):
            started_s = time.perf_counter() - begin
            time.sleep(3)
            used = cpu_s(broker.pid)
            time.sleep(3)
            return {
                "topics": count,
                "declare_s": round(declared_s, 2),
                "start_s": round(started_s, 2),
                "idle_memory_mib": round(rss_kib(broker.pid) / 1024, 1),
                "idle_cpu_percent": round((cpu_s(broker.pid) - used) / 3 * 100, 2),
                "open_files": len(list(Path(f"/proc/{broker.pid}/fd").iterdir())),
            }


def measure_rolling(seconds: float) -> dict[str, Any]:
    """Return p50 and p99 of a produce, with segments that are seldom rolled, and rolled and removed all the time."""
    found = {}
    for name, options in {
        "quiet": {},
        "rolling": {"segment_bytes": 1024 * 1024, "keep_bytes": 4 * 1024 * 1024, "keep_unconsumed": False},
    }.items():
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory, broker_at(directory, "os") as (_, address):
            found[name] = uvloop.run(ours.latency_us(address, b"x" * 1000, 5000, seconds, options))
    ratio = round(found["rolling"]["p99_us"] / found["quiet"]["p99_us"], 2)
    return {**found, "p99_rolling_to_quiet": ratio}


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--backlog", type=int, default=10_000_000)
    parser.add_argument("--topics", type=int, default=10_000)
    parser.add_argument("--sections", default="rates,backlog,topics,rolling")
    arguments = parser.parse_args()
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "rates": partial(measure_rates, arguments.rounds, arguments.seconds),
        "backlog": partial(measure_backlog, arguments.backlog),
        "topics": partial(measure_topics, arguments.topics),
        "rolling": partial(measure_rolling, arguments.seconds * 3),
    }
    with ExitStack():
        found = {name: sections[name]() for name in arguments.sections.split(",")}
    sys.stdout.write(json.dumps({"machine": machine(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
