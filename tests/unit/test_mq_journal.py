"""The journal: where groups stand survives what happens to broker and disk, and takes little room."""

import errno
import random
from collections.abc import Callable

import pytest

from tests.support.faulty_disk import FaultyDisk, PowerCut
from tests.support.journal_bench import Bench
from tests.support.queue_lab import entry, lab_with, read_journal
from zbusrpc.broker.mq.cursor import Cursor
from zbusrpc.broker.mq.journal import SEGMENTS_MAX
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.errors import Code, RpcError

JOURNAL = "/data/journal"
SLOW = b"slow" * 200


@pytest.fixture
def bench() -> Bench:
    return Bench(FaultyDisk())


# -- what is written -------------------------------------------------------------------------------------


def test_group_is_found_with_options_and_place(bench: Bench) -> None:
    """What was put and what moved since is read again; what was removed is not."""
    bench.put("a").options = GroupOptions(lease_ms=500)
    bench.put("b")
    bench.put("c")
    bench.move("a", 17)
    bench.move("b", 4)
    bench.journal.remove(b"c", bench.told.append)
    bench.run()

    assert bench.told == [None] * 4
    assert bench.positions() == {b"a": 17, b"b": 4}


def test_put_is_told_when_it_is_on_the_disk(bench: Bench) -> None:
    """Nobody hears that a group is there before a power cut would leave it."""
    bench.journal.put(b"a", Cursor("a", GroupOptions(), 5), bench.told.append)
    assert not bench.told
    bench.run()

    assert bench.told == [None]
    for title, image in bench.disk.images():
        assert read_journal(Bench(image).journal)[b"a"]["next"] == 5, title


def test_moves_of_many_groups_are_one_write(bench: Bench) -> None:
    """What all groups did in a short while is written at once."""
    for number in range(15):
        bench.put(f"{number}")
    before = bench.journal.committer.writes

    for number in range(15):
        bench.places[f"{number}".encode()].position = 7
        bench.journal.note_change(f"{number}".encode())
    bench.pass_time(0.01)

    assert bench.journal.committer.writes == before + 1
    assert set(bench.positions().values()) == {7}


def test_group_that_did_nothing_is_not_written(bench: Bench) -> None:
    """A note without a change costs no write."""
    bench.put("a")
    before = bench.disk.calls["append"]

    bench.move("a", 0)

    assert bench.disk.calls["append"] == before


# -- how large it gets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_journal_stays_small_under_long_work(seed: int) -> None:
    """However often groups move, a few segments are kept, and each group is found where it was last."""
    bench, rng = Bench(FaultyDisk()), random.Random(seed)
    names = [f"group {number}" for number in range(12)]
    expected = dict.fromkeys((name.encode() for name in names), 0)
    for name in names:
        bench.put(name)
    most = 0

    for step in range(1500):
        name = rng.choice(names[: 1 + step % 5])  # most of them never move
        bench.move(name, step)
        expected[name.encode()] = step
        most = max(most, len(bench.journal.committer.log.segments))
        if step % 97 == 0:
            bench.put(name).position = step
        if step % 250 == 0:
            assert bench.positions() == expected

    assert bench.positions() == expected
    assert most <= SEGMENTS_MAX + 8


def test_segment_goes_only_when_all_its_groups_were_said_again(bench: Bench) -> None:
    """A group of which nothing was heard for long is said again before the segment goes that holds it."""
    bench.put("quiet")
    bench.put("loud")

    for step in range(1, 300):
        bench.move("loud", step)
        assert bench.positions() == {b"quiet": 0, b"loud": step}

    assert bench.journal.committer.log.start_offset > 0


def test_group_whose_record_is_older_than_those_noted_before_it_is_kept(bench: Bench) -> None:
    """A segment stays while any group needs it, in whatever order the writes of groups were finished."""
    slow = bench.places[SLOW] = Cursor("slow" * 300, GroupOptions(), 3)
    bench.journal.put(SLOW, slow, bench.told.append)  # alone in its segment, and still being synced
    turns, bench.scheduler.turns = bench.scheduler.turns, []
    for turn in turns:
        turn()
    for number in range(4):
        bench.journal.adopt(b"%d" % number, Cursor("quick", GroupOptions(), 4))
        bench.journal.note_change(b"%d" % number)
    for number in range(4):
        bench.journal._note_said(b"%d" % number, 1 + number)
    bench.run()
    bench.put("loud")

    for step in range(1, 300):
        bench.move("loud", step)
        assert bench.positions()[SLOW] == 3, step


