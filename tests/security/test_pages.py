"""Pages in browsers: what those of others have a browser ask, under whatever name, and what its own get."""

import asyncio
import re
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.support.inprocess import running_broker
from tests.support.rights_core import rights, rule
from tests.support.text_wire import CLOSE, UPGRADE, TextWire, command, frame, status_of, wire
from tests.support.tokens import secret_of
from zbusrpc.broker.access.logins import IDLE_S, LOGINS_MAX, LOGINS_PER_TOKEN_MAX, Logins
from zbusrpc.broker.access.rights import Access, Rights
from zbusrpc.broker.dialects.http import gateway
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.guard import Guard
from zbusrpc.broker.dialects.http.origins import Origins
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.monitor import paths
from zbusrpc.broker.sessions.session import Session
from zbusrpc.transport.http import HttpRequest

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
LAN = "192.168.7.7:15555"
"""As whom a browser knows a broker of its network: by plain HTTP it does not tell such a host of whose page it asks."""
OPS = rights("ops", rule("admin"))
CHANGES = [
    "GET /remove/orders",
    "GET /?cmd=remove&topic=orders",
    "GET /produce/orders?body=x",
    "GET /orders?body=x",
    "GET /consume/orders?timeout=0",
    "GET /ack/orders?offset=0",
    "GET /declare/orders",
    "GET /empty/orders",
    "GET /rpc/Calc/add/1/2",
    "GET /Calc/add/1/2",
]
LOOKS = ["GET /query/orders", "GET /server", "GET /rpc", "GET /ping", "GET /api/topics", "GET /"]


@dataclass
class House:
    """A broker's rules."""

    access: Access | None = None
    origins: Origins = field(default_factory=lambda: Origins(bound_host="0.0.0.0", advertised_host="mq.example.org"))
    now: float = 0.0

    def __post_init__(self) -> None:
        self.logins = Logins(lambda: self.now)
        self.logins.listen_on(15555)

    def status(self, line: str, session: Session | None = None, **headers: str) -> int:
        """Send a request, and return the status of the refusal, or 0 where it is let in."""
        method, target = line.split(" ")
        named = {"host": LAN} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = HttpRequest(method, target.encode(), named, b"", True, False)
        is_own = gateway.is_for_it(request.target) or paths.is_for_it(request)
        exchange = Exchange(lambda answered: None)
        command = None if is_own and "cmd" not in named else Command(request)
        if Guard(self).admits(request, command, exchange, session or Session(1, "test")):
            return 0
        assert exchange.data is not None
        return int(exchange.data.split(b" ")[1])


INSECURE = House()
WITH_ANONYMOUS = House(
    Access((OPS,), [rule("produce", "consume", "remove", "query", "server", "admin")]), Origins(has_tokens=True)
)


# -- requests that a page of another site has a browser send -------------------------------------------------


