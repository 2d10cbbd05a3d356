"""Each way in which a data directory can be damaged: what check says, what a start does, what a repair leaves.

The table of docs/storage.md for every kind of file, in a directory with two topics and their groups. In each line
nothing is lost in silence, nothing is lost that can be read, and the exit codes are those of docs/operations.md.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.queue_lab import QueueLab
from zbusrpc.broker.storage.errors import StorageError
from zbusrpc.broker.storage.files import RealDisk
from zbusrpc.broker.storage.record import heads
from zbusrpc.broker.storage.segment import SEGMENT_HEAD_BYTES
from zbusrpc.cli.storage import DAMAGED, SOUND, UNKNOWN, run_check, run_repair

COUNT = 12
MENDED = (DAMAGED, SOUND, SOUND)
"""What check, repair and check again end with, where a repair mends it."""
STAYS = (DAMAGED, DAMAGED, DAMAGED)
"""Where somebody has to see to it."""
REMARK = (SOUND, SOUND, SOUND)
FILES = {
    "journal": "journal/*.log",
    "register": "groups/*.log",
    "segment": "topics/orders-*/*0.log",
    "last segment": "topics/orders-*/*6.log",
    "index": "topics/orders-*/*0.index",
    "topic.json": "topics/orders-*/topic.json",
}
GROUPS = {(topic, group) for topic in ("orders", "mails") for group in ("audit", "billing")}


class Site:
    """A data directory of a broker that has ended."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def path(self, what: str) -> Path:
        return sorted(self.data.glob(FILES.get(what, what)))[0]

    def copy(self) -> "Site":
        """Return the same elsewhere, whatever kinds of files there are."""
        target = self.data.with_name("copy")
        shutil.copytree(self.data, target, copy_function=_copy)
        return Site(target)

    def contents(self) -> dict[str, bytes]:
        files = (path for path in sorted(self.data.rglob("*")) if path.is_file() and path.name != "lock")
        return {str(path.relative_to(self.data)): path.read_bytes() for path in files}

    def start(self) -> "Served":
        """Start a broker's queue on it, see what it serves, and stop it.

        Raises:
            StorageError: it is refused.
        """
        lab = QueueLab(RealDisk(), data_dir=str(self.data))
        lab.run()
        served = Served(lab)
        lab.restart()
        return served


class Served:
    """What a start gives to those who ask."""

    def __init__(self, lab: QueueLab) -> None:
        topics = lab.store.topics.values()
        self.groups = {(topic.name, group) for topic in topics for group in topic.groups}
        self.unreadable = {name: one.reason for name, one in lab.store.unreadable.items()}
        self.messages: dict[str, list[int]] = {}
        for name in lab.store.topics:
            shown = lab.peer().command("peek", topic=name, count=100)["messages"]
            self.messages[name] = [int(one["body"].split()[0]) for one in shown]


