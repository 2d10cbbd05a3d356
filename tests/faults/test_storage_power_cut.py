"""The power goes at every point of a small workload; whatever a disk may then hold, the log opens and is right."""

import contextlib

import pytest

from tests.support.faulty_disk import FaultyDisk, PowerCut
from tests.support.storage import DIRECTORY, Turns, batch, bodies, open_at, read_all
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.finding import FindingKind
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.retention import Retention
from zbusrpc.broker.storage.segment import index_path

ROUNDS = 7
BATCHES: list[tuple[bytes, ...]] = [
    (b"a%d" % n, b"b%d" % n * 40, b"c%d" % n) if n % 3 == 0 else (b"single %d" % n * 5,) for n in range(2 * ROUNDS)
]


class Ledger:
    """What was handed in, and what was acknowledged at which offset."""

    def __init__(self) -> None:
        self.acked: dict[int, bytes] = {}
        self.is_restarted = False

    def note(self, offset: int, number: int) -> None:
        self.acked.update(enumerate(BATCHES[number], start=offset))

    def check(self, disk: Disk) -> None:
        """Open the log and compare; then append, and open it once more."""
        log = open_at(disk)
        found = bodies(log)
        lost = self.acked.items() - found.items()
        assert not lost
        self._check_whole_batches(list(found.values()))
        offset = log.append([batch(b"after")], 9000)
        assert offset > max(self.acked, default=-1)
        log.close()

        again = open_at(disk)
        assert bodies(again) == found | {offset: b"after"}
        assert not again.findings

    def _check_whole_batches(self, found: list[bytes]) -> None:
        expected = iter(BATCHES)  # each at most once, in order
        position = 0
        while position < len(found):
            whole = next(each for each in expected if each[0] == found[position])
            assert tuple(found[position : position + len(whole)]) == whole
            position += len(whole)


def work(disk: FaultyDisk, ledger: Ledger) -> None:
    """Write batches, two a turn, through rolls, checkpoints and a restart in the middle."""
    turns = Turns(open_at(disk))
    for number in range(ROUNDS):
        if number == ROUNDS // 2:
            turns.committer.log.close()
            turns = Turns(open_at(disk))
        for index in (2 * number, 2 * number + 1):
            _submit(turns, ledger, index)
        turns.settle()
    turns.committer.log.close()


def _submit(turns: Turns, ledger: Ledger, number: int) -> None:
    def done(offset: int, error: Exception | None) -> None:
        if error is None:
            ledger.note(offset, number)

    turns.committer.submit(batch(*BATCHES[number]), done)


def count_changes() -> int:
    disk, ledger = FaultyDisk(), Ledger()
    work(disk, ledger)
    assert len(ledger.acked) == sum(map(len, BATCHES))
    return disk.changes


@pytest.mark.parametrize("cut_after", range(1, count_changes() + 1))
def test_power_cut_loses_nothing_acknowledged_at_disk(cut_after: int) -> None:
    """Every image of every crash holds all that was acknowledged, in place, and only whole batches."""
    disk, ledger = FaultyDisk(), Ledger()
    disk.cut_after = cut_after

    with pytest.raises(PowerCut):
        work(disk, ledger)

    for title, image in disk.images():
        try:
            ledger.check(image)
        except BaseException:
            print(f"image: {title}")
            raise


# -- while damage is put in order, and while retention removes ------------------------------------------------


def damaged_disk(*, has_index: bool) -> tuple[FaultyDisk, dict[int, bytes], bytes]:
    """Return a disk with a damaged segment in the middle, what must survive, and the damaged file's bytes."""
    disk, ledger = FaultyDisk(), Ledger()
    work(disk, ledger)
    log = open_at(disk)
    segment = log.segments[len(log.segments) // 2]
    inode = disk.names[segment.path]
    inode.data[-1] ^= 1  # the last byte of a body: the last batch of this segment is hit
    inode.safe = bytes(inode.data)
    if not has_index:
        disk.remove(index_path(segment.path))
        disk.sync_directory(DIRECTORY)
    last = next(batch for batch in reversed(BATCHES) if batch[-1] == ledger.acked[segment.next_offset - 1])
    first_lost = segment.next_offset - len(last)
    survivors = {n: body for n, body in ledger.acked.items() if not first_lost <= n < segment.next_offset}
    return disk, survivors, inode.safe


def changes_of_salvage(*, has_index: bool) -> int:
    disk, survivors, _ = damaged_disk(has_index=has_index)
    before = disk.changes
    assert bodies(open_at(disk)) == survivors
    return disk.changes - before


CUTS = [(has, cut) for has in (True, False) for cut in range(1, changes_of_salvage(has_index=has) + 1)]


@pytest.mark.parametrize(("has_index", "cut_after"), CUTS)
def test_power_cut_during_salvage_loses_nothing_more(has_index: bool, cut_after: int) -> None:
    """Wherever salvage is interrupted, the good records are served afterwards and the damaged file is kept."""
    disk, survivors, damaged = damaged_disk(has_index=has_index)
    disk.cut_after = disk.changes + cut_after

    with pytest.raises(PowerCut):
        read_all(open_at(disk))

    for title, image in disk.images():
        assert bodies(open_at(image)) == survivors, title
        kept = [bytes(inode.data) for path, inode in image.names.items() if ".quarantined" in path]
        assert kept == [damaged], title


def disk_to_empty() -> FaultyDisk:
    disk = FaultyDisk()
    work(disk, Ledger())
    return disk


def changes_of_emptying() -> int:
    disk = disk_to_empty()
    log = open_at(disk)
    before = disk.changes
    log.empty(2000).remove()
    return disk.changes - before


@pytest.mark.parametrize("cut_after", range(1, changes_of_emptying() + 1))
def test_power_cut_after_emptying_brings_nothing_back(cut_after: int) -> None:
    """Once the files are removed no record comes back; whenever the power goes, no offset is given out twice."""
    disk = disk_to_empty()
    log = open_at(disk)
    next_offset = log.next_offset
    disk.cut_after = disk.changes + cut_after

    with pytest.raises(PowerCut):
        log.empty(2000).remove()

    for title, image in disk.images():
        again = open_at(image)
        assert again.next_offset == next_offset, title
        assert not [finding for finding in again.findings if finding.kind is FindingKind.DAMAGE], title
        if cut_after == changes_of_emptying():
            assert not bodies(again), title
        assert again.append([batch(b"after")], 9000) == next_offset
        again.close()
        assert bodies(open_at(image))[next_offset] == b"after"


@pytest.mark.parametrize("cut_after", range(1, 13))
def test_power_cut_during_retention_leaves_the_newest(cut_after: int) -> None:
    """Whatever was removed so far, what is left is one piece and ends where the log ended.

    Where a file system forgets removals out of order, an old segment may come back; retention finds it again.
    """
    options = LogOptions(segment_bytes_max=700, checkpoint_bytes=300, retention=Retention(bytes_max=1500))
    disk, ledger = FaultyDisk(), Ledger()
    work(disk, ledger)
    log = open_at(disk, options=options)
    retired = log.retire(2000)
    assert len(retired.segments) >= 2
    disk.cut_after = disk.changes + cut_after

    with contextlib.suppress(PowerCut):
        retired.remove()

    for title, image in disk.images(is_in_order=True):
        again = open_at(image)
        found = bodies(again)
        assert list(found) == list(range(again.start_offset, max(ledger.acked) + 1)), title
        assert again.start_offset <= log.start_offset
        assert not again.findings