@pytest.mark.parametrize("house", [INSECURE, WITH_ANONYMOUS], ids=["without tokens", "with rights for everybody"])
@pytest.mark.parametrize("line", CHANGES)
def test_image_on_a_page_of_somebody_else_changes_nothing(house: House, line: str) -> None:
    """Wherever the broker listens: such a request has neither Origin nor Sec-Fetch-Site, by plain HTTP."""
    for referer in ({}, {"referer": "http://evil.example/"}, {"referer": f"http://evil.example/{LAN}"}):
        assert house.status(line, user_agent=BROWSER, **referer) == 403
    for marked in ({"sec_fetch_site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert house.status(line, user_agent=BROWSER, **marked) == 403


@pytest.mark.parametrize("line", CHANGES)
def test_own_page_and_programs_change_what_they_want(line: str) -> None:
    """Curl, clients of zbus and Python, and the broker's own page in a browser, go on as before."""
    programs = [{}, {"user_agent": "curl/8.5.0"}, {"user_agent": "python-requests/2.32"}, {"user_agent": "node"}]

    assert [INSECURE.status(line, **headers) for headers in programs] == [0] * len(programs)
    own = [{"referer": f"http://{LAN}/"}, {"origin": f"http://{LAN}"}, {"sec_fetch_site": "same-origin"}]
    assert [INSECURE.status(line, user_agent=BROWSER, **headers) for headers in own] == [0] * len(own)


@pytest.mark.parametrize("line", LOOKS)
def test_browser_may_look(line: str) -> None:
    """Somebody types the address, or follows a link."""
    assert INSECURE.status(line, user_agent=BROWSER) == 0


def test_form_on_a_page_of_somebody_else_changes_nothing() -> None:
    """A browser tells the origin of each POST, whatever the page says of referrers."""
    for line in ("POST /produce/orders", "POST /rpc/Calc/add", "POST /api/topics/orders/remove", "POST /api/drain"):
        assert INSECURE.status(line, user_agent=BROWSER, origin="null") == 403
        assert INSECURE.status(line, user_agent=BROWSER, origin="http://evil.example") == 403
        assert INSECURE.status(line, user_agent=BROWSER, origin=f"http://{LAN}") == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:15555", "localhost.evil.example", "192.168.7.7.evil.example", "["]
)
@pytest.mark.parametrize(
    "line", ["GET /server", "GET /api/topics", "GET /remove/orders", "GET /rpc", "POST /api/drain"]
)
def test_name_that_somebody_else_points_here_is_refused(line: str, host: str) -> None:
    """Where no token is asked for, a page that has its own name resolve to the broker neither reads nor changes."""
    for page in ({}, {"origin": f"http://{host}"}, {"sec_fetch_site": "same-origin"}):
        assert INSECURE.status(line, host=host, user_agent=BROWSER, **page) == 403
    assert INSECURE.status("GET /", host=host, cmd="remove", topic="orders") == 403


@pytest.mark.parametrize("host", [LAN, "localhost:15555", "broker:15555", "[::1]:15555", "mq.example.org", ""])
def test_broker_is_known_by_its_own_names(host: str) -> None:
    """Addresses, names without a dot, the one that it advertises, and no name at all."""
    assert INSECURE.status("GET /produce/orders?body=x", host=host) == 0


def test_name_of_the_machine_is_its_own() -> None:
    """A machine that is called by its whole name is reached by it."""
    house = House(origins=Origins(bound_host="0.0.0.0", machine="Node7.example.org"))

    assert house.status("GET /server", host="node7.example.org:15555") == 0
    assert house.status("GET /server", host="node8.example.org:15555") == 403


# -- logins --------------------------------------------------------------------------------------------------


@pytest.fixture
def house() -> House:
    """Return a broker with a token."""
    return House(Access((OPS,)), Origins(has_tokens=True))


def test_cookie_of_a_login_is_no_token(house: House) -> None:
    """It is random, has the name of this port, and is worth nothing by another header or at another port."""
    id_ = house.logins.begin(OPS)
    session = Session(1, "test")

    assert house.status("GET /server", session, cookie=f"zbusrpc-15555={id_}") == 0
    assert session.rights is not None
    assert (session.rights.name, session.rights.digest) == ("ops", OPS.digest)
    assert secret_of("ops") not in id_
    assert len(id_) >= 43
    for shown in ({"token": id_}, {"authorization": f"Bearer {id_}"}, {"cookie": f"token={id_}"}):
        assert house.status("GET /server", **shown) == 401
    other = Session(2, "test")
    assert house.status("GET /server", other, cookie=f"zbusrpc-15556={id_}") == 0
    assert other.rights is house.access.anonymous  # type: ignore[union-attr]


def test_cookie_of_a_login_does_not_tell_who_asks(house: House) -> None:
    """As with any cookie: a GET that changes something needs a browser that tells whose page it is."""
    cookie = f"zbusrpc-15555={house.logins.begin(OPS)}"

    for line in CHANGES:
        assert house.status(line, cookie=cookie) == 403
        assert house.status(line, cookie=cookie, referer=f"http://{LAN}/") == 0


def test_login_ends(house: House) -> None:
    """By logging out, by time without a request, or with its token."""
    logins = house.logins
    out, idle, used, gone = (logins.begin(OPS) for _ in range(4))

    logins.end(out)
    assert logins.rights_of(out) is None
    house.now = IDLE_S - 1
    assert logins.rights_of(used) is not None
    house.now = IDLE_S + 1
    assert logins.rights_of(idle) is None
    assert logins.rights_of(used) is not None
    logins.renew(Access((rights("other", rule("query")),)))
    assert logins.rights_of(gone) is None
    assert logins.rights_of(used) is None


def test_login_has_the_rights_that_its_token_has_now(house: House) -> None:
    """After the file was read again."""
    id_ = house.logins.begin(OPS)

    house.logins.renew(Access((Rights("ops", [rule("query")], OPS.digest),)))

    renewed = house.logins.rights_of(id_)
    assert renewed is not None
    assert [sorted(one.operations) for one in renewed.rules] == [["query"]]


def test_each_login_has_rights_of_its_own(house: House) -> None:
    """So that what goes on by one can be told from what goes on by others of the same token."""
    one, two = house.logins.begin(OPS), house.logins.begin(OPS)

    assert house.logins.rights_of(one) is house.logins.rights_of(one)
    assert house.logins.rights_of(one) is not house.logins.rights_of(two)


def test_logins_are_bounded(house: House) -> None:
    """A token that logs in again and again ends its own logins; all together have a bound."""
    kept = house.logins.begin(rights("kept", rule("query")))
    mine = [house.logins.begin(OPS) for _ in range(LOGINS_PER_TOKEN_MAX + 1)]

    assert house.logins.rights_of(kept) is not None
    assert [house.logins.rights_of(id_) is None for id_ in mine[:2]] == [True, False]
    for number in range(LOGINS_MAX):
        house.logins.begin(rights(f"t{number}", rule("query")))
    assert house.logins.rights_of(mine[-1]) is None


@pytest.mark.parametrize("is_renewed", [False, True], ids=["", "after the file was read again"])
@pytest.mark.anyio
async def test_logging_out_ends_what_goes_on_by_the_login(is_renewed: bool) -> None:
    """The WebSocket that the page has opened with the cookie is closed; one of another login goes on."""

    with ExitStack() as stack:

        def log_in_twice(address: str) -> tuple[TextWire, TextWire, TextWire, str]:
            mine, other, third = (stack.enter_context(wire(address)) for _ in range(3))
            cookies = [_log_in(third) for _ in range(2)]
            for connection, cookie in zip((mine, other), cookies, strict=True):
                assert connection.ask(UPGRADE[:-2] + f"cookie: {cookie}\r\n\r\n".encode()).startswith(b"HTTP/1.1 101 ")
            return mine, other, third, cookies[0]

        def log_out(mine: TextWire, other: TextWire, third: TextWire, cookie: str) -> tuple[int, int, bytes]:
            out = third.ask(f"POST /api/logout HTTP/1.1\r\ncookie: {cookie}\r\ncontent-length: 0\r\n\r\n".encode())
            opcode, _ = mine.receive_frame()
            other.send(frame(1, command("server")))
            return status_of(out), opcode, other.receive_frame()[1]

        async with running_broker(access=Access((OPS,))) as server:
            opened = await asyncio.to_thread(log_in_twice, server.broker.name)
            if is_renewed:
                server.replace_access(Access((rights("ops", rule("admin")),)))
            status, opcode, answer = await asyncio.to_thread(log_out, *opened)

    assert (status, opcode) == (200, CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")


def _log_in(connection: TextWire) -> str:
    """Log in, and return the cookie that the broker sets."""
    body = b'{"token":"%b"}' % secret_of("ops").encode()
    answer = connection.ask(b"POST /api/login HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    found = re.search(rb"set-cookie: ([^;]+);", answer, re.IGNORECASE)
    assert found is not None, answer
    return found[1].decode()
