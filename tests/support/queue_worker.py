"""Producers and consumers as programs of their own, which write into a ledger what they are told (see ledger.py).

python -m tests.support.queue_worker produce|consume '{"address": "127.0.0.1:15555", "file": "...", ...}'

SIGTERM lets them finish what they began; anything else is for the test to do.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.ledger import NOTHING
from zbusrpc.errors import RpcError
from zbusrpc.mq.consumer import Consumer
from zbusrpc.mq.outgoing import Outgoing
from zbusrpc.mq.producer import Producer

BATCH = 3
PIPELINE = 32
KEYS = 4
TAGS = ("eu.new", "us.new", "eu.old")
DELAYED_EVERY = 10
DELAY_S = 0.1
TIMEOUT_S = 60.0
"""Longer than any broker is away here: a producer that gives up proves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Produce:
    """What a producer is to do."""

    address: str
    file: str
    topics: list[str]
    label: str
    """Part of each message's name and key, so that no two producers share one."""
    styles: list[str] = field(default_factory=lambda: ["single", "batch", "pipelined"])
    pause_s: float = 0.005
    """Between two calls of each style."""
    count: int = 0
    """How many calls of each style; 0 is until SIGTERM."""
    padding: int = 0
    """Bytes that each body has besides the message's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consume:
    """What a consumer is to do."""

    address: str
    file: str
    topic: str
    group: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of the group, in the words of `Consumer`."""
    window: int = 64
    handle_s: float = 0.0
    """How long each message takes."""
    refuse: str = ""
    """Messages with this in their names are refused."""
    confirm_every: int = 5
    """Of every so many messages one is acknowledged with a confirmation."""


class Notes:
    """The file of one process."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *lines: tuple[object, ...]) -> None:
        """Write lines all together."""
        os.write(self._descriptor, "".join(" ".join(map(str, line)) + "\n" for line in lines).encode())


class ProducingStyle:
    """One way to produce into one topic."""

    def __init__(self, config: Produce, topic: str, style: str, notes: Notes, stop: asyncio.Event) -> None:
        self._config, self._topic, self._style, self._notes, self._stop = config, topic, style, notes, stop
        self._prefix = f"{config.label}-{topic}-{style}"
        self._numbers = itertools.count()
        self._room = asyncio.Semaphore(PIPELINE)

    async def run(self) -> None:
        """Produce until it is over."""
        act = {"single": self._send_one, "batch": self._send_batch, "pipelined": self._send_ahead}[self._style]
        async with Producer(self._topic, broker=self._config.address, timeout=TIMEOUT_S) as producer:
            for number in itertools.count(1):
                await act(producer)
                if self._stop.is_set() or number == self._config.count:
                    break
                await asyncio.sleep(self._config.pause_s)
            with suppress(RpcError):  # each future has told it already
                await producer.flush()

    def _next(self) -> Outgoing[str]:
        number = next(self._numbers)
        body = f"{self._prefix}-{number}"
        is_delayed = number % DELAYED_EVERY == DELAYED_EVERY - 1
        return Outgoing(
            f"{body} {'x' * self._config.padding}" if self._config.padding else body,
            key=None if is_delayed else f"{self._prefix}-{number % KEYS}",
            tag=TAGS[number % len(TAGS)],
            delay=DELAY_S if is_delayed else None,
        )

    async def _send_one(self, producer: Producer[str]) -> None:
        message = self._next()
        self._note_sent([message])
        try:
            receipt = await producer.send(message.body, key=message.key, tag=message.tag, delay=message.delay)
        except RpcError as error:
            self._note_error([message], error)
        else:
            self._note_acked([message], [receipt.offset])

    async def _send_batch(self, producer: Producer[str]) -> None:
        messages = [self._next() for _ in range(BATCH)]
        self._note_sent(messages, _name(messages[0]))
        try:
            receipts = await producer.send_batch(messages)
        except RpcError as error:
            self._note_error(messages, error)
        else:
            self._note_acked(messages, [receipt.offset for receipt in receipts])

    async def _send_ahead(self, producer: Producer[str]) -> None:
        await self._room.acquire()
        message = self._next()
        self._note_sent([message])
        sent = await producer.send_pipelined(message.body, key=message.key, tag=message.tag, delay=message.delay)

        def ended(future: "asyncio.Future[Any]") -> None:
            self._room.release()
            error = future.exception()
            if error is None:
                self._note_acked([message], [future.result().offset])
            elif isinstance(error, RpcError):
                self._note_error([message], error)

        sent.add_done_callback(ended)

    def _note_sent(self, messages: list[Outgoing[str]], batch: str = NOTHING) -> None:
        self._notes.write(
            *[("sent", self._topic, _name(one), one.key or NOTHING, one.tag or NOTHING, batch) for one in messages]
        )

    def _note_acked(self, messages: list[Outgoing[str]], offsets: list[int]) -> None:
        named = zip(messages, offsets, strict=True)
        self._notes.write(*[("acked", self._topic, _name(one), offset) for one, offset in named])

    def _note_error(self, messages: list[Outgoing[str]], error: RpcError) -> None:
        if error.may_have_run is False:
            self._notes.write(*[("refused", self._topic, _name(one), error.code) for one in messages])
        print(error.message, flush=True)


def _name(message: Outgoing[str]) -> str:
    return message.body.partition(" ")[0]


async def produce(config: Produce, stop: asyncio.Event) -> None:
    """Produce in every style into every topic."""
    notes = Notes(config.file)
    styles = [ProducingStyle(config, topic, style, notes, stop) for topic in config.topics for style in config.styles]
    await asyncio.gather(*[style.run() for style in styles])


async def consume(config: Consume, stop: asyncio.Event) -> None:
    """Consume until it is over."""
    notes = Notes(config.file)
    place = config.topic, config.group
    consumer = Consumer(
        config.topic,
        group=config.group,
        body=str,
        broker=config.address,
        window=config.window,
        **config.options,
    )

    async def handle_all() -> None:
        number = 0
        async for message in consumer:
            number += 1
            name = message.body.partition(" ")[0]
            key = message.key or NOTHING
            notes.write(("got", *place, name, message.offset, message.attempt, key, time.monotonic_ns()))
            if config.handle_s:
                await asyncio.sleep(config.handle_s)
            if config.refuse and config.refuse in name:
                await message.nack(reason=f"{name} is refused")
            elif number % config.confirm_every:
                await message.ack()
            else:
                with suppress(RpcError):  # it comes again
                    await message.ack(confirmed=True)
                    notes.write(("done", *place, name, message.attempt, time.monotonic_ns()))

    async with consumer:
        print("ready", flush=True)
        handling = asyncio.create_task(handle_all())
        await stop.wait()
        handling.cancel()


def main() -> None:
    """Do what the command line says."""
    role, fields = sys.argv[1], json.loads(sys.argv[2])

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        if role == "produce":
            await produce(Produce(**fields), stop)
        else:
            await consume(Consume(**fields), stop)

    import uvloop

    uvloop.run(run())


if __name__ == "__main__":
    main()
