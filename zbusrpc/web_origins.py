"""Web origins: what browsers call the pages that may use a broker, as the setting `allow_origins` names them.

    https://app.example.org          pages of one origin
    http://127.0.0.1:*               on any port: tools that show a page while it is made take ever others
    https://*.preview.example.org    of all names below one
    *                                every page

What a browser would never write matches nothing, and whoever wrote it would not know why: it is put into the browser's
words where it is plain what was meant, and refused otherwise.

Pure.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"
"""Every page. Such pages never get to use the cookies of whoever looks at them."""
OPAQUE: Final = "null"
"""What browsers call a page of a file, of a sandbox, or of no server: any page can make itself one."""
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
"""Browsers leave them out."""
_OF_SOCKETS: Final = {"ws": "http", "wss": "https"}
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^/\s?#:@\[\]]+)(:(?P<port>[0-9]+|\*))?"
)
_NAME: Final = re.compile(r"[a-z0-9_.-]+")
_BELOW: Final = r"(?:[^/:.]+\.)+"
_ON_ANY_PORT: Final = r"(?::[0-9]+)?"


def as_browsers_write(text: str) -> str:
    """Return an origin, or several in one, as a setting names it.

    Raises:
        ValueError: no browser calls a page so; the text says what to write.
    """
    origin = text.rstrip("/").lower()
    if origin == ANY:
        return origin
    if origin == OPAQUE or origin.startswith("file:"):
        raise ValueError(f"{text} may be any page: {how_to_let_in(OPAQUE)}")
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        raise ValueError(f"{text} is no origin: write https://app.example.org, with the port if it has one, or *")
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if scheme in _OF_SOCKETS:
        page = origin.replace(scheme, _OF_SOCKETS[scheme], 1)
        raise ValueError(f"{text} is no page: name the one that opens the WebSocket, such as {page}")
    if scheme not in _DEFAULT_PORTS:  # of an application that is made of pages
        if ANY in origin:
            raise ValueError(f"{text} has a star, which may stand in origins with http:// and https:// only")
        return origin
    if port is not None and port != ANY and not 1 <= int(port[:6]) <= 65535:
        raise ValueError(f"{text} has no port from 1 to 65535, nor * for any")
    shown = f":{port}" if port is not None and port != _DEFAULT_PORTS[scheme] else ""
    return f"{scheme}://{_host_in(host, text)}{shown}"


def how_to_let_in(origin: str) -> str:
    """Return how pages of an origin, as a browser writes it, are let in."""
    if origin.lower() == OPAQUE:
        return "have a web server show it and say --allow-origin http://localhost:8000, or * to let every page"
    return "start it with --allow-origin to let them"


def _host_in(host: str, text: str) -> str:
    if host.startswith("["):
        try:
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            raise ValueError(f"{text} is no origin: {host} is no address") from None
    name = host.removeprefix("*.")
    if ANY in name:
        raise ValueError(
            f"{text} has a star where none can stand: write * for a port, as in http://127.0.0.1:*, "
            "or before a name, as in https://*.example.org"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text} is no origin: browsers write a name in ASCII, as in https://xn--bcher-kva.example")
    return host


class WebOrigins:
    """Some origins, as `as_browsers_write` returns them."""

    def __init__(self, written: Iterable[str] = ()) -> None:
        origins = frozenset(origin.lower() for origin in written)
        self.are_all = ANY in origins
        """Whether every page is meant."""
        self._exact = frozenset(origin for origin in origins if ANY not in origin)
        starred = sorted(origin for origin in origins - {ANY} if ANY in origin)
        self._patterns = re.compile("|".join(map(_pattern_of, starred))) if starred else None
        hosts = {urlsplit(origin).hostname or "" for origin in origins - {ANY}} - {""}
        self._hosts = re.compile("|".join(map(_pattern_of, sorted(hosts)))) if hosts else None

    def __contains__(self, origin: str) -> bool:
        """Say whether an origin, in lower case, is named; that every page is meant does not count."""
        return origin in self._exact or (self._patterns is not None and self._patterns.fullmatch(origin) is not None)

    def are_at(self, host: str) -> bool:
        """Say whether pages of a host, in lower case and without its port, are among those that are named."""
        return self._hosts is not None and self._hosts.fullmatch(host) is not None


def _pattern_of(text: str) -> str:
    pattern = re.escape(text)
    return pattern.replace(r"\*\.", _BELOW).replace(r":\*", _ON_ANY_PORT)
