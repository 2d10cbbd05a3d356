"""Tokens at a real broker: what each may do, what it sees, and what becomes of it when the file changes."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.support.native import dial, frame, read_to_end
from tests.support.processes import Process, Processes
from tests.support.queue_peer import QueuePeer
from tests.support.tokens import Rules, secret_of, write_tokens
from tests.support.waiting import wait_until
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind, encode_headers
from zbusrpc.transport.entries import encode_entry
from zbusrpc.transport.hello import Hello, hello_message
from zbusrpc.transport.native import Decoder

ALL_TOKENS: dict[str, Rules] = {
    "ops": [{"operations": ["admin"], "topics": ["none"]}],
    "shop": [
        {"operations": ["produce", "query"], "topics": ["orders", "orders.*", "Lab"]},
        {"operations": ["consume"], "topics": ["orders"], "groups": ["shop", "auto-*"]},
        {"operations": ["consume"], "topics": ["Lab"]},
    ],
    "keeper": [{"operations": ["declare", "remove", "empty"], "topics": ["orders"], "groups": ["keeper"]}],
}
PUBLIC: Rules = [{"operations": ["query"], "topics": ["news"]}]
DENIED = Code.PERMISSION_DENIED
PROGRAM = """
import asyncio
from zbusrpc import Producer

async def main():
    async with Producer("orders") as producer:
        print((await producer.send(b"x")).offset > 0)

asyncio.run(main())
"""


class Guarded:
    """A broker with tokens, and peers that show them."""

    def __init__(self, processes: Processes) -> None:
        self.file = write_tokens(processes.directory / "tokens.toml", ALL_TOKENS, PUBLIC)
        arguments = ("--tokens", str(self.file), "--data-dir", str(processes.directory / "data"))
        self.process, self.address = processes.broker(*arguments, "--log-level", "debug")
        self._peers: list[QueuePeer] = []
        with self.peer("ops") as ops:
            assert isinstance(ops, QueuePeer)
            for topic in ("orders", "secrets", "news"):
                ops.declare(topic)
                ops.produce(topic, "first")
                ops.command("declare_group", topic=topic, group="shop")
                ops.command("declare_group", topic=topic, group="keeper")

    def peer(self, token: str) -> QueuePeer:
        """Connect a peer that shows a token, or none."""
        self._peers.append(QueuePeer(self.address, secret_of(token) if token else ""))
        return self._peers[-1]

    def change(self, tokens: dict[str, Rules], anonymous: Rules | None = None) -> None:
        """Have the broker read other tokens."""
        before = len(self.process.log("broker.reloaded"))
        write_tokens(self.file, tokens, anonymous)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(self.process.log("broker.reloaded")) > before, "reloaded tokens")

    def close(self) -> None:
        for peer in self._peers:
            peer.socket.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Run a broker for all tests that leave its tokens alone."""
    with Processes(tmp_path_factory.mktemp("tokens")) as processes:
        guarded = Guarded(processes)
        yield guarded
        guarded.close()


@pytest.fixture
def own(processes: Processes) -> Iterator[Guarded]:
    """Run a broker for this test alone."""
    guarded = Guarded(processes)
    yield guarded
    guarded.close()


def outcome(peer: QueuePeer, kind: int, body: Any, topic: str = "") -> Code | None:
    """Return the code of the error that a request ends with, or None where it succeeds."""
    found = peer.outcome(peer.post(kind, body, topic=topic))
    return found.code if isinstance(found, RpcError) else None


def command(name: str, **fields: Any) -> tuple[int, dict[str, Any], str]:
    """Return a command as `outcome` takes it."""
    return Kind.COMMAND, {"command": name, **fields}, ""


# -- what a token may do -------------------------------------------------------------------------------------

