"""The response form: messages of zbus that come with the start line of a response, to be told from requests.

    HTTP/1.1 200 OK             what a client has consumed it sends on as it came: with the status that it had
    cmd: produce
    topic: T

The version is that with which the message came to the client, HTTP/1.0 also: it says nothing of this connection.
Where a message begins only whoever parses them knows: what is found here may as well be part of a body.

Pure: bytes in, places out.
"""

import re
from typing import Final

_MARKS: Final = (b"HTTP/1.1 ", b"HTTP/1.0 ")
"""What such a line begins with; that of a request ends with the version instead."""
_COMMON: Final = b"HTTP/1."
_MARK_BYTES: Final = len(_MARKS[0])
REQUEST_LINE: Final = b"GET / HTTP/1.1\r\n"
"""That of the same message as a request."""
REASON_BYTES_MAX: Final = 128
"""Of a line that is waited for: the longest reason of HTTP has 31 bytes, and clients do not read it."""
_PREFIXES: Final = b"|".join(re.escape(mark[:size]) for size in range(_MARK_BYTES - 1, 0, -1) for mark in _MARKS)
_START: Final = re.compile(rb"HTTP/1\.[01] [^\r\n]{0,%d}(?:\r\n|\r?\Z)|(?:%b)\Z" % (REASON_BYTES_MAX + 4, _PREFIXES))
_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: .*)?\r\n")


def may_stand_in(data: bytes) -> bool:
    """Say whether such a line, or at the end the beginning of one, may stand in `data`: mostly none does."""
    if _COMMON in data and (_MARKS[0] in data or _MARKS[1] in data):  # of a large body each block is searched once
        return True
    return b"H" in data[-_MARK_BYTES:]


def search(data: bytes, start: int) -> re.Match[bytes] | None:
    """Find the next start line of a response, or what may become one when more has come, which is at the end."""
    return _START.search(data, start)


def status_of(line: bytes) -> str:
    """Return the status in a start line with its end; nothing where there is none."""
    match = _LINE.fullmatch(line)
    return match[1].decode() if match is not None else ""
