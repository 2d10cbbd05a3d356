"""The guard of a text connection: methods, hosts, origins and tokens, before a request is carried out.

Whoever is not let in is answered: 401 for a token that is unknown, 403 for a page that may not use the broker, 405 for
another method than GET and POST. Pure.
"""

from http import HTTPStatus
from typing import Final, NamedTuple, Protocol
from urllib.parse import parse_qsl

from zbusrpc.broker.access.logins import Logins
from zbusrpc.broker.access.rights import Access, Rights
from zbusrpc.broker.dialects.http import gateway
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.origins import Origins
from zbusrpc.broker.dialects.zbus.urls import NOWHERE, PAGES, Command
from zbusrpc.broker.monitor import paths
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import Code, RpcError
from zbusrpc.telemetry import get_logger
from zbusrpc.transport.http import HttpRequest
from zbusrpc.transport.text import header_lines
from zbusrpc.web_origins import how_to_let_in

SAFE: Final = PAGES | {NOWHERE, "home", "query", "server", "tracker", "ping", "ssl", "heartbeat"}
"""Commands that change nothing."""
SANDBOX: Final = "content-security-policy: sandbox\r\n"
"""To a browser that is about to show the answer: a message that is a page may not act as one of the broker's own."""
FORWARDED_FOR_MAX: Final = 100
"""Of what a proxy, or who says to be one, tells of its client, so much is shown: two addresses of IPv6."""
METHODS: Final = "GET, HEAD, POST, OPTIONS"
_PLAIN_METHODS: Final = frozenset({"GET", "POST"})
_SIGNS_OF_LIFE: Final = frozenset({"heartbeat", "ping"})
"""Commands that clients send without their token, which does not make them others."""

_COOKIE_TELLS_NOT: Final = (
    "a cookie does not tell who asks for this: show the token by the header token or authorization"
)
_BROWSER_TELLS_NOT: Final = "this browser does not tell whose page asks for this: use POST, or a program such as curl"

log = get_logger("broker")


class House(Protocol):
    """Whose door it is: its rules may be replaced at any time."""

    access: Access | None
    origins: Origins
    logins: Logins


class Shown(NamedTuple):
    """By what a request says who asks."""

    secret: str
    is_login: bool = False
    """Whether it is the id of a login, and no token."""
    is_cookie: bool = False
    """Whether a browser may have put it there by itself."""


