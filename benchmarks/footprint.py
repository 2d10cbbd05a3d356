"""What else a user pays: latency at a fixed rate, memory, import time, payloads, many services, tracing.

python benchmarks/footprint.py [--seconds 3]
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

import processes
from calc import Calc

from zbusrpc import connect, service
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.service.definition import define
from zbusrpc.service.worker import Worker
from zbusrpc.transport.address import parse_addresses

IDLE_CONNECTIONS = 1000
PAYLOADS = {"1 KiB": 1024, "64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
SERVICES = (1, 10, 100)


async def latency_at_rate(address: str, rate: int, seconds: float) -> dict[str, Any]:
    """Return percentiles of calls that start at fixed times, whether or not earlier ones have ended."""
    proxy = connect(Calc, broker=address)
    latencies: list[float] = []

    async def one(start: float) -> None:
        await proxy.add(1, 2)
        latencies.append(time.perf_counter() - start)

    await proxy.add(1, 2)
    begin = time.perf_counter()
    tasks = []
    for number in range(round(rate * seconds)):
        due = begin + number / rate
        while (wait := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - a clock, not an event
            await asyncio.sleep(wait if wait > 0.001 else 0)
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    await close_fleets()
    cuts = statistics.quantiles(latencies, n=100)
    return {"rate": rate, "p50_us": round(cuts[49] * 1e6), "p99_us": round(cuts[98] * 1e6)}


async def calls_per_s(address: str, seconds: float, size: int = 0, in_flight: int = 32) -> float:
    """Return how many calls with a parameter and result of `size` bytes end each second."""
    proxy = connect(Calc, broker=address)
    text, count = "x" * size, 0
    until = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await (proxy.echo(text) if size else proxy.add(1, 2))
            count += 1

    await proxy.add(1, 2)
    start = time.perf_counter()
    await asyncio.gather(*[caller() for _ in range(in_flight)])
    rate = count / (time.perf_counter() - start)
    await close_fleets()
    return rate


async def hold_connections(address: str, count: int, measure: Any) -> Any:
    """Return what `measure()` says while `count` native connections are open and idle."""
    from zbusrpc.message import Message
    from zbusrpc.transport.connection import Connection
    from zbusrpc.transport.hello import Hello

    class Idle:
        def connection_opened(self, hello: Hello) -> None:
            opened.append(hello)

        def message_received(self, message: Message) -> None: ...
        def turn_ended(self, held_bytes: int) -> None: ...
        def congestion_changed(self, is_congested: bool) -> None: ...
        def connection_closed(self, error: Exception | None) -> None: ...

    opened: list[Hello] = []
    host, port = address.split(":")
    loop = asyncio.get_running_loop()
    connections = [Connection(Idle(), Hello(name="idle"), is_client=True) for _ in range(count)]
    for connection in connections:
        await loop.create_connection(lambda made=connection: made, host, int(port))
    while len(opened) < count:  # noqa: ASYNC110 - a benchmark may poll
        await asyncio.sleep(0.01)
    result = measure()
    for connection in connections:
        connection.close()
    await asyncio.sleep(0.1)
    return result


async def rate_among_services(address: str, count: int, seconds: float) -> float:
    """Return calls per second to one of `count` services that are connected."""
    workers = []
    for number in range(count - 1):

        @service(name=f"Other{number}")
        class Other:
            async def nothing(self) -> None:
                return None

        workers.append(Worker(define(Other), Other(), parse_addresses(address)))
    await asyncio.gather(*[worker.start() for worker in workers])
    rate = await calls_per_s(address, seconds)
    await asyncio.gather(*[worker.close() for worker in workers])
    return rate


async def rate_with_spans(address: str, seconds: float) -> float:
    """Return calls per second of a client that makes spans and throws them away."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    return await calls_per_s(address, seconds)


def import_s() -> float:
    """Return the median time of `import zbusrpc` in a new process, the interpreter's start taken off."""

    def timed(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return statistics.median(timed("import zbusrpc") for _ in range(7)) - statistics.median(
        timed("pass") for _ in range(7)
    )


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    report: dict[str, Any] = {"benchmark": "footprint", "machine": processes.machine()}
    report["import_s"] = round(import_s(), 3)
    with ExitStack() as stack:
        process, broker = stack.enter_context(processes.zbusrpc("broker", "--port", "0"))
        address = broker["broker"]
        idle_kib = processes.rss_kib(process.pid)
        held_kib = uvloop.run(hold_connections(address, IDLE_CONNECTIONS, lambda: processes.rss_kib(process.pid)))
        report["broker_memory"] = {
            "idle_mib": round(idle_kib / 1024, 1),
            "kib_each_of_1000_idle_connections": round((held_kib - idle_kib) / IDLE_CONNECTIONS, 1),
        }
        stack.enter_context(processes.zbusrpc("serve", "calc:Calc", "--broker", address))
        report["latency_at_rate"] = [
            uvloop.run(latency_at_rate(address, rate, seconds)) for rate in (1000, 5000, 10000)
        ]
        report["payload_calls_per_s"] = {
            name: round(uvloop.run(calls_per_s(address, seconds, size, 8))) for name, size in PAYLOADS.items()
        }
        report["calls_per_s_among_services"] = {
            count: round(uvloop.run(rate_among_services(address, count, seconds))) for count in SERVICES
        }
        report["calls_per_s_tracing"] = {
            "no_sdk_imported": round(uvloop.run(calls_per_s(address, seconds))),
            "spans_in_client": round(uvloop.run(rate_with_spans(address, seconds))),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
