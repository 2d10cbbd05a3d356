"""Options of the commands about stored messages: pub, sub, peek, topics and their groups, dead letters."""

from typing import Annotated

import typer

from zbusrpc.cli.client_options import client_options
from zbusrpc.cli.options import (
    START,
    BrokerOption,
    FilterOption,
    GroupArgument,
    JsonLinesOption,
    JsonOption,
    MaybeGroupArgument,
    TopicArgument,
    YesOption,
    settings_of,
)
from zbusrpc.config import Settings

messages = typer.Typer()
dlq = typer.Typer(help="Messages that could not be handled: look, try again.", no_args_is_help=True)
StartOption = Annotated[str | None, typer.Option(help=START)]
OffsetsArgument = Annotated[list[int] | None, typer.Argument(metavar="OFFSET", min=0)]


def _settings(broker: str | None, log_level: str = "warning") -> Settings:
    return settings_of(broker=broker, log_level=log_level)


# -- messages ------------------------------------------------------------------------------------------------


@messages.command(short_help="Store messages: arguments, or lines of standard input.")
@client_options
def pub(
    topic: TopicArgument,
    bodies: Annotated[list[str] | None, typer.Argument(metavar="BODY", help="None or -: lines of stdin.")] = None,
    tag: Annotated[str | None, typer.Option(help="What consumers filter by, such as eu.new")] = None,
    key: Annotated[str | None, typer.Option(help="Messages of a key are handled in order.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="The same id again is not stored twice.")] = None,
    header: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Travels along; repeatable.")] = None,
    delay: Annotated[str | None, typer.Option(metavar="TIME", help="Not delivered before, such as 90s or 2h")] = None,
    ttl: Annotated[str | None, typer.Option(metavar="TIME", help="Not delivered after, such as 90s or 2h")] = None,
    file: Annotated[str | None, typer.Option(metavar="FILE", help="One message: all of this file.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Store each so often.")] = 1,
    declare: Annotated[bool, typer.Option("--declare/--no-declare", help="Make the topic if there is none.")] = True,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Store messages: zbusrpc pub orders tea coffee, or one a line from standard input."""
    from zbusrpc.cli.pub import message_options, run_pub

    run_pub(
        topic,
        bodies or [],
        _settings(broker, "error"),  # what goes wrong is told in one line
        message_options(tag=tag, key=key, id_=id_, header=header or [], delay=delay, ttl=ttl),
        file=file,
        count=count,
        declare=declare,
        as_json=json,
    )


@messages.command()
@client_options
def sub(
    topic: TopicArgument,
    group: Annotated[str | None, typer.Option(help="Share messages with the consumers of a group.")] = None,
    filter_: FilterOption = "",
    start: Annotated[
        str | None, typer.Option(help=f"Where a new group begins: {START} [default: newest, of a --group oldest]")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many messages.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="End when nothing came for so many seconds.")] = None,
    no_ack: Annotated[bool, typer.Option("--no-ack", help="Look only: give all back at the end.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the bodies only, as they are.")] = False,
    broker: BrokerOption = None,
    json: JsonLinesOption = False,
) -> None:
    """Print messages as they come, until Ctrl-C. Without --group, others miss nothing by it."""
    from zbusrpc.cli.starts import parse_start
    from zbusrpc.cli.sub import Wanted, run_sub

    place = None if start is None else parse_start("--start", start)
    wanted = Wanted(topic, group, filter_, place, count, timeout, is_acknowledging=not no_ack)
    run_sub(wanted, _settings(broker), as_json=json, as_raw=raw)


@messages.command()
@client_options
def peek(
    topic: TopicArgument,
    start: StartOption = "oldest",
    count: Annotated[int, typer.Option(min=1, help="So many messages.")] = 10,
    filter_: FilterOption = "",
    broker: BrokerOption = None,
    json: JsonLinesOption = False,
) -> None:
    """Print messages that a topic holds, without consuming them."""
    from zbusrpc.cli.peek import run_peek

    run_peek(topic, _settings(broker), start=start or "oldest", count=count, filter=filter_, as_json=json)


# -- topics and groups ---------------------------------------------------------------------------------------


@messages.command()
@client_options
def topics(
    match: Annotated[str, typer.Argument(metavar="MATCH", help="Part of the name.")] = "",
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """List topics."""
    from zbusrpc.cli.topics import run_topics

    run_topics(match, _settings(broker), as_json=json)


@messages.command()
@client_options
def declare(
    topic: TopicArgument,
    durability: Annotated[
        str | None, typer.Option(help="disk, os or memory: what a stored message survives [default: the broker's]")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Keep messages so long: 12h, 7d, forever [default: 7d; with --compact forever]"
        ),
    ] = None,
    keep_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Keep so much: 500MB, 10GiB, forever [default: forever]")
    ] = None,
    keep_consumed: Annotated[
        bool | None, typer.Option(help="Keep what all groups have passed [default: keep-consumed]")
    ] = None,
    keep_unconsumed: Annotated[
        bool | None, typer.Option(help="Keep what a group still needs, whatever its age [default: keep-unconsumed]")
    ] = None,
    compact: Annotated[
        bool | None, typer.Option(help="Of messages with one key keep the last [default: no-compact]")
    ] = None,
    segment_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Messages are removed by segments [default: 64MiB]")
    ] = None,
    duplicate_window: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remember ids so long [default: 120s]")
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="TIME", help="Of messages that name none [default: forever]")
    ] = None,
    dead_letter_topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help='Where failed messages go; "": nowhere [default: TOPIC.dlq]')
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Change the options of a topic that exists.")] = False,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Make a topic, or see that it is as it should be."""
    from zbusrpc.cli.topics import run_declare, topic_options

    options = topic_options(
        durability=durability,
        keep=keep,
        keep_bytes=keep_bytes,
        keep_consumed=keep_consumed,
        keep_unconsumed=keep_unconsumed,
        compact=compact,
        segment_bytes=segment_bytes,
        duplicate_window=duplicate_window,
        ttl=ttl,
        dead_letter_topic=dead_letter_topic,
    )
    run_declare(topic, options, _settings(broker), update=update, as_json=json)


@messages.command(short_help="List the consume groups of a topic.")
@client_options
def groups(topic: TopicArgument, broker: BrokerOption = None, json: JsonOption = False) -> None:
    """List the consume groups of a topic: where they are and what they have to do."""
    from zbusrpc.cli.groups import run_groups

    run_groups(topic, _settings(broker), as_json=json)


@messages.command("declare-group")
@client_options
def declare_group(
    topic: TopicArgument,
    group: GroupArgument,
    filter_: Annotated[str | None, typer.Option("--filter", help="Which tags, such as eu.* [default: all]")] = None,
    lease: Annotated[
        str | None, typer.Option(metavar="TIME", help="A consumer may have a message so long [default: 30s]")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(min=1, help="Deliveries before the dead letters [default: 10]")
    ] = None,
    backoff: Annotated[
        str | None, typer.Option(metavar="TIME", help="Wait before the second delivery; doubles [default: 1s]")
    ] = None,
    backoff_max: Annotated[str | None, typer.Option(metavar="TIME", help="Longest such wait [default: 5m]")] = None,
    exclusive: Annotated[bool | None, typer.Option(help="One consumer at a time [default: no-exclusive]")] = None,
    ack: Annotated[bool | None, typer.Option(help="Messages are acknowledged [default: ack]")] = None,
    start: Annotated[str | None, typer.Option(help=f"Where a new group begins: {START} [default: oldest]")] = None,
    update: Annotated[bool, typer.Option("--update", help="Change the options of a group that exists.")] = False,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Make a consume group, or see that it is as it should be."""
    from zbusrpc.cli.groups import group_options, run_declare_group

    options = group_options(
        filter=filter_,
        lease=lease,
        max_attempts=max_attempts,
        backoff=backoff,
        backoff_max=backoff_max,
        exclusive=exclusive,
        ack=ack,
    )
    run_declare_group(topic, group, options, start, _settings(broker), update=update, as_json=json)


@messages.command(short_help="Move a group to another place of its topic.")
@client_options
def seek(
    topic: TopicArgument,
    group: GroupArgument,
    start: Annotated[str, typer.Argument(metavar="START", help=START)],
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Move a group: it goes on from there, and what it had in hand is forgotten."""
    from zbusrpc.cli.groups import run_seek

    run_seek(topic, group, start, _settings(broker), as_json=json)


@messages.command()
@client_options
def pause(topic: TopicArgument, group: GroupArgument, broker: BrokerOption = None, json: JsonOption = False) -> None:
    """Let a group rest: nothing is delivered to it."""
    from zbusrpc.cli.groups import run_pause

    run_pause(topic, group, _settings(broker), paused=True, as_json=json)


@messages.command()
@client_options
def resume(topic: TopicArgument, group: GroupArgument, broker: BrokerOption = None, json: JsonOption = False) -> None:
    """Let a group go on."""
    from zbusrpc.cli.groups import run_pause

    run_pause(topic, group, _settings(broker), paused=False, as_json=json)


@messages.command(short_help="Remove a topic's messages, or let a group pass them.")
@client_options
def empty(
    topic: TopicArgument,
    group: MaybeGroupArgument = None,
    yes: YesOption = False,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Remove all messages of a topic, or let one group pass them all."""
    from zbusrpc.cli.removal import run_empty

    run_empty(topic, group, _settings(broker), is_sure=yes, as_json=json)


@messages.command()
@client_options
def remove(
    topic: TopicArgument,
    group: MaybeGroupArgument = None,
    yes: YesOption = False,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a topic with its messages and groups, or one group."""
    from zbusrpc.cli.removal import run_remove

    run_remove(topic, group, _settings(broker), is_sure=yes, as_json=json)


# -- dead letters --------------------------------------------------------------------------------------------


@dlq.command("ls")
@client_options
def dlq_ls(
    topic: TopicArgument,
    start: StartOption = "oldest",
    count: Annotated[int, typer.Option(min=1, help="So many letters.")] = 20,
    broker: BrokerOption = None,
    json: JsonLinesOption = False,
) -> None:
    """List the dead letters of a topic that nobody has dealt with."""
    from zbusrpc.cli.letters import run_ls

    run_ls(topic, _settings(broker), start=start or "oldest", count=count, as_json=json)


@dlq.command("show", short_help="Print all of one dead letter.")
@client_options
def dlq_show(
    topic: TopicArgument,
    offset: Annotated[int, typer.Argument(metavar="OFFSET", min=0, help="As `ls` shows it.")],
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Print all of one dead letter: where it failed and why, its headers and body."""
    from zbusrpc.cli.letters import run_show

    run_show(topic, offset, _settings(broker), as_json=json)


@dlq.command("retry", short_help="Give dead letters back to their groups.")
@client_options
def dlq_retry(
    topic: TopicArgument,
    offsets: OffsetsArgument = None,
    as_new: Annotated[
        bool, typer.Option("--as-new", help="Store those anew, for all groups, whose original is gone.")
    ] = False,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Give dead letters back to the groups in which they failed: those named, or all."""
    from zbusrpc.cli.letters import run_retry

    run_retry(topic, offsets, _settings(broker), as_new=as_new, as_json=json)


@dlq.command("purge")
@client_options
def dlq_purge(
    topic: TopicArgument,
    offsets: OffsetsArgument = None,
    yes: YesOption = False,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Forget dead letters: those named, or all."""
    from zbusrpc.cli.letters import run_purge

    run_purge(topic, offsets, _settings(broker), is_sure=yes, as_json=json)
