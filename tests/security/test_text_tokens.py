"""Tokens over the text port: what each may do by zbus, URLs, WebSocket and the gateway, and what it is told."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlencode

import orjson
import pytest

from tests.support.native import read_to_end
from tests.support.processes import Processes
from tests.support.queue_peer import QueuePeer
from tests.support.text_wire import UPGRADE, TextWire, body_of, command, frame, get, status_of, wire
from tests.support.tokens import Rules, secret_of, write_tokens
from tests.support.waiting import wait_until
from zbusrpc.broker.access.rights import Operation

ALL: Final = [operation.value for operation in Operation if operation is not Operation.ADMIN]
MINE: Final = ["T", "T.*", "Lab"]
TOKENS: dict[str, Rules] = {
    "ops": [{"operations": ["admin"], "topics": ["none"]}],
    "shop": [
        {"operations": ["produce", "query", "tracker", "track_sub", "server"], "topics": MINE},
        {"operations": ["consume"], "topics": MINE, "groups": ["shop"]},
    ],
    "keeper": [{"operations": ["declare", "remove", "empty", "consume"], "topics": ["T"], "groups": ["keeper"]}],
    "servant": [{"operations": ["consume", "query"], "topics": ["Lab"]}],
}
TOKENS |= {f"with-{one}": [{"operations": [one], "topics": MINE}] for one in ALL}
TOKENS |= {f"without-{one}": [{"operations": [two for two in ALL if two != one], "topics": MINE}] for one in ALL}
PUBLIC: Rules = [{"operations": ["query"], "topics": ["News"]}]
SAME_ORIGIN: Final = "sec-fetch-site: same-origin"
"""With it a cookie counts: the request is one of the broker's own page."""


class Guarded:
    """A broker with tokens, and connections to it."""

    def __init__(self, processes: Processes) -> None:
        self.file = write_tokens(processes.directory / "tokens.toml", TOKENS, PUBLIC)
        arguments = ("--tokens", str(self.file), "--data-dir", str(processes.directory / "data"))
        self.process, self.address = processes.broker(*arguments, "--log-level", "debug")
        self._opened = ExitStack()
        for topic in ("T", "News", "Secrets"):
            for group in ("shop", "keeper", topic):
                assert self.tell("ops", "declare", topic=topic, consume_group=group) == 200
            assert self.tell("ops", "produce", b"first", topic=topic) == 200

    def wire(self) -> TextWire:
        """Open a connection that ends with the test."""
        return self._opened.enter_context(wire(self.address))

    def ask(self, token: str, name: str, body: bytes = b"", **headers: str) -> bytes:
        """Carry out a command by zbus, and return the answer."""
        with wire(self.address) as connection:
            return connection.ask(command(name, body, **shown(token), **headers))

    def tell(self, token: str, name: str, body: bytes = b"", **headers: str) -> int:
        """Carry out a command by zbus, and return the status."""
        return status_of(self.ask(token, name, body, **headers))

    def get(self, token: str, target: str, *lines: str) -> bytes:
        """Send one request of HTTP, and return the answer."""
        with wire(self.address) as connection:
            return connection.ask(get(target, *lines, *(f"{key}: {value}" for key, value in shown(token).items())))

    def native(self, token: str) -> QueuePeer:
        """Connect a native peer."""
        return self._opened.enter_context(QueuePeer(self.address, secret_of(token)))  # type: ignore[return-value]

    def change(self, tokens: dict[str, Rules], anonymous: Rules | None = None) -> None:
        """Have the broker read other tokens."""
        before = len(self.process.log("broker.reloaded"))
        write_tokens(self.file, tokens, anonymous)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(self.process.log("broker.reloaded")) > before, "reloaded tokens")

    def close(self) -> None:
        """End all connections."""
        self._opened.close()


