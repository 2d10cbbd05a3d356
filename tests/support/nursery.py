"""A nursery: brokers that start at once, so that hundreds can be killed.

A process that has loaded everything forks each broker; from then on that is a process like any other, with a pid, files
for its output and an end of its own. Starting one takes 20 ms instead of 400.

python -m tests.support.nursery      reads {"arguments": [...], "out": "...", "err": "..."}, prints pids
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, Processes
from tests.support.waiting import wait_until


class Nursery:
    """Starts brokers on one data directory and, from the second on, on the port of the first."""

    def __init__(self, processes: Processes, *arguments: str) -> None:
        self._directory = processes.directory / "nursery"
        self._directory.mkdir()
        self._arguments = arguments
        self._count = 0
        self.address = ""
        """Where its brokers listen."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.broker = self.start()
        """The broker that was started last."""

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.kill()
        self._popen.communicate()  # the end of its input is its end

    def start(self) -> "Nursling":
        """Start a broker, and return it once it is ready."""
        out = self.begin()
        wait_until(lambda: _whole_line(out) or not self.broker.is_running, "ready line")
        assert self.broker.is_running, self.errors
        ready: dict[str, Any] = json.loads(_whole_line(out))
        self.address = ready["broker"]
        return self.broker

    def begin(self) -> Path:
        """Start a broker, and return at once where it will say that it is ready."""
        self._count += 1
        out, err = self._directory / f"{self._count}.out", self._directory / f"{self._count}.err"
        port = self.address.rpartition(":")[2] or "0"
        request = {
            "arguments": ["broker", "--json", "--port", port, *self._arguments],
            "out": str(out),
            "err": str(err),
        }
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(request) + "\n")
        self._popen.stdin.flush()
        self.broker = Nursling(int(self._popen.stdout.readline()), err)
        return out

    def restart(self) -> "Nursling":
        """Kill the broker with -9, and start the next."""
        self.broker.kill()
        return self.start()

    @property
    def errors(self) -> str:
        """What all brokers have logged."""
        return "".join(path.read_text() for path in sorted(self._directory.glob("*.err")))


class Nursling:
    """One broker of a nursery."""

    def __init__(self, pid: int, errors: Path) -> None:
        self.pid = pid
        self._errors = errors

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as kill -9 does, and wait for its end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.is_running:
            time.sleep(0.0005)


def _whole_line(path: Path) -> str:
    text = path.read_text() if path.exists() else ""
    return text if text.endswith("\n") else ""


def main() -> None:
    """Fork a broker for each line, until there are no more."""
    import uvloop  # noqa: F401 - loaded before the forks

    from zbusrpc.cli.app import main as run

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system lets the dead go
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _be_broker(request, run)
        print(pid, flush=True)


def _be_broker(request: dict[str, Any], run: Any) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for descriptor, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, flags), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["zbusrpc", *request["arguments"]]
    try:
        run()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
