"""The power goes at every point of compactions; whatever a disk may then hold, the log says what it said before."""

from collections.abc import Iterator
from itertools import islice

import pytest

from tests.support.faulty_disk import FaultyDisk, PowerCut
from tests.support.storage import compact, open_at, read_all, table
from tests.support.sweeps import one_of
from zbusrpc.broker.storage.check import check_log
from zbusrpc.broker.storage.compaction_job import TOMBSTONE_GRACE_MS
from zbusrpc.broker.storage.files import Disk
from zbusrpc.broker.storage.finding import FindingKind
from zbusrpc.broker.storage.log import Log
from zbusrpc.broker.storage.record import Record

LATE_MS = 1000 + TOMBSTONE_GRACE_MS + 1
"""All tombstones are old by then."""
STRIDE = 5
"""Of the images of each cut every fifth is looked at, from another one each time."""


class Ledger:
    """What the log must say: the table after what is safe, or after all that was appended."""

    def __init__(self) -> None:
        self.appended: list[Record] = []
        self.safe = 0

    def append(self, log: Log, *records: Record) -> None:
        """Append a batch, and make it safe."""
        self.appended += records
        log.append([list(records)], 1000)
        log.sync()
        self.safe = len(self.appended)

    def check(self, disk: Disk) -> None:
        """Compare what the log says, and once more after another compaction, and another start."""
        log = open_at(disk)
        found = read_all(log)
        kept = {record.body for record in found if not record.key}
        assert kept >= {record.body for record in self.appended[: self.safe] if not record.key}
        assert table(found) in [table(self.appended[: self.safe]), table(self.appended)]
        if self.safe == len(self.appended):  # else a hole may have been torn into the last batch
            assert all(one.kind in {FindingKind.TORN_TAIL, FindingKind.UNBEGUN} for one in log.findings)
        log.sync()
        for _ in range(2):
            compact(log, now_ms=LATE_MS)
        assert table(read_all(log)) == table(found)
        log.close()
        assert table(read_all(open_at(disk))) == table(found)
        assert len(list(check_log(disk, "/topic"))) == sum(bool(finding.kept_as) for finding in log.findings)
        assert not [name for name in disk.list("/topic") if name.endswith(".tmp")]


def changes_of_keys(number: int) -> Iterator[Record]:
    """Some keys are written again and again, some once; some are removed, of those some come back."""
    yield Record(b"%d" % number * 40, key=b"hot")
    yield Record(b"" if number % 3 == 1 else b"%d" % number, key=b"comes and goes")
    yield Record(b"x" * 60 if number < 6 else b"", key=b"goes %d" % (number % 6))
    yield Record(b"no key %d" % number)


def work(disk: FaultyDisk, ledger: Ledger) -> None:
    """Fill some segments, compact them twice, restart, write on and compact again."""
    log = open_at(disk)
    for number in range(12):
        ledger.append(log, *changes_of_keys(number))
    for _ in range(2):
        compact(log, now_ms=LATE_MS)
    log.close()
    log = open_at(disk)
    for number in range(4):
        ledger.append(log, *changes_of_keys(number))
    compact(log, now_ms=LATE_MS)
    ledger.append(log, Record(b"", key=b"hot"))
    compact(log, now_ms=LATE_MS)
    log.close()


def changes_of_work() -> int:
    disk, ledger = FaultyDisk(), Ledger()
    work(disk, ledger)
    changes = disk.changes
    ledger.check(disk)
    assert len(read_all(open_at(disk))) < 30 < len(ledger.appended)
    return changes


@pytest.mark.parametrize("cut_after", one_of(7, range(1, changes_of_work() + 1)))
def test_power_cut_during_compaction_leaves_old_or_new(cut_after: int) -> None:
    """No latest record is lost, and none that was replaced or removed comes back; nothing is taken for damage."""
    disk, ledger = FaultyDisk(), Ledger()
    disk.cut_after = cut_after

    with pytest.raises(PowerCut):
        work(disk, ledger)

    for title, image in islice(disk.images(), cut_after % STRIDE, None, STRIDE):
        try:
            ledger.check(image)
        except BaseException:
            print(f"image: {title}")
            raise
