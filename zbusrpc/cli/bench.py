"""`zbusrpc bench`: how fast calls are on this machine, through a broker and a service in their own processes."""

import asyncio
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import orjson

from zbusrpc.cli.shell import print_text, run
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.config import Settings
from zbusrpc.service.client import connect
from zbusrpc.service.definition import service


@service(name="ZbusrpcBench", concurrency=256)
class Bench:
    """What is called when calls are timed."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b

    async def echo(self, data: str) -> str:
        """Return what came."""
        return data


def run_bench_rpc(settings: Settings | None, *, concurrency: int, seconds: float, size: int, as_json: bool) -> None:
    """Time calls and print the figures; without settings, with a broker of its own."""
    with ExitStack() as stack:
        address = settings.broker if settings else str(start_server(stack, "broker", "--port", "0")["broker"])
        start_server(stack, "serve", "zbusrpc.cli.bench:Bench", "--broker", address)
        figures = run(_measure(address, concurrency=concurrency, seconds=seconds, size=size))
    if as_json:
        print_text(orjson.dumps(figures).decode() + "\n")
        return
    print_text(
        f"{figures['calls_per_s']:,} calls/s with {concurrency} in flight; "
        f"latency p50 {figures['p50_us']:,} us, p99 {figures['p99_us']:,} us; {figures['calls']:,} calls\n"
    )


def start_server(stack: ExitStack, *arguments: str) -> dict[str, Any]:
    """Start a server of our own, to be ended with the stack, and return its ready line."""
    command = [sys.executable, "-m", "zbusrpc", *arguments, "--json", "--log-level", "warning"]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
    stack.callback(process.terminate)
    assert process.stdout is not None
    ready: dict[str, Any] = orjson.loads(process.stdout.readline() or b"{}")
    if not ready:
        raise SystemExit(process.wait())
    return ready


async def _measure(address: str, *, concurrency: int, seconds: float, size: int) -> dict[str, Any]:
    proxy = connect(Bench, broker=address)
    text = "x" * size
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while (start := time.perf_counter()) < until:
            if size:
                await proxy.echo(text)
            else:
                await proxy.add(1, 2)
            latencies.append(time.perf_counter() - start)

    await proxy.add(1, 2)
    start = time.perf_counter()
    await asyncio.gather(*[caller() for _ in range(concurrency)])
    elapsed = time.perf_counter() - start
    await close_fleets()
    return {
        "calls": len(latencies),
        "calls_per_s": round(len(latencies) / elapsed),
        **quantiles_of(latencies),
        "concurrency": concurrency,
        "size": size,
    }


def quantiles_of(latencies_s: list[float]) -> dict[str, int]:
    """Return what half of them and what all but a hundredth of them do not exceed."""
    cuts = statistics.quantiles(latencies_s, n=100) if len(latencies_s) > 1 else (latencies_s or [0.0]) * 99
    return {"p50_us": round(cuts[49] * 1e6), "p99_us": round(cuts[98] * 1e6)}
