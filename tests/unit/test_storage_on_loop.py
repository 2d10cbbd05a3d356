"""Group commit on a real loop, with real threads and files."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.storage import SMALL, batch, bodies, open_at, read_all, table
from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.assembly.loop_scheduler import LoopScheduler
from zbusrpc.broker.sessions.scheduler import committer_on
from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.errors import LogClosedError, RecordLimitError, StorageError
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.retention import Retention

pytestmark = pytest.mark.anyio


class InThreads(LoopScheduler):
    """Each sync runs in another thread, also where the disk is quick."""

    def sync(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        self.in_worker(work, done)


@pytest.fixture
async def scheduler() -> AsyncIterator[LoopScheduler]:
    with closing(InThreads(asyncio.get_running_loop(), Clock())) as scheduler:
        yield scheduler


def append(
    committer: Committer, batch: Sequence[Record], loop: asyncio.AbstractEventLoop, level: Durability | None = None
) -> asyncio.Future[int]:
    """Store a batch; return its first offset, to be awaited."""
    future: asyncio.Future[int] = loop.create_future()

    def done(offset: int, error: StorageError | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(offset)
        else:
            future.set_exception(error)

    committer.submit(batch, done, level)
    return future


async def drained(committer: Committer) -> None:
    """Wait until everything that was submitted is done."""
    idle = asyncio.Event()
    committer.when_idle(idle.set)
    await idle.wait()


async def in_worker(scheduler: LoopScheduler, work: Callable[[], None]) -> None:
    """Do `work` in a thread of the scheduler, and wait for it."""
    done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    scheduler.in_worker(work, done.set_result)
    if error := await done:
        raise error


def committer_at(path: Path, scheduler: LoopScheduler, level: Durability, options: LogOptions = SMALL) -> Committer:
    disk = RealDisk()
    log = open_log(disk, Handles(disk), str(path), options, now_ms=1)
    return committer_on(scheduler, log, level)


def damage_last_byte(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)


@pytest.mark.parametrize("level", list(Durability))
async def test_appends_are_answered_in_order(tmp_path: Path, scheduler: LoopScheduler, level: Durability) -> None:
    """At every level, over many segments, each producer gets its offset, and the records are there."""
    loop = asyncio.get_running_loop()
    committer = committer_at(tmp_path / "topic", scheduler, level)
    expected: dict[int, bytes] = {}

    for turn in range(20):
        waiting = [append(committer, batch(b"%d.%d" % (turn, n) * 9, b"+"), loop) for n in range(5)]
        for number, offset in enumerate(await asyncio.gather(*waiting)):
            expected |= {offset: b"%d.%d" % (turn, number) * 9, offset + 1: b"+"}

    await drained(committer)
    committer.log.close()
    assert bodies(open_at(RealDisk(), str(tmp_path / "topic"))) == expected
    assert list(expected) == list(range(200))


async def test_sync_does_not_hold_up_the_loop(tmp_path: Path, scheduler: LoopScheduler) -> None:
    """While a sync runs, others write; who gave up waiting harms nobody."""
    loop = asyncio.get_running_loop()
    committer = committer_at(tmp_path / "topic", scheduler, Durability.DISK)
    first = append(committer, batch(b"first"), loop)
    await asyncio.sleep(0)
    given_up = append(committer, batch(b"second"), loop)
    given_up.cancel()

    third = append(committer, batch(b"third"), loop)

    assert (await first, await third) == (0, 2)
    await drained(committer)
    assert list(bodies(committer.log).values()) == [b"first", b"second", b"third"]
    assert committer.readable_offset == 3


async def test_refusals_come_at_once(tmp_path: Path, scheduler: LoopScheduler) -> None:
    """What can be told without the disk is raised by the call itself."""
    loop = asyncio.get_running_loop()
    committer = committer_at(tmp_path / "topic", scheduler, Durability.DISK)

    with pytest.raises(RecordLimitError, match="id of 256 bytes"):
        append(committer, [Record(id=b"i" * 256)], loop)
    await drained(committer)
    committer.log.close()
    with pytest.raises(LogClosedError, match="it was closed"):
        append(committer, batch(b"late"), loop)


async def test_retention_and_damage_while_syncs_run(tmp_path: Path, scheduler: LoopScheduler) -> None:
    """Segments may go, and be quarantined, while their syncs are under way."""
    loop = asyncio.get_running_loop()
    options = LogOptions(segment_bytes_max=700, checkpoint_bytes=300, retention=Retention(bytes_max=4000))
    committer = committer_at(tmp_path / "topic", scheduler, Durability.DISK, options)
    log = committer.log

    for turn in range(60):
        waiting = append(committer, batch(b"%d" % turn * 40), loop)
        await asyncio.sleep(0)
        if turn % 10 == 9:
            damage_last_byte(log.segments[-1].path)
            bodies(log)
            log.retire(1).remove()
        await waiting

    await drained(committer)
    found = bodies(log)
    log.close()
    again = open_at(RealDisk(), str(tmp_path / "topic"), options)
    assert bodies(again) == found
    assert not again.findings
    assert len(log.findings) == 6
    assert log.size_bytes <= 4800


async def test_compaction_while_all_else_goes_on(tmp_path: Path, scheduler: LoopScheduler) -> None:
    """Appends, reads, retention and syncs, with compactions in real threads: the log says what was written to it."""
    loop = asyncio.get_running_loop()
    options = LogOptions(segment_bytes_max=2000, checkpoint_bytes=500, retention=Retention(when_passed=True))
    committer = committer_at(tmp_path / "topic", scheduler, Durability.OS, options)
    log = committer.log
    written: list[Record] = []
    exchanged = 0

    for number in range(12):
        job = log.begin_compaction(1)
        running = asyncio.ensure_future(in_worker(scheduler, job.run))
        while not running.done() or len(written) < 100 * number:
            key = b"key-%d" % (len(written) % 9)
            written.append(Record(b"" if len(written) % 31 == 0 else b"%d" % len(written) * 5, key=key))
            level = Durability.DISK if len(written) % 10 == 0 else None
            await append(committer, [written[-1]], loop, level)
            log.read(len(written) // 2)
        await running
        exchanged += len(job.rewritten)
        replaced = log.end_compaction(job, None)
        assert replaced
        await in_worker(scheduler, replaced.remove)
        await in_worker(scheduler, log.retire(1).remove)
        assert table(read_all(log)) == table(written)

    await drained(committer)
    log.close()
    again = open_at(RealDisk(), str(tmp_path / "topic"), options)
    assert table(read_all(again)) == table(written)
    assert exchanged > 10
    assert not log.findings
    assert not again.findings
    assert not list((tmp_path / "topic").glob("*.tmp"))
