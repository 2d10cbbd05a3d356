"""Calls between zbus and native peers: the request and the answer of one as the other knows them.

    zbus request    {"method", "params", "module"}      as ours
    zbus answer     {"result", "error"}                 status 200; the error is anything but null, mostly a text
    since 0.10      the result alone, or status 600 and the text of the error

Which a caller wants tells the `version` it sends; a service's answer is taken in either form. Pure.
"""

from http import HTTPStatus
from typing import Any, Final

import orjson

from zbusrpc import envelope
from zbusrpc.broker.dialects.http.gateway import STATUS
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.errors import Code, RpcError
from zbusrpc.long_integers import LongIntegerError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.text import JSON_HEADER

ERROR_STATUS: Final = 600
"""zbus 0.10 and later: the call failed in the service."""
_RESULT: Final = b'{"result":'


def wants_bare_result(version: str) -> bool:
    """Whether a caller of this `version` takes the result without an envelope."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isascii() and part.isdecimal() and len(part) < 9]
    return len(numbers) == 2 and numbers >= [0, 10]


class TextReply(Message):
    """The REPLY of a zbus service: for native callers as others are, for those of zbus as it was written.

    Those that want the other form, with or without an envelope, get it as native callers do.
    """

    __slots__ = ("head", "is_bare", "status", "text")

    def __init__(self, request: Message, body: bytes, flags: int) -> None:
        super().__init__(Kind.REPLY, request.id, b"", body, b"", flags, session=request.session)
        self.is_bare = False
        """Whether it stands without an envelope."""
        self.status = 200
        self.head = ""
        self.text = b""


def body_of_path(command: Command) -> bytes:
    """Return the request that a 0.11 URL makes: module, method and parameters follow the topic."""
    path, module = command.path, command.headers.get("module", "")
    if not module and len(path) > 1:
        module, path = path[0], path[1:]
    if module == "index":  # what zbus 0.11 calls the module without a name
        module = ""
    if not path or not path[0]:
        return b""
    request: dict[str, Any] = {"method": path[0], "params": path[1:]}
    return orjson.dumps(request | ({"module": module} if module else {}))


def answer_of(reply: Message, name: str, *, is_bare: bool) -> tuple[int, bytes, str]:
    """Return status, body and further headers of the answer that a zbus caller gets for a REPLY."""
    if isinstance(reply, TextReply) and reply.is_bare == is_bare:
        return reply.status, reply.text, reply.head
    body = bytes(reply.body)
    if body.startswith(b'{"jsonrpc"'):  # so it was asked
        return HTTPStatus.OK, body, JSON_HEADER
    if reply.flags & Flag.ERROR:
        return _error_of(reply, body, name, is_bare=is_bare)
    if is_bare:
        body = body[len(_RESULT) : -1] if body.startswith(_RESULT) else body
    elif body.startswith(_RESULT):
        body = body[:-1] + b',"error":null}'
    return HTTPStatus.OK, body, JSON_HEADER


def _error_of(reply: Message, body: bytes, name: str, *, is_bare: bool) -> tuple[int, bytes, str]:
    error = envelope.parse_error(body)
    if not reply.session:  # the broker's own: no service has answered
        return _refusal(error, name)
    text = f"{error.code}: {error.message}"
    if is_bare:
        return ERROR_STATUS, text.encode(), ""
    return HTTPStatus.OK, orjson.dumps({"result": None, "error": text}), JSON_HEADER


def _refusal(error: envelope.WireError, name: str) -> tuple[int, bytes, str]:
    """Return the answer where the broker refuses a call: as text, which is how zbus clients know that it failed."""
    if error.code is Code.UNAVAILABLE:
        return HTTPStatus.BAD_GATEWAY, f"Service({name}) Down: {error.message}".encode(), ""
    return STATUS[error.code], error.message.encode(), ""


def jsonrpc_id_of(body: bytes) -> tuple[bool, Any]:
    """Return whether a request is JSON-RPC 2.0, and its id."""
    if b'"jsonrpc"' not in body:
        return False, None
    try:
        value = envelope.load(body)
    except RpcError:
        return False, None
    return (value.get("jsonrpc") == "2.0", value.get("id")) if isinstance(value, dict) else (False, None)


def reply_of(request: Message, command: Command, status: int, head: str, jsonrpc: tuple[bool, Any]) -> TextReply:
    """Return the REPLY that a zbus service's `route` is."""
    is_bare = wants_bare_result(command.headers.get("version", ""))
    result, error = _read_answer(command.body, status, is_bare=is_bare)
    is_jsonrpc, jsonrpc_id = jsonrpc
    if error is None:
        body = envelope.jsonrpc_result(jsonrpc_id, result) if is_jsonrpc else envelope.result_body(result)
    else:
        text = error if isinstance(error, str) else envelope.dump(error).decode()
        body = envelope.error_body(RpcError(Code.UNKNOWN, text, None if isinstance(error, str) else error))
        body = envelope.jsonrpc_error(jsonrpc_id, body) if is_jsonrpc else body
    reply = TextReply(request, body, 0 if error is None else Flag.ERROR)
    reply.is_bare, reply.status, reply.head, reply.text = is_bare, status, head, command.body
    return reply


def _read_answer(body: bytes, status: int, *, is_bare: bool) -> tuple[bytes, Any]:
    """Return the result as JSON, and the error or None."""
    try:
        value = envelope.read_json(body) if body else None
    except LongIntegerError as unread:
        return b"null", f"the answer cannot be read: {unread}"
    except RpcError:
        value = body.decode(errors="replace")
        body = orjson.dumps(value)
    if status >= HTTPStatus.BAD_REQUEST:
        return b"null", value if value is not None else f"status {status}"
    if isinstance(value, dict) and value.keys() <= {"result", "error"} and not is_bare:
        error = value.get("error")
        return (envelope.dump(value.get("result")) if error is None else b"null"), error
    return body or b"null", None
