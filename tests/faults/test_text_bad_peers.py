"""Text peers that send rubbish, lie about lengths, dribble, do not read or want too much: nobody else notices."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.processes import Process, Processes
from tests.support.queue_peer import QueuePeer
from tests.support.text_wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    TEXT,
    UPGRADE,
    TextWire,
    body_of,
    command,
    frame,
    get,
    status_of,
    wire,
)
from tests.support.waiting import wait_until
from tests.support.watch import watching
from zbusrpc.message import Kind, Message, encode_headers
from zbusrpc.transport.entries import encode_entry

MIB = 1024 * 1024
STALL_S_MAX = 2.0
"""Far more than anything here keeps the broker busy, and far less than what it must not be led into."""


class Site:
    """A broker, and a good client whose messages must get through whatever others do."""

    def __init__(self, broker: Process, address: str, data: Path) -> None:
        self.broker, self.address, self.data = broker, address, data
        self.good = TextWire(address)
        assert status_of(self.good.ask(command("declare", topic="good"))) == 200
        self._count = 0

    def check(self) -> None:
        """See that a message is stored and delivered, on the connection that was there from the start."""
        self._count += 1
        text = b"message %d" % self._count
        assert status_of(self.good.ask(command("produce", text, topic="good"))) == 200
        assert body_of(self.good.ask(command("consume", topic="good"))) == text

    @contextmanager
    def undisturbed(self, memory_mib_max: int = 32) -> Iterator[None]:
        """See that the good client never waits long, and that the broker does not grow, while something is done."""
        self.check()
        with watching(self.broker, wire(self.address), _ping) as watch:
            yield
        self.check()
        print(f"longest wait {watch.longest_s:.3f} s, at most {watch.grown_bytes // MIB} MiB more")
        assert watch.longest_s < STALL_S_MAX
        assert watch.grown_bytes < memory_mib_max * MIB
        assert "Traceback" not in self.broker.errors

    def sessions(self) -> int:
        """Return how many sessions the broker has."""
        with QueuePeer(self.address) as peer:
            return int(peer.query()["statistics"]["sessions"])


def _ping(peer: TextWire) -> None:
    assert body_of(peer.ask(command("ping"))) == b"OK"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a broker for all tests of this file, none of which may harm it."""
    directory = tmp_path_factory.mktemp("site")
    with Processes(directory) as started:
        broker, address = started.broker("--data-dir", str(directory / "data"), "--durability", "os")
        site = Site(broker, address, directory / "data")
        yield site
        site.good.close()


# -- requests that cannot be read ----------------------------------------------------------------------------

