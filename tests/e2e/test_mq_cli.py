"""The commands about stored messages: what each prints, takes, refuses and exits with, run as a person runs them."""

import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.support.nursery import write_command
from tests.support.processes import Ended, Process, Processes
from tests.support.terminal import run_on_terminal
from tests.support.waiting import wait_until
from zbusrpc import mq
from zbusrpc.cli.letters import retry
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.config import Settings


class Cli:
    """The command line at one broker."""

    def __init__(self, processes: Processes, address: str) -> None:
        self.address = address
        self._processes = processes

    def start(self, *arguments: str) -> Process:
        """Start a command."""
        return self._processes.zbusrpc(*arguments, ZBUSRPC_BROKER=self.address)

    def shell(self, script: str) -> Process:
        """Start a line of shell, in which `zbusrpc` is the command."""
        write_command(self._processes.directory)
        path = f"{self._processes.directory}{os.pathsep}{os.environ['PATH']}"
        return self._processes.start("sh", "-c", script, PATH=path, ZBUSRPC_BROKER=self.address)

    def ended(self, *arguments: str) -> Ended:
        """Run a command to its end."""
        return self._processes.end_of(*arguments, cwd=self._processes.directory, ZBUSRPC_BROKER=self.address)

    def run(self, *arguments: str) -> str:
        """Run a command that succeeds without a word of error, and return what it prints."""
        ended = self.ended(*arguments)
        assert (ended.exit_code, ended.errors) == (0, "")
        assert "\x1b" not in ended.output
        return ended.output

    def json(self, *arguments: str) -> Any:
        """Run a command that succeeds, and return its line of JSON."""
        return json.loads(self.run(*arguments, "--json"))

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command that succeeds, and return its lines of JSON."""
        return [json.loads(line) for line in self.run(*arguments, "--json").splitlines()]

    def fails(self, *arguments: str, code: int = 1) -> str:
        """Run a command that fails, and return its one line of error."""
        ended = self.ended(*arguments)
        assert (ended.exit_code, ended.output) == (code, ""), ended.errors
        assert ended.errors.startswith("zbusrpc: ")
        assert ended.errors.count("\n") == 1
        return ended.errors.removeprefix("zbusrpc: ")


def succeeded(process: Process) -> str:
    """Wait for the end of a process that succeeds without a word of error, and return what it printed."""
    assert (process.wait_exit(), process.errors) == (0, "")
    return process.output


def stored_in(cli: Cli, topic: str) -> int:
    """Return how many messages a topic has; none while it does not exist."""
    found = cli.json("topics", topic)["topics"]
    return found[0]["messages"] if found else 0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker for all tests of this file; each has topics of its own."""
    with Processes(tmp_path_factory.mktemp("broker")) as processes:
        _, address = processes.broker("--data-dir", str(processes.directory / "data"))
        yield address


@pytest.fixture
def cli(processes: Processes, broker: str) -> Cli:
    """Return the command line."""
    return Cli(processes, broker)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """Return a name that no other test uses."""
    return re.sub(r"\W+", "-", request.node.name)[:60].strip("-")


# -- pub -----------------------------------------------------------------------------------------------------


def test_pub_says_where_messages_are(cli: Cli, topic: str) -> None:
    """`pub` makes the topic, stores each argument and prints offsets and what they survive."""
    assert cli.run("pub", topic, "tea") == f"1 message stored in {topic} at offset 0 (disk)\n"
    assert cli.run("pub", topic, "milk", "--count", "3") == f"3 messages stored in {topic} at offsets 1 to 3 (disk)\n"
    assert cli.json("pub", topic, "a", "b") == {
        "topic": topic,
        "stored": 2,
        "duplicates": 0,
        "offset": 4,
        "last_offset": 5,
        "durability": "disk",
    }


def test_pub_stores_what_options_say(cli: Cli, topic: str, tmp_path: Path) -> None:
    """Tag, key, id, headers, delay and time to live travel with the message; --file is one body, whatever it holds."""
    (tmp_path / "body").write_bytes(b"\x00\xff\n\n")
    options = ["--tag", "eu.new", "--key", "42", "--id", "m1", "--header", "a=1", "--header", "b=x=y"]

    cli.run("pub", topic, *options, "--delay", "90s", "--ttl", "2h", "--file", str(tmp_path / "body"))

    (message,) = cli.lines("peek", topic)
    assert message["body"] is None
    assert message["body_base64"] == "AP8KCg=="
    assert [message[name] for name in ("tag", "key", "id", "size")] == ["eu.new", "42", "m1", 4]
    assert message["headers"] == {"a": "1", "b": "x=y"}
    came_ms = message["due_ms"] - 90_000
    assert message["expiry_ms"] == came_ms + 7_200_000
    assert came_ms <= message["timestamp_ms"]  # it is stored at the end of a turn


