"""What tests of storage share: records, a log over any disk, and a committer that is driven by hand."""

from collections.abc import Callable, Iterable

from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.compaction_job import CompactionJob
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.handles import Handles
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.recovery import open_log
from zbusrpc.broker.storage.seams import TopicLog
from zbusrpc.broker.storage.segment import OFFSETS_END

DIRECTORY = "/topic"
SMALL = LogOptions(segment_bytes_max=700, checkpoint_bytes=300)
"""A few records fill a segment."""


def batch(*bodies: bytes) -> list[Record]:
    """Return a batch of records with these bodies."""
    return [Record(body, id=b"id-" + body[:8]) for body in bodies]


def open_at(
    disk: Disk, directory: str = DIRECTORY, options: LogOptions = SMALL, *, now_ms: int = 1000, next_offset_min: int = 0
) -> Log:
    """Open a log with handles of its own."""
    return open_log(disk, Handles(disk), directory, options, now_ms=now_ms, next_offset_min=next_offset_min)


def read_all(log: TopicLog, offset: int = 0, *, bytes_max: int = 400) -> list[Record]:
    """Return all records from `offset` on, read in small steps."""
    records: list[Record] = []
    while more := log.read(offset, bytes_max=bytes_max):
        records += more
        offset = more[-1].offset + 1
    return records


def bodies(log: TopicLog) -> dict[int, bytes]:
    """Return the bodies of all records by offset."""
    return {record.offset: record.body for record in read_all(log)}


class Turns:
    """Stands for loop and worker threads: what they would do is done when the test says so."""

    def __init__(self, log: TopicLog, durability: Durability = Durability.DISK, **options: int) -> None:
        self.now_ms = 1000
        self.soon: list[Callable[[], None]] = []
        self.work: list[tuple[Callable[[], None], Callable[[BaseException | None], None]]] = []
        self.results: list[tuple[int, StorageError | None]] = []
        self.committer = Committer(
            log,
            durability,
            soon=self.soon.append,
            in_worker=lambda work, done: self.work.append((work, done)),
            now_ms=lambda: self.now_ms,
            **options,
        )

    def submit(self, *bodies: bytes) -> None:
        """Hand in a batch; its result goes to `results`."""
        self.committer.submit(batch(*bodies), lambda offset, error: self.results.append((offset, error)))

    def end_turn(self) -> None:
        """Do what was to be done when the turn ends."""
        calls, self.soon[:] = list(self.soon), []
        for call in calls:
            call()

    def run_worker(self) -> None:
        """Let the worker finish one job."""
        work, done = self.work.pop(0)
        error: BaseException | None = None
        try:
            work()
        except OSError as raised:
            error = raised
        done(error)

    def settle(self) -> None:
        """Go on until nothing is left to do."""
        while self.soon or self.work:
            self.end_turn()
            if self.work:
                self.run_worker()


def compact(log: Log, *, now_ms: int = 1000, until: int = OFFSETS_END) -> CompactionJob:
    """Compact a log as a broker does, and return the job that took effect."""
    job = log.begin_compaction(now_ms, until)
    job.run()
    replaced = log.end_compaction(job, None)
    assert replaced is not None
    replaced.remove()
    return job


def table(records: Iterable[Record]) -> dict[bytes, bytes]:
    """Return what the records say: by key, the latest body that is not empty."""
    found: dict[bytes, bytes] = {}
    for record in records:
        if record.key:
            found.pop(record.key, None)
            if record.body:
                found[record.key] = record.body
    return found
