"""A terminal of 80 columns: a command runs on it, is answered, and what it shows is kept."""

import fcntl
import os
import pty
import struct
import termios
import time
from contextlib import suppress
from dataclasses import dataclass
from select import select

from tests.support import nursery
from tests.support.forked import Program
from tests.support.nursery import ROOT
from tests.support.waiting import WAIT_S

COLUMNS, LINES = 80, 24


@dataclass(frozen=True, slots=True)
class Shown:
    """What was on the terminal, and how the command ended."""

    output: str
    exit_code: int


def run_on_terminal(command: list[str], question: str = "", answer: str = "", **env: str) -> Shown:
    """Run a command to its end on a terminal of its own.

    Args:
        question: When this is shown, `answer` is typed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZBUSRPC_")}
    full = {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **env}
    running = nursery.start(Program(command, str(ROOT), full), stdin=theirs, out=theirs, err=theirs)
    os.close(theirs)
    output, until = b"", time.monotonic() + WAIT_S
    with suppress(OSError):  # the other end was closed
        while time.monotonic() < until:
            if select([ours], [], [], 0.1)[0]:
                output += os.read(ours, 65536)
            if answer and question.encode() in output:
                os.write(ours, answer.encode())
                answer = ""
    running.kill()
    os.close(ours)
    return Shown(output.decode(), running.wait())
