"""`zbusrpc top`: the essentials of brokers, live in a terminal."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zbusrpc.cli.printable import printable
from zbusrpc.cli.shell import fail, flush_output, print_json, print_text, run, stop_event
from zbusrpc.cli.tables import PIPE_WIDTH
from zbusrpc.cli.units import size_text
from zbusrpc.cli.watching import View, Watch
from zbusrpc.config import Settings
from zbusrpc.transport.address import parse_addresses

ROWS_MIN: Final = 3
ROWS_PIPE: Final = 20
"""Rows of each table where there is no terminal whose height would say it."""
LINES_BESIDES: Final = 9
"""Headings and empty lines."""
NOTHING: Final = "-"

Row = dict[str, Any]


def run_top(settings: Settings, *, interval_s: float, once: bool, as_json: bool) -> None:
    """Show the brokers until Ctrl-C, or once."""
    if run(_top(settings, interval_s, is_once=once or not (as_json or sys.stdout.isatty()), as_json=as_json)):
        return
    raise SystemExit(1)


async def _top(settings: Settings, interval_s: float, *, is_once: bool, as_json: bool) -> bool:
    """Show the brokers; return whether one of them was there at the end."""
    stop = stop_event()
    async with Watch(parse_addresses(settings.broker)) as watch:
        first = asyncio.create_task(watch.wait_first())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([first, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            if is_once:
                _show_once(watch.brokers(), as_json=as_json)
            elif as_json:
                await _print_on(watch, interval_s, stop)
            else:
                await _show_on(watch, interval_s, stop)
        first.cancel()
        stopped.cancel()
        return stop.is_set() or any(view.server for view in watch.views.values())


def _show_once(views: list[View], *, as_json: bool) -> None:
    if not any(view.server for view in views):
        fail("; ".join(f"broker {view.address}: {view.error}" for view in views))
    if as_json:
        print_json(_as_json(views))
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as drawn:
        console.print(_draw(views, ROWS_PIPE))
    print_text("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()), is_drawn=True)


async def _print_on(watch: Watch, interval_s: float, stop: asyncio.Event) -> None:
    """Print the brokers again and again, a line of JSON each time, until it is to stop."""
    while not stop.is_set():
        print_json(_as_json(watch.brokers()))
        flush_output()
        await _wait(stop, interval_s)


async def _show_on(watch: Watch, interval_s: float, stop: asyncio.Event) -> None:
    """Show the brokers on the whole terminal, until it is to stop."""
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            views = watch.brokers()
            rows = max(ROWS_MIN, (console.height - LINES_BESIDES - len(views)) // 3)
            live.update(_draw(views, rows), refresh=True)
            await _wait(stop, interval_s)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


# -- what is shown -------------------------------------------------------------------------------------------


def _as_json(views: list[View]) -> Row:
    shown: Row = {"servers": [_server_row(view) for view in views]}
    for name in ("topics", "groups", "services"):
        shown[name] = [{"broker": broker, **row} for broker, row in _rows(views, name)]
    return shown


def _server_row(view: View) -> Row:
    if view.server is not None:
        return {**view.server, "error": ""}
    return {"address": str(view.address), "state": "gone", "error": view.error}


def _rows(views: list[View], name: str) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a kind, each with the broker that it is of."""
    return ((view.server["address"], row) for view in views if view.server for row in view.rows[name].values())


def _draw(views: list[View], rows_max: int) -> RenderableType:
    parts: list[RenderableType] = [_servers(views)]
    has_brokers = len(views) > 1
    topics = sorted(_rows(views, "topics"), key=lambda one: (-_busy(one[1]), -one[1]["messages"], one[1]["topic"]))
    groups = sorted(_rows(views, "groups"), key=lambda one: (-one[1]["lag"], one[1]["topic"], one[1]["group"]))
    services = sorted(_rows(views, "services"), key=lambda one: (-(one[1]["rate"] or 0), one[1]["service"]))
    parts += [_table(_TOPICS, topics[:rows_max], _topic, has_brokers), _more(topics, rows_max)] if topics else []
    parts += [_table(_GROUPS, groups[:rows_max], _group, has_brokers), _more(groups, rows_max)] if groups else []
    parts += [_table(_SERVICES, services[:rows_max], _service, has_brokers), _more(services, rows_max)]
    return Group(*parts) if services else Group(*parts[:-2])


