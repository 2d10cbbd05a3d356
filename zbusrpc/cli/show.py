"""Messages as they are shown: a line for people, a line of JSON, or the bare body.

People get what could hurt their terminal as escapes, so that a message is always one line.
"""

import base64
import os
import sys
from datetime import datetime
from typing import Any, Final

import orjson
from rich.console import Console
from rich.text import Text

from zbusrpc.cli.printable import printable, printable_lines
from zbusrpc.cli.shell import unprintable
from zbusrpc.cli.units import size_text, time_text

BINARY_BYTES_SHOWN: Final = 24


def describe(  # the fields of docs/protocol.md, `peek`
    *,
    offset: int,
    timestamp_ms: int,
    id: str,  # noqa: A002 - the protocol's own word
    tag: str,
    key: str,
    headers: dict[str, str],
    attempt: int,
    body: bytes,
) -> dict[str, Any]:
    """Return a message as one JSON object: its body as text where it is one, as base64 where not."""
    shown = {
        "offset": offset,
        "timestamp_ms": timestamp_ms,
        "id": id,
        "tag": tag,
        "key": key,
        "headers": headers,
        "attempt": attempt,
        "size": len(body),
    }
    try:
        return shown | {"body": body.decode()}
    except UnicodeDecodeError:
        return shown | {"body": None, "body_base64": base64.b64encode(body).decode()}


def json_line(shown: dict[str, Any]) -> bytes:
    """Return a message as a line for machines."""
    return orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE)


def print_messages(messages: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print messages, a line each: for people in colour where they see it.

    Raises:
        BrokenPipeError: nobody reads them any more.
    """
    if as_json:
        lines_of_json = b"".join(map(json_line, messages))
        print_bytes(printable_lines(lines_of_json.decode()).encode() if sys.stdout.isatty() else lines_of_json)
        return
    today = datetime.now().astimezone()
    lines = [human_line(message, today) for message in messages]
    if sys.stdout.isatty():
        console = Console(highlight=False)
        for line in lines:
            console.print(line, soft_wrap=True)
    else:
        print_bytes("".join(f"{line.plain}\n" for line in lines).encode())


def print_bytes(data: bytes) -> None:
    """Print bytes as they are, now; a thread that waits here for a reader holds no lock that others need.

    Raises:
        BrokenPipeError: nobody reads them any more.
        ConfigError: they cannot be written, for example because a disk is full.
    """
    sys.stdout.flush()
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unprintable(error) from None


def human_line(shown: dict[str, Any], today: datetime) -> Text:
    """Return a message as a line for people: offset, time, tag, key, body."""
    parts: list[tuple[str, str]] = [
        (f"{shown['offset']:>6}", "cyan"),
        (f"  {time_text(shown['timestamp_ms'], today)}", "dim"),
    ]
    if shown["tag"]:
        parts.append((f"  {printable(shown['tag'])}", "green"))
    if shown["key"]:
        parts.append((f"  key={printable(shown['key'])}", "yellow"))
    if shown.get("attempt", 1) > 1:
        parts.append((f"  attempt={shown['attempt']}", "red"))
    return Text.assemble(*parts, f"  {body_text(shown)}")


def body_text(shown: dict[str, Any]) -> str:
    """Return a body for people, on one line."""
    if shown["body"] is not None:
        whole = printable(shown["body"])
        is_cut = len(shown["body"].encode()) < shown["size"]
    else:
        data = base64.b64decode(shown["body_base64"])[:BINARY_BYTES_SHOWN]
        whole, is_cut = data.hex(" "), len(data) < shown["size"]
    return f"{whole}... ({size_text(shown['size'])})" if is_cut else whole
