"""The `zbusrpc` command: options of every command, and one clear line for every mistake."""

from typing import Annotated

import typer

from zbusrpc.cli.bad_values import Commands
from zbusrpc.cli.client_options import client_options
from zbusrpc.cli.messages import dlq, messages
from zbusrpc.cli.options import (
    BrokerOption,
    DurabilityOption,
    JsonOption,
    LogJsonOption,
    LogLevelOption,
    ParentOption,
    parent_of,
    settings_of,
)
from zbusrpc.cli.shell import USAGE, fail, flush_output, open_standard_streams
from zbusrpc.cli.token import token
from zbusrpc.errors import ZbusError
from zbusrpc.version import __version__

app = typer.Typer(
    name="zbusrpc",
    cls=Commands,
    help="Typed Python services over a small message broker. Start with: zbusrpc serve mymod:Calc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line and exit: 0 for success, 1 for an error, 2 for wrong usage."""
    open_standard_streams()
    try:
        app()
    except ZbusError as error:
        fail(str(error))
    finally:
        flush_output()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zbusrpc {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


broker_app = typer.Typer(invoke_without_command=True)
app.add_typer(broker_app, name="broker")


@broker_app.callback()
def broker(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one [default: 15555]")] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Where clients and brokers are told to connect [default: host:port]"),
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESSES", help="Trackers to report to, as host:port;host2:port; zbus://... is one of zbus"
        ),
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Brokers, on the ports that follow --port [default: 1]")] = None,
    siblings: Annotated[str | None, typer.Option(hidden=True)] = None,
    parent: ParentOption = None,
    tracker_only: Annotated[
        bool | None, typer.Option("--tracker-only", help="Track other brokers, and have no topics.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Directory of stored topics [default: zbusrpc-data]")] = None,
    durability: DurabilityOption = None,
    grace: Annotated[float | None, typer.Option(help="Seconds for calls in flight on shut-down [default: 10]")] = None,
    message_bytes_max: Annotated[int | None, typer.Option(help="Largest message [default: 16 MiB]")] = None,
    idle: Annotated[float | None, typer.Option(help="Seconds of silence that end a connection [default: 30]")] = None,
    queue_calls_max: Annotated[int | None, typer.Option(help="Waiting calls of a service [default: 10000]")] = None,
    queued_bytes_max: Annotated[int | None, typer.Option(help="Waiting bytes in all [default: 256 MiB]")] = None,
    connections_per_address_max: Annotated[
        int | None, typer.Option(help="Connections of one address [default: 10000]")
    ] = None,
    tokens: Annotated[str | None, typer.Option(metavar="FILE", help="Who may do what: see zbusrpc token.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let everybody do everything, also from other machines.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate and chain: speak TLS.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Its key [default: in the same file]")] = None,
    tls_client_ca: Annotated[str | None, typer.Option(metavar="FILE", help="Clients must show certificates.")] = None,
    allow_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origins", "--allow-origin", metavar="ORIGIN", help="Web pages that may use it; repeatable."
        ),
    ] = None,
    json: JsonOption = False,
    log_level: LogLevelOption = None,
    log_json: LogJsonOption = None,
) -> None:
    """Run a broker. Services and clients of any language meet there."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    settings = settings_of(
        host=host,
        port=port,
        advertise=advertise,
        tracker=tracker,
        nodes=nodes,
        tracker_only=tracker_only,
        data_dir=data_dir,
        durability=durability,
        grace=grace,
        message_bytes_max=message_bytes_max,
        queue_calls_max=queue_calls_max,
        queued_bytes_max=queued_bytes_max,
        idle=idle,
        connections_per_address_max=connections_per_address_max,
        tokens=tokens,
        insecure=insecure,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        allow_origins=allow_origins or None,
        log_level=log_level,
        log_json=log_json,
    )
    if settings.nodes > 1:
        from zbusrpc.cli.nodes import run_nodes

        run_nodes(settings, as_json=json)
    else:
        from zbusrpc.cli.broker import run_broker

        nodes_of_all = tuple(siblings.split(";")) if siblings else ()
        run_broker(settings, siblings=nodes_of_all, parent=parent_of(parent), as_json=json)


def _refuse_options(context: typer.Context) -> None:
    """Exit where options of `zbusrpc broker` stand before a command of it, where they would do nothing."""
    given = [name for name, value in context.params.items() if value not in (None, False, [], ())]
    if given:
        fail(
            f"--{given[0].replace('_', '-')} is for a broker that is run, and not for "
            f"{context.invoked_subcommand}; leave it away, or write it behind {context.invoked_subcommand}",
            USAGE,
        )


@broker_app.command("drain", short_help="Take a broker out, once its work is done.")
@client_options
def broker_drain(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The broker to take out.")],
    timeout: Annotated[float, typer.Option(min=0, max=86_400, help="Seconds to wait for its end.")] = 60.0,
    json: JsonOption = False,
) -> None:
    """Take a broker out: it takes no new work, clients go elsewhere, and it ends when it is done."""
    from zbusrpc.cli.drain import run_drain

    settings_of(log_level="warning")
    run_drain(address, timeout, as_json=json)


@app.command()
@client_options
def serve(
    targets: Annotated[list[str], typer.Argument(metavar="MOD:SERVICE...", help="Class, instance or factory.")],
    broker: BrokerOption = None,
    concurrency: Annotated[int | None, typer.Option(help="Calls worked on at a time [default: 64]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve [default: 1]")] = None,
    grace: Annotated[float | None, typer.Option(help="Seconds for running calls on shut-down [default: 10]")] = None,
    dev: Annotated[bool | None, typer.Option("--dev", help="Send tracebacks to callers.")] = None,
    access_log: Annotated[bool | None, typer.Option("--access-log", help="Log each call that has ended.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a broker that is not there yet.")] = False,
    parent: ParentOption = None,
    json: JsonOption = False,
    log_level: LogLevelOption = None,
    log_json: LogJsonOption = None,
) -> None:
    """Serve services. Without --broker and with none running, a broker is started in this process."""
    from zbusrpc.cli.serve import run_serve

    settings = settings_of(
        broker=broker,
        concurrency=concurrency,
        workers=workers,
        grace=grace,
        dev=dev,
        access_log=access_log,
        log_level=log_level,
        log_json=log_json,
    )
    run_serve(targets, settings, waits=wait, parent=parent_of(parent), as_json=json)


@app.command(context_settings={"ignore_unknown_options": True})  # -1 is a value
@client_options
def call(
    method: Annotated[str, typer.Argument(metavar="SERVICE.METHOD")],
    params: Annotated[list[str] | None, typer.Argument(metavar="[VALUE...] [NAME=VALUE...]")] = None,
    broker: BrokerOption = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds [default: 10]")] = None,
    json: JsonOption = False,
) -> None:
    """Call a method: zbusrpc call Calc.add 1 2, or a=1 b=2. Values become what the method's types say."""
    from zbusrpc.cli.call import run_call

    run_call(method, params or [], settings_of(broker=broker, timeout=timeout, log_level="warning"), as_json=json)


