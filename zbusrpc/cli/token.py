"""`zbusrpc token`: make and remove tokens in the file that a broker reads. No broker need be running."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from zbusrpc.broker.access.rights import ANONYMOUS, Operation
from zbusrpc.broker.access.token_file import RuleEntry, add_token, check_token_name, read_tokens, remove_token
from zbusrpc.cli.options import JsonOption, settings_of
from zbusrpc.cli.shell import print_json, print_text
from zbusrpc.cli.tables import print_table
from zbusrpc.errors import ConfigError

token = typer.Typer(help="Make tokens, which say who may do what at a broker.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="For people and logs.")]
TokensOption = Annotated[str | None, typer.Option(metavar="FILE", help="The token file of the broker.")]

USUAL: Final = (
    Operation.PRODUCE,
    Operation.CONSUME,
    Operation.ROUTE,
    Operation.QUERY,
    Operation.DECLARE,
    Operation.TRACK_SUB,
    Operation.TRACKER,
    Operation.SERVER,
)
"""What clients and services of any dialect need; nothing that loses messages."""


@token.command("add")
def token_add(
    name: NameArgument,
    operations: Annotated[
        str, typer.Option(help="Such as produce,query; * is everything but admin.", show_default=False)
    ] = ",".join(USUAL),
    topics: Annotated[str, typer.Option(help="Such as orders,stock.*")] = "*",
    groups: Annotated[str, typer.Option(help="Such as billing,web-*")] = "*",
    tokens: TokensOption = None,
    json: JsonOption = False,
) -> None:
    """Make a token and print its secret, once. More rules for it are written into the file by hand."""
    path = _file(tokens)
    check_token_name(name)
    secret = add_token(path, name, _rule(operations, topics, groups), datetime.now(UTC))
    if json:
        print_json({"name": name, "token": secret, "tokens": path})
        return
    print_text(
        f"{secret}\n\n"
        f"This is token {name}; it is shown once. Clients show it as ZBUSRPC_TOKEN or --token.\n"
        f"A broker that runs with --tokens {path} knows it after SIGHUP.\n"
    )


@token.command("ls")
def token_ls(tokens: TokensOption = None, json: JsonOption = False) -> None:
    """List tokens and what they may do."""
    found = read_tokens(_file(tokens))
    listed = [(one.name, one.created, one.rules) for one in found.token]
    if json:
        shown = [
            {"name": name, "created": created and created.isoformat(), "rules": [_shown(rule) for rule in rules]}
            for name, created, rules in listed
        ]
        print_json({"tokens": shown, ANONYMOUS: [_shown(rule) for rule in found.anonymous.rules]})
        return
    rows = [
        (name, created.date().isoformat() if created else "", *[" ".join(words) for words in _shown(rule).values()])
        for name, created, rules in [*listed, (f"({ANONYMOUS})", None, found.anonymous.rules)]
        for rule in rules
    ]
    print_table(("NAME", "CREATED", "OPERATIONS", "TOPICS", "GROUPS"), rows)


@token.command("rm")
def token_rm(name: NameArgument, tokens: TokensOption = None, json: JsonOption = False) -> None:
    """Remove a token."""
    path = _file(tokens)
    remove_token(path, name)
    if json:
        print_json({"name": name, "tokens": path})
    else:
        print_text(f"token {name} removed; a broker that runs lets nobody in by it after SIGHUP\n")


def _file(given: str | None) -> str:
    path = settings_of(tokens=given, log_level="warning").tokens
    if path is None:
        raise ConfigError('which token file? say --tokens FILE, or write tokens = "FILE" into zbusrpc.toml')
    return path


def _rule(operations: str, topics: str, groups: str) -> RuleEntry:
    given = {"operations": operations, "topics": topics, "groups": groups}
    fields = {name: [word.strip() for word in text.split(",") if word.strip()] for name, text in given.items()}
    empty = next((name for name, words in fields.items() if not words), None)
    if empty is not None:
        raise ConfigError(f"--{empty} = {given[empty]!r}: name at least one")
    try:
        return RuleEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None


def _shown(rule: RuleEntry) -> dict[str, Any]:
    return {"operations": sorted(rule.operations), "topics": list(rule.topics), "groups": list(rule.groups)}
