"""Proxies, producers and errors go to other processes and back, however those are started."""

import asyncio
import multiprocessing
import pickle
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import open_site
from tests.support.lab import Color, Lab, OutOfPaint
from tests.support.processes import Processes
from zbusrpc import Code, RpcError, UsageError, blocking, connect
from zbusrpc.mq import Consumer, Producer, SyncConsumer, SyncProducer


def awaited(method: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Call in an event loop of its own."""

    async def call() -> Any:
        return await method(*args)

    return asyncio.run(call())


@contextmanager
def another_process(method: str) -> Iterator[ProcessPoolExecutor]:
    """Start a process; it ends by itself, with nothing to complain of."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        pool.submit(int).result()
        (process,) = multiprocessing.active_children()
        yield pool
    assert process.exitcode == 0


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_process_that_is_started_afresh_calls_and_sends_by_what_it_is_given(
    processes: Processes, tmp_path: Path, method: str
) -> None:
    """Methods of either colour, with and without types, and of a producer; results, receipts and errors come back."""
    site = open_site(processes, broker=("--data-dir", str(tmp_path / "data")))
    lab, named = connect(Lab, broker=site.address), connect("Lab", broker=site.address)
    own_session = blocking(lab.call_id)().partition("-")[0]
    producer = SyncProducer("colours", body=Color, broker=site.address)
    producer.send(Color.RED)

    with another_process(method) as pool:
        assert pool.submit(lab.subtract, 5, 3).result() == 2
        assert pool.submit(blocking(named.add), 5, b=3).result() == 8
        assert pool.submit(awaited, lab.add, 5).result() == 15
        assert pool.submit(blocking(lab.call_id)).result().partition("-")[0] != own_session
        with pytest.raises(OutOfPaint) as dry:
            pool.submit(awaited, lab.run_dry, Color.BLUE).result()
        with pytest.raises(RpcError) as refused:
            pool.submit(blocking(lab.refuse), "NOT_FOUND").result()
        receipt = pool.submit(producer.send, Color.BLUE).result()
        with pytest.raises(RpcError, match="a body of type str is no Color"):
            pool.submit(producer.send, "green").result()

    assert (dry.value.color, dry.value.missing) == (Color.BLUE, Decimal("2.50"))
    assert (refused.value.code, refused.value.details) == (Code.NOT_FOUND, {"why": "a test"})
    assert (receipt.offset, receipt.is_duplicate) == (1, False)
    with SyncConsumer("colours", group="all", body=Color, broker=site.address, start="oldest") as consumer:
        assert [message.body for message in consumer.fetch(2)] == [Color.RED, Color.BLUE]


@pytest.mark.parametrize(
    "made",
    [
        lambda: Producer("t"),
        lambda: Consumer("t", group="g"),
        lambda: SyncConsumer("t", group="g"),
    ],
    ids=["producer", "consumer", "blocking consumer"],
)
def test_what_belongs_to_a_loop_stays_in_its_process(made: Callable[[], Any]) -> None:
    """The error names it, and says what to do instead."""
    with pytest.raises(UsageError, match=r"^the (producer|consumer) of topic t stays in its process; make one there"):
        pickle.dumps(made())


@pytest.mark.anyio
async def test_message_stays_with_its_consumer(processes: Processes, tmp_path: Path, links: None) -> None:
    """Its answer goes over the consumer's connection; what others can have is the body."""
    _, address = processes.broker("--data-dir", str(tmp_path / "data"))
    async with Producer("t", broker=address) as producer, Consumer("t", group="g", broker=address) as consumer:
        await producer.send(b"x", id="7")
        (message,) = await consumer.fetch(1)

        with pytest.raises(UsageError, match=r"^message 7 of topic t stays in its process; hand on its body"):
            pickle.dumps(message)
