"""A journal without a broker: its groups are places that the test moves, its turns and its time the test's."""

from tests.support.faulty_disk import FaultyDisk
from tests.support.queue_lab import LabScheduler, read_journal
from tests.support.storage import open_at
from zbusrpc.broker.mq.cursor import Cursor
from zbusrpc.broker.mq.journal import Journal
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.storage.commit import Committer, Durability
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.options import LogOptions
from zbusrpc.broker.storage.retention import Retention

SMALL = LogOptions(segment_bytes_max=2000, retention=Retention(when_passed=True))


class Bench:
    """A journal of its own, with segments that are soon full."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.disk = disk
        self.scheduler = LabScheduler()
        self.journal = Journal(self._committer("/journal"), self.scheduler)
        self.places: dict[bytes, Cursor] = {}
        self.told: list[StorageError | None] = []

    def _committer(self, directory: str) -> Committer:
        scheduler = self.scheduler
        return Committer(
            open_at(self.disk, directory, SMALL),
            Durability.OS,
            soon=scheduler.soon,
            in_worker=scheduler.in_worker,
            now_ms=scheduler.now_ms,
        )

    def put(self, name: str) -> Cursor:
        """Begin a group."""
        place = self.places[name.encode()] = Cursor(name, GroupOptions(), 0)
        self.journal.put(name.encode(), place, self.told.append)
        self.run()
        return place

    def move(self, name: str, position: int) -> None:
        """Let a group move on, and time pass until that is written."""
        self.places[name.encode()].position = position
        self.journal.note_change(name.encode())
        self.pass_time(0.01)

    def run(self) -> None:
        """Go on until there is nothing to do now."""
        scheduler = self.scheduler
        while scheduler.turns or scheduler.work:
            self.turn()
            if scheduler.work:
                work, done = scheduler.work.pop(0)
                error: OSError | None = None
                try:
                    work()
                except OSError as raised:
                    error = raised
                done(error)

    def turn(self) -> None:
        """Let one turn of the loop pass."""
        turns, self.scheduler.turns = self.scheduler.turns, []
        for callback in turns:
            callback()

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        end = self.scheduler.now_s + seconds
        while self.scheduler.timers and self.scheduler.timers[0][0] <= end:
            at, _, callback = self.scheduler.timers.pop(0)
            self.scheduler.advance(max(at, self.scheduler.now_s))
            callback()
            self.run()
        self.scheduler.advance(end)

    def positions(self) -> dict[bytes, int]:
        """Return what a restart would find."""
        return {key: said["next"] for key, said in read_journal(Bench(self.disk).journal).items()}
