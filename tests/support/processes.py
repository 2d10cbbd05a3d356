"""Real processes of the `zbusrpc` command and of test programs: started, watched through their output, ended by pid.

What a process prints goes to files, so that nobody blocks on a full pipe and a failed test can show it. All are started
by a nursery (see nursery.py) and end with the test run, however that ends; Python programs are forked from it, as it
has loaded the package, unless a test asks for a true start.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.support import nursery
from tests.support.forked import Program
from tests.support.nursery import ROOT
from tests.support.waiting import WAIT_S, wait_until

LAB = "tests.support.lab:Lab"
PROGRAM_S = 240.0
"""For a program that does much, such as an example or a type checker, on a slow machine."""


def _stores_where_it_runs(command: list[str]) -> bool:
    """Whether it is a broker on a port of its choice, or serves by one of its own: tests in parallel must not share."""
    has_own = "serve" in command and "--broker" not in command
    is_at_port = "broker" in command and "--port" in command and command[command.index("--port") + 1] != "0"
    return (has_own or is_at_port) and "--data-dir" not in command


class Process:
    """One running process."""

    def __init__(
        self, command: list[str], directory: Path, *, cwd: Path | None = None, env: dict[str, str], is_fresh: bool
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        number = len(list(directory.glob("*.out")))
        if _stores_where_it_runs(command):
            env = {"ZBUSRPC_DATA_DIR": str(directory / f"data-{number}"), **env}
        self._out, self._err = directory / f"{number}.out", directory / f"{number}.err"
        program = Program(command, str(cwd or ROOT), env, is_fresh)
        with self._out.open("ab") as out, self._err.open("ab") as err:  # what several write at once stays whole
            self._running = nursery.start(program, out=out.fileno(), err=err.fileno())
        self.pid = self._running.pid

    # -- what it says ------------------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """What it has written to standard output."""
        return self._out.read_text()

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        return self._err.read_text()

    def wait_line(self) -> str:
        """Return the first line of its output, once it is there."""
        line = wait_until(lambda: self._first_line() or self._has_ended(), "first line")
        assert isinstance(line, str), f"ended before it was ready: {self.errors}"
        return line

    def wait_ready(self) -> dict[str, Any]:
        """Return the ready line, once it is there."""
        ready: dict[str, Any] = json.loads(self.wait_line())
        return ready

    def log(self, event: str) -> list[dict[str, Any]]:
        """Return its log lines of one event."""
        lines = [json.loads(line) for line in self.errors.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def _first_line(self) -> str:
        first, newline, _ = self.output.partition("\n")
        return first if newline else ""

    def _has_ended(self) -> bool:
        return self._running.poll() is not None

    # -- its end -----------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self._has_ended()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running.send_signal(number)

    def interrupt_group(self) -> None:
        """Do what Ctrl-C on its terminal does: interrupt it and what it started."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it as kill -9 does, and wait for its end."""
        self._running.kill()
        self._running.wait()

    def wait_exit(self, timeout_s: float = WAIT_S) -> int:
        """Return its exit code, once it has ended by itself."""
        wait_until(self._has_ended, f"end of process {self.pid}; it said: {self.errors}", timeout_s)
        return self._running.wait()

    @property
    def children(self) -> list[int]:
        """The processes that it has started and that still run."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if self.is_running else []

    @property
    def memory_bytes(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command printed, and its exit code."""

    exit_code: int
    output: str
    errors: str


def run_to_end(
    command: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None, is_fresh: bool = False
) -> Ended:
    """Run any program to its end, as `Processes.start` does.

    Args:
        env: All that it finds; by default what this process has.
    """
    program = Program(command, str(cwd), dict(os.environ) if env is None else env, is_fresh)
    with TemporaryFile() as out, TemporaryFile() as err:
        running = nursery.start(program, out=out.fileno(), err=err.fileno())
        try:
            wait_until(lambda: running.poll() is not None, f"end of {command}", PROGRAM_S)
        finally:
            running.kill()
            code = running.wait()
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read().decode(), err.read().decode())


class Processes:
    """The processes of one test; leaving it kills those that still run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.marks_path = directory / "marks"
        self._all: list[Process] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            children = process.children
            process.kill()
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def start(self, *command: str, cwd: Path | None = None, is_fresh: bool = False, **env: str) -> Process:
        """Start any program; a Python one is forked unless it `is_fresh`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ZBUSRPC_")}
        full = {**inherited, "PYTHONPATH": str(ROOT), "LAB_MARKS": str(self.marks_path), **env}
        process = Process(list(command), self.directory / "processes", cwd=cwd, env=full, is_fresh=is_fresh)
        self._all.append(process)
        return process

    def python(self, program: str, *arguments: str, is_fresh: bool = False, **env: str) -> Process:
        """Start a Python program."""
        return self.start(sys.executable, "-W", "error", "-c", program, *arguments, is_fresh=is_fresh, **env)

    def zbusrpc(self, *arguments: str, cwd: Path | None = None, is_fresh: bool = False, **env: str) -> Process:
        """Start the command line."""
        return self.start(sys.executable, "-m", "zbusrpc", *arguments, cwd=cwd, is_fresh=is_fresh, **env)

    def run(self, *arguments: str, cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
        """Run the command line to its end, and return its exit code, output and errors."""
        ended = self.end_of(*arguments, cwd=cwd, **env)
        return ended.exit_code, ended.output, ended.errors

    def end_of(self, *arguments: str, cwd: Path | None = None, **env: str) -> Ended:
        """Run the command line to its end."""
        process = self.zbusrpc(*arguments, cwd=cwd, **env)
        return Ended(process.wait_exit(), process.output, process.errors)

    def broker(self, *arguments: str, port: int = 0, **env: str) -> tuple[Process, str]:
        """Start a broker, and return it with its address."""
        process = self.zbusrpc("broker", "--port", str(port), "--json", *arguments, **env)
        return process, process.wait_ready()["broker"]

    def serve(self, address: str, *arguments: str, target: str = LAB, **env: str) -> Process:
        """Start an instance of a service, and return once it is subscribed."""
        process = self.zbusrpc("serve", target, "--broker", address, "--json", *arguments, **env)
        process.wait_ready()
        return process

    def marks(self, name: str) -> list[str]:
        """Return what handlers noted under a name, in order, without the pid."""
        return [words[1] for words in self._marks() if words[0] == name]

    def pids(self, name: str, event: str) -> list[int]:
        """Return the processes whose handlers noted an event under a name."""
        return [int(words[2]) for words in self._marks() if words[:2] == [name, event]]

    def _marks(self) -> list[list[str]]:
        if not self.marks_path.exists():
            return []
        return [line.split() for line in self.marks_path.read_text().splitlines() if line.count(" ") == 2]


def port_of(address: str) -> int:
    """Return the port of a broker's address."""
    return int(address.rpartition(":")[2])


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is not just waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
