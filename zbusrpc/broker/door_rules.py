"""Rules at the door of text requests: methods, origins and tokens, before anything is carried out. Pure."""

from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Final

from zbusrpc.broker.origins import Origins
from zbusrpc.broker.zbus.urls import PAGES, Command
from zbusrpc.transport.http import HttpRequest
from zbusrpc.transport.text import header_lines

SAFE: Final = PAGES | {"home", "query", "server", "tracker", "ping", "ssl", "heartbeat"}
"""Commands that change nothing."""
METHODS: Final = "GET, HEAD, POST, OPTIONS"

Refusal = tuple[int, str, str]
"""Status, text and further headers as lines."""


def refusal_of(origins: Origins, request: HttpRequest, command: Command | None) -> Refusal | None:
    """Return the answer to a request that is not carried out, or None.

    Args:
        origins: Which pages may use the broker.
        request: As it came.
        command: What it asks of the zbus dialect; None where it is for the gateway, which calls services.
    """
    headers, method = request.headers, request.method
    is_safe = command.name in SAFE if command is not None else request.target.count(b"/") < 3
    if method == "OPTIONS":
        return HTTPStatus.NO_CONTENT, "", header_lines((origins.preflight(headers) or {"allow": METHODS}).items())
    if method not in {"GET", "POST"} and "cmd" not in headers and not (is_safe and method == "HEAD"):
        return HTTPStatus.METHOD_NOT_ALLOWED, f"{method} is not for this: use GET or POST", "allow: GET, POST\r\n"
    if "origin" not in headers and "sec-fetch-site" not in headers:
        return None
    may_write = (is_safe and not request.is_upgrade) or origins.may_write(headers)
    if may_write and not ("sec-fetch-site" in headers and origins.is_rebound(headers)):
        return None
    page = f"of {headers['origin']:.200}" if "origin" in headers else "of another site"
    return HTTPStatus.FORBIDDEN, f"pages {page} may not use this broker; start it with --allow-origin to let them", ""


def cors_lines(origins: Origins, headers: dict[str, str]) -> str:
    """Return the headers that let a page of an allowed origin read the answer, as lines."""
    return header_lines(origins.cors_headers(headers).items())


def token_of(headers: dict[str, str]) -> str:
    """Return the token that a request shows: by `token`, `authorization: Bearer`, or a cookie; nothing without one."""
    token = headers.get("token", "")
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if not token and scheme.lower() == "bearer":
        token = value.strip()
    if not token and "token" in headers.get("cookie", ""):
        try:
            cookie = SimpleCookie(headers["cookie"]).get("token")
        except CookieError:
            return ""
        token = cookie.value if cookie is not None else ""
    return token
