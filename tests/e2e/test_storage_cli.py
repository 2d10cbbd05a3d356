"""`zbusrpc storage`: what it finds, what it mends, and what it leaves alone, run as a person runs it."""

import json
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import Process, Processes, run_to_end
from zbusrpc import mq
from zbusrpc.broker.storage.lock import locked_around


@pytest.fixture
def stopped(processes: Processes, tmp_path: Path) -> Path:
    """Return the data directory of a broker that was killed, with a topic of 100 messages."""
    data = tmp_path / "data"
    process, address = processes.broker("--data-dir", str(data))
    with mq.SyncProducer("orders", broker=address) as producer:
        for number in range(100):
            producer.send(f"order {number}")
    process.kill()
    return data


def storage(processes: Processes, *arguments: str) -> tuple[int, str, str]:
    """Run `zbusrpc storage`, and return its exit code, output and errors."""
    return processes.run("storage", *arguments, cwd=processes.directory)


def segment_of(data: Path) -> Path:
    """Return the file with the messages."""
    (path,) = data.glob("topics/*/*.log")
    return path


def test_storage_check_looks_at_all_nodes(processes: Processes, stopped: Path, tmp_path: Path) -> None:
    """The directory of several brokers is checked as a whole."""
    for name in ("node-0", "node-1"):
        shutil.copytree(stopped, tmp_path / "nodes" / name)
    alone = json.loads(storage(processes, "check", str(stopped), "--json")[1])["logs"]

    code, as_json, errors = storage(processes, "check", str(tmp_path / "nodes"), "--json")

    assert (code, errors) == (0, "")
    names = [f"{node}/{one['name']}" for node in ("node-0", "node-1") for one in alone]
    assert [one["name"] for one in json.loads(as_json)["logs"]] == names


def test_storage_check_finds_nothing_wrong(processes: Processes, stopped: Path) -> None:
    """A data directory in order is told so; --json names each log."""
    code, output, errors = storage(processes, "check", str(stopped))
    _, as_json, _ = storage(processes, "check", str(stopped), "--json")

    assert (code, output, errors) == (0, "checking 3 logs: nothing is wrong\n", "")
    assert [(log["name"], log["findings"]) for log in json.loads(as_json)["logs"]] == [
        ("journal", []),
        ("groups", []),
        ("orders", []),
    ]


@pytest.fixture
def used(processes: Processes, tmp_path: Path) -> tuple[Process, Path]:
    """Return a running broker, and the directory of its one topic, whose last message looks like a torn tail."""
    process, address = processes.broker("--data-dir", str(tmp_path / "data"))
    with mq.SyncProducer("orders", broker=address) as producer:
        producer.send("order 0")
    (topic,) = (tmp_path / "data" / "topics").iterdir()
    with segment_of(tmp_path / "data").open("ab") as file:
        file.write(b"half of a record")
    return process, topic


@pytest.mark.parametrize("command", ["check", "repair"])
@pytest.mark.parametrize("level", ["parent", "data", "topics", "topic", "journal", "link to a topic", "link to data"])
def test_storage_in_use_names_the_process(
    processes: Processes, used: tuple[Process, Path], tmp_path: Path, level: str, command: str
) -> None:
    """What a running broker has is left alone, whichever directory of it is named; the line names its process."""
    process, topic = used
    data = tmp_path / "data"
    (tmp_path / "links").mkdir()
    paths = {"parent": tmp_path, "data": data, "topics": data / "topics", "topic": topic, "journal": data / "journal"}
    for name, target in (("link to a topic", topic), ("link to data", data)):
        paths[name] = tmp_path / "links" / name
        paths[name].symlink_to(target)
    before = contents_of(data)

    code, output, errors = storage(processes, command, str(paths[level]))

    assert (code, output) == (2, "")
    named = paths[level] if level == "link to data" else data
    assert re.match(rf"zbusrpc: data directory ({data}|{named}) is in use by process {process.pid} on ", errors)
    assert errors.count("\n") == 1
    assert contents_of(data) == before


def test_storage_in_use_is_found_behind_a_bind_mount(
    processes: Processes, used: tuple[Process, Path], tmp_path: Path
) -> None:
    """A topic's directory that is mounted elsewhere has no way up to the lock, and is left alone all the same."""
    process, topic = used
    (tmp_path / "elsewhere").mkdir()
    mounted = tmp_path / "elsewhere" / "orders"
    mounted.mkdir()
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", script, str(topic), str(mounted)]
    if run_to_end([*inside, "true"]).exit_code:
        pytest.skip("this machine lets no test mount anything")

    repair = [sys.executable, "-m", "zbusrpc", "storage", "repair", str(mounted)]
    ended = run_to_end([*inside, *repair])

    assert ended.exit_code == 2
    assert f"is in use by process {process.pid} on " in ended.errors