def _busy(row: Row) -> float:
    return (row["in_rate"] or 0.0) + (row["out_rate"] or 0.0)


def _more(rows: list[tuple[str, Row]], rows_max: int) -> Text:
    left = len(rows) - rows_max
    return Text(f"... and {left} more\n" if left > 0 else "", style="dim")


_SERVERS: Final = ("SERVER", "STATE", ">UP", ">LOAD", ">MEMORY", ">SESSIONS", ">IN/S", ">OUT/S", ">CALLS/S")
_TOPICS: Final = ("TOPIC", ">MESSAGES", ">SIZE", ">IN/S", ">OUT/S", ">CONSUMERS", ">DEAD LETTERS")
_GROUPS: Final = ("TOPIC", "GROUP", ">LAG", ">IN FLIGHT", ">OUT/S", ">CONSUMERS", ">DEAD LETTERS", "STATE")
_SERVICES: Final = ("SERVICE", ">INSTANCES", ">QUEUED", ">CALLS/S", ">ERRORS", ">P50", ">P99")


def _servers(views: list[View]) -> Table:
    table = _empty_table(_SERVERS)
    for view in views:
        row = view.server
        if row is None:
            table.add_row(str(view.address), Text(printable(view.error) or "connecting", style="red"))
            continue
        load = NOTHING if row["load"] is None else f"{row['load']:.0%}"
        memory = NOTHING if row["memory_bytes"] is None else size_text(row["memory_bytes"])
        rates = [_number(row[name]) for name in ("in_rate", "out_rate", "call_rate")]
        sessions = NOTHING if row["sessions"] is None else str(row["sessions"])
        table.add_row(
            printable(row["address"]), _state_of(row), _up_text(row["uptime_s"] or 0), load, memory, sessions, *rates
        )
    return table


def _state_of(row: Row) -> Text:
    return Text("groups not stored", style="red") if row.get("journal_fails_because") else Text(row["state"])


def _topic(row: Row) -> list[str]:
    if row.get("unreadable_because"):
        return [printable(row["topic"]), "unreadable", *[NOTHING] * 5]
    state = [f"{row['messages']:,}", size_text(row["bytes"]), _number(row["in_rate"]), _number(row["out_rate"])]
    return [printable(row["topic"]), *state, str(row["consumers"]), f"{row['dead_letters']:,}"]


def _group(row: Row) -> list[str]:
    names = [printable(row["topic"]), printable(row["group"])]
    counts = [f"{row['lag']:,}", f"{row['in_flight']:,}", _number(row["out_rate"]), str(len(row["consumers"]))]
    return [*names, *counts, f"{row['dead_letters']:,}", "paused" if row["paused"] else ""]


def _service(row: Row) -> list[str]:
    times = [NOTHING if row[name] is None else f"{row[name]:g} ms" for name in ("p50_ms", "p99_ms")]
    counts = [str(len(row["instances"])), f"{row['queued']:,}", _number(row["rate"]), f"{row['error_rate']:.1%}"]
    return [printable(row["service"]), *counts, *times]


def _table(columns: tuple[str, ...], rows: list[tuple[str, Row]], cells: Any, has_brokers: bool) -> Table:
    table = _empty_table((*columns, "BROKER") if has_brokers else columns)
    for broker, row in rows:
        table.add_row(*cells(row), *([printable(broker)] if has_brokers else []))
    return table


def _empty_table(columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if is_number else "left", no_wrap=True)
    return table


def _number(rate: float | None) -> str:
    return NOTHING if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:g}"


def _up_text(seconds: float) -> str:
    """Return how long something has run: 4d 3h, 3h 20m, 5m 2s."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    return f"{hour}h {minute}m" if hours else f"{minute}m {second}s"
