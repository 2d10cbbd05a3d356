"""`zbusrpc groups`, `declare-group`, `seek`, `pause` and `resume`: where groups are, and what they have to do."""

from typing import Any, Final, cast

from zbusrpc.cli.shell import ask, print_json, print_text
from zbusrpc.cli.starts import parse_start
from zbusrpc.cli.tables import print_table, with_brokers
from zbusrpc.cli.units import count_text, duration_text, parse_seconds
from zbusrpc.config import Settings
from zbusrpc.mq import admin
from zbusrpc.mq.commands import command
from zbusrpc.mq.options import GroupOptions, start_to_wire, to_wire

PENDING: Final = ("in_flight", "waiting", "delayed", "held")
"""Where a message may be that was read for a group, in the order of the columns."""


def run_groups(topic: str, settings: Settings, *, as_json: bool) -> None:
    """List the groups of a topic."""
    found = ask(command("topic", settings.broker, settings.timeout, topic=topic), as_json=as_json)
    if as_json:
        print_json(found)
        return
    if not found["groups"]:
        print_text(f"topic {topic} has no groups\n")
        return
    columns = (
        "GROUP",
        ">POSITION",
        ">LAG",
        ">IN\nFLIGHT",
        ">WAITING",
        ">DELAYED",
        ">HELD",
        ">DEAD",
        ">CON-\nSUMERS",
        "FILTER",
    )
    print_table(
        *with_brokers(columns, [_row(group, found.get("held_back_by")) for group in found["groups"]], found["groups"])
    )
    if found.get("journal_fails_because"):
        text = "what groups do is not stored, and a restart of the broker brings messages again"
        print_text(f"{text}: {found['journal_fails_because']}\n")


def _row(group: dict[str, Any], holding: str | None) -> tuple[str, ...]:
    return (
        group["group"],
        str(group["next_offset"]),
        f"{group['lag']:,}",
        *[f"{group[name]:,}" for name in PENDING],
        f"{group['dead'] + group['dead_letters']:,}",
        str(len(group["consumers"])),
        " ".join(_notes(group["options"], is_holding=group["group"] == holding)),
    )


def _notes(options: dict[str, Any], *, is_holding: bool) -> list[str]:
    notes = [options["filter"]] if options["filter"] else []
    notes += [word for word in ("paused", "exclusive") if options[word]]
    notes += [f"expires:{duration_text(options['expires_s'])}"] if options.get("expires_s") else []
    return notes + (["holds-messages-back"] if is_holding else [])


def group_options(*, lease: str | None, backoff: str | None, backoff_max: str | None, **given: Any) -> GroupOptions:
    """Return the options that were given, from their text.

    Args:
        given: Those that need no reading.

    Raises:
        ConfigError: one cannot be used.
    """
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, text in (("lease", lease), ("backoff", backoff), ("backoff_max", backoff_max)):
        if text is not None:
            options[name] = parse_seconds(f"--{name.replace('_', '-')}", text)
    return cast("GroupOptions", options)


def run_declare_group(
    topic: str, group: str, options: GroupOptions, start: str | None, settings: Settings, *, update: bool, as_json: bool
) -> None:
    """Make a group, or see that it is as it should be."""
    fields = to_wire(options, GroupOptions) | {"update": update}
    if start is not None:
        fields["start"] = start_to_wire(parse_start("--start", start))
    asked = command("declare_group", settings.broker, settings.timeout, options=fields, topic=topic, group=group)
    found = ask(asked, as_json=as_json)
    if as_json:
        print_json(found)
        return
    what = "made" if found["created"] else "updated" if update else "is there"
    kept = found["options"]
    lease = duration_text(kept["lease_ms"] / 1000)
    print_text(f"group {group} of topic {topic} {what}: a lease of {lease}, {kept['max_attempts']} attempts\n")


def run_seek(topic: str, group: str, start: str, settings: Settings, *, as_json: bool) -> None:
    """Move a group."""
    place = parse_start("START", start)
    moved = admin.seek(topic, group, place, broker=settings.broker, timeout=settings.timeout)
    result = ask(moved, as_json=as_json)
    if as_json:
        print_json({"topic": topic, "group": group, **result.model_dump()})
        return
    print_text(f"group {group} of topic {topic} goes on at offset {result.offset}\n")
    if result.passed:
        delayed = f"; delayed ones among them: {result.delayed:,}" if result.delayed else ""
        print_text(f"it will not get {count_text(result.passed, 'message')} that it was not done with{delayed}\n")


def run_pause(topic: str, group: str, settings: Settings, *, paused: bool, as_json: bool) -> None:
    """Let a group rest, or go on."""
    change = admin.pause if paused else admin.resume
    ask(change(topic, group, broker=settings.broker, timeout=settings.timeout), as_json=as_json)
    if as_json:
        print_json({"topic": topic, "group": group, "paused": paused})
    else:
        print_text(f"group {group} of topic {topic} {'rests' if paused else 'goes on'}\n")
