"""Group commit: what producers hand in during one turn of the loop is written in one go, and synced in one go.

    submit, submit, submit ──turn ends──> one write ──level OS──> done, done, done
                                              └──level DISK──> one sync in a worker ──> done, done, done
                                                                    (the next batches are written meanwhile)

There is no task and no timer for a message: a producer leaves a callback, which is called once, in the order of
submission, with its first offset or with an error.

    level    a producer is told "done" when its records are   they survive
    MEMORY   in this process                                  nothing
    OS       written to the file                              kill -9 of the broker
    DISK     on the disk                                      power loss

A batch may ask for another level than the log's; then each level keeps its own order. What is written is written in
one order all the same, so that a batch at DISK makes safe whatever came before it.

A failed write fails the producers whose records were in it, and nobody else; the next write may succeed. A failed
sync closes the log: everybody who waits is told so, and nothing is tried again, because the system may have
dropped what it could not write (and would report success the second time).

The committer decides and is driven from outside: `soon` calls something when the turn ends, `in_worker` does
something in another thread, `sync` there or, on a quick disk, on the spot. The broker's scheduler puts an asyncio
loop there, tests a list.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final

from zbusrpc.broker.storage.errors import BacklogFullError, LogClosedError, StorageError, reason_of
from zbusrpc.broker.storage.record import Record, check_record
from zbusrpc.broker.storage.seams import SyncWork, TopicLog
from zbusrpc.telemetry import get_logger

Done = Callable[[int, StorageError | None], None]
"""Told the first offset of a batch and None, or -1 and why it is not stored."""
Soon = Callable[[Callable[[], None]], object]
"""Call something when the turn of the loop ends."""
InWorker = Callable[[Callable[[], None], Callable[[BaseException | None], None]], None]
"""Do something in another thread, then tell the second, on this thread, what it raised."""
BACKLOG_BYTES_MAX: Final = 64 * 1024 * 1024
"""What may wait for a write or a sync of one log: some seconds of a slow disk."""
REFUSALS_TOLD_MS: Final = 60_000
"""Of each log and cause, refusals are told in the broker's log no more often."""

log = get_logger("storage")


class Durability(StrEnum):
    """What an acknowledged record survives."""

    MEMORY = "memory"
    OS = "os"
    DISK = "disk"