CONSUME_SHOP = (Kind.CONSUME, {"group": "shop"})
CASES = [
    ("shop", (Kind.PRODUCE, b"", "orders"), Code.INVALID_ARGUMENT),  # there is no message in it: it was let through
    ("shop", (Kind.PRODUCE, b"", "secrets"), DENIED),
    ("shop", (*CONSUME_SHOP, "orders"), None),
    ("shop", (*CONSUME_SHOP, "orders.eu"), DENIED),
    ("shop", (*CONSUME_SHOP, "secrets"), DENIED),
    ("shop", (Kind.CONSUME, {"group": "keeper"}, "orders"), DENIED),
    ("shop", (Kind.CONSUME, {"group": None}, "orders"), None),
    ("shop", (Kind.CONSUME, {"grup": "keeper"}, "orders"), Code.INVALID_ARGUMENT),
    ("shop", (Kind.SUBSCRIBE, {"window": 1}, "Lab"), None),
    ("shop", (Kind.SUBSCRIBE, {"window": 1}, "Other"), DENIED),
    ("shop", (Kind.SUBSCRIBE, {"window": 1}, "orders"), DENIED),  # it would take what others produce there
    ("shop", (Kind.SUBSCRIBE, {"window": 1, "about": {"durable": True}}, "Lab"), DENIED),  # it would make a topic
    ("shop", (Kind.CONSUME, {"group": "shop", "start": {"group": "keeper"}}, "orders"), None),
    ("shop", (Kind.CONSUME, {"group": "shop", "start": {"group": "shop"}}, "secrets"), DENIED),
    ("shop", (Kind.REQUEST, {"method": "x"}, "orders.calls"), Code.UNAVAILABLE),
    ("shop", (Kind.REQUEST, {"method": "x"}, "Other"), DENIED),
    ("shop", command("declare", topic="orders"), None),
    ("shop", command("declare", topic="orders", keep_s=5), DENIED),
    ("shop", command("declare", topic="orders", update=True, keep_s=5), DENIED),
    ("shop", command("declare", topic="orders.new"), DENIED),
    ("shop", command("declare", topic="secrets"), DENIED),
    ("shop", command("declare_group", topic="orders", group="shop"), DENIED),
    ("shop", command("peek", topic="orders"), None),
    ("shop", command("peek", topic="secrets"), DENIED),
    ("shop", command("topic", topic="secrets"), DENIED),
    ("shop", command("dlq", topic="orders"), None),
    ("shop", command("dlq", topic="secrets"), DENIED),
    ("shop", command("retry_dead", topic="orders"), None),
    ("shop", command("retry_dead", topic="secrets"), DENIED),
    ("shop", command("purge_dead", topic="orders"), DENIED),
    ("shop", command("empty", topic="orders"), DENIED),
    ("shop", command("remove", topic="orders"), DENIED),
    ("shop", command("nonsense"), Code.INVALID_ARGUMENT),
    ("keeper", command("declare", topic="orders", keep_s=5, update=True), DENIED),
    ("keeper", command("declare", topic="orders"), DENIED),
    ("keeper", command("declare_group", topic="orders", group="keeper", start={"group": "shop"}), DENIED),
    ("keeper", command("seek", topic="orders", group="keeper", start={"group": "shop"}), DENIED),
    ("keeper", command("purge_dead", topic="orders"), DENIED),
    ("keeper", command("declare", topic="orders", dead_letter_topic="secrets", update=True), DENIED),
    ("keeper", command("pause", topic="orders", group="keeper"), None),
    ("keeper", command("resume", topic="orders", group="keeper"), None),
    ("keeper", command("seek", topic="orders", group="shop", start="newest"), DENIED),
    ("keeper", command("empty", topic="orders", group="keeper"), None),
    ("keeper", command("empty", topic="orders", group="shop"), DENIED),
    ("keeper", command("empty", topic="orders"), DENIED),
    ("keeper", command("remove", topic="orders", group="shop"), DENIED),
    ("keeper", command("remove", topic="orders"), DENIED),
    ("keeper", command("topics"), DENIED),
    ("keeper", command("stats"), DENIED),
    ("keeper", (Kind.QUERY, b"", ""), DENIED),
    ("ops", command("peek", topic="secrets"), None),
    ("ops", (Kind.CONSUME, {"group": "shop"}, "secrets"), None),
    ("", (Kind.PRODUCE, b"", "orders"), DENIED),
    ("", (*CONSUME_SHOP, "news"), DENIED),
    ("", command("peek", topic="news"), None),
    ("", command("peek", topic="orders"), DENIED),
]


@pytest.mark.parametrize(("token", "asked", "code"), CASES)
def test_token_may_do_what_its_rules_say(
    shared: Guarded, token: str, asked: tuple[int, Any, str], code: Code | None
) -> None:
    """Each message is carried out or refused, whatever the kind."""
    with shared.peer(token) as peer:
        assert isinstance(peer, QueuePeer)

        assert outcome(peer, *asked) is code


