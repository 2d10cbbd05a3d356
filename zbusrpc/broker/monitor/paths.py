"""The paths of the monitor: /api/..., /metrics, /monitor/<file>, and / for who wants a page.

Pure: requests in, answers to yes and no out.
"""

from typing import Final
from urllib.parse import unquote

from zbusrpc.transport.http import HttpRequest

_STARTS: Final = frozenset({b"/api", b"/met", b"/mon"})
_FIRSTS: Final = frozenset({"api", "metrics", "monitor"})
_OPEN: Final = frozenset({"/api/login", "/api/logout"})


def is_for_it(request: HttpRequest) -> bool:
    """Whether a request that names no command is for the monitor."""
    target = request.target
    if target[:4] in _STARTS or target[:1] != b"/":
        return path_of(target)[1:].partition("/")[0] in _FIRSTS
    return is_home(request)


def is_home(request: HttpRequest) -> bool:
    """Whether a request is a browser's for the page itself."""
    target = request.target
    if target[:1] != b"/" or target[1:2] not in b"?" or request.is_upgrade:
        return False
    return "text/html" in request.headers.get("accept", "") and b"cmd" not in target


def is_page(request: HttpRequest) -> bool:
    """Whether a request of the monitor is for a file of the page."""
    return path_of(request.target).startswith("/monitor") or is_home(request)


def is_open(request: HttpRequest) -> bool:
    """Whether a request is answered whatever token comes with it: who has a wrong one must get rid of it."""
    return path_of(request.target) in _OPEN or is_page(request)


def path_of(target: bytes) -> str:
    """Return the path of a request, still percent-encoded."""
    raw = target.partition(b"?")[0].decode("latin-1")
    if raw[:1] != "/":
        raw = "/" + raw.partition("://")[2].partition("/")[2]  # the absolute form (RFC 9112, 3.2.2)
    return raw


def parts_of(target: bytes) -> list[str]:
    """Return the parts of the path, percent-decoded: an encoded slash does not part them."""
    parts = [unquote(part) for part in path_of(target).split("/")[1:]]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts
