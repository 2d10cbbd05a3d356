"""`zbusrpc sub`: messages of a topic on standard output as they come.

A message is acknowledged when it was written; what was not written, and all of it where nothing is to be acknowledged,
is given back at the end as not begun. Output is written in a thread, so that a reader that takes its time costs neither
the connection nor a lease.
"""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from zbusrpc.cli.shell import ask, forget_output, is_output_read, stop_event
from zbusrpc.cli.show import describe, print_bytes, print_messages
from zbusrpc.config import Settings
from zbusrpc.errors import Code, RpcError
from zbusrpc.mq import Consumer, GroupOptions, ReceivedMessage, StartAt
from zbusrpc.mq.commands import command
from zbusrpc.mq.consumer import WINDOW

BATCH: Final = 256
"""Messages that are written together."""
LOOK_S: Final = 0.5
"""How often it is looked whether anybody still reads what is printed."""
NEW_GROUP: Final[dict[str, Any]] = {"ack": True, "lease_ms": 30_000}
"""Options of a group that nobody has declared, as docs/protocol.md has it."""
RENEWALS_PER_LEASE: Final = 3
POLL_S: Final = 0.1
"""Between two questions for messages."""
UNANSWERED_MAX: Final = 4096
"""A group's consumers may not have more."""

Messages = Sequence[ReceivedMessage[bytes]]
Unanswered = dict[int, ReceivedMessage[bytes]]
Write = Callable[[Messages], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages."""

    topic: str
    group: str | None
    filter: str
    start: StartAt | None
    count: int | None
    timeout_s: float | None
    is_acknowledging: bool


def run_sub(wanted: Wanted, settings: Settings, *, as_json: bool, as_raw: bool) -> None:
    """Print messages until there were enough, nobody reads them any more, or a signal comes."""
    write = _write_raw if as_raw else _write_json if as_json else _write_lines
    ask(_until_stopped(wanted, settings, write), as_json=as_json)


async def _until_stopped(wanted: Wanted, settings: Settings, write: Write) -> None:
    stop = stop_event()
    printing = asyncio.create_task(_print(wanted, settings, write))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({printing, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not printing.done():
        printing.cancel()
        await asyncio.wait({printing})
    if not printing.cancelled():
        printing.result()


async def _print(wanted: Wanted, settings: Settings, write: Write) -> None:
    # A consumer makes the topic that it wants; at a terminal, a topic that is not there is a typo.
    found = await command("topic", settings.broker, settings.timeout, topic=wanted.topic)
    there = next((group["options"] for group in found["groups"] if group["group"] == wanted.group), NEW_GROUP)
    options = GroupOptions(ack=there["ack"])
    if wanted.filter:
        options["filter"] = wanted.filter
    consumer = Consumer(
        wanted.topic,
        group=wanted.group,
        broker=settings.broker,
        start=wanted.start,
        window=0 if _is_asking(wanted) else WINDOW,
        **options,
    )
    async with consumer, _kept(there["lease_ms"] / 1000) as unanswered:
        if sys.stdout.isatty():
            sys.stderr.write(f"waiting for messages of {wanted.topic}; Ctrl-C ends it\n")
        try:
            await _pass_on(consumer, wanted, write, unanswered)
        except BrokenPipeError:
            forget_output()


def _is_asking(wanted: Wanted) -> bool:
    """Say whether messages are asked for, and none sent ahead.

    What is sent ahead and given back unread comes to others a second time, or counts as an attempt of theirs.
    """
    return wanted.count is not None or not wanted.is_acknowledging


async def _pass_on(consumer: Consumer[bytes], wanted: Wanted, write: Write, unanswered: Unanswered) -> None:
    """Write messages until there were enough.

    Raises:
        BrokenPipeError: nobody reads them any more.
    """
    left, silent_since = wanted.count or sys.maxsize, time.monotonic()
    while left > 0:
        silence_s = time.monotonic() - silent_since
        if wanted.timeout_s is not None and silence_s >= wanted.timeout_s:
            return
        room = min(left, BATCH, UNANSWERED_MAX - len(unanswered))
        if not room:
            sys.stderr.write(f"zbusrpc: no more than {UNANSWERED_MAX:,} messages may be open without acknowledgement\n")
            return
        wait_s = LOOK_S if wanted.timeout_s is None else min(LOOK_S, wanted.timeout_s - silence_s)
        messages = await _fetch(consumer, wanted, room, wait_s)
        if messages:
            unanswered |= {message.offset: message for message in messages}
            await _in_thread(write, messages)
            if wanted.is_acknowledging:
                _acknowledge(messages, unanswered)
            left -= len(messages)
            silent_since = time.monotonic()
        elif not is_output_read():
            raise BrokenPipeError


async def _fetch(consumer: Consumer[bytes], wanted: Wanted, count: int, wait_s: float) -> Messages:
    """Return messages, or none after a while."""
    try:
        # What nobody waits for at the broker cannot be on its way to here when all is given back.
        messages = await consumer.fetch(count, timeout=wait_s if wanted.is_acknowledging else 0)
    except RpcError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        messages = []  # the broker may be on its way back
    if not messages and _is_asking(wanted):
        await asyncio.sleep(min(wait_s, POLL_S))
    return messages


async def _in_thread(write: Write, messages: Messages) -> None:
    """Write in a thread that nobody waits for at the end of the program: its reader may take any time.

    Raises:
        BrokenPipeError: nobody reads any more.
        ConfigError: it cannot be written.
    """
    loop = asyncio.get_running_loop()
    written: asyncio.Future[None] = loop.create_future()

    def tell(error: Exception | None) -> None:
        if not written.done():
            written.set_result(None) if error is None else written.set_exception(error)

    def run() -> None:
        error: Exception | None = None
        try:
            write(messages)
        except Exception as failure:  # for whoever waits
            error = failure
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, daemon=True).start()
    await written


def _acknowledge(messages: Messages, unanswered: Unanswered) -> None:
    for message in messages:
        message.ack_nowait()
        unanswered.pop(message.offset, None)


@asynccontextmanager
async def _kept(lease_s: float) -> AsyncIterator[Unanswered]:
    """Yield what messages are put into whose leases are renewed; at the end they are given back."""
    unanswered: Unanswered = {}

    async def renew() -> None:
        while True:
            await asyncio.sleep(lease_s / RENEWALS_PER_LEASE)
            for message in list(unanswered.values()):
                message.extend_nowait()

    renewing = asyncio.create_task(renew())
    try:
        yield unanswered
    finally:
        renewing.cancel()
        for message in unanswered.values():
            message.release_nowait()


def _write_raw(messages: Messages) -> None:
    print_bytes(b"".join(message.body + b"\n" for message in messages))


def _write_json(messages: Messages) -> None:
    print_messages([_describe(message) for message in messages], as_json=True)


def _write_lines(messages: Messages) -> None:
    print_messages([_describe(message) for message in messages], as_json=False)


def _describe(message: ReceivedMessage[bytes]) -> dict[str, Any]:
    return describe(
        offset=message.offset,
        timestamp_ms=round(message.timestamp.timestamp() * 1000),
        id=message.id,
        tag=message.tag,
        key=message.key,
        headers=message.headers,
        attempt=message.attempt,
        body=message.body,
    )