LINE = b"POST /produce/good HTTP/1.1\r\nhost: localhost\r\n"
SMUGGLED = get("/remove/good")
"""Stands behind what cannot be read, and must not be carried out."""
UNREADABLE = {
    "negative content-length": LINE + b"content-length: -1\r\n\r\n",
    "content-length with a plus": LINE + b"content-length: +5\r\n\r\nhello",
    "content-length beyond 64 bits": LINE + b"content-length: 18446744073709551617\r\n\r\n",
    "content-length that is no number": LINE + b"content-length: five\r\n\r\nhello",
    "content-length in hex": LINE + b"content-length: 0x5\r\n\r\nhello",
    "content-length with a space": LINE + b"content-length: 5 0\r\n\r\nhello",
    "content-length in other digits": LINE + "content-length: \u0665\r\n\r\nhello".encode(),
    "content-length of nothing": LINE + b"content-length:\r\n\r\nhello",
    "list of content-lengths": LINE + b"content-length: 5, 5\r\n\r\nhello",
    "two content-lengths": LINE + b"content-length: 5\r\ncontent-length: 3\r\n\r\nhello",
    "the same content-length twice": LINE + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "content-length and chunks": LINE + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and content-length": LINE + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "chunked twice": LINE + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then something else": LINE + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "another transfer-encoding": LINE + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding hidden by a space": LINE + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding hidden by a tab": LINE + b"transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding on a second line": LINE + b"x-own: a\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding behind a bare LF": LINE + b"x-own: a\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding behind a bare CR": LINE + b"x-own: a\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk of a size beyond 64 bits": LINE
    + b"transfer-encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk of a negative size": LINE + b"transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk of a size in no digits": LINE + b"transfer-encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n",
    "chunk without its end": LINE + b"transfer-encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n",
    "chunk size that ends by LF": LINE + b"transfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "header without colon": LINE + b"no colon\r\n\r\n",
    "header without name": LINE + b": value\r\n\r\n",
    "header name with a space": LINE + b"x own: value\r\n\r\n",
    "NUL in a header's name": LINE + b"x\0own: value\r\n\r\n",
    "NUL in a header's value": LINE + b"x-own: a\0b\r\n\r\n",
    "NUL in the target": b"GET /produce/go\0od HTTP/1.1\r\n\r\n",
    "NUL in the method": b"GE\0T /ping HTTP/1.1\r\n\r\n",
    "bare LF behind the start line": b"GET /ping HTTP/1.1\nhost: localhost\r\n\r\n",
    "bare LF behind a header": b"GET /ping HTTP/1.1\r\nhost: localhost\n\r\n",
    "bare LF at the end of the head": b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\n",
    "bare CR in a header": LINE + b"x-own: a\rb\r\n\r\n",
    "method that is none": b"BREW /ping HTTP/1.1\r\n\r\n",
    "method in lower case": b"get /ping HTTP/1.1\r\n\r\n",
    "target of two words": b"GET /ping /pong HTTP/1.1\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\n\r\n",
    "protocol that is none": b"GET /ping HTTQ/1.1\r\n\r\n",
    "response": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "body longer than it may be": LINE + b"content-length: 16777217\r\n\r\n",
    "header line of 1 MiB": LINE + b"x-own: " + b"x" * MIB + b"\r\n\r\n",
    "header name of 1 MiB": LINE + b"x" * MIB + b": own\r\n\r\n",
    "target of 1 MiB": b"GET /" + b"x" * MIB + b" HTTP/1.1\r\n\r\n",
    "method of 1 MiB": b"GET" * (MIB // 3) + b" / HTTP/1.1\r\n\r\n",
    "too many headers": LINE + b"x-own: 1\r\n" * 101 + b"\r\n",
    "ten thousand headers of nothing": LINE + b"x-own:\r\n" * 10_000 + b"\r\n",
}
OTHER_STATUS = {
    "body longer than it may be": 413,
    "header line of 1 MiB": 431,
    "header name of 1 MiB": 431,
    "target of 1 MiB": 414,
    "too many headers": 431,
    "ten thousand headers of nothing": 431,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_a_reason_and_the_connection_closed(site: Site, name: str) -> None:
    """What came before is answered; what stands behind is no request, however the two may be told apart elsewhere."""
    with wire(site.address) as peer, site.undisturbed():
        peer.send(get("/ping"), UNREADABLE[name], SMUGGLED)
        before, refusal = peer.receive(), peer.receive()
        rest = peer.rest()

    assert body_of(before) == b"OK"
    assert status_of(refusal) == OTHER_STATUS.get(name, 400)
    assert json.loads(body_of(refusal))["error"]["message"]
    assert rest == b""


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_client_of_zbus_is_refused_in_its_own_way(site: Site, name: str) -> None:
    """The reason is plain text then, header names are in lower case, and there is no content-type."""
    with wire(site.address) as peer, site.undisturbed():
        peer.send(command("ping", id="1"), UNREADABLE[name], SMUGGLED)
        before, refusal = peer.receive(), peer.receive()
        rest = peer.rest()

    head, _, reason = refusal.partition(b"\r\n\r\n")
    assert body_of(before) == b"OK"
    assert status_of(refusal) == OTHER_STATUS.get(name, 400)
    assert re.fullmatch(rb"HTTP/1\.1 \d+ [\w -]+\r\nconnection: close\r\ncontent-length: \d+", head)
    assert reason
    assert b"\n" not in reason
    assert rest == b""


@pytest.mark.parametrize("start", [LINE + b"x-own: ", LINE + b"x", b"GET /", b"GET", LINE])
def test_a_head_that_never_ends_costs_no_memory(site: Site, start: bytes) -> None:
    """In small blocks over many connections, it is refused as soon as it is too long."""
    block = b"x-own: 1\r\n" * 1000 if start == LINE else b"x" * 10_000
    with site.undisturbed():
        peers = [TextWire(site.address) for _ in range(20)]
        for peer in peers:
            peer.send(start)
        for _ in range(70):
            for peer in peers:
                with suppress(OSError):  # it was closed already, as it should be
                    peer.send(block)
        answers = [peer.rest() for peer in peers]
        for peer in peers:
            peer.close()

    assert {status_of(answer) for answer in answers} <= {0, 400, 414, 431}


def test_a_body_that_was_promised_costs_nothing_until_it_comes(site: Site) -> None:
    """Memory is not set aside by what a peer says of lengths."""
    peers = [TextWire(site.address) for _ in range(50)]
    with site.undisturbed():
        for peer in peers:
            peer.send(LINE, b"content-length: 16777216\r\n\r\n", b"x" * 10_000)
        wait_until(lambda: site.sessions() >= 50, "all connected")
    for peer in peers:
        peer.close()

    wait_until(lambda: site.sessions() < 50, "all gone")


def test_what_stands_behind_the_last_chunk_is_no_header(site: Site) -> None:
    """A proxy that looks at headers does not look there (RFC 9110, 6.5.1)."""
    request = b"POST /ping HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncmd: remove\r\ntopic: good\r\n\r\n"
    with wire(site.address) as peer:
        answer = peer.ask(request)
    try:
        assert body_of(answer) == b"OK"
    finally:
        site.good.ask(command("declare", topic="good"))


# -- commands that cannot be carried out ---------------------------------------------------------------------

REFUSED = {
    "unknown command": (command("nonsense"), 400, "Bad format: command(nonsense) not support"),
    "unknown command of 20 KiB": (command("x" * 20_000), 400, "Bad format: command("),
    "id of 40 bytes": (command("produce", b"x", topic="good", id="i" * 40), 400, "exceeds the limit of 39"),
    "id of 30 KiB": (command("produce", b"x", topic="good", id="i" * 30_000), 400, "exceeds the limit of 39"),
    "tag of 128 bytes": (command("produce", b"x", topic="good", tag="t" * 128), 400, "exceeds the limit of 127"),
    "track_pub without a body": (command("track_pub"), 400, "track_pub: body"),
    "track_pub with null": (command("track_pub", b"null"), 400, "track_pub: "),
    "track_pub of deep JSON": (command("track_pub", b"[" * 1_000_000), 400, "track_pub: "),
    "percent signs in a topic": (command("produce", topic="%s%n%d%%"), 404, "Topic(%s%n%d%%) not found"),
    "percent signs in a topic to declare": (command("declare", topic="%s%n"), 400, "may not hold '%'"),
    "mask that is no number": (command("declare", topic="x", topic_mask="-1"), 400, "topic_mask"),
    "mask of many digits": (command("declare", topic="x", group_mask="9" * 5000), 400, "group_mask"),
    "offset of many digits": (command("consume", topic="good", offset="9" * 5000), 400, "offset"),
    "time that is none": (command("consume", topic="good", timeout="nan"), 400, "timeout"),
    "filter that cannot be": (command("declare", topic="x", consume_group="g", group_filter="#.a"), 400, "filter"),
    "filter of 20 KiB": (command("declare", topic="x", consume_group="g", group_filter="+." * 10_000), 400, "filter"),
    "topic of 20 KiB": (command("declare", topic="t" * 20_000), 400, "exceeds the limit of 127 bytes"),
    "status of no kind": (command("route", recver="x", id="1", origin_status="-200"), 400, "origin_status"),
    "service of 20 KiB": (command("rpc", b"{}", topic="t" * 20_000), 404, "not found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_commands_are_refused_in_one_line_and_the_connection_goes_on(site: Site, name: str) -> None:
    """The status is the right one, the reason names what is wrong."""
    request, status, reason = REFUSED[name]
    with wire(site.address) as peer, site.undisturbed():
        answer = peer.ask(request)
        after = peer.ask(command("ping"))

    assert status_of(answer) == status
    assert reason in body_of(answer).decode()
    assert body_of(answer).count(b"\n") == 0
    assert body_of(after) == b"OK"


NAMES = [
    "../evil",
    "..",
    ".",
    "../../evil",
    "/evil",
    "a/../../evil",
    "..\\evil",
    "evil\0",
    "a/b",
    "\r\nevil",
    "C:\\evil",
]


def encoded(name: str) -> str:
    """Return a name with every letter percent-encoded."""
    return "".join(f"%{byte:02X}" for byte in name.encode())


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_way_out_of_the_data_directory(site: Site, name: str) -> None:
    """Nothing appears, changes or goes beside the data directory, whatever a topic or a group is called."""
    outside = site.data.parent / "evil"
    outside.mkdir(exist_ok=True)
    (outside / "precious").write_text("precious")
    before = sorted(path.relative_to(site.data.parent) for path in site.data.parent.rglob("*evil*"))
    with wire(site.address) as peer, site.undisturbed():
        for cmd in ("declare", "produce", "consume", "query", "empty", "remove", "declare"):
            if name.isprintable():
                by_header = peer.ask(command(cmd, topic=name))
                as_group = peer.ask(command(cmd, topic="good", consume_group=name)) if cmd != "produce" else by_header
                assert {status_of(by_header), status_of(as_group)} <= {400, 404}
            by_url = peer.ask(get(f"/{cmd}/{encoded(name)}"))
            by_parameter = peer.ask(get(f"/?cmd={cmd}&topic={encoded(name)}"))
            assert {status_of(by_url), status_of(by_parameter)} <= {400, 404}

    after = sorted(path.relative_to(site.data.parent) for path in site.data.parent.rglob("*evil*"))
    assert after == before
    assert (outside / "precious").read_text() == "precious"


# -- routing -------------------------------------------------------------------------------------------------


def sender_in(message: bytes) -> str:
    """Return the session that a message came from."""
    found = re.search(rb"\r\nsender: (\S+)\r\n", message)
    assert found, message
    return found[1].decode()


def test_a_message_is_routed_to_nobody_who_did_not_ask(site: Site) -> None:
    """Not to a session that is gone, not to one that asked somebody else or something else, and to nobody twice."""
    with wire(site.address) as caller, wire(site.address) as service, wire(site.address) as stranger:
        caller.ask(command("declare", topic="ask", topic_mask="2"))
        service.send(command("consume", topic="ask", id="c"))
        wait_until(lambda: b'"consumerCount":1' in caller.ask(command("query", topic="ask")), "service")
        caller.send(command("rpc", b'{"method":"x"}', topic="ask", id="R"))
        name = sender_in(service.receive())

        with site.undisturbed():
            for receiver, id_ in ((name, "R"), (name, "other"), ("nobody", "R"), (f"{name}0", "R")):
                stranger.send(command("route", b"forged", recver=receiver, id=id_))
            service.send(command("route", b"other", recver=name, id="other"))
            service.send(command("route", b'{"result":1}', recver=name, id="R"))
            service.send(command("route", b'{"result":2}', recver=name, id="R"))
            answer = caller.receive()
            after = [peer.ask(command("ping", id="last")) for peer in (caller, service, stranger)]

    assert body_of(answer) == b'{"result":1}'
    assert [body_of(message) for message in after] == [b"OK"] * 3
    with wire(site.address) as late:  # the caller is gone now
        late.send(command("route", b"late", recver=name, id="R"))
        assert body_of(late.ask(command("ping"))) == b"OK"


# -- WebSocket -----------------------------------------------------------------------------------------------

BAD_FRAMES = {
    "no mask": (frame(BINARY, command("ping"), mask=b""), 1002),
    "reserved bit": (frame(BINARY, command("ping"), first=0xC0), 1002),
    "opcode that is none": (frame(5, b"x"), 1002),
    "2 GiB": (frame(BINARY, b"x" * 100, size=2 * 1024 * MIB), 1009),
    "2 GiB in a fragment": (frame(BINARY, b"x", first=0) + frame(CONT, b"x", size=2 * 1024 * MIB), 1009),
    "more than 63 bits": (frame(BINARY, b"x", size=2**63 + 5), 1009),
    "one byte more than a message may have": (frame(BINARY, b"x", size=16 * MIB + 126), 1009),
    "text that is no UTF-8": (frame(TEXT, b"\xff\xfe" + command("ping")), 1007),
    "text that is no UTF-8, in fragments": (frame(TEXT, b"\xc3", first=0) + frame(CONT, b"\x28"), 1007),
    "ping in fragments": (frame(PING, b"x", first=0), 1002),
    "ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONT, b"x"), 1002),
    "message within a message": (frame(BINARY, b"x", first=0) + frame(BINARY, b"y"), 1002),
    "close with a code that is none": (frame(CLOSE, b"\x00\x01"), 1002),
    "close with half a code": (frame(CLOSE, b"\x03"), 1002),
    "close with a reason that is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_frames_that_break_the_rules_close_that_websocket(site: Site, name: str) -> None:
    """What came before is answered, then it is closed with the code that the RFC has for it."""
    data, code = BAD_FRAMES[name]
    with wire(site.address) as peer, site.undisturbed():
        peer.upgrade()
        peer.send(frame(BINARY, command("ping")))
        opcode, answer = peer.receive_frame()
        peer.send(data, frame(BINARY, command("remove", topic="good")))
        last_opcode, reason = peer.receive_frame()
        end = peer.receive_frame()

    assert (opcode, body_of(answer)) == (BINARY, b"OK")
    assert (last_opcode, int.from_bytes(reason[:2])) == (CLOSE, code)
    assert end == (-1, b"")


BAD_MESSAGES = {
    "no HTTP": b"hello",
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\ncmd: ping\r\n",
    "half a body": command("ping", b"hello")[:-1],
    "two in one": command("ping") * 2,
    "one and a half": command("ping") + b"GET / HTTP/1.1\r\n",
    "a body longer than it says": command("ping", b"hello") + b"x",
    "header without colon": b"GET / HTTP/1.1\r\ncmd ping\r\n\r\n",
    "header line of 1 MiB": b"GET / HTTP/1.1\r\ncmd: " + b"x" * MIB + b"\r\n\r\n",
    "upgrade within": UPGRADE,
    "JSON, as of zbus 1.0": b'{"headers":{"cmd":"pub"},"body":"x"}',
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_websocket_messages_that_are_no_request_are_refused(site: Site, name: str) -> None:
    """They are told so in the way of zbus, and the next one is carried out."""
    with wire(site.address) as peer, site.undisturbed():
        peer.upgrade()
        peer.send(frame(BINARY, BAD_MESSAGES[name]), frame(BINARY, command("ping", id="after")))
        _, refusal = peer.receive_frame()
        _, after = peer.receive_frame()

    if name != "upgrade within":  # which is a request for the home page like others
        assert status_of(refusal) in {400, 431}
        assert b"content-type" not in refusal.lower()
    assert b"id: after" in after
    assert body_of(after) == b"OK"


def test_a_websocket_that_closes_takes_no_message_with_it(site: Site) -> None:
    """After the close frame nothing is handed to it, though its connection is still there."""
    site.good.ask(command("declare", topic="kept"))
    with wire(site.address) as peer, wire(site.address) as other:
        peer.upgrade()
        peer.send(frame(BINARY, command("consume", topic="kept", id="c")))
        wait_until(lambda: b'"consumerCount":1' in other.ask(command("query", topic="kept")), "consumer")

        peer.send(frame(CLOSE))
        assert peer.receive_frame()[0] == CLOSE
        other.ask(command("produce", b"precious", topic="kept"))
        peer.close()

        assert body_of(other.ask(command("consume", topic="kept"))) == b"precious"


# -- header injection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["%0D%0A", "%0A", "%0D", "%C2%85", "%E2%80%A8", "%0B", "%0C", "%1C"])
def test_no_value_begins_a_line_of_its_own(site: Site, letters: str) -> None:
    """Neither in the answer nor in what consumers are given, whatever some client takes for the end of a line."""
    value = f"a{letters}evil:1"
    with wire(site.address) as peer, site.undisturbed():
        peer.ask(command("declare", topic="lines"))
        parameters = f"body=x&id={value}&tag={value}&x-own={value}&origin_status={value}&x{letters}evil=1"
        produced = peer.ask(get(f"/produce/lines?{parameters}"))
        consumed = peer.ask(command("consume", topic="lines", id="c"))
        refusals = [peer.ask(get(f"/{cmd}/{value}?id={value}")) for cmd in ("query", "consume", value)]

    assert [status_of(answer) for answer in (produced, consumed)] == [200, 200]
    assert body_of(consumed) == b"x"
    for answer in (produced, consumed, *refusals):
        head = answer.partition(b"\r\n\r\n")[0].decode()
        assert not [line for line in head.splitlines() if line.strip().startswith("evil")]


def test_headers_of_native_producers_stay_within_their_lines(site: Site) -> None:
    """A native message may have anything in its headers; a zbus consumer is given lines."""
    headers = {"x-own": "a\r\nevil: 1", "evil\r\nevil": "1", "x evil": "1", "content-length": "99", "x-empty": ""}
    with wire(site.address) as peer, QueuePeer(site.address) as native, site.undisturbed():
        peer.ask(command("declare", topic="native"))
        message = encode_entry(0, 0, 0, b"i\r\nevil:1", b"t\r\nevil:1", b"", encode_headers(headers), b"body")
        native.send(Message(Kind.PRODUCE, 0, b"native", message))
        consumed = peer.ask(command("consume", topic="native"))

    assert body_of(consumed) == b"body"
    assert b"\r\nx-own: a  evil: 1\r\n" in consumed
    assert b"\nevil" not in consumed
    assert b"x evil" not in consumed


# -- too much ------------------------------------------------------------------------------------------------


def test_ten_thousand_requests_and_a_hang_up(site: Site) -> None:
    """A client that pipelines and leaves before the answers leaves nothing behind."""
    before = site.sessions()
    site.good.ask(command("declare", topic="left"))
    for request in (get("/ping"), command("query", topic="good"), command("consume", topic="left")):
        with site.undisturbed(memory_mib_max=64), wire(site.address) as peer:
            peer.socket.settimeout(0.5)
            with suppress(TimeoutError):  # it waits until we read, as it should
                peer.send(request * 10_000)
        wait_until(lambda: site.sessions() <= before, "session gone")


def test_ten_thousand_requests_are_all_answered_in_order(site: Site) -> None:
    """A client that pipelines and reads gets every answer."""
    with wire(site.address) as peer, site.undisturbed(memory_mib_max=64):
        sending = threading.Thread(
            target=peer.send, args=[b"".join(get("/ping", f"id: {number}") for number in range(10_000))]
        )
        sending.start()
        ids = [re.search(rb"id: (\d+)", peer.receive()) for _ in range(10_000)]
        sending.join()

    assert [int(found[1]) for found in ids if found] == list(range(10_000))


@pytest.mark.parametrize("is_stream", [True, False], ids=["event stream", "requests of its own"])
def test_a_consumer_that_does_not_read_costs_no_memory(site: Site, is_stream: bool) -> None:
    """Messages stay in the log until it reads; others are given theirs meanwhile."""
    topic = f"slow-{is_stream}"
    with wire(site.address) as slow, wire(site.address) as producer:
        producer.ask(command("declare", topic=topic))
        request = get(f"/consume/{topic}", *(["accept: text/event-stream"] if is_stream else []))
        slow.send(request * (1 if is_stream else 200))
        wait_until(lambda: b'"consumerCount":1' in producer.ask(command("query", topic=topic)), "consumer")
        with site.undisturbed(memory_mib_max=64):
            for _ in range(1000):
                assert status_of(producer.ask(command("produce", b"x" * 100_000, topic=topic))) == 200


MUCH_S = 120
"""For what takes a broker four seconds of its own: it may have a tenth of a processor."""


def test_two_thousand_groups_of_one_session(site: Site) -> None:
    """One session may declare and consume much; others go on, and nothing is left when all is removed."""
    with wire(site.address) as peer, wire(site.address) as other, site.undisturbed(memory_mib_max=128):
        peer.socket.settimeout(MUCH_S)
        other.socket.settimeout(MUCH_S)
        peer.ask(command("declare", topic="many"))
        for number in range(0, 2000, 100):
            peer.send(*(command("declare", topic="many", consume_group=f"g{n}") for n in range(number, number + 100)))
            assert {status_of(peer.receive()) for _ in range(100)} == {200}
        peer.send(*(command("consume", topic="many", consume_group=f"g{n}", id=f"{n}") for n in range(2000)))
        other.ask(command("produce", b"for all", topic="many"))
        bodies = [body_of(peer.receive()) for _ in range(2000)]
        removed = other.ask(command("remove", topic="many"))

    assert set(bodies) == {b"for all"}
    assert status_of(removed) == 200


def test_small_requests_with_large_answers_cost_no_memory(site: Site) -> None:
    """A client that does not read what it asks for is answered no further than its connection takes."""
    with wire(site.address) as owner:
        for number in range(100):
            owner.ask(command("declare", topic=f"large-{number}"))
        try:
            with wire(site.address) as peer, site.undisturbed(memory_mib_max=64):
                peer.send(command("server") * 3000)
                assert status_of(owner.ask(command("ping"))) == 200
        finally:
            for number in range(100):
                owner.ask(command("remove", topic=f"large-{number}"))