def shown(token: str) -> dict[str, str]:
    """Return the header that shows a token, or none."""
    return {"token": secret_of(token)} if token else {}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Run a broker, and a Lab at it, for all tests that leave its tokens alone."""
    with Processes(tmp_path_factory.mktemp("text-tokens")) as processes:
        guarded = Guarded(processes)
        processes.serve(guarded.address, ZBUSRPC_TOKEN=secret_of("servant"), LAB_BROKER=guarded.address)
        yield guarded
        guarded.close()


@pytest.fixture
def own(processes: Processes) -> Iterator[Guarded]:
    """Run a broker for this test alone."""
    guarded = Guarded(processes)
    yield guarded
    guarded.close()


# -- each command, each way to ask, each way to show a token -------------------------------------------------

SILENT: Final = {0, 200, 202}
"""What is not answered by zbus, and by HTTP with nothing."""
CASES: Final[list[tuple[str, Operation, dict[str, str], int | set[int]]]] = [
    ("produce", Operation.PRODUCE, {"topic": "T"}, 200),
    ("rpc", Operation.PRODUCE, {"topic": "T.calls"}, {404, 503}),
    ("consume", Operation.CONSUME, {"topic": "T", "consume_group": "shop", "offset": "0"}, 200),
    ("consume", Operation.CONSUME, {"topic": "T", "consume_group": "T", "timeout": "0"}, {200, 204}),
    ("unconsume", Operation.CONSUME, {"topic": "T", "consume_group": "shop"}, SILENT),
    ("ack", Operation.CONSUME, {"topic": "T", "consume_group": "shop", "offset": "0"}, 200),
    ("route", Operation.ROUTE, {"recver": "nobody", "id": "x"}, SILENT),
    ("declare", Operation.DECLARE, {"topic": "T"}, 200),
    ("query", Operation.QUERY, {"topic": "T"}, 200),
    ("query", Operation.QUERY, {"topic": "T", "consume_group": "shop"}, 200),
    ("query", Operation.QUERY, {}, 200),
    ("remove", Operation.REMOVE, {"topic": "T.none"}, 404),
    ("remove", Operation.REMOVE, {"topic": "T", "consume_group": "none"}, 404),
    ("empty", Operation.EMPTY, {"topic": "T.none"}, 404),
    ("empty", Operation.EMPTY, {"topic": "T", "consume_group": "keeper"}, 200),
    ("server", Operation.SERVER, {}, 200),
    ("tracker", Operation.TRACKER, {}, 200),
    ("track_sub", Operation.TRACK_SUB, {}, 200),
    ("track_pub", Operation.TRACK_PUB, {"ack": "true"}, 200),
    ("ssl", Operation.SSL, {}, 404),
]
EVENT: Final = b'{"serverInfo":{"serverAddress":{"address":"x:1","sslEnabled":false}},"live":true}'
OPEN: Final = [("heartbeat", SILENT), ("ping", {200}), ("home", {200})]
"""Commands that ask for no right."""
CARRIERS: Final = ["header", "bearer", "cookie", "url"]


def by_zbus(address: str, name: str, fields: dict[str, str], carrier: str, secret: str) -> int:
    """Ask over raw TCP, and return the status; 0 where nothing is answered."""
    with wire(address) as connection:
        return _first_status(connection, command(name, _body(name), **_marked(fields), **_lines(carrier, secret)))


def by_url(address: str, name: str, fields: dict[str, str], carrier: str, secret: str) -> int:
    """Ask by a URL of 0.8, and return the status."""
    path = [name, *(fields[key] for key in ("topic", "consume_group") if key in fields)]
    path += ["add", "1"] if name == "rpc" else []  # else it is a question of the gateway
    rest = {key: value for key, value in fields.items() if key not in ("topic", "consume_group")}
    return _by_http(address, "/".join(path), name, rest, carrier, secret)


def by_new_url(address: str, name: str, fields: dict[str, str], carrier: str, secret: str) -> int:
    """Ask by a URL of 0.11, and return the status."""
    path = [fields[key] for key in ("topic", "consume_group") if key in fields]
    return _by_http(address, "/".join(path), name, {"cmd": name, **fields}, carrier, secret)


def by_websocket(address: str, name: str, fields: dict[str, str], carrier: str, secret: str) -> int:
    """Ask by a message of a WebSocket that shows its token itself, and return the status; 0 without an answer."""
    with wire(address) as connection:
        connection.upgrade()
        request = command(name, _body(name), **_marked(fields), **_lines(carrier, secret))
        return _first_status(connection, request, is_socket=True)


def by_opened_websocket(address: str, name: str, fields: dict[str, str], carrier: str, secret: str) -> int:
    """Ask by a message of a WebSocket that has shown its token when it was opened."""
    query = f"?token={secret}" if carrier == "url" and secret else ""
    lines = "".join(f"{key}: {value}\r\n" for key, value in _lines(carrier, secret).items())
    with wire(address) as connection:
        answer = connection.ask(UPGRADE.replace(b"/ HTTP", f"/{query} HTTP".encode())[:-2] + f"{lines}\r\n".encode())
        if status_of(answer) != 101:
            return status_of(answer)
        return _first_status(connection, command(name, _body(name), **_marked(fields)), is_socket=True)


Way = Callable[[str, str, dict[str, str], str, str], int]
WAYS: Final[list[Way]] = [by_zbus, by_url, by_new_url, by_websocket, by_opened_websocket]


def _by_http(address: str, path: str, name: str, fields: dict[str, str], carrier: str, secret: str) -> int:
    query = fields | ({"token": secret} if carrier == "url" and secret else {})
    lines = [f"{key}: {value}" for key, value in _lines(carrier, secret).items()]
    lines += [SAME_ORIGIN] if carrier == "cookie" else []
    head = get(f"/{path}?{urlencode(query)}", *lines, f"content-length: {len(_body(name))}")
    with wire(address) as connection:
        return status_of(connection.ask(head + _body(name)))


def _lines(carrier: str, secret: str) -> dict[str, str]:
    if carrier == "url" or not secret:
        return {}
    value = {"header": secret, "bearer": f"Bearer {secret}", "cookie": f"a=b; token={secret}"}[carrier]
    return {{"header": "token", "bearer": "authorization", "cookie": "cookie"}[carrier]: value}


def _body(name: str) -> bytes:
    return EVENT if name == "track_pub" else b""


def _marked(fields: dict[str, str]) -> dict[str, str]:
    return {"id": "first", **fields}


def _first_status(connection: TextWire, request: bytes, *, is_socket: bool = False) -> int:
    """Send a request that may have no answer, with a ping behind it that has one, and return the status."""
    is_silent = any(b"cmd: " + name in request for name in (b"unconsume", b"route", b"heartbeat"))
    requests = [request, command("ping", id="ping")] if is_silent else [request]
    connection.send(*(frame(2, one) if is_socket else one for one in requests))
    answer = connection.receive_frame()[1] if is_socket else connection.receive()
    return 0 if b"id: ping\r\n" in answer else status_of(answer)


def _carriers(way: Way) -> list[str]:
    return [one for one in CARRIERS if one != "url" or way not in (by_zbus, by_websocket)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{len(case[2])}")
def test_command_asks_for_its_right(shared: Guarded, way: Way, case: tuple[Any, ...]) -> None:
    """A token with the right may, one with all others may not, nor who shows none; who shows a wrong one is told so."""
    name, operation, fields, allowed = case
    asked = shared.address, name, fields

    for carrier in _carriers(way):
        status = way(*asked, carrier, secret_of(f"with-{operation}"))
        assert status in (allowed if isinstance(allowed, set) else {allowed}), carrier
        assert way(*asked, carrier, secret_of(f"without-{operation}")) == 403, carrier
        assert way(*asked, carrier, secret_of("guess")) == 401, carrier
    assert way(*asked, "header", "") == (200 if (name, fields) == ("query", {}) else 403)  # what anonymous sees is less


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(("name", "allowed"), OPEN)
def test_some_commands_ask_for_no_right(shared: Guarded, way: Way, name: str, allowed: set[int]) -> None:
    """Signs of life and the page of text are for everybody, but not for who shows a wrong token."""
    fields = {"x-y": "z"} if way is by_new_url else {}

    for token in ("with-produce", ""):
        assert way(shared.address, name, fields, "header", secret_of(token) if token else "") in allowed
    assert way(shared.address, name, fields, "header", secret_of("guess")) == 401


def test_parameter_token_is_no_token_where_the_url_is_not_read(shared: Guarded) -> None:
    """A request with `cmd` is its headers alone."""
    request = command("query", topic="T").replace(b"GET / ", f"GET /?token={secret_of('ops')} ".encode())

    with wire(shared.address) as connection:
        assert status_of(connection.ask(request)) == 403


# -- groups and names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["shop", "SHOP", "Shop"])
def test_rights_go_by_group_in_whatever_case_it_is_spelled(shared: Guarded, spelled: str) -> None:
    """The group that is meant counts, and a group that a rule does not name is not to be had."""
    poll = {"topic": "t", "timeout": "0"}

    assert shared.tell("shop", "consume", consume_group=spelled, **poll) in {200, 204}
    for other in ("keeper", "T", "none", ""):
        assert shared.tell("shop", "consume", consume_group=other, **poll) == 403
        assert shared.tell("shop", "consume", consume_group=other, topic="T", offset="0") == 403
        assert shared.tell("shop", "ack", consume_group=other, topic="T", offset="0") == 403


@pytest.mark.parametrize("name", ["remove", "empty"])
def test_whole_topic_is_for_who_may_have_all_its_groups(shared: Guarded, name: str) -> None:
    """A token for one group cannot take the topic from under the others."""
    assert shared.tell("keeper", name, topic="T") == 403
    assert shared.tell("keeper", name, topic="T", consume_group="shop") == 403
    assert shared.tell("keeper", "declare", topic="T") == 403
    assert shared.tell("keeper", "declare", topic="T", consume_group="keeper") == 200
    assert shared.tell("keeper", "query", topic="T") == 403


def test_group_that_the_broker_names_needs_a_right_for_such_names(shared: Guarded) -> None:
    """`group_name_auto` may make `keeper1`, which a rule for `keeper` does not allow."""
    asked = {"topic": "T", "consume_group": "keeper", "group_name_auto": "true"}

    assert shared.tell("keeper", "declare", **asked) == 403
    assert shared.tell("with-declare", "declare", **asked) == 200


def test_name_in_another_case_is_no_way_around_a_rule(shared: Guarded) -> None:
    """Where topics differ by case alone, the right is asked for the one that is answered for."""
    shared.tell("ops", "declare", topic="T.Case")
    ops = shared.native("ops")
    for hidden in ("t.case", "T.CASE"):
        ops.declare(hidden)

    for hidden in ("t.case", "T.CASE"):
        token = "with-query"
        answer = shared.ask(token, "query", topic=hidden)
        assert status_of(answer) == (403 if hidden == "t.case" else 200)
        assert status_of(answer) == 403 or orjson.loads(body_of(answer))["topicName"] == hidden


# -- what it is told -----------------------------------------------------------------------------------------

HIDDEN: Final = ["Secrets", "SECRETS", "Nowhere"]


@pytest.mark.parametrize(
    "name", ["produce", "rpc", "consume", "unconsume", "ack", "query", "remove", "empty", "declare"]
)
@pytest.mark.parametrize("group", ["", "shop", "nobody"])
def test_refusal_does_not_tell_what_exists(shared: Guarded, name: str, group: str) -> None:
    """What is there and may not be seen, in any case, is refused as what is not there at all."""
    headers = {"consume_group": group, "offset": "0"} if group else {"offset": "0"}

    answers = {hidden: shared.ask("shop", name, topic=hidden, **headers) for hidden in HIDDEN}

    assert {status_of(answer) for answer in answers.values()} == {403}
    assert len({body_of(answers[hidden]).replace(hidden.encode(), b"X") for hidden in HIDDEN}) == 1
    assert b"Secrets" not in answers["Nowhere"]


@pytest.mark.parametrize("target", ["/rpc/{}", "/rpc/{}/add/1", "/{}/add/1", "/rpc/{}/add?a=1"])
def test_gateway_does_not_tell_what_exists(shared: Guarded, target: str) -> None:
    """Nor do calls and listings: neither by names nor by hints."""
    with QueuePeer(shared.address, secret_of("ops")) as ops:
        ops.subscribe("Hidden")
        there = shared.get("with-produce", target.format("Hidden"))
        nowhere = shared.get("with-produce", target.format("Nowhere"))
        near = shared.get("with-produce", target.format("T.hidde"))
        listed = shared.get("with-produce", "/rpc")

    assert status_of(there) == status_of(nowhere) >= 400
    assert there.replace(b"Hidden", b"Nowhere").split(b"\r\n\r\n")[1] == body_of(nowhere)
    assert b"Hidden" not in near + listed


def test_listings_and_pushes_show_what_a_token_may_see(shared: Guarded) -> None:
    """Of `query`, `server`, `tracker` and what `track_sub` pushes it has the topics and services it may query."""
    hidden, seen = "Secrets.new", "T.new"
    subscriber = shared.wire()
    first = subscriber.ask(command("track_sub", id="1", **shown("shop")))
    told = [topics_in(first)]

    shared.tell("ops", "declare", topic=hidden)
    shared.tell("ops", "declare", topic=seen)
    while seen not in told[-1]:
        told.append(topics_in(subscriber.receive()))
    told += [topics_in(shared.ask("shop", name)) for name in ("query", "server", "tracker")]
    told += [topics_in(shared.get("shop", f"/{name}")) for name in ("query", "server", "tracker", "track_sub")]

    assert all({"T", "Lab"} <= topics and not topics & {"Secrets", "News", hidden} for topics in told)
    assert {"Secrets", "News", hidden, seen} <= topics_in(shared.ask("ops", "server"))
    assert topics_in(shared.ask("", "query")) == {"News"}


def topics_in(message: bytes) -> set[str]:
    """Return the topics that a ServerInfo or TrackerInfo names."""
    info: dict[str, Any] = orjson.loads(body_of(message))
    servers = info["serverTable"].values() if "serverTable" in info else [info]
    return {topic for server in servers for topic in server["topicTable"]}


# -- whose request it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_socket", [False, True], ids=["tcp", "websocket"])
def test_rights_of_a_request_are_not_those_of_the_next(shared: Guarded, is_socket: bool) -> None:
    """Somebody may share one connection among his users: who shows no token has the rights of nobody."""
    connection = shared.wire()
    if is_socket:
        connection.upgrade()
    asked = ["ops", "", "with-query", "without-query", "ops", "", "shop"]

    statuses = []
    for token in asked:
        request = command("query", topic="T", **shown(token))
        connection.send(frame(2, request) if is_socket else request)
        statuses.append(status_of(connection.receive_frame()[1] if is_socket else connection.receive()))

    assert statuses == [200, 403, 200, 403, 200, 403, 200]


def test_pipelined_requests_have_each_its_own_rights(shared: Guarded) -> None:
    """Also where the answer to an earlier one is known later than the next request is read."""
    tokens = ["ops", "", "guess", "with-declare", "without-declare", ""]
    targets = [f"/declare/T.pipe?x={number}" for number in range(len(tokens))]
    lines = [[f"token: {secret_of(token)}"] if token else [] for token in tokens]

    with wire(shared.address) as connection:
        connection.send(*(get(target, *line) for target, line in zip(targets, lines, strict=True)))
        statuses = [status_of(connection.receive()) for _ in tokens]

    assert statuses == [200, 403, 401, 200, 403, 403]


def test_sign_of_life_changes_no_rights(shared: Guarded) -> None:
    """A heartbeat or ping without a token belongs to the client, and gives the next request nothing."""
    with wire(shared.address) as connection:
        parked = command("consume", id="c", topic="T", consume_group="without-none", **shown("ops"))
        assert status_of(connection.ask(parked)) == 404
        connection.send(command("heartbeat"))
        assert status_of(connection.ask(command("ping"))) == 200
        assert status_of(connection.ask(command("query", topic="T"))) == 403


def test_message_that_waits_for_one_user_is_not_anothers(shared: Guarded) -> None:
    """A parked consume keeps the answer for whoever sent it, whatever comes on the connection meanwhile."""
    shared.tell("ops", "declare", topic="T.parked", consume_group="shop")
    with wire(shared.address) as connection:
        parked = command("consume", id="mine", topic="T.parked", consume_group="shop", **shown("shop"))
        connection.send(parked, command("query", id="other", topic="T.parked"))
        refused = connection.receive()
        shared.tell("ops", "produce", b"for the shop", topic="T.parked")
        delivered = connection.receive()

    assert (status_of(refused), b"id: other\r\n" in refused) == (403, True)
    assert (body_of(delivered), b"id: mine\r\n" in delivered) == (b"for the shop", True)


# -- the gateway ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("line", ["GET /rpc/Lab/add/1/2", "GET /rpc/Lab/add", "POST /rpc/Lab/add", "POST /rpc/Lab"])
def test_call_needs_the_right_to_produce(shared: Guarded, line: str, carrier: str) -> None:
    """By URL, by parameters, by an envelope; the token in the URL is no parameter of the method."""
    body = {"POST /rpc/Lab/add": b"[1,2]", "POST /rpc/Lab": b'{"method":"add","params":[1,2]}'}.get(line, b"")
    query = "a=1&b=2" if line == "GET /rpc/Lab/add" else ""

    def call(token: str) -> bytes:
        secret = secret_of(token)
        target = line.partition(" ")[2] + "?" + (f"{query}&token={secret}" if carrier == "url" else query)
        lines = [f"{key}: {value}" for key, value in _lines(carrier, secret).items()]
        head = get(target.rstrip("?&"), SAME_ORIGIN, f"content-length: {len(body)}", *lines)
        with wire(shared.address) as connection:
            return connection.ask(head.replace(b"GET", line.partition(" ")[0].encode(), 1) + body)

    allowed, denied, unknown = call("shop"), call("without-produce"), call("guess")

    assert (status_of(allowed), orjson.loads(body_of(allowed))) == (200, {"result": 3})
    assert (status_of(denied), status_of(unknown)) == (403, 401)
    assert orjson.loads(body_of(denied))["error"]["code"] == "PERMISSION_DENIED"


def test_each_call_of_a_batch_needs_the_right(shared: Guarded) -> None:
    """A batch is as many calls; each is refused for itself."""
    batch = orjson.dumps([{"jsonrpc": "2.0", "id": n, "method": "add", "params": [n, n]} for n in (1, 2)])

    def post(token: str) -> list[dict[str, Any]]:
        head = get("/rpc/Lab", f"token: {secret_of(token)}", f"content-length: {len(batch)}")
        with wire(shared.address) as connection:
            answers: list[dict[str, Any]] = orjson.loads(body_of(connection.ask(head.replace(b"GET", b"POST") + batch)))
        return answers

    assert [answer["result"] for answer in post("shop")] == [2, 4]
    assert all("no right to produce on topic Lab" in answer["error"]["message"] for answer in post("without-produce"))


def test_running_services_are_listed_to_who_may_see_them(shared: Guarded) -> None:
    """For others the list is empty, and a service that is asked for by name is not there."""
    assert [one["service"] for one in orjson.loads(body_of(shared.get("shop", "/rpc")))["result"]] == ["Lab"]
    assert orjson.loads(body_of(shared.get("", "/rpc")))["result"] == []
    assert status_of(shared.get("", "/rpc/Lab")) == 404
    assert status_of(shared.get("guess", "/rpc")) == 401


# -- polls and streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_poll_and_stream_need_the_right_to_consume(shared: Guarded, accept: str) -> None:
    """By a token in the URL, which is all that a browser's EventSource can show, or in a header."""
    target = "/consume/T/shop?timeout=0"

    for token, status in (("without-consume", 403), ("guess", 401)):
        assert status_of(shared.get(token, target, f"accept: {accept}")) == status
        assert status_of(shared.get("", f"{target}&token={secret_of(token)}", f"accept: {accept}")) == status
    assert status_of(shared.get("", target, f"accept: {accept}")) == 403
    with wire(shared.address) as connection:
        connection.send(get(f"{target}&token={secret_of('shop')}", f"accept: {accept}"))
        assert connection.socket.recv(16).split(b" ")[1] in {b"200", b"204"}


