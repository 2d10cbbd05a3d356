"""What each store is held to: the same tests over the log in files and the one in memory."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.queue_lab import LabScheduler, QueueLab, lab_with
from tests.support.storage import DIRECTORY, SMALL, Turns, batch, bodies, open_at, read_all, table
from zbusrpc.broker.mq.backend import Backend, FileBackend
from zbusrpc.broker.mq.catalog import TopicFile, file_of
from zbusrpc.broker.mq.memory_backend import MemoryBackend
from zbusrpc.broker.mq.options import TopicOptions
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.broker.storage.errors import LogClosedError, StoreFullError
from zbusrpc.broker.storage.memory import MemoryLog
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.broker.storage.retention import Retention
from zbusrpc.broker.storage.seams import TopicLog
from zbusrpc.errors import Code, RpcError

Open = Callable[..., TopicLog]


def open_files(options: LogOptions = SMALL, now_ms: int = 1000) -> TopicLog:
    return open_at(FaultyDisk(), options=options, now_ms=now_ms)


def open_memory(options: LogOptions = SMALL, now_ms: int = 1000, **bounds: int) -> TopicLog:
    return MemoryLog(DIRECTORY, options, now_ms=now_ms, **bounds)


@pytest.fixture(params=[open_files, open_memory], ids=["files", "memory"])
def open_log(request: pytest.FixtureRequest) -> Open:
    opener: Open = request.param
    return opener


def fill(log: TopicLog, count: int, *, now_ms: int = 1000, step_ms: int = 10) -> None:
    for number in range(count):
        log.append([batch(b"body %d" % log.next_offset)], now_ms + number * step_ms)


def with_options(**options: Any) -> LogOptions:
    return LogOptions(segment_bytes_max=700, **options)


# -- writing and reading ---------------------------------------------------------------------------------


def test_new_log_is_empty(open_log: Open) -> None:
    """It has one stretch, from offset 0, and nothing to read."""
    log = open_log()

    assert (log.start_offset, log.next_offset, len(log.segments)) == (0, 0, 1)
    assert log.read(0) == log.fetch(0, 100) == []
    assert log.read_one(0) is None
    assert log.count_from(0) == log.offset_at_time(0) == 0
    assert (log.findings, log.closed_because) == ([], None)


def test_record_comes_back_as_it_was_given(open_log: Open) -> None:
    """All its fields, with the offset and the time that the log gave it."""
    log = open_log()
    log.append([[Record(b"before")]], 900)

    first = log.append([[Record(b"body", b"id", b"tag", b"key", b"headers", 5, 6, 7)]], 1234)

    found = log.read_one(first)
    assert found is not None
    assert [getattr(found, name) for name in Record.__slots__] == [
        getattr(Record(b"body", b"id", b"tag", b"key", b"headers", 5, 6, 7, 1, 1234), name) for name in Record.__slots__
    ]


def test_offsets_grow_over_batches_and_stretches(open_log: Open) -> None:
    """Batches of one append follow each other; an append without records takes no offset."""
    log = open_log()

    assert log.append([batch(b"0", b"1"), batch(b"2")], 1000) == 0
    assert log.append([[]], 1000) == 3
    fill(log, 40)

    assert list(bodies(log)) == list(range(43))
    assert log.next_offset == 43
    assert len(log.segments) > 2
    ends = [one.next_offset for one in log.segments]
    assert [one.base_offset for one in log.segments] == [0, *ends[:-1]]


def test_reads_are_bounded(open_log: Open) -> None:
    """By an offset, and by bytes, but one record comes whatever its size; what is not there gives nothing."""
    log = open_log()
    fill(log, 30)

    assert [one.offset for one in log.read(3, until=5)] == [3, 4]
    assert [one.offset for one in log.read(7, bytes_max=1)] == [7]
    assert [one.offset for one in log.fetch(28, 29) or ()] == [28]
    assert [one.offset for one in read_all(log, 12)] == list(range(12, 30))
    assert log.read(30) == log.read(5, until=5) == []
    assert log.read_one(30) is None
    assert log.read_one(-1) is None


def test_records_are_counted_and_found_by_time(open_log: Open) -> None:
    """Times between two records mean the later one; after the last there is the end."""
    log = open_log()
    fill(log, 30)

    assert (log.count_from(0), log.count_from(10), log.count_from(10, 12), log.count_from(12, 10)) == (30, 20, 2, 0)
    assert [log.offset_at_time(time_ms) for time_ms in (0, 1000, 1001, 1010, 1290, 1291)] == [0, 0, 1, 1, 29, 30]


def test_committer_writes_and_tells(open_log: Open) -> None:
    """Group commit works at each level, and what it has told is safe and readable."""
    for durability in Durability:
        log = open_log()
        turns = Turns(log, durability)

        turns.submit(b"one", b"two")
        turns.submit(b"three")
        turns.settle()

        assert turns.results == [(0, None), (2, None)]
        assert turns.committer.readable_offset == 3
        assert turns.committer.is_idle


def test_sync_makes_all_safe(open_log: Open) -> None:
    """After a sync nothing is left to be synced."""
    log = open_log()
    fill(log, 30)

    log.sync()

    assert (log.synced_offset, log.is_dirty) == (30, False)


def test_closed_log_takes_nothing(open_log: Open) -> None:
    """It says why; closing it again is fine."""
    log = open_log()
    fill(log, 3)

    log.close()
    log.close()

    assert log.closed_because
    with pytest.raises(LogClosedError, match="closed"):
        log.append([batch(b"late")], 1000)
    with pytest.raises(LogClosedError):
        log.empty(1000)


# -- letting go ------------------------------------------------------------------------------------------


def test_retention_lets_go_of_whole_stretches(open_log: Open) -> None:
    """By age, by bytes and by what was passed; never of the last one, and offsets go on."""
    for retention, needed in (
        (Retention(age_ms_max=5000), 0),
        (Retention(bytes_max=800), 0),
        (Retention(when_passed=True), 25),
    ):
        log = open_log(with_options(retention=retention))
        fill(log, 30)
        size, first_ends = log.size_bytes, log.segments[0].next_offset

        removal = log.retire(1_000_000, needed)
        removal.remove()

        assert log.start_offset >= first_ends
        assert sum(one.next_offset - one.base_offset for one in removal.segments) == log.start_offset
        assert removal.size_bytes == size - log.size_bytes > 0
        assert list(bodies(log)) == list(range(log.start_offset, 30))
        assert log.read_one(0) is None
        assert log.append([batch(b"next")], 1_000_000) == 30


def test_retention_keeps_what_is_spared(open_log: Open) -> None:
    """What must not go stays, however old it is; options that are set later hold from then on."""
    log = open_log()
    fill(log, 30)
    assert not log.retire(1_000_000, 30).segments

    log.options = with_options(retention=Retention(age_ms_max=5000))
    log.retire(1_000_000, spared_offset=10).remove()

    assert 0 < log.start_offset <= 10


def test_emptied_log_goes_on(open_log: Open) -> None:
    """All records go, the next one gets the next offset."""
    log = open_log()
    fill(log, 30)

    log.empty(2000).remove()

    assert (log.start_offset, log.count_from(0), log.read(0)) == (30, 0, [])
    assert log.append([batch(b"next")], 2000) == 30
    assert list(bodies(log)) == [30]


def test_compaction_keeps_the_latest_of_each_key(open_log: Open) -> None:
    """The table that the records say stays as it is, with fewer of them; what has no key stays."""
    log = open_log(with_options(compact=True))
    for number in range(60):
        log.append([[Record(b"%d" % number, key=b"key %d" % (number % 3)), Record(b"no key")]], 1000)
    log.sync()
    before, count = table(read_all(log)), log.count_from(0)
    assert log.is_compaction_due(1000)

    job = log.begin_compaction(1000)
    assert not log.is_compaction_due(1000)
    job.run()
    log.append([[Record(b"meanwhile", key=b"key 0")]], 1000)
    leftover = log.end_compaction(job, None)
    assert leftover is not None
    leftover.remove()

    after = read_all(log)
    assert table(after) == before | {b"key 0": b"meanwhile"}
    assert sum(not one.key for one in after) == 60
    assert log.count_from(0) == len(after) < count
    assert [one.offset for one in after] == sorted({one.offset for one in after})
    assert not log.is_compaction_due(1001)


def test_failed_compaction_changes_nothing(open_log: Open) -> None:
    """Whatever it had done does not take effect."""
    log = open_log(with_options(compact=True))
    for number in range(60):
        log.append([[Record(b"%d" % number, key=b"key")]], 1000)
    log.sync()

    job = log.begin_compaction(1000)

    assert log.end_compaction(job, OSError("no room")) is None
    assert log.count_from(0) == 60


# -- bounds of the one in memory -------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [{"messages_max": 5}, {"bytes_max": 330}])
def test_full_memory_refuses_until_something_goes(bounds: dict[str, int]) -> None:
    """A batch that does not fit is not stored at all, and the text says how much there is room for."""
    log = open_memory(**bounds)
    fill(log, 4)

    with pytest.raises(StoreFullError, match=str(*bounds.values())):
        log.append([batch(b"one"), batch(b"two")], 1000)

    assert list(bodies(log)) == [0, 1, 2, 3]
    log.empty(1000)
    assert log.append([batch(b"one"), batch(b"two")], 1000) == 4


# -- where topics and groups are kept --------------------------------------------------------------------


@pytest.fixture(params=[lambda: FileBackend(FaultyDisk(), "/data"), MemoryBackend], ids=["files", "memory"])
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param()
    return made


def topic_file(name: str = "orders", uid: str = "0" * 12, **options: Any) -> TopicFile:
    return file_of(name, uid, 1000, TopicOptions(**options))


def names_in(backend: Backend) -> set[str]:
    return {found.name for found in backend.catalog.read()}


def test_catalog_has_what_was_written(backend: Backend) -> None:
    """Topics come and change; what is said of one is what was said last."""
    catalog = backend.catalog
    catalog.write(topic_file())
    catalog.write(topic_file("bills", "1" * 12))

    catalog.rewrite(topic_file(ttl_ms=5000))

    by_name = {found.name: found for found in catalog.read()}
    assert by_name == {"orders": topic_file(ttl_ms=5000), "bills": topic_file("bills", "1" * 12)}
    assert catalog.strays() == []


def test_discarded_topic_does_not_come_back(backend: Backend) -> None:
    """Nor do its records, to another of the same name; and it is discarded once."""
    catalog, topic = backend.catalog, topic_file()
    catalog.write(topic)
    log = backend.open_topic(topic, now_ms=1000, next_offset_min=0)
    fill(log, 3)
    log.close()

    catalog.delete(catalog.discard(topic))

    assert names_in(backend) == set()
    with pytest.raises(FileNotFoundError):
        catalog.discard(topic)
    catalog.write(topic)
    assert backend.open_topic(topic, now_ms=1000, next_offset_min=0).next_offset == 0


def test_closed_log_is_opened_again(backend: Backend) -> None:
    """With its records and the options that are given then; no offset is given out that a group has passed."""
    backend.catalog.write(topic_file())
    log = backend.open_topic(topic_file(), now_ms=1000, next_offset_min=0)
    fill(log, 3)
    log.close()

    again = backend.open_topic(topic_file(keep_bytes=1000), now_ms=2000, next_offset_min=5)

    assert list(bodies(again)) == [0, 1, 2]
    assert again.options.retention.bytes_max == 1000
    assert again.append([batch(b"next")], 2000) == 5
    assert again.count_from(0) == 4


def test_logs_of_groups_are_two(backend: Backend) -> None:
    """Journal and register are there from the first time, and have their own records the next time."""
    journal, register = backend.open_group_logs(1000, lambda what, findings: None)
    fill(journal, 2)
    fill(register, 1)
    for log in (journal, register):
        log.close()

    journal, register = backend.open_group_logs(1000, lambda what, findings: None)

    assert (journal.next_offset, register.next_offset) == (2, 1)


def test_queue_works_on_it(backend: Backend) -> None:
    """Messages and groups are where they were when another store opens the same backend; what was removed is not."""
    lab = QueueLab(backend=backend)
    anna = lab.peer()
    anna.declare("orders")
    anna.declare("gone")
    consumer = anna.consume("orders", start="oldest", window=2)
    anna.produce("orders", "one", "two", "three")
    assert consumer.take() == ["one", "two"]
    consumer.ack(0)
    anna.command("remove", topic="gone")

    lab.restart()

    assert set(lab.store.topics) == {"orders"}
    assert lab.peer().consume("orders").take() == ["two", "three"]


def test_full_memory_is_told_to_producers() -> None:
    """They are refused with RESOURCE_EXHAUSTED, as by a full disk, and can go on when the topic was emptied."""
    lab = QueueLab(backend=MemoryBackend(messages_max=2))
    anna = lab.peer()
    anna.declare("orders")
    anna.produce("orders", "one", "two")

    with pytest.raises(RpcError, match="memory store has room") as caught:
        anna.produce("orders", "three")

    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    anna.command("empty", topic="orders")
    assert anna.produce("orders", "three")["offset"] == 2


# -- a store that answers later --------------------------------------------------------------------------


class SlowLog:
    """A log whose groups wait for a worker: the one below it, of which `fetch` answers late."""

    def __init__(self, log: TopicLog, scheduler: LabScheduler) -> None:
        self._log, self._scheduler = log, scheduler
        self._on_readable, log.on_readable = log.on_readable, None
        self._came: dict[int, list[Record]] = {}
        self.late = 0
        """How often it said that records are on their way."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def fetch(self, offset: int, until: int) -> list[Record] | None:
        if offset in self._came:
            return self._came.pop(offset)
        self.late += 1

        def came(error: BaseException | None) -> None:
            self._came = {offset: self._log.read(offset, until=until)}
            assert self._on_readable is not None
            self._on_readable()

        self._scheduler.in_worker(lambda: None, came)
        return None


