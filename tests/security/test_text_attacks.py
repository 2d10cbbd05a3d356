"""Attacks on the text port: secrets that must not be told, pages and peers that would have others act for them."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
import pytest
import trustme

from tests.support.native import dial
from tests.support.processes import Processes
from tests.support.queue_peer import QueuePeer
from tests.support.text_wire import UPGRADE, TextWire, body_of, command, frame, get, status_of, wire
from tests.support.tokens import Rules, secret_of, write_tokens
from tests.support.waiting import wait_until
from tests.support.web import Web, WebLab
from zbusrpc.broker.access.rights import Operation, Rights
from zbusrpc.message import Kind, Message, encode_headers
from zbusrpc.transport.entries import encode_entry

SECRET: Final = secret_of("app")
COOKIE: Final = f"cookie: theme=dark; token={SECRET}"
LAN: Final = "192.168.7.7:15555"
"""As whom a browser knows a broker of its network: by plain HTTP it does not tell such a host of whose page it asks."""
TOKENS: dict[str, Rules] = {
    "app": [{"operations": ["admin"], "topics": ["*"]}],
    "villain": [{"operations": ["produce", "consume", "route", "query"], "topics": ["Shared", "Evil"]}],
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker with tokens; return its address."""
    with Processes(tmp_path_factory.mktemp("attacks")) as processes:
        tokens = write_tokens(processes.directory / "tokens.toml", TOKENS)
        data = str(processes.directory / "data")
        _, address = processes.broker("--tokens", str(tokens), "--data-dir", data)
        for name in ("Shared", "Evil"):
            assert ask(address, "app", "declare", topic=name)[0] == 200
        yield address


