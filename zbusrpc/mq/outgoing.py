"""Outgoing: a message that an application wants stored, checked and written as an entry of a frame.

Pure: values in, bytes out, or one line that names the value and its limit.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

from zbusrpc.bounds import DELAY_MS, TTL_MS
from zbusrpc.errors import Code, RpcError, UsageError, did_you_mean, one_of
from zbusrpc.message import encode_headers
from zbusrpc.mq.bodies import HEADER_BYTES, HEADER_CONTENT_TYPE, NO_TYPE, Write, encode_text
from zbusrpc.outcome import of_command
from zbusrpc.transport.entries import (
    ENTRY_HEAD,
    ENTRY_HEAD_BYTES,
    ID_BYTES_MAX,
    KEY_BYTES_MAX,
    TAG_BYTES_MAX,
    encode_entry,
)
from zbusrpc.transport.native import HEADERS_BYTES_MAX

T = TypeVar("T")


class MessageOptions(TypedDict, total=False):
    """What may be said of a message besides its body. None is the same as nothing."""

    key: str | None
    """Messages with the same key are handled one after the other, in order. At most 1024 bytes."""
    tag: str | None
    """What consumers filter by, such as `eu.new`. At most 255 bytes."""
    id: str | None
    """Names the message: within the topic's duplicate window it is stored once, however often it is sent. By default
    the producer makes one. At most 255 bytes."""
    headers: Mapping[str, str] | None
    """Travel along. At most 64 KiB as JSON."""
    ttl: float | None
    """Seconds after which it is not delivered any more."""
    delay: float | None
    """Seconds before which it is not delivered."""


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[T]):
    """A message of a batch, where its body alone does not say it all; the fields are those of `MessageOptions`."""

    body: T
    key: str | None = None
    tag: str | None = None
    id: str | None = None
    headers: Mapping[str, str] | None = None
    ttl: float | None = None
    delay: float | None = None


def prepare(
    write: Write,
    make_id: Callable[[], bytes],
    body: Any,
    key: str | None = None,
    tag: str | None = None,
    id: str | None = None,  # noqa: A002 - the protocol's own word
    headers: Mapping[str, str] | None = None,
    ttl: float | None = None,
    delay: float | None = None,
    **unknown: Any,
) -> tuple[bytes, bytes]:
    """Check a message and return its entry, and the id that was given: nothing where `make_id` made one.

    Raises:
        RpcError: INVALID_ARGUMENT; the text names the value and the limit.
        UsageError: there is no such option.
    """
    if unknown:
        name, value = next(iter(unknown.items()))
        known = MessageOptions.__annotations__
        hint = did_you_mean(name, known) or f"; there are {one_of(known)}"
        raise UsageError(f"{name}={value!r:.80}: a message has no option {name}{hint}")
    data, content_type = write(body)
    given_id = _text("id", id, ID_BYTES_MAX) if id else b""
    entry = encode_entry(
        0 if ttl is None else milliseconds("ttl", ttl, 1),
        0 if delay is None else milliseconds("delay", delay, 0),
        0,
        given_id or make_id(),
        _text("tag", tag, TAG_BYTES_MAX) if tag else b"",
        _text("key", key, KEY_BYTES_MAX) if key else b"",
        _headers(headers, content_type) if headers else HEADER_BYTES[content_type],
        data,
    )
    return entry, given_id


def entries_of(block: bytes) -> Iterator[bytes]:
    """Yield the entries that were written one behind the other."""
    position = 0
    while position < len(block):
        size: int = ENTRY_HEAD.unpack_from(block, position)[0]
        yield block[position : position + size]
        position += size


def key_of(entry: bytes) -> bytes:
    """Return the key of an entry that was written here; nothing where it has none."""
    _, _, _, _, id_size, tag_size, key_size, _ = ENTRY_HEAD.unpack_from(entry)
    start = ENTRY_HEAD_BYTES + id_size + tag_size
    return entry[start : start + key_size]


def milliseconds(what: str, seconds: float, least_ms: int) -> int:
    """Return a time as it goes over the wire, which is never less than `least_ms`: a ttl of 0 means for ever there.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    if not isinstance(seconds, int | float):
        raise _refusal(f"{what} = {seconds!r}: it is a number of seconds, not {type(seconds).__name__}")
    most_s = (TTL_MS if least_ms else DELAY_MS).most // 1000
    if not (0 <= seconds <= most_s) or (seconds == 0 and least_ms):
        least = "more than 0" if least_ms else "0 or more"
        raise _refusal(f"{what} = {seconds}: write {least} seconds, at most {most_s} ({most_s // 31_536_000} years)")
    return max(least_ms, math.ceil(seconds * 1000))


def _text(what: str, text: str, limit: int) -> bytes:
    if not isinstance(text, str):
        raise _refusal(f"{what} = {text!r}: it is a str, not {type(text).__name__}")
    data = encode_text(what, text)
    if len(data) > limit:
        raise _refusal(f"the {what} of {len(data)} bytes exceeds the limit of {limit} bytes: {text[:40]!r}...")
    if b"\0" in data:
        raise _refusal(f"{what} = {text!r}: it may not hold a NUL")
    return data


def _headers(headers: Mapping[str, str], content_type: str) -> bytes:
    if not isinstance(headers, Mapping):
        raise _refusal(f"headers = {headers!r:.80}: it is a dict of strings, not {type(headers).__name__}")
    own = {HEADER_CONTENT_TYPE: content_type} if content_type != NO_TYPE else {}
    if not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise _refusal(f"headers = {dict(headers)}: names and values are strings")
    try:
        data = encode_headers({**own, **headers})
    except TypeError as error:  # orjson refuses half of a character
        raise _refusal(f"headers = {dict(headers)}: {error}") from None
    if len(data) > HEADERS_BYTES_MAX:
        raise _refusal(f"the headers of {len(data)} bytes exceed the limit of {HEADERS_BYTES_MAX} bytes")
    return data


def _refusal(text: str) -> RpcError:
    return of_command(Code.INVALID_ARGUMENT, text)