@pytest.mark.parametrize("bodies", [["a", "b"], [], ["a", "--count", "2"]])
def test_pub_gives_an_id_to_one_message_only(cli: Cli, topic: str, bodies: list[str]) -> None:
    """Those that follow would count as sent again, and be dropped without a word."""
    assert cli.fails("pub", topic, *bodies, "--id", "same", code=2).startswith(
        "--id same names one message: give one BODY"
    )


def test_pub_reads_lines(cli: Cli, topic: str) -> None:
    """Without a body, and for `-`, each line of standard input is a message, the last one with or without its end."""
    first = succeeded(cli.shell(f"printf 'a\\n\\nb b' | zbusrpc pub {topic}"))
    second = succeeded(cli.shell(f"seq 20000 | zbusrpc pub {topic} - --json"))
    nothing = succeeded(cli.shell(f"zbusrpc pub {topic} < /dev/null"))

    assert first == f"3 messages stored in {topic} at offsets 0 to 2 (disk)\n"
    assert json.loads(second)["stored"] == 20_000
    assert nothing == f"nothing was stored in {topic}\n"
    assert [message["body"] for message in cli.lines("peek", topic, "--count", "4")] == ["a", "", "b b", "1"]


def test_pub_does_not_store_an_id_twice(cli: Cli, topic: str) -> None:
    """A message whose id is known is told as stored before, with its offset."""
    cli.run("pub", topic, "x", "--id", "one")

    assert cli.run("pub", topic, "x", "--id", "one") == f"1 message stored before in {topic} at offset 0\n"
    assert cli.json("pub", topic, "x", "--id", "one")["duplicates"] == 1


def test_pub_stops_at_the_first_error(cli: Cli, topic: str) -> None:
    """A message that cannot be stored ends `pub`, which says how many were stored before."""
    long_line = (
        f"(echo a; echo b; head -c 3000 /dev/zero; echo; echo c) | ZBUSRPC_MESSAGE_BYTES_MAX=2048 zbusrpc pub {topic}"
    )

    process = cli.shell(long_line)

    assert process.wait_exit() == 1
    assert process.errors == (
        "zbusrpc: line 3 is longer than 2.0 KiB, the limit of a message (message_bytes_max); "
        f"2 messages stored in {topic} at offsets 0 to 1 (disk)\n"
    )


def test_pub_notices_an_error_while_it_waits_for_lines(cli: Cli, topic: str, tmp_path: Path) -> None:
    """What the broker refuses ends `pub` at once, also when no further line comes; with --json the error is JSON."""
    with typing_into(cli, tmp_path, f"pub {topic} --json") as (process, typed):
        typed.write("a\n")
        typed.flush()
        wait_until(lambda: stored_in(cli, topic), "first message")
        cli.run("remove", topic, "--yes")
        typed.write("b\n")
        typed.flush()
        assert process.wait_exit() == 1

    told = json.loads(process.output)
    assert told["error"]["code"] == "NOT_FOUND"
    assert told["stored"] == 1


def test_interrupted_pub_says_what_it_stored(cli: Cli, topic: str, tmp_path: Path) -> None:
    """Ctrl-C ends `pub` with 130, after the broker has answered what was sent."""
    with typing_into(cli, tmp_path, f"pub {topic}") as (process, typed):
        typed.write("a\nb\n")
        typed.flush()
        wait_until(lambda: stored_in(cli, topic) == 2, "both messages")
        process.interrupt_group()
        assert process.wait_exit() == 130

    assert process.errors == f"zbusrpc: interrupted; 2 messages stored in {topic} at offsets 0 to 1 (disk)\n"


@contextmanager
def typing_into(cli: Cli, tmp_path: Path, command: str) -> Iterator[tuple[Process, TextIO]]:
    """Run a command, and yield it with its standard input."""
    os.mkfifo(tmp_path / "typed")
    process = cli.shell(f"exec zbusrpc {command} < {tmp_path / 'typed'}")
    with suppress(BrokenPipeError), (tmp_path / "typed").open("w") as typed:
        yield process, typed


# -- sub -----------------------------------------------------------------------------------------------------


