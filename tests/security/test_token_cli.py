"""`zbusrpc token`: what each command prints, takes, refuses and exits with, run as a person runs it."""

import json

import pytest

from tests.support.processes import Ended, Processes
from zbusrpc.broker.access.token_file import read_tokens


class TokenCli:
    """The commands at one token file."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.directory = directory = processes.directory
        self.file = directory / "tokens.toml"

    def run(self, *arguments: str) -> str:
        """Run a command that succeeds without a word of error, and return what it prints."""
        ended = self._ended(*arguments, ZBUSRPC_TOKENS="tokens.toml")
        assert (ended.exit_code, ended.errors) == (0, "")
        return ended.output

    def fails(self, *arguments: str, **env: str) -> str:
        """Run a command that fails, and return its one line of error."""
        ended = self._ended(*arguments, **(env or {"ZBUSRPC_TOKENS": "tokens.toml"}))
        assert (ended.exit_code, ended.output) == (1, "")
        assert ended.errors.startswith("zbusrpc: ")
        assert ended.errors.count("\n") == 1
        return ended.errors.removeprefix("zbusrpc: ").rstrip()

    def _ended(self, *arguments: str, **env: str) -> Ended:
        return self._processes.end_of("token", *arguments, cwd=self.directory, **env)


@pytest.fixture
def cli(processes: Processes) -> TokenCli:
    """Return the commands, with no token file yet."""
    return TokenCli(processes)


def test_add_prints_the_secret_first(cli: TokenCli) -> None:
    """The first line is the secret and nothing else, for `head -1`; the rest says what to do with it."""
    first, *rest = cli.run("add", "web", "--operations", "produce,query", "--topics", "orders,stock.*").splitlines()

    rights = read_tokens(str(cli.file)).access().rights_of(first)
    assert rights is not None
    assert rights.name == "web"
    assert "ZBUSRPC_TOKEN" in "".join(rest)
    assert "SIGHUP" in "".join(rest)


def test_add_tells_programs_in_json(cli: TokenCli) -> None:
    """With --json there is one line that holds name, secret and file."""
    said = json.loads(cli.run("add", "web", "--json"))

    assert (said["name"], said["tokens"]) == ("web", "tokens.toml")
    assert read_tokens(str(cli.file)).access().rights_of(said["token"]) is not None


def test_ls_shows_who_may_do_what(cli: TokenCli) -> None:
    """Each rule is a line, and what is allowed without a token stands last."""
    cli.run("add", "web", "--operations", "produce,query", "--topics", "orders,stock.*", "--groups", "a,b*")
    cli.run("add", "ops", "--operations", "admin")
    with cli.file.open("a") as file:
        file.write('\n[anonymous]\nrules = [{ operations = ["query"], topics = ["news"] }]\n')

    head, *rows = [line.split() for line in cli.run("ls").splitlines()]
    listed = json.loads(cli.run("ls", "--json"))

    assert head == ["NAME", "CREATED", "OPERATIONS", "TOPICS", "GROUPS"]
    assert [row[0] for row in rows] == ["web", "ops", "(anonymous)"]
    assert rows[0][2:] == ["produce", "query", "orders", "stock.*", "a", "b*"]
    assert listed["tokens"][0]["rules"] == [
        {"operations": ["produce", "query"], "topics": ["orders", "stock.*"], "groups": ["a", "b*"]}
    ]
    assert listed["anonymous"] == [{"operations": ["query"], "topics": ["news"], "groups": ["*"]}]


def test_usual_token_can_do_no_harm(cli: TokenCli) -> None:
    """Without options a token may do what clients and services do, but remove nothing and rule nobody."""
    cli.run("add", "web")

    (rule,) = json.loads(cli.run("ls", "--json"))["tokens"][0]["rules"]

    assert {"produce", "consume", "query", "declare"} <= set(rule["operations"])
    assert not {"admin", "remove", "empty"} & set(rule["operations"])
    assert (rule["topics"], rule["groups"]) == (["*"], ["*"])


def test_rm_removes_one(cli: TokenCli) -> None:
    """A token goes, the others stay; what is not there cannot be removed."""
    for name in ("web", "ops"):
        cli.run("add", name)

    assert cli.run("rm", "web").startswith("token web removed; ")
    assert json.loads(cli.run("rm", "ops", "--json")) == {"name": "ops", "tokens": "tokens.toml"}
    assert cli.fails("rm", "ops") == "tokens.toml: there is no token ops"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("add", "web", "--operations", "prodce"), "--operations: 'prodce' is no operation; did you mean produce?"),
        (("add", "web", "--operations", ","), "--operations = ',': name at least one"),
        (("add", "web", "--topics", "a*b"), "--topics: 'a*b': * stands at the end of a name only"),
        (("add", "web", "--groups", 'a"b'), "--groups: 'a\"b' is no name"),
        (("add", "a b"), "a token may not be called 'a b': use 1 to 64 letters"),
        (("add", "anonymous"), "a token may not be called 'anonymous'"),
        (("ls",), "there is no token file tokens.toml; make it with: zbusrpc token add NAME --tokens tokens.toml"),
        (("rm", "web"), "there is no token file tokens.toml"),
        (("add", "web", "--tokens", "nowhere/t.toml"), "nowhere/t.toml: no such file or directory"),
    ],
)
def test_mistake_is_one_line(cli: TokenCli, arguments: tuple[str, ...], line: str) -> None:
    """A mistake names the option and the value, and changes nothing."""
    assert cli.fails(*arguments).startswith(line)
    assert not cli.file.exists()


def test_file_must_be_named(cli: TokenCli) -> None:
    """Where no setting names the file, the line says how to."""
    line = cli.fails("ls", ZBUSRPC_LOG_LEVEL="info")

    assert line == 'which token file? say --tokens FILE, or write tokens = "FILE" into zbusrpc.toml'
