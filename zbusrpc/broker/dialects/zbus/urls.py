"""URLs of the zbus dialect: which command a request is that names none by its `cmd` header.

    /produce/T?body=x   /consume/T/g   /query/T   /?cmd=query&topic=T      as in zbus 0.8
    /T?body=x   /T/g?cmd=consume   /T/module/method/1/2                    as in zbus 0.11, where T is no command's name
    //query//T                                                            nothing: slashes are not joined, see NOWHERE

What stands in headers wins over what stands in the URL. Pure.
"""

from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from zbusrpc.broker.access.rights import Rights
from zbusrpc.transport.http import HttpRequest
from zbusrpc.transport.naming import one_spelling

GROUP_COMMANDS: Final = frozenset({"consume", "unconsume", "ack", "declare", "query", "remove", "empty"})
"""Commands whose URL may name a consume group after the topic."""
PAGES: Final = frozenset({"js", "css", "img", "page", "favicon.ico", "login", "logout"})
COMMANDS: Final = GROUP_COMMANDS | {
    "produce", "rpc", "route", "server", "tracker", "track_sub", "track_pub", "heartbeat", "ping", "ssl", "home",
}  # fmt: skip
NOWHERE: Final = "//"
"""The command of a path that begins with an empty part and does not end there. To pass over empty parts would have
`/remove//g` remove a topic that is called as a group; to pass over what follows would answer with the page of `/`."""
RESERVED: Final = COMMANDS | PAGES
"""First parts of a path that name no topic."""
PATH_REMEMBERED_MAX: Final = 256
"""Longer paths would fill the memory, and are no topic's."""
_OF_BROWSERS: Final = frozenset({"host", "origin", "referer", "cookie", "authorization", "sec-fetch-site"})
"""Headers by which a browser says who asks: a page can write any URL, so there they do not count."""


class _Path(NamedTuple):
    """What the path of a URL says."""

    command: str = ""
    """Nothing: it is what the query says by `cmd`, or else `otherwise`."""
    otherwise: str = ""
    topic: str = ""
    group: str = ""
    rest: tuple[str, ...] = ()
    """What follows the topic of a 0.11 URL, or the name of a page's file."""


def _read_path(path: str) -> _Path:
    """Return what a path says."""
    if "://" in path[:8]:
        path = "/" + path.split("://", 1)[1].partition("/")[2]  # the absolute form (RFC 9112, 3.2.2)
    parts = [unquote(part) for part in path.split("/")[1:]]
    if not parts or not parts[0]:
        return _Path(NOWHERE) if any(parts) else _Path(otherwise="home")
    name = parts[0].lower()
    if name in PAGES:
        return _Path(name, rest=tuple(parts))
    if name not in RESERVED:
        return _Path("", "produce", parts[0], parts[1] if len(parts) > 1 else "", tuple(parts[1:]))
    topic = parts[1] if len(parts) > 1 else ""
    return _Path(name, "", topic, parts[2] if len(parts) > 2 and name in GROUP_COMMANDS else "")


_read_short_path: Final = lru_cache(maxsize=4096)(_read_path)
"""The same for paths of up to PATH_REMEMBERED_MAX letters: there are few that come often."""


class Command:
    """A request as a command."""

    __slots__ = ("body", "headers", "is_by_url", "method", "name", "path", "rights", "url")

    def __init__(self, request: HttpRequest) -> None:
        self.headers = request.headers
        """By lower-case name, those that the URL names included."""
        self.body = request.body
        self.method = request.method
        self.url = request.target
        self.rights: Rights | None = None
        """Of the token that it shows, whatever its connection shows later."""
        self.path: tuple[str, ...] = ()
        """Of a 0.11 URL, what follows the topic."""
        self.is_by_url = "cmd" not in self.headers
        """Whether no header names it: then no client of zbus has made it."""
        self.name = self._read_url(request.target) if self.is_by_url else self.headers["cmd"]
        """What is to be done."""

    @property
    def topic(self) -> str:
        """The topic that it names, or nothing."""
        return one_spelling(self.headers.get("topic", ""))

    @property
    def group(self) -> str:
        """The consume group that it names, or nothing."""
        return one_spelling(self.headers.get("consume_group", ""))

    def _read_url(self, target: bytes) -> str:
        """Take over what the URL says, and return the command."""
        path, _, query = target.decode("latin-1").partition("?")
        headers = self.headers
        named = _read_short_path(path) if len(path) <= PATH_REMEMBERED_MAX else _read_path(path)
        if named.topic:
            headers.setdefault("topic", named.topic)
            if named.group:
                headers.setdefault("consume_group", named.group)
        if query:
            self._read_query(query)
        self.path = named.rest
        return named.command or headers.get("cmd", named.otherwise)

    def _read_query(self, query: str) -> None:
        if "%" in query or "+" in query or "&" in query:
            pairs = parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="replace")
        else:
            name, _, value = query.partition("=")
            pairs = [(name, value)]
        for written, value in pairs:
            name = written.lower()
            if name == "body":
                self.body = self.body or value.encode()
            elif name not in _OF_BROWSERS:
                self.headers.setdefault(name, value)


def what_is_missing(command: Command) -> str:
    """Return what to say where the URL of an unknown command names what is not there; nothing where it does not."""
    if command.name in PAGES:
        return f"File({'/'.join(command.path) or command.name}) error: there is no such file"
    if command.name == NOWHERE and command.is_by_url:
        path = command.url.partition(b"?")[0].decode("latin-1")
        return f"there is nothing at {path:.200}: a path begins with one slash"
    return ""
