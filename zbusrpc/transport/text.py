"""zbus text messages as the broker sends them, without I/O: each is an HTTP response, whatever it answers.

    HTTP/1.1 200 OK
    connection: Keep-Alive
    id: 7f0c...                 names in lower case: some clients compare them so
    content-length: 5           always, and last

    hello

Pure: values in, bytes out. What stands in a header is one line, whatever it was made of.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from zbusrpc.transport.http import STATUS_LINES

JSON_HEADER: Final = "content-type: application/json\r\n"
"""Exactly so: clients of zbus compare the value for equality."""
_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
"""Whoever reads one of these takes a body for the next answer."""
_NOT_IN_HEADERS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What some client takes for the end of a line."""
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token (RFC 9110, 5.6.2)."""


def encode_text(status: int, head: str, body: bytes, *, keep_alive: bool = True) -> bytes:
    """Return a message: `head` holds its headers as lines, but for `connection` and `content-length`."""
    line = STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown Status\r\n" % status
    connection = b"connection: Keep-Alive\r\n" if keep_alive else b"connection: close\r\n"
    if status in _WITHOUT_BODY:
        return b"%b%b%b\r\n" % (line, connection, head.encode())
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (line, connection, head.encode(), len(body), body)


def encode_stream_head(head: str, *, keep_alive: bool, is_chunked: bool) -> bytes:
    """Return the head of a message whose body comes in parts: in chunks, or up to the end of the connection."""
    framing = "transfer-encoding: chunked\r\n" if is_chunked else ""
    connection = "keep-alive" if keep_alive else "close"
    return STATUS_LINES[HTTPStatus.OK] + f"{head}connection: {connection}\r\n{framing}\r\n".encode()


def one_line(value: str) -> str:
    """Return a text as it may stand in a header."""
    return (value if value.isprintable() else _NOT_IN_HEADERS.sub(" ", value)).strip()


def header_line(name: str, value: str) -> str:
    """Return one header as a line; nothing where there is no value, or the name cannot be one."""
    value = one_line(value)
    return f"{name}: {value}\r\n" if value and _NAME.fullmatch(name) else ""


def header_lines(headers: Iterable[tuple[str, str]]) -> str:
    """Return headers as lines."""
    return "".join([header_line(name, value) for name, value in headers])
