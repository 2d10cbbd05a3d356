"""Load on a broker's topics: producers and consumers as processes, and the ledger that all of them write."""

import json
import signal
import sys

from tests.support.ledger import Ledger
from tests.support.processes import Process, Processes
from tests.support.queue_peer import QueuePeer
from tests.support.waiting import WAIT_S, wait_until


class Load:
    """The producers and consumers of one test."""

    def __init__(self, processes: Processes, address: str) -> None:
        self.ledger = Ledger(processes.directory / "ledger")
        self._processes = processes
        self._address = address

    def start(self, role: str, **fields: object) -> Process:
        """Start a producer or a consumer; queue_worker.py says what it may be told."""
        config = {"address": self._address, "file": self.ledger.new_file(role), **fields}
        command = (sys.executable, "-m", "tests.support.queue_worker", role, json.dumps(config))
        return self._processes.start(*command)

    def produce(self, *topics: str, **fields: object) -> Process:
        """Start a producer."""
        return self.start("produce", topics=topics, **fields)

    def consume(self, topic: str, group: str, **fields: object) -> Process:
        """Start a consumer, and return it once it has joined."""
        consumer = self.start("consume", topic=topic, group=group, **fields)
        assert consumer.wait_line() == "ready"
        return consumer

    def grow(self, size: int) -> None:
        """Return when so many more bytes of events are in the ledger."""
        until = self.ledger.size + size
        wait_until(lambda: self.ledger.size >= until, "anything happens")

    def drain(self, topic: str, group: str) -> None:
        """Return when a group is done with all messages."""
        with QueuePeer(self._address) as peer:
            wait_until(lambda: not peer.group(topic, group)["lag"], f"group {group} of {topic} done", 2 * WAIT_S)


def end(*processes: Process) -> None:
    """Let producers and consumers finish what they began."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait_exit() == 0, process.errors