def test_sub_prints_a_line_for_each_message(cli: Cli, topic: str) -> None:
    """A line has offset, time, tag, key and body; what a terminal would obey is shown as escapes."""
    cli.run("pub", topic, "tea", "--tag", "eu.new", "--key", "42")
    cli.run("pub", topic, "\x1b[31mred\nline")

    lines = cli.run("sub", topic, "--start", "oldest", "--count", "2").splitlines()

    assert re.fullmatch(r" +0  \d\d:\d\d:\d\d  eu\.new  key=42  tea", lines[0])
    assert re.fullmatch(r" +1  \d\d:\d\d:\d\d  \\x1b\[31mred\\nline", lines[1])


def test_sub_prints_json_or_bodies(cli: Cli, topic: str) -> None:
    """--json prints a line of JSON a message, --raw only the bodies; --filter and --start choose."""
    cli.run("pub", topic, "a", "--tag", "eu.x", "--id", "first")
    cli.run("pub", topic, "b", "--tag", "us.x", "--id", "second")
    cli.run("pub", topic, "c", "--tag", "eu.y")

    (message,) = cli.lines("sub", topic, "--start", "id:second", "--count", "1")
    bodies = cli.run("sub", topic, "--start", "oldest", "--filter", "eu.*", "--raw", "--timeout", "0.3")
    later = cli.run("sub", topic, "--start", "offset:2", "--raw", "--timeout", "0.3")
    since = cli.run("sub", topic, "--start", "time:2024-01-31T12:00", "--raw", "--count", "3")

    assert {name: message[name] for name in ("offset", "id", "tag", "key", "attempt", "size", "body")} == {
        "offset": 1,
        "id": "second",
        "tag": "us.x",
        "key": "",
        "attempt": 1,
        "size": 1,
        "body": "b",
    }
    assert (bodies, later, since) == ("a\nc\n", "c\n", "a\nb\nc\n")


def test_sub_takes_part_in_a_group(cli: Cli, topic: str) -> None:
    """With --group what was printed is done; what was not wanted comes to the next one, unharmed."""
    cli.run("pub", topic, "a", "b", "c", "d", "e")

    first = cli.lines("sub", topic, "--group", "g", "--count", "2")
    second = cli.lines("sub", topic, "--group", "g", "--timeout", "0.3")

    assert [(message["body"], message["attempt"]) for message in first + second] == [(body, 1) for body in "abcde"]
    assert cli.json("groups", topic)["groups"][0]["lag"] == 0


def test_sub_may_only_look(cli: Cli, topic: str) -> None:
    """--no-ack gives everything back, as if it had never been delivered."""
    cli.run("pub", topic, "a", "b", "c")

    looks = [cli.run("sub", topic, "--group", "g", "--no-ack", "--raw", "--timeout", "0.3") for _ in range(2)]
    after = cli.lines("sub", topic, "--group", "g", "--count", "3")

    assert looks == ["a\nb\nc\n"] * 2
    assert [message["attempt"] for message in after] == [1, 1, 1]


def test_sub_follows_until_it_is_interrupted(cli: Cli, topic: str) -> None:
    """`sub` prints what comes later as it comes; Ctrl-C ends it with 0 and gives back what it only looked at."""
    cli.run("pub", topic, "a")
    look = cli.start("sub", topic, "--group", "g", "--no-ack", "--raw")
    follow = cli.start("sub", topic, "--group", "other", "--raw")
    wait_until(lambda: look.output == follow.output == "a\n", "first message")

    cli.run("pub", topic, "b")
    wait_until(lambda: look.output == follow.output == "a\nb\n", "second message")
    for process, number in ((look, signal.SIGINT), (follow, signal.SIGTERM)):
        process.send_signal(number)

    assert [look.wait_exit(), follow.wait_exit()] == [0, 0]
    assert look.errors == follow.errors == ""
    groups = {group["group"]: (group["lag"], group["in_flight"]) for group in cli.json("groups", topic)["groups"]}
    assert groups == {"g": (2, 0), "other": (0, 0)}


def test_sub_ends_with_its_reader(cli: Cli, topic: str) -> None:
    """`sub | head -1` ends when head does, though no message comes that could not be written."""
    cli.run("pub", topic, "a", "b")

    ended = cli.shell(f"(zbusrpc sub {topic} --start oldest --raw; echo $? >&2) | head -1")

    assert ended.wait_exit() == 0
    assert (ended.output, ended.errors) == ("a\n", "0\n")


