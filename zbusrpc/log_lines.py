"""Log lines on their way to the standard error, which nobody may read: logging waits for nobody.

    log call ──> made into a line ──> waits (LINES_BYTES_MAX) ──thread──> standard error
                       │                  └── full: dropped, counted, said when there is room
                       └── too many of one event: left out, counted, said when its time is over

A pipe that is full, or a terminal that was stopped, stops the thread and nothing else. The lines that wait are written
when the process ends, as far as that takes no longer than FLUSH_S.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

LINES_BYTES_MAX: Final = 1024 * 1024
"""What may wait to be written: some thousand lines."""
EVENT_LINES_MAX: Final = 100
EVENT_S: Final = 10.0
"""Of one event so many lines are written in this time: a person reads no more, and a peer that is wrong ten thousand
times has not ten thousand things to tell. Those for debugging are all written."""
EVENTS_MAX: Final = 1024
"""Events that are counted at a time; there are fewer."""
FLUSH_S: Final = 1.0
"""A reader that has stopped must not keep a process from its end."""
FULL_S: Final = 0.05
"""Between two looks at a pipe that is full, and that must not be waited for."""
FLUSH_STEP_S: Final = 0.002
OWN: Final = "zbusrpc."
"""Loggers whose events are counted: what an application logs is its own affair."""
WANTED: Final = "zbusrpc.access"
"""The one of them whose lines somebody has asked for: all are written, as long as they are read."""
Say = Callable[..., None]


class LineHandler(logging.Handler):
    """Writes the lines of a process, in a thread of its own."""

    def __init__(self, say: Say) -> None:
        """Have `say` log what was dropped: an event with its facts."""
        super().__init__()
        self.stream = sys.stderr
        """Where lines go; None where there is no standard error, as in a service of Windows."""
        self._say = say
        self._events = EventCounts()
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Have no lines and no thread: a fork has none of its parent's."""
        self._lines: deque[bytes] = deque()
        self._taken_bytes = self._dropped = 0  # changed by those who log, one at a time
        self._written_bytes = self._told_dropped = 0  # changed by the thread
        self._has_lines = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; never wait, and never raise."""
        try:
            left_out = self._events.note(record, time.monotonic())
            if left_out is None:
                return
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:  # a fact that cannot be written must not become a fault of whoever tells it
            line, left_out = f"log.unwritable_line {record.name} {record.lineno}\n".encode(), 0
        self._take(line)
        if left_out:
            self._say("log.lines_left_out", of=event_of(record), lines=left_out)

    def _take(self, line: bytes) -> None:
        if self._taken_bytes - self._written_bytes + len(line) > LINES_BYTES_MAX:
            self._dropped += 1
            return
        self._taken_bytes += len(line)
        self._lines.append(line)
        self._has_lines.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, daemon=True, name="zbusrpc-log")
            self._thread.start()

    def flush(self) -> None:
        """Return when what waits is written, or FLUSH_S have passed; `logging` calls it when the process ends."""
        until = time.monotonic() + FLUSH_S
        while self._written_bytes < self._taken_bytes and time.monotonic() < until:
            time.sleep(FLUSH_STEP_S)

    # -- the thread --------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while True:
            self._has_lines.wait(EVENT_S)
            self._has_lines.clear()
            while self._lines:
                line = self._lines.popleft()
                self._write(line)
                self._written_bytes += len(line)
            dropped = self._dropped - self._told_dropped
            if dropped:
                self._told_dropped += dropped
                self._say("log.lines_dropped", lines=dropped)
            for event, lines in self._events.ended(time.monotonic()):
                self._say("log.lines_left_out", of=event, lines=lines)

    def _write(self, line: bytes) -> None:
        """Write a line; where nobody can take it, it is for nobody."""
        try:
            descriptor = self.stream.fileno()
        except (AttributeError, OSError, ValueError):
            self._write_text(line)
            return
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        except BlockingIOError:  # somebody else has said that this pipe is not to be waited for
            time.sleep(FULL_S)
            self._write(line)
        except OSError:
            pass

    def _write_text(self, line: bytes) -> None:
        with suppress(AttributeError, OSError, ValueError):
            self.stream.write(line.decode())


class EventCounts:
    """How many lines there were of each event."""

    def __init__(self) -> None:
        self._counts: dict[str, list[float]] = {}  # since when, and how many

    def note(self, record: logging.LogRecord, now: float) -> int | None:
        """Count a line: return None where it is left out, else how many before it were."""
        if record.levelno <= logging.DEBUG or not record.name.startswith(OWN) or record.name == WANTED:
            return 0
        event = event_of(record)
        count = self._counts.get(event)
        if count is None or now - count[0] >= EVENT_S:
            if len(self._counts) >= EVENTS_MAX:
                self._counts.clear()
            self._counts[event] = [now, 1]
            return max(0, int(count[1]) - EVENT_LINES_MAX) if count is not None else 0
        count[1] += 1
        return 0 if count[1] <= EVENT_LINES_MAX else None

    def ended(self, now: float) -> list[tuple[str, int]]:
        """Return the events whose time is over and of which lines were left out, with how many, and forget them."""
        over = [event for event, (since, _) in list(self._counts.items()) if now - since >= EVENT_S]
        told = []
        for event in over:
            count = self._counts.pop(event, [0.0, 0])[1]
            if count > EVENT_LINES_MAX:
                told.append((event, int(count) - EVENT_LINES_MAX))
        return told


def event_of(record: logging.LogRecord) -> str:
    """Return what a line tells, without its facts."""
    message: Any = record.msg
    return str(message.get("event") if isinstance(message, dict) else message)[:200]
