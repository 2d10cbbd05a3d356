"""Tables for people: as wide as the terminal, or as wide as they are where there is none, and there without colours."""

import io
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from zbusrpc.cli.printable import printable
from zbusrpc.cli.shell import print_text

PIPE_WIDTH: Final = 1000
"""Lines of a pipe are not broken: programs like `grep` and `awk` read them."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their headers; what others wrote stands there as escapes where a terminal would obey it.

    Args:
        columns: A header each; one that begins with ">" is of numbers.
    """
    is_seen = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if is_number else "left",
            no_wrap=is_number or not is_seen,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(printable, row))
    drawn = io.StringIO()  # rich would flush standard output, and exit in its own way where nobody reads it
    width = shutil.get_terminal_size().columns if is_seen else PIPE_WIDTH
    Console(file=drawn, force_terminal=is_seen, width=width, highlight=False, markup=False, emoji=False).print(table)
    print_text("".join(f"{line.rstrip()}\n" for line in drawn.getvalue().splitlines()), is_drawn=True)


def with_brokers(
    columns: Sequence[str], rows: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return columns and rows with the broker of each row as the last one, where several brokers were asked."""
    if not any("broker" in one for one in found):
        return columns, rows
    return (*columns, "BROKER"), [(*row, one["broker"]) for row, one in zip(rows, found, strict=True)]