def ask(address: str, token: str, name: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """Carry out a command, and return status and body."""
    with wire(address) as connection:
        answer = connection.ask(command(name, body, token=secret_of(token), **headers))
        return status_of(answer), body_of(answer)


def declare(address: str, name: str) -> str:
    """Make a topic with one message, and return its name."""
    assert ask(address, "app", "declare", topic=name)[0] == 200
    assert ask(address, "app", "produce", b"treasure", topic=name)[0] == 200
    return name


# -- secrets -------------------------------------------------------------------------------------------------


def test_token_is_never_told(processes: Processes, tmp_path: Path) -> None:
    """Neither by what is stored, delivered in any dialect, routed or listed, nor by errors, logs and `peek`."""
    tokens = write_tokens(tmp_path / "tokens.toml", TOKENS)
    arguments = ("--tokens", str(tokens), "--data-dir", str(tmp_path / "data"), "--log-level", "debug")
    process, address = processes.broker(*arguments)
    ask(address, "app", "declare", topic="T")

    said = [*_produced(address), *_refused(address), *_delivered(address), *_routed(address)]
    env = {"ZBUSRPC_BROKER": address, "ZBUSRPC_TOKEN": SECRET, "ZBUSRPC_LOG_LEVEL": "debug"}
    said += map(str, processes.run("peek", "T", "--json", **env))
    said += map(str, processes.run("topics", "--json", **env))
    said += [process.errors, process.output]

    assert len(said) > 40
    assert not [text for text in said if "secret-of-" in text]


def _ways_to_show(secret: str) -> list[list[str]]:
    return [[f"token: {secret}"], [f"authorization: Bearer {secret}"], [f"cookie: token={secret}"]]


def _urls(secret: str) -> list[str]:
    names = ("token", "TOKEN", "Token", "%74oken", "tok%65n")
    urls = [f"/produce/T?{name}={secret}&body=x&tag=a" for name in names]
    return [*urls, f"/T?token={secret}&body=x", f"http://broker/produce/T?body=x&token={secret}&y=%20"]


def _produced(address: str) -> Iterator[str]:
    """Have a message stored in each way that a token is shown, and yield the answers."""
    for secret in (SECRET, secret_of("villain"), secret_of("guess")):
        for lines in _ways_to_show(secret):
            yield _say(address, get("/produce/T?body=x", "sec-fetch-site: same-origin", *lines))
            name, _, value = lines[0].partition(": ")
            yield _say(address, command("produce", b"x", topic="T", **{name: value}))
            with wire(address) as connection:
                connection.upgrade()
                connection.send(frame(1, command("produce", b"x", topic="T", **{name: value})))
                yield repr(connection.receive_frame())
        for url in _urls(secret):
            yield _say(address, get(url))


def _refused(address: str) -> Iterator[str]:
    """Ask what cannot be done, with a token in it, and yield the answers."""
    for target in ("/nothing/x/y", "/consume/T/g?timeout=x", "/js/a.js", "/declare/%25", "/rpc/Lab/add/1", "/?cmd=x"):
        mark = "&" if "?" in target else "?"
        yield _say(address, get(f"{target}{mark}token={SECRET}"))
        yield _say(address, get(f"{target}{mark}token={SECRET}", "origin: https://evil.example"))
        yield _say(address, get(target, f"token: {SECRET}", "content-length: x"))
        yield _say(address, get(target, f"token: {SECRET}").replace(b"GET", b"BREW"))
        yield _say(address, get(f"{target}{mark}token={SECRET}\x01"))
    yield _say(address, command("track_pub", b"{", token=SECRET, ack="true"))
    yield _say(address, UPGRADE.replace(b"/ HTTP", f"/?token={SECRET} HTTP".encode()).replace(b"13", b"12"))


def _delivered(address: str) -> Iterator[str]:
    """Consume all that was stored in each dialect, and yield it."""
    shown = f"token: {SECRET}"
    count = orjson.loads(ask(address, "app", "query", topic="T")[1])["messageDepth"]
    for group in ("zbus", "http", "native", "events"):
        ask(address, "app", "declare", topic="T", consume_group=group, group_start_offset="0")
    for _ in range(count):
        yield _say(address, command("consume", topic="T", consume_group="zbus", token=SECRET))
        yield _say(address, get("/consume/T/http", shown))
    with QueuePeer(address, SECRET) as peer:
        assert isinstance(peer, QueuePeer)
        yield repr(peer.take(peer.consume("T", "native", window=1000), count))
    with Web(address) as web:
        web.send("GET /consume/T/events", Token=SECRET, Accept="text/event-stream")
        web.receive_head()
        yield from (repr(web.receive_event()) for _ in range(count))
    for name in ("query", "server", "tracker", "track_sub"):
        yield _say(address, command(name, topic="T", token=SECRET))


def _routed(address: str) -> Iterator[str]:
    """Have a call served and answered, and yield what both sides see."""
    with wire(address) as service, wire(address) as caller:
        ask(address, "app", "declare", topic="Served", topic_mask="2")
        lines = {"token": SECRET, "authorization": f"Bearer {SECRET}", "cookie": f"token={SECRET}"}
        service.send(command("consume", id="c", topic="Served", **lines))
        wait_until(lambda: b'"consumerCount":1' in ask(address, "app", "query", topic="Served")[1], "service")
        caller.send(command("rpc", b'{"method":"m"}', id="r", topic="Served", **lines))
        asked = service.receive().decode()
        yield asked
        sender = re.search(r"sender: (\S+)", asked)
        assert sender is not None
        service.send(command("route", b'{"result":1}', id="r", recver=sender[1], **lines))
        yield caller.receive().decode()


def _say(address: str, request: bytes) -> str:
    with wire(address) as connection:
        return connection.ask(request).decode(errors="replace")


def test_certificate_is_given_without_its_key(processes: Processes, tmp_path: Path) -> None:
    """Though both stand in one file, whose name the operator has given."""
    ca = trustme.CA()
    file = tmp_path / "both.pem"
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    _, address = processes.broker("--tls-cert", str(file))
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    with dial(address) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(command("ssl") + command("ping", id="end"))
        told = b""
        while b"id: end" not in told:
            told += connection.recv(65536)

    assert b"BEGIN CERTIFICATE" in told
    assert b"PRIVATE" not in told


# -- pages that have a browser ask with its cookie -----------------------------------------------------------

CHANGES: Final = ["/produce/{}?body=x", "/{}?body=x", "/consume/{}?timeout=0", "/remove/{}", "/?cmd=empty&topic={}",
                  "/declare/{}.new", "/rpc/{}/add/1", "/ack/{}?offset=0", "/unconsume/{}"]  # fmt: skip


@pytest.mark.parametrize("target", CHANGES)
def test_image_on_a_page_of_somebody_else_changes_nothing(guarded: str, target: str) -> None:
    """By plain HTTP a browser fetches it with its cookie and without a word of where it stands."""
    topic = declare(guarded, f"Image.{CHANGES.index(target)}")
    answers = [
        WebLab(guarded).ask("GET " + target.format(topic), Host=LAN, Cookie=f"token={SECRET}", **more)
        for more in ({}, {"Referer": "http://evil.example/"}, {"Referer": f"http://evil.example/?x=//{LAN}/"})
    ]

    assert {answer.status for answer in answers} == {403}
    assert all("a cookie does not tell who asks for this" in answer.text for answer in answers)
    info = orjson.loads(ask(guarded, "app", "query", topic=topic)[1])
    assert (info["messageDepth"], info["consumeGroupList"][0]["messageCount"]) == (1, 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Referer": f"http://{LAN}/page"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": f"http://{LAN}"},
    ],
    ids=str,
)
def test_cookie_counts_where_the_browser_tells_that_it_may(guarded: str, headers: dict[str, str]) -> None:
    """For a page of the broker's own, and for what somebody has typed."""
    topic = declare(guarded, "Cookie.own")
    named = {"Host": LAN, "Cookie": f"token={SECRET}", **headers}

    assert WebLab(guarded).ask(f"GET /produce/{topic}?body=x", **named).status == 200
    assert WebLab(guarded).ask(f"GET /query/{topic}", Host=LAN, Cookie=f"token={SECRET}").status == 200


