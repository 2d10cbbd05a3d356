"""An exchange: one request of a text connection, and the answer it gets at some time.

    HTTP          answers leave in the order of the requests, whatever ends first
    zbus          a request that names its command by a header: answers leave when they are known, and carry its `id`
    WebSocket     as zbus

An answer that goes on is a stream: in chunks, so that clients read each part as it comes and know the last, or up to
the end of its connection, where the client speaks HTTP/1.0.

Pure: whoever carries the connection hears of the answer by `on_answer`, and writes `data`.
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from zbusrpc.transport.http import LAST_CHUNK, HttpResponse, chunk, encode_response
from zbusrpc.transport.text import encode_stream_head, encode_text, header_line

_ALLOWS_PAGE: Final = "access-control-allow-origin: "
"""In the headers that go along: a page of another origin may read the answer."""
_EXPOSE: Final = "access-control-expose-headers"
_OK: Final = int(HTTPStatus.OK)
_PLAIN: Final = b"HTTP/1.1 200 OK\r\nconnection: Keep-Alive\r\n%bcontent-length: %d\r\n\r\n%b"


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "data",
        "head",
        "id",
        "is_first",
        "is_head",
        "is_ordered",
        "is_stream",
        "keep_alive",
        "on_answer",
        "on_lost",
        "takes_chunks",
    )

    def __init__(
        self,
        on_answer: Callable[["Exchange"], None],
        *,
        id_: str = "",
        is_ordered: bool = False,
        keep_alive: bool = True,
    ) -> None:
        self.on_answer = on_answer
        self.id = id_
        """What the client calls its request: the answer repeats it."""
        self.is_ordered = is_ordered
        """Whether the answer waits for those of earlier requests."""
        self.is_first = False
        """Whether no answer of an earlier request was owed when this one came."""
        self.keep_alive = keep_alive
        self.head = ""
        """Headers that go along with any answer, as lines."""
        self.is_head = False
        """Whether the answer goes without its body (a HEAD request)."""
        self.is_stream = False
        """Whether the answer has begun, and has not ended."""
        self.takes_chunks = False
        """Whether a stream may come in chunks; else the connection ends with it."""
        self.data: bytes | None = None
        """The answer, once it is known; of a stream what is to be written next."""
        self.on_lost: Callable[[], None] | None = None
        """Told where the answer could not be handed to a live connection."""

    def answer(self, status: int, body: bytes = b"", head: str = "") -> None:
        """Answer with a text message whose further headers are the lines in `head`."""
        if status == _OK and self.keep_alive and not self.id and not self.head:
            self._finish(_PLAIN % (head.encode(), len(body), body))
            return
        own = f"id: {self.id}\r\n{self.head}" if self.id else self.head
        if _ALLOWS_PAGE in self.head:
            names = (line.partition(":")[0] for line in head.split("\r\n"))
            own += header_line(_EXPOSE, self._exposed(names))
        self._finish(encode_text(status, own + head, body, keep_alive=self.keep_alive))

    def answer_text(self, status: int, text: str) -> None:
        """Answer with a line for people. It has no content type: some clients of zbus decode it themselves."""
        self.answer(status, text.encode())

    def answer_http(self, response: HttpResponse) -> None:
        """Answer with a response of the HTTP gateway."""
        exposed = self._exposed(response.headers) if _ALLOWS_PAGE in self.head else ""
        for line in (self.head + header_line(_EXPOSE, exposed)).splitlines():
            name, _, value = line.partition(": ")
            response.headers[name] = value
        if self.id:
            response.headers["id"] = self.id.encode().decode("latin-1")  # as which all headers are encoded
        self._finish(encode_response(response, keep_alive=self.keep_alive))

    def begin_stream(self, head: str) -> None:
        """Begin an answer that goes on, whose further headers are the lines in `head`."""
        self.is_stream = True
        self.keep_alive = self.keep_alive and self.takes_chunks
        self._add(encode_stream_head(head + self.head, keep_alive=self.keep_alive, is_chunked=self.takes_chunks))

    def stream(self, data: bytes) -> None:
        """Write more of an answer that goes on."""
        self._add(chunk(data) if self.takes_chunks else data)

    def end_stream(self, data: bytes = b"") -> None:
        """Write the last of an answer that went on."""
        self.is_stream = False
        if self.takes_chunks:
            data = (chunk(data) if data else b"") + LAST_CHUNK
        self._add(data)

    def cut_short(self, response: HttpResponse) -> None:
        """End a stream where it stands, or answer what has no answer: there will be no other."""
        if self.is_stream:
            self.end_stream()
        elif self.data is None:
            self.answer_http(response)

    def _exposed(self, names: Iterable[str]) -> str:
        """Return which headers its page shall be let read: all there are, as an application's have any names."""
        return ", ".join([*(["id"] if self.id else []), *filter(None, names)])

    def _add(self, data: bytes) -> None:
        self.data = (self.data or b"") + data
        self.on_answer(self)

    def _finish(self, data: bytes) -> None:
        if self.data is None:  # else it was answered already, for example because its connection closes
            self.data = data[: data.index(b"\r\n\r\n") + 4] if self.is_head else data
            self.on_answer(self)
        elif self.on_lost is not None:
            on_lost, self.on_lost = self.on_lost, None
            on_lost()


def clean_id(text: str) -> str:
    """Return an id as it may stand in a header."""
    return header_line("id", text)[4:-2] if text else ""
