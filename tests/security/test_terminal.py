"""Terminals: what others wrote does not make one do anything; files and pipes get it as it is."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.support.inprocess import running_broker, serving
from tests.support.processes import run_to_end
from tests.support.terminal import run_on_terminal
from zbusrpc import Code, Producer, RpcError, service
from zbusrpc.cli.printable import printable, printable_lines

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31mred\u202egnp\r\x7f"
"""Sets the title, clears the screen, colours, turns letters round, goes back to the start of the line."""
COMMAND = [sys.executable, "-m", "zbusrpc"]


@service(name="Evil")
class Villain:
    """A service that writes what a terminal obeys."""

    async def text(self) -> str:
        return f"two\nlines {EVIL}"

    async def values(self) -> list[str]:
        return [EVIL, "é", "คำสั่ง"]

    async def fails(self) -> str:
        raise RpcError(Code.NOT_FOUND, f"not found {EVIL}")


def obeyed(shown: str) -> list[str]:
    """Return what a terminal would have obeyed of what others wrote: colours of ours are not."""
    return [mark for mark in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e", "\x7f", "\x07") if mark in shown]


@pytest.mark.parametrize("name", ["text", "values", "fails"])
@pytest.mark.anyio
async def test_answers_of_services_are_obeyed_by_no_terminal(name: str) -> None:
    """Text, JSON and errors stand there as escapes; into a pipe text goes as it is."""
    async with running_broker() as server, serving(server, Villain):
        command = [*COMMAND, "call", f"Evil.{name}", "--broker", server.broker.name]
        shown = await asyncio.to_thread(run_on_terminal, command)
        piped = await asyncio.to_thread(run_to_end, command)

    assert not obeyed(shown.output)
    assert "owned" in shown.output
    assert "31mred" in shown.output
    if name == "text":
        assert piped.output == f"two\nlines {EVIL}\n"
        assert "two\r\nlines " in shown.output
    if name == "values":
        assert "คำสั่ง" in shown.output


@pytest.mark.anyio
async def test_messages_are_obeyed_by_no_terminal(tmp_path: Path) -> None:
    """Bodies, tags, keys, headers and reasons, in lines for people and in lines of JSON."""
    async with running_broker(data_dir=str(tmp_path)) as server:
        async with Producer("orders", broker=server.broker.name) as producer:
            await producer.send(EVIL.encode(), tag=EVIL, key=EVIL)
        command = [*COMMAND, "peek", "orders", "--broker", server.broker.name]
        shown = await asyncio.to_thread(run_on_terminal, command)
        as_json = await asyncio.to_thread(run_on_terminal, [*command, "--json"])

    assert not obeyed(shown.output)
    assert not obeyed(as_json.output)
    assert "owned" in shown.output
    assert "\\u202e" in as_json.output


@pytest.mark.parametrize("letter", [chr(number) for number in [*range(32), *range(127, 160), 0x202E, 0x2028, 0xFEFF]])
def test_what_is_obeyed_or_not_seen_is_an_escape(letter: str) -> None:
    """C0, C1, DEL, marks that turn text round, and ends of lines that are none."""
    assert printable(f"a{letter}b").isprintable()
    assert printable_lines(f"a{letter}b").isprintable() or letter in "\n\t"


@pytest.mark.parametrize("text", ["orders", "คำสั่งซื้อ", "हिन्दी", "👩\u200d👩\u200d👧", "two\nlines\tand a tab"])
def test_text_stays_text(text: str) -> None:
    """Letters of every script, pictures, and lines."""
    assert printable_lines(text) == text
