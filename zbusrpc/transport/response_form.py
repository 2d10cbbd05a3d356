"""The response form: messages of zbus that come with the start line of a response, to be told from requests.

    HTTP/1.1 200 OK             what a client has consumed it sends on as it came: with the status that it had
    cmd: produce
    topic: T

Where a message begins only whoever parses them knows: what is found here may as well be part of a body.

Pure: bytes in, places out.
"""

import re
from typing import Final

MARK: Final = b"HTTP/1.1 "
"""What such a line begins with; that of a request ends with the version instead."""
REQUEST_LINE: Final = b"GET / HTTP/1.1\r\n"
"""That of the same message as a request."""
REASON_BYTES_MAX: Final = 128
"""Of a line that is waited for: the longest reason of HTTP has 31 bytes, and clients do not read it."""
_PREFIXES: Final = b"|".join(re.escape(MARK[:size]) for size in range(len(MARK) - 1, 0, -1))
_START: Final = re.compile(rb"HTTP/1\.1 [^\r\n]{0,%d}(?:\r\n|\r?\Z)|(?:%b)\Z" % (REASON_BYTES_MAX + 4, _PREFIXES))
_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-9][0-9][0-9])(?: .*)?\r\n")


def search(data: bytes, start: int) -> re.Match[bytes] | None:
    """Find the next start line of a response, or what may become one when more has come, which is at the end."""
    return _START.search(data, start)


def status_of(line: bytes) -> str:
    """Return the status in a start line with its end; nothing where there is none."""
    match = _LINE.fullmatch(line)
    return match[1].decode() if match is not None else ""
