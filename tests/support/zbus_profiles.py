"""The zbus wire as each language's client of the 0.8 era speaks and reads it.

A `Profile` holds what sets one client apart, as zbus.md (1.1-1.15, 3) tells it. A `Decoder` reads as strictly, and as
wrongly, as that client: what the client would crash on raises here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

JSON = "application/json"
HEAD_END = b"\r\n\r\n"


class ClientCrash(Exception):
    """A real client would have failed here, or handed nonsense to its program."""


@dataclass(slots=True)
class ZbusMessage:
    """A message of the zbus wire; with a status it is a response."""

    headers: dict[str, str]
    body: Any = b""
    """Bytes to send; of a received message, what its content-type made of it."""
    status: int | None = None
    url: str = "/"

    @property
    def id(self) -> str:
        """What replies are matched by."""
        return self.headers.get("id", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What sets one client apart."""

    name: str
    true: str = "true"
    false: str = "false"
    headers: Mapping[str, str] = field(default_factory=dict)
    """What every message of this client carries."""
    consume_headers: Mapping[str, str] = field(default_factory=dict)
    reuses_consume_id: bool = False
    """Its consume is one message that is sent over and over."""
    connections: int = 1
    """How many a consumer opens to each server."""

    case_sensitive: bool = False
    """Headers are looked up in lower case, and taken as they were sent."""
    split_lines: bool = False
    """The head is split at everything that Python takes for the end of a line."""
    cuts_values: bool = False
    """A header's value ends at the second colon."""
    early_bytes: int = 0
    """A message counts as complete when so many bytes are missing."""
    body: Literal["bytes", "text", "value"] = "bytes"
    """What `content-type: application/json`, exactly, makes of a body."""
    keeps_status: bool = False
    """A consumed message is a response to it unless there is an origin_url."""

    has_tracker: bool = True
    """False: it knows the one server that it was given."""
    needs_known_topic: bool = True
    """A topic that no server has announced cannot be produced to."""
    counts_old_trackers: bool = True
    """Trackers that are gone still count when servers are voted on."""
    declares_first: bool = False
    declares_twice: bool = False
    """After a 404 it declares the topic, then the group."""

    rpc_command: str = "produce"
    rpc_mask: str | None = "2"
    rpc_content_type: str | None = JSON
    rpc_module: Literal["null", "absent", "empty"] = "null"
    rpc_omits_nulls: bool = False
    rpc_error: Literal["text", "object", "nothing"] = "text"
    """What an exception of a service becomes."""
    routes_topic: bool = False
    routes_status: bool = True
    routes_ack: bool = True

    def flag(self, value: bool) -> str:
        """Return a boolean as this client writes it."""
        return self.true if value else self.false


_ALL = (
    Profile(
        name="python",
        true="True",
        false="False",
        reuses_consume_id=True,
        case_sensitive=True,
        split_lines=True,
        body="text",
        keeps_status=True,
        rpc_mask="3",
    ),
    Profile(
        name="javascript",
        body="value",
        keeps_status=True,
        needs_known_topic=False,
        declares_first=True,
        rpc_content_type=None,
        rpc_module="absent",
        rpc_error="nothing",
        routes_topic=True,
    ),
    Profile(
        name="java",
        true="1",
        false="0",
        headers={"connection": "Keep-Alive", "encoding": "UTF-8", "version": "0.9.0"},
        connections=4,
        counts_old_trackers=False,
        rpc_content_type=None,
        rpc_module="empty",
        rpc_omits_nulls=True,
        rpc_error="object",
        routes_topic=True,
    ),
    Profile(
        name="go",
        headers={"connection": "Keep-Alive"},
        consume_headers={"window": "1"},
        keeps_status=True,
        has_tracker=False,
        needs_known_topic=False,
        rpc_command="rpc",
        rpc_mask=None,
        rpc_module="empty",
    ),
    Profile(
        name="php",
        true="1",
        false="0",
        cuts_values=True,
        early_bytes=4,
        declares_first=True,
        rpc_mask="3",
        rpc_module="absent",
    ),
    Profile(
        name="cpp",
        true="1",
        false="0",
        case_sensitive=True,
        declares_twice=True,
        rpc_module="empty",
        routes_topic=True,
        routes_status=False,
        routes_ack=False,
    ),
    Profile(name="dotnet", true="True", false="False", counts_old_trackers=False, declares_twice=True),
)
PROFILES = {profile.name: profile for profile in _ALL}


