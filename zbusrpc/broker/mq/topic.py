"""A topic whose messages are stored: a log, the producers that write it, and what its groups may read.

    produce ──> duplicates? ──> one batch ──group commit──> receipt
                                    └──> the tail in memory, for groups that follow closely

A frame of messages is one batch: it is stored as a whole or not at all. Its receipt goes out when the topic's level of
durability is reached, in the order the frames came.

Promises: a message whose id is in the duplicate window is not stored again, and its receipt names where it is; a group
is never shown what a power cut could take back (level DISK); what is kept in memory is bounded by TAIL_BYTES_MAX.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from zbusrpc.broker.access.rights import NO_OWNER
from zbusrpc.broker.mq.delayed import Delayed
from zbusrpc.broker.mq.duplicates import RESERVED, DuplicateWindow, Whose, whose
from zbusrpc.broker.mq.faults import as_rpc_error
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.options import TopicOptions
from zbusrpc.broker.mq.read_ahead import ReadAhead
from zbusrpc.broker.mq.slices import in_slices
from zbusrpc.broker.sessions.limits import RETRY_AFTER_S
from zbusrpc.broker.sessions.scheduler import Scheduler
from zbusrpc.broker.storage.commit import Committer
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.retention import count_expendable
from zbusrpc.broker.storage.seams import Removal, TopicLog
from zbusrpc.broker.storage.segment import OFFSETS_END
from zbusrpc.errors import Code, RpcError
from zbusrpc.outcome import not_run
from zbusrpc.transport.entries import Entry

TAIL_RECORDS_MAX: Final = 2048
TAIL_BYTES_MAX: Final = 1024 * 1024
"""Of a topic with consumers the last messages are kept in memory: who follows closely does not read the disk."""
READ_COST_BYTES: Final = 512
"""What reading a message takes besides its body: as long as so many bytes of it."""
TAIL_READ: Final = 256
"""Records that one read of the tail returns."""

Told = Callable[[dict[str, Any] | None, RpcError | None], None]
"""Told a receipt or an error."""


class Topic:
    """One topic of the message queue."""

    def __init__(
        self,
        name: str,
        uid: str,
        options: TopicOptions,
        committer: Committer,
        *,
        scheduler: Scheduler,
        created_ms: int,
        payer: int | None = None,
        on_readable: Callable[["Topic"], None],
        ahead: ReadAhead,
    ) -> None:
        self.name = name
        self.uid = uid
        """Names it on the disk, and never another topic that is called the same later."""
        self.options = options
        self.created_ms = created_ms
        self.payer = payer
        """Whose share of topics it takes; see `shares.py`. None where nobody pays."""
        self.committer = committer
        self.delayed = Delayed()
        """Who has produced what is not due."""
        self.groups: dict[str, Group] = {}
        self.group_names: dict[str, str] = {}
        """Names of groups by what they are in lower case, for those who do not care."""
        self.consumed: dict[Group, None] = {}
        """Groups that somebody takes part in."""
        self.held_back_by = ""
        """The group for which messages stay that would be removed else."""
        self.is_removed = False
        self.on_stored: Callable[[list[Record]], None] | None = None
        """Told what was stored, when groups may have it."""
        self.duplicates_suppressed = 0
        self.produced = 0
        self._scheduler = scheduler
        self._on_readable = on_readable
        self._window: DuplicateWindow | None = None
        self._filling: DuplicateWindow | None = None  # after a restart, until it has all ids
        self._late: list[tuple[Sequence[Entry], Told, int]] = []  # what waits for that
        self._ahead = ahead
        committer.log.on_readable = partial(on_readable, self)
        self._tail: list[Record] = []
        self._tail_bytes = 0

    @property
    def log(self) -> TopicLog:
        """Its records."""
        return self.committer.log

    @property
    def readable_offset(self) -> int:
        """Groups may read what is below it."""
        return self.committer.readable_offset

    # -- producing ---------------------------------------------------------------------------------------

    def produce(self, entries: Sequence[Entry], tell: Told, owner: int = NO_OWNER) -> None:
        """Store the messages of one frame, and tell the receipt or why there is none.

        Args:
            owner: Whose ids they have: those of others are others (see `Rights.owner`).

        Raises:
            RpcError: they are refused at once; nothing is told.
        """
        window = self._window
        if window is None:
            self._produce_late(entries, tell, owner)
            return
        now_ms = self._scheduler.now_ms()
        window.forget_old(now_ms)
        ttl_ms = self.options.ttl_ms or 0
        records: list[Record] = []
        ids: list[Whose] = []
        seen: list[tuple[int, Whose]] = []
        for place, (own_ttl_ms, delay_ms, _, id_, tag, key, headers, body) in enumerate(entries):
            if id_:
                known = whose(owner, id_)
                if window.find(known) is not None:
                    seen.append((place, known))
                    continue
                ids.append(known)
            lives_ms = own_ttl_ms or ttl_ms
            expiry_ms = now_ms + lives_ms if lives_ms else 0
            records.append(Record(body, id_, tag, key, headers, expiry_ms, now_ms + delay_ms if delay_ms else 0, owner))
        if len(set(ids)) < len(ids):
            raise RpcError(Code.INVALID_ARGUMENT, f"topic {self.name}: two messages of one frame have the same id")
        if ids:
            window.reserve(ids, now_ms, owner)
        try:
            self.append(records, partial(self._tell, tell, records, ids, seen))
        except StorageError as error:
            window.free(ids)
            raise as_rpc_error(self.name, error) from error

    def _produce_late(self, entries: Sequence[Entry], tell: Told, owner: int) -> None:
        """Store messages when the duplicate window is filled: after a restart, from the log, in slices."""
        self._late.append((entries, tell, owner))
        self._begin_filling()

    def _begin_filling(self) -> None:
        if self._filling is None:
            self._filling = self._empty_window()
            in_slices(self._scheduler, self._fill_window(), self._filled)

    def _filled(self, error: StorageError | RpcError | None) -> None:
        if self._window is None and error is None:
            self._window = self._filling
        self._filling = None
        late, self._late = self._late, []
        for entries, tell, owner in late:
            try:
                if self._window is None and isinstance(error, StorageError):
                    raise as_rpc_error(self.name, error)
                self.produce(entries, tell, owner)
            except RpcError as refusal:
                tell(None, refusal)

    def record_of(self, entry: Entry, owner: int = NO_OWNER) -> Record:
        """Return what is stored of a message."""
        ttl_ms, delay_ms, _, id_, tag, key, headers, body = entry
        ttl_ms = ttl_ms or self.options.ttl_ms or 0
        if not ttl_ms and not delay_ms:
            return Record(body, id_, tag, key, headers, 0, 0, owner)
        now_ms = self._scheduler.now_ms()
        due_ms = now_ms + delay_ms if delay_ms else 0
        return Record(body, id_, tag, key, headers, now_ms + ttl_ms if ttl_ms else 0, due_ms, owner)

    def append(self, records: list[Record], done: Callable[[int, StorageError | None], None]) -> None:
        """Store records as one batch, whatever their ids.

        Raises:
            StorageError: they are refused; `done` is not called.
        """

        def stored(offset: int, error: StorageError | None) -> None:
            if error is None and records and records[0].offset >= 0:
                self._show(records)
            elif error is None and records:  # level MEMORY is done before it is written, which ends this turn
                self._scheduler.soon(lambda: self._show_soon(records))
            done(offset, error)

        self.committer.submit(records, stored)

    def _show_soon(self, records: list[Record]) -> None:
        self._scheduler.soon(lambda: self._show(records))

    def _show(self, records: list[Record]) -> None:
        """Let groups have what was stored."""
        if records[0].offset >= 0:
            self.produced += len(records)
            self._extend_tail(records)
            if self.on_stored is not None:
                self.on_stored(records)
            self._on_readable(self)

    def _tell(
        self,
        tell: Told,
        records: list[Record],
        ids: list[Whose],
        seen: list[tuple[int, Whose]],
        offset: int,
        error: StorageError | None,
    ) -> None:
        window = self._duplicate_window()
        if error is not None:
            window.free(ids)
            tell(None, as_rpc_error(self.name, error))
            return
        if ids:
            window.settle(
                (whose(record.owner, record.id), number) for number, record in enumerate(records, offset) if record.id
            )
        timestamp_ms = records[0].timestamp_ms if records else 0
        receipt: dict[str, Any] = {
            "offset": offset,
            "timestamp_ms": timestamp_ms or self._scheduler.now_ms(),
            "durability": self.committer.durability.value,
        }
        if seen:
            self.duplicates_suppressed += len(seen)
            places = [(place, window.find(id_)) for place, id_ in seen]
            if any(found is None or found == RESERVED for _, found in places):
                text = f"topic {self.name}: an earlier attempt to store this message failed; send it again"
                tell(None, RpcError(Code.ABORTED, text))
                return
            receipt["duplicates"] = places
        tell(receipt, None)

    def _duplicate_window(self) -> DuplicateWindow:
        """Return the window, filled from the log by the first who needs it."""
        if self._window is None:
            self._filling = window = self._empty_window()
            for _ in self._fill_window():
                pass
            self._window, self._filling = window, None
        return self._window

    def _empty_window(self) -> DuplicateWindow:
        return DuplicateWindow(round(self.options.duplicate_window_s * 1000), self.options.duplicate_window_ids)

    def _fill_window(self) -> Iterator[int]:
        """Read the ids of late messages, some at each step."""
        log = self.log
        offset = self.duplicate_window_offset()
        while (window := self._filling) is not None and (records := log.read(offset)):
            named: dict[int, list[tuple[Whose, int]]] = {}
            for record in records:
                if record.id:
                    named.setdefault(record.owner, []).append((whose(record.owner, record.id), record.offset))
            for owner, of_owner in named.items():
                window.reserve([id_ for id_, _ in of_owner], records[-1].timestamp_ms, owner)
                window.settle(of_owner)
            offset = records[-1].offset + 1
            yield sum(len(record.body) + READ_COST_BYTES for record in records)

    def duplicate_window_offset(self) -> int:
        """Return where the messages begin whose ids are in the window, and are read after a restart.

        Raises:
            ReadFailedError: the disk did not say.
        """
        since_ms = self._scheduler.now_ms() - round(self.options.duplicate_window_s * 1000)
        first = self.log.offset_at_time(max(0, since_ms))
        return max(first, self.log.next_offset - self.options.duplicate_window_ids)

    def find_id(self, id_: bytes) -> int | None:
        """Return the offset of a late message by its id, or None.

        Raises:
            RpcError: UNAVAILABLE: after a restart the ids are still being read, or cannot be.
        """
        if self._window is None:
            self._begin_filling()
        if self._window is None:
            text = f"topic {self.name}: the ids of late messages are being read; ask again in a moment"
            raise not_run(Code.UNAVAILABLE, text, {"retry_after_s": RETRY_AFTER_S})
        return self._window.find_any(id_)

    def check_kind(self, options: TopicOptions) -> None:
        """See that it stays what it is while it holds messages: they would go as calls, or calls as messages.

        Raises:
            RpcError: FAILED_PRECONDITION.
        """
        count = self.log.count_from(self.log.start_offset)
        if count and self.options.is_service != options.is_service:
            is_now = "service" if self.options.is_service else "topic of messages"
            text = f"{self.name} is a {is_now}, and holds {count}: empty it first, or use another name"
            raise RpcError(Code.FAILED_PRECONDITION, text)

    def set_options(self, options: TopicOptions) -> None:
        """Have other options from now on."""
        self.options = options
        self.committer.durability = options.durability
        with suppress(StorageError):  # what was written at another level is synced, and shown again after that
            self.committer.submit([], lambda offset, error: self._on_readable(self))
        self.log.options = options.log_options()
        window = self._window
        if window is not None:
            window.window_ms, window.ids_max = round(options.duplicate_window_s * 1000), options.duplicate_window_ids

    # -- reading -----------------------------------------------------------------------------------------

    def fetch(self, offset: int) -> list[Record] | None:
        """Return some records from `offset` on that groups may see; none where there are no more.

        None says that the store is reading them: groups are woken when it has.
        """
        readable = self.readable_offset
        if offset >= readable:
            return []
        return self._from_tail(offset) or self.log.fetch(offset, readable)

    def read(self, offset: int) -> list[Record]:
        """Return what `fetch` does, now: for those who do not come back."""
        readable = self.readable_offset
        if offset >= readable:
            return []
        return self._from_tail(offset) or self.log.read(offset, until=readable)

    def _from_tail(self, offset: int) -> list[Record]:
        tail = self._tail
        if tail and tail[0].offset <= offset <= tail[-1].offset:
            start = offset - tail[0].offset
            if tail[start].offset == offset:
                return tail[start : start + TAIL_READ]
        return []

    def load(self, offset: int) -> Record | None:
        """Return the record at `offset`, or None where it is gone; for those who were shown it once.

        It need not be readable yet: after a restart that takes a sync, and what a group had must not seem gone.
        """
        return self._ahead.load(self.log, offset)

    def _extend_tail(self, records: list[Record]) -> None:
        if not self.consumed:
            self._tail.clear()
            self._tail_bytes = 0
            return
        tail = self._tail
        if tail and tail[-1].offset + 1 != records[0].offset:
            tail.clear()
            self._tail_bytes = 0
        tail += records
        self._tail_bytes += sum(len(record.body) + len(record.headers) for record in records)
        while len(tail) > TAIL_RECORDS_MAX or self._tail_bytes > TAIL_BYTES_MAX:
            del tail[: len(tail) // 2 + 1]
            self._tail_bytes = sum(len(record.body) + len(record.headers) for record in tail)

    def needed_offset(self) -> int:
        """Return the lowest offset that a group still needs; the end where there is none."""
        return self._slowest()[0]

    def _slowest(self) -> tuple[int, str]:
        """Return the lowest offset that a group still needs, and which group that is."""
        lowest, name = self.log.next_offset, ""
        for group in self.groups.values():
            offset = min(group.position, group.oldest())
            if offset < lowest:
                lowest, name = offset, group.name
        return lowest, name

    def retire(self, now_ms: int) -> Removal:
        """Let go of what retention does not keep, and note which group keeps it from more.

        A message counts as consumed when there are groups, and all have passed it. The ids of late messages are read
        again after a restart, so those stay.

        Raises:
            ReadFailedError: the disk did not say where they begin.
        """
        log = self.log
        if len(log.segments) == 1:
            self.held_back_by = ""
            return log.retire(now_ms)
        needed, slowest = self._slowest()
        spared = self.duplicate_window_offset()
        segments, retention = list(log.segments), log.options.retention
        count = count_expendable(segments, retention, now_ms, OFFSETS_END, spared_offset=spared) if slowest else 0
        retired = log.retire(now_ms, needed, passed_offset=needed if self.groups else 0, spared_offset=spared)
        self.held_back_by = slowest if count > len(retired.segments) else ""
        return retired

    def removed_until(self) -> int:
        """Return below which offset retention has removed what is missing, and not compaction."""
        options = self.options
        is_kept = options.compact and options.keep_s is None and options.keep_bytes is None
        return 0 if is_kept else self.log.start_offset

    def forget_emptied(self) -> None:
        """Keep nothing in memory of what was in the log: neither messages nor their ids."""
        self._tail.clear()
        self._tail_bytes = 0
        self.delayed.forget()
        self._window = None
        if self._filling is not None:
            self._filling = self._empty_window()
        self._ahead.forget()
