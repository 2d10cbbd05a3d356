"""The journal: where groups stand, in a log of its own.

One journal serves all groups of a broker, so that what a thousand groups did in one turn is one write. Its records
are JSON; the key names the group by its topic's uid and its own name, the tag says what it is:

    group     its options and its place in full
    moved     what changed since
    removed   it is gone

Of each group the register, a second journal, keeps the last record in full that it was begun with: when it was made,
sought elsewhere or given other options. What damage takes of one is found in the other; see `recollection`.

Of each group the last `group` record counts, and what came after it. While the journal has more than a few segments,
each write says a few of the oldest groups again, those with very much in hand in slices; a segment whose groups were
all said again later goes. Reading from the first record on therefore gives every group, and the journal stays a few
times as large as what it says.

Promises: `put` and `remove` tell when they are on the disk. What groups do is written at the end of a short while
(WRITE_DELAY_S); a crash of the broker loses at most that, and so messages come again and are never lost.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import orjson

from zbusrpc.broker.mq.cursor import Describing, Noted, describe_said
from zbusrpc.broker.mq.recollection import Recollection, Said
from zbusrpc.broker.mq.slices import in_slices
from zbusrpc.broker.sessions.scheduler import Scheduler
from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.retention import Retention
from zbusrpc.telemetry import get_logger

WRITE_DELAY_S: Final = 0.005
"""One write serves what all groups do in this time: what a kill -9 may let come again."""
SEGMENT_BYTES: Final = 1024 * 1024
SEGMENTS_MAX: Final = 4
"""From here on groups are said again, so that segments can go."""
AGAIN_FACTOR: Final = 2
"""For each byte that is written, so many of the oldest groups are said again, about."""
RETRY_DELAY_S: Final = 1.0
"""After a failed write."""
OPTIONS: Final = LogOptions(segment_bytes_max=SEGMENT_BYTES, retention=Retention(when_passed=True))

Done = Callable[[StorageError | None], None]
log = get_logger("mq")


class Member(Protocol):
    """A group, as the journal knows it."""

    @property
    def is_changed(self) -> bool:
        """Whether `changes` has something to tell."""

    @property
    def is_large(self) -> bool:
        """Whether describing it is more than a turn should do."""

    def describe(self) -> dict[str, Any]:
        """Return everything a restart needs to know."""

    def describing(self) -> Describing | None:
        """Begin what `describe` does, in slices, where it is more than a turn should do."""

    def changes(self) -> dict[str, Any]:
        """Return what changed since `describe` or `changes`."""

    def forget_stored(self) -> None:
        """Tell everything with the next `changes`: what was told before did not reach the disk."""


class Journal:
    """Keeps where groups stand."""

    def __init__(self, committer: Committer, scheduler: Scheduler, register: "Journal | None" = None) -> None:
        """Keep groups in the committer's log.

        Args:
            committer: Of its log.
            scheduler: Time and turns.
            register: What keeps the beginnings of the groups once more; None for the register itself.
        """
        self.committer = committer
        self.register = register
        self.hurt: list[bytes] = []
        """Groups of which `read` missed something: messages of theirs come again."""
        self._scheduler = scheduler
        self._members: dict[bytes, Member] = {}
        self._said: OrderedDict[bytes, int] = OrderedDict()  # where the record in full is, oldest first
        self._changed: dict[bytes, None] = {}
        self._eras: dict[bytes, int] = {}
        self._unsaid: set[bytes] = set()  # to be said in full with the next write
        self._is_scheduled = False
        self._is_letting_go = False
        self._is_describing = False
        self._is_closed = False
        self.failure: StorageError | None = None
        """Why the last write failed: nothing is lost while the broker lives, and it is tried again."""

    @property
    def groups(self) -> int:
        """How many groups it keeps."""
        return len(self._members)

    @property
    def fails_because(self) -> str | None:
        """Why what groups do is not stored now, here or in the register; None where it is."""
        own = self.committer.log.closed_because or (str(self.failure) if self.failure is not None else None)
        return own or (self.register.fails_because if self.register is not None else None)

    def reading(self) -> Generator[int, None, dict[bytes, Said]]:
        """Return what was said of each group: `options`, `next`, `pending`, and whatever `describe` put there.

        A block of records is read at each step, which tells its bytes.
        """
        registered: dict[bytes, Said] = {}
        if self.register is not None:
            registered = yield from self.register.reading()
        recollection = Recollection(registered)
        position = self.committer.log.start_offset
        while records := self.committer.log.read(position):
            for record in records:
                if record.offset != position:
                    recollection.note_gap()
                recollection.add(record)
                position = record.offset + 1
            yield sum(len(record.body) for record in records)
        if position < self.committer.log.next_offset:  # its end is lost
            recollection.note_gap()
        found = recollection.end()
        self.hurt = [key for key, said in found.items() if said["has_gap"]]
        self._eras = {key: said["era"] for key, said in found.items()}
        if self.register is not None:
            self.register._follow(registered, found)
        return found

    def _follow(self, registered: Mapping[bytes, Said], found: Mapping[bytes, Said]) -> None:
        """Have in the register what the journal has, and no more."""
        for key, said in registered.items():
            if key in found:
                self._eras[key] = said["era"]
                self.adopt(key, Noted(describe_said(said)))
            else:
                self.remove(key, lambda error: None)
        missing = {key: said for key, said in found.items() if key not in registered or said["era"] != self._eras[key]}
        self._eras |= {key: said["era"] for key, said in missing.items()}
        self.put_all({key: Noted(describe_said(said)) for key, said in missing.items()}, lambda error: None)

    def adopt(self, key: bytes, member: Member) -> None:
        """Keep a group that was read, from now on."""
        self._members[key] = member
        self._said[key] = -1  # said again by and by
        self._said.move_to_end(key, last=False)

    # -- writing -----------------------------------------------------------------------------------------

    def put(self, key: bytes, member: Member, done: Done) -> None:
        """Begin a group, or begin it anew, and tell when it is on the disk."""
        self._eras[key] = max(self._eras.get(key, 0) + 1, self._scheduler.now_ms())  # later than any that is forgotten
        self._members[key] = member
        record = self._in_full(key)
        if self.register is None:
            self._submit([record], done)
            return
        done = _when_both(done)
        self._submit([record], done)
        self.register.note_beginning(key, self._eras[key], Noted(orjson.loads(record.body)), done)

    def note_beginning(self, key: bytes, era: int, noted: Noted, done: Done) -> None:
        """Keep how a group began in another journal, and tell when that is on the disk."""
        self._eras[key] = era
        self.put_all({key: noted}, done)

    def put_all(self, members: Mapping[bytes, Member], done: Done) -> None:
        """Keep several groups as they are now: a crash leaves all of them so, or none."""
        self._members.update(members)
        if members:
            self._submit([self._in_full(key) for key in members], done)

    def put_changes(self, keys: Iterable[bytes], done: Done) -> None:
        """Write what several groups did, and tell when that is on the disk: a crash leaves all of it, or none."""
        self._submit([self._latest(key) for key in keys], done)

    def remove(self, key: bytes, done: Done) -> None:
        """Forget a group, and tell when that is on the disk."""
        if self.register is not None:
            done = _when_both(done)
            self.register.remove(key, done)
        era = self._eras.get(key, 0)
        self._forget(key)
        self._submit([Record(orjson.dumps({"era": era}), tag=b"removed", key=key)], done)

    def forget(self, key: bytes) -> None:
        """Keep a group no longer that could not be stored."""
        self._forget(key)
        if self.register is not None:
            self.register.remove(key, lambda error: None)

    def _forget(self, key: bytes) -> None:
        self._members.pop(key, None)
        self._said.pop(key, None)
        self._changed.pop(key, None)
        self._eras.pop(key, None)
        self._unsaid.discard(key)

    def note_change(self, key: bytes) -> None:
        """Write what a group did, in a short while."""
        self._changed[key] = None
        self._schedule(WRITE_DELAY_S)

    def write_now(self, key: bytes) -> StorageError | None:
        """Write what a group did, and return why that cannot be: while the disk takes nothing, it is not even tried."""
        self._changed[key] = None
        if self.failure is None:
            self.write()
        return self.failure

    def _schedule(self, delay_s: float) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._scheduler.later(delay_s, self._write_late)

    def _write_late(self) -> None:
        self._is_scheduled = False
        self.write()

    def close(self) -> None:
        """Write what groups did, and nothing after that."""
        self.write()
        self._is_closed = True
        if self.register is not None:
            self.register.close()

    def write(self) -> None:
        """Write now what groups did."""
        if self._is_closed:
            return
        changed, self._changed = self._changed, {}
        records = []
        for key in changed:
            member = self._members.get(key)
            if member is not None and (key in self._unsaid or member.is_changed):
                records.append(self._latest(key))
        if records:
            records += self._say_again(AGAIN_FACTOR * sum(len(record.body) for record in records))
            self._append(records)

    def _say_again(self, room: int) -> list[Record]:
        """Return the oldest groups in full, while the journal has many segments."""
        segments = self.committer.log.segments
        again: list[Record] = []
        if len(segments) > SEGMENTS_MAX:
            for key, offset in self._said.items():
                if offset >= segments[-2].base_offset or room <= 0:
                    break
                if not self._describe_by_and_by(key):
                    again.append(self._in_full(key))
                    room -= len(again[-1].body)
        return again

    def _describe_by_and_by(self, key: bytes) -> bool:
        """Begin to say a group in full that has much in hand, one at a time; False where one turn is enough for it.

        Until that is written, with all that has changed meanwhile, what was said before stays.
        """
        member = self._members[key]
        describing = None if self._is_describing else member.describing()
        if describing is None:
            return self._is_describing and member.is_large
        steps, end = describing
        self._is_describing = True

        def ended(error: object) -> None:
            self._is_describing = False
            described = end()
            if described is not None and self._members.get(key) is member and not self._is_closed:
                self._append([self._record(key, described)])

        self._scheduler.soon(lambda: in_slices(self._scheduler, steps, ended))
        return True

    def _append(self, records: list[Record]) -> None:
        def done(offset: int, error: StorageError | None) -> None:
            if error is not None:
                self._note_failure(records, error)
                return
            self.failure = None
            for record in records:
                if record.tag == b"group":
                    self._note_said(record.key, record.offset)
            self._let_go()

        try:
            self.committer.submit(records, done)
        except StorageError as error:
            self._note_failure(records, error)
        else:
            self.committer.flush()

    def _note_failure(self, records: list[Record], error: StorageError) -> None:
        """Say it once, and write everything again when the disk takes it."""
        if self.failure is None:
            log.error("mq.journal_failed", reason=str(error))
        self.failure = error
        for record in records:
            self._note_unsaid(record)

    def mend(self, key: bytes) -> None:
        """Say a group in full soon, of which something was missing."""
        self._unsaid.add(key)
        self.note_change(key)

    def _note_unsaid(self, record: Record) -> None:
        """Write all of a group when the disk takes it: what was to be written last did not get there."""
        key = record.key
        member = self._members.get(key)
        if member is not None:
            if record.tag == b"group":
                self._unsaid.add(key)
            member.forget_stored()
            self._changed[key] = None
            self._schedule(RETRY_DELAY_S)

    def _submit(self, records: list[Record], tell: Done) -> None:
        records += self._say_again(AGAIN_FACTOR * sum(len(record.body) for record in records))

        def done(offset: int, error: StorageError | None) -> None:
            for record in records:
                if error is not None:
                    self._note_unsaid(record)
                elif record.tag == b"group":
                    self._note_said(record.key, record.offset)
            tell(error)
            self._let_go()

        try:
            self.committer.submit(records, done, Durability.DISK)
        except StorageError as error:
            done(-1, error)

    def _latest(self, key: bytes) -> Record:
        """Return what a group did since it was written last; all of it where that did not get to the disk."""
        if key in self._unsaid:
            self._unsaid.discard(key)
            return self._in_full(key)
        moved = self._members[key].changes() | {"era": self._eras.get(key, 0)}
        return Record(orjson.dumps(moved), tag=b"moved", key=key)

    def _in_full(self, key: bytes) -> Record:
        return self._record(key, self._members[key].describe())

    def _record(self, key: bytes, described: dict[str, Any]) -> Record:
        return Record(orjson.dumps(described | {"era": self._eras.get(key, 0)}), tag=b"group", key=key)

    def _note_said(self, key: bytes, offset: int) -> None:
        if key in self._members:
            self._said[key] = offset
            self._said.move_to_end(key)

    def _let_go(self) -> None:
        """Remove segments that hold only what was said again since, once that is on the disk."""
        journal = self.committer.log
        if self._is_letting_go or len(journal.segments) <= SEGMENTS_MAX or not self._is_oldest_said_again():
            return
        self._is_letting_go = True

        def synced(offset: int, error: StorageError | None) -> None:
            self._is_letting_go = False
            if error is None:
                needed = min(self._said.values(), default=journal.next_offset)  # of some later than when this began
                retired = journal.retire(self._scheduler.now_ms(), needed)
                self._scheduler.in_worker(retired.remove, lambda error: None)

        with suppress(StorageError):  # then it is tried after the next write
            self.committer.submit([], synced, Durability.DISK)

    def _is_oldest_said_again(self) -> bool:
        """Say whether nothing of the oldest segment is needed."""
        until = self.committer.log.segments[0].next_offset
        first = next(iter(self._said.values()), until)  # nearly always the oldest: what waits for a sync comes later
        return until <= first and all(until <= offset for offset in self._said.values())


def _when_both(done: Done) -> Done:
    """Return what tells `done` when it was told twice, with the first error."""
    told: list[StorageError | None] = []

    def one_done(error: StorageError | None) -> None:
        told.append(error)
        if len(told) == 2:
            done(told[0] or told[1])

    return one_done