def test_programs_may_show_a_cookie(guarded: str) -> None:
    """No page can have a browser send a POST without an Origin, or a header `cmd`."""
    topic = declare(guarded, "Cookie.program")

    assert WebLab(guarded).ask(f"POST /produce/{topic}", b"x", Cookie=f"token={SECRET}").status == 200
    assert WebLab(guarded).ask("GET /", Cmd="produce", Topic=topic, Cookie=f"token={SECRET}").status == 200


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_page_of_a_neighbour_is_one_of_somebody_else(guarded: str, site: str) -> None:
    """Another port of this machine is of the same site, and need not be a friend."""
    topic = declare(guarded, f"Neighbour.{site}")
    page = {"Sec-Fetch-Site": site, "Cookie": f"token={SECRET}"}

    assert WebLab(guarded).ask(f"GET /remove/{topic}", **page).status == 403
    assert WebLab(guarded).ask(f"GET /query/{topic}", **page).status == 200


def test_cookies_of_other_programs_do_not_hide_the_token(guarded: str) -> None:
    """A host has the cookies of all its ports, and some are written in strange ways."""
    for cookie in ('a={"b":1}; token={}', "token={}; x=[;]", "a b; token={}", 'é=1; token="{}"'):
        named = {"Cookie": cookie.replace("{}", SECRET) if "{}" in cookie else cookie}
        assert WebLab(guarded).ask("GET /server", **named).status == 200, cookie


def test_message_that_is_a_page_does_not_act_for_the_broker(guarded: str) -> None:
    """Whoever opens it sees it in a sandbox, and it sets no cookies and lets no other page in."""
    page = b"<script>fetch('/remove/T')</script>"
    headers = {
        "content-type": "text/html",
        "set-cookie": "token=villain",
        "access-control-allow-origin": "*",
        "refresh": "0; url=http://evil.example",
        "content-security-policy": "default-src *",
        "x-own": "kept",
    }
    ask(guarded, "app", "declare", topic="Page")
    ask(guarded, "app", "produce", page, topic="Page", **headers)

    answer = WebLab(guarded).ask("GET /consume/Page", Accept="text/html,*/*;q=0.8", Token=SECRET)

    assert (answer.body, answer.headers["x-own"], answer.headers["content-type"]) == (page, "kept", "text/html")
    assert answer.headers["content-security-policy"] == "sandbox"
    assert not {"set-cookie", "refresh", "access-control-allow-origin"} & answer.headers.keys()