# -- a bad disk ------------------------------------------------------------------------------------------


def test_failed_write_is_made_good_when_the_disk_takes_it(bench: Bench) -> None:
    """While the disk is full the journal says so; afterwards everything is written that was done meanwhile."""
    bench.put("a")
    bench.put("b")
    bench.disk.fail("append", errno.ENOSPC, calls=1000)

    bench.move("a", 5)
    bench.move("b", 6)
    bench.pass_time(3)
    assert "No space left on device" in str(bench.journal.failure)
    bench.disk.faults.clear()
    bench.pass_time(2)

    assert bench.journal.failure is None
    assert bench.positions() == {b"a": 5, b"b": 6}


def test_put_that_fails_says_so_and_is_made_good() -> None:
    """A group whose new options, or place, could not be written is written in full as soon as the disk takes it."""
    lab, anna = lab_with("0", "1", "2", "3")
    consumer = lab.peer().consume("orders", window=2)
    consumer.ack(0)
    lab.disk.fail("append", errno.ENOSPC)

    with pytest.raises(RpcError, match="No space left on device"):
        anna.command("seek", topic="orders", group="billing", start="newest")
    lab.pass_time(3)
    lab.crash()

    assert lab.peer().consume("orders").take() == []


def test_failed_sync_loses_nothing_but_says_so() -> None:
    """When the journal cannot be synced groups go on; what they did since comes again after a restart."""
    lab, anna = lab_with("0", "1", "2")
    consumer = lab.peer().consume("orders")
    consumer.ack(0)
    lab.pass_time(0.1)
    lab.disk.fail("sync", errno.EIO)

    with pytest.raises(RpcError, match="Input/output error"):
        anna.command("declare_group", topic="orders", group="new")
    with pytest.raises(RpcError, match="Input/output error"):
        consumer.ack(1)
    lab.pass_time(5)
    assert lab.group().is_done(1)
    lab.crash()

    assert lab.peer().consume("orders").take() in (["1", "2"], ["2"])


def test_torn_end_of_the_journal_brings_messages_again() -> None:
    """Whatever part of the last writes a crash leaves, no message is lost, and none comes that was done long before."""
    lab, _ = lab_with(*(f"{number}" for number in range(6)))
    consumer = lab.peer().consume("orders", window=3)
    consumer.ack(0)
    lab.pass_time(1)
    path, inode = next((p, i) for p, i in lab.disk.names.items() if p.startswith(JOURNAL) and p.endswith(".log"))
    before = len(inode.data)
    consumer.ack(1, 2)
    lab.pass_time(1)
    whole = bytes(inode.data)

    for size in range(before, len(whole) + 1, 7):
        inode.data[:] = whole[:size]
        lab.crash()
        found = sorted(lab.peer().consume("orders", window=10).take())
        assert found in ([f"{number}" for number in range(first, 6)] for first in (1, 2, 3)), (size, found)
        inode.data[:] = whole

    assert path.startswith(JOURNAL)


def test_acknowledgement_is_not_confirmed_while_it_cannot_be_written() -> None:
    """Who wants to know gets an error while the disk is full, and a confirmation when it is not."""
    lab, _ = lab_with("0", "1", "2")
    consumer = lab.peer().consume("orders")
    lab.pass_time(1)
    lab.disk.fail("append", errno.ENOSPC, calls=1000)

    for offset in (0, 1):
        with pytest.raises(RpcError) as caught:
            consumer.ack(offset)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
    lab.disk.faults.clear()
    lab.pass_time(2)
    assert consumer.ack(2) == 1
    lab.crash()

    assert lab.peer().consume("orders").take() == []