# -- changes -------------------------------------------------------------------------------------------------


def test_changed_rights_hold_at_once(own: Guarded) -> None:
    """After SIGHUP the next request of a connection is judged by the new file, and so is what is pushed."""
    connection, subscriber = own.wire(), own.wire()
    assert status_of(connection.ask(command("query", topic="T", **shown("shop")))) == 200
    assert "T" in topics_in(subscriber.ask(command("track_sub", id="1", **shown("shop"))))

    own.change(TOKENS | {"shop": [{"operations": ["query", "track_sub"], "topics": ["Secrets"]}]}, [])

    told = topics_in(subscriber.receive())
    while told != {"Secrets"}:
        told = topics_in(subscriber.receive())
    assert status_of(connection.ask(command("query", topic="T", **shown("shop")))) == 403
    assert status_of(connection.ask(command("query", topic="Secrets", **shown("shop")))) == 200
    assert status_of(connection.ask(command("query", topic="News"))) == 403


def test_subscriber_that_may_not_any_more_is_told_nothing(own: Guarded) -> None:
    """Losing `track_sub` ends the pushes, though the token is still known."""
    loser, other = own.wire(), own.wire()
    loser.ask(command("track_sub", id="1", **shown("shop")))
    other.ask(command("track_sub", id="1", **shown("ops")))

    own.change(TOKENS | {"shop": [{"operations": ["query", "produce"], "topics": ["*"]}]})
    own.tell("ops", "declare", topic="T.later")
    while "T.later" not in topics_in(other.receive()):
        pass

    assert b"T.later" not in loser.ask(command("ping", id="last"))


