"""Messages delivered over WebSocket: many consumers, each in a group of its own, so that every one gets them all.

    python benchmarks/websocket_fanout.py [--consumers 10,100,1000] [--deliveries 100000] [--rounds 3]

The broker is a process of its own; this one sends the load and frames by hand. All consumers wait before the messages
are produced, in one write, and ask for the next one when they have got one. There are as many deliveries for any number
of consumers (1,000 consumers get 100 messages each), so that times can be compared: they are to be those of the bytes,
and not to grow with the connections. Prints JSON, medians over the rounds.
"""

import argparse
import asyncio
import json
import resource
import statistics
import struct
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from messages import broker_at
from processes import cpu_s, machine

BODY_BYTES = 100
SETTING_UP_AT_ONCE = 100
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: %b\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PRODUCE = b"GET / HTTP/1.1\r\ncmd: produce\r\nack: false\r\ntopic: %b\r\ncontent-length: %d\r\n\r\n%b"
PER_DELIVERY = ("us_per_delivery", "broker_cpu_us_per_delivery")


def frame_of(command: str, **headers: str) -> bytes:
    """Return a request as a binary frame; its mask is zero, which changes nothing and is allowed."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"cmd": command, "id": "1", **headers}.items())
    data = f"GET / HTTP/1.1\r\n{lines}\r\n".encode()
    return b"\x82" + struct.pack("!BHI", 0x80 | 126, len(data), 0) + data


class Consumer(asyncio.Protocol):
    """A consumer by WebSocket: asks for one message after the other and counts them."""

    def __init__(self, topic: str, group: str, messages: int) -> None:
        self._declare = frame_of("declare", topic=topic, consume_group=group)
        self._consume = frame_of("consume", topic=topic, consume_group=group)
        self._buffer = b""
        self._left = messages
        self.received_bytes = 0
        self.is_waiting = asyncio.get_running_loop().create_future()
        self.has_all = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(UPGRADE % b"localhost")

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if data.startswith(b"HTTP/1.1 101 "):
            self.transport.write(self._declare)
            return
        buffer = self._buffer + data
        while len(buffer) >= 4 and buffer[1] == 126 and len(buffer) >= (end := 4 + int.from_bytes(buffer[2:4])):
            self._take(buffer[4:end])
            buffer = buffer[end:]
        self._buffer = buffer

    def _take(self, message: bytes) -> None:
        assert message.startswith(b"HTTP/1.1 200 "), message
        if not self.is_waiting.done():
            self.is_waiting.set_result(None)
        else:
            self._left -= 1
        if self._left:
            self.transport.write(self._consume)
        else:
            self.has_all.set_result(None)


async def deliver(address: str, pid: int, topic: str, consumers: int, messages: int) -> dict[str, float]:
    """Return what it takes until `consumers` have `messages` each."""
    host, _, port = address.partition(":")
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(host, int(port))
    await _ask(reader, writer, f"/declare/{topic}")
    made: list[Consumer] = []
    for first in range(0, consumers, SETTING_UP_AT_ONCE):
        numbers = range(first, min(consumers, first + SETTING_UP_AT_ONCE))
        some = [Consumer(topic, f"g{number}", messages) for number in numbers]
        for one in some:
            await loop.create_connection(partial(_same, one), host, int(port))
        await asyncio.gather(*[one.is_waiting for one in some])
        made += some
    await _ask(reader, writer, f"/query/{topic}")
    bytes_before, cpu_before, begin = sum(one.received_bytes for one in made), cpu_s(pid), time.perf_counter()
    writer.write(PRODUCE % (topic.encode(), BODY_BYTES, b"x" * BODY_BYTES) * messages)
    await asyncio.gather(*[one.has_all for one in made])
    elapsed, used = time.perf_counter() - begin, cpu_s(pid) - cpu_before
    received = sum(one.received_bytes for one in made) - bytes_before
    for one in made:
        one.transport.close()
    await _ask(reader, writer, f"/remove/{topic}")
    writer.close()
    deliveries = consumers * messages
    return {
        "seconds": elapsed,
        "us_per_delivery": elapsed / deliveries * 1e6,
        "broker_cpu_us_per_delivery": used / deliveries * 1e6,
        "broker_cpu_percent": used / elapsed * 100,
        "mib_per_s": received / elapsed / 2**20,
    }


def _same(consumer: Consumer) -> Consumer:
    return consumer


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Send a request and await its answer."""
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    await reader.readexactly(int(head.rpartition(b"content-length: ")[2]))


def main() -> None:
    """Run the rounds and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consumers", default="10,100,1000")
    parser.add_argument("--deliveries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # the broker inherits it
    found: dict[int, list[dict[str, float]]] = {int(count): [] for count in given.consumers.split(",")}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory, broker_at(directory, "os") as (broker, address):
        for turn in range(given.rounds):
            for count, turns in found.items():
                messages = max(1, given.deliveries // count)
                turns.append(uvloop.run(deliver(address, broker.pid, f"T{turn}-{count}", count, messages)))
    medians = {
        count: {name: round(statistics.median(turn[name] for turn in turns), 2) for name in turns[0]}
        for count, turns in found.items()
    }
    few, many = min(found), max(found)
    growth = {name: round(medians[many][name] / (medians[few][name] or 1), 2) for name in PER_DELIVERY}
    report = {"deliveries": given.deliveries, "by_consumers": medians, f"{many}_to_{few}": growth}
    sys.stdout.write(json.dumps({"benchmark": "WebSocket fan-out", "machine": machine(), **report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
