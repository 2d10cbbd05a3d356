"""A nursery: programs that start at once, because they are forked from a process that has loaded everything.

    test ──asks──> nursery ──fork──> Python program, a process like any other: its own pid, session, files, end
                          └─exec──> any other program, or Python itself where its start is the point

Starting a Python program takes 20 ms instead of 400, so that hundreds can be killed. What differs from a true start:
the modules of the package are there already.

Every process here ends with the one that asked for it, also when a test run is interrupted or killed: with the nursery
itself by PR_SET_PDEATHSIG, and with whoever closes the connection by which it was asked for (see forked.py).

python -m tests.support.nursery SOCKET      listens there until its standard input ends
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
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from tests.support import forked
from tests.support.forked import Forked, Program

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
"""linux/prctl.h: a signal for this process when its parent ends."""
REQUEST_BYTES = 65536
WAITING_MAX = 128
"""Connections that may wait to be accepted."""


class Nursery:
    """The process that forks."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="zbusrpc-nursery-")
        self.address = os.path.join(self._directory, "socket")
        """Where it listens."""
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery", self.address],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.close)
        assert self._popen.stdout is not None
        assert self._popen.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End it, and with it what it has forked."""
        self._popen.communicate()  # the end of its input is its end
        shutil.rmtree(self._directory)


@functools.cache
def _nursery() -> Nursery:
    return Nursery()


def start(program: Program, *, stdin: int | None = None, out: int, err: int) -> Forked:
    """Start a program.

    Args:
        stdin: By default there is none.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        return Forked(_nursery().address, program, (nothing if stdin is None else stdin, out, err))
    finally:
        os.close(nothing)


def write_command(directory: Path) -> None:
    """Write a program `zbusrpc` for shells, which is forked."""
    words = [sys.executable, "-I", "-S", forked.__file__, _nursery().address, "-m", "zbusrpc"]
    path = directory / "zbusrpc"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)


# -- in the nursery ------------------------------------------------------------------------------------------

_askers: dict[int, socket.socket] = {}
"""Who is to have the exit code of those that run, by pid."""


def main() -> None:
    """Start a program for each connection, until the process that wanted it ends."""
    load()
    signal.signal(signal.SIGCHLD, lambda *_: note_ends())
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
        listening.bind(sys.argv[1])
        listening.listen(WAITING_MAX)
        selector.register(listening, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        print("ready", flush=True)
        born = serve(listening, selector)
    if born is not None:
        become(*born)  # outside, so that the program's end is that of the process


def serve(listening: socket.socket, selector: selectors.BaseSelector) -> tuple[Program, list[int], int] | None:
    """Fork; return nothing when all is over, and in the fork what it is to be: a program, its files, and its parent."""
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                return None
            if isinstance(key.fileobj, socket.socket) and key.fileobj is not listening:
                leave(selector, key.fileobj)  # it asks once, and closes when it does not want the program any more
                continue
            asker, _ = listening.accept()
            request, files = read_request(asker)
            if not request:  # it ended before it had said what it wanted
                asker.close()
                continue
            program = Program(*json.loads(request))
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                for connection in (asker, *_askers.values()):
                    connection.close()
                return program, files, parent
            for file in files:
                os.close(file)
            _askers[pid] = asker
            asker.sendall(b"%d\n" % pid)
            selector.register(asker, selectors.EVENT_READ, pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def read_request(asker: socket.socket) -> tuple[bytes, list[int]]:
    """Return the line of a request, and its files; nothing where it does not come whole."""
    data, files, _, _ = socket.recv_fds(asker, REQUEST_BYTES, 3)
    while not data.endswith(b"\n"):
        more = asker.recv(REQUEST_BYTES)
        if not more:
            return b"", files
        data += more
    return data, files


def leave(selector: selectors.BaseSelector, asker: socket.socket) -> None:
    """Forget one who asked, and end the program that it asked for, if that still runs."""
    pid = selector.unregister(asker).data
    asker.close()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    if pid in _askers:
        os.kill(pid, signal.SIGKILL)  # it is there, if only to be waited for
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


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
    """Tell the exit codes of those that have ended."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with suppress(OSError):
                _askers[pid].sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            del _askers[pid]


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def become(program: Program, files: list[int], parent: int) -> None:
    """Be the program from now on."""
    os.setsid()
    end_with(parent)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(program.directory)
    if program.command[0] == sys.executable and not program.is_fresh:
        become_python(program.command[1:], program)
    else:
        execute(program)


def execute(program: Program) -> None:
    """Be a program that is not forked, with the signals that any program has; SIGINT is set by exec itself."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(program.command[0], program.command, program.environment)
    except OSError as error:
        sys.exit(f"{program.command[0]}: {error.strerror}")


def become_python(command: list[str], program: Program) -> None:
    """Be what `python` does with `-m module ...`, `-c text ...` or `file ...`, perhaps after `-W error`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(program.environment)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    if command[:2] == ["-W", "error"]:
        warnings.simplefilter("error")
        command = command[2:]
    match command:
        case ["-m", module, *arguments]:
            sys.argv = ["-m", *arguments]
            sys.path[0] = program.directory
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", text, *arguments]:
            sys.argv = ["-c", *arguments]
            sys.path[0] = program.directory
            exec(compile(text, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
        case [file, *arguments] if not file.startswith("-"):
            sys.argv = [file, *arguments]
            sys.path[0] = os.path.dirname(os.path.abspath(file))
            runpy.run_path(file, run_name="__main__")
        case _:
            raise ValueError(f"cannot be forked: {command}")


if __name__ == "__main__":
    main()
