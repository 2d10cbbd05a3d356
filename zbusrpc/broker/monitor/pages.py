"""The files of the monitor's page, as they are in the package: read once, told from others by their ETag.

    /                   index.html, which names all else from where it is: a proxy may have it below a path
    /monitor/<file>     any of them
    /monitor            goes to /

The page may load only what is here, run only scripts that are files, and stand in no other page's frame; it may talk to
other brokers, whose rows it shows, too.
"""

from functools import lru_cache
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from zbusrpc.broker.monitor import paths
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.http import HttpRequest, HttpResponse

INDEX: Final = "index.html"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
POLICY: Final = (
    "default-src 'self'; connect-src 'self' ws: wss: http: https:; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "accept",
}
_STATIC: Final = Path(__file__).parent / "static"


class File(NamedTuple):
    """One file of the page."""

    content_type: str
    etag: str
    body: bytes


def page(request: HttpRequest) -> HttpResponse:
    """Return the answer to a request for a file.

    Raises:
        RpcError: NOT_FOUND.
    """
    is_home = paths.is_home(request)
    name = INDEX if is_home else "/".join(paths.parts_of(request.target)[1:]) or INDEX
    if name == INDEX and not is_home:
        home = "../" if paths.path_of(request.target).count("/") > 1 else "./"
        return HttpResponse(status=HTTPStatus.FOUND, headers={"Location": home})
    file = files().get(name)
    if file is None:
        raise RpcError(Code.NOT_FOUND, f"the monitor has no file {name:.80}")
    headers = HEADERS | {"Content-Type": file.content_type, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return HttpResponse(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return HttpResponse(status=HTTPStatus.OK, body=file.body, headers=headers)


@lru_cache(maxsize=1)
def files() -> dict[str, File]:
    """Return the files, by their path below /monitor/."""
    found = {}
    for path in sorted(_STATIC.rglob("*")):
        if path.suffix in TYPES and path.is_file():
            body = path.read_bytes()
            etag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
            found[path.relative_to(_STATIC).as_posix()] = File(TYPES[path.suffix], etag, body)
    return found