# -- peers that have the broker speak to others --------------------------------------------------------------


def test_forged_sender_gets_nobody_a_message(guarded: str) -> None:
    """A native producer may write any `sender`; what it gives itself does not let it route to that session."""
    with wire(guarded) as victim, wire(guarded) as villain, QueuePeer(guarded, secret_of("villain")) as producer:
        assert isinstance(producer, QueuePeer)
        ask_own = command("produce", b"x", id="1", topic="Shared", token=SECRET)
        assert status_of(victim.ask(ask_own)) == 200
        name = _consumed_sender(villain, "Shared")
        forged = encode_headers({"sender": name, "cmd": "produce"})
        producer.produce("Evil", encode_entry(0, 0, 0, b"2", b"", b"", forged, b"to myself"))
        assert _consumed_sender(villain, "Evil") == name

        villain.send(command("route", b"poison", id="2", recver=name, token=secret_of("villain")))
        villain.send(command("route", b"answer", id="1", recver=name, token=secret_of("villain")))
        got = victim.receive()

    assert body_of(got) == b"answer"


def test_copied_sender_gets_nobody_another_id(guarded: str) -> None:
    """What shows that a session has asked holds for its id alone."""
    with wire(guarded) as victim, wire(guarded) as villain, QueuePeer(guarded, secret_of("villain")) as producer:
        assert isinstance(producer, QueuePeer)
        subscription = producer.consume("Shared", "copies", window=100, start="newest")
        assert status_of(victim.ask(command("produce", b"x", id="1", topic="Shared", token=SECRET))) == 200
        (entry,) = producer.take(subscription, 1)
        producer.produce("Evil", encode_entry(0, 0, 0, b"3", b"", b"", entry.headers, b"copied"))
        name = _consumed_sender(villain, "Evil")

        villain.send(command("route", b"poison", id="3", recver=name, token=secret_of("villain")))

        assert body_of(villain.ask(command("ping"))) == body_of(victim.ask(command("ping"))) == b"OK"


def _consumed_sender(connection: TextWire, topic: str) -> str:
    """Consume a message, and return the session that it says it is of."""
    message = connection.ask(command("consume", topic=topic, token=secret_of("villain")))
    found = re.search(rb"\r\nsender: (\S+)\r\n", message)
    assert found is not None, message
    return found[1].decode()


@pytest.mark.parametrize("status", ["1", "100", "101", "204", "304"])
def test_status_of_a_service_cannot_split_an_answer(guarded: str, status: str) -> None:
    """After a status that ends or has no body, what a service has written would be the next user's answer."""
    topic = f"Split.{status}"
    ask(guarded, "app", "declare", topic=topic, topic_mask="2")
    with wire(guarded) as service, wire(guarded) as shared:
        service.send(command("consume", id="c", topic=topic, token=SECRET))
        wait_until(lambda: b'"consumerCount":1' in ask(guarded, "app", "query", topic=topic)[1], "service")
        shared.send(get(f"/{topic}/m/1", f"token: {SECRET}"), get("/ping", f"token: {SECRET}"))
        asked = service.receive()
        found = re.search(rb"origin_id: (\S+)\r\n.*sender: (\S+)\r\n", asked, re.DOTALL)
        assert found is not None
        poison = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"
        route = {"id": found[1].decode(), "recver": found[2].decode(), "origin_status": status, "token": SECRET}
        service.send(command("route", poison, **route))
        first, second = shared.receive(), shared.receive()

    assert status_of(first) == max(200, int(status))
    assert body_of(first) == (b"" if status in {"204", "304"} else poison)
    assert (status_of(second), body_of(second)) == (200, b"OK")


