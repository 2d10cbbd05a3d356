"""The blocking twins against a broker in a process of its own: threads, forks, and loops where they would block."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import BaseModel

from tests.support.processes import Processes
from tests.support.waiting import wait_until
from zbusrpc import Code, RpcError, UsageError, deadline, mq
from zbusrpc.mq import SyncConsumer, SyncProducer, SyncReceivedMessage


class Order(BaseModel):
    """A body with fields."""

    item: str


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker that stores topics, for all tests here."""
    directory = tmp_path_factory.mktemp("mq")
    with Processes(directory) as processes:
        yield processes.broker("--data-dir", str(directory / "data"))[1]


@pytest.fixture
def topic() -> str:
    """Return a name that no other test uses."""
    return f"topic-{uuid4()}"


def test_messages_go_from_producer_to_consumer(broker: str, topic: str) -> None:
    """All ways to send, a loop that receives, and each answer."""
    with SyncProducer(topic, broker=broker, body=Order) as producer:
        first = producer.send(Order(item="a"), key="k", tag="t")
        batch = producer.send_batch([Order(item="b"), mq.Outgoing(Order(item="c"), id="m")])
        futures = [producer.send_nowait(Order(item="d")), producer.send_pipelined(Order(item="e"))]
        producer.flush()
        offsets = [first.offset, *(receipt.offset for receipt in batch), *(one.result(5).offset for one in futures)]
    assert offsets == [0, 1, 2, 3, 4]

    got: list[tuple[str, int]] = []
    with SyncConsumer(topic, group="g", body=Order, broker=broker, backoff=0.0) as consumer:
        for message in consumer:
            got.append((message.body.item, message.attempt))
            if message.body.item == "a" and message.attempt == 1:
                assert (message.key, message.tag) == ("k", "t")
                message.extend()
                message.nack(delay=0.0)
            elif message.body.item == "b":
                message.reject("no b")
            else:
                message.ack(confirmed=message.body.item == "c")
            if len(got) == 6:
                break
        assert (consumer.topic, consumer.group) == (topic, "g")

    assert sorted(got) == [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]
    (letter,) = wait_until(lambda: mq.sync.dead_letters(topic, broker=broker), "dead letter")
    assert letter.reason == "no b"
    assert wait_until(lambda: not mq.sync.topic(topic, broker=broker).groups[0].lag, "acknowledgements")


def test_fetch_and_auto_ack(broker: str, topic: str) -> None:
    """Several at a time; those before the last fetch are done."""
    with SyncProducer(topic, broker=broker) as producer:
        producer.send_batch(["a", "b", "c"])

    with SyncConsumer(topic, group="g", body=str, auto_ack=True, broker=broker) as consumer:
        bodies = [message.body for _ in range(2) for message in consumer.fetch(2)]
        assert consumer.fetch(1, timeout=0.01) == []

    assert bodies == ["a", "b", "c"]
    assert mq.sync.topic(topic, broker=broker).groups[0].lag == 0


def test_run_gives_messages_to_threads(broker: str, topic: str) -> None:
    """Handlers run in several threads, may block and answer there, until the consumer is closed."""
    with SyncProducer(topic, broker=broker) as producer:
        producer.send_batch([str(number) for number in range(20)])
    together = threading.Barrier(4, timeout=20)
    handled: Counter[str] = Counter()
    consumer = SyncConsumer(topic, group="g", body=str, broker=broker)

    def handle(message: SyncReceivedMessage[str]) -> None:
        together.wait()
        handled[message.body] += 1
        message.ack(confirmed=True)

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(consumer.run, handle, concurrency=4)
        wait_until(lambda: sum(handled.values()) == 20, "all handled")
        consumer.close()
        run.result(20)

    assert set(handled.values()) == {1}


def test_errors_reach_the_thread(broker: str, topic: str) -> None:
    """What the broker refuses is raised where it was asked for, and a deadline of the thread counts."""
    with pytest.raises(RpcError) as caught:
        mq.sync.topic(topic, broker=broker)
    assert caught.value.code is Code.NOT_FOUND
    producer = SyncProducer(topic, broker=broker, declare=False)
    producer.send_nowait("lost")
    with pytest.raises(RpcError):
        producer.close()
    with deadline(0.1), pytest.raises(RpcError) as late, SyncProducer(topic, broker="127.0.0.1:1") as away:
        away.send("late")
    assert late.value.code is Code.DEADLINE_EXCEEDED


def test_threads_share_a_producer_and_a_consumer(broker: str, topic: str) -> None:
    """Every message is stored once and handed to one thread."""
    threads, each = 8, 25
    got: Counter[str] = Counter()
    with (
        SyncProducer(topic, broker=broker) as producer,
        SyncConsumer(topic, group="g", body=str, broker=broker) as consumer,
        ThreadPoolExecutor(2 * threads) as pool,
    ):

        def send(number: int) -> None:
            for step in range(each):
                producer.send(f"{number}-{step}")

        def receive() -> None:
            for message in consumer:
                got[message.body] += 1
                message.ack()

        receiving = [pool.submit(receive) for _ in range(threads)]
        list(pool.map(send, range(threads)))
        wait_until(lambda: len(got) == threads * each, "all messages")
        consumer.close()
        for future in receiving:
            future.result(20)

    assert set(got.values()) == {1}


@pytest.mark.anyio
async def test_blocking_in_a_loop_is_refused(topic: str) -> None:
    """The error names what to await."""
    producer, consumer = SyncProducer(topic), SyncConsumer(topic)

    with pytest.raises(UsageError, match=r"SyncProducer\.send blocks, .* write: await Producer\.send\(\.\.\.\)"):
        producer.send("a")
    with pytest.raises(UsageError, match=r"write: await Consumer\.fetch\(\.\.\.\)"):
        consumer.fetch(1)
    with pytest.raises(UsageError, match=r"mq\.sync\.topics blocks, .* write: await mq\.topics\(\.\.\.\)"):
        mq.sync.topics()


FORK = """
import os, sys
from zbusrpc.mq import SyncProducer

producer = SyncProducer(sys.argv[2], broker=sys.argv[1])
print(producer.send("parent").offset, flush=True)
child = os.fork()
if child == 0:
    print(producer.send("child").offset, flush=True)
    os._exit(7)
_, status = os.waitpid(child, 0)
print(producer.send("parent").offset, os.waitstatus_to_exitcode(status))
"""


def test_child_of_a_fork_has_a_producer_of_its_own(broker: str, topic: str, tmp_path: Path) -> None:
    """After a fork both sides send, and nothing is taken for a duplicate."""
    with Processes(tmp_path) as processes:
        program = processes.python(FORK, broker, topic)

        assert program.wait_exit() == 0, program.errors
    assert program.output.split() == ["0", "1", "2", "7"]


def test_program_that_closes_nothing_ends_by_itself(broker: str, topic: str, tmp_path: Path) -> None:
    """It ends silently, with exit code 0."""
    program = """
import sys
from zbusrpc.mq import SyncConsumer, SyncProducer
print(SyncProducer(sys.argv[2], broker=sys.argv[1]).send("a").offset)
print(SyncConsumer(sys.argv[2], group="g", broker=sys.argv[1]).fetch(1)[0].body)
"""
    with Processes(tmp_path) as processes:
        ran = processes.python(program, broker, topic)

        assert ran.wait_exit() == 0
    assert (ran.output, ran.errors) == ("0\nb'a'\n", "")
