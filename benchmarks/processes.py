"""Processes of a benchmark: started on free ports, awaited until they are ready, ended by their id."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command for the length of a block."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=HERE)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        if started.stdout:
            started.stdout.close()


@contextmanager
def zbusrpc(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run a zbusrpc server for the length of a block; yield it with its ready line."""
    with process(sys.executable, "-m", "zbusrpc", *arguments, "--json", "--log-level", "error") as started:
        assert started.stdout is not None
        yield started, json.loads(started.stdout.readline())


def wait_for_port(port: int, seconds: float = 10.0) -> None:
    """Return once something listens on the port."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def machine() -> dict[str, Any]:
    """Return what a figure depends on."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def nats_server() -> str | None:
    """Return the NATS server's command, or None where it is not installed."""
    return shutil.which("nats-server")


def rss_kib(pid: int) -> int:
    """Return the resident memory of a process in KiB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no VmRSS")


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