# -- out -----------------------------------------------------------------------------------------------------


def new_id() -> str:
    """Return an id as all clients make them."""
    return str(uuid4())


def encode(message: ZbusMessage, profile: Profile) -> bytes:
    """Return a message as bytes: the request form, which clients always use."""
    body = message.body.encode() if isinstance(message.body, str) else message.body
    fields = {**profile.headers, **message.headers, "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {message.url} HTTP/1.1\r\n{head}\r\n".encode() + body


# -- in ------------------------------------------------------------------------------------------------------


class Decoder:
    """Reads messages out of a stream as one client does."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[ZbusMessage]:
        """Return the messages that are complete now.

        Raises:
            ClientCrash: this client cannot read what came.
        """
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> ZbusMessage | None:
        head, end, rest = self._buffer.partition(HEAD_END)
        if not end:
            return None
        status, headers = self._read_head(head)
        size = int(headers.get("content-length", "0"))
        if len(rest) < size - self._profile.early_bytes:
            return None
        if len(rest) < size:
            raise ClientCrash(f"{self._profile.name} takes a message that is {size - len(rest)} bytes short")
        self._buffer = rest[size:]
        return ZbusMessage(headers, self._read_body(rest[:size], headers.get("content-type")), status)

    def _read_head(self, head: bytes) -> tuple[int, dict[str, str]]:
        text = head.decode()
        first, *lines = text.splitlines() if self._profile.split_lines else text.split("\r\n")
        words = first.split()
        if len(words) < 2 or not words[0].upper().startswith("HTTP") or not words[1].isdigit():
            raise ClientCrash(f"{self._profile.name} cannot read a message that begins with {first[:80]!r}")
        return int(words[1]), dict(self._read_line(line) for line in lines)

    def _read_line(self, line: str) -> tuple[str, str]:
        name, colon, value = line.partition(":")
        if not colon:
            raise ClientCrash(f"{self._profile.name} finds no colon in header {line!r}")
        if self._profile.cuts_values:
            value = value.partition(":")[0]
        name = name.strip()
        return name if self._profile.case_sensitive else name.lower(), value.strip()

    def _read_body(self, body: bytes, content_type: str | None) -> Any:
        is_json = content_type == JSON
        if self._profile.body == "value" and is_json:
            return json.loads(body)
        if self._profile.body == "text" and content_type is not None and (is_json or content_type.startswith("text")):
            return body.decode()
        return body


def error_text(message: ZbusMessage, profile: Profile) -> str:
    """Return the text of an error as this client reads it, which a content-type may break."""
    if not isinstance(message.body, bytes):
        raise ClientCrash(f"{profile.name} decodes the body of an error, and {message.body!r} is decoded already")
    return message.body.decode()


def value_of(message: ZbusMessage, profile: Profile) -> Any:
    """Return the JSON in a reply as this client finds it."""
    if message.headers.get("content-type") != JSON:
        raise ClientCrash(f"{profile.name} finds no JSON in a reply with {message.headers}")
    return message.body if profile.body == "value" else json.loads(message.body)


def restore(message: ZbusMessage, profile: Profile) -> ZbusMessage:
    """Turn the reply to a consume into the message that was produced, as all clients do."""
    headers = dict(message.headers)
    if "origin_id" not in headers:
        raise ClientCrash(f"{profile.name} finds no origin_id in {headers}")
    headers["id"] = headers.pop("origin_id")
    url = headers.pop("origin_url", None)
    status = message.status if url is None and profile.keeps_status else None
    return ZbusMessage(headers, message.body, status, url or "/")
