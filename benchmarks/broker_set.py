"""Brokers of a benchmark that track one another, each at a port of its own."""

import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes


class BrokerSet:
    """Brokers that may be stopped, killed, frozen and started again."""

    def __init__(self, count: int, directory: Path) -> None:
        self.ports = [processes.free_port() for _ in range(count)]
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.all = ";".join(self.addresses)
        self._directory = directory
        self._running: dict[int, subprocess.Popen[str]] = {}

    def start(self, index: int) -> None:
        """Start a broker, and return once it is ready."""
        command = ["broker", "--port", str(self.ports[index]), "--json", "--log-level", "error"]
        command += ["--data-dir", str(self._directory / str(index)), "--tracker", self.all]
        started = subprocess.Popen(
            [sys.executable, "-m", "zbusrpc", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._running[index] = started
        assert started.stdout is not None
        started.stdout.readline()

    def send(self, index: int, number: signal.Signals) -> None:
        """Send a signal to a broker."""
        self._running[index].send_signal(number)

    def wait(self, index: int) -> None:
        """Return when a broker has ended."""
        self._running[index].wait()

    def wait_served(self, topic: str) -> None:
        """Return when each broker lists all, and all serve a topic."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if all(self._servers(index, topic) == len(self.ports) for index in range(len(self.ports))):
                return
            time.sleep(0.05)
        raise TimeoutError(f"{topic} is not served at all brokers")

    def _servers(self, index: int, topic: str) -> int:
        with urllib.request.urlopen(f"http://{self.addresses[index]}/tracker", timeout=5) as answer:
            table = json.load(answer)["serverTable"].values()
        return sum(server["topicTable"].get(topic, {}).get("consumerCount", 0) > 0 for server in table)

    def close(self) -> None:
        """End all of them."""
        for started in self._running.values():
            started.kill()
            started.wait()
            if started.stdout:
                started.stdout.close()


@contextmanager
def broker_set(count: int) -> Iterator[BrokerSet]:
    """Run some brokers for the length of a block."""
    with tempfile.TemporaryDirectory() as directory:
        brokers = BrokerSet(count, Path(directory))
        try:
            for index in range(count):
                brokers.start(index)
            yield brokers
        finally:
            brokers.close()