def test_ack_of_a_stranger_takes_no_message(guarded: str) -> None:
    """Only who may consume of a group may say that one of its messages is done."""
    asked = {"topic": "Acked", "consume_group": "g"}
    ask(guarded, "app", "declare", **asked, group_mask="64")
    ask(guarded, "app", "produce", b"work", topic="Acked")
    with wire(guarded) as consumer:
        offset = re.search(rb"offset: (\d+)", consumer.ask(command("consume", token=SECRET, **asked)))
        assert offset is not None

        assert ask(guarded, "villain", "ack", offset=offset[1].decode(), **asked)[0] == 403

    again = ask(guarded, "app", "consume", timeout="20", **asked)
    assert again == (200, b"work")


def test_dead_letters_are_for_who_may_consume_them(guarded: str) -> None:
    """A right for a topic is none for the topic of its dead letters."""
    declare(guarded, "Shared.dlq")

    for name in ("consume", "query", "produce", "declare"):
        assert ask(guarded, "villain", name, topic="Shared.dlq", offset="0")[0] == 403


def test_calls_that_are_refused_together_are_all_answered(guarded: str) -> None:
    """Each has its own answer, also where none of them got as far as the service."""
    with wire(guarded) as connection:
        for number in range(5):
            connection.send(get(f"/rpc/Secret/add/{number}", f"token: {secret_of('villain')}"))

        assert [status_of(connection.receive()) for _ in range(5)] == [403] * 5


def test_native_caller_cannot_be_another_by_its_headers(guarded: str) -> None:
    """What a call says of its sender is not what the service is told."""
    ask(guarded, "app", "declare", topic="Evil.calls", topic_mask="2")
    with wire(guarded) as service, QueuePeer(guarded, SECRET) as caller:
        service.send(command("consume", id="c", topic="Evil.calls", token=SECRET))
        wait_until(lambda: b'"consumerCount":1' in ask(guarded, "app", "query", topic="Evil.calls")[1], "service")
        headers = encode_headers({"sender": "victim", "id": "7", "cmd": "remove", "recver": "x"})
        caller.send(Message(Kind.REQUEST, 99, b"Evil.calls", b'{"method":"m"}', headers, timeout_ms=20_000))
        asked = service.receive()

    assert b"sender: victim" not in asked
    assert b"cmd:" not in asked


def test_callers_with_the_same_id_get_each_their_own_answer(guarded: str) -> None:
    """Also where their calls are stored, and belong to no session: an answer is one user's alone."""
    with QueuePeer(guarded, SECRET) as durable:
        assert isinstance(durable, QueuePeer)
        durable.ask(Kind.SUBSCRIBE, {"window": 1, "about": {"durable": True}}, topic="Durable")
    with wire(guarded) as service, wire(guarded) as anna, wire(guarded) as bert:
        for caller, name in ((anna, b"anna"), (bert, b"bert")):
            caller.send(command("rpc", b'{"method":"%b"}' % name, id="1", topic="Durable", token=SECRET))
            calls = rb'"messageDepth":%d' % (1 if caller is anna else 2)
            wait_until(lambda: calls in ask(guarded, "app", "query", topic="Durable")[1], "stored call")  # noqa: B023
        take = command("consume", id="c", topic="Durable", consume_group="calls", token=SECRET)
        asked = [service.ask(take), service.ask(take)]
        for one in asked:
            recver = re.search(rb"\r\nsender: (\S+)\r\n", one)
            assert recver is not None
            body = b'{"result":"for %b"}' % body_of(one)[11:15]
            service.send(command("route", body, id="1", recver=recver[1].decode(), token=SECRET))

        assert [body_of(caller.receive()) for caller in (anna, bert)] == [
            b'{"result":"for anna"}',
            b'{"result":"for bert"}',
        ]


def test_long_names_are_not_remembered() -> None:
    """Clients write them: rights remember their answers about short names only."""
    rights = Rights("test", [])

    for number in range(10):
        assert not rights.allows(Operation.CONSUME, f"{number}" * 1000, "g")
        assert not rights.allows(Operation.CONSUME, "T", f"{number}" * 1000)
    assert not rights.allows(Operation.CONSUME, "T", "g")

    assert len(rights._decisions) == 1
