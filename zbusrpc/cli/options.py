"""Options that several commands take, and the settings that come of them."""

from typing import Annotated, Any

import typer

from zbusrpc.cli.parent import OPTION, Parent
from zbusrpc.config import Settings, load_settings
from zbusrpc.errors import ConfigError
from zbusrpc.telemetry import configure_logging

BrokerOption = Annotated[
    str | None, typer.Option("--broker", help="Brokers as host:port;tls://host2:port [default: localhost:15555]")
]
ParentOption = Annotated[int | None, typer.Option(OPTION, hidden=True)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON line for machines.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON line for each message.")]
LogLevelOption = Annotated[str | None, typer.Option(help="debug, info, warning or error [default: info]")]
LogJsonOption = Annotated[
    bool | None, typer.Option("--log-json/--log-text", help="Log JSON lines [default: text on a terminal]")
]
DurabilityOption = Annotated[str | None, typer.Option(help="disk, os or memory [default: disk]")]

TopicArgument = Annotated[str, typer.Argument(metavar="TOPIC")]
GroupArgument = Annotated[str, typer.Argument(metavar="GROUP")]
MaybeGroupArgument = Annotated[str | None, typer.Argument(metavar="GROUP")]
FilterOption = Annotated[str, typer.Option("--filter", help="Which tags, such as eu.* or eu.+.new;us.#")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

START = "oldest, newest, offset:N, id:ID, time:ISO or group:GROUP"


def settings_of(**given: Any) -> Settings:
    """Return the settings of this run, with logging configured as they say."""
    settings = load_settings(**given)
    configure_logging(settings.log_level, as_json=settings.log_json)
    return settings


def parent_of(descriptor: int | None) -> Parent | None:
    """Return what keeps this process, if anything does.

    Raises:
        ConfigError: the option that says so was given by somebody else.
    """
    if descriptor is None:
        return None
    try:
        return Parent(descriptor)
    except (OSError, OverflowError):
        raise ConfigError(f"{OPTION} = {descriptor}: is for processes that zbusrpc starts itself") from None