@pytest.mark.parametrize("kind", ["zbus", "poll", "stream", "websocket", "service", "subscriber"])
def test_session_of_a_removed_token_is_closed(own: Guarded, kind: str) -> None:
    """Also while it waits for a message, for events or for calls; nothing is delivered to it any more."""
    loser, keeper = own.wire(), own.wire()
    target = "/consume/T/shop"
    asked = {"topic": "T", "consume_group": "shop", "id": "1"}
    own.tell("ops", "empty", topic="T")
    if kind == "zbus":
        loser.send(command("consume", **asked, **shown("shop")))
    elif kind == "poll":
        loser.send(get(target, f"token: {secret_of('shop')}"))
    elif kind == "stream":
        loser.send(get(target, f"token: {secret_of('shop')}", "accept: text/event-stream"))
    elif kind == "websocket":
        loser.send(UPGRADE[:-2], f"token: {secret_of('shop')}\r\n\r\n".encode(), frame(1, command("consume", **asked)))
    elif kind == "service":
        own.tell("ops", "declare", topic="Lab", topic_mask="2", consume_group="shop")
        loser.send(command("consume", topic="Lab", consume_group="shop", id="1", **shown("servant")))
    else:
        loser.ask(command("track_sub", id="1", **shown("shop")))
    assert status_of(keeper.ask(command("query", topic="News"))) == 200
    if kind != "subscriber":
        asked_of = "Lab" if kind == "service" else "T"
        wait_until(lambda: own.ask("ops", "query", topic=asked_of).count(b"http@"), "consumer")

    own.change({"ops": TOKENS["ops"]}, PUBLIC)
    own.tell("ops", "produce", b"not for the shop", topic="T")

    assert b"not for the shop" not in read_to_end(loser.socket)
    assert status_of(keeper.ask(command("query", topic="News"))) == 200
    assert own.tell("shop", "query", topic="T") == 401
    kept = own.ask("ops", "consume", topic="T", consume_group="shop", timeout="0")
    assert body_of(kept) == b"not for the shop"