def _copy(source: str, target: str) -> None:
    if os.path.isfile(source):
        shutil.copy2(source, target)
    else:
        os.mkfifo(target)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in order: topics with several segments, groups that are done with a part."""
    data = tmp_path_factory.mktemp("whole") / "data"
    lab = QueueLab(RealDisk(), data_dir=str(data))
    anna = lab.peer()
    for topic in ("orders", "mails"):
        anna.declare(topic, segment_bytes=4096)
        for number in range(COUNT):
            anna.produce(topic, f"{number} {'x' * 600}")
        for group in ("audit", "billing"):
            lab.peer().consume(topic, group, window=5).ack(0, 1, 2)
        lab.pass_time(0.1)
    lab.restart()  # opens it again, as a crash leaves it
    lab.restart()
    return data


@pytest.fixture
def site(whole: Path, tmp_path: Path) -> Site:
    return Site(Path(shutil.copytree(whole, tmp_path / "data")))


def run(capsys: pytest.CaptureFixture[str], command: Callable[..., None], site: Site) -> tuple[int, list[str]]:
    """Return the exit code of a command, and its lines."""
    with pytest.raises(SystemExit) as ended:
        command(str(site.data), as_json=False)
    shown = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, (shown.out + shown.err).splitlines()


def deleted(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path)


def emptied(path: Path) -> None:
    if path.is_file():
        path.write_bytes(b"")
    else:
        for inner in path.iterdir():
            inner.unlink()


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def renamed(path: Path) -> None:
    path.rename(path.with_name(path.name + ".bak"))


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("something else")


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


ACTS = (deleted, emptied, zeroed, halved, flipped, renamed, as_directory, as_pipe)
OF_TOPIC_FILE = {  # what a line of topic.json says of itself: the file, the value, the fix
    deleted: "topic.json: No such file or directory; put it back from a copy",
    emptied: "topic.json: its text is '': Invalid JSON",
    zeroed: "topic.json: its text is '\\x00",
    halved: "topic.json: its text is '{",
    flipped: "topic.json: ",
    renamed: "topic.json: No such file or directory; put it back from a copy",
    as_directory: "topic.json: Is a directory; put it back from a copy",
    as_pipe: "topic.json: Illegal seek; put it back from a copy",
}
LOST = {  # by file, which messages are lost with all of it, and which with a half
    "segment": (set(range(6)), {2, 3, 4, 5}),
    "last segment": (set(range(6, 12)), {8, 9, 10, 11}),
}
SAYS = {
    deleted: "missing segment of ",
    emptied: "damage of ",
    zeroed: "damage of ",
    halved: "damage of ",
    flipped: "damage of ",
    renamed: "segment under another name; it is 000000000000000000",
    as_directory: ".log: is a directory; move it away",
    as_pipe: ".log: illegal seek; move it away",
}


def codes_of(kind: str, act: Callable[[Path], None]) -> tuple[int, int, int]:
    if kind == "index":
        return REMARK  # it is made again
    return STAYS if kind == "topic.json" or act in {renamed, as_directory, as_pipe} else MENDED


def lost_by(kind: str, act: Callable[[Path], None]) -> set[int]:
    whole, half = LOST.get(kind, (set(), set()))
    return {halved: half, flipped: half & {2, 8}}.get(act, whole)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", FILES)
def test_file_is_damaged(
    site: Site,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    act: Callable[[Path], None],
) -> None:
    """Check and start say the same; the other topic is whole, and so is what was not hit; a repair loses no more."""
    act(site.path(kind))
    before, twin = site.contents(), site.copy()

    first, lines = run(capsys, run_check, site)

    assert site.contents() == before
    codes = codes_of(kind, act)
    said = "\n".join(lines)
    if kind == "topic.json":
        assert OF_TOPIC_FILE[act] in said
    elif kind != "index":
        assert SAYS[act] in said
    assert said.endswith("logs: nothing is wrong" if codes[0] == SOUND else "logs: 1 of them need attention")

    is_refused = kind in {"journal", "register"} and act in {as_directory, as_pipe}
    if is_refused:
        with pytest.raises(StorageError, match=rf"{site.path(kind).parent.name}.*{site.path(kind).name}: "):
            twin.start()
    else:
        served = twin.start()
        assert any("mq.damage" in one.message or "mq.unread" in one.message for one in caplog.records) or not codes[0]
        assert served.messages["mails"] == list(range(COUNT))
        if "orders" in served.messages:
            assert served.messages["orders"] == sorted(set(range(COUNT)) - lost_by(kind, act))
            assert served.groups == GROUPS
        else:
            assert kind == "topic.json" or act in {as_directory, as_pipe}
            assert str(site.data) not in served.unreadable["orders"], "clients see no paths"

    second, _ = run(capsys, run_repair, site)
    third, lines = run(capsys, run_check, site)

    assert (first, second, third) == codes, lines
    if not is_refused:
        again = site.start()
        assert (again.messages, again.groups) == (served.messages, served.groups)


def both(act: Callable[[Path], None]) -> Callable[[Site], None]:
    """Return what is done to both logs of groups."""

    def damage(site: Site) -> None:
        for name in ("journal", "groups"):
            act(site.data / name)

    return damage


LOST_GROUPS = "where the groups of mails, orders stand is lost; put journal and groups back from a copy"
BACK = "goes on from an earlier place, offset 0 at the latest: messages come again"
DIRECTORIES: dict[str, tuple[Callable[[Site], object], tuple[str, ...], tuple[int, int, int], bool]] = {
    # what happened, what check says, the exit codes, whether a start is refused
    "journal deleted": (
        lambda site: deleted(site.data / "journal"),
        (
            "journal: journal: missing log; groups go on",
            f"group billing of orders {BACK}",
            f"group audit of mails {BACK}",
        ),
        MENDED,
        False,
    ),
    "journal emptied": (lambda site: emptied(site.data / "journal"), ("journal: journal: missing log",), MENDED, False),
    "register deleted": (lambda site: deleted(site.data / "groups"), ("groups: groups: missing log",), MENDED, False),
    "register emptied": (lambda site: emptied(site.data / "groups"), ("groups: groups: missing log",), MENDED, False),
    "both deleted": (both(deleted), (f"journal: missing log; {LOST_GROUPS}", "groups: missing log"), MENDED, True),
    "both emptied": (both(emptied), (f"journal: missing log; {LOST_GROUPS}", "groups: missing log"), MENDED, True),
    "journal is a file": (
        lambda site: as_file(site.data / "journal"),
        ("journal: not a directory; move it away",),
        STAYS,
        True,
    ),
    "topic deleted": (
        lambda site: deleted(site.path("topics/orders-*")),
        ("missing topic; groups: audit, billing; no topic has the uid",),
        MENDED,
        False,
    ),
    "topic emptied": (
        lambda site: emptied(site.path("topics/orders-*")),
        ("missing topic; groups: audit, billing; no topic has the uid",),
        MENDED,
        False,
    ),
    "topic is a file": (
        lambda site: as_file(site.path("topics/orders-*")),
        ("Not a directory; put it back",),
        STAYS,
        False,
    ),
    "topics deleted": (
        lambda site: deleted(site.data / "topics"),
        ("missing topic; groups: audit, billing",),
        MENDED,
        False,
    ),
    "topic doubled": (
        lambda site: shutil.copytree(site.path("topics/orders-*"), site.data / "topics/orders-000000000000"),
        ("topic.json: it is that of orders-",),
        STAYS,
        False,
    ),
    "a file among the topics": (
        lambda site: (site.data / "topics/notes.txt").write_text("hello"),
        ("topics: notes.txt: stray file",),
        REMARK,
        False,
    ),
    "a segment of a topic in the journal": (
        lambda site: shutil.copy(site.path("segment"), site.path("journal")),
        (f"group billing of orders {BACK}",),
        MENDED,
        False,
    ),
    "a newer topic.json": (
        lambda site: site.path("topic.json").write_text(
            site.path("topic.json")
            .read_text()
            .replace('"version": 1', '"version": 7')
            .replace('"uid"', '"x": 1, "uid"')
        ),
        ("has format version 7, this zbusrpc reads versions up to 1",),
        (UNKNOWN, UNKNOWN, UNKNOWN),
        True,
    ),
}


@pytest.mark.parametrize("what", DIRECTORIES)
def test_directory_is_damaged(
    site: Site, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Whatever is gone is said by check and by a start, with topics and groups; no start forgets groups in silence."""
    act, says, codes, is_refused = DIRECTORIES[what]
    act(site)
    before, twin = site.contents(), site.copy()

    first, lines = run(capsys, run_check, site)

    said = "\n".join(lines)
    assert site.contents() == before
    assert not [one for one in says if one not in said], said
    if is_refused:
        with pytest.raises(StorageError) as refused:
            twin.start()
        assert "both" not in what or LOST_GROUPS in str(refused.value)
        assert twin.contents() == before
    else:
        served = twin.start()
        assert [one for one in caplog.records if one.message.startswith("mq.")]
        if "topic" not in what or "segment" in what:
            assert served.groups == GROUPS
            assert served.messages["orders"] == list(range(COUNT))

    second, _ = run(capsys, run_repair, site)
    third, lines = run(capsys, run_check, site)

    assert (first, second, third) == codes, lines
    if third == SOUND:
        site.start()


