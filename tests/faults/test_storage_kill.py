"""A real process is killed with -9 while it writes, again and again; nothing that it acknowledged is ever missing."""

import random
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.storage import read_all
from tests.support.storage_writer import OPTIONS
from tests.support.waiting import wait_until
from zbusrpc.broker.storage.check import check_log
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.recovery import open_log

ROUNDS = 5
NUMBERS_PER_ROUND = 10_000_000
ACKED_MIN = 20
"""A round is not over before so much was acknowledged, however slow the machine is."""


def write_and_kill(
    processes: Processes, directory: str, level: Durability, first: int, lines_min: int, more_s: float
) -> dict[int, int]:
    """Let a process write, kill it, and return what it acknowledged: numbers by offset."""
    writer = processes.start(sys.executable, "-m", "tests.support.storage_writer", directory, level, str(first))
    wait_until(lambda: writer.output.count("\n") >= lines_min, "acknowledged records")
    time.sleep(more_s)
    assert writer.is_running, writer.errors
    writer.kill()
    pairs = (line.split() for line in writer.output.splitlines())
    return {int(offset): int(number) for offset, number in pairs}


@pytest.mark.parametrize("level", [Durability.OS, Durability.DISK])
def test_kill_loses_nothing_acknowledged(processes: Processes, level: Durability, tmp_path: Path) -> None:
    """All that was acknowledged in any round is there, at its offset, with its body; batches are whole."""
    directory = str(tmp_path / "topic")
    rng = random.Random(7)
    acked: dict[int, int] = {}
    disk = RealDisk()

    for number in range(ROUNDS):
        first = number * NUMBERS_PER_ROUND
        acked |= write_and_kill(processes, directory, level, first, ACKED_MIN, rng.random() * 0.05)

    log = open_log(disk, Handles(disk), directory, OPTIONS, now_ms=1)
    found = {record.offset: int(record.body.split()[0]) for record in read_all(log, bytes_max=100_000)}
    lost = acked.items() - found.items()
    duplicated = len(found) - len(set(found.values()))
    print(f"acked {len(acked)}, found {len(found)}, lost {len(lost)}, duplicated {duplicated}")
    assert not lost
    assert not duplicated
    assert list(found) == list(range(log.next_offset))
    assert_batches_are_whole(list(found.values()))
    log.close()
    assert not list(check_log(disk, directory))


def assert_batches_are_whole(numbers: list[int]) -> None:
    """A batch that begins with number n has n % 3 + 1 records."""
    position = 0
    while position < len(numbers):
        size = numbers[position] % 3 + 1
        whole = list(range(numbers[position], numbers[position] + size))
        assert numbers[position : position + size] == whole
        position += size