def test_refusal_names_token_operation_and_topic(shared: Guarded) -> None:
    """Whoever reads the error knows which right is missing, and which token has it not."""
    shop, nobody, keeper = shared.peer("shop"), shared.peer(""), shared.peer("keeper")

    refusals = [
        str(shop.outcome(shop.post_produce("secrets", "x"))),
        str(shop.outcome(shop.post(*CONSUME_SHOP, topic="secrets"))),
        str(nobody.outcome(nobody.post_produce("orders", "x"))),
        str(keeper.outcome(keeper.post(Kind.COMMAND, {"command": "remove", "topic": "orders"}))),
    ]

    assert refusals == [
        "PERMISSION_DENIED: token shop has no right to produce on topic secrets",
        "PERMISSION_DENIED: token shop has no right to consume on topic secrets and group shop",
        "PERMISSION_DENIED: a client without a token (anonymous) has no right to produce on topic orders",
        "PERMISSION_DENIED: token keeper has no right to remove on topic orders and all its groups",
    ]


def test_listings_show_what_a_token_may_see(shared: Guarded) -> None:
    """Topics, groups, counters, services and hints are those that the token has the right to query."""
    shop, nobody, ops = shared.peer("shop"), shared.peer(""), shared.peer("ops")
    for service in ("Lab", "Hidden"):
        ops.ask(Kind.SUBSCRIBE, {"window": 1}, topic=service)

    assert {topic["topic"] for topic in shop.command("topics")} == {"orders"}
    assert {topic["topic"] for topic in nobody.command("topics")} == {"news"}
    assert {"orders", "secrets", "news"} <= {topic["topic"] for topic in ops.command("topics")}
    assert shop.command("stats")["topics"] == 1
    assert len(shop.command("topic", topic="orders")["groups"]) >= 2
    found = shop.ask(Kind.QUERY)
    assert [service["service"] for service in found["services"]] == ["Lab"]
    assert found["statistics"] == {}
    assert "sessions" in ops.ask(Kind.QUERY)["statistics"]
    refused = shop.outcome(shop.post(Kind.REQUEST, {"method": "x"}, topic="orders.calls"))
    assert "Hidden" not in f"{refused} {refused.details}"


def test_forged_letter_gives_no_right(shared: Guarded) -> None:
    """A dead letter that says it comes from a topic is not produced there by somebody who may not produce there."""
    shop, ops = shared.peer("shop"), shared.peer("ops")
    ops.declare("orders.dlq")
    before = ops.command("topic", topic="secrets")["messages"]
    headers = {f"dead-{name}": "0" for name in ("offset", "attempts")}
    headers |= {"dead-topic": "secrets", "dead-group": "gone", "dead-reason": "none"}
    shop.produce("orders.dlq", _entry_with_headers(headers))

    result = shop.command("retry_dead", topic="orders", as_new=True)

    assert result["retried"] == 0
    assert "has no right to produce on the topic that it comes from" in result["left"][0]["reason"]
    assert ops.command("topic", topic="secrets")["messages"] == before


def _entry_with_headers(headers: dict[str, str]) -> bytes:
    return encode_entry(0, 0, 0, b"", b"", b"", encode_headers(headers), b"forged")


# -- who a client is -----------------------------------------------------------------------------------------


def test_unknown_token_is_refused_at_once(shared: Guarded) -> None:
    """The answer to the HELLO is a GOODBYE that says why."""
    with dial(shared.address) as connection:
        connection.sendall(frame(hello_message(Hello(token=SecretStr("guess")))))
        (message,) = Decoder().feed(read_to_end(connection))

    assert message.kind == Kind.GOODBYE
    assert bytes(message.body) == b"UNAUTHENTICATED: this broker does not know the token"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("guess", "UNAUTHENTICATED: broker {}: this broker does not know the token; see --token and ZBUSRPC_TOKEN"),
        ("", "PERMISSION_DENIED: a client without a token (anonymous) has no right to query on topic orders"),
    ],
)
def test_client_without_the_right_token_gets_one_line(
    shared: Guarded, processes: Processes, token: str, words: str
) -> None:
    """A command ends at once, with the reason, and does not try again."""
    code, output, errors = processes.run("peek", "orders", ZBUSRPC_BROKER=shared.address, ZBUSRPC_TOKEN=token)

    assert (code, output) == (1, "")
    assert errors == f"zbusrpc: {words.format(shared.address)}\n"


def test_programs_show_their_token(shared: Guarded, processes: Processes, tmp_path: Path) -> None:
    """The token comes from the command line, the environment or zbusrpc.toml, for commands and programs alike."""
    (tmp_path / "zbusrpc.toml").write_text(f'broker = "{shared.address}"\ntoken = "{secret_of("shop")}"\n')
    program = processes.python(PROGRAM, ZBUSRPC_BROKER=shared.address, ZBUSRPC_TOKEN=secret_of("shop"))
    option = ("--broker", shared.address, "--token", secret_of("shop"))

    assert processes.run("pub", "orders", "tea", *option)[0] == 0
    assert processes.run("pub", "orders", "tea", cwd=tmp_path)[0] == 0
    assert processes.run("peek", "orders", ZBUSRPC_BROKER=shared.address, ZBUSRPC_TOKEN=secret_of("shop"))[0] == 0
    assert (program.wait_exit(), program.output) == (0, "True\n"), program.errors


