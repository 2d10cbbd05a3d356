"""Calls per second of `add(a, b)`: zbusrpc beside NATS + nats-py and grpc.aio, in one run on one machine.

Everything runs in processes of its own: broker, service and client. Each round times every contender once at
every number of calls in flight; figures are medians over the rounds, and ratios are of those medians.

    python benchmarks/rpc.py [--rounds 5] [--seconds 2] [--only zbusrpc]
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

import peers
import processes
from calc import Calc

from zbusrpc import connect
from zbusrpc.cluster.fleets import close_fleets

IN_FLIGHT = (1, 32, 128)
TARGETS = {"nats": {1: 2.2, 32: 2.4, 128: 3.5}, "grpc.aio": {1: 4.0, 32: 12.0}}
"""What we want to reach, as ratios to the peer."""

Opened = tuple[peers.Add, Callable[[], Awaitable[Any]]]
Opener = Callable[[], Awaitable[Opened]]
LOOPS: dict[str, Callable[[Any], Any]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@dataclass(frozen=True)
class Contender:
    """How to open a client, and the event loop it runs on."""

    opener: Opener
    loop: str = "uvloop"


async def zbusrpc_add(address: str) -> Opened:
    """Return `add` of the typed proxy, and how to close."""
    return connect(Calc, broker=address).add, close_fleets


def start_contenders(stack: ExitStack, only: str | None) -> tuple[dict[str, Contender], list[str]]:
    """Start servers; return how to open a client of each, and who is missing."""
    missing = []
    _, broker = stack.enter_context(processes.zbusrpc("broker", "--port", "0"))
    stack.enter_context(processes.zbusrpc("serve", "calc:Calc", "--broker", broker["broker"]))
    contenders = {"zbusrpc": Contender(lambda: zbusrpc_add(broker["broker"]))}
    server = processes.nats_server()
    for loop in LOOPS if only in {None, "peers"} else ():
        if server and importlib.util.find_spec("nats"):
            contenders[f"nats, {loop}"] = _start_nats(stack, server, loop)
        else:
            missing.append(f"nats, {loop} (needs nats-server and nats-py)")
        if importlib.util.find_spec("grpc"):
            contenders[f"grpc.aio, {loop}"] = _start_grpc(stack, loop)
        else:
            missing.append(f"grpc.aio, {loop} (needs grpcio)")
    return contenders, missing


def _start_nats(stack: ExitStack, server: str, loop: str) -> Contender:
    port = processes.free_port()
    stack.enter_context(processes.process(server, "-a", "127.0.0.1", "-p", str(port)))
    processes.wait_for_port(port)
    _start_peer(stack, "nats", port, loop)
    return Contender(lambda: peers.nats_add(port), loop)


def _start_grpc(stack: ExitStack, loop: str) -> Contender:
    port = processes.free_port()
    _start_peer(stack, "grpc", port, loop)
    return Contender(lambda: peers.grpc_add(port), loop)


def _start_peer(stack: ExitStack, name: str, port: int, loop: str) -> None:
    started = stack.enter_context(processes.process(sys.executable, "peers.py", name, str(port), loop))
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"


async def measure(opener: Opener, in_flight: int, seconds: float) -> float:
    """Return calls per second."""
    add, close = await opener()
    count = 0

    async def caller(until: float) -> None:
        nonlocal count
        while time.perf_counter() < until:
            assert await add(count, 2) == count + 2 or in_flight > 1
            count += 1

    for _ in range(200):
        await add(1, 2)
    start = time.perf_counter()
    await asyncio.gather(*[caller(start + seconds) for _ in range(in_flight)])
    elapsed = time.perf_counter() - start
    await close()
    return count / elapsed


def main() -> None:
    """Run the rounds and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only")
    given = parser.parse_args()
    rates: dict[str, dict[int, list[float]]] = {}
    with ExitStack() as stack:
        contenders, missing = start_contenders(stack, given.only)
        for _ in range(given.rounds):
            for in_flight in IN_FLIGHT:
                for name, contender in contenders.items():
                    rate = LOOPS[contender.loop](measure(contender.opener, in_flight, given.seconds))
                    rates.setdefault(name, {}).setdefault(in_flight, []).append(rate)
    medians = {name: {n: round(statistics.median(found)) for n, found in by.items()} for name, by in rates.items()}
    ours = medians.get("zbusrpc", {})
    ratios = {
        name: {n: round(ours[n] / rate, 2) for n, rate in by.items()}
        for name, by in medians.items()
        if name != "zbusrpc" and ours
    }
    report = {
        "benchmark": "rpc add(a, b)",
        "machine": processes.machine(),
        "calls_per_s": medians,
        "ratio_to": ratios,
        "targets": TARGETS,
        "left_out": missing,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
