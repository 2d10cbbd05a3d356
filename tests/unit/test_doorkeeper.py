"""The doorkeeper: which requests are let in, by method, host, origin and token, and how the others are answered."""

from dataclasses import dataclass, field
from http import HTTPStatus

import pytest

from zbusrpc.broker.access.logins import Logins
from zbusrpc.broker.access.rights import Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.dialects.http import gateway
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.guard import SAFE, Guard, shown_by
from zbusrpc.broker.dialects.http.origins import Origins
from zbusrpc.broker.dialects.zbus.urls import COMMANDS, Command
from zbusrpc.broker.sessions.session import Session
from zbusrpc.transport.http import HttpRequest

APP, EVIL = "https://app.example.org", "https://evil.example"
HERE = "127.0.0.1:15555"
ADMIN = Rule(operations=frozenset({Operation.ADMIN}))


@dataclass
class House:
    """A broker's rules."""

    access: Access | None = None
    origins: Origins = field(default_factory=lambda: Origins(bound_host="127.0.0.1"))
    logins: Logins = field(default_factory=lambda: Logins(lambda: 0.0))


@dataclass
class Visit:
    """What became of one request."""

    is_in: bool
    session: Session
    exchange: Exchange

    @property
    def status(self) -> int:
        """Status of the answer; 0 where the request was let in."""
        assert self.is_in is (self.exchange.data is None)
        return 0 if self.exchange.data is None else int(self.exchange.data.split(b" ")[1])

    @property
    def answer(self) -> bytes:
        """The whole answer."""
        assert self.exchange.data is not None
        return self.exchange.data


def visit(
    line: str, house: House | None = None, keeper: Guard | None = None, *, upgrade: bool = False, **headers: str
) -> Visit:
    """Knock with a request such as `GET /ping`; `_` in names of headers stands for `-`."""
    method, target = line.split(" ")
    named = {"host": HERE} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = HttpRequest(method, target.encode(), named, b"", True, upgrade)
    command = None if gateway.is_for_it(request.target) else Command(request)
    exchange, session = Exchange(lambda answered: None), Session(1, "test")
    is_in = (keeper or Guard(house or House())).admits(request, command, exchange, session)
    return Visit(is_in, session, exchange)


# -- methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS - {"rpc"}))
def test_head_is_let_in_where_nothing_changes(name: str) -> None:
    """And nowhere else, however the URL names the command."""
    for target in (f"/{name}/T", f"/?cmd={name}&topic=T", f"/T?cmd={name}"):
        assert visit(f"HEAD {target}").status == (0 if name in SAFE else 405)
        assert visit(f"GET {target}").is_in


def test_client_of_zbus_may_write_any_method() -> None:
    """What it wants says its header."""
    for method in ("GET", "POST", "PUT", "HEAD", "PATCH"):
        keeper = Guard(House())
        request = HttpRequest(method, b"/", {"cmd": "produce"}, b"", True)
        assert keeper.admits(request, Command(request), Exchange(lambda answered: None), Session(1, "test"))


@pytest.mark.parametrize("target", ["/produce/T", "/rpc/Lab/add", "/rpc", "/ping"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods_are_refused(method: str, target: str) -> None:
    """The answer names those there are, and is JSON where the gateway would have answered."""
    refused = visit(f"{method} {target}")

    assert refused.status == 405
    assert b"allow: GET, POST\r\n" in refused.answer
    assert (b'"error"' in refused.answer) == target.startswith("/rpc")


@pytest.mark.parametrize(("line", "status"), [("HEAD /rpc", 0), ("HEAD /rpc/Lab", 0), ("HEAD /rpc/Lab/add", 405)])
def test_head_calls_no_service(line: str, status: int) -> None:
    """It may ask what runs."""
    assert visit(line).status == status


# -- pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS - {"rpc"}))
@pytest.mark.parametrize("headers", [{"origin": EVIL}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}], ids=str)
def test_page_of_somebody_else_may_only_look(name: str, headers: dict[str, str]) -> None:
    """What would change something is refused; what would not is answered, and no page can read it."""
    looked = visit(f"GET /{name}/T", **headers)

    assert looked.status == (0 if name in SAFE else 403)
    assert "access-control" not in looked.exchange.head


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /rpc", 0),
        ("GET /rpc/Lab", 0),
        ("HEAD /rpc/Lab", 0),
        ("GET /rpc/Lab/add/1", 403),
        ("POST /rpc/Lab", 403),
        ("POST /rpc/Lab/add", 403),
        ("POST /rpc", 403),
    ],
)
def test_page_of_somebody_else_calls_no_service(line: str, status: int) -> None:
    """Also not by an envelope, whose method stands in the body."""
    assert visit(line, origin=EVIL, sec_fetch_site="cross-site").status == status


