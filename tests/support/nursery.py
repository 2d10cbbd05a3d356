"""A nursery: Python programs that start at once, because they are forked from a process that has loaded everything.

    test ──one JSON line──> nursery ──fork──> program, a process like any other: its own pid, session, files, end
                                  └─────────> its exit code, in a file, once it has ended

Starting one takes 20 ms instead of 400, so that hundreds can be killed. What differs from a true start: the modules of
the package are there already, and there is no standard input. Where the start itself is the point, start Python.

Every process here ends with the one that asked for it, also when a test run is interrupted or killed.

python -m tests.support.nursery      reads requests, prints pids
"""

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import POLL_S

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
"""linux/prctl.h: a signal for this process when its parent ends."""
GONE = -signal.SIGKILL
"""Exit code of a program whose nursery was killed together with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is to be run, and how."""

    module: str = ""
    """What `python -m` would be given; or:"""
    text: str = ""
    """What `python -W error -c` would be given; or:"""
    file: str = ""
    """The program itself."""
    arguments: list[str]
    directory: str
    environment: dict[str, str]
    """All that it finds."""
    out: str
    err: str
    """Where what it prints is added."""
    end: str
    """Where its exit code will be written."""


def program_of(command: list[str], **rest: Any) -> Program:
    """Return what `python -m module ...`, `python -W error -c text ...` or `python file ...` runs."""
    match command[1:]:
        case ["-m", module, *arguments]:
            return Program(module=module, arguments=arguments, **rest)
        case ["-W", "error", "-c", text, *arguments]:
            return Program(text=text, arguments=arguments, **rest)
        case [file, *arguments] if not file.startswith("-"):
            return Program(file=file, arguments=arguments, **rest)
    raise ValueError(f"cannot be forked: {command}")


class Forked:
    """A program that was forked; used as a `subprocess.Popen`."""

    def __init__(self, program: Program) -> None:
        self._end = Path(program.end)
        self.pid = _nursery().fork(program)

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self._end.exists():
            return int(self._end.read_text())
        return None if _nursery().is_running else GONE

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        while (code := self.poll()) is None:
            time.sleep(POLL_S / 10)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.close)

    @property
    def is_running(self) -> bool:
        """Whether it can fork."""
        return self._popen.poll() is None

    def fork(self, program: Program) -> int:
        """Run a program, and return its pid."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with self._lock:
            self._popen.stdin.write(json.dumps(asdict(program)) + "\n")
            self._popen.stdin.flush()
            return int(self._popen.stdout.readline())

    def close(self) -> None:
        """End it, and with it what it has forked."""
        self._popen.communicate()  # the end of its input is its end


@functools.cache
def _nursery() -> Nursery:
    return Nursery()


# -- in the nursery ------------------------------------------------------------------------------------------

_ends: dict[int, str] = {}
"""Where the exit codes of those that run go, by pid."""


def main() -> None:
    """Fork a program for each line, until the process that wrote them ends."""
    load()
    signal.signal(signal.SIGCHLD, lambda *_: note_ends())
    for line in sys.stdin:
        program = Program(**json.loads(line))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            break
        _ends[pid] = program.end
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        print(pid, flush=True)
    else:
        return
    become(program, parent)  # outside the loop, so that the program's end is that of the process


def load() -> None:
    """Import what programs need, and let them share it."""
    import uvloop  # noqa: F401

    import zbusrpc

    for module in pkgutil.walk_packages(zbusrpc.__path__, "zbusrpc."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("anyio._backends._asyncio")
    gc.collect()
    gc.freeze()


def note_ends() -> None:
    """Write down the exit codes of those that have ended."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            end = Path(_ends.pop(pid))
            unfinished = end.with_suffix(".unfinished")
            unfinished.write_text(str(os.waitstatus_to_exitcode(status)))
            unfinished.rename(end)


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def become(program: Program, parent: int) -> None:
    """Be the program from now on."""
    os.setsid()
    end_with(parent)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, opened in enumerate(
        (os.open(os.devnull, os.O_RDONLY), os.open(program.out, flags), os.open(program.err, flags))
    ):
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(program.environment)
    os.chdir(program.directory)
    sys.argv = ["-m" if program.module else "-c", *program.arguments]
    sys.path[0] = program.directory
    if program.module:
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)
    elif program.file:
        sys.argv[0] = program.file
        runpy.run_path(program.file, run_name="__main__")
    else:
        warnings.simplefilter("error")
        exec(compile(program.text, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})


if __name__ == "__main__":
    main()
