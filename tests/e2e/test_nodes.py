"""`zbusrpc broker --nodes`: brokers as processes of one command, which keeps them; and the end of such a command."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.broker_set import table_of
from tests.support.lab import Lab
from tests.support.processes import LAB, Process, Processes, is_alive, port_of
from tests.support.tokens import secret_of, write_tokens
from tests.support.waiting import wait_until
from zbusrpc import blocking, connect, mq
from zbusrpc.cli.broker import make_server
from zbusrpc.cli.nodes import check
from zbusrpc.config import load_settings
from zbusrpc.errors import ConfigError

T = TypeVar("T")
TRACKER = [{"operations": ["track_pub", "track_sub", "query"], "topics": ["*"]}]


@pytest.fixture
def nodes(processes: Processes, tmp_path: Path) -> Iterator[tuple[Process, list[str]]]:
    """Run two nodes that store topics; yield the process that keeps them, and their addresses."""
    parent = start(processes, "--data-dir", str(tmp_path / "data"))
    yield parent, parent.wait_ready()["brokers"]
    parent.send_signal(signal.SIGTERM)
    parent.wait_exit()


def start(processes: Processes, *options: str, **env: str) -> Process:
    """Start two nodes."""
    return processes.zbusrpc("broker", "--nodes", "2", "--port", "0", "--json", *options, **env)


def wait_known(brokers: list[str]) -> None:
    """Return when each of some brokers lists them all and no others."""
    for broker in brokers:
        wait_until(lambda broker=broker: set(table_of(broker)) == set(brokers), f"{broker} lists {brokers}")  # type: ignore[misc]


def two(things: list[T]) -> list[T]:
    """Return some things if there are two."""
    return things if len(things) == 2 else []


def test_nodes_are_one_set(processes: Processes, tmp_path: Path) -> None:
    """They list each other once they are ready; what one is told to serve is called by any; each has a core and a
    directory; SIGTERM lets all of them finish."""
    parent = start(processes, "--data-dir", str(tmp_path / "data"))
    ready = parent.wait_ready()
    one, other = ready["brokers"]
    known = [set(table_of(one)), set(table_of(other))]
    children = parent.children
    processes.serve(one)
    lab = connect(Lab, broker=other)

    results = {blocking(lab.add)(1, 2) for _ in range(10)}
    cores = [os.sched_getaffinity(pid) for pid in children] if sys.platform == "linux" else []
    parent.send_signal(signal.SIGTERM)

    assert ready["nodes"] == 2
    assert ready["broker"] == f"{one};{other}"
    assert known == [{one, other}, {one, other}]
    assert results == {3}
    assert [len(own) for own in cores] == [1] * len(cores)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["node-0", "node-1"]
    assert parent.wait_exit() == 0
    assert not [pid for pid in children if is_alive(pid)]
    assert not parent.log("broker.nodes_apart")


def test_killed_node_is_back_with_its_data(nodes: tuple[Process, list[str]]) -> None:
    """A node that dies is started again at once, at its address, and lists the others."""
    parent, brokers = nodes
    blocking_declare(brokers[0])
    victim = parent.children[0]

    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: parent.log("broker.node_died"), "death noticed")
    wait_known(brokers)

    (line,) = parent.log("broker.node_died")
    assert (line["pid"], line["exit_code"], line["restart_in_s"]) == (victim, -9, 0.0)
    assert [topic.name for topic in mq.sync.topics(broker=brokers[0])] == ["kept"]


def blocking_declare(broker: str) -> None:
    """Make a topic at one broker."""
    mq.sync.declare("kept", broker=broker)


def test_drained_node_stays_away(processes: Processes, nodes: tuple[Process, list[str]]) -> None:
    """A node that was drained is not started again; with the last of them the command ends, with 0."""
    parent, brokers = nodes

    code, _, _ = processes.run("broker", "drain", brokers[0])
    wait_until(lambda: parent.log("broker.node_drained"), "drained")
    wait_known(brokers[1:])
    assert (code, len(parent.children), parent.is_running) == (0, 1, True)
    processes.run("broker", "drain", brokers[1])

    assert parent.wait_exit() == 0
    assert not parent.log("broker.node_died")


@pytest.mark.parametrize("command", ["broker", "serve"])
def test_killed_parent_leaves_no_child(processes: Processes, shared_broker: str, command: str) -> None:
    """When the command that keeps nodes or workers is killed with -9, they end by themselves, in order."""
    if command == "broker":
        parent = start(processes)
    else:
        parent = processes.zbusrpc("serve", LAB, "--broker", shared_broker, "--workers", "2", "--json")
    parent.wait_ready()
    children = wait_until(lambda: two(parent.children), "two children")

    parent.kill()

    wait_until(lambda: not [pid for pid in children if is_alive(pid)], "end of the children")


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker for the tests of this module."""
    with Processes(tmp_path_factory.mktemp("shared")) as processes:
        yield processes.broker()[1]


def test_nodes_with_tokens_read_them_again(processes: Processes, tmp_path: Path) -> None:
    """They report to each other with the token of the environment; SIGHUP reaches all of them."""
    tokens = write_tokens(tmp_path / "tokens.toml", {"nodes": TRACKER})
    parent = start(processes, "--tokens", str(tokens), ZBUSRPC_TOKEN=secret_of("nodes"))
    ready = parent.wait_ready()

    parent.send_signal(signal.SIGHUP)

    lines = wait_until(lambda: two(parent.log("broker.reloaded")), "both have read them")
    assert {line["node"] for line in lines} == {port_of(broker) for broker in ready["brokers"]}
    assert not parent.log("broker.nodes_apart")
    parent.send_signal(signal.SIGTERM)
    assert parent.wait_exit() == 0


def test_taken_port_is_told_once(processes: Processes, tmp_path: Path, shared_broker: str) -> None:
    """What no node could start with is one line, and exit code 1."""
    port = str(port_of(shared_broker) - 1)

    code, output, errors = processes.run("broker", "--nodes", "2", "--port", port, cwd=tmp_path)

    assert (code, output) == (1, "")
    assert errors.startswith("zbusrpc: cannot listen on 127.0.0.1:")
    assert errors.endswith(": address already in use\n")
    assert errors.count("\n") == 1


@pytest.mark.anyio
async def test_mistake_is_told_before_any_node_starts(tmp_path: Path) -> None:
    """The line names what is wrong and what to say in its place."""
    (tmp_path / "single" / "topics").mkdir(parents=True)
    tokens = write_tokens(tmp_path / "tokens.toml", {"nodes": TRACKER})
    mistakes: dict[str, dict[str, Any]] = {
        "ports end at 65535": {"port": 65535},
        "say --advertise b.example": {"advertise": "b.example:1"},
        r"say --advertise \[::1\]": {"advertise": "[::1]:80"},
        "set it to one that may track_pub": {"port": 0, "tokens": str(tokens)},
        "has the topics of one broker": {"data_dir": str(tmp_path / "single")},
        "'x:y' is no broker address": {"port": 0, "tracker": "x:y"},
    }
    for line, given in mistakes.items():
        with pytest.raises(ConfigError, match=line):
            await check(load_settings(nodes=2, **given))


@pytest.mark.anyio
async def test_one_broker_does_not_start_where_nodes_store(tmp_path: Path) -> None:
    """It would see none of their topics, and its own would keep the nodes from starting again."""
    for name in ("node-0", "node-1"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"has the topics of 2 nodes, .* say --nodes 2, or name another --data-dir"):
        make_server(load_settings(data_dir=str(tmp_path)))

    (tmp_path / "topics").mkdir()
    make_server(load_settings(data_dir=str(tmp_path)))