def test_sub_does_not_wait_for_a_reader_that_stalls(cli: Cli, topic: str, tmp_path: Path) -> None:
    """A signal ends `sub` though nobody reads what it prints; what was not written whole goes back to the group."""
    cli.run("pub", topic, "x" * 1000, "--count", "200")
    os.mkfifo(tmp_path / "printed")
    process = cli.shell(f"exec zbusrpc sub {topic} --group g --raw > {tmp_path / 'printed'}")
    with (tmp_path / "printed").open():
        wait_until(lambda: (group_of(cli, topic) or {}).get("in_flight") == 200, "messages on their way")
        process.send_signal(signal.SIGTERM)

        assert process.wait_exit() == 0
        group = group_of(cli, topic)
        assert group is not None
        assert (group["in_flight"], group["lag"]) == (0, 200)


def group_of(cli: Cli, topic: str) -> dict[str, Any] | None:
    """Return the only group of a topic, once it is there."""
    groups = cli.json("groups", topic)["groups"]
    return groups[0] if groups else None


def test_sub_tells_that_its_topic_was_removed(cli: Cli, topic: str) -> None:
    """A topic that goes ends `sub` with one line."""
    cli.run("pub", topic, "a")
    process = cli.start("sub", topic, "--start", "oldest", "--raw")
    wait_until(lambda: process.output, "message")

    cli.run("remove", topic, "--yes")

    assert process.wait_exit() == 1
    assert process.errors == f"zbusrpc: NOT_FOUND: topic {topic} was removed\n"


# -- peek, topics, groups ------------------------------------------------------------------------------------


def test_peek_shows_without_consuming(cli: Cli, topic: str) -> None:
    """`peek` prints what a topic holds, page after page, by tag and from a place; nothing moves by it."""
    succeeded(cli.shell(f"seq 2500 | zbusrpc pub {topic} --tag eu.new"))
    cli.run("pub", topic, "last", "--tag", "us.new")

    lines = cli.run("peek", topic, "--count", "2000").splitlines()
    (found,) = cli.lines("peek", topic, "--filter", "us.*")

    assert len(lines) == 2000
    assert re.fullmatch(r" +1999  \d\d:\d\d:\d\d  eu\.new  2000", lines[-1])
    assert (found["offset"], found["body"]) == (2500, "last")
    assert cli.run("peek", topic, "--start", "newest") == ""
    assert cli.json("groups", topic)["groups"] == []


def test_topics_are_made_listed_and_changed(cli: Cli, topic: str) -> None:
    """`declare` makes a topic with options in people's units, `topics` lists it; other options need --update."""
    options = ["--durability", "os", "--keep", "12h", "--keep-bytes", "10GiB", "--compact", "--ttl", "90s"]

    kept = "12h, 10.0 GiB, last of each key"

    made = cli.run("declare", topic, *options)
    listed = cli.run("topics", topic).splitlines()
    refused = cli.fails("declare", topic, "--keep", "1h")
    changed = cli.json("declare", topic, "--keep", "forever", "--no-keep-unconsumed", "--update")
    listing = cli.json("topics", topic)["topics"]

    assert made == f"topic {topic} made: os, kept {kept}\n"
    assert listed[0].split() == ["TOPIC", "DURABILITY", "MESSAGES", "SIZE", "GROUPS", "CONSUMERS", "KEPT"]
    assert listed[1].split() == [topic, "os", "0", "32", "B", "0", "0", *kept.split()]
    assert "exists with keep_s = 43200" in refused
    assert changed["created"] is False
    assert [one["options"] for one in listing] == [changed["options"]]
    assert {name: changed["options"][name] for name in ("keep_s", "keep_bytes", "keep_unconsumed", "ttl_ms")} == {
        "keep_s": None,
        "keep_bytes": 10 * 1024**3,
        "keep_unconsumed": False,
        "ttl_ms": 90_000,
    }


def test_group_is_made_and_changed(cli: Cli, topic: str) -> None:
    """`declare-group` makes a group, refuses to change it unless told, and prints what it is."""
    cli.run("pub", topic, "a", "b")

    made = cli.run("declare-group", topic, "g", "--max-attempts", "3", "--lease", "90s", "--start", "newest")
    changed = cli.run("declare-group", topic, "g", "--max-attempts", "5", "--update")
    shown = cli.json("declare-group", topic, "g", "--lease", "90s")

    assert made == f"group g of topic {topic} made: a lease of 90s, 3 attempts\n"
    assert changed == f"group g of topic {topic} updated: a lease of 90s, 5 attempts\n"
    assert (shown["next_offset"], shown["options"]["max_attempts"], shown["created"]) == (2, 5, False)


