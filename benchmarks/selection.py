"""What a client's choice of a broker costs: each rule with 1, 3 and 10 candidates, in us of processor time. No network.

    python benchmarks/selection.py [--seconds 0.2] [--rounds 5]

Prints JSON, the best of the rounds. The candidates read their cost from their health and the clock, as those of a
client do. "whole call" is a choice by the default rule together with taking note of the call's begin and end.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from itertools import count

from zbusrpc.cluster.health import Health
from zbusrpc.cluster.ring import Ring
from zbusrpc.cluster.selection import SELECTORS, LeastLoaded, Selector

SIZES = (1, 3, 10)
WANTED_US = 3.0
BATCH = 1000
Act = Callable[[], object]


class Broker:
    """A candidate as a client has it."""

    __slots__ = ("address", "consumers", "health", "now")

    def __init__(self, number: int, now: Callable[[], float]) -> None:
        self.address = f"10.0.0.{number}:15555"
        self.consumers = number % 4
        self.now = now
        self.health = Health()
        self.health.begun(now())
        self.health.ended(now(), 0.001 * number, is_ok=True)

    @property
    def cost(self) -> float:
        """What the next call there is likely to cost."""
        return self.health.cost(self.now())


def us_each(act: Act, seconds: float, rounds: int) -> float:
    """Return what one act costs in the quickest of the rounds."""
    best = float("inf")
    for _ in range(rounds):
        acts, begin = 0, time.process_time()
        while (spent := time.process_time() - begin) < seconds:
            for _ in range(BATCH):
                act()
            acts += BATCH
        best = min(best, spent / acts)
    return round(best * 1e6, 2)


def choices(size: int, now: Callable[[], float]) -> dict[str, Act]:
    """Return what to measure with so many candidates."""
    brokers = [Broker(number, now) for number in range(1, size + 1)]
    acts = {name: _choice(make(), brokers, None) for name, make in SELECTORS.items()}
    numbers = count()
    selector = LeastLoaded()
    acts["least-loaded, one key"] = _choice(selector, brokers, "customer 4711")
    acts["least-loaded, a new key each"] = lambda: selector.select(brokers, f"customer {next(numbers)}")
    acts["whole call"] = _whole_call(selector, brokers, now)
    acts["making a ring"] = lambda: Ring([broker.address for broker in brokers])
    return acts


def _choice(selector: Selector, brokers: list[Broker], key: str | None) -> Act:
    return lambda: selector.select(brokers, key)


def _whole_call(selector: LeastLoaded, brokers: list[Broker], now: Callable[[], float]) -> Act:
    healths = {broker.address: broker.health for broker in brokers}

    def call() -> None:
        health = healths[selector.select(brokers, None)[0].address]
        begin = now()
        health.begun(begin)
        end = now()
        health.ended(end, end - begin, is_ok=True)

    return call


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="how long each round of each figure takes")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    now = asyncio.new_event_loop().time

    measured: dict[str, dict[int, float]] = {}
    for size in SIZES:
        for name, act in choices(size, now).items():
            measured.setdefault(name, {})[size] = us_each(act, arguments.seconds, arguments.rounds)

    print(json.dumps({"unit": "us per choice", "wanted": WANTED_US, "candidates": measured}, indent=2))


if __name__ == "__main__":
    main()
