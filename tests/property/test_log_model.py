"""The log against a list: any history of appends, restarts, damage-free crashes and retention, any way of reading."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.faulty_disk import FaultyDisk
from tests.support.storage import batch, open_at
from zbusrpc.broker.storage.finding import FindingKind
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.retention import Retention

OPTIONS = LogOptions(
    segment_bytes_max=900, segment_age_ms_max=5000, checkpoint_bytes=400, retention=Retention(when_passed=True)
)
BATCHES = st.lists(st.lists(st.binary(max_size=90), min_size=1, max_size=4), min_size=1, max_size=4)


class LogAndList(RuleBasedStateMachine):
    """A log, and what a list makes of the same history."""

    log: Log

    @initialize()
    def begin(self) -> None:
        self.disk = FaultyDisk()
        self.now_ms = 1000
        self.model: list[Record] = []
        self.log = open_at(self.disk, options=OPTIONS)

    # -- history -----------------------------------------------------------------------------------------

    @rule(batches=BATCHES, passed_ms=st.integers(-2000, 3000))
    def append(self, batches: list[list[bytes]], passed_ms: int) -> None:
        self.now_ms = max(1, self.now_ms + passed_ms)
        groups = [batch(*bodies) for bodies in batches]
        first = self.log.append(groups, self.now_ms)
        records = [record for group in groups for record in group]
        assert [record.offset for record in records] == list(range(first, first + len(records)))
        self.model += records

    @rule()
    def sync(self) -> None:
        self.log.sync()
        assert self.log.synced_offset == self.log.next_offset

    @rule(is_clean=st.booleans())
    def restart(self, is_clean: bool) -> None:
        if is_clean:
            self.log.close()
        self.log = open_at(self.disk, options=OPTIONS, now_ms=self.now_ms)
        assert not self.log.findings

    @rule(share=st.floats(0, 0.99))
    def restart_with_torn_tail(self, share: float) -> None:
        before = self.log.segments[-1]
        size = before.size
        self.log.append([batch(b"never acknowledged", b"t" * 80)], self.now_ms)
        last = self.log.segments[-1]
        start = size if last is before else 0
        data = self.disk.names[last.path].data
        del data[start + int(share * (len(data) - start)) :]
        self.log = open_at(self.disk, options=OPTIONS, now_ms=self.now_ms)
        assert all(finding.kind is FindingKind.TORN_TAIL for finding in self.log.findings)

    @rule(needed=st.integers(0, 200))
    def retire(self, needed: int) -> None:
        needed = min(needed, self.log.next_offset)
        self.log.retire(self.now_ms, needed).remove()
        start = self.log.start_offset
        assert all(record.offset >= start for record in self.model if record.offset >= needed)
        self.model = [record for record in self.model if record.offset >= start]

    @rule()
    def empty(self) -> None:
        next_offset = self.log.next_offset
        self.log.empty(self.now_ms).remove()
        self.model = []
        assert self.log.start_offset == self.log.next_offset == next_offset

    # -- reading -----------------------------------------------------------------------------------------

    @rule(offset=st.integers(0, 250), until=st.integers(0, 250), bytes_max=st.integers(1, 2000))
    def read(self, offset: int, until: int, bytes_max: int) -> None:
        wanted = [record for record in self.model if offset <= record.offset < until]
        found = self.log.read(offset, until=until, bytes_max=bytes_max)
        assert found == wanted[: len(found)]
        assert bool(found) == bool(wanted)

    @rule(offset=st.integers(0, 250), until=st.integers(0, 250))
    def read_one(self, offset: int, until: int) -> None:
        wanted = [record for record in self.model if record.offset == offset < until]
        assert self.log.read_one(offset, until=until) == (wanted[0] if wanted else None)

    @rule(time_ms=st.integers(0, 20_000))
    def seek_by_time(self, time_ms: int) -> None:
        later = (record.offset for record in self.model if record.timestamp_ms >= time_ms)
        assert self.log.offset_at_time(time_ms) == next(later, self.log.next_offset)

    @invariant()
    def ends_agree(self) -> None:
        if self.model:
            assert self.log.next_offset == self.model[-1].offset + 1
            assert self.log.read(self.model[-1].offset) == self.model[-1:]


TestLogAndList = LogAndList.TestCase
TestLogAndList.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