def test_seek_tells_what_the_group_will_not_get(cli: Cli, topic: str) -> None:
    """Messages that are passed are counted, and those that waited for their time."""
    cli.run("pub", topic, "a", "b")
    cli.run("sub", topic, "--group", "g", "--count", "1")
    cli.run("pub", topic, "c", "--delay", "1h")
    cli.run("sub", topic, "--group", "g", "--count", "1")
    cli.run("sub", topic, "--group", "g", "--timeout", "0.1")

    said = cli.run("seek", topic, "g", "newest")

    assert said.splitlines() == [
        f"group g of topic {topic} goes on at offset 3",
        "it will not get 1 message that it was not done with; delayed ones among them: 1",
    ]


def test_groups_are_listed_moved_and_paused(cli: Cli, topic: str) -> None:
    """`groups` shows where groups are and what they have to do; `seek`, `pause` and `resume` say what they did."""
    cli.run("pub", topic, "a", "b", "c")
    cli.run("sub", topic, "--group", "g", "--filter", "#", "--count", "3")
    header = "GROUP POSITION LAG FLIGHT WAITING DELAYED HELD DEAD SUMERS FILTER"
    at_two = ["g", "2", "1", "0", "0", "0", "0", "0", "0", "#", "paused"]

    assert cli.run("seek", topic, "g", "offset:2") == f"group g of topic {topic} goes on at offset 2\n"
    assert cli.run("pause", topic, "g") == f"group g of topic {topic} rests\n"
    table = cli.run("groups", topic).splitlines()
    assert table[1].split() == header.split()
    assert table[2].split() == at_two
    moved = cli.json("seek", topic, "g", "oldest")
    assert moved == {"topic": topic, "group": "g", "offset": 0, "passed": 0, "delayed": 0}
    assert cli.json("resume", topic, "g") == {"topic": topic, "group": "g", "paused": False}
    assert cli.lines("sub", topic, "--group", "g", "--count", "1")[0]["body"] == "a"


def test_lists_say_that_they_are_empty(cli: Cli, topic: str) -> None:
    """Where there is nothing to list, a line says so."""
    cli.run("declare", topic)

    assert cli.run("groups", topic) == f"topic {topic} has no groups\n"
    assert cli.run("topics", "no-such") == "no topic has 'no-such' in its name\n"
    assert cli.run("dlq", "ls", topic) == f"topic {topic} has no dead letters\n"
    assert cli.lines("dlq", "ls", topic) == []


# -- empty, remove -------------------------------------------------------------------------------------------


def test_empty_and_remove_say_what_went(cli: Cli, topic: str) -> None:
    """With --yes both act at once, on the topic or on one group, and say what there was."""
    cli.run("pub", topic, "a", "b", "c")
    for group in ("g", "h"):
        cli.run("sub", topic, "--group", group, "--count", "1")

    assert cli.run("empty", topic, "g", "--yes") == f"group g of topic {topic} has passed 2 messages\n"
    assert cli.run("remove", topic, "h", "--yes") == f"group h of topic {topic} removed; it had 2 messages to go\n"
    assert cli.json("empty", topic, "--yes") == {"topic": topic, "group": None, "removed": 3}
    assert cli.run("remove", topic, "-y") == f"topic {topic} removed; it had 0 messages and 1 group\n"
    assert cli.json("topics", topic) == {"topics": []}


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["remove"], "to remove topic {topic}, which has 2 messages and 1 group, say --yes: nobody can be asked here"),
        (["remove", "g"], "to remove group g of topic {topic}, which has 1 message to go, say --yes: nobody can be"),
        (["empty"], "to empty topic {topic}, which has 2 messages and 1 group, say --yes: nobody can be asked here"),
        (["dlq", "purge"], "to forget the dead letters of topic {topic} that there are, say --yes: nobody can be"),
    ],
)
def test_without_a_terminal_yes_is_needed(cli: Cli, topic: str, command: list[str], line: str) -> None:
    """What cannot be taken back is not done where nobody can be asked; exit code 2."""
    cli.run("pub", topic, "a", "b")
    cli.run("sub", topic, "--group", "g", "--count", "1")
    words = ["dlq", "purge", topic] if command[0] == "dlq" else [command[0], topic, *command[1:]]

    assert cli.fails(*words, code=2).startswith(line.format(topic=topic))
    assert cli.json("groups", topic)["messages"] == 2


