"""Requests a second over HTTP: the broker beside a bare uvloop server that answers with the same bytes.

    python benchmarks/http_requests.py [--rounds 5] [--seconds 2] [--only produce-os]

Broker, service and bare server (http_echo.py) are processes of their own; `ab -k -c 32` and `wrk` with 32 connections
send the load. In each round each tool measures the bare server, then the broker. A share is the median over the rounds
of the broker's rate as part of that server's. Prints JSON.

It is not called http.py: that would hide the standard library's module from all that runs in this directory.
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import queue_client
import uvloop
from messages import broker_at
from processes import free_port, machine, process, wait_for_port, zbusrpc

CONNECTIONS = "32"
BACKLOG = 400_000
"""Messages stored for each two seconds of consuming: more than a tool takes, and a multiple of what `fill` stores."""
TOPIC = queue_client.TOPIC


@dataclass
class Case:
    """A request, and what was measured of it."""

    path: str
    wanted: float
    """Share of the bare server's rate that we want to reach."""
    broker: str = ""
    bare: str = ""
    """Addresses of the two servers as host:port."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Of broker and bare server, by tool."""

    def report(self) -> dict[str, Any]:
        """Return medians and shares."""
        medians = {name: round(statistics.median(values)) for name, values in self.rates.items()}
        shares = {
            tool: round(statistics.median(a / b for a, b in zip(found, self.rates[f"{tool}, bare"], strict=True)), 3)
            for tool, found in self.rates.items()
            if tool in TOOLS
        }
        return {"path": self.path, "requests_per_s": medians, "share": shares, "wanted": self.wanted}


CASES = {
    "produce-os": Case("/produce/T?body=hello", 0.42),
    "produce-disk": Case("/produce/T?body=hello", 0.30),
    "consume": Case(f"/consume/{TOPIC}", 0.40),
    "rpc": Case("/rpc/Calc/add/1/2", 0.12),
}


def ab_per_s(url: str, seconds: int) -> float:
    """Return what ab measures; all answers must be good ones, on connections that stay."""
    most = str(seconds * 500_000)  # stands after -t, which sets it to 50,000
    text = _run("ab", "-q", "-k", "-c", CONNECTIONS, "-t", str(seconds), "-n", most, url)
    complete, kept, failed = (_number(f"{what} requests:", text) for what in ("Complete", "Keep-Alive", "Failed"))
    if failed or "Non-2xx" in text or kept < complete:
        raise SystemExit(f"ab got other answers from {url}:\n{text}")
    return _number("Requests per second:", text)


def wrk_per_s(url: str, seconds: int) -> float:
    """Return what wrk measures; all answers must be good ones."""
    text = _run("wrk", "-t", "1", "-c", CONNECTIONS, "-d", f"{seconds}s", url)
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"wrk got other answers from {url}:\n{text}")
    return _number("Requests/sec:", text)


TOOLS = {"ab": ab_per_s, "wrk": wrk_per_s}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def _number(label: str, text: str) -> float:
    return float(text.partition(label)[2].split()[0])


def reply_to(address: str, path: str) -> bytes:
    """Return the broker's answer to a request, as bytes."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n".encode())
        reply = connection.recv(65536)
    if not reply.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"{path}: {reply.decode()}")
    return reply


def prepare(stack: ExitStack, cases: dict[str, Case], seconds: int) -> None:
    """Start all servers; give each case its addresses."""
    brokers = {}
    for level in ("os", "disk"):
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd()))
        _, brokers[level] = stack.enter_context(broker_at(directory, level))
        reply_to(brokers[level], "/declare/T")
    reply_to(brokers["os"], f"/declare/{TOPIC}")
    stack.enter_context(zbusrpc("serve", "calc:Calc", "--broker", brokers["os"]))
    if "consume" in cases:
        uvloop.run(queue_client.fill(brokers["os"], b"hello", BACKLOG * -(-seconds // 2)))
    for name, case in cases.items():
        case.broker = brokers["disk" if name == "produce-disk" else "os"]
        port = free_port()
        reply = reply_to(case.broker, case.path)
        stack.enter_context(process(sys.executable, "http_echo.py", str(port), reply.hex()))
        wait_for_port(port)
        case.bare = f"127.0.0.1:{port}"


def measure(name: str, case: Case, tool: str, seconds: int) -> None:
    """Add a round of one tool."""
    if name == "consume":
        reply_to(case.broker, f"/declare/{TOPIC}?group_start_offset=0")
    for key, address in {f"{tool}, bare": case.bare, tool: case.broker}.items():
        rate = TOOLS[tool](f"http://{address}{case.path}", seconds)
        case.rates.setdefault(key, []).append(rate)
    if name == "consume" and b'"messageCount":0,' in reply_to(case.broker, f"/query/{TOPIC}/{TOPIC}"):
        raise SystemExit("the messages ran out: raise BACKLOG")


def main() -> None:
    """Run the rounds and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--only", choices=CASES)
    given = parser.parse_args()
    cases = {name: case for name, case in CASES.items() if given.only in {None, name}}
    with ExitStack() as stack:
        prepare(stack, cases, given.seconds)
        for _, tool, name in product(range(given.rounds), filter(shutil.which, TOOLS), cases):
            measure(name, cases[name], tool, given.seconds)
    found = {name: case.report() for name, case in cases.items()}
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    print(json.dumps({"benchmark": "HTTP requests", "machine": machine(), **found, "left_out": missing}, indent=2))


if __name__ == "__main__":
    main()
