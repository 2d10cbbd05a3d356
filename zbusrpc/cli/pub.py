"""`zbusrpc pub`: messages from arguments, a file or standard input into a topic.

Lines of standard input are sent as they come, many of them without waiting for an answer, in bounded memory. The first
message that is refused ends it, and what was stored is told.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, Final

from zbusrpc import envelope
from zbusrpc.cli.lines import Lines
from zbusrpc.cli.progress import counting
from zbusrpc.cli.shell import USAGE, ask, fail, print_json, print_text
from zbusrpc.cli.units import count_text, parse_seconds, size_text
from zbusrpc.config import Settings
from zbusrpc.errors import ConfigError, RpcError
from zbusrpc.mq import MessageOptions, Producer, Receipt
from zbusrpc.mq.commands import command
from zbusrpc.mq.producer import TIMEOUT_S as PRODUCER_TIMEOUT_S

STDIN: Final = "-"
INTERRUPTED_S: Final = 2.0
"""How long Ctrl-C lets a broker answer what was sent."""

Bodies = AsyncGenerator[bytes, None]


class Tally:
    """What has been stored of the messages that were sent."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.sent = 0
        self.stored = 0
        self.duplicates = 0
        self.failure: RpcError | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._first: Receipt | None = None
        self._last: Receipt | None = None

    def note(self, answered: "asyncio.Future[Receipt]") -> None:
        """Take in a receipt, or an error."""
        if answered.cancelled():
            return
        error = answered.exception()
        if error is None:
            self._count(answered.result())
        elif self.failure is None and isinstance(error, RpcError):
            self.failure = error
            self.on_failure()

    def _count(self, receipt: Receipt) -> None:
        if receipt.is_duplicate:
            self.duplicates += 1
        else:
            self.stored += 1
            self._first = self._first or receipt
        self._last = receipt

    @property
    def has_any(self) -> bool:
        """Whether something is stored."""
        return self._last is not None

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        first, last = self._first or self._last, self._last
        offsets = {"offset": first.offset, "last_offset": last.offset} if first and last else {}
        durability = {"durability": last.durability} if last else {}
        return {"topic": self.topic, "stored": self.stored, "duplicates": self.duplicates, **offsets, **durability}

    def __str__(self) -> str:
        if self._last is None:
            return f"nothing was stored in {self.topic}"
        stored = count_text(self.stored, "message")
        if self._first is None:
            known = count_text(self.duplicates, "message")
            return f"{known} stored before in {self.topic} at offset {self._last.offset}"
        where = f"offset {self._first.offset}"
        if self.stored > 1:
            where = f"offsets {self._first.offset} to {self._last.offset}"
        before = f"; {self.duplicates:,} stored before" if self.duplicates else ""
        return f"{stored} stored in {self.topic} at {where} ({self._last.durability}){before}"


def message_options(
    *, tag: str | None, key: str | None, id_: str | None, header: list[str], delay: str | None, ttl: str | None
) -> MessageOptions:
    """Return what each message has, from the text of the options.

    Raises:
        ConfigError: one cannot be used.
    """
    headers: dict[str, str] = {}
    for text in header:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ConfigError(f"--header {text!r}: write NAME=VALUE")
        headers[name] = value
    return MessageOptions(
        key=key,
        tag=tag,
        id=id_,
        headers=headers,
        delay=None if delay is None else parse_seconds("--delay", delay),
        ttl=None if ttl is None else parse_seconds("--ttl", ttl),
    )


def run_pub(
    topic: str,
    bodies: list[str],
    settings: Settings,
    options: MessageOptions,
    *,
    file: str | None,
    count: int,
    declare: bool,
    as_json: bool,
) -> None:
    """Store messages, and print where they are.

    Args:
        options: What each of them has.
        count: How often each is stored.
    """
    if file is not None and bodies:
        fail(f"{bodies[0]!r} and --file {file}: a body comes from one place", USAGE)
    id_ = options.get("id")
    if id_ is not None and file is None and (len(bodies) != 1 or count != 1):
        fail(f"--id {id_} names one message: give one BODY; those that follow would count as sent again", USAGE)
    tally = Tally(topic)
    source = _bodies(bodies, file, settings.message_bytes_max, tally)
    try:
        ask(_publish(tally, source, settings, options, count=count, declare=declare), as_json=as_json)
    except ConfigError as error:
        raise ConfigError(f"{error}; {tally}" if tally.has_any else str(error)) from None
    if tally.failure is not None:
        _fail(tally, tally.failure, as_json=as_json)
    if as_json:
        print_json(tally.as_dict())
    else:
        print_text(f"{tally}\n")


async def _publish(
    tally: Tally,
    bodies: Bodies,
    settings: Settings,
    options: MessageOptions,
    *,
    count: int,
    declare: bool,
) -> None:
    """Send everything, until the first error; all that was sent has been answered then."""
    # A producer waits for a broker that restarts; somebody at a terminal wants to know at once that there is none.
    await command("declare" if declare else "topic", settings.broker, settings.timeout, topic=tally.topic)
    patience_s = PRODUCER_TIMEOUT_S
    try:
        async with Producer[Any](tally.topic, broker=settings.broker, declare=False) as producer:
            try:
                async with counting("Storing", lambda: tally.sent, is_wanted=not sys.stdin.isatty()):
                    await _send_all(producer, tally, bodies, options, count)
            except asyncio.CancelledError:
                patience_s = INTERRUPTED_S
                raise
            finally:
                with suppress(RpcError, TimeoutError):  # the tally has it
                    await asyncio.wait_for(producer.flush(), patience_s)
                await asyncio.sleep(0)  # what was answered just now is noted at the end of this turn
    except asyncio.CancelledError:
        sys.stderr.write(f"zbusrpc: interrupted; {tally}\n")
        raise


async def _send_all(producer: Producer[Any], tally: Tally, bodies: Bodies, options: MessageOptions, count: int) -> None:
    async with aclosing(bodies):
        async for data in bodies:
            body = _text_or_bytes(data)
            for _ in range(count):
                if tally.failure is not None:
                    return
                try:
                    sent = await producer.send_pipelined(body, **options)
                except RpcError as error:
                    tally.failure = tally.failure or error
                    return
                tally.sent += 1
                sent.add_done_callback(tally.note)


# -- bodies --------------------------------------------------------------------------------------------------


async def _bodies(arguments: list[str], file: str | None, bytes_max: int, tally: Tally) -> Bodies:
    if file is not None:
        yield _read_file(file, bytes_max)
    elif arguments and arguments != [STDIN]:
        for argument in arguments:
            yield os.fsencode(argument)
    else:
        if sys.stdin.isatty():
            sys.stderr.write("one message a line; end with Ctrl-D\n")
        lines = Lines(bytes_max)
        tally.on_failure = lines.end
        async for line in lines:
            yield line


def _read_file(name: str, bytes_max: int) -> bytes:
    try:
        with open(name, "rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > bytes_max:
        raise ConfigError(f"{name} is larger than {size_text(bytes_max)}, the limit of a message (message_bytes_max)")
    return data


def _text_or_bytes(data: bytes) -> str | bytes:
    """Return text where it is one: its consumers are told so."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _fail(tally: Tally, error: RpcError, *, as_json: bool) -> None:
    """Print why it ended, and what was stored before."""
    if as_json:
        print_json(envelope.load(envelope.error_body(error)) | tally.as_dict())
        raise SystemExit(1)
    fail(f"{error}; {tally}" if tally.has_any else str(error))
