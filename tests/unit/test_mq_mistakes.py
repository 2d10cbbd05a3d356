"""What is handed to the message queue by mistake: one line that names value and fix, before anything is sent."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from zbusrpc import RpcError, UsageError, mq
from zbusrpc.mq import Consumer, Producer

pytestmark = pytest.mark.anyio

NOWHERE = "127.0.0.1:1"
"""Nothing listens there: whatever asks it is refused with another error."""


def producer() -> Any:
    """Return a producer as one without a type checker sees it."""
    return Producer("t", broker=NOWHERE)


def consumer(**options: Any) -> Any:
    """Return a consumer as one without a type checker sees it."""
    return Consumer("t", group="g", broker=NOWHERE, **options)


async def _handle(message: object) -> None:
    """Do nothing."""


AT_ONCE: list[tuple[Callable[[], object], str]] = [
    (lambda: consumer(windw=5), "there is no option windw"),
    (lambda: consumer(window="5"), "window='5': a whole number, in 0..4096"),
    (lambda: consumer(window=5000), "window=5000: a whole number, in 0..4096"),
    (lambda: consumer(window=True), "window=True: a whole number, in 0..4096"),
    (lambda: consumer(lease="long"), "lease='long': a number of seconds"),
    (lambda: Consumer("t", group=5), "group=5: a group is named by a str"),  # type: ignore[arg-type]
    (lambda: Producer("t", in_flight_max="x"), "in_flight_max='x': a whole number, 1 or more"),  # type: ignore[arg-type]
    (lambda: Producer("t", in_flight_bytes_max=0), "in_flight_bytes_max=0: a whole number, 1 or more"),
    (lambda: producer().send_nowait(b"x", dely=5), "dely=5: a message has no option dely; did you mean delay?"),
]
AWAITED: list[tuple[Callable[[], Awaitable[object]], str]] = [
    (lambda: producer().send(b"x", dely=5), "dely=5: a message has no option dely; did you mean delay?"),
    (lambda: producer().send(b"x", colour="red"), "colour='red': a message has no option colour; there are delay, "),
    (lambda: producer().send_pipelined(b"x", ky="a"), "ky='a': a message has no option ky; did you mean key?"),
    (lambda: producer().send(b"x", headers=5), "headers = 5: it is a dict of strings, not int"),
    (lambda: producer().send(b"x", timeout="5"), "timeout='5': a time limit is a number of seconds"),
    (lambda: producer().send_batch(5), "send_batch(5): a list of bodies, such as [5]"),
    (lambda: producer().send_batch(b"abc"), "send_batch(b'abc'): a list of bodies, such as [b'abc']"),
    (lambda: consumer().run(5), "run(5): give it a function that takes a message"),
    (lambda: consumer().run(_handle, concurrency="3"), "run: concurrency='3': a whole number, 1 or more"),
    (lambda: consumer(auto_ack=True).run(_handle), "run() acknowledges by itself: make the consumer without auto_ack"),
    (lambda: consumer().fetch("3"), "fetch: count='3': a whole number, in 1..4096"),
    (lambda: consumer().fetch(-1), "fetch: count=-1: a whole number, in 1..4096"),
    (lambda: consumer().fetch(1, timeout="x"), "fetch: timeout='x': a number of seconds, 0 or more"),
    (lambda: mq.declare("t", timeout="x", broker=NOWHERE), "timeout='x': a number of seconds"),  # type: ignore[arg-type]
    (lambda: mq.declare("t", kep=5, broker=NOWHERE), "there is no option kep; did you mean keep?"),  # type: ignore[call-arg]
    (lambda: mq.retry_dead("t", offsets=5, broker=NOWHERE), "offsets=5: a list of offsets, such as [5]"),  # type: ignore[arg-type]
    (lambda: mq.purge_dead("t", offsets="5", broker=NOWHERE), "offsets='5': a list of offsets"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("use", "words"), AT_ONCE)
async def test_mistake_is_named_at_once(use: Callable[[], object], words: str) -> None:
    """Where something is made, or is not awaited, the mistake is raised there."""
    with pytest.raises((UsageError, RpcError)) as caught:
        use()

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("use", "words"), AWAITED)
async def test_mistake_is_named_before_anything_is_sent(use: Callable[[], Awaitable[object]], words: str) -> None:
    """No broker is asked: none is there."""
    with pytest.raises((UsageError, RpcError)) as caught:
        await use()

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
