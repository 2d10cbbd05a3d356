"""Server-sent events: stored messages as a browser's EventSource takes them.

    id: 17              the offset
    event: eur.usd      the tag, where there is one
    data: 1.0834        each line of the body

Pure. (HTML standard, "Server-sent events".) A body that is no UTF-8 arrives with replacement characters.
"""

import re
from typing import Final

from zbusrpc.broker.storage.record import Record

HEAD: Final = "content-type: text/event-stream\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"
"""Headers of a stream. nginx is asked to keep nothing back, which counts as consumed."""
KEEP_ALIVE: Final = b":\n\n"
"""A comment: proxies and browsers see that the stream is alive."""
_LINE_ENDS: Final = re.compile(r"\r\n|\r|\n")


def event(record: Record) -> bytes:
    """Return a message as an event."""
    lines = [f"id: {record.offset}\n"]
    if record.tag:
        lines.append(f"event: {_LINE_ENDS.sub(' ', record.tag.decode(errors='replace'))}\n")
    lines += [f"data: {line}\n" for line in _LINE_ENDS.split(record.body.decode(errors="replace"))]
    return ("".join(lines) + "\n").encode()


def farewell(text: str) -> bytes:
    """Return the event that says why there will be no more."""
    return f"event: end\ndata: {_LINE_ENDS.sub(' ', text)}\n\n".encode()