def test_websocket_of_somebody_else_is_refused() -> None:
    """Though it opens with a GET of a path that changes nothing."""
    assert visit("GET /", origin=EVIL, upgrade=True).status == 403
    assert visit("GET /", upgrade=True).is_in
    assert visit("GET /", origin=f"http://{HERE}", upgrade=True).is_in


@pytest.mark.parametrize("host", [HERE, "broker.example.org:15555", "10.0.0.7:15555"])
@pytest.mark.parametrize("line", ["GET /query/T", "POST /produce/T", "POST /rpc/Lab", "GET /consume/T"])
def test_page_that_was_named_is_let_in(line: str, host: str) -> None:
    """By whatever name it knows the broker: it was allowed in so many words."""
    house = House(origins=Origins((APP,), "0.0.0.0"))

    let_in = visit(line, house, host=host, origin=APP, sec_fetch_site="cross-site")

    assert let_in.is_in
    assert f"access-control-allow-origin: {APP}\r\n" in let_in.exchange.head


@pytest.mark.parametrize("line", ["GET /query/T", "POST /query/T", "GET /rpc", "POST /produce/T", "GET /ping"])
@pytest.mark.parametrize("origin", [{}, {"origin": "http://evil.example:15555"}], ids=["no origin", "its own"])
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_page_that_had_its_name_pointed_here_is_refused(line: str, origin: dict[str, str], bound: str) -> None:
    """For its browser the broker is its own site: it could read every answer."""
    house = House(origins=Origins((APP,), bound))

    assert visit(line, house, host="evil.example:15555", sec_fetch_site="same-origin", **origin).status == 403


def test_name_is_looked_at_when_it_changes() -> None:
    """A connection that began under the right name cannot go on under another."""
    keeper = Guard(House())

    assert visit("GET /ping", keeper=keeper).is_in
    assert visit("GET /ping", keeper=keeper).is_in
    assert visit("GET /ping", keeper=keeper, host="evil.example").status == 403
    assert visit("GET /ping", keeper=keeper).is_in


def test_rules_that_are_replaced_count_at_once() -> None:
    """Those of the house are asked for each request."""
    house = House()
    keeper = Guard(house)
    assert visit("POST /produce/T", keeper=keeper, origin=APP).status == 403

    house.origins = Origins((APP,), "127.0.0.1")
    assert visit("POST /produce/T", keeper=keeper, origin=APP).is_in

    house.access = Access(())
    assert visit("POST /produce/T", keeper=keeper, origin=APP, token="x").status == 401


def test_refusal_of_a_page_that_was_named_can_be_read() -> None:
    """So that its author sees what is wrong."""
    house = House(access=Access(()), origins=Origins((APP,), "127.0.0.1", has_tokens=True))

    refused = visit("POST /produce/T", house, origin=APP, token="wrong")

    assert refused.status == 401
    assert f"access-control-allow-origin: {APP}".encode() in refused.answer


# -- tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({"token": "a"}, "a"),
        ({"authorization": "Bearer a"}, "a"),
        ({"authorization": "bearer  a "}, "a"),
        ({"authorization": "Basic a"}, ""),
        ({"authorization": "a"}, ""),
        ({"authorization": "Bearer"}, ""),
        ({"cookie": "token=a"}, "a"),
        ({"cookie": 'x=1; token="a"; y=2'}, "a"),
        ({"cookie": "mytoken=a"}, ""),
        ({"cookie": "token"}, ""),
        ({"cookie": "to\x00ken=\x00token"}, ""),
        ({"cookie": "token=c", "authorization": "Bearer b", "token": "a"}, "a"),
        ({"cookie": "token=c", "authorization": "Bearer b"}, "b"),
    ],
)
def test_token_is_found_where_clients_put_it(headers: dict[str, str], token: str) -> None:
    """The header of zbus counts first, then that of HTTP, then the cookie."""
    shown = shown_by(headers, "zbusrpc-15555")

    assert (shown.secret if shown is not None else "") == token


