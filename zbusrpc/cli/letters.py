"""`zbusrpc dlq`: dead letters, which are messages that no consumer could handle."""

from datetime import datetime
from typing import Any, Final

from zbusrpc.bounds import LETTERS, OFFSET
from zbusrpc.cli.peek import read_pages
from zbusrpc.cli.printable import printable
from zbusrpc.cli.progress import counting
from zbusrpc.cli.removal import confirm
from zbusrpc.cli.shell import ask, fail, print_json, print_text
from zbusrpc.cli.show import body_text, json_line
from zbusrpc.cli.starts import parse_start
from zbusrpc.cli.tables import print_table
from zbusrpc.cli.units import count_text, time_text
from zbusrpc.config import Settings
from zbusrpc.mq import admin
from zbusrpc.mq.commands import command
from zbusrpc.mq.infos import RetryResult
from zbusrpc.mq.options import start_to_wire

PREFIX: Final = "dead-"
"""Of the headers that say where a letter comes from."""
ROUND: Final = 1000
"""Letters that are given back at a time: so often somebody who watches sees how far it is."""

Letter = dict[str, Any]


def run_ls(topic: str, settings: Settings, *, start: str, count: int, as_json: bool) -> None:
    """List dead letters."""
    letters = _read(topic, settings, start_to_wire(parse_start("--start", start)), count, as_json=as_json)
    if as_json:
        print_text(b"".join(map(json_line, letters)).decode())
    elif letters:
        print_table(("OFFSET", "TIME", "GROUP", ">ATTEMPTS", "REASON"), [_row(letter) for letter in letters])
    else:
        print_text(f"topic {topic} has no dead letters\n")


def run_show(topic: str, offset: int, settings: Settings, *, as_json: bool) -> None:
    """Print all of one dead letter."""
    letters = _read(topic, settings, {"offset": offset}, 1, as_json=as_json)
    if not letters or letters[0]["offset"] != offset:
        fail(f"topic {topic} has no dead letter at offset {offset}; list them with: zbusrpc dlq ls {topic}")
    if as_json:
        print_text(b"".join(map(json_line, letters)).decode())
    else:
        print_text("".join(f"{name:<10}{text}\n" for name, text in _facts(letters[0])))
        print_text(f"\n{body_text(letters[0])}\n")


def run_retry(topic: str, offsets: list[int] | None, settings: Settings, *, as_new: bool, as_json: bool) -> None:
    """Give dead letters back to their groups; exits with 1 where not all could be."""
    result = ask(retry(topic, offsets, settings, as_new=as_new), as_json=as_json)
    found = result.retried + len(result.left)
    if offsets and not found:
        _check_all(topic, offsets, found)
    if as_json:
        print_json({"topic": topic, **result.model_dump()})
    else:
        for left in result.left:
            print_text(f"offset {left.offset} stays: {left.reason}\n")
        print_text(f"{count_text(result.retried, 'dead letter')} of topic {topic} given back\n")
    _check_all(topic, offsets, found)
    if result.left:
        raise SystemExit(1)


async def retry(topic: str, offsets: list[int] | None, settings: Settings, *, as_new: bool) -> RetryResult:
    """Give back the letters that there are now, some at a time: those that fail again meanwhile are not tried again."""
    if offsets:
        return await admin.retry_dead(
            topic, offsets=offsets, as_new=as_new, broker=settings.broker, timeout=settings.timeout
        )
    total, start, end = RetryResult(retried=0, left=[]), 0, None
    async with counting("Giving back", lambda: total.retried):
        while end is None or start < end:
            some = await command(
                "retry_dead", settings.broker, settings.timeout, topic=topic, as_new=as_new, start=start, count=ROUND
            )
            told = RetryResult.model_validate(some)
            total = RetryResult(retried=total.retried + told.retried, left=total.left + told.left)
            end = some["end_offset"] if end is None else end
            if some["next_offset"] <= start:
                break
            start = some["next_offset"]
    return total


def run_purge(topic: str, offsets: list[int] | None, settings: Settings, *, is_sure: bool, as_json: bool) -> None:
    """Forget dead letters."""
    which = f"at {', '.join(map(str, offsets))}" if offsets else "that there are"
    confirm(f"forget the dead letters of topic {topic} {which}", is_sure=is_sure)
    purged = ask(_purge(topic, offsets, settings), as_json=as_json)
    if offsets and not purged:
        _check_all(topic, offsets, purged)
    if as_json:
        print_json({"topic": topic, "purged": purged})
    else:
        print_text(f"{count_text(purged, 'dead letter')} of topic {topic} forgotten\n")
    _check_all(topic, offsets, purged)


async def _purge(topic: str, offsets: list[int] | None, settings: Settings) -> int:
    """Forget as many as there are, and return how many."""
    total = 0
    while True:
        purged = await admin.purge_dead(
            topic, offsets=offsets or None, broker=settings.broker, timeout=settings.timeout
        )
        total += purged
        if purged < LETTERS.most:
            return total


def _check_all(topic: str, offsets: list[int] | None, found: int) -> None:
    """Exit with an error where some of the letters that were named do not exist."""
    missing = len(set(offsets or [])) - found
    if missing > 0:
        fail(f"topic {topic} has no dead letter at {missing} of these offsets; list them with: zbusrpc dlq ls {topic}")


# -- reading -------------------------------------------------------------------------------------------------


def _read(topic: str, settings: Settings, start: Any, count: int, *, as_json: bool) -> list[Letter]:
    """Return up to `count` letters, the first of them not before `start`."""

    async def read() -> list[Letter]:
        pages = read_pages("dlq", settings, count, topic=topic, start=start)
        return [letter async for page in pages for letter in page["messages"]]

    return ask(read(), as_json=as_json)


def _row(letter: Letter) -> tuple[str, ...]:
    return (
        str(letter["offset"]),
        time_text(letter["timestamp_ms"], datetime.now().astimezone()),
        _said(letter, "group"),
        _said(letter, "attempts"),
        _said(letter, "reason"),
    )


def _facts(letter: Letter) -> list[tuple[str, str]]:
    """Return what there is to say of a letter besides its body."""
    today = datetime.now().astimezone()
    stored_ms = _said(letter, "stored-ms")
    stored = f", stored at {time_text(_number(stored_ms), today)}" if stored_ms else ""
    attempts = count_text(_number(_said(letter, "attempts")), "attempt")
    own = {name: value for name, value in letter["headers"].items() if not name.startswith(PREFIX)}
    facts = [
        ("message", f"offset {_said(letter, 'offset')} of topic {_said(letter, 'topic')}{stored}"),
        ("failed", f"in group {_said(letter, 'group')} after {attempts}"),
        ("at", time_text(letter["timestamp_ms"], today)),
        ("because", _said(letter, "reason")),
        *[(name, printable(letter[name])) for name in ("id", "tag", "key")],
        *[("header", printable(f"{name}={value}")) for name, value in own.items()],
    ]
    return [(name, text) for name, text in facts if text]


def _said(letter: Letter, name: str) -> str:
    return printable(letter["headers"].get(PREFIX + name, ""))


def _number(text: str) -> int:
    """Return a number of a letter's headers, which anybody may have written: 0 where it is none."""
    try:
        return OFFSET.whole(text)
    except ValueError:
        return 0