@pytest.mark.parametrize("damaged", range(3, 40, 4))
def test_damage_in_the_journal_loses_no_message(damaged: int) -> None:
    """When records of the journal are missing, messages come again that were done; none is lost."""
    lab, _ = lab_with(*(f"{number}" for number in range(20)))
    consumer = lab.peer().consume("orders", window=3)
    done: set[str] = set()
    for offset in (2, 0, 3, 1, 6, 5, 9, 4):
        consumer.nack(7, delay_ms=60_000)
        consumer.ack(offset)
        lab.pass_time(0.01)
        done.add(f"{offset}")
    lab.restart()
    inode = next(inode for path, inode in lab.disk.names.items() if path.startswith(JOURNAL) and path.endswith(".log"))
    inode.data[len(inode.data) * damaged // 40] ^= 1

    lab.crash()
    heir = lab.peer().consume("orders", window=100)
    lab.pass_time(120)

    assert {one.body.decode() for one in heir.entries} >= {f"{number}" for number in range(20)} - done


# -- power cuts ------------------------------------------------------------------------------------------


def work(bench: Bench, promised: dict[bytes, int]) -> None:
    """Make groups, move and remove them; note what must not be lost."""

    def put(name: str, position: int) -> None:
        place = bench.places[name.encode()] = Cursor(name, GroupOptions(), position)
        bench.journal.put(name.encode(), place, noted(name, position))
        bench.run()

    def noted(name: str, position: int) -> Callable[[StorageError | None], None]:
        return lambda error: promised.__setitem__(name.encode(), position)

    put("a", 1)
    put("b", 2)
    for step in range(3, 60):
        bench.move("a", step)
        if step % 20 == 0:
            put("b", step)
    bench.journal.remove(b"b", lambda error: promised.__setitem__(b"b", -1))
    bench.run()


def count_changes() -> int:
    bench = Bench(FaultyDisk())
    work(bench, {})
    return bench.disk.changes


@pytest.mark.parametrize("cut_after", range(1, count_changes() + 1))
def test_power_cut_leaves_every_group_that_was_promised(cut_after: int) -> None:
    """Wherever the power goes, groups that were told of are there, no further than they went; removed ones are not."""
    disk, promised = FaultyDisk(), dict[bytes, int]()
    disk.cut_after = cut_after

    with pytest.raises(PowerCut):
        work(Bench(disk), promised)

    for title, image in disk.images():
        found = {key: said["next"] for key, said in read_journal(Bench(image).journal).items()}
        for key, position in promised.items():
            if position < 0:
                assert key not in found, title
            elif key == b"a" or promised.get(b"b", 0) >= 0:
                assert position <= found.get(key, 1000), title
        assert found.get(b"a", 0) < 60, title


# -- with all of the queue -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_clean", [True, False])
def test_group_goes_on_after_a_restart_where_it_was(is_clean: bool) -> None:
    """Done messages stay done, those in flight come again as the next attempt, options are as they were."""
    lab, _ = lab_with(*(f"{number}" for number in range(6)))
    consumer = lab.peer().consume("orders", window=4, lease_ms=7000)
    consumer.ack(0, 2)
    consumer.nack(3, then="release")
    lab.pass_time(0.1)

    if is_clean:
        lab.restart()
    else:
        lab.crash()
    consumer = lab.peer().consume("orders", window=10)

    assert consumer.result["lease_ms"] == 7000
    assert sorted(consumer.attempts()) == [("1", 2), ("3", 2), ("4", 2), ("5", 2)]


def test_confirmed_acknowledgement_survives_a_crash_at_once() -> None:
    """An acknowledgement that was answered is not forgotten by `kill -9`, however soon that comes."""
    lab, _ = lab_with("0", "1", "2")
    consumer = lab.peer().consume("orders")

    consumer.ack(1)
    lab.crash()

    assert lab.peer().consume("orders").take() == ["0", "2"]


def test_many_restarts_do_not_make_the_journal_grow() -> None:
    """Opening again and again keeps what there is, and writes nothing that is not needed."""
    lab, _ = lab_with(entry("x", key="k"), "y")
    lab.peer().consume("orders").ack(0)
    sizes = []

    for _ in range(10):
        lab.restart()
        sizes.append(sum(len(inode.data) for path, inode in lab.disk.names.items() if path.startswith(JOURNAL)))

    assert sizes[-1] - sizes[0] < 200
    assert lab.peer().consume("orders").take() == ["y"]
