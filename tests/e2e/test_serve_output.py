"""What services print when `zbusrpc serve` starts them: it is the user's, and no part of what commands tell."""

import json
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.waiting import wait_until

MODULE = """
import os
from zbusrpc import service

print("imported")

@service
class Talker:
    def __init__(self):
        with open("made", "a") as made:
            made.write(f"{os.getpid()}\\n")
        print("half a line", end="", flush=True)
        os.write(1, b"\\xff\\xfe" + b"flood " * 50_000 + b"\\n{}\\n")

    async def ping(self) -> int:
        return os.getpid()

@service
class Ends:
    async def interrupt(self) -> None:
        raise KeyboardInterrupt

@service
class Down(Talker):
    def __init__(self):
        raise RuntimeError("db down")

@service
class Leaves(Talker):
    def __init__(self):
        raise SystemExit(7)

async def make_talker():
    return Talker()

async def make_none():
    raise RuntimeError("db down")
"""
PRINTED = (b"half a line", b"\xff\xfe", b"flood " * 50_000 + b"\n{}\n")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a directory with a module of services that print."""
    directory = tmp_path / "here"
    directory.mkdir()
    (directory / "talk.py").write_text(MODULE)
    return directory


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_service_prints_passes_untouched(processes: Processes, here: Path, workers: int) -> None:
    """Half a line, bytes that are no text, and floods: in one process or several, and each makes one instance."""
    served = processes.zbusrpc("serve", "talk:Talker", "--workers", f"{workers}", cwd=here, ZBUSRPC_PORT="0")

    def printed() -> bytes:
        return served._out.read_bytes()

    ready = b"processes serve" if workers > 1 else b"  try "
    wait_until(lambda: ready in printed(), "the ready line")
    wait_until(lambda: printed().count(PRINTED[-1]) == workers, "what each process prints")

    assert all(part in printed() for part in PRINTED)
    made = (here / "made").read_text().split()
    assert len(set(made)) == len(made) == workers
    assert workers == 1 or str(served.pid) not in made


@pytest.mark.parametrize("target", ["talk:Talker", "talk:make_talker"])
@pytest.mark.parametrize("workers", [1, 2])
def test_programs_find_the_ready_line_alone(processes: Processes, here: Path, workers: int, target: str) -> None:
    """With --json standard output is one line, and what the service prints is in standard error."""
    options = ("--workers", f"{workers}", "--json")
    served = processes.zbusrpc("serve", target, *options, cwd=here, ZBUSRPC_PORT="0")

    assert served.wait_ready()["event"] == "ready"
    wait_until(lambda: served._err.read_bytes().count(PRINTED[-1]) == workers, "what each process prints")

    assert [json.loads(line)["event"] for line in served.output.splitlines()] == ["ready"]
    assert all(part in served._err.read_bytes() for part in PRINTED)


@pytest.mark.parametrize("target", ["Down", "make_none", "Leaves"])
def test_service_that_cannot_start_ends_alike_in_one_process_and_several(
    processes: Processes, here: Path, target: str
) -> None:
    """One line says why, and the exit code is the same."""
    ended = {}
    for workers in ("1", "2"):
        command = ("serve", f"talk:{target}", "--workers", workers, "--log-level", "critical")
        ended[workers] = processes.end_of(*command, cwd=here, ZBUSRPC_PORT="0")

    assert ended["1"].exit_code == ended["2"].exit_code == (7 if target == "Leaves" else 1)
    assert "Traceback" not in ended["1"].errors + ended["2"].errors
    if target == "Leaves":
        assert ended["2"].errors == "zbusrpc: a process ended before it served, with exit code 7\n"
    else:
        line = f"zbusrpc: {target} cannot start: RuntimeError: db down; the log says where\n"
        assert ended["1"].errors == ended["2"].errors == line


def test_log_says_which_method_has_ended_the_process(processes: Processes, here: Path) -> None:
    """A handler that raises KeyboardInterrupt ends it, as Ctrl-C does, and is named with its traceback."""
    served = processes.zbusrpc("serve", "talk:Ends", "--json", cwd=here, ZBUSRPC_PORT="0")
    address = served.wait_ready()["broker"]

    code, _, errors = processes.run("call", "Ends.interrupt", "--broker", address)

    assert code == 1, errors
    assert served.wait_exit() == 130
    (line,) = served.log("worker.interrupted")
    assert (line["service"], line["method"]) == ("Ends", "interrupt")
    assert "raise KeyboardInterrupt" in line["exception"]
