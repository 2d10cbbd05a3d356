"""Brokers one after the other, on one data directory and one port: each is killed, and the next takes over."""

from tests.support.processes import Process, Processes


class Successors:
    """The brokers of one test; the last is killed with the other processes of its test."""

    def __init__(self, processes: Processes, *arguments: str) -> None:
        self._processes = processes
        self._arguments = arguments
        self._all: list[Process] = []
        self.address = ""
        """Where they listen, from the first on."""
        self.start()

    @property
    def broker(self) -> Process:
        """The one that was started last."""
        return self._all[-1]

    def start(self) -> None:
        """Start the next, and return once it is ready."""
        self.begin()
        self.address = self.broker.wait_ready()["broker"]

    def begin(self) -> None:
        """Start the next, and return at once."""
        port = self.address.rpartition(":")[2] or "0"
        self._all.append(self._processes.zbusrpc("broker", "--json", "--port", port, *self._arguments))

    def restart(self) -> None:
        """Kill the broker with -9, and start the next."""
        self.broker.kill()
        self.start()

    @property
    def errors(self) -> str:
        """What all of them have logged."""
        return "".join(broker.errors for broker in self._all)
