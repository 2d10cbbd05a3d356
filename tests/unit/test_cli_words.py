"""What people write and read on the command line: times, sizes, places, bodies."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.main import get_command

from zbusrpc.cli.app import app
from zbusrpc.cli.printable import printable
from zbusrpc.cli.show import body_text, describe
from zbusrpc.cli.starts import parse_start
from zbusrpc.cli.units import count_text, duration_text, parse_bytes, parse_seconds, size_text, time_text
from zbusrpc.errors import ConfigError
from zbusrpc.mq import AtMessage, LikeGroup


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2 W", 1_209_600),
    ],
)
def test_time_has_a_unit(text: str, seconds: float) -> None:
    """A number is of seconds; units are ms, s, m, h, d and w."""
    assert parse_seconds("--keep", text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("17B", 17), ("1K", 1024), ("1.5KiB", 1536), ("500MB", 500_000_000), ("10gib", 10 * 1024**3)],
)
def test_size_has_a_unit(text: str, size: int) -> None:
    """A number is of bytes; KB is 1000 of them, KiB and K are 1024."""
    assert parse_bytes("--keep-bytes", text) == size


@pytest.mark.parametrize("text", ["", "-1", "soon", "1x", "1e3", "1 2", "h"])
def test_neither_is_anything_else(text: str) -> None:
    """What is no number with a unit is refused; the line names option and value."""
    for parse in (parse_seconds, parse_bytes):
        with pytest.raises(ConfigError, match=f"^--it = '{text}': write a "):
            parse("--it", text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1.0 KiB"),
        (150_000, "146 KiB"),
        (12_900_000, "12.3 MiB"),
        (2**50, "1,024.0 TiB"),
    ],
)
def test_sizes_are_short(size: int, text: str) -> None:
    """Three digits or so, and a unit."""
    assert size_text(size) == text


def test_counts_and_durations_are_for_people() -> None:
    """Thousands are parted, one thing is not called things, and a time has the largest unit without a rest."""
    assert [count_text(number, "message") for number in (0, 1, 1234)] == ["0 messages", "1 message", "1,234 messages"]
    times = [None, 604_800, 129_600, 43_200, 5400, 90, 0.5]
    assert [duration_text(seconds) for seconds in times] == ["for ever", "7d", "36h", "12h", "90m", "90s", "0.5s"]


def test_moments_of_today_have_no_date() -> None:
    """Another day's moment has its date; both are local."""
    now = datetime(2026, 3, 4, 12, 30, 15).astimezone()
    yesterday = now - timedelta(days=1)

    shown = [time_text(round(moment.timestamp() * 1000), now) for moment in (now, yesterday)]

    assert shown == ["12:30:15", "2026-03-03 12:30:15"]


def test_places_are_read() -> None:
    """A place is a word, or a kind with its value; a time without a zone is local."""
    assert [parse_start("--start", text) for text in ("oldest", "newest", "offset:17", "id:a:b", "group:g")] == [
        "oldest",
        "newest",
        17,
        AtMessage("a:b"),
        LikeGroup("g"),
    ]
    assert parse_start("--start", "time:2026-01-31T12:30:00Z") == datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
    assert parse_start("--start", "time:2026-01-31") == datetime(2026, 1, 31).astimezone()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "17",
        "oldst",
        "offset:",
        "offset:-1",
        "offset:1.5",
        "offset:\u0663",
        "time:noon",
        "time:0001-01-01",
        "ofset:1",
    ],
)
def test_wrong_place_is_refused(text: str) -> None:
    """The line names the option and what was written."""
    with pytest.raises(ConfigError, match=f"^--start = '{text}': ") as caught:
        parse_start("--start", text)

    assert ("did you mean offset?" in str(caught.value)) == (text == "ofset:1")


def test_text_stays_on_its_line() -> None:
    """What a terminal would obey, or hide, is shown as an escape; letters and pictures of all kinds are not."""
    assert printable("a\x1b[2Jb\nc\td\x9b\u202e\u2028") == r"a\x1b[2Jb\nc\td\x9b\u202e\u2028"
    assert (
        printable("Gr\u00fc\u00dfe \u3053\u3093 \U0001f468\u200d\U0001f469")
        == "Gr\u00fc\u00dfe \u3053\u3093 \U0001f468\u200d\U0001f469"
    )


def test_bodies_are_shown() -> None:
    """Text is shown as it is, and anything else in hexadecimal; a part says how long the whole is."""
    fields = {"offset": 0, "timestamp_ms": 0, "id": "", "tag": "", "key": "", "headers": {}, "attempt": 1}
    text = describe(**fields, body=b"tea")
    binary = describe(**fields, body=b"\xff\x00")
    long = describe(**fields, body=b"\xff" * 2000)

    assert (body_text(text), body_text(binary)) == ("tea", "ff 00")
    assert body_text(long) == f"{' '.join(['ff'] * 24)}... (2.0 KiB)"
    assert body_text({**text, "size": 70_000}) == "tea... (68.4 KiB)"


def _help_pages(command: Any, path: tuple[str, ...] = ("zbusrpc",), parent: Any = None) -> Iterator[tuple[str, str]]:
    """Yield the help page of a command and of all below it, as on a terminal of 80 columns."""
    context = command.context_class(command, info_name=path[-1], parent=parent, terminal_width=80)
    yield " ".join(path), command.get_help(context)
    for name, below in getattr(command, "commands", {}).items():
        yield from _help_pages(below, (*path, name), context)


def test_no_summary_of_a_help_page_is_cut() -> None:
    """On 80 columns each line of each page of --help is whole."""
    pages = list(_help_pages(get_command(app)))

    cut = [(path, line) for path, page in pages for line in page.splitlines()[1:] if line.endswith(("...", "\u2026"))]
    assert len(pages) > 20
    assert not cut
    assert max(len(line) for _, page in pages for line in page.splitlines()) <= 80
