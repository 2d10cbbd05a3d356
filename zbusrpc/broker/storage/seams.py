"""What the message queue asks of a store: the log of a topic, whatever keeps its records.

    TopicLog   the records of one topic    `log.Log` in files, `memory.MemoryLog` in this process

Work that may take long is gathered on the log's own thread, run in another one, and ended on the first again:

    begin_sync ──> SyncWork.run ──> end_sync              retire, empty ──> Removal.remove
    begin_compaction ──> Work.run ──> end_compaction ──> Leftover.remove

tests/unit/test_storage_contract.py is what each store is held to; CONTRIBUTING.md tells how to add one.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from zbusrpc.broker.storage.finding import Finding
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.retention import Stretch
from zbusrpc.broker.storage.segment import OFFSETS_END

READ_BYTES: Final = 256 * 1024
"""Of one `read`, unless told: enough to make its cost small beside that of the records."""


class Work(Protocol):
    """Work that may take long. `run` may be called in another thread, once."""

    def run(self) -> None:
        """Do it; what it raises is told to the method that ends it."""


class SyncWork(Work, Protocol):
    """Makes what was written before safe."""

    @property
    def is_short(self) -> bool:
        """Whether it may be done on the spot where the store is quick."""


class Leftover(Protocol):
    """What nobody reads any more, and takes room until it is removed."""

    def remove(self) -> None:
        """Give its room back; may run in another thread.

        Raises:
            OSError: not all of it could be removed.
        """


class Removal(Leftover, Protocol):
    """Records that a log has let go. Once `remove` has returned no crash brings them back."""

    @property
    def segments(self) -> Sequence[Stretch]:
        """The stretches that they were, oldest first."""

    @property
    def size_bytes(self) -> int:
        """How much room they give back."""


class TopicLog(Protocol):
    """The records of one topic, by offset: appended at the end, read anywhere, let go from the beginning.

    Offsets grow by one with each record and are never given out twice; where records went there are gaps. All methods
    are called on one thread. Promises: an append is all there or not at all; after one that failed the log is as
    before; what `read` shows stays as it is.
    """

    options: LogOptions
    """May be set at any time: what is done from then on goes by the new ones."""
    on_finding: Callable[[Finding], None] | None
    """Called with what is found wrong while it is open."""
    on_readable: Callable[[], None] | None
    """Called when a `fetch` that gave None may give more: in a turn of the scheduler, never while in `fetch`."""

    # -- what there is -----------------------------------------------------------------------------------

    @property
    def directory(self) -> str:
        """Where it is, for the lines of the broker's log."""

    @property
    def findings(self) -> list[Finding]:
        """What was wrong when it was opened, and what was found since."""

    @property
    def closed_because(self) -> str | None:
        """Why it takes no records, or None while it does."""

    @property
    def start_offset(self) -> int:
        """The lowest offset that may still be here."""

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets."""

    @property
    def synced_offset(self) -> int:
        """All records below it are as safe as this store can make them: in files they survive a power cut."""

    @property
    def size_bytes(self) -> int:
        """How much room it takes."""

    @property
    def segments(self) -> Sequence[Stretch]:
        """What it lets go as a whole, oldest first; the last one is being written, and there is always one."""

    @property
    def is_dirty(self) -> bool:
        """Whether a sync has something to do."""

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether a sync is due, even if nobody waits for it."""

    # -- writing -----------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Sequence[Record]], now_ms: int) -> int:
        """Write batches in one go and return the first offset; records (checked before) get offset and time.

        Raises:
            WriteFailedError: it was not possible; nothing of it is stored. StoreFullError where there is no room.
            LogClosedError: the log takes no records.
        """

    def begin_sync(self) -> SyncWork:
        """Return the work that makes everything written so far safe; `end_sync` must follow.

        Raises:
            LogClosedError: that is not possible any more; the log is closed for good.
        """

    def end_sync(self, job: Any, error: BaseException | None) -> None:
        """Take note of how what `begin_sync` returned went: after an error the log is closed for good."""

    def sync(self) -> None:
        """Make everything written so far safe, now.

        Raises:
            LogClosedError: that failed; the log is closed for good.
        """

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, offset: int, *, bytes_max: int = READ_BYTES, until: int = OFFSETS_END) -> list[Record]:
        """Return the next records from `offset` to before `until`, about `bytes_max` of them but at least one.

        Empty means that there is none. It answers now, though that may take a moment: for those who read a log to its
        end, as a start does.

        Raises:
            ReadFailedError: the store did not give them.
        """

    def fetch(self, offset: int, until: int) -> list[Record] | None:
        """Return some of the next records from `offset` to before `until`; None says that they are on their way.

        For groups, which come back. A store that is not to be waited for gives None, reads in a worker, and calls
        `on_readable`; then the same is asked again, or something else: a group may have been moved meanwhile. An empty
        list is an answer: there is nothing, and the group passes it.

        Raises:
            ReadFailedError: the store did not give them.
        """

    def read_one(self, offset: int) -> Record | None:
        """Return the record at `offset`, now, or None when it is gone or never was.

        Raises:
            ReadFailedError: the store did not give it.
        """

    def offset_at_time(self, time_ms: int) -> int:
        """Return the offset of the first record that was appended at or after a time, or `next_offset`.

        Raises:
            ReadFailedError: the store did not say.
        """

    def count_from(self, offset: int, until: int = OFFSETS_END) -> int:
        """Return how many records there are from `offset` to before `until`: gaps do not count.

        Raises:
            ReadFailedError: the store did not say.
        """

    # -- letting go --------------------------------------------------------------------------------------

    def retire(
        self,
        now_ms: int,
        needed_offset: int = 0,
        *,
        passed_offset: int | None = None,
        spared_offset: int = OFFSETS_END,
    ) -> Removal:
        """Let go of what retention does not keep, as `count_expendable` says, and return what removes it."""

    def empty(self, now_ms: int) -> Removal:
        """Let go of every record there is, and return what removes them; offsets go on.

        Raises:
            WriteFailedError: that was not possible; nothing has changed.
            LogClosedError: the log takes no records, and so it lets go of none.
        """

    def is_compaction_due(self, now_ms: int, until: int = OFFSETS_END) -> bool:
        """Say whether the options ask for compaction by key, and it pays."""

    def begin_compaction(self, now_ms: int, until: int = OFFSETS_END) -> Work:
        """Return the work that compacts what stands before `until`; `end_compaction` must follow. One at a time.

        Raises:
            LogClosedError: the log takes no records, and so it lets go of none.
        """

    def end_compaction(self, job: Any, error: BaseException | None) -> Leftover | None:
        """Let what a job has done take effect, and return what removes the rest; None says that it did not."""

    def close(self) -> None:
        """Make everything safe, and take no records from now on. Closing twice is fine.

        Raises:
            LogClosedError: that failed; what was not safe before may be lost.
        """
