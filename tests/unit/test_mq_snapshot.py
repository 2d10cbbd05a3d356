"""Groups with very many messages in hand are said again in slices; counted are steps of a turn, not seconds."""

import random
from contextlib import suppress

import pytest

from tests.support.faulty_disk import FaultyDisk, PowerCut
from tests.support.journal_bench import Bench
from tests.support.queue_lab import read_journal
from tests.support.steps import steps_of
from zbusrpc.broker.mq import cursor as place
from zbusrpc.broker.mq import slices, snapshot
from zbusrpc.broker.mq.cursor import Cursor
from zbusrpc.broker.mq.delivery import Delivery, State
from zbusrpc.broker.mq.journal import SEGMENTS_MAX
from zbusrpc.broker.mq.snapshot import SNAPSHOT_MIN, STEP
from zbusrpc.broker.mq.standing import Standing

BIG = b"big"


def become(group: Cursor, offset: int, attempts: int = 0, due_ms: int = 0) -> None:
    """Let a message be pending, or be so in another way."""
    group.pending[offset] = Delivery(offset, b"", State.DELAYED, attempts, due_ms)
    group._changes.touch(offset)


def be_done(group: Cursor, offset: int) -> None:
    """Let a message be done."""
    del group.pending[offset]
    group._changes.touch(offset)


def begin_big(bench: Bench, count: int) -> Cursor:
    """Begin a group with so many messages in hand, every third of which was tried before."""
    bench.put("loud")
    group = bench.put("big")
    group.position = count
    for offset in range(count):
        become(group, offset, offset % 3, 17 if offset % 5 == 0 else 0)
    bench.journal.note_change(BIG)
    bench.pass_time(0.01)
    return group


def be_loud(bench: Bench) -> None:
    """Fill a segment of the journal."""
    base = bench.journal.committer.log.segments[-1].base_offset
    while bench.journal.committer.log.segments[-1].base_offset == base:
        bench.move("loud", bench.places[b"loud"].position + 1)


