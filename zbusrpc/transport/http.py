"""HTTP/1.1 without I/O: requests out of bytes (by httptools), bytes out of responses.

A zbus message on the wire is an HTTP request, so this is the codec of both; `text.py` writes zbus's responses. It may
have the start line of a response as well: see `response_form.py`.

An offer to upgrade is taken where a WebSocket is opened. Every other one is ignored (RFC 9110, 7.8), and its request is
one like others, with its body. httptools skips such a body, so it is given the head once more, without the offer.

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
from zbusrpc.transport import response_form

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
    """Whether the client wants to go on with WebSocket."""
    takes_chunks: bool = True
    """Whether the answer may come in chunks, as a client of HTTP/1.0 knows none."""


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


LAST_CHUNK: Final = b"0\r\n\r\n"
"""Ends a body in chunks."""


def chunk(data: bytes) -> bytes:
    """Return part of a body in chunks (RFC 9112, 7.1); one that is empty would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_NAMES: Final[dict[bytes, str]] = {}
"""Names of headers as they came, and in lower case: there are few, and each comes often."""
_NAMES_MAX: Final = 1024
_NAME_REMEMBERED_MAX: Final = 64
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "connection"})
"""Headers by which httptools finds the end of a body, and of the connection."""
_HTTP_1_0: Final = b"HTTP/1.0"
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

    def __init__(
        self,
        body_bytes_max: int,
        limit_of: Callable[[dict[str, str], bytes], int] | None = None,
        *,
        upgrades: bool = True,
    ) -> None:
        """Take bodies up to a size, or what `limit_of` says of the headers and target of a request with a larger one.

        It is asked only where the body has more than SMALL_BODY_BYTES, or does not say how many. `upgrades` says
        whether a request may open a WebSocket.
        """
        self._body_bytes_max = self._most = body_bytes_max
        self._limit_of, self._upgrades = limit_of, upgrades
        self._parser = httptools.HttpRequestParser(self)
        self._done: list[HttpRequest] = []
        self._error: HttpError | None = None
        self.is_partial = False
        """Whether part of a request is waiting for the rest."""
        self.wants_continue = False
        """Whether the peer waits for "100 Continue" before it sends its body; whoever answers clears it."""
        self.after_upgrade = b""
        """What came after a request with `is_upgrade`, which is the last that is decoded."""
        self._last: HttpRequest | None = None
        """The request after which what comes is no HTTP any more."""
        self._held = b""
        """What may become the start line of a response."""
        self._is_in_head = self._has_begun = False
        self._last_head = self._last_version = b""
        self._last_headers: dict[str, str] = {}
        self._last_keep_alive = False
        self._reset()

    @property
    def is_over(self) -> bool:
        """Whether what comes now is no HTTP any more."""
        return self._last is not None

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._header_count = self._header_bytes = self._head_bytes = 0
        self._framing = b""
        self._status = ""
        self._body: list[bytes] = []
        self.held_bytes = 0
        """What has come of the body of a request that is not whole."""

    def close(self) -> None:
        """Forget what has come, and the parser, as it and the decoder refer to each other. Nothing is fed any more."""
        self._reset()
        self._parser = None  # type: ignore[assignment]  # which is what nothing may be fed to
        self._limit_of = self._error = self._last = None
        self._held = self.after_upgrade = b""
        self._done.clear()
        self.is_partial = self.wants_continue = False

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
        takes_chunks = match[2] != _HTTP_1_0
        return HttpRequest("GET", match[1], self._last_headers.copy(), b"", self._last_keep_alive, False, takes_chunks)

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
            if self._held or response_form.may_stand_in(data):
                self._feed_forms(data)
            else:
                self._parse(data)
            if self._is_in_head and not self._has_begun:
                self._check_head(len(data))
        except HttpError as refused:
            error = refused.with_traceback(None)  # which refers to this frame, and that to what has come
        except httptools.HttpParserError as parser_error:
            error = self._error or HttpError(HTTPStatus.BAD_REQUEST, f"not HTTP: {parser_error}")
        requests, self._done = self._done, []
        if len(requests) == 1 and not was_partial and not self.is_partial and not requests[0].is_upgrade:
            self._remember(data, requests[0])
        yield from requests
        if error is not None:
            try:
                raise error
            finally:
                del error  # else it and this frame would refer to each other

    def _feed_forms(self, data: bytes) -> None:
        """Parse what may hold messages in the form of responses: wherever one begins, a request is begun instead."""
        if self._held:
            data, self._held, self.is_partial = self._held + data, b"", False
        done = 0
        match = response_form.search(data, 0)
        while match is not None:
            self._parse(data[done : match.start()])
            done = match.start()
            if self.is_partial or self._last is not None:  # it is part of a head or a body
                match = response_form.search(data, max(done + 1, done + self._body_bytes_missing()))
                continue
            if match.end() == len(data) and not match[0].endswith(b"\n"):
                self._held, self.is_partial = match[0], True
                return
            self._begin_from(match[0])
            done = match.end()
            match = response_form.search(data, done)
        self._parse(data[done:])

    def _begin_from(self, line: bytes) -> None:
        """Begin a request by the start line of a response."""
        status = response_form.status_of(line)
        if not status:
            self._refuse(HTTPStatus.BAD_REQUEST, f"not HTTP: no status in {line[:80].decode('latin-1').strip()}")
        self._parse(response_form.REQUEST_LINE)
        self._status = status

    def _body_bytes_missing(self) -> int:
        """Return how many bytes of the body are still to come, as far as that is known."""
        length = self._headers.get("content-length", "")
        return int(length) - self.held_bytes if length.isdecimal() and not self._is_in_head else 0

    def _parse(self, data: bytes | memoryview) -> None:
        while self._last is None:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                if self.is_partial:
                    self._ignore_upgrade()
                else:
                    self._end_with(self._done[-1])
        if self._last.is_upgrade:
            self.after_upgrade += data

    def _end_with(self, last: HttpRequest) -> None:
        self._last = last
        last.is_upgrade = last.method != "CONNECT"  # which nobody has a tunnel for
        last.keep_alive = last.keep_alive and last.is_upgrade

    def _opens_websocket(self, method: bytes) -> bool:
        """Say whether the upgrade that a request offers is to a WebSocket, which has no body (RFC 6455, 4.1)."""
        headers = self._headers
        return (
            self._upgrades
            and method == b"GET"
            and "websocket" in headers.get("upgrade", "").lower()
            and self._parser.get_http_version() == "1.1"
            and "transfer-encoding" not in headers
            and not headers.get("content-length", "").strip("0")
        )

    def _ignore_upgrade(self) -> None:
        """Have the body read of a request whose head the parser has seen: by another one, which sees no offer."""
        target, headers = self._target, self._headers
        version = self._parser.get_http_version().encode()
        head = b"%b / HTTP/%b\r\n%b" % (self._parser.get_method(), version, self._framing)
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(head)
        self._target, self._headers, self._is_in_head = target, headers, False
        self._parser.feed_data(b"\r\n")

    def _check_head(self, size: int) -> None:
        """Bound what the parser itself keeps of a line that does not end."""
        self._head_bytes += size
        if self._head_bytes > HEADERS_BYTES_MAX + TARGET_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head of over {self._head_bytes - 1} bytes")

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
        if not self._is_in_head:  # a trailer, which whoever looks at headers has not seen (RFC 9110, 6.5.1)
            return
        lower = _NAMES.get(name) or _lower(name)
        if lower in _FRAMING:
            self._framing += b"%b: %b\r\n" % (name, value)
        value = value.rstrip(b" \t")  # the parser leaves what RFC 9110 (5.5) has for no part of it
        if value:
            self._headers[lower] = value.decode() if value.isascii() else _decode(value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self._status:
            self._check_form()
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
        self.held_bytes += len(body)
        if self.held_bytes > self._body_bytes_max:
            self._refuse_body(self.held_bytes)
        self._body.append(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT" and not self._opens_websocket(method):
            return  # the parser has skipped its body: see `_ignore_upgrade`
        self.is_partial = self.wants_continue = False
        self.held_bytes = 0
        request = HttpRequest(
            method.decode("latin-1"), self._target, self._headers, b"".join(self._body), parser.should_keep_alive()
        )
        request.takes_chunks = parser.get_http_version() != "1.0"
        self._done.append(request)

    def _check_form(self) -> None:
        """See that what has the form of a response is a message of zbus, and keep its status."""
        if "cmd" not in self._headers:
            self._refuse(HTTPStatus.BAD_REQUEST, "a response without the header cmd, which says what to do with it")
        self._headers.setdefault("origin_status", self._status)

    def _refuse_body(self, size: int) -> None:
        reason = f"a body of {size} bytes exceeds the limit of {self._body_bytes_max} bytes"
        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)

    def __getattr__(self, name: str) -> Any:
        """Tell httptools that the callbacks it asks for and that are not here are not wanted."""
        raise AttributeError(name)