def test_on_a_terminal_it_is_asked(cli: Cli, topic: str) -> None:
    """On a terminal only a yes removes."""
    cli.run("pub", topic, "a")
    command = [sys.executable, "-m", "zbusrpc", "remove", topic]
    env = {"ZBUSRPC_BROKER": cli.address}

    refused = run_on_terminal(command, "[y/N]", "n\n", **env)
    agreed = run_on_terminal(command, "[y/N]", "y\n", **env)

    assert refused.exit_code == 1
    assert f"Remove topic {topic}, which has 1 message and 0 groups? [y/N]" in refused.output
    assert "zbusrpc: nothing was done" in refused.output
    assert agreed.exit_code == 0
    assert cli.json("topics", topic) == {"topics": []}


# -- dead letters --------------------------------------------------------------------------------------------


@pytest.fixture
async def letters(broker: str, topic: str) -> str:
    """Return a topic with three messages that a group rejected."""
    await mq.declare(topic, broker=broker)
    async with mq.Producer(topic, broker=broker) as producer:
        await producer.send_batch([mq.Outgoing(f"job {n}", headers={"n": str(n)}) for n in range(3)])
    async with mq.Consumer(topic, group="g", broker=broker) as consumer:
        for message in await consumer.fetch(3):
            await message.reject(f"no stock of {message.offset}")
        while len(await mq.dead_letters(topic, broker=broker)) < 3:
            pass
    await close_fleets()
    return topic


@pytest.mark.anyio
async def test_dead_letters_are_listed_and_shown(cli: Cli, letters: str) -> None:
    """`dlq ls` shows where and why messages failed, `dlq show` all of one."""
    table = cli.run("dlq", "ls", letters).splitlines()
    shown = cli.run("dlq", "show", letters, "1")
    as_json = cli.lines("dlq", "ls", letters, "--start", "offset:1")

    assert table[0].split() == ["OFFSET", "TIME", "GROUP", "ATTEMPTS", "REASON"]
    assert re.fullmatch(r"2 +\d\d:\d\d:\d\d +g +1 +no stock of 2", table[3])
    for words in (f"offset 1 of topic {letters}", "in group g after 1 attempt", "no stock of 1", "n=1", "\n\njob 1\n"):
        assert words in shown
    assert cli.json("dlq", "show", letters, "1")["headers"]["dead-reason"] == "no stock of 1"
    assert [letter["offset"] for letter in as_json] == [1, 2]


@pytest.mark.anyio
async def test_dead_letters_are_tried_again(cli: Cli, letters: str) -> None:
    """`dlq retry` gives those that are named, or all, back to their group."""
    assert cli.run("dlq", "retry", letters, "1") == f"1 dead letter of topic {letters} given back\n"
    assert cli.json("dlq", "retry", letters) == {"topic": letters, "retried": 2, "left": []}

    bodies = cli.run("sub", letters, "--group", "g", "--raw", "--count", "3").split("\n")
    assert sorted(bodies) == ["", "job 0", "job 1", "job 2"]
    assert cli.lines("dlq", "ls", letters) == []


