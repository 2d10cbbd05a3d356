"""HTTP/1.1 without I/O: requests out of bytes (by httptools), bytes out of responses.

A zbus message on the wire is an HTTP request, so this is the codec of both; `text.py` writes zbus's responses.

Promises: every bound is tested before more than one block beyond it is stored; whatever is wrong with a request is an
`HttpError` with its status, raised after the requests before it were yielded.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import httptools

from zbusrpc.errors import ProtocolError

HEADERS_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 100
SMALL_BODY_BYTES: Final = 64 * 1024
"""What a head may announce without a look at who has sent it."""
TARGET_BYTES_MAX: Final = 16 * 1024
JSON_TYPE: Final = "application/json"
CLIENT_CLOSED_REQUEST: Final = 499
"""Not registered, but what nginx, gRPC and Connect answer where a call was cancelled."""


class HttpError(ProtocolError):
    """A request that cannot be taken; the connection is closed after the answer."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class HttpRequest:
    """A whole request."""

    method: str
    target: bytes
    """Path and query as they came."""
    headers: dict[str, str]
    """By lower-case name, without those that are empty; of a repeated header, the last. UTF-8, else latin-1."""
    body: bytes
    keep_alive: bool
    """Whether the connection goes on after the response."""
    is_upgrade: bool = False
    """Whether the client wants to go on with another protocol."""