def slow_lab(*messages: str) -> tuple[QueueLab, SlowLog]:
    """Return a lab with a group, of whose topic the log answers late: when the test lets its worker go on."""
    lab, anna = lab_with(*messages)
    anna.consume("orders", "billing", window=0)
    slow = SlowLog(lab.topic().log, lab.scheduler)
    lab.topic().committer.log = slow
    return lab, slow


def test_group_goes_on_when_the_store_answers() -> None:
    """Messages that are on their way are neither passed nor lost: they come with the signal, all and in order."""
    lab, slow = slow_lab(*map(str, range(10)))
    lab.hold_workers()
    consumer = lab.peer().consume("orders")
    assert consumer.take() == []
    assert lab.group().position == 0
    assert slow.late == 1

    lab.release_workers()

    assert consumer.take() == [str(number) for number in range(10)]


def test_pull_is_not_ended_by_a_late_answer() -> None:
    """Who pulls without waiting gets what there is, and not nothing because it is still being read."""
    lab, _ = slow_lab("one", "two")
    puller = lab.peer().consume("orders", window=0)
    lab.hold_workers()
    request = puller.send_pull(5)
    lab.run()
    assert request not in puller.peer.replies

    lab.release_workers()

    assert puller.peer.answer(request) == 2
    assert puller.take() == ["one", "two"]


def test_late_answer_is_for_who_asked() -> None:
    """A group that was moved meanwhile goes on from where it stands now."""
    lab, _ = slow_lab(*map(str, range(10)))
    lab.hold_workers()
    consumer = lab.peer().consume("orders")
    lab.store.move_group(lab.group(), 7)

    lab.release_workers()

    assert consumer.take() == ["7", "8", "9"]