@pytest.mark.anyio
async def test_many_dead_letters_are_tried_again_in_rounds(
    broker: str, letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dlq retry` asks for some at a time until all have been looked at, and shows how far it is."""
    counts: list[int] = []

    @asynccontextmanager
    async def counting(verb: str, count: Callable[[], int]) -> AsyncIterator[None]:
        yield
        counts.append(count())

    monkeypatch.setattr("zbusrpc.cli.letters.ROUND", 1)
    monkeypatch.setattr("zbusrpc.cli.letters.counting", counting)

    results = [await retry(letters, None, Settings(broker=broker), as_new=False) for _ in range(2)]

    assert [(result.retried, result.left) for result in results] == [(3, []), (0, [])]
    assert counts == [3, 0]


@pytest.mark.anyio
async def test_dead_letters_whose_message_is_gone_need_as_new(cli: Cli, letters: str) -> None:
    """A letter that cannot be given back stays, with the reason, and exit code 1; --as-new stores it again."""
    cli.run("empty", letters, "--yes")

    ended = cli.ended("dlq", "retry", letters, "0")

    assert ended.exit_code == 1
    assert ended.output.startswith("offset 0 stays: the message at offset 0 is gone; say as_new")
    assert cli.json("dlq", "retry", letters, "0", "--as-new")["retried"] == 1
    assert cli.run("sub", letters, "--group", "g", "--raw", "--count", "1") == "job 0\n"


@pytest.mark.anyio
async def test_dead_letters_are_forgotten(cli: Cli, letters: str) -> None:
    """`dlq purge` forgets those that are named, or all; an offset where there is none is an error."""
    assert cli.run("dlq", "purge", letters, "1", "--yes") == f"1 dead letter of topic {letters} forgotten\n"
    assert cli.json("dlq", "purge", letters, "--yes") == {"topic": letters, "purged": 2}
    ended = cli.ended("dlq", "purge", letters, "1", "--yes")
    assert ended.exit_code == 1
    assert f"topic {letters} has no dead letter at 1 of these offsets; list them with: zbusrpc dlq ls" in ended.errors
    assert "no dead letter at offset 1;" in cli.fails("dlq", "show", letters, "1")


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(broker: str) -> str:
    """Return a topic that is there for all mistakes."""
    mq.sync.declare("known-topic", broker=broker)
    mq.sync.declare_group("known-topic", "known-group", broker=broker)
    return "known-topic"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("sub known-topc", "NOT_FOUND: there is no topic known-topc; did you mean known-topic?"),
        ("pub known-topc x --no-declare", "NOT_FOUND: there is no topic known-topc; did you mean known-topic?"),
        ("pub ../etc x", "INVALID_ARGUMENT: topic name '../etc' may not hold '/': use letters, digits and"),
        ("pub known-topic x --header a", "--header 'a': write NAME=VALUE"),
        ("pub known-topic x --ttl soon", "--ttl = 'soon': write a time such as 250ms, 90s, 30m, 12h or 7d"),
        ("pub known-topic x --ttl 0", "INVALID_ARGUMENT: ttl = 0.0"),
        ("pub known-topic --file /no/such", "cannot read /no/such: no such file or directory"),
        ("sub known-topic --start ofset:1", "--start = 'ofset:1': write oldest, newest, offset:N, id:ID, time:ISO or"),
        ("sub known-topic --start offset:-1", "--start = 'offset:-1': -1 is no number from 0 to"),
        ("sub known-topic --start offset:9", "OUT_OF_RANGE: topic known-topic has no offset 9: the next message gets"),
        ("sub known-topic --start time:noon", "--start = 'time:noon': write a time as 2026-01-31, 2026-01-31T12:30"),
        ("sub known-topic --start group:g", "NOT_FOUND: topic known-topic has no group g"),
        ("peek known-topic --start id:x", "NOT_FOUND: topic known-topic: no message x among the last ones"),
        ("sub known-topic --filter a.#.b", "INVALID_ARGUMENT: filter 'a.#.b': # stands for the rest and must be"),
        ("seek known-topic known-grup oldest", "NOT_FOUND: topic known-topic has no group known-grup; did you mean"),
        ("seek known-topic known-group 5", "START = '5': write oldest, newest, offset:N"),
        ("seek known-topic known-group offset:-5", "START = 'offset:-5': -5 is no number from 0 to"),
        ("pause known-topic nobody", "NOT_FOUND: topic known-topic has no group nobody"),
        ("declare known-topic --keep-bytes 10X", "--keep-bytes = '10X': write a size such as 4096, 500MB or 10GiB"),
        ("declare known-topic --durability dsk", "INVALID_ARGUMENT: command declare: durability = 'dsk': input"),
        ("bench produce --broker {broker} --topic known-topic", "topic known-topic exists; name one that may be made"),
        ("topics --broker localhost:1", "UNAVAILABLE: cannot reach broker localhost:1: nothing listens there; start"),
        ("pub t x --broker localhost:1", "UNAVAILABLE: cannot reach broker localhost:1: nothing listens there; start"),
        ("sub t --broker localhost:1", "UNAVAILABLE: cannot reach broker localhost:1: nothing listens there; start"),
        ("sub t --broker host:port", "'host:port' is no broker address; write host:port"),
    ],
)
def test_mistake_is_one_clear_line(cli: Cli, known: str, command: str, line: str) -> None:
    """Whatever is wrong is one line on standard error that names it, and exit code 1."""
    assert cli.fails(*command.format(broker=cli.address).split()).startswith(line)


@pytest.mark.parametrize(
    "command",
    [
        "dlq show t -1",
        "sub t --nonsense",
        "peek",
    ],
)
def test_wrong_usage_exits_with_2(cli: Cli, command: str) -> None:
    """What the command line cannot even read exits with 2 and says how it is used, without a traceback."""
    ended = cli.ended(*command.split())

    assert (ended.exit_code, ended.output) == (2, "")
    assert "Usage: " in ended.errors
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("pub t --count 0 x", "--count = '0': input should be greater than or equal to 1"),
        ("dlq show t x", "OFFSET = 'x': input should be a valid integer"),
        ("serve mymod:Calc --workers x", "--workers = 'x': input should be a valid integer"),
        ("broker --port 80x", "--port = '80x': input should be a valid integer"),
        ("call Calc.add --timeout soon", "--timeout = 'soon': input should be a valid number"),
        ("bench rpc --seconds x", "--seconds = 'x': input should be a valid number"),
    ],
)
def test_bad_value_is_one_line_that_names_option_and_value(cli: Cli, command: str, line: str) -> None:
    """As those that settings refuse, with the exit code of wrong usage."""
    ended = cli.ended(*command.split())

    assert (ended.exit_code, ended.output, ended.errors.count("\n")) == (2, "", 1)
    assert ended.errors.startswith(f"zbusrpc: {line}")


def test_error_is_json_when_asked(cli: Cli) -> None:
    """With --json what a broker refuses is JSON on standard output."""
    ended = cli.ended("groups", "nowhere", "--json")

    assert (ended.exit_code, ended.errors) == (1, "")
    assert json.loads(ended.output)["error"]["code"] == "NOT_FOUND"


def test_broker_without_topics_says_so(processes: Processes) -> None:
    """At a broker without a data directory each command says in one line how to get one."""
    _, address = processes.broker()
    cli = Cli(processes, address)

    for command in ("pub t x", "sub t", "topics", "declare t", "dlq ls t"):
        assert cli.fails(*command.split()).startswith("FAILED_PRECONDITION: "), command
        assert "--data-dir" in cli.fails(*command.split()), command


@pytest.mark.parametrize("command", ["topics", "peek {topic}", "sub {topic} --start oldest"])
def test_output_that_cannot_be_written_is_told(cli: Cli, topic: str, command: str) -> None:
    """A full disk behind standard output is one line; a reader that has gone is no mistake."""
    cli.run("pub", topic, "a")
    words = command.format(topic=topic)

    full = cli.shell(f"zbusrpc {words} > /dev/full")
    unread = cli.shell(f"(zbusrpc {words}; echo $? >&2) | true")

    assert full.wait_exit() == 1
    assert full.errors == "zbusrpc: cannot write to standard output: no space left on device\n"
    assert (unread.wait_exit(), unread.errors) == (0, "0\n")


# -- bench ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["produce", "consume"])
def test_bench_measures_and_leaves_nothing(processes: Processes, tmp_path: Path, kind: str) -> None:
    """Without --broker, `bench` runs a broker in a temporary directory, which is gone afterwards."""
    code, output, errors = processes.run("bench", kind, "--seconds", "0.2", "--json", TMPDIR=str(tmp_path))

    figures = json.loads(output)
    assert (code, errors) == (0, "")
    assert figures["messages"] > 0
    assert 0 < figures["p50_us"] <= figures["p99_us"]
    assert {"messages_per_s", "mb_per_s", "concurrency", "batch", "size", "durability"} <= set(figures)
    assert list(tmp_path.glob("zbusrpc-bench-*")) == []


@pytest.mark.parametrize("kind", ["produce", "consume"])
def test_bench_removes_its_topic(cli: Cli, kind: str) -> None:
    """At a broker that is named, `bench` removes its topic, and tells the figures in a line for people."""
    arguments = ["--seconds", "0.2", "--broker", cli.address, "--batch", "10", "--concurrency", "2"]

    printed = cli.run("bench", kind, *arguments, "--durability", "memory", "--topic", f"bench-{kind}")

    figures = r"[\d,]+ messages/s \w+, [\d,.]+ MB/s \(memory\); latency p50 [\d,]+ us, p99 [\d,]+ us; [\d,]+ messages\n"
    assert re.fullmatch(figures, printed)
    assert cli.json("topics", "bench-") == {"topics": []}


# -- a terminal ----------------------------------------------------------------------------------------------


def test_tables_fit_a_terminal(cli: Cli, topic: str) -> None:
    """On a terminal of 80 columns long names are folded, and no line is longer."""
    name = f"{topic}.{'a-part.' * 9}end"
    cli.run("declare", name, "--keep-bytes", "10GiB", "--compact")
    cli.run("sub", name, "--group", "a-long-name-of-a-group-that-does-not-fit", "--filter", "eu.*", "--timeout", "0.1")
    env = {"ZBUSRPC_BROKER": cli.address}

    shown = [
        run_on_terminal([sys.executable, "-m", "zbusrpc", *command], **env).output
        for command in (["topics", topic], ["groups", name])
    ]

    for text in shown:
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)
        assert "CONSUMERS" in plain or "SUMERS" in plain
        assert max(len(line) for line in plain.splitlines()) <= 80
