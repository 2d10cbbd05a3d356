"""Log lines: nobody waits for whoever reads them, and what nobody read is counted and said."""

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support.waiting import wait_until
from zbusrpc import log_lines
from zbusrpc.log_lines import EVENT_LINES_MAX, EVENT_S, EventCounts, LineHandler
from zbusrpc.service.attachment import access_log


class Stderr:
    """A standard error that is one end of a pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.handlers: list[LineHandler] = []
        """What writes to it."""

    def fileno(self) -> int:
        return self.writing


@pytest.fixture
def pipe() -> Iterator[Stderr]:
    """Return a pipe that may stand in place of the standard error."""
    made = Stderr()
    yield made
    with suppress(OSError):
        os.close(made.reading)
    for handler in made.handlers:  # else one writes to whatever has this descriptor next
        wait_until(lambda handler=handler: handler._written_bytes == handler._taken_bytes, "the last line")
    with suppress(OSError):
        os.close(made.writing)


class Lines:
    """A handler, and what it says of itself."""

    def __init__(self, pipe: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", pipe)
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.handler = LineHandler(lambda event, **facts: self.said.append((event, facts)))
        pipe.handlers.append(self.handler)

    def log(self, text: str, *, name: str = "others", level: int = logging.INFO) -> None:
        self.handler.handle(logging.LogRecord(name, level, "file", 1, text, (), None))


def read_all(pipe: Stderr, until: bytes) -> bytes:
    """Return what comes through a pipe, up to some bytes."""
    data = b""
    while until not in data:
        data += os.read(pipe.reading, 1 << 20)
    return data


def test_lines_are_written_in_their_order(pipe: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread, and whole."""
    lines = Lines(pipe, monkeypatch)

    for number in range(100):
        lines.log(f"line {number}")

    assert read_all(pipe, b"line 99\n").decode().splitlines() == [f"line {number}" for number in range(100)]


def test_full_pipe_stops_nobody_and_costs_bounded_memory(pipe: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there was no room for is counted, and said when there is."""
    lines = Lines(pipe, monkeypatch)
    text = "x" * 10_000

    for _ in range(1000):
        lines.log(text)
    waiting = sum(map(len, lines.handler._lines))

    assert waiting <= log_lines.LINES_BYTES_MAX
    reader = threading.Thread(target=read_all, args=(pipe, b"end\n"))
    reader.start()
    wait_until(lambda: lines.said, "lines to be told")
    ((event, facts),) = lines.said
    assert event == "log.lines_dropped"
    assert 1000 - (waiting // len(text)) - 20 < facts["lines"] < 1000
    lines.log("end")
    reader.join()


def test_standard_error_that_is_closed_stops_nobody(pipe: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its other end, nor itself, nor where there is none at all."""
    lines = Lines(pipe, monkeypatch)
    os.close(pipe.reading)
    lines.log("nobody reads")
    lines.handler.flush()
    os.close(pipe.writing)
    lines.log("nobody writes")
    lines.handler.flush()
    monkeypatch.setattr(lines.handler, "stream", None)
    lines.log("nothing there")
    lines.handler.flush()
    back = io.StringIO()
    monkeypatch.setattr(lines.handler, "stream", back)
    lines.log("back again")
    lines.handler.flush()

    assert back.getvalue() == "back again\n"


def test_waiting_for_a_reader_at_the_end_is_bounded(pipe: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process ends though nobody reads its last lines."""
    monkeypatch.setattr(log_lines, "FLUSH_S", 0.01)
    lines = Lines(pipe, monkeypatch)
    for _ in range(20):
        lines.log("x" * 10_000)

    lines.handler.flush()

    assert lines.handler._lines
    read_all(pipe, b"x\n")


def test_fork_begins_without_lines_and_thread(pipe: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent has to write is the parent's; the child writes its own."""
    lines = Lines(pipe, monkeypatch)
    lines.log("parent")
    read_all(pipe, b"parent\n")

    pid = os.fork()
    if not pid:
        lines.log("child")
        lines.handler.flush()
        os._exit(0)

    assert read_all(pipe, b"child\n") == b"child\n"
    os.waitpid(pid, 0)


def record(event: str, level: int = logging.WARNING, name: str = "zbusrpc.broker") -> logging.LogRecord:
    """Return a line as structlog makes them."""
    return logging.LogRecord(name, level, "file", 1, {"event": event, "peer": "x"}, (), None)  # type: ignore[arg-type]


def test_one_event_has_a_share_of_the_log() -> None:
    """Others are written as before; what was left out is told when its time is over."""
    counts = EventCounts()

    told = [counts.note(record("broker.refused"), 1.0) for _ in range(EVENT_LINES_MAX + 50)]

    assert told == [0] * EVENT_LINES_MAX + [None] * 50
    assert counts.note(record("broker.other"), 1.0) == 0
    assert counts.note(record("broker.refused"), 1.0 + EVENT_S) == 50
    assert counts.note(record("broker.refused"), 1.0 + EVENT_S) == 0


def test_what_was_left_out_is_told_though_nothing_comes_any_more() -> None:
    """With how many lines, and once."""
    counts = EventCounts()
    for _ in range(EVENT_LINES_MAX + 7):
        counts.note(record("broker.refused"), 1.0)
    counts.note(record("broker.other"), 1.0)

    assert counts.ended(1.0 + EVENT_S / 2) == []
    assert counts.ended(1.0 + EVENT_S) == [("broker.refused", 7)]
    assert counts.ended(1.0 + EVENT_S) == []


def test_lines_of_applications_and_for_debugging_are_not_counted() -> None:
    """Who asked for them wants all of them."""
    counts = EventCounts()

    for one in (record("a", logging.DEBUG), record("a", name="myapp")):
        assert {counts.note(one, 1.0) for _ in range(10 * EVENT_LINES_MAX)} == {0}


def test_lines_that_somebody_asked_for_are_not_counted() -> None:
    """An access log has a line for each call, however many there are."""
    counts = EventCounts()

    noted = [
        counts.note(record("service.call", logging.INFO, access_log.name), 0.0) for _ in range(10 * EVENT_LINES_MAX)
    ]

    assert set(noted) == {0}