def with_tokens() -> House:
    """Return a broker with one token."""
    access = Access((Rights("app", (ADMIN,), digest_of("secret")),), (Rule(operations=frozenset({Operation.QUERY})),))
    return House(access, Origins(bound_host="127.0.0.1", has_tokens=True))


def test_session_has_the_rights_of_its_token() -> None:
    """Of each request anew; without one it has those of everybody."""
    house = with_tokens()

    assert visit("GET /query/T", house, token="secret").session.rights.name == "app"  # type: ignore[union-attr]
    assert visit("GET /query/T", house).session.rights is house.access.anonymous  # type: ignore[union-attr]
    assert visit("GET /query/T?token=secret", house).session.rights.name == "app"  # type: ignore[union-attr]
    assert visit("GET /query/T", House()).session.rights is None


@pytest.mark.parametrize("line", ["GET /query/T", "GET /rpc", "POST /rpc/Lab", "GET /ping"])
def test_unknown_token_is_refused(line: str) -> None:
    """Whatever is asked; the secret is not repeated."""
    refused = visit(line, with_tokens(), token="wrong")

    assert refused.status == HTTPStatus.UNAUTHORIZED
    assert b"wrong" not in refused.answer
    assert refused.session.rights is None


def test_websocket_keeps_the_token_that_it_was_opened_with() -> None:
    """Its messages need not repeat it, and a message with another one counts for itself."""
    house = with_tokens()
    keeper = Guard(house)
    assert visit("GET /?token=secret", keeper=keeper, upgrade=True).is_in

    assert visit("GET /query/T", keeper=keeper).session.rights.name == "app"  # type: ignore[union-attr]
    assert visit("GET /query/T", keeper=keeper, token="wrong").status == 401


def test_sign_of_life_without_a_token_takes_no_rights_away() -> None:
    """Clients of zbus send their heartbeat without it."""
    keeper, session = Guard(with_tokens()), Session(1, "test")
    for cmd, token in (("query", "secret"), ("heartbeat", ""), ("ping", "")):
        headers = {"cmd": cmd, "host": HERE} | ({"token": token} if token else {})
        request = HttpRequest("GET", b"/", headers, b"", True)
        assert keeper.admits(request, Command(request), Exchange(lambda answered: None), session)
        assert session.rights is not None
        assert session.rights.name == "app"


# -- the monitor ---------------------------------------------------------------------------------------------


def visit_monitor(line: str, house: House | None = None, **headers: str) -> Visit:
    """Knock with a request for the monitor."""
    method, target = line.split(" ")
    named = {"host": HERE} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = HttpRequest(method, target.encode(), named, b"", True)
    exchange, session = Exchange(lambda answered: None), Session(1, "test")
    return Visit(Guard(house or House()).admits(request, None, exchange, session), session, exchange)


@pytest.mark.parametrize("headers", [{"origin": EVIL}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}], ids=str)
def test_page_of_somebody_else_may_not_have_the_monitor_do_anything(headers: dict[str, str]) -> None:
    """A POST changes something, a GET and a HEAD never do, however long the path is."""
    assert visit_monitor("POST /api/topics/T/remove", **headers).status == 403
    assert visit_monitor("POST /api/login", **headers).status == 403
    assert visit_monitor("GET /api/topics/T/messages", **headers).is_in
    assert visit_monitor("HEAD /api/topics/T", **headers).is_in


def test_page_of_the_monitor_is_in_no_sandbox() -> None:
    """What else a browser shows of it is."""
    assert "sandbox" not in visit_monitor("GET /", accept="text/html").exchange.head
    assert "sandbox" not in visit_monitor("GET /monitor/start.js", accept="text/html").exchange.head
    assert "sandbox" in visit_monitor("GET /api/topics", accept="text/html").exchange.head


def test_who_has_a_wrong_token_gets_the_page_and_may_log_in() -> None:
    """And nothing else."""
    cookie = {"cookie": "token=stale", "accept": "text/html"}

    for line in ("GET /", "GET /monitor/start.js", "POST /api/login", "POST /api/logout"):
        assert visit_monitor(line, with_tokens(), **cookie).is_in
    assert visit_monitor("GET /api/topics", with_tokens(), **cookie).status == 401
    assert visit_monitor("GET /metrics", with_tokens(), **cookie).status == 401