@dataclass(slots=True, kw_only=True)
class HttpResponse:
    """A whole response."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    """Besides Content-Type, Content-Length and Connection."""


STATUS_LINES: Final[dict[int, bytes]] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
} | {CLIENT_CLOSED_REQUEST: b"HTTP/1.1 499 Client Closed Request\r\n"}
_OK_HEAD: Final = (
    STATUS_LINES[HTTPStatus.OK]
    + b"Connection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)


def encode_response(response: HttpResponse, *, keep_alive: bool) -> bytes:
    """Return a response as bytes."""
    if keep_alive and response.status == HTTPStatus.OK and not response.headers:
        return _OK_HEAD % (len(response.body), response.body)
    headers = {"Connection": "keep-alive" if keep_alive else "close"} | response.headers
    if response.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        headers = {"Content-Type": JSON_TYPE} | headers | {"Content-Length": str(len(response.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"%b%b\r\n%b" % (STATUS_LINES[response.status], lines.encode("latin-1"), response.body)


_NAMES: Final[dict[bytes, str]] = {}
"""Names of headers as they came, and in lower case: there are few, and each comes often."""
_NAMES_MAX: Final = 1024
_NAME_REMEMBERED_MAX: Final = 64
_GET_LINE: Final = re.compile(rb"GET (/[!-~]*) (HTTP/1\.[01])").fullmatch


def _lower(name: bytes) -> str:
    text = name.decode("latin-1").lower()
    if len(_NAMES) < _NAMES_MAX and len(name) <= _NAME_REMEMBERED_MAX:
        _NAMES[name] = text
    return text


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class HttpDecoder:
    """Turns received blocks into requests; one for each connection."""

    def __init__(self, body_bytes_max: int, limit_of: Callable[[dict[str, str], bytes], int] | None = None) -> None:
        """Take bodies up to a size, or what `limit_of` says of the headers and target of a request with a larger one.

        It is asked only where the body has more than SMALL_BODY_BYTES, or does not say how many.
        """
        self._body_bytes_max = self._most = body_bytes_max
        self._limit_of = limit_of
        self._parser = httptools.HttpRequestParser(self)
        self._done: list[HttpRequest] = []
        self._error: HttpError | None = None
        self.is_partial = False
        """Whether part of a request is waiting for the rest."""
        self.wants_continue = False
        """Whether the peer waits for "100 Continue" before it sends its body; whoever answers clears it."""
        self.after_upgrade = b""
        """What came after a request with `is_upgrade`, which is the last that is decoded."""
        self._is_in_head = self._has_begun = False
        self._last_head = self._last_version = b""
        self._last_headers: dict[str, str] = {}
        self._last_keep_alive = False
        self._reset()

    @property
    def held_bytes(self) -> int:
        """What has come of the body of a request that is not whole."""
        return self._body_bytes if self.is_partial else 0

    def has_begun_with(self, name: str) -> bool:
        """Say whether the request that is being decoded, or was refused, has a header of this name."""
        return name in self._headers

    def repeat(self, data: bytes) -> HttpRequest | None:
        """Return the request that `data` is, if it has the headers of the last one and no body; else None: feed it.

        Mostly a client sends the same headers with each request: they were parsed and checked when they came first.
        """
        if self.is_partial:
            return None
        line, _, head = data.partition(b"\r\n")
        if head != self._last_head or len(line) > TARGET_BYTES_MAX:
            return None
        match = _GET_LINE(line)
        if match is None or match[2] != self._last_version:
            return None
        return HttpRequest("GET", match[1], self._last_headers.copy(), b"", self._last_keep_alive)

    def _remember(self, data: bytes, request: HttpRequest) -> None:
        """Remember the head of a request that was the whole of `data`, and has no body."""
        line, _, head = data.partition(b"\r\n")
        match = _GET_LINE(line)
        if match is None or not head.endswith(b"\r\n\r\n") or data.count(b"\r\n\r\n") > 1:
            return
        if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
            self._last_head, self._last_headers = head, request.headers.copy()
            self._last_version, self._last_keep_alive = match[2], request.keep_alive

    def feed(self, data: bytes) -> Iterator[HttpRequest]:
        """Yield the requests that `data` completes.

        Raises:
            HttpError: a request breaks the rules or a bound.
        """
        was_partial = self.is_partial
        error: HttpError | None = None
        try:
            self._has_begun = False
            self._parser.feed_data(data)
            if self._is_in_head and not self._has_begun:
                self._check_head(len(data))
        except httptools.HttpParserUpgrade as upgrade:
            self._done[-1].is_upgrade = True
            self.after_upgrade = data[upgrade.args[0] :]
        except HttpError as too_long:
            error = too_long
        except httptools.HttpParserError as parser_error:
            error = self._error or HttpError(HTTPStatus.BAD_REQUEST, f"not HTTP: {parser_error}")
        requests, self._done = self._done, []
        if len(requests) == 1 and not was_partial and not self.is_partial and not requests[0].is_upgrade:
            self._remember(data, requests[0])
        yield from requests
        if error is not None:
            raise error

    def _check_head(self, size: int) -> None:
        """Bound what the parser itself keeps of a line that does not end."""
        self._head_bytes += size
        if self._head_bytes > HEADERS_BYTES_MAX + TARGET_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head of over {self._head_bytes - 1} bytes")

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._header_count = self._header_bytes = self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._error = HttpError(status, reason)
        raise self._error

    # -- callbacks of httptools --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()
        self.is_partial = self._is_in_head = self._has_begun = True

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > TARGET_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, f"the target exceeds {TARGET_BYTES_MAX} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_count > HEADERS_MAX or self._header_bytes > HEADERS_BYTES_MAX:
            limits = f"{HEADERS_MAX} headers or {HEADERS_BYTES_MAX} bytes of them"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {limits}")
        value = value.rstrip(b" \t")  # the parser leaves what RFC 9110 (5.5) has for no part of it
        if value and self._is_in_head:  # else it is a trailer, which whoever looks at headers has not seen (6.5.1)
            text = value.decode() if value.isascii() else _decode(value)
            self._headers[_NAMES.get(name) or _lower(name)] = text

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        length = self._headers.get("content-length", "0")
        size = int(length[:20]) if length.isdecimal() else 0
        self._body_bytes_max = self._most
        if self._limit_of is not None and (size > SMALL_BODY_BYTES or "transfer-encoding" in self._headers):
            self._body_bytes_max = self._limit_of(self._headers, self._target)
        if size > self._body_bytes_max:
            self._refuse_body(size)
        if self._headers.get("expect", "").lower() == "100-continue":
            self.wants_continue = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._body_bytes_max:
            self._refuse_body(self._body_bytes)
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.is_partial = self.wants_continue = False
        method = self._parser.get_method().decode("latin-1")
        body, keep_alive = b"".join(self._body), self._parser.should_keep_alive()
        self._done.append(HttpRequest(method, self._target, self._headers, body, keep_alive))

    def _refuse_body(self, size: int) -> None:
        reason = f"a body of {size} bytes exceeds the limit of {self._body_bytes_max} bytes"
        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)

    def __getattr__(self, name: str) -> Any:
        """Tell httptools that the callbacks it asks for and that are not here are not wanted."""
        raise AttributeError(name)
