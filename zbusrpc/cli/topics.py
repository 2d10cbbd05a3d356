"""`zbusrpc topics` and `declare`: which topics there are, and how they are kept."""

from typing import Any, cast

from zbusrpc.cli.shell import ask, print_json, print_text
from zbusrpc.cli.tables import print_table, with_brokers
from zbusrpc.cli.units import FOR_EVER, duration_text, parse_bytes, parse_seconds, size_text
from zbusrpc.config import Settings
from zbusrpc.mq.commands import command
from zbusrpc.mq.options import TopicOptions, to_wire


def run_topics(match: str, settings: Settings, *, as_json: bool) -> None:
    """List the topics whose names contain `match`."""
    found = ask(command("topics", settings.broker, settings.timeout, match=match), as_json=as_json)
    if as_json:
        print_json({"topics": found})
        return
    if not found:
        print_text(f"no topic has {match!r} in its name\n" if match else "there are no topics\n")
        return
    columns = ("TOPIC", "DURABILITY", ">MESSAGES", ">SIZE", ">GROUPS", ">CONSUMERS", "KEPT")
    print_table(*with_brokers(columns, [_row(topic) for topic in found], found))
    for topic in found:
        if topic.get("unreadable_because"):
            print_text(f"{topic['topic']} cannot be read: {topic['unreadable_because']}\n")
        if topic["closed_because"]:
            print_text(f"{topic['topic']} takes no messages: {topic['closed_because']}\n")
        if topic.get("held_back_by"):
            print_text(f"{topic['topic']} keeps what it would remove for group {topic['held_back_by']}\n")


def _row(topic: dict[str, Any]) -> tuple[str, ...]:
    if topic.get("unreadable_because"):
        return (topic["topic"], "unreadable", "", "", "", "", "")
    return (
        topic["topic"],
        "closed" if topic["closed_because"] else topic["durability"],
        f"{topic['messages']:,}",
        size_text(topic["bytes"]),
        str(topic["group_count"]),
        str(topic["consumers"]),
        _kept(topic["options"]),
    )


def _kept(options: dict[str, Any]) -> str:
    """Say in a few words how long messages stay."""
    if options["rpc"]:
        return "calls"
    kept = [] if options["keep_s"] is None else [duration_text(options["keep_s"])]
    kept += [size_text(options["keep_bytes"])] if options["keep_bytes"] else []
    kept += [] if options["keep_consumed"] else ["until consumed"]
    kept = kept or ["for ever"]
    return ", ".join([*kept, "last of each key"] if options["compact"] else kept)


def topic_options(
    *,
    keep: str | None,
    keep_bytes: str | None,
    segment_bytes: str | None,
    duplicate_window: str | None,
    ttl: str | None,
    **given: Any,
) -> TopicOptions:
    """Return the options that were given, from their text.

    Args:
        given: Those that need no reading.

    Raises:
        ConfigError: one cannot be used.
    """
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    seconds = {"keep": keep, "ttl": ttl, "duplicate_window": duplicate_window}
    sizes = {"keep_bytes": keep_bytes, "segment_bytes": segment_bytes}
    for parse, texts in ((parse_seconds, seconds), (parse_bytes, sizes)):
        for name, text in texts.items():
            if text is not None:
                is_endless = text.casefold() in FOR_EVER
                options[name] = None if is_endless else parse(f"--{name.replace('_', '-')}", text)
    return cast("TopicOptions", options)


def run_declare(topic: str, options: TopicOptions, settings: Settings, *, update: bool, as_json: bool) -> None:
    """Make a topic, or see that it is as it should be."""
    fields = to_wire(options, TopicOptions) | {"update": update}
    asked = command("declare", settings.broker, settings.timeout, options=fields, topic=topic)
    found = ask(asked, as_json=as_json)
    if as_json:
        print_json(found)
        return
    what = "made" if found["created"] else "updated" if update else "is there"
    kept = f", kept {_kept(found['options'])}" if found["options"] else ""  # who may not query is told none
    print_text(f"topic {topic} {what}: {found['durability']}{kept}\n")