@app.command(short_help="Show brokers live, in the terminal.")
@client_options
def top(
    broker: BrokerOption = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two pictures.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show them once and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each picture.")] = False,
) -> None:
    """Show brokers live: servers, busiest topics, groups that lag, services. Ctrl-C ends it."""
    from zbusrpc.cli.top import run_top

    run_top(settings_of(broker=broker, log_level="warning"), interval_s=interval, once=once, as_json=json)


app.add_typer(messages)
app.add_typer(dlq, name="dlq")
app.add_typer(token, name="token")

storage = typer.Typer(help="Look at a data directory that no broker has open.", no_args_is_help=True)
app.add_typer(storage, name="storage")
DirectoryArgument = Annotated[str, typer.Argument(metavar="DIR", help="A data directory, or that of one topic.")]


@storage.command("check")
def storage_check(directory: DirectoryArgument, json: JsonOption = False) -> None:
    """Read every byte and print what is wrong, changing nothing. Exits with 1 where anything is, with 2 on no look."""
    from zbusrpc.cli.storage import run_check

    run_check(directory, as_json=json)


@storage.command("repair", short_help="Cut torn tails, quarantine damage, delete nothing.")
def storage_repair(directory: DirectoryArgument, json: JsonOption = False) -> None:
    """Cut torn tails off and quarantine damaged segments, keeping what is good. Nothing is deleted."""
    from zbusrpc.cli.storage import run_repair

    run_repair(directory, as_json=json)


bench = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("rpc", short_help="Time calls through a broker to a service.")
@client_options
def bench_rpc(
    broker: BrokerOption = None,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Calls in flight.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long.")] = 3.0,
    size: Annotated[int, typer.Option(min=0, max=16_000_000, help="Bytes of the parameter; 0 adds two numbers.")] = 0,
    json: JsonOption = False,
) -> None:
    """Time calls from this process through a broker to a service, each in a process of its own."""
    from zbusrpc.cli.bench import run_bench_rpc

    settings = settings_of(broker=broker, log_level="warning")
    run_bench_rpc(settings if broker else None, concurrency=concurrency, seconds=seconds, size=size, as_json=json)


@bench.command("produce", short_help="Time messages into a topic.")
@client_options
def bench_produce(
    broker: BrokerOption = None,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Batches without a receipt.")] = 256,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long.")] = 3.0,
    size: Annotated[int, typer.Option(min=0, max=16_000_000, help="Bytes of a body.")] = 100,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Messages that are stored together.")] = 1,
    durability: DurabilityOption = None,
    topic: Annotated[str | None, typer.Option(help="Name of the topic, which is made and removed.")] = None,
    json: JsonOption = False,
) -> None:
    """Time messages from this process into a topic, each batch until its receipt."""
    from zbusrpc.cli.bench_messages import Plan, run_bench_produce

    settings = settings_of(broker=broker, log_level="error")
    plan = Plan(concurrency=concurrency, seconds=seconds, size=size, batch=batch, durability=durability, topic=topic)
    run_bench_produce(plan, settings.broker if broker else None, as_json=json)


@bench.command("consume", short_help="Time messages out of a topic.")
@client_options
def bench_consume(
    broker: BrokerOption = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Consumers of one group.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long.")] = 3.0,
    size: Annotated[int, typer.Option(min=0, max=16_000_000, help="Bytes of a body.")] = 100,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Messages that a consumer takes at a time.")] = 256,
    durability: DurabilityOption = None,
    topic: Annotated[str | None, typer.Option(help="Name of the topic, which is made and removed.")] = None,
    json: JsonOption = False,
) -> None:
    """Time messages out of a topic; the latency is that of one at a time from producer to consumer."""
    from zbusrpc.cli.bench_messages import Plan, run_bench_consume

    settings = settings_of(broker=broker, log_level="error")
    plan = Plan(concurrency=concurrency, seconds=seconds, size=size, batch=batch, durability=durability, topic=topic)
    run_bench_consume(plan, settings.broker if broker else None, as_json=json)
