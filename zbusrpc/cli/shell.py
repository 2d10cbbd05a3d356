"""What commands share: an event loop that ends on a signal, the ready line of servers, the one line of a mistake."""

import asyncio
import gc
import os
import select
import signal
import stat
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TextIO, TypeVar

import orjson

from zbusrpc import envelope
from zbusrpc.cli.printable import printable, printable_lines
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.errors import ConfigError, RpcError
from zbusrpc.outcome import type_of

R = TypeVar("R")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_NOW = 130
"""Exit code of a process that was interrupted: what shells report for it."""
USAGE = 2
"""Exit code where options do not go together."""


def fail(line: str, exit_code: int = 1) -> NoReturn:
    """Print one line for a person and exit; what others wrote of it stands there as escapes where it is no text."""
    sys.stderr.write(f"zbusrpc: {printable(line)}\n")
    raise SystemExit(exit_code)


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run `main` on uvloop where there is one; Ctrl-C cancels it and ends the process."""
    try:
        if sys.platform == "win32":
            return asyncio.run(main)
        import uvloop

        return uvloop.run(main)
    except KeyboardInterrupt:
        raise SystemExit(EXIT_NOW) from None


def ask(main: Coroutine[Any, Any, R], *, as_json: bool) -> R:
    """Run what asks a broker, and return the answer; an error is printed, as JSON where that is wanted, and exits."""
    try:
        return run(_closing(main))
    except RpcError as error:
        if not as_json:
            fail(str(error))
        print_text(envelope.error_body(error, type_name=type_of(error)).decode() + "\n")
        raise SystemExit(1) from None


async def _closing(main: Coroutine[Any, Any, R]) -> R:
    try:
        return await main
    finally:
        await close_fleets()


def print_text(text: str, *, is_drawn: bool = False) -> None:
    """Print text, on a terminal with what it would obey as escapes; that nobody reads it any more is no mistake.

    Args:
        is_drawn: Whether it is for the terminal to obey: it has colours, and what others wrote was seen to.

    Raises:
        ConfigError: it cannot be written, for example because a disk is full.
    """
    try:
        sys.stdout.write(printable_lines(text) if sys.stdout.isatty() and not is_drawn else text)
    except BrokenPipeError:
        forget_output()
    except OSError as error:
        forget_output()
        raise unprintable(error) from None


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print_text(orjson.dumps(value).decode() + "\n")


def open_standard_streams() -> None:
    """Give a process that was started without them input, output and errors: other files would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the end


def flush_output() -> None:
    """Write what waits to be printed; that nobody reads it any more is no mistake."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_output()
    except OSError as error:
        forget_output()
        fail(str(unprintable(error)))


def unprintable(error: OSError) -> ConfigError:
    """Return the error for output that cannot be written, for example because a disk is full."""
    return ConfigError(f"cannot write to standard output: {(error.strerror or str(error)).lower()}")


def forget_output() -> None:
    """Print nothing any more: whoever read it has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_output_read() -> bool:
    """Say whether somebody may read what is printed: of a pipe, whether its other end is open."""
    descriptor = sys.stdout.fileno()
    if sys.platform == "win32" or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return True
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are told in any case
    return not poll.poll(0)


def calm_collector() -> None:
    """Let the garbage collector look less often, in a process that serves.

    What waits for the disk are many small objects that live for some turns: with the default thresholds the collector
    looks at all of them over and over (a produce of one message: 24 us, and 12 us with these).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def stop_event(on_second: Callable[[], None] | None = None) -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets; a second one ends the process at once.

    Others may set it, too: the first signal after that is no second one.

    Args:
        on_second: What is to be done before that.
    """
    stop = asyncio.Event()
    signalled = False

    def on_signal() -> None:
        nonlocal signalled
        if signalled:
            if on_second is not None:
                on_second()
            os._exit(EXIT_NOW)
        signalled = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
        else:
            loop.add_signal_handler(number, on_signal)
    return stop


def announce(facts: dict[str, Any], lines: list[str], *, as_json: bool, out: TextIO | None = None) -> None:
    """Print that a server is ready, on `out` or standard output: one JSON line for machines, or lines for people."""
    text = orjson.dumps({"event": "ready", "pid": os.getpid(), **facts}).decode() if as_json else "\n".join(lines)
    out = out or sys.stdout
    out.write(text + "\n")
    out.flush()


def reserve_output() -> TextIO:
    """Return standard output, for one alone: what else this process and its children print goes to standard error."""
    sys.stdout.flush()
    reserved = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return open(reserved, "w", encoding="utf-8")
