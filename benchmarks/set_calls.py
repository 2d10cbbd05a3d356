"""Calls per second through one of three brokers, beside a lone broker of the same run.

python benchmarks/set_calls.py [--rounds 5] [--seconds 1.5]
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

import processes
from broker_set import broker_set
from calc import Calc

from zbusrpc import connect

IN_FLIGHT = (1, 32, 128)
SETTLE_S = 0.3
"""Until there are links to all brokers."""


async def measure(brokers: str, in_flight: int, seconds: float) -> float:
    """Return calls per second."""
    add = connect(Calc, broker=brokers).add
    await add(1, 2)
    await asyncio.sleep(SETTLE_S)
    count = 0

    async def caller(until: float) -> None:
        nonlocal count
        while time.perf_counter() < until:
            await add(1, 2)
            count += 1

    began = time.perf_counter()
    await asyncio.gather(*[caller(began + seconds) for _ in range(in_flight)])
    return count / (time.perf_counter() - began)


async def run(lone: str, several: str, rounds: int, seconds: float) -> dict[int, dict[str, list[float]]]:
    """Time both in turn."""
    found: dict[int, dict[str, list[float]]] = {}
    for in_flight in IN_FLIGHT:
        rates = found[in_flight] = {"lone": [], "set of three": []}
        for _ in range(rounds):
            rates["lone"].append(await measure(lone, in_flight, seconds))
            rates["set of three"].append(await measure(several, in_flight, seconds))
    return found


def main() -> None:
    """Run the rounds and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        broker_set(3) as brokers,
        processes.zbusrpc("broker", "--port", "0", "--data-dir", directory) as (_, lone),
        processes.zbusrpc("serve", "calc:Calc", "--broker", brokers.addresses[0]),
        processes.zbusrpc("serve", "calc:Calc", "--broker", lone["broker"]),
    ):
        brokers.wait_served("Calc")
        found = uvloop.run(run(lone["broker"], brokers.addresses[0], given.rounds, given.seconds))
    results = [
        {
            "in_flight": in_flight,
            **{f"{name} (calls/s)": round(statistics.median(values)) for name, values in rates.items()},
            "ratio": round(statistics.median(b / a for a, b in zip(*rates.values(), strict=True)), 3),
        }
        for in_flight, rates in found.items()
    ]
    print(json.dumps({"machine": processes.machine(), **vars(given), "results": results}, indent=1))


if __name__ == "__main__":
    main()
