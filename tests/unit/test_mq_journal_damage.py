"""Damage in what is stored of groups: whatever is hit, it costs messages that come again, and never a group."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.faulty_disk import Folder, Inode
from tests.support.queue_lab import QueueLab, lab_with, read_journal

COUNT = 12
BLOCK = 512

Files = dict[str, bytes]
Damage = Callable[[bytes], Iterator[bytes | None]]


class Groups:
    """A lab with groups of every kind of place, and what of their files can be put back and damaged."""

    def __init__(self) -> None:
        self.lab, anna = lab_with(*(f"{number}" for number in range(COUNT)))
        self.due: dict[str, set[str]] = {}
        """By group, the messages that it is not done with."""
        for name, start in (("late", {"offset": 9}), ("sought", "oldest"), ("working", "oldest"), ("newest", "newest")):
            anna.command("declare_group", topic="orders", group=name, start=start)
        working = self.lab.peer().consume("orders", "working", window=4)
        for offset in (1, 0, 2, 5, 3):
            working.nack(4, delay_ms=60_000)
            working.ack(offset)
            self.lab.pass_time(0.01)
        sought = self.lab.peer().consume("orders", "sought", window=3)
        sought.ack(0, 1, 2)
        self.lab.pass_time(0.01)
        anna.command("seek", topic="orders", group="sought", start={"offset": 1})
        anna.command("declare_group", topic="orders", group="gone")
        anna.command("remove", topic="orders", group="gone")
        anna.produce("orders", "last")
        self.lab.restart()
        self.due = {
            "late": {"9", "10", "11", "last"},
            "sought": {*(f"{number}" for number in range(1, COUNT)), "last"},
            "working": {"4", *(f"{number}" for number in range(6, COUNT)), "last"},
            "newest": {"last"},
        }
        self.files = self._read("journal") | self._read("groups")

    def _folder(self, name: str) -> Folder:
        data = self.lab.disk.root.names["data"]
        assert isinstance(data, Folder)
        folder = data.names[name]
        assert isinstance(folder, Folder)
        return folder

    def _read(self, name: str) -> Files:
        found = self._folder(name).names.items()
        return {f"{name}/{file}": bytes(inode.data) for file, inode in found if isinstance(inode, Inode)}

    def open_with(self, files: Files) -> QueueLab:
        """Open what there would be with other files."""
        for name in ("journal", "groups"):
            self._folder(name).names.clear()
        for path, data in files.items():
            name, _, file = path.partition("/")
            self._folder(name).names[file] = Inode(bytearray(data), data)
        self.lab.crash()
        return self.lab

    def check(self, what: str) -> None:
        """See that each group is there, and gets what it is due; who begins one anew begins at the end."""
        self.lab.run()
        topic = self.lab.topic()
        assert set(self.due) <= set(topic.groups), what
        consumers = {}
        for name in self.due:
            consumers[name] = self.lab.peer().consume("orders", name, start="newest", window=100)
        self.lab.pass_time(120)
        for name, due in self.due.items():
            assert {one.body.decode() for one in consumers[name].entries} >= due, (what, name)


@pytest.fixture(scope="module")
def groups() -> Groups:
    return Groups()


def flipped(data: bytes) -> Iterator[bytes]:
    """Yield the data with one bit flipped, at places that lie anywhere in records and heads.

    Every byte would take minutes; a step of 1 is for whoever changes how places are stored.
    """
    for position in range(0, len(data), 151):
        yield data[:position] + bytes((data[position] ^ 1 << position % 8,)) + data[position + 1 :]


def zeroed(data: bytes) -> Iterator[bytes]:
    """Yield the data with a block of zeros."""
    for start in range(0, len(data), BLOCK):
        yield data[:start] + bytes(len(data[start : start + BLOCK])) + data[start + BLOCK :]


def cut(data: bytes) -> Iterator[bytes]:
    """Yield the data cut off."""
    for size in range(0, len(data), 307):
        yield data[:size]


def deleted(data: bytes) -> Iterator[None]:
    """Yield nothing in place of the data."""
    yield None


@pytest.mark.parametrize("damage", [flipped, zeroed, cut, deleted])
@pytest.mark.parametrize("directory", ["journal", "groups"])
def test_damage_costs_no_group(groups: Groups, directory: str, damage: Damage) -> None:
    """Wherever the journal, the register or an index of theirs is hit, each group gets all that it is not done with."""
    for path, data in groups.files.items():
        if path.startswith(directory):
            for number, damaged in enumerate(damage(data)):
                others = {other: kept for other, kept in groups.files.items() if other != path}
                groups.open_with(others | ({path: damaged} if damaged is not None else {}))
                groups.check(f"{path}, {damage.__name__}, number {number}")


@pytest.mark.parametrize("directory", ["journal", "groups"])
def test_directory_that_is_gone_costs_no_group(groups: Groups, directory: str) -> None:
    """One of the two is enough."""
    groups.open_with({path: data for path, data in groups.files.items() if not path.startswith(directory)})
    groups.check(directory)


def test_groups_are_said_again_after_damage(groups: Groups) -> None:
    """What was lost of one of the two is there again, so that the next damage may hit the other."""
    for lost, kept in (("journal", "groups"), ("groups", "journal")):
        groups.open_with({path: data for path, data in groups.files.items() if not path.startswith(lost)})
        groups.lab.pass_time(1)
        groups.lab.restart()
        groups.open_with({path: data for path, data in groups._read(lost).items() if not path.startswith(kept)})
        groups.check(lost)


def test_log_names_the_groups_that_damage_sets_back(groups: Groups, caplog: pytest.LogCaptureFixture) -> None:
    """Topic and group of each place that is not what it was stand in the log."""
    groups.open_with({path: data for path, data in groups.files.items() if not path.startswith("journal")})

    lines = [record.getMessage() for record in caplog.records if "mq.place_damaged" in record.getMessage()]
    assert len(lines) == len(groups.due)
    assert all(any(f"group='{name}'" in line and "topic='orders'" in line for line in lines) for name in groups.due)


def test_removed_group_does_not_come_back(groups: Groups) -> None:
    """Neither from the journal nor from the register."""
    groups.open_with(groups.files)
    assert "gone" not in groups.lab.topic().groups


def test_directory_without_a_register_is_read(groups: Groups) -> None:
    """A broker before it wrote none: everything is as the journal says, and the register is made."""
    groups.open_with({path: data for path, data in groups.files.items() if path.startswith("journal")})

    assert not groups.lab.store.journal.hurt
    groups.lab.run()
    assert set(read_journal(groups.lab.store.journal.register)) == {
        groups.lab.group("orders", n).key for n in groups.due
    }
