"""How long calls are held up when one of three brokers goes, and how many of them fail.

A client keeps calls in flight through a set of three brokers, half of them idempotent, while one broker after the
other is stopped (SIGTERM), killed (kill -9) or frozen (SIGSTOP) and comes back. For each event: the longest time in
which no call succeeded, the longest that a call took that succeeded, and how many failed of each kind.

    python benchmarks/failover.py [--in-flight 32] [--rounds 3]
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

import processes
from broker_set import BrokerSet, broker_set
from calc import Calc

from zbusrpc import RpcError, connect

Add = Callable[[int, int], Awaitable[int]]
BEFORE_S, AFTER_S, BACK_S = 0.5, 3.0, 1.5
"""How long calls go on before an event, after it, and after the broker is back."""


@dataclass
class Flow:
    """What became of the calls around one event."""

    done: int = 0
    idempotent_failed: int = 0
    others_failed: int = 0
    last_success: float = 0.0
    longest_gap_s: float = 0.0
    longest_call_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)

    def note_success(self, began: float) -> None:
        """Take note of a call that succeeded."""
        now = time.perf_counter()
        self.longest_gap_s = max(self.longest_gap_s, now - (self.last_success or began))
        self.longest_call_s = max(self.longest_call_s, now - began)
        self.last_success = now
        self.done += 1

    def note_failure(self, error: RpcError, *, is_idempotent: bool) -> None:
        """Take note of one that failed."""
        if is_idempotent:
            self.idempotent_failed += 1
        else:
            self.others_failed += 1
        self.errors[str(error.code)] = self.errors.get(str(error.code), 0) + 1


class Load:
    """Calls in flight."""

    def __init__(self, brokers: BrokerSet) -> None:
        self.calc = connect(Calc, broker=brokers.all)
        self.flow = Flow()
        self.is_over = False

    async def run(self, add: Add, *, is_idempotent: bool) -> None:
        """Call again and again."""
        while not self.is_over:
            began = time.perf_counter()
            try:
                await add(1, 2)
                self.flow.note_success(began)
            except RpcError as error:
                self.flow.note_failure(error, is_idempotent=is_idempotent)
                await asyncio.sleep(0.001)


async def measure(brokers: BrokerSet, load: Load, event: signal.Signals, index: int) -> dict[str, Any]:
    """Have one thing happen to one broker, and return what that did to the calls."""
    await asyncio.sleep(BEFORE_S)
    load.flow = Flow(last_success=time.perf_counter())
    brokers.send(index, event)
    await asyncio.sleep(AFTER_S)
    if event == signal.SIGSTOP:
        brokers.send(index, signal.SIGCONT)
    else:
        await asyncio.to_thread(brokers.wait, index)
        await asyncio.to_thread(brokers.start, index)
    await asyncio.sleep(BACK_S)
    await asyncio.to_thread(brokers.wait_served, "Calc")
    flow = load.flow
    return {
        "calls": flow.done,
        "longest_gap_ms": round(flow.longest_gap_s * 1000, 1),
        "longest_call_ms": round(flow.longest_call_s * 1000, 1),
        "failed_idempotent": flow.idempotent_failed,
        "failed_others": flow.others_failed,
        "errors": flow.errors,
    }


async def run(brokers: BrokerSet, in_flight: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Let everything happen in each round, to another broker each time."""
    load = Load(brokers)
    calls = [load.run(load.calc.add, is_idempotent=False) for _ in range(in_flight // 2)]
    calls += [load.run(load.calc.add_again, is_idempotent=True) for _ in range(in_flight - in_flight // 2)]
    tasks = [asyncio.create_task(call) for call in calls]
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for offset, event in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP)):
            result = await measure(brokers, load, event, (number + offset) % len(brokers.ports))
            found.setdefault(event.name, []).append(result)
    load.is_over = True
    await asyncio.gather(*tasks)
    return found


def main() -> None:
    """Run the rounds and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with broker_set(3) as brokers, processes.zbusrpc("serve", "calc:Calc", "--broker", brokers.addresses[0]):
        brokers.wait_served("Calc")
        found = uvloop.run(run(brokers, given.in_flight, given.rounds))
    summary = {
        name: {
            "median_gap_ms": statistics.median(one["longest_gap_ms"] for one in results),
            "longest_gap_ms": max(one["longest_gap_ms"] for one in results),
            "longest_call_ms": max(one["longest_call_ms"] for one in results),
            "failed_idempotent": sum(one["failed_idempotent"] for one in results),
            "failed_others": sum(one["failed_others"] for one in results),
        }
        for name, results in found.items()
    }
    print(json.dumps({"machine": processes.machine(), **vars(given), "summary": summary, "rounds_of": found}, indent=1))


if __name__ == "__main__":
    main()