def test_topic_that_is_put_back_has_its_groups(site: Site) -> None:
    """While its directory is away its groups are kept, over starts; a repair lets them be forgotten."""
    away = site.data.with_name("away")
    orders = site.path("topics/orders-*")
    orders.rename(away)
    for _ in range(2):
        assert site.start().groups == {("mails", "audit"), ("mails", "billing")}

    away.rename(orders)

    assert site.start().groups == GROUPS


@pytest.mark.parametrize("kind", ["journal", "register", "segment", "last segment"])
def test_file_is_torn_at_each_boundary(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Cut before, at and behind the end of each record: the rest is served, and it is said where anything is lost."""
    data = Site(whole).path(kind).read_bytes()
    ends = [SEGMENT_HEAD_BYTES, *(SEGMENT_HEAD_BYTES + end for end, *_ in heads(data[SEGMENT_HEAD_BYTES:]))]
    for number, size in enumerate(one + beside for one in ends[1:] for beside in (-1, 0, 1)):
        site = Site(Path(shutil.copytree(whole, tmp_path / f"data-{number}")))
        site.path(kind).write_bytes((data + b"\0")[:size])

        code, lines = run(capsys, run_check, site)
        served = site.start()
        again, _ = run(capsys, run_check, site)

        is_hit = size != len(data)
        assert (code, again) == (DAMAGED if is_hit else SOUND, SOUND), (size, lines)
        held = sum(end <= size for end in ends[1:])
        lost = {"segment": range(held, 6), "last segment": range(6 + held, 12)}.get(kind, range(0))
        assert served.messages["orders"] == sorted(set(range(COUNT)) - set(lost)), size
        assert served.groups == GROUPS
        shutil.rmtree(site.data)