@pytest.mark.parametrize("last", ["", "ops"], ids=["nobody", "another"])
def test_parked_request_falls_with_its_own_token(own: Guarded, last: str) -> None:
    """Though the last request of the connection showed another token, or none; and only then."""
    connection = own.wire()
    asked = {"topic": "T.parked", "consume_group": "shop"}
    own.tell("ops", "declare", **asked)
    connection.send(command("consume", id="parked", **asked, **shown("shop")))
    connection.ask(command("query", id="2", topic="News", **shown(last)))

    own.change(TOKENS, PUBLIC)
    assert status_of(connection.ask(command("query", id="3", topic="News", **shown(last)))) == 200
    own.change({"ops": TOKENS["ops"]}, PUBLIC)
    own.tell("ops", "produce", b"not for the shop", topic="T.parked")

    assert b"not for the shop" not in read_to_end(connection.socket)


def test_websocket_whose_token_is_removed_is_refused(own: Guarded) -> None:
    """One that has shown its token when it was opened, and asked nothing since."""
    connection = own.wire()
    connection.send(UPGRADE[:-2], f"authorization: Bearer {secret_of('shop')}\r\n\r\n".encode())
    assert status_of(connection.receive()) == 101

    own.change({"ops": TOKENS["ops"]})

    assert connection.receive_frame()[0] == 8
    assert connection.rest() == b""


def test_nobody_may_do_anything_unless_the_file_says_so(own: Guarded) -> None:
    """Without a part for them clients without a token get 403 for all but signs of life."""
    own.change(TOKENS)

    for name, _, fields, _ in CASES:
        assert by_zbus(own.address, name, fields, "header", "") == 403
        assert by_url(own.address, name, fields, "header", "") == 403
    assert status_of(own.get("", "/ping")) == 200

    own.change(TOKENS, [{"operations": ["produce"], "topics": ["News"]}])

    assert own.tell("", "produce", b"x", topic="News") == 200
    assert own.tell("", "produce", b"x", topic="T") == 403
    assert own.tell("", "query", topic="News") == 403
