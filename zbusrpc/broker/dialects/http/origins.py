"""Origins: which web pages may use the broker.

A browser sends requests on behalf of whatever page it shows, also to a broker on the same machine that nobody else can
reach. It says so in the `Origin` header, which a page cannot forge. Programs send none.

    no Origin, of no other site        a program, or a page of the broker's own: let in
    Origin among the allowed ones      let in, and the page may read the answer (CORS), with all its headers
    Origin is the broker itself        let in, if its name can be trusted (see `_is_own_name`)
    Origin is a broker of the set      let in: its page shows all of them
    anything else                      refused

Names are compared in lower case. Pure: headers in, decisions and headers out.
"""

from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from zbusrpc.web_origins import ANY, WebOrigins

METHODS: Final = "GET, POST"
PREFLIGHT_S: Final = 600
"""So long a browser remembers the answer to a preflight."""
_SITES_OF_OTHERS: Final = frozenset({"cross-site", "same-site"})
"""A site is a host whatever the port, with those beside it: other programs of this machine have pages there, too."""
_PORTS: Final = {"http": 80, "https": 443}
_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


class Origins:
    """What pages may do with one broker."""

    def __init__(
        self,
        allowed: tuple[str, ...] = (),
        bound_host: str = "",
        *,
        has_tokens: bool = False,
        advertised_host: str = "",
        machine: str = "",
        of_set: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Take the rules of a broker.

        Args:
            allowed: Origins as browsers write them, such as `https://app.example.org`, or `*`: see `web_origins`.
            bound_host: What the broker listens on.
            advertised_host: The name by which it wants to be known.
            machine: The name of the machine that it runs on.
            has_tokens: Whether the broker asks for tokens: then a page that got in under a false name has none.
            of_set: Returns the origins of the pages of all brokers of its set.
        """
        self._allowed = WebOrigins(allowed)
        self._own_names = {bound_host.lower(), advertised_host.lower(), machine.lower()} - {""}
        self._has_tokens = has_tokens
        self._of_set = of_set
        self.checks_host = not has_tokens
        """Whether every request is to be asked `is_rebound`: a broker that trusts whoever reaches it, wherever it
        listens."""

    def may_write(self, headers: Mapping[str, str]) -> bool:
        """Say whether a request may change something, or open a WebSocket.

        Args:
            headers: By their names in lower case.
        """
        origin = headers.get("origin", "").lower()
        if not origin:
            return headers.get("sec-fetch-site", "").lower() not in _SITES_OF_OTHERS
        if origin in self._allowed:
            return True
        if self._allowed.are_all:
            return not (self._has_tokens and "cookie" in headers)
        return self._is_same(origin, headers.get("host", "").lower()) or self._is_of_set(origin)

    def is_rebound(self, headers: Mapping[str, str]) -> bool:
        """Say whether a request came to the broker under a name that somebody else may have pointed here.

        A page of `evil.example` that has its own name resolve to 127.0.0.1 reaches a local broker as a page of the
        same origin, and then its GET has no Origin; so it reaches one in the network of whoever looks at it. A broker
        with tokens need not care. A name without a dot is nobody's to point anywhere, and that of an allowed origin, by
        which a proxy may be asked, is in the hands of who is let in.
        """
        host = headers.get("host", "").lower()
        name = _host_of(f"//{host}")
        is_known = self._is_own_name(name) or self._allowed.are_at(name)
        return bool(host) and ("." in host or not name) and not is_known

    def cors_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return what lets the page read the answer to its request; nothing where it may not."""
        origin = headers.get("origin", "")
        if origin and origin.lower() in self._allowed:
            return {
                "access-control-allow-origin": origin,
                "access-control-allow-credentials": "true",
                "vary": "origin",
            }
        return {"access-control-allow-origin": ANY} if origin and self._allowed.are_all else {}

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str] | None:
        """Return the headers that answer a browser's question before a request, or None: then it is none, or no."""
        answer = self.cors_headers(headers)
        if not answer or "access-control-request-method" not in headers:
            return None
        answer |= {"access-control-allow-methods": METHODS, "access-control-max-age": str(PREFLIGHT_S)}
        wanted = headers.get("access-control-request-headers", "")
        answer |= {"access-control-allow-headers": wanted} if wanted else {}
        if headers.get("access-control-request-private-network") == "true":
            answer["access-control-allow-private-network"] = "true"
        return answer

    def _is_same(self, origin: str, host: str) -> bool:
        """Say whether the page is the broker's own."""
        scheme, _, netloc = origin.partition("://")
        return scheme in {"http", "https"} and bool(host) and netloc == host and self._is_own_name(_host_of(origin))

    def _is_of_set(self, origin: str) -> bool:
        """Say whether the page is that of another broker which belongs to this one's set.

        What comes by plain HTTP under the name of a broker that has TLS may be anybody's.
        """
        page = _place_of(origin)
        pages = self._of_set() if page is not None else ()
        is_encrypted = origin.startswith("https:")
        return any(_place_of(one) == page and (is_encrypted or one.startswith("http:")) for one in pages)

    def _is_own_name(self, name: str) -> bool:
        """Say whether a name is surely the broker's, and not one that somebody had resolve to its address."""
        if self._has_tokens or name in _LOOPBACK_NAMES or name.endswith(".localhost"):
            return True
        return name in self._own_names or _is_ip(name)


def _is_loopback(host: str) -> bool:
    return host in _LOOPBACK_NAMES or (_is_ip(host) and ip_address(host).is_loopback)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _place_of(origin: str) -> tuple[str, int] | None:
    """Return host and port of an origin, all names of this machine as one; None for what is not of the web."""
    try:
        parts = urlsplit(origin.lower())
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    host = parts.hostname or ""
    if port is None or not host or parts.scheme not in _PORTS:
        return None
    return "localhost" if _is_loopback(host) else host, port


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
