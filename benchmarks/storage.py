"""How fast the log is by itself: appends at each level, batches, reads, seeks, and opening after a kill -9.

python benchmarks/storage.py [--seconds 2] [--records 1000000] [--directory DIR]

Prints JSON. `--records` is the size of the log that is read, sought in, and opened after a kill; the figure wanted
is for 10,000,000 (1.7 GB).
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import uvloop

from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.assembly.loop_scheduler import LoopScheduler
from zbusrpc.broker.sessions.scheduler import committer_on
from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.recovery import open_log

BODY = b"x" * 100
ID = b"0123456789abcdef"
IN_FLIGHT = 128
BATCH = 100


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def open_at(directory: str) -> Log:
    disk = RealDisk()
    return open_log(disk, Handles(disk), directory, now_ms=now_ms())


async def appends_per_s(directory: str, level: Durability, seconds: float, in_flight: int, size: int) -> dict[str, Any]:
    """Keep `in_flight` batches of `size` records under way and count the records that were acknowledged."""
    loop = asyncio.get_running_loop()
    log = open_at(directory)
    with closing(LoopScheduler(loop, Clock())) as scheduler:
        committer = committer_on(scheduler, log, level)
        producers = _Producers(committer, size, loop.call_soon)
        begin = time.perf_counter()
        producers.start(in_flight)
        await asyncio.sleep(seconds)
        elapsed, done = time.perf_counter() - begin, producers.done
        producers.is_running = False
        idle = asyncio.Event()
        committer.when_idle(idle.set)
        await idle.wait()
    log.close()
    taken = sorted(producers.latencies)
    return {
        "records_per_s": round(done * size / elapsed),
        "records_per_write": round(done * size / max(1, committer.writes), 1),
        "syncs_per_s": round(committer.syncs / elapsed),
        "p50_us": round(taken[len(taken) // 2] * 1e6),
        "p99_us": round(taken[len(taken) * 99 // 100] * 1e6),
    }


class _Producers:
    """Clients that send the next batch when the last one is acknowledged."""

    def __init__(self, committer: Committer, size: int, soon: Callable[..., object]) -> None:
        self.committer, self.size, self.soon = committer, size, soon
        self.done = 0
        self.latencies: list[float] = []
        self.is_running = True

    def start(self, count: int) -> None:
        for _ in range(count):
            self.send()

    def send(self) -> None:
        if not self.is_running:
            return
        begin = time.perf_counter()

        def done(_: int, error: StorageError | None) -> None:
            if error is not None:
                raise error
            self.done += 1
            self.latencies.append(time.perf_counter() - begin)
            self.soon(self.send)

        self.committer.submit([Record(BODY, id=ID) for _ in range(self.size)], done)


def fill(directory: str, count: int) -> None:
    """Write `count` records in batches, as a broker at level os does, say so, and wait to be killed."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        log = open_at(directory)
        with closing(LoopScheduler(loop, Clock())) as scheduler:
            committer = committer_on(scheduler, log, Durability.OS)
            marks: list[float] = []
            memory = 0.0
            for number in range(count // BATCH):
                if number % (count // BATCH // 10) == 0:
                    marks.append(time.perf_counter())
                    memory = memory or memory_mib()
                committer.submit([Record(BODY, id=ID) for _ in range(BATCH)], lambda *_: None)
                if number % 10 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            marks.append(time.perf_counter())
            tenths = [round(count / 10 / (b - a)) for a, b in pairwise(marks)]
            grown = round(memory_mib() - memory, 1)
            print(json.dumps({"first": tenths[0], "last": tenths[-1], "grown_mib": grown}), flush=True)
            signal.pause()

    uvloop.run(run())


def memory_mib() -> float:
    """Return what this process has in memory now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def big_log(directory: str, count: int) -> dict[str, Any]:
    """Fill a log in another process, kill that, and measure what it costs to use what it left."""
    command = [sys.executable, __file__, "--fill", directory, "--records", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rates = json.loads(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    begin = time.perf_counter()
    log = open_at(directory)
    opened_s = time.perf_counter() - begin
    assert log.next_offset == count, (log.next_offset, count)
    result = {
        "records": count,
        "segments": len(log.segments),
        "produce_first_tenth_per_s": rates["first"],
        "produce_last_tenth_per_s": rates["last"],
        "produce_memory_grown_mib": rates["grown_mib"],
        "open_after_kill_ms": round(opened_s * 1000, 1),
        "seek_by_offset_p99_ms": _p99_ms(lambda: log.read(random.randrange(count), bytes_max=1)),
        "seek_by_time_p99_ms": _seek_by_time(log),
        "read_records_per_s": _read_rate(log, min(count, 1_000_000)),
    }
    log.close()
    return result


def _seek_by_time(log: Log) -> float:
    first, last = log.read(0)[0].timestamp_ms, log.read(log.next_offset - 1)[0].timestamp_ms
    return _p99_ms(lambda: log.offset_at_time(random.randint(first, last)))


def _p99_ms(act: Callable[[], object]) -> float:
    taken = []
    for _ in range(300):
        begin = time.perf_counter()
        act()
        taken.append(time.perf_counter() - begin)
    return round(sorted(taken)[int(len(taken) * 0.99)] * 1000, 2)


def _read_rate(log: Log, count: int) -> int:
    offset = 0
    begin = time.perf_counter()
    while offset < count:
        offset = log.read(offset)[-1].offset + 1
    return round(offset / (time.perf_counter() - begin))


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--directory", help="where to write; a temporary directory unless told")
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill, options.records)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        results: dict[str, Any] = {}
        for level in Durability:
            for in_flight, size in ((IN_FLIGHT, 1), (8, BATCH)):
                name = f"{level}, {in_flight} in flight, batches of {size}"
                where = str(Path(directory, f"{level}-{size}"))
                results[name] = uvloop.run(appends_per_s(where, level, options.seconds, in_flight, size))
        results["big log"] = big_log(str(Path(directory, "big")), options.records)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
