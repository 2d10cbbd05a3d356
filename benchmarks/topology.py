"""What a change of one topic costs where there is much: brokers that report to a tracker, and clients that track it.

    python benchmarks/topology.py [--brokers 10] [--topics 1000] [--clients 100] [--changes 20]

Prints JSON. The tracker is a process of its own; brokers and clients share another, over real connections. Measured are
the time until all clients have a change, and the processor time that the tracker takes for it: what it takes in
the same time without a change (heartbeats) is subtracted.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop
from processes import machine, process

from zbusrpc.broker.assembly.server import Server
from zbusrpc.message import Kind, Message
from zbusrpc.telemetry import configure_logging
from zbusrpc.transport.address import Address, parse_addresses
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.link import Link
from zbusrpc.transport.topology import Report, ServerFacts, TopicFacts, encode, parse_topology

WANTED = {"seconds_until_all_know": 1.0, "tracker_cpu_ms": 50.0}
QUIET_S = 0.5
HEARTBEAT_S = 0.5


class End:
    """One end of a link to the tracker."""

    def __init__(self, tracker: Address, name: str) -> None:
        self.link = Link((tracker,), self, Hello(name=name))
        self.opened = asyncio.Event()
        self.task = asyncio.create_task(self.link.run())

    def link_opened(self, theirs: Hello) -> None:
        """Take note of the connection."""
        self.opened.set()

    def message_received(self, message: Message) -> None:
        """Do nothing."""

    def congestion_changed(self, is_congested: bool) -> None:
        """Do nothing."""

    def link_lost(self, error: Exception) -> None:
        """Give up, unless all is done: the figures would mean nothing."""
        if not self.task.cancelling():
            sys.exit(f"a link was lost: {error}")


class Broker(End):
    """A broker, as far as trackers know."""

    def __init__(self, tracker: Address, number: int, topics: int) -> None:
        super().__init__(tracker, f"broker {number}")
        self.facts = ServerFacts(address=f"10.0.0.{number}:15555", boot=str(number))
        self.topics = {f"service-{index:05}": TopicFacts(mask=2, consumers=1) for index in range(topics)}

    def report(self) -> None:
        """Report everything."""
        self.link.send(Message(Kind.REPORT, body=encode(Report(is_full=True, server=self.facts, topics=self.topics))))

    def beat(self) -> None:
        """Report nothing."""
        self.link.send(Message(Kind.REPORT))

    def change(self, consumers: int) -> None:
        """Report a change of one topic."""
        name = next(iter(self.topics))
        self.link.send(
            Message(Kind.REPORT, body=encode(Report(topics={name: TopicFacts(mask=2, consumers=consumers)})))
        )


class Client(End):
    """A client that notes how much it knows, and what it was told last."""

    def __init__(self, tracker: Address, number: int) -> None:
        super().__init__(tracker, f"client {number}")
        self.topics = 0
        self.bytes = 0
        self.consumers: set[int] = set()
        """The numbers of consumers that the last message holds."""
        self.on_told = lambda: None

    def message_received(self, message: Message) -> None:
        """Take in what is told."""
        told = parse_topology(message.body, is_reply=message.kind == Kind.REPLY)
        counts = [len(server.topics) for server in told.servers.values()]
        self.topics = max(self.topics, sum(counts)) if not told.is_full else sum(counts)
        self.bytes = len(message.body)
        self.consumers = {facts[0] for server in told.servers.values() for facts in server.topics.values() if facts}
        self.on_told()


async def serve() -> None:
    """Be the tracker; print the processor time that it has taken when SIGUSR1 asks for it."""
    configure_logging("error")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: print(time.process_time(), flush=True))
    print(json.dumps({"broker": await Server(is_tracker_only=True).start("127.0.0.1", 0)}), flush=True)
    await asyncio.Event().wait()


async def wait_all(clients: list[Client], is_done: Callable[[Client], bool]) -> None:
    """Return when something holds for all clients."""
    left = {client for client in clients if not is_done(client)}
    done = asyncio.Event()

    def look(client: Client) -> None:
        if is_done(client):
            left.discard(client)
            if not left:
                done.set()

    for client in clients:
        client.on_told = lambda client=client: look(client)
    if left:
        await asyncio.wait_for(done.wait(), 60.0)


async def measure(tracker: Address, ask_cpu: Callable[[], float], arguments: argparse.Namespace) -> dict[str, Any]:
    """Let brokers report and clients track, and change one topic again and again."""
    brokers = [Broker(tracker, number, arguments.topics) for number in range(arguments.brokers)]
    clients = [Client(tracker, number) for number in range(arguments.clients)]
    for end in (*brokers, *clients):
        await end.opened.wait()
    for broker in brokers:
        broker.report()

    async def beat() -> None:
        while True:
            for broker in brokers:
                broker.beat()
            await asyncio.sleep(HEARTBEAT_S)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(2.0)
    cpu, began = ask_cpu(), time.perf_counter()
    for client in clients:
        client.link.send(Message(Kind.TRACK, 1))
    await wait_all(clients, lambda client: client.topics >= arguments.brokers * arguments.topics)
    first = {"seconds": round(time.perf_counter() - began, 3), "tracker_cpu_ms": round((ask_cpu() - cpu) * 1e3, 1)}
    first["bytes_each"] = clients[0].bytes
    await asyncio.sleep(2.0)

    took, costs, quiet = [], [], []
    for consumers in range(100, 100 + arguments.changes):
        cpu = ask_cpu()
        await asyncio.sleep(QUIET_S)
        quiet.append(ask_cpu() - cpu)
        cpu, began = ask_cpu(), time.perf_counter()
        brokers[0].change(consumers)
        await wait_all(clients, lambda client, wanted=consumers: wanted in client.consumers)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(max(0.0, QUIET_S - took[-1]))
        costs.append(ask_cpu() - cpu)
    beating.cancel()
    for end in (*brokers, *clients):
        end.task.cancel()
    return {
        "first table": first,
        "one change": {
            "seconds_until_all_know": {"median": round(statistics.median(took), 4), "max": round(max(took), 4)},
            "tracker_cpu_ms": {
                "median": round((statistics.median(costs) - statistics.median(quiet)) * 1e3, 2),
                "max": round((max(costs) - statistics.median(quiet)) * 1e3, 2),
            },
            "quiet_tracker_cpu_ms": round(statistics.median(quiet) * 1e3, 2),
            "bytes_each": clients[0].bytes,
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brokers", type=int, default=10)
    parser.add_argument("--topics", type=int, default=1000, help="of each broker")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--tracker", action="store_true", help="be the tracker: what the benchmark starts")
    arguments = parser.parse_args()
    if arguments.tracker:
        uvloop.run(serve())
        return
    with process(sys.executable, __file__, "--tracker") as started:
        assert started.stdout is not None
        stdout = started.stdout
        (tracker,) = parse_addresses(json.loads(stdout.readline())["broker"])

        def ask_cpu() -> float:
            started.send_signal(signal.SIGUSR1)
            return float(stdout.readline())

        figures = uvloop.run(measure(tracker, ask_cpu, arguments))
    print(json.dumps({"machine": machine(), "wanted": WANTED, **figures}, indent=2))


if __name__ == "__main__":
    main()