def standing(bench: Bench) -> dict[int, Standing]:
    """Return what a restart would find in hand."""
    found: dict[int, Standing] = read_journal(Bench(bench.disk).journal)[BIG]["pending"]
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few messages be many, and a turn do little."""
    monkeypatch.setattr(place, "SNAPSHOT_MIN", 8)
    monkeypatch.setattr(snapshot, "SNAPSHOT_MIN", 2)
    monkeypatch.setattr(snapshot, "STEP", 1)
    monkeypatch.setattr(slices, "STEPS_MAX", 2)


def test_no_turn_describes_more_than_its_share() -> None:
    """A group is said again over many turns, and none takes more steps if it has five times as much in hand."""
    most = {}
    for count in (2 * SNAPSHOT_MIN, 10 * SNAPSHOT_MIN):
        bench = Bench(FaultyDisk())
        group = begin_big(bench, count)
        describing = group.describing()
        assert describing is not None
        steps, end = describing
        turns = []
        is_more = True

        def turn() -> None:
            nonlocal is_more
            is_more = slices.do_slice(steps)  # noqa: B023 - called at once

        while is_more:
            turns.append(steps_of(turn))
        turns.append(steps_of(end))
        most[count] = max(turns)
        assert len(turns) >= count / STEP / slices.STEPS_MAX

    small_count, large_count = most
    assert most[large_count] < 1.5 * most[small_count]


@pytest.mark.parametrize("seed", range(4))
def test_snapshot_is_the_place_as_it_is_in_the_end(seed: int) -> None:
    """Whatever becomes of messages while it is made: done, tried, new, done and given back."""
    rng, bench = random.Random(seed), Bench(FaultyDisk())
    group = begin_big(bench, SNAPSHOT_MIN + 500)
    describing = group.describing()
    assert describing is not None
    steps, end = describing

    while slices.do_slice(steps):
        for _ in range(200):
            offset = rng.randrange(group.position)
            if offset in group.pending and rng.random() < 0.7:
                be_done(group, offset)
            else:
                become(group, offset, rng.randrange(4), rng.choice([0, 99]))
        for _ in range(20):
            group.position += 1
            become(group, group.position - 1)
        if rng.random() < 0.5:
            bench.journal.note_change(BIG)
            bench.pass_time(0.01)
    described = end()

    assert described is not None
    bench.journal._append([bench.journal._record(BIG, described)])
    bench.run()
    assert not group.is_changed
    assert standing(bench) == group.pending_copy()


@pytest.mark.usefixtures("small")
def test_journal_says_large_groups_again_and_lets_segments_go() -> None:
    """By itself, turn by turn, and small ones besides."""
    bench = Bench(FaultyDisk())
    group = begin_big(bench, 40)
    first = bench.journal._said[BIG]
    for number in range(4 * SEGMENTS_MAX):
        be_loud(bench)
        be_done(group, number)
        bench.journal.note_change(BIG)
        bench.pass_time(0.01)

    assert bench.journal._said[BIG] > first
    assert len(bench.journal.committer.log.segments) <= SEGMENTS_MAX + 2
    assert standing(bench) == group.pending_copy()


def test_snapshot_of_a_group_that_is_moved_is_void() -> None:
    """What was pending is forgotten, and must not come back."""
    bench = Bench(FaultyDisk())
    group = begin_big(bench, SNAPSHOT_MIN)
    describing = group.describing()
    assert describing is not None
    steps, end = describing
    slices.do_slice(steps)

    group.pending.clear()
    group.forget_stored()
    while slices.do_slice(steps):
        pass

    assert end() is None


class History:
    """A group that says a large place again and again while its messages are done, one by one."""

    COUNT = 30

    def __init__(self, disk: FaultyDisk) -> None:
        self.disk = disk
        self.is_begun = False
        self.snapshots_open = self.snapshots_ended = 0
        self.done: set[int] = set()

    def run(self) -> None:
        bench = Bench(self.disk)
        group = begin_big(bench, self.COUNT)
        bench.journal.put(BIG, group, bench.told.append)
        bench.run()
        self.is_begun = True
        for number in range(150):
            bench.places[b"loud"].position += 1
            bench.journal.note_change(b"loud")
            if number % 10 == 0:
                self.done.add(number // 5)
                be_done(group, number // 5)
                bench.journal.note_change(BIG)
            said = bench.journal._said[BIG]
            bench.journal.write()
            bench.turn()
            self.snapshots_open += bench.journal._is_describing
            self.snapshots_ended += bench.journal._said[BIG] > said
        bench.run()

    def check(self, disk: FaultyDisk) -> None:
        found = read_journal(Bench(disk).journal)
        if self.is_begun:
            said = found[BIG]
            assert said["next"] == self.COUNT
            assert set(said["pending"]) >= set(range(self.COUNT)) - self.done, "a message that is not done is lost"
            assert set(said["pending"]) <= set(range(self.COUNT))


@pytest.mark.usefixtures("small")
def test_crash_in_the_middle_of_a_snapshot_loses_nothing() -> None:
    """A kill or a power cut after each change of the disk leaves what was said before, or what is said now."""
    whole = FaultyDisk()
    uncut = History(whole)
    uncut.run()
    assert min(uncut.snapshots_open, uncut.snapshots_ended) > 1
    first, step = whole.changes // 2, 7  # at first the journal is too short for anything to be said again
    for cut_after in range(first, whole.changes + 1, step):
        disk = FaultyDisk()
        disk.cut_after = cut_after
        history = History(disk)
        with suppress(PowerCut):
            history.run()
        disk.cut_after = None
        seen = set[frozenset[tuple[str, bytes]]]()
        for title, image in disk.images():
            contents = frozenset((path, bytes(inode.data)) for path, inode in image.names.items())
            if contents not in seen:
                seen.add(contents)
                try:
                    history.check(image)
                except BaseException:
                    print(f"cut after {cut_after} of {whole.changes}, image: {title}")
                    raise