def contents_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes of each file, and when it was changed."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_storage_check_writes_nothing(processes: Processes, stopped: Path) -> None:
    """A damaged copy that may only be read is checked: no file is opened for writing, and none appears."""
    segment = segment_of(stopped)
    segment.write_bytes(segment.read_bytes()[:-5])
    (stopped / "lock").unlink()
    before = contents_of(stopped)
    for path in (*stopped.rglob("*"), stopped):
        path.chmod(0o555 if path.is_dir() else 0o444)

    code, found, errors = storage(processes, "check", str(stopped))

    assert (code, errors) == (1, "")
    assert "torn tail" in found
    assert contents_of(stopped) == before


def test_two_checks_go_on_at_a_time(processes: Processes, stopped: Path) -> None:
    """Who only looks keeps brokers away, and nobody who only looks; a broker is told that somebody looks."""
    with locked_around(str(stopped), is_shared=True):
        assert storage(processes, "check", str(stopped))[0] == 0
        code, _, errors = storage(processes, "repair", str(stopped))
        refused = processes.run("broker", "--port", "0", "--data-dir", str(stopped))

    assert code == 2
    assert "is in use by another process" in errors
    assert "is in use by another process" in refused[2]


@pytest.mark.parametrize("place", ["topics", "topics/inner", "journal"])
def test_data_directory_in_another_is_refused(processes: Processes, stopped: Path, place: str) -> None:
    """A broker does not make its files among those of another one, whether or not that runs."""
    before = contents_of(stopped)

    code, _, errors = processes.run("broker", "--port", "0", "--data-dir", str(stopped / place))

    assert code == 1
    assert f"{stopped / place} lies in the data directory {stopped}: use another --data-dir" in errors
    assert contents_of(stopped) == before


def test_storage_repairs_a_torn_tail(processes: Processes, stopped: Path) -> None:
    """A write that was not finished is found by `check`, which changes nothing, and cut off by `repair`."""
    segment = segment_of(stopped)
    torn = segment.read_bytes()[:-5]
    segment.write_bytes(torn)

    code, found, _ = storage(processes, "check", str(stopped))
    assert code == 1
    assert re.search(r"^orders: \S+\.log: torn tail of \d+ bytes at byte \d+\n", found)
    assert "checking 3 logs: 1 of them need attention" in found
    assert segment.read_bytes() == torn

    code, repaired, _ = storage(processes, "repair", str(stopped))
    assert code == 0
    assert "torn tail" in repaired
    assert storage(processes, "check", str(stopped))[0] == 0


def test_storage_repairs_a_flipped_bit(processes: Processes, stopped: Path) -> None:
    """A bit that changed is found by `check`; `repair` keeps the damaged file and serves all messages but the one."""
    segment = segment_of(stopped)
    data = bytearray(segment.read_bytes())
    data[data.index(b"order 50")] ^= 1
    segment.write_bytes(data)

    code, found, _ = storage(processes, "check", str(stopped), "--json")
    assert code == 1
    (log,) = [log for log in json.loads(found)["logs"] if log["name"] == "orders"]
    assert [finding["kind"] for finding in log["findings"]] == ["damage"]

    code, repaired, _ = storage(processes, "repair", str(stopped))
    assert code == 0
    assert "the file is kept as" in repaired
    _, address = processes.broker("--data-dir", str(stopped))
    shown = processes.end_of("peek", "orders", "--count", "200", "--json", ZBUSRPC_BROKER=address).output
    bodies = [json.loads(line)["body"] for line in shown.splitlines()]
    assert bodies == [f"order {number}" for number in range(100) if number != 50]


def test_altered_options_are_found_by_check_and_broker(processes: Processes, stopped: Path) -> None:
    """A digit of topic.json that changed is no other option: check and broker say so."""
    (said,) = stopped.glob("topics/*/topic.json")
    said.write_text(said.read_text().replace("604800.0", "204800.0"))

    code, found, _ = storage(processes, "check", str(stopped))
    broker, _ = processes.broker("--data-dir", str(stopped))

    assert code == 1
    assert f"{said}: it is not as it was written: checksum is " in found
    assert "checksum" in broker.log("mq.unreadable_topic")[0]["reason"]