class Guard:
    """Lets the requests of one connection in."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._host = ""  # what the client calls this broker, once that was found to be right
        self._held: Shown | None = None  # what it has opened its WebSocket with

    def admits(self, request: HttpRequest, command: Command | None, exchange: Exchange, session: Session) -> bool:
        """Let a request in and give its session the rights of its token, or answer it and return False.

        Args:
            request: As it came.
            command: What it asks of the zbus dialect; None where it is for the gateway, which calls services, or for
                the monitor.
            exchange: Takes the answer, and headers that go along with any.
            session: Of the connection.
        """
        headers = request.headers
        origins = self._house.origins
        if origins.checks_host and headers.get("host", "") != self._host:
            if origins.is_rebound(headers) and not origins.cors_headers(headers):
                text = f"this broker is not known as {headers['host']:.200}; if that is its name, see --advertise"
                note_refusal(session, text, headers)
                _refuse(exchange, command, HTTPStatus.FORBIDDEN, text)
                return False
            self._host = headers.get("host", "")
        if request.method not in _PLAIN_METHODS and not _admits_method(origins, request, command, exchange):
            return False
        if "origin" in headers or "sec-fetch-site" in headers:
            exchange.head += header_lines(origins.cors_headers(headers).items())
            if not _admits_page(origins, request, command):
                origin = headers.get("origin", "")
                page = f"of {origin:.200}" if origin else "of another site"
                text = f"pages {page} may not use this broker; {how_to_let_in(origin)}"
                note_refusal(session, text, headers)
                _refuse(exchange, command, HTTPStatus.FORBIDDEN, text)
                return False
        doubt = self._doubt(request, command)
        if doubt:
            note_refusal(session, doubt, headers)
            _refuse(exchange, command, HTTPStatus.FORBIDDEN, doubt)
            return False
        if "text/html" in headers.get("accept", "") and not (command is None and paths.is_page(request)):
            exchange.head += SANDBOX
        if self._house.access is None or (command is None and paths.is_open(request)):
            return True
        if command is None:
            gateway.take_token(request)
        return self._admits_token(self._house.access, request, command, exchange, session)

    def show(self, token: str) -> None:
        """Let a token hold for all messages of a WebSocket that show none; nothing for none."""
        self._held = Shown(token) if token else None

    def _admits_token(
        self, access: Access, request: HttpRequest, command: Command | None, exchange: Exchange, session: Session
    ) -> bool:
        shown = shown_by(request.headers, self._house.logins.cookie) or self._held
        if shown is None and command is not None and command.name in _SIGNS_OF_LIFE:
            return True
        rights = _rights_of(self._house, access, shown)
        if rights is None:
            text = "this broker does not know the token"
            note_refusal(session, text, request.headers)
            _refuse(exchange, command, HTTPStatus.UNAUTHORIZED, text)
            return False
        if request.is_upgrade:
            self._held = shown
        session.rights = rights
        return True

    def _doubt(self, request: HttpRequest, command: Command | None) -> str:
        """Return what to say where a page of another site may have had a browser ask; nothing where none can have."""
        headers = request.headers
        if not ("cookie" in headers or _is_of_browser(headers)) or not _may_be_forged(request, command):
            return ""
        if command is None:
            gateway.take_token(request)
        shown = shown_by(headers, self._house.logins.cookie)
        if shown is not None:
            return _COOKIE_TELLS_NOT if shown.is_cookie else ""
        return _BROWSER_TELLS_NOT if _is_of_browser(headers) else ""


def is_known(house: House, headers: dict[str, str], target: bytes) -> bool:
    """Say by the head of a request whether who sends it is known, or may do something all the same."""
    access = house.access
    if access is None:
        return True
    shown = shown_by(headers, house.logins.cookie)
    if shown is None and b"token" in target:
        query = parse_qsl(target.partition(b"?")[2].decode("latin-1"))
        shown = next((Shown(value) for name, value in query if name.lower() == "token"), None)
    rights = _rights_of(house, access, shown)
    return rights is not None and bool(rights.digest or rights.rules)


def _rights_of(house: House, access: Access, shown: Shown | None) -> Rights | None:
    if shown is None:
        return access.anonymous
    return house.logins.rights_of(shown.secret) if shown.is_login else access.rights_of(shown.secret)


def _admits_method(origins: Origins, request: HttpRequest, command: Command | None, exchange: Exchange) -> bool:
    """Let HEAD in where nothing changes, and whatever method a client of zbus writes; else answer."""
    if request.method == "OPTIONS":
        exchange.answer(
            HTTPStatus.NO_CONTENT, head=header_lines((origins.preflight(request.headers) or {"allow": METHODS}).items())
        )
        return False
    if (command is not None and not command.is_by_url) or (request.method == "HEAD" and _is_safe(request, command)):
        return True
    exchange.head += "allow: GET, POST\r\n"
    text = f"{request.method} is not for this: use GET or POST"
    _refuse(exchange, command, HTTPStatus.METHOD_NOT_ALLOWED, text)
    return False


def _admits_page(origins: Origins, request: HttpRequest, command: Command | None) -> bool:
    """Say whether a page in a browser may send a request."""
    headers = request.headers
    if "sec-fetch-site" in headers and not origins.cors_headers(headers) and origins.is_rebound(headers):
        return False  # a page that was allowed has another origin than the broker, whatever it calls it
    return (_is_safe(request, command) and not request.is_upgrade) or origins.may_write(headers)


def _may_be_forged(request: HttpRequest, command: Command | None) -> bool:
    """Say whether a page of another site could have made a browser send a request.

    An image of `http://broker/remove/T` is fetched without an Origin, and by plain HTTP (but from this machine) also
    without Sec-Fetch-Site. Where one of them came, it was looked at. A Referer can be left out, but not made up.
    """
    headers = request.headers
    if request.method != "GET" or request.is_upgrade or (command is not None and not command.is_by_url):
        return False
    if "origin" in headers or "sec-fetch-site" in headers or _is_safe(request, command):
        return False
    page = headers.get("referer", "").partition("://")[2].partition("/")[0]
    return not page or page.lower() != headers.get("host", "").lower()


def _is_of_browser(headers: dict[str, str]) -> bool:
    """Say whether a browser has sent a request: all say so, and a page that is none of ours cannot have it lie."""
    return "mozilla/" in headers.get("user-agent", "").lower()


def _is_safe(request: HttpRequest, command: Command | None) -> bool:
    """Say whether a request changes nothing; one of the gateway is a call, or lists what runs."""
    if command is None and paths.is_for_it(request):
        return request.method != "POST"
    if command is None:
        return request.method != "POST" and request.target.count(b"/") < 3
    return command.name in SAFE


def note_refusal(session: Session, reason: str, headers: dict[str, str]) -> None:
    """Let whoever looks at the log see who is not let in, also behind a proxy, as far as one can be believed."""
    forwarded = headers.get("x-forwarded-for", "")
    of_proxy = {"forwarded_for": forwarded[:FORWARDED_FOR_MAX]} if forwarded else {}
    log.info("broker.refused", peer=session.name, reason=reason, **of_proxy)


def _refuse(exchange: Exchange, command: Command | None, status: int, text: str) -> None:
    """Answer a request that is not carried out, in the form of whoever would have."""
    if command is not None:
        exchange.answer_text(status, text)
        return
    response = gateway.error_response(RpcError(_CODES[status], text))
    response.status = status
    exchange.answer_http(response)


_CODES: Final[dict[int, Code]] = {
    HTTPStatus.UNAUTHORIZED: Code.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: Code.PERMISSION_DENIED,
    HTTPStatus.METHOD_NOT_ALLOWED: Code.UNIMPLEMENTED,
}


def shown_by(headers: dict[str, str], login_cookie: str) -> Shown | None:
    """Return by what a request says who asks: `token`, `authorization: Bearer`, a login, or zbus's cookie `token`."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    written = headers.get("token", "") or (value.strip() if scheme.lower() == "bearer" else "")
    if written:
        return Shown(written)
    cookies = headers.get("cookie", "")
    login = cookie_in(cookies, login_cookie)
    if login:
        return Shown(login, is_login=True, is_cookie=True)
    token = cookie_in(cookies, "token")
    return Shown(token, is_cookie=True) if token else None


def cookie_in(cookies: str, name: str) -> str:
    """Return the value of a cookie, or nothing."""
    if name not in cookies:
        return ""
    pairs = (pair.strip().partition("=") for pair in cookies.split(";"))
    return next((value.strip('"') for known, _, value in pairs if known == name), "")
