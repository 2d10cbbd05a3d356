"""A compacted log against a dictionary: whatever is appended, compacted, retired meanwhile, crashed and reopened."""

from itertools import islice
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.faulty_disk import FaultyDisk, PowerCut
from tests.support.storage import open_at, read_all, table
from zbusrpc.broker.storage.compaction_job import TOMBSTONE_GRACE_MS, CompactionJob
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.segment import OFFSETS_END

OPTIONS = LogOptions(segment_bytes_max=600, checkpoint_bytes=300, compact=True)
RECORDS = st.tuples(
    st.sampled_from([b"", b"a", b"b", b"c", b"d" * 50]),
    st.one_of(st.just(b""), st.binary(min_size=1, max_size=80)),
)
BATCHES = st.lists(st.lists(RECORDS, min_size=1, max_size=4), min_size=1, max_size=5)
UNTIL = st.one_of(st.just(OFFSETS_END), st.integers(0, 200))


class LogAndDictionary(RuleBasedStateMachine):
    """A log, all that was ever appended to it, and what a dictionary makes of that."""

    log: Log

    @initialize()
    def begin(self) -> None:
        self.disk = FaultyDisk()
        self.now_ms = 1000
        self.appended: list[Record] = []
        self.kept: list[Record] = []
        """What the compaction that runs must not touch."""
        self.job: CompactionJob | None = None
        self.log = open_at(self.disk, options=OPTIONS)

    # -- history -----------------------------------------------------------------------------------------

    @rule(batches=BATCHES, is_safe=st.booleans())
    def append(self, batches: list[list[tuple[bytes, bytes]]], is_safe: bool) -> None:
        groups = [[Record(body, key=key) for key, body in group] for group in batches]
        self.log.append(groups, self.now_ms)
        self.appended += [record for group in groups for record in group]
        if is_safe:
            self.log.sync()

    @rule(passed_ms=st.sampled_from([1, TOMBSTONE_GRACE_MS // 2, TOMBSTONE_GRACE_MS + 1]))
    def pass_time(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule(is_clean=st.booleans())
    def restart(self, is_clean: bool) -> None:
        if is_clean:
            self.log.close()
        self.reopen()

    def reopen(self) -> None:
        self.job = None
        self.log = open_at(self.disk, options=OPTIONS, now_ms=self.now_ms)
        assert not self.log.findings

    # -- compaction --------------------------------------------------------------------------------------

    @precondition(lambda self: self.job is None)
    @rule(until=UNTIL)
    def compact(self, until: int) -> None:
        self.begin_compaction(until)
        self.end_compaction()
        limit = min(until, self.log.synced_offset)
        sealed = [segment.base_offset for segment in self.log.segments if segment.base_offset <= limit]
        below = [record for record in read_all(self.log) if record.offset < max(sealed, default=0) and record.key]
        assert len({record.key for record in below}) == len(below)

    @precondition(lambda self: self.job is None)
    @rule(until=UNTIL)
    def begin_compaction(self, until: int) -> None:
        self.job = self.log.begin_compaction(self.now_ms, until)
        self.kept = [record for record in read_all(self.log) if record.offset >= until]

    @precondition(lambda self: self.job is not None)
    @rule()
    def end_compaction(self) -> None:
        assert self.job is not None
        self.job.run()
        assert self.log.end_compaction(self.job, None)
        self.job = None
        found = {record.offset: record for record in read_all(self.log)}
        assert all(found[record.offset] == record for record in self.kept)

    @rule(cut_after=st.integers(1, 40), image=st.integers(0, 2000))
    def cut_power_while_compacting(self, cut_after: int, image: int) -> None:
        self.log.sync()
        self.disk.cut_after = self.disk.changes + cut_after
        try:
            job = self.job or self.log.begin_compaction(self.now_ms)
            job.run()
            self.log.end_compaction(job, None)
        except PowerCut:
            pass
        images: Any = list(islice(self.disk.images(), image, image + 1)) or list(self.disk.images())[-1:]
        self.disk = images[0][1]
        self.reopen()

    # -- what must hold ----------------------------------------------------------------------------------

    @invariant()
    def log_says_what_the_dictionary_says(self) -> None:
        found = read_all(self.log)
        assert table(found) == table(self.appended)
        assert [record for record in found if not record.key] == [each for each in self.appended if not each.key]
        by_offset = {record.offset: record for record in self.appended}
        assert all(record == by_offset[record.offset] for record in found)
        assert self.log.next_offset == len(self.appended)

    @invariant()
    def each_way_of_reading_agrees(self) -> None:
        found = {record.offset: record for record in read_all(self.log, bytes_max=1)}
        for offset in range(0, self.log.next_offset, 3):
            assert self.log.read_one(offset) == found.get(offset)

    @invariant()
    def counting_agrees_with_reading(self) -> None:
        offsets = [record.offset for record in read_all(self.log)]
        for offset in range(0, self.log.next_offset + 2, 3):
            assert self.log.count_from(offset) == sum(offset <= one for one in offsets)


TestLogAndDictionary = LogAndDictionary.TestCase
TestLogAndDictionary.settings = settings(
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