def test_service_and_caller_need_their_rights(shared: Guarded, processes: Processes) -> None:
    """To serve takes the right to consume, to call the right to produce; without it both are told so."""
    shop = {"ZBUSRPC_TOKEN": secret_of("shop"), "ZBUSRPC_BROKER": shared.address}
    keeper = {"ZBUSRPC_TOKEN": secret_of("keeper"), "ZBUSRPC_BROKER": shared.address}

    processes.serve(shared.address, **shop)
    called = processes.run("call", "Lab.add", "1", "2", **shop)
    refused = processes.run("call", "Lab.add", "1", "2", **keeper)
    not_serving = processes.run("serve", "tests.support.lab:Lab", "--broker", shared.address, **keeper)

    assert called[:2] == (0, "3\n")
    assert (refused[0], refused[2]) == (
        1,
        "zbusrpc: PERMISSION_DENIED: token keeper has no right to produce on topic Lab\n",
    )
    assert not_serving[0] == 1
    assert "token keeper has no right to consume on topic Lab and all its groups" in not_serving[2]


# -- changes -------------------------------------------------------------------------------------------------


def test_changed_rights_hold_at_once(own: Guarded) -> None:
    """After SIGHUP a session that goes on may do what its token may do now, no more and no less."""
    shop, nobody = own.peer("shop"), own.peer("")
    assert outcome(shop, *command("peek", topic="orders")) is None

    own.change(ALL_TOKENS | {"shop": [{"operations": ["query"], "topics": ["secrets"]}]}, [])

    assert outcome(shop, *command("peek", topic="orders")) is DENIED
    assert outcome(shop, *command("peek", topic="secrets")) is None
    assert outcome(nobody, *command("peek", topic="news")) is DENIED


def test_session_of_a_removed_token_is_closed(own: Guarded) -> None:
    """Who loses the token loses the connection, and who has another keeps it."""
    shop, keeper = own.peer("shop"), own.peer("keeper")

    own.change({"keeper": ALL_TOKENS["keeper"]})

    goodbye = shop.receive()
    assert goodbye.kind == Kind.GOODBYE
    assert bytes(goodbye.body).startswith(b"UNAUTHENTICATED: ")
    assert outcome(keeper, *command("pause", topic="orders", group="keeper")) is None


def test_session_that_consumes_what_it_may_not_any_more_is_closed(own: Guarded) -> None:
    """Nothing more is delivered, or given to serve, to somebody who lost the right to it; another goes on."""
    consumer, server, other = own.peer("shop"), own.peer("shop"), own.peer("shop")
    consumer.consume("orders", "shop", window=0)
    server.ask(Kind.SUBSCRIBE, {"window": 1}, topic="Lab")

    own.change(ALL_TOKENS | {"shop": [{"operations": ["produce"], "topics": ["orders"]}]})

    for peer in (consumer, server):
        goodbye = peer.receive()
        assert goodbye.kind == Kind.GOODBYE
        assert bytes(goodbye.body) == b"the rights of shop have changed"
    assert other.produce("orders", "x")["offset"] > 0


def test_broken_file_leaves_the_old_tokens_in_force(own: Guarded) -> None:
    """A mistake is one line of the log, and nobody loses or gains anything by it."""
    shop = own.peer("shop")

    own.file.write_text(own.file.read_text().replace("admin", "amdin"))
    own.process.send_signal(signal.SIGHUP)

    (line,) = wait_until(lambda: own.process.log("broker.reload_failed"), "line of the log")
    assert "token ops, rules[0].operations: 'amdin' is no operation; did you mean admin?" in line["reason"]
    assert outcome(shop, *command("peek", topic="orders")) is None
    assert outcome(shop, *command("peek", topic="secrets")) is DENIED


def test_service_whose_token_is_removed_ends(own: Guarded, processes: Processes) -> None:
    """It says so and ends, so that whoever looks after it notices; it does not knock for ever."""
    service = processes.serve(own.address, ZBUSRPC_TOKEN=secret_of("shop"))

    own.change({"ops": ALL_TOKENS["ops"]})

    assert service.wait_exit() == 1
    assert f"broker {own.address}: this broker does not know the token" in service.errors.splitlines()[-1]