class Committer:
    """Writes the records of one log for many producers."""

    __slots__ = (
        "_gathered",
        "_gathered_bytes",
        "_gathered_records",
        "_in_worker",
        "_is_scheduled",
        "_job",
        "_now_ms",
        "_on_idle",
        "_overrides",
        "_refusals_told",
        "_soon",
        "_sync",
        "_syncing",
        "_syncing_bytes",
        "_waiting",
        "_waiting_bytes",
        "backlog_bytes_max",
        "durability",
        "log",
        "lost_after_ack",
        "refused",
        "syncs",
        "writes",
    )

    def __init__(
        self,
        log: TopicLog,
        durability: Durability,
        *,
        soon: Soon,
        in_worker: InWorker,
        sync: InWorker | None = None,
        now_ms: Callable[[], int],
        backlog_bytes_max: int = BACKLOG_BYTES_MAX,
    ) -> None:
        self.log = log
        self.durability = durability
        self.backlog_bytes_max = backlog_bytes_max
        self.writes = 0
        """How many writes were done."""
        self.syncs = 0
        """How many syncs were done."""
        self.lost_after_ack = 0
        """Level MEMORY: how many batches were acknowledged and could not be written."""
        self.refused = 0
        """How many records the disk did not take, or not soon enough."""
        self._refusals_told: dict[str, int] = {}  # when, by cause: there are as many as errors of the system
        self._soon, self._in_worker, self._now_ms = soon, in_worker, now_ms
        self._sync = sync or in_worker
        self._gathered: list[tuple[Sequence[Record], Done]] = []
        self._gathered_bytes = 0
        self._gathered_records = 0
        self._overrides: dict[int, tuple[Durability, int]] = {}  # of gathered batches, by number: level, bytes
        self._is_scheduled = False
        self._waiting: list[tuple[int, Done]] = []  # written, not synced, and not part of the running sync
        self._waiting_bytes = 0
        self._syncing: list[tuple[int, Done]] = []  # what the running sync makes safe
        self._syncing_bytes = 0
        self._job: SyncWork | None = None
        self._on_idle: list[Callable[[], None]] = []
        if durability is Durability.DISK and log.is_dirty:
            self._start_sync()

    @property
    def readable_offset(self) -> int:
        """Records below it may be shown. At level DISK they are safe: else a reader's stored position could
        outlive the record, and the record that gets its offset next would never be read."""
        return self.log.synced_offset if self.durability is Durability.DISK else self.log.next_offset

    @property
    def backlog_bytes(self) -> int:
        """How much was handed in and is not done."""
        return self._gathered_bytes + self._waiting_bytes + self._syncing_bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing is gathered, waiting or being synced."""
        return not self._gathered and not self._waiting and self._job is None

    # -- producers ---------------------------------------------------------------------------------------

    def submit(self, batch: Sequence[Record], done: Done, durability: Durability | None = None) -> None:
        """Store a batch, all or nothing, and tell `done` once, not before this has returned (MEMORY: before).

        Args:
            durability: the level of this batch, where it is not the log's. It decides when `done` is told, and not
                when the records may be shown: that is `readable_offset`.

        Raises:
            RecordLimitError: a field of a record does not fit.
            BacklogFullError: too much waits for the disk.
            LogClosedError: the log takes no records.
        """
        if self.log.closed_because is not None:
            raise LogClosedError(self.log.closed_because)
        size = 0
        for record in batch:
            size += check_record(record)
        if self.backlog_bytes + size > self.backlog_bytes_max:
            full = BacklogFullError(
                f"{self.backlog_bytes} bytes wait for the disk, {size} more would exceed "
                f"the limit of {self.backlog_bytes_max} bytes"
            )
            self._note_refusal(full, len(batch))
            raise full
        level = self.durability
        if durability is not None and durability is not level:
            level = durability
            self._overrides[len(self._gathered)] = level, size
        if level is Durability.MEMORY:
            done(self.log.next_offset + self._gathered_records, None)
            done = self._count_loss
        self._gathered.append((batch, done))
        self._gathered_bytes += size
        self._gathered_records += len(batch)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._soon(self._end_turn)

    def _count_loss(self, _: int, error: StorageError | None) -> None:
        if error is not None:
            self.lost_after_ack += 1
            log.error("storage.lost_after_ack", directory=self.log.directory, reason=str(error))

    def _note_refusal(self, error: StorageError, count: int) -> None:
        """Count records that are not stored, and tell the log why, now and then: their producers alone know else."""
        self.refused += count
        if isinstance(error, LogClosedError):  # which was told when it was closed
            return
        cause = reason_of(error.__cause__) if isinstance(error.__cause__, OSError) else type(error).__name__
        now_ms = self._now_ms()
        if abs(now_ms - self._refusals_told.get(cause, -REFUSALS_TOLD_MS)) >= REFUSALS_TOLD_MS:
            self._refusals_told[cause] = now_ms
            log.error("storage.refused", directory=self.log.directory, reason=str(error), refused=self.refused)

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write now what was gathered."""
        gathered, size, overrides = self._gathered, self._gathered_bytes, self._overrides
        self._gathered, self._gathered_bytes, self._gathered_records = [], 0, 0
        if not gathered:
            return
        if overrides:
            self._overrides = {}
        try:
            offset = self.log.append([batch for batch, _ in gathered], self._now_ms())
        except StorageError as error:
            self._note_refusal(error, sum(len(batch) for batch, _ in gathered))
            _tell_all(((-1, done) for _, done in gathered), error)
            self._tell_if_idle()
            return
        self.writes += 1
        written: list[tuple[int, Done]] = []
        for batch, done in gathered:
            written.append((offset, done))
            offset += len(batch)
        if overrides:
            self._finish_each(written, size, overrides)
        elif self.durability is Durability.DISK:
            self._wait_for_sync(written, size)
        else:
            self._finish(written)

    def _finish_each(
        self, written: list[tuple[int, Done]], size: int, overrides: dict[int, tuple[Durability, int]]
    ) -> None:
        """Finish batches of different levels."""
        told: list[tuple[int, Done]] = []
        waiting: list[tuple[int, Done]] = []
        for number, each in enumerate(written):
            level = overrides[number][0] if number in overrides else self.durability
            (waiting if level is Durability.DISK else told).append(each)
        if self.durability is Durability.DISK:  # whoever waits or not: readers wait for the sync
            self._wait_for_sync(waiting, size - sum(override_size for _, override_size in overrides.values()))
        elif waiting:
            sizes = (override_size for level, override_size in overrides.values() if level is Durability.DISK)
            self._wait_for_sync(waiting, sum(sizes))
        self._finish(told)

    def _wait_for_sync(self, written: list[tuple[int, Done]], size: int) -> None:
        self._waiting += written
        self._waiting_bytes += size
        self._start_sync()

    def _finish(self, written: list[tuple[int, Done]]) -> None:
        if self.log.is_checkpoint_due:
            self._start_sync()
        _tell_all(written, None)
        self._tell_if_idle()

    # -- syncing -----------------------------------------------------------------------------------------

    def _start_sync(self) -> None:
        """Make safe what was written, unless that is being done: then it is done again afterwards."""
        if self._job is not None:
            return
        try:
            job = self.log.begin_sync()
        except LogClosedError:
            self._give_up()
            return
        self._job = job
        self._syncing, self._waiting = self._waiting, []
        self._syncing_bytes, self._waiting_bytes = self._waiting_bytes, 0
        (self._sync if job.is_short else self._in_worker)(job.run, self._sync_ended)

    def _sync_ended(self, error: BaseException | None) -> None:
        job, self._job = self._job, None
        assert job is not None
        self.log.end_sync(job, error)
        self.syncs += 1
        if self.log.closed_because is not None and error is not None:
            self._give_up()
            return
        finished, self._syncing, self._syncing_bytes = self._syncing, [], 0
        self.flush()
        if self._is_sync_due():
            self._start_sync()
        _tell_all(finished, None)
        self._tell_if_idle()

    def _is_sync_due(self) -> bool:
        if self._waiting or self.log.is_checkpoint_due:
            return True
        return self.durability is Durability.DISK and self.log.is_dirty  # readers wait, though no producer does

    def _give_up(self) -> None:
        """Tell everybody that the log is closed: what they wrote may be lost."""
        waiting = self._syncing + self._waiting
        self._syncing, self._waiting = [], []
        self._syncing_bytes = self._waiting_bytes = 0
        error = LogClosedError(str(self.log.closed_because))
        _tell_all(((-1, done) for _, done in waiting), error)
        self.flush()
        self._tell_if_idle()

    # -- ending ------------------------------------------------------------------------------------------

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when everything that was submitted is done; now, where it is."""
        self._on_idle.append(callback)
        self.flush()
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self.is_idle:
            callbacks, self._on_idle = self._on_idle, []
            for callback in callbacks:
                callback()


def _tell_all(waiting: Iterable[tuple[int, Done]], error: StorageError | None) -> None:
    """Tell all their offset; what one of them does with it is no reason for the others not to hear."""
    for offset, done in waiting:
        try:
            done(offset, error)
        except Exception:
            log.exception("storage.telling_failed", offset=offset)
