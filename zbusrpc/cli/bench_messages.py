"""`zbusrpc bench produce` and `consume`: how fast messages are stored and handed out on this machine.

The broker is a process of its own, in a directory that is removed, unless one is named. The topic is new and removed
at the end, so that nobody's messages are touched.
"""

import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from zbusrpc.cli.bench import quantiles_of, start_server
from zbusrpc.cli.progress import counting
from zbusrpc.cli.shell import ask, print_json, print_text
from zbusrpc.config import MIB
from zbusrpc.errors import ConfigError, RpcError
from zbusrpc.mq import Consumer, Producer, TopicOptions, declare, remove, topics

GROUP: Final = "bench"
FILL_BYTES_MAX: Final = 512 * MIB
"""What `bench consume` stores beforehand at most: it is somebody's disk."""
FILL_BATCH_BYTES: Final = MIB
FILL_BATCH_MAX: Final = 100
FILL_CONCURRENCY: Final = 32
SINGLES_S: Final = 1.0
"""How long single messages are timed on their way through."""
FETCH_S: Final = 0.2
"""How long a consumer that gets nothing waits until it looks whether others have got all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    concurrency: int
    seconds: float
    size: int
    batch: int
    durability: str | None
    topic: str | None

    @property
    def body(self) -> bytes:
        """Return what each message holds."""
        return b"x" * self.size


@dataclass(slots=True)
class Done:
    """What was done so far."""

    messages: int = 0
    latencies_s: list[float] = field(default_factory=list)


Figures = dict[str, Any]
Measure = Callable[[str, str, Plan], Coroutine[Any, Any, Figures]]


def run_bench_produce(plan: Plan, broker: str | None, *, as_json: bool) -> None:
    """Time messages on their way into a topic and print the figures."""
    _run(_produce, plan, broker, "stored", as_json=as_json)


def run_bench_consume(plan: Plan, broker: str | None, *, as_json: bool) -> None:
    """Time messages on their way out of a topic and print the figures."""
    _run(_consume, plan, broker, "consumed", as_json=as_json)


def _run(measure: Measure, plan: Plan, broker: str | None, done: str, *, as_json: bool) -> None:
    with ExitStack() as stack:
        if broker is None:
            data_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="zbusrpc-bench-"))
            broker = str(start_server(stack, "broker", "--port", "0", "--data-dir", data_dir)["broker"])
        figures = ask(_with_topic(measure, broker, plan), as_json=as_json)
    if as_json:
        print_json(figures)
        return
    print_text(
        f"{figures['messages_per_s']:,} messages/s {done}, {figures['mb_per_s']:,} MB/s ({figures['durability']}); "
        f"latency p50 {figures['p50_us']:,} us, p99 {figures['p99_us']:,} us; {figures['messages']:,} messages\n"
    )


async def _with_topic(measure: Measure, broker: str, plan: Plan) -> Figures:
    """Measure with a topic that is there for this alone.

    Raises:
        ConfigError: there is a topic of that name already.
    """
    name = plan.topic or f"zbusrpc-bench-{secrets.token_hex(4)}"
    if any(found.name == name for found in await topics(match=name, broker=broker)):
        raise ConfigError(f"topic {name} exists; name one that may be made and removed")
    options = TopicOptions(durability=plan.durability) if plan.durability else TopicOptions()  # type: ignore[typeddict-item]
    made = await declare(name, broker=broker, **options)
    try:
        figures = await measure(broker, name, plan)
    finally:
        with suppress(RpcError):  # what went wrong before is more interesting
            await remove(name, broker=broker)
    rate = figures["messages"] / figures.pop("elapsed_s")
    return figures | {
        "messages_per_s": round(rate),
        "mb_per_s": round(rate * plan.size / 1e6, 1),
        "concurrency": plan.concurrency,
        "batch": plan.batch,
        "size": plan.size,
        "durability": made.durability,
    }


# -- produce -------------------------------------------------------------------------------------------------


async def _produce(broker: str, name: str, plan: Plan) -> Figures:
    done = Done()
    start = time.perf_counter()
    async with counting("Storing", lambda: done.messages):
        await _send(broker, name, plan.body, plan.batch, plan.concurrency, done, until=start + plan.seconds)
    elapsed_s = time.perf_counter() - start
    return {"messages": done.messages, "elapsed_s": elapsed_s, **quantiles_of(done.latencies_s)}


async def _send(
    broker: str,
    name: str,
    body: bytes,
    batch: int,
    concurrency: int,
    done: Done,
    *,
    until: float,
    messages_max: int = sys.maxsize,
) -> None:
    """Send from several tasks, each of which waits for its receipts."""
    async with Producer[bytes](name, broker=broker, declare=False, in_flight_max=concurrency * batch) as producer:

        async def sender() -> None:
            while (start := time.perf_counter()) < until and done.messages < messages_max:
                if batch == 1:
                    await producer.send(body)
                else:
                    await producer.send_batch([body] * batch)
                done.latencies_s.append(time.perf_counter() - start)
                done.messages += batch

        await _together(sender, concurrency)


# -- consume -------------------------------------------------------------------------------------------------


async def _consume(broker: str, name: str, plan: Plan) -> Figures:
    latencies = await _time_singles(broker, name, plan)
    stored = await _fill(broker, name, plan)
    done = Done()
    start = time.perf_counter()
    async with counting("Consuming", lambda: done.messages):
        await _receive(broker, name, plan, stored, done, until=start + plan.seconds)
    elapsed_s = time.perf_counter() - start
    return {"messages": done.messages, "elapsed_s": elapsed_s, **quantiles_of(latencies)}


async def _time_singles(broker: str, name: str, plan: Plan) -> list[float]:
    """Return how long messages take, one at a time, from a producer to a consumer that waits."""
    latencies: list[float] = []
    until = time.perf_counter() + min(SINGLES_S, plan.seconds / 2)
    async with (
        Producer[bytes](name, broker=broker, declare=False) as producer,
        Consumer(name, broker=broker, group=GROUP) as consumer,
    ):
        while (start := time.perf_counter()) < until:
            sent = producer.send_nowait(plan.body)
            message = await anext(consumer)
            latencies.append(time.perf_counter() - start)
            message.ack_nowait()
            await sent
    return latencies


async def _fill(broker: str, name: str, plan: Plan) -> int:
    """Store what is to be consumed, and return how many messages that are."""
    done = Done()
    batch = max(1, min(FILL_BATCH_MAX, FILL_BATCH_BYTES // (plan.size + 1)))
    async with counting("Storing", lambda: done.messages):
        await _send(
            broker,
            name,
            plan.body,
            batch,
            FILL_CONCURRENCY,
            done,
            until=time.perf_counter() + plan.seconds,
            messages_max=FILL_BYTES_MAX // (plan.size + 100),
        )
    return done.messages


async def _receive(broker: str, name: str, plan: Plan, stored: int, done: Done, *, until: float) -> None:
    """Take everything out with several consumers."""

    async def receiver() -> None:
        async with Consumer(name, broker=broker, group=GROUP, window=max(256, plan.batch)) as consumer:
            while done.messages < stored and (left_s := until - time.perf_counter()) > 0:
                messages = await consumer.fetch(plan.batch, timeout=min(left_s, FETCH_S))
                for message in messages:
                    message.ack_nowait()
                done.messages += len(messages)

    await _together(receiver, plan.concurrency)


async def _together(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Run so many at the same time, to the end.

    Raises:
        RpcError: one of them failed.
    """
    for outcome in await asyncio.gather(*[work() for _ in range(count)], return_exceptions=True):
        if outcome is not None:
            raise outcome