def test_end_that_a_group_has_passed_is_missed_by_check_and_broker(processes: Processes, tmp_path: Path) -> None:
    """A topic that ends before the place of a group has lost messages, though its files look whole: both say which."""
    data = tmp_path / "data"
    process, address = processes.broker("--data-dir", str(data))
    with mq.SyncProducer("orders", broker=address) as producer:
        for number in range(3):
            producer.send(f"order {number}")
    processes.end_of("sub", "orders", "--group", "g", "--count", "3", ZBUSRPC_BROKER=address)
    process.kill()
    segment = segment_of(data)
    for index in segment.parent.glob("*.index"):
        index.unlink()
    whole = segment.read_bytes()
    segment.write_bytes(whole[: whole.index(b"order 2") - 60])

    code, found, _ = storage(processes, "check", str(data))
    broker, _ = processes.broker("--data-dir", str(data))

    missed = "offsets 2 to 2 are in no file, and a group was given them"
    assert code == 1
    assert missed in found
    assert [line["finding"] for line in broker.log("mq.damage") if missed in line["finding"]]


def test_topic_that_cannot_be_read_is_an_error_everywhere(processes: Processes, stopped: Path) -> None:
    """No command and no request takes it for one that is empty, or that there is not."""
    (said,) = stopped.glob("topics/*/topic.json")
    said.write_text("{")
    _, address = processes.broker("--data-dir", str(stopped))
    commands = [
        ("dlq", "ls", "orders"),
        ("dlq", "retry", "orders"),
        ("peek", "orders"),
        ("groups", "orders"),
        ("sub", "orders"),
        ("pub", "orders", "x"),
        ("seek", "orders", "billing", "oldest"),
        ("empty", "orders", "--yes"),
        ("remove", "orders", "--yes"),
    ]

    for command in commands:
        code, _, errors = processes.run(*command, ZBUSRPC_BROKER=address)
        assert code == 1, command
        assert "topic orders cannot be read" in errors, command
    for path in (
        "produce/orders/x",
        "consume/orders",
        "query/orders",
        "query/orders/billing",
        "declare/orders",
        "empty/orders",
    ):
        with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(f"http://{address}/{path}"):
            pass
        with refused.value as answer:
            assert (path, answer.code) == (path, 500)
            assert b"topic orders cannot be read" in answer.read()

    code, listed, _ = processes.run("topics", ZBUSRPC_BROKER=address)
    assert (code, listed.splitlines()[1].split()) == (0, ["orders", "unreadable"])
    assert "orders cannot be read: " in listed
    (info,) = mq.sync.topics(broker=address)
    with urllib.request.urlopen(f"http://{address}/api/topics") as answer:
        (row,) = json.loads(answer.read())["result"]
    assert info.name == row["topic"] == "orders"
    assert info.unreadable_because == row["unreadable_because"]
    assert "topic.json" in row["unreadable_because"]
    for path in ("server", "query"):
        with urllib.request.urlopen(f"http://{address}/{path}") as answer:
            (table,) = [json.loads(answer.read())["topicTable"]]
        assert table["orders"]["error"] == info.unreadable_because
    with urllib.request.urlopen(f"http://{address}/tracker") as answer:
        (server,) = json.loads(answer.read())["serverTable"].values()
    assert server["topicTable"] == {}, "nobody is sent to what cannot be read"
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        figures = [line for line in answer.read().decode().splitlines() if line.startswith("zbusrpc_topic")]
    assert figures == ['zbusrpc_topic_unreadable{topic="orders"} 1.0']


@pytest.mark.parametrize(
    ("directory", "line"),
    [
        ("missing", "there is no directory {path}"),
        ("empty", "{path} holds no topics; name a data directory or the directory of a topic"),
    ],
)
def test_storage_needs_a_data_directory(processes: Processes, tmp_path: Path, directory: str, line: str) -> None:
    """A directory that is none, or holds nothing of ours, is refused in one line."""
    (tmp_path / "empty").mkdir()
    path = tmp_path / directory

    assert storage(processes, "check", str(path)) == (2, "", f"zbusrpc: {line.format(path=path)}\n")
    assert os.listdir(tmp_path / "empty") == []


def test_storage_that_may_not_be_read_is_one_line(processes: Processes, tmp_path: Path) -> None:
    """A directory that belongs to somebody else is named, with the reason."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o000)
    program = """
import os, sys
import zbusrpc.cli.storage
from zbusrpc.cli.app import main
if os.geteuid() == 0:
    os.seteuid(65534)
sys.argv = ["zbusrpc", "storage", "check", sys.argv[1]]
main()
"""
    process = processes.python(program, str(theirs))

    assert process.wait_exit() == 2
    assert process.errors == f"zbusrpc: {theirs} cannot be read: permission denied\n"
