"""`zbusrpc empty` and `remove`: what cannot be taken back, and so is asked about."""

import sys
from typing import Final

from zbusrpc.cli.shell import USAGE, ask, fail, print_json, print_text
from zbusrpc.cli.units import count_text
from zbusrpc.config import Settings
from zbusrpc.mq import admin
from zbusrpc.mq.commands import command

TIMEOUT_S: Final = 300.0
"""The answer comes when the files are gone, which may be many."""


def run_empty(topic: str, group: str | None, settings: Settings, *, is_sure: bool, as_json: bool) -> None:
    """Remove all messages of a topic, or let a group pass them."""
    name, content = _name(topic, group), _content(topic, group, settings, as_json=as_json)
    if content:
        confirm(f"empty {name}, which has {content}", is_sure=is_sure)
    emptied = admin.empty(topic, group=group, broker=settings.broker, timeout=max(settings.timeout, TIMEOUT_S))
    removed = ask(emptied, as_json=as_json)
    if as_json:
        print_json({"topic": topic, "group": group, "removed": removed})
    elif group is None:
        print_text(f"{count_text(removed, 'message')} removed from {name}\n")
    else:
        print_text(f"{name} has passed {count_text(removed, 'message')}\n")


def run_remove(topic: str, group: str | None, settings: Settings, *, is_sure: bool, as_json: bool) -> None:
    """Remove a topic, or a group."""
    name, content = _name(topic, group), _content(topic, group, settings, as_json=as_json)
    if content:
        confirm(f"remove {name}, which has {content}", is_sure=is_sure)
    ask(
        admin.remove(topic, group=group, broker=settings.broker, timeout=max(settings.timeout, TIMEOUT_S)),
        as_json=as_json,
    )
    if as_json:
        print_json({"topic": topic, "group": group})
    else:
        print_text(f"{name} removed; it had {content}\n")


def confirm(what: str, *, is_sure: bool) -> None:
    """Ask a person whether it is to be done, and exit where it is not; where nobody can be asked, --yes is needed."""
    if is_sure:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        fail(f"to {what}, say --yes: nobody can be asked here", USAGE)
    sys.stderr.write(f"{what[0].upper()}{what[1:]}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().casefold() not in {"y", "yes"}:
        fail("nothing was done")


def _name(topic: str, group: str | None) -> str:
    return f"topic {topic}" if group is None else f"group {group} of topic {topic}"


def _content(topic: str, group: str | None, settings: Settings, *, as_json: bool) -> str:
    """Return what there is to lose; nothing for a group that there is not, which the broker will say."""
    found = ask(command("topic", settings.broker, settings.timeout, topic=topic), as_json=as_json)
    if group is None:
        return f"{count_text(found['messages'], 'message')} and {count_text(len(found['groups']), 'group')}"
    lags = [one["lag"] for one in found["groups"] if one["group"] == group]
    return f"{count_text(lags[0], 'message')} to go" if lags else ""
