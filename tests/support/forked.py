"""Programs that a nursery (see nursery.py) starts for this process, and the command by which shells use one.

    Forked ──one JSON line, and three files──> nursery     the program's standard input, output and errors
    Forked <──its pid, then its exit code───── nursery     each a line; whoever closes the connection kills the program

python -I -S forked.py NURSERY -m zbusrpc ...    does what `python -m zbusrpc ...` does there, in a tenth of the time

It imports little, so that the command is quick.
"""

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NamedTuple

GONE = -signal.SIGKILL
"""Exit code of a program whose nursery was killed together with it."""


class Program(NamedTuple):
    """What is to be run, and where."""

    command: list[str]
    """Forked is what begins with the Python of the tests; any other program is executed."""
    directory: str
    environment: dict[str, str]
    """All that it finds."""
    is_fresh: bool = False
    """Whether Python is to be started for it, too."""


class Forked:
    """A program that was forked; used as a `subprocess.Popen`."""

    def __init__(self, nursery: str, program: Program, files: tuple[int, int, int]) -> None:
        """Start it.

        Args:
            nursery: Path of the socket where the nursery listens.
            files: Descriptors that become its standard input, output and errors; the caller may close them.
        """
        self.returncode: int | None = None
        """Its exit code, once it was seen to have ended."""
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(nursery)
        request = json.dumps(program).encode() + b"\n"
        sent = socket.send_fds(self._connection, [request], files)
        self._connection.sendall(request[sent:])
        self._lines = self._connection.makefile("rb")
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        if self.returncode is None:
            line = b""
            with suppress(ConnectionError):
                line = self._lines.readline()
            self.returncode = int(line or GONE)
            self.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, if it runs, without waiting for its end."""
        self._lines.close()
        self._connection.close()


def main() -> None:
    """Run a command in place of this process: with its files, signals and exit code."""
    command = [sys.executable, *sys.argv[2:]]
    forked = Forked(sys.argv[1], Program(command, os.getcwd(), dict(os.environ)), (0, 1, 2))

    def pass_on(number: int, _: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(forked.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    os.close(1)  # a reader sees the end of what the program writes when that is over
    code = forked.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
