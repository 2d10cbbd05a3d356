"""The README is true: its snippets run, with the results that stand beside them.

How a snippet is read:

    ```python, first line "# name.py"   a file; it is there for the snippets that follow
    ```python                           a program; "print(...)  # text" says what it prints, line by line
    ```console                          commands after "$ ", each with what it prints; servers are started and kept
    ```toml                             a settings file

Each section runs by itself, in a directory with the files of the whole README, at a broker of its own.
"""

import os
import re
import signal
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
from typer.main import get_command

from tests.support.checkers import run_mypy
from tests.support.nursery import write_command
from tests.support.processes import Processes, run_to_end
from zbusrpc.cli.app import app
from zbusrpc.config import DEFAULT_BROKER, Settings

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)\n")
PRINTED = re.compile(r"^\s*print\(.*\)\s*# (.*)$", re.MULTILINE)
SERVER = re.compile(r"zbusrpc (broker|serve)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of the README."""

    section: str
    language: str
    text: str
    number: int

    @property
    def file_name(self) -> str | None:
        """The name of the file that a Python block is, if it is one."""
        found = FILE_NAME.match(self.text) if self.language == "python" else None
        return found[1] if found else None


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of the README in their order."""
    blocks: list[Block] = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE):
        title = part.partition("\n")[0].removeprefix("# ")
        for language, body in BLOCK.findall(part):
            blocks.append(Block(section=title, language=language, text=body, number=len(blocks)))
    return blocks


BLOCKS = read_blocks(README.read_text())
SECTIONS = {title: list(blocks) for title, blocks in groupby(BLOCKS, lambda block: block.section)}
RUNNABLE = [title for title, blocks in SECTIONS.items() if {block.language for block in blocks} & {"python", "console"}]


@pytest.mark.parametrize("title", RUNNABLE)
def test_snippets_of_section_run(title: str, tmp_path: Path) -> None:
    """What a section shows happens as it says."""
    write_files(tmp_path)

    with (
        running_server(
            "broker", "--port", "0", "--data-dir", "data", directory=tmp_path, broker=DEFAULT_BROKER
        ) as ready,
        ExitStack() as on,
    ):
        shell = Shell(directory=tmp_path, broker=ready["broker"], servers=on)
        for block in SECTIONS[title]:
            if block.language == "console":
                shell.run_console(block.text)
            elif block.language == "python" and block.file_name is None:
                assert shell.run([sys.executable, "-c", block.text]).splitlines() == PRINTED.findall(block.text)


def test_every_file_and_program_passes_mypy(tmp_path: Path) -> None:
    """What the README shows is typed: mypy --strict has nothing to say, but of the decorated error's comment."""
    write_files(tmp_path)
    for block in BLOCKS:
        if block.language == "python" and block.file_name is None:
            (tmp_path / f"program_{block.number}.py").write_text(block.text)

    result = run_mypy(tmp_path, ".")

    assert result.exit_code == 0, result.output + result.errors


def test_settings_file_is_valid() -> None:
    """The settings that are shown exist, and their values can be used."""
    shown = [block.text for block in BLOCKS if block.language == "toml"]

    settings = Settings.model_validate(tomllib.loads(shown[0]))

    assert len(shown) == 1
    assert settings.grace == 30


def test_table_of_settings_is_complete() -> None:
    """Every setting there is stands in the table, and nothing else does."""
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `")]

    names = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert names == set(Settings.model_fields)


def test_every_setting_is_an_option() -> None:
    """A setting can be given to at least one command."""
    commands = vars(get_command(app))["commands"].values()

    options = {option for command in commands for parameter in command.params for option in parameter.opts}

    assert {f"--{name.replace('_', '-')}" for name in Settings.model_fields} <= options


def test_links_lead_somewhere() -> None:
    """Files that the README refers to exist."""
    for link in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link


def test_quickstart_opens_readme() -> None:
    """The first thing after one sentence is the service, and both commands stand before the first section."""
    opening = README.read_text().partition("\n## ")[0]

    assert opening.index("# mymod.py") < 400
    assert "make demo" in opening
    assert "make test" in opening


class Shell:
    """Runs the commands of a section."""

    def __init__(self, *, directory: Path, broker: str, servers: ExitStack) -> None:
        self._directory = directory
        self._broker = broker
        self._servers = servers
        self._commands = directory / "commands"
        self._commands.mkdir()
        write_command(self._commands)

    def run_console(self, text: str) -> None:
        """Run each command and compare what it prints; servers are started, and run until the section ends."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            if SERVER.match(command):
                assert expected == ""
                self._start(command.split()[1:])
            else:
                quiet = command.replace("curl ", "curl -sS ").replace(DEFAULT_BROKER, self._broker)
                assert self.run(["sh", "-c", quiet]).rstrip("\n") == expected.rstrip("\n"), command

    def run(self, command: list[str]) -> str:
        """Run a command and return what it prints; it must succeed."""
        result = run_to_end(command, cwd=self._directory, env=environment(self._broker, self._commands))
        assert result.exit_code == 0, result.output + result.errors
        return result.output

    def _start(self, arguments: list[str]) -> None:
        port = ["--port", "0"] if arguments == ["broker"] else []
        server = running_server(*arguments, *port, directory=self._directory, broker=self._broker)
        self._servers.enter_context(server)


def write_files(directory: Path) -> None:
    """Write the files that the README names."""
    for block in BLOCKS:
        if block.file_name is not None:
            (directory / block.file_name).write_text(block.text)


@contextmanager
def running_server(*arguments: str, directory: Path, broker: str) -> Iterator[dict[str, str]]:
    """Run `zbusrpc broker` or `zbusrpc serve`, and yield its ready line; at the end it must stop in good order."""
    with Processes(directory) as processes:
        options = ("--json", "--log-level", "warning")
        server = processes.zbusrpc(*arguments, *options, cwd=directory, **environment(broker))
        yield server.wait_ready()
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0, f"{arguments}: {server.errors}"


def environment(broker: str, *commands: Path) -> dict[str, str]:
    """Return the environment of a person who uses the package, with a broker that is not the default one."""
    path = os.pathsep.join([*map(str, commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZBUSRPC_")}
    return {**kept, "PATH": path, "ZBUSRPC_BROKER": broker, "NO_COLOR": "1"}
