"""Reverse proxies: nginx and haproxy as docs/operations.md configures them, before a real broker."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path

import httpx
import pytest
import trustme
from websockets.sync.client import connect

from tests.support.fixtures import open_site
from tests.support.processes import Process, Processes
from tests.support.proxies import NAME, Proxy, needs_proxies, start_haproxy, start_nginx
from tests.support.waiting import WAIT_S, wait_until
from tests.support.web import WebLab
from zbusrpc.config import MESSAGE_BYTES_MAX

pytestmark = needs_proxies
SITES, PATHS = ("http", "https"), ("", "/mq")
DOORS = [(program, scheme, prefix) for program in ("nginx", "haproxy") for scheme in SITES for prefix in PATHS]
CONNECTIONS_MAX = 100
"""Of one client, as the page has it."""
SPARE = 5
"""As many more, since connections of the test before may count for a moment."""
OF_ITS_OWN = """
server {
    listen 127.0.0.1:OTHER;
    location / { proxy_pass http://BROKER; }
}
"""
"""The least that somebody may write: HTTP/1.0 without a word of what the client called the broker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The proxies, and the broker behind them."""

    lab: WebLab
    broker: Process
    proxies: dict[str, Proxy]
    ca: Path
    processes: Processes


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Run a broker with a service, nginx and haproxy."""
    with Processes(tmp_path_factory.mktemp("proxies")) as processes:
        ca, certificate = processes.directory / "ca.pem", processes.directory / "mq.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(ca))
        authority.issue_cert(NAME, "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        data = ("--data-dir", str(processes.directory / "data"))
        site = open_site(processes, broker=("--advertise", NAME, *data))
        proxies = {
            "nginx": start_nginx(processes, site.address, certificate, OF_ITS_OWN.replace("BROKER", site.address)),
            "haproxy": start_haproxy(processes, site.address, certificate),
        }
        lab = WebLab(site.address)
        yield Front(lab=lab, broker=site.broker, proxies=proxies, ca=ca, processes=processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One way in."""

    scheme: str
    port: int
    prefix: str
    ca: Path

    @property
    def origin(self) -> str:
        """What a browser calls pages from here."""
        return f"{self.scheme}://{NAME}:{self.port}"

    @property
    def url(self) -> str:
        """Where it begins."""
        return f"{self.scheme}://127.0.0.1:{self.port}{self.prefix}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What trusts its certificate."""
        return ssl.create_default_context(cafile=str(self.ca)) if self.scheme == "https" else None

    def open(self) -> HTTPConnection:
        """Return a connection."""
        if self.tls is not None:
            return HTTPSConnection("127.0.0.1", self.port, timeout=WAIT_S, context=self.tls)
        return HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def ask(self, line: str, body: bytes | None = None, **headers: str) -> tuple[HTTPResponse, bytes]:
        """Send a request as to the site, and return its answer with the body."""
        method, path = line.split(" ", 1)
        sent = {"Host": f"{NAME}:{self.port}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        with closing(self.open()) as connection:
            connection.request(method, self.prefix + path, body, sent)
            answer = connection.getresponse()
            return answer, answer.read()


@pytest.fixture(params=DOORS, ids=lambda one: f"{one[0]} {one[1]} {one[2]}".strip())
def door(front: Front, request: pytest.FixtureRequest) -> Door:
    """Return each of the ways in."""
    program, scheme, prefix = request.param
    proxy = front.proxies[program]
    return Door(scheme=scheme, port=getattr(proxy, scheme), prefix=prefix, ca=front.ca)


@pytest.fixture
def queue(front: Front, topic: str) -> str:
    """Return the name of a topic with a group g."""
    front.lab.declare(topic, "g")
    return topic


def test_calls_and_messages_come_through(front: Front, door: Door, queue: str) -> None:
    """Values with slashes and all, the largest body, and one that is too large."""
    largest = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)

    assert json.loads(door.ask("GET /rpc/Lab/add/1/2")[1]) == {"result": 3}
    assert json.loads(door.ask("GET /rpc/Lab/any_value/a%2Fb%20c?")[1]) == {"result": "a/b c"}
    assert door.ask(f"POST /produce/{queue}?tag=a%2Fb", largest)[0].status == 200
    answer, body = door.ask(f"GET /consume/{queue}/g?timeout=20")

    assert (answer.status, answer.headers["tag"], body == largest) == (200, "a/b", True)


def test_body_that_is_too_large_is_told(front: Front, door: Door, queue: str) -> None:
    """By the proxy or by the broker; the client reads why."""
    assert door.ask(f"POST /produce/{queue}", bytes(MESSAGE_BYTES_MAX + 1))[0].status == 413


def test_poll_waits_and_is_answered(front: Front, door: Door, queue: str) -> None:
    """It ends with a message, or in vain with 204."""
    assert door.ask(f"GET /consume/{queue}?timeout=0.1")[0].status == 204
    with closing(door.open()) as connection:
        connection.request("GET", f"{door.prefix}/consume/{queue}?timeout=60", headers={"Host": NAME})
        front.lab.wait_consumers(queue, 1)
        front.lab.produce(queue, "one")
        assert connection.getresponse().read() == b"one"


def test_poll_whose_client_has_gone_takes_no_message(front: Front, door: Door, queue: str) -> None:
    """The proxy tells the broker: what comes then is for the next."""
    with closing(door.open()) as connection:
        connection.request("GET", f"{door.prefix}/consume/{queue}/g?timeout=60", headers={"Host": NAME})
        front.lab.wait_consumers(queue, 1, "g")
    front.lab.wait_consumers(queue, 0, "g")

    front.lab.produce(queue, "kept")

    assert door.ask(f"GET /consume/{queue}/g?timeout=20")[1] == b"kept"


def test_events_come_at_once(front: Front, door: Door, queue: str) -> None:
    """The next is produced when the one before it was read."""
    with httpx.Client(verify=door.tls or True, timeout=WAIT_S, trust_env=False) as client:
        headers = {"Accept": "text/event-stream", "Host": NAME}
        with client.stream("GET", f"{door.url}/consume/{queue}/g", headers=headers) as answer:
            lines = answer.iter_lines()
            for number in range(3):
                front.lab.produce(queue, str(number))
                assert [next(lines) for _ in range(3)] == [f"id: {number}", f"data: {number}", ""]
    front.lab.wait_consumers(queue, 0, "g")


def test_websocket_goes_both_ways(front: Front, door: Door, queue: str) -> None:
    """As a page of the site opens it."""
    url = f"{door.url.replace('http', 'ws', 1)}/"
    with (
        socket.create_connection(("127.0.0.1", door.port), timeout=WAIT_S) as raw,
        connect(
            url.replace("127.0.0.1", NAME),
            sock=raw,
            ssl=door.tls,
            origin=door.origin,
            compression=None,
            proxy=None,  # type: ignore[arg-type]
        ) as websocket,
    ):
        websocket.send(f"GET / HTTP/1.1\r\ncmd: produce\r\ntopic: {queue}\r\nid: p\r\ncontent-length: 2\r\n\r\nhi")
        assert "id: p\r\n" in str(websocket.recv(WAIT_S))
        websocket.send(f"GET / HTTP/1.1\r\ncmd: consume\r\ntopic: {queue}\r\nid: c\r\n\r\n")
        assert str(websocket.recv(WAIT_S)).endswith("\r\n\r\nhi")


@pytest.mark.parametrize("has_port", [True, False])
def test_pages_of_the_site_are_let_in_and_others_are_not(front: Front, door: Door, queue: str, has_port: bool) -> None:
    """A site at its usual port has none in its name; a browser names page and host alike."""
    host = f"{NAME}:{door.port}" if has_port else NAME
    own = {"Host": host, "Origin": f"{door.scheme}://{host}", "Sec_Fetch_Site": "same-origin"}

    assert door.ask(f"POST /produce/{queue}", b"x", **own)[0].status == 200
    assert door.ask(f"POST /produce/{queue}", b"x", **(own | {"Origin": "https://evil.example"}))[0].status == 403
    assert door.ask("GET /rpc", Host="evil.example")[0].status == 403


def test_client_has_so_many_connections_and_its_address_is_logged(front: Front, door: Door, queue: str) -> None:
    """The broker sees the proxy alone: it is the proxy that counts, and that says who is refused."""
    with ExitStack() as opened:
        for _ in range(CONNECTIONS_MAX + SPARE):
            connection = opened.enter_context(closing(door.open()))
            connection.request("GET", f"{door.prefix}/consume/{queue}/g?timeout=60", headers={"Host": NAME})
        wait_until(lambda: door.ask("GET /ping")[0].status == 429, "refusal of one too many")
    front.lab.wait_consumers(queue, 0, "g")

    stranger = {"Host": f"{queue}.example", "X_Forwarded_For": "203.0.113.7"}
    wait_until(lambda: door.ask("GET /rpc", **stranger)[0].status == 403, "the broker's own answer")

    def refused() -> list[str]:  # lines are written by a thread
        lines = front.broker.log("broker.refused")
        return [line["forwarded_for"] for line in lines if f"{queue}.example".lower() in line["reason"].lower()]

    assert wait_until(refused, "the line of the log") == ["127.0.0.1"]


def test_programs_come_by_tls_in_front(front: Front) -> None:
    """A Python program stays with the proxy, whatever address it is told."""
    broker = f"tls://127.0.0.1:{front.proxies['haproxy'].other}"

    ended = front.processes.end_of("call", "Lab.add", "1", "2", "--broker", broker, ZBUSRPC_TLS_CA=str(front.ca))

    assert (ended.exit_code, ended.output.strip()) == (0, "3"), ended.errors


def test_proxy_that_was_told_nothing_else(front: Front, queue: str) -> None:
    """With nginx' own defaults polls and events work; pages are strangers, and the line says what lets them in."""
    door = Door(scheme="http", port=front.proxies["nginx"].other, prefix="", ca=front.ca)

    test_events_come_at_once(front, door, queue)
    assert json.loads(door.ask("GET /rpc/Lab/add/1/2")[1]) == {"result": 3}
    refused, text = door.ask(f"POST /produce/{queue}", b"x", Origin=door.origin)

    assert refused.status == 403
    assert f"pages of {door.origin} may not use this broker; start it with --allow-origin".encode() in text
