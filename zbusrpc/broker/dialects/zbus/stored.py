"""Stored messages: what is kept of a produced text message, and the text message that a consumer is given of it.

The headers of a message are kept as the JSON object that those of native producers are; what only concerned the
request is not: commands, credentials, and what HTTP clients say of themselves and the connection. Pure.
"""

from typing import Final

import orjson

from zbusrpc.broker.dialects.zbus.own_headers import is_own
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.mq.delivery import Delivery
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import readable_headers
from zbusrpc.transport.entries import Entry
from zbusrpc.transport.native import HEADERS_BYTES_MAX
from zbusrpc.transport.text import header_line, header_lines, one_line

ID_BYTES_MAX: Final = 39
TAG_BYTES_MAX: Final = 127
"""Both are zbus's: its clients and other brokers rely on them."""
_OF_THE_REQUEST: Final = frozenset({
    "cmd", "ack", "topic", "tag", "id", "token", "cookie", "authorization", "proxy-authorization", "sender",
    "recver", "consume_group", "topic_mask", "group_mask", "group_filter", "consume_window", "window", "version",
    "body", "timeout", "timeout-ms", "connection", "keep-alive", "proxy-connection", "content-length",
    "transfer-encoding", "upgrade", "te", "trailer", "expect", "host", "remote-addr", "offset", "timestamp", "retry",
    "origin_id", "origin_url", "origin_method", "module",
})  # fmt: skip
"""Headers that say what is to be done, by whom and how, and those that only the broker writes."""
_OF_HTTP_CLIENTS: Final = frozenset({
    "user-agent", "accept", "accept-encoding", "accept-language", "origin", "referer", "cache-control", "pragma", "dnt",
    "priority", "upgrade-insecure-requests", "last-event-id", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest",
    "sec-fetch-user", "sec-gpc", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "x-forwarded-for",
})  # fmt: skip
"""Headers of a request without `cmd`, which no zbus client has made."""
_OF_THE_DELIVERY: Final = _OF_THE_REQUEST | {"origin_status", "delivery_id"}
"""Those that only the broker writes, whoever has produced the message."""


def kept_headers(command: Command) -> dict[str, str]:
    """Return the headers of a request that belong to its message."""
    if not command.is_by_url:
        return {name: value for name, value in command.headers.items() if name not in _OF_THE_REQUEST}
    return {
        name: value
        for name, value in command.headers.items()
        if name not in _OF_THE_REQUEST and name not in _OF_HTTP_CLIENTS
    }


def encode_kept(headers: dict[str, str]) -> bytes:
    """Return headers as they are stored.

    Raises:
        RpcError: INVALID_ARGUMENT: they are too long.
    """
    data = orjson.dumps(headers) if headers else b""
    if len(data) > HEADERS_BYTES_MAX:
        text = f"headers of {len(data)} bytes, written as JSON, exceed the limit of {HEADERS_BYTES_MAX} bytes"
        raise RpcError(Code.INVALID_ARGUMENT, text)
    return data


def check_limits(headers: dict[str, str]) -> None:
    """See that id and tag are as short as zbus has them.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    for name, limit in (("id", ID_BYTES_MAX), ("tag", TAG_BYTES_MAX)):
        value = headers.get(name)
        if value is not None and len(value) > limit // 4 and len(value.encode()) > limit:
            raise RpcError(Code.INVALID_ARGUMENT, f"{name} of {len(value.encode())} bytes exceeds the limit of {limit}")


def entry_of(command: Command, sender: str) -> Entry:
    """Return the message that a request produces.

    Raises:
        RpcError: INVALID_ARGUMENT: id, tag or headers are too long.
    """
    headers = command.headers
    check_limits(headers)
    kept = kept_headers(command) | origin_of(command)
    if not command.is_by_url:
        kept["sender"] = sender
    id_, tag = headers.get("id", ""), headers.get("tag", "")
    return Entry(0, 0, 0, id_.encode(), tag.encode(), b"", encode_kept(kept), command.body)


def origin_of(command: Command) -> dict[str, str]:
    """Return what tells consumers of the request itself: URL and method, where they are not those of `GET /`."""
    origin = {"origin_url": _url_to_show(command)} if command.url != b"/" else {}
    if command.method != "GET":
        origin["origin_method"] = command.method
    return origin


def origin_lines(headers: dict[str, str]) -> str:
    """Take what `origin_of` has put among the headers of a call out, and return it as lines."""
    url = one_line(headers.pop("origin_url", "/"))
    return f"origin_url: {url}\r\n" + header_line("origin_method", headers.pop("origin_method", ""))


def _url_to_show(command: Command) -> str:
    """Return the URL of a request without the token that may stand there."""
    url = command.url.decode("latin-1")
    path, mark, query = url.partition("?")
    if "token" not in query.lower() and "%" not in query:
        return url
    parts = [part for part in query.split("&") if "%" not in part.partition("=")[0]]
    kept = "&".join(part for part in parts if part.partition("=")[0].lower() != "token")
    return path + mark + kept if kept else path


def head_of(topic: Topic, group: str, delivery: Delivery, record: Record) -> tuple[str, str, str]:
    """Return the headers of a message as lines, the session that produced it as `Hub.signed` has it, and its id."""
    headers = readable_headers(record.headers)
    id_ = record.id.decode(errors="replace") or f"{topic.uid}-{record.offset}"
    url, sender = headers.pop("origin_url", "/"), headers.pop("sender", "")
    of_group = f"consume_group: {group}\r\n" if group else ""
    head = (
        f"origin_id: {one_line(id_)}\r\norigin_url: {one_line(url)}\r\ntopic: {topic.name}\r\n{of_group}"
        f"offset: {record.offset}\r\ntimestamp: {record.timestamp_ms}\r\n"
    )
    if record.tag:
        head += header_line("tag", record.tag.decode(errors="replace"))
    if delivery.attempts > 1:
        head += f"retry: {delivery.attempts - 1}\r\n"
    if sender:
        head += header_line("sender", sender.partition(" ")[0])
    if headers:
        head += header_line("origin_method", headers.pop("origin_method", ""))
        head += header_line("origin_status", headers.pop("origin_status", ""))
        head += other_lines(headers)
    return head, sender, id_


def other_lines(headers: dict[str, str]) -> str:
    """Return headers that are the application's own as lines."""
    if not headers:
        return ""
    return header_lines(
        [(name, value) for name, value in headers.items() if is_own(name) and name.lower() not in _OF_THE_DELIVERY]
    )