def test_consumer_whose_token_is_removed_ends(own: Guarded, processes: Processes) -> None:
    """A consumer that waits for messages is told that its token is unknown now."""
    env = {"ZBUSRPC_TOKEN": secret_of("shop"), "ZBUSRPC_BROKER": own.address}
    consumer: Process = processes.zbusrpc("sub", "orders", "--group", "shop", **env)
    wait_until(lambda: "first" in consumer.output, "first message")

    own.change({"ops": ALL_TOKENS["ops"]})

    assert consumer.wait_exit() == 1
    assert "UNAUTHENTICATED: " in consumer.errors.splitlines()[-1]


def test_secret_is_never_told(own: Guarded, processes: Processes) -> None:
    """Neither logs nor listings nor error texts nor what is delivered hold a token that was shown."""
    env = {"ZBUSRPC_BROKER": own.address, "ZBUSRPC_LOG_LEVEL": "debug"}
    ops, shop = own.peer("ops"), own.peer("shop")
    said = [
        *processes.run("pub", "orders", "tea", **env, ZBUSRPC_TOKEN=secret_of("shop")),
        *processes.run("pub", "secrets", "tea", **env, ZBUSRPC_TOKEN=secret_of("shop")),
        *processes.run("peek", "secrets", **env, ZBUSRPC_TOKEN=secret_of("stranger")),
        *processes.run("peek", "secrets", **env, ZBUSRPC_TOKEN="secret-of-" + "x" * 300),
        *processes.run("broker", "--port", "x", **env, ZBUSRPC_TOKEN=secret_of("shop")),
        shop.outcome(shop.post(Kind.REQUEST, {"method": "x"}, topic="Nothing")),
        ops.command("topics"),
        ops.command("peek", topic="orders"),
        ops.ask(Kind.QUERY),
        processes.run("token", "ls", "--json", "--tokens", str(own.file)),
    ]
    own.file.write_text(own.file.read_text() + f'\n[[token]]\nname = "x"\nhash = "{secret_of("x")}"\nrules = []\n')
    own.process.send_signal(signal.SIGHUP)
    wait_until(lambda: own.process.log("broker.reload_failed"), "line of the log")
    said += [own.process.errors, own.process.output, repr(Hello(token=SecretStr(secret_of("me"))))]

    assert not [words for words in map(str, said) if "secret-of-" in words]


def test_file_that_others_may_read_is_warned_about(processes: Processes, tmp_path: Path) -> None:
    """The broker starts, and says in one line what to do."""
    file = write_tokens(tmp_path / "tokens.toml", ALL_TOKENS)
    file.chmod(0o644)

    broker, _ = processes.broker("--tokens", str(file))

    (line,) = broker.log("broker.tokens_readable")
    assert line["fix"] == f"chmod o-r {file}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "a broker on 0.0.0.0 without tokens would let everybody do everything: make a token"),
        (["--host", "::"], "a broker on :: without tokens"),
        (["--host", "some.host"], "a broker on some.host without tokens"),
        (["--tokens", "none.toml"], "there is no token file none.toml; make it with: zbusrpc token add"),
        (["--tls-key", "key.pem"], "tls_key is given and tls_cert is not"),
    ],
)
def test_broker_that_would_be_open_to_all_does_not_start(
    processes: Processes, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """One line says what is missing and how to have it otherwise."""
    code, output, errors = processes.run("broker", "--port", "0", *arguments, cwd=tmp_path)

    assert (code, output) == (1, "")
    assert errors.startswith(f"zbusrpc: {words}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("how", [["--insecure"], ["--tokens", "tokens.toml"]])
def test_broker_listens_everywhere_when_that_was_thought_of(
    processes: Processes, tmp_path: Path, how: list[str]
) -> None:
    """With tokens, or when told, a broker listens beyond the loopback."""
    write_tokens(tmp_path / "tokens.toml", ALL_TOKENS)

    broker = processes.zbusrpc("broker", "--host", "0.0.0.0", "--port", "0", "--json", *how, cwd=tmp_path)

    assert broker.wait_ready()["broker"].startswith("0.0.0.0:")


def test_hang_up_ends_no_broker_in_the_background(processes: Processes) -> None:
    """Rotation of logs, or the end of a session, sends SIGHUP; where nothing is to be read again nothing happens."""
    broker, address = processes.broker()

    broker.send_signal(signal.SIGHUP)

    wait_until(lambda: broker.log("broker.reloaded"), "line of the log")
    with dial(address) as connection:
        connection.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert read_to_end(connection).endswith(b"\r\n\r\nOK")
