"""The envelope: what stands in the body of a request and of its reply, as JSON that any language can write.

    request   {"method": "add", "params": [1, 2] or {"a": 1, "b": 2}, "module": "Calc" (may be left out)}
              {"method": "total", "params": [1, 2], "named": {"start": 3}}
    reply     {"result": 3}  or  {"error": {"code": "NOT_FOUND", "message": "...", "details": ...}}

A request that says "jsonrpc": "2.0" is answered in JSON-RPC 2.0 (jsonrpc.org). Errors of declared classes carry
the class's name as "type". The service reads and writes envelopes; the broker only writes its own refusals.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic_core import from_json, to_json

from zbusrpc.errors import Code, RpcError, code_of, message_of
from zbusrpc.long_integers import LongIntegerError, long_integer_in
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.outcome import note_origin, note_run

JSONRPC_CODES: Final = {
    Code.INVALID_ARGUMENT: -32602,
    Code.UNIMPLEMENTED: -32601,
    Code.INTERNAL: -32603,
}
"""JSON-RPC 2.0, section 5.1; every other code is -32000, "server error", with our code in its data."""
JSONRPC_SERVER_ERROR: Final = -32000
JSONRPC_PARSE_ERROR: Final = -32700
JSONRPC_INVALID_REQUEST: Final = -32600
METHOD_CHARACTERS_MAX: Final = 255
"""As of a topic. What is longer is no method's name, and only costs those who compare and show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it was read, its parameters not yet converted."""

    method: str
    params: list[Any] | dict[str, Any]
    named: dict[str, Any]
    """Parameters by name beside a list of others."""
    module: str = ""
    is_jsonrpc: bool = False
    jsonrpc_id: str | int | float | None = None
    """The id to answer with, in JSON-RPC."""


def parse_request(body: bytes | bytearray) -> Request:
    """Return the request in `body`.

    Raises:
        RpcError: INVALID_ARGUMENT, with the place and the reason.
        LongIntegerError: an integer in it cannot be read.
    """
    return read_request(read_json(body))


def read_request(value: Any) -> Request:
    """Return the request that the JSON value `value` is.

    Raises:
        RpcError: INVALID_ARGUMENT, with the reason.
    """
    if not isinstance(value, dict):
        shown = "a list: a batch is for HTTP" if isinstance(value, list) else type(value).__name__
        raise RpcError(Code.INVALID_ARGUMENT, f"the request must be a JSON object, not {shown}")
    method, module = value.get("method"), value.get("module") or ""
    params, named = value.get("params"), value.get("named")
    if not isinstance(method, str) or not method:
        raise RpcError(Code.INVALID_ARGUMENT, 'the request names no method: {"method": "...", "params": [...]}')
    if len(method) > METHOD_CHARACTERS_MAX:
        text = f"a method's name has {METHOD_CHARACTERS_MAX} letters at most, not {len(method)}"
        raise RpcError(Code.INVALID_ARGUMENT, text)
    if not isinstance(params, list | dict | None):
        raise RpcError(Code.INVALID_ARGUMENT, "params must be a list or an object")
    if not isinstance(named, dict | None) or (named and isinstance(params, dict)):
        raise RpcError(Code.INVALID_ARGUMENT, "named must be an object, beside a list as params")
    if not isinstance(module, str):
        raise RpcError(Code.INVALID_ARGUMENT, "module must be a string")
    return Request(
        method=method,
        params=params if params is not None else [],
        named=named or {},
        module=module,
        is_jsonrpc=value.get("jsonrpc") == "2.0",
        jsonrpc_id=value.get("id"),
    )


def request_body(method: str, params: Any, named: Any = None) -> bytes:
    """Return a request for `method`; `params` is a list or a dict of anything that pydantic can write.

    Args:
        method: Its name.
        params: Parameters by position, or all of them by name.
        named: A dict of parameters by name, beside a list of others.
    """
    if named:
        return b'{"method":%b,"params":%b,"named":%b}' % (orjson.dumps(method), dump(params), dump(named))
    return b'{"method":%b,"params":%b}' % (orjson.dumps(method), dump(params))


def result_body(result_json: bytes) -> bytes:
    """Return the reply with a result that is JSON already."""
    return b'{"result":%b}' % result_json


def error_body(error: RpcError, *, type_name: str = "", details_json: bytes = b"") -> bytes:
    """Return the reply with an error.

    Args:
        error: Its code, message and (unless `details_json` is given) details are written.
        type_name: Name of the declared class, if it is one.
        details_json: The details, where they were written by their types.
    """
    fields: dict[str, Any] = {"code": str(code_of(error)), "message": message_of(error)}
    if type_name:
        fields["type"] = type_name
    if details_json or error.details is not None:
        fields["details"] = orjson.Fragment(details_json or dump(error.details))
    return orjson.dumps({"error": fields})


def error_reply(message_id: int, error: RpcError, session: int = 0) -> Message:
    """Return the REPLY that ends a call or a command with an error of this side."""
    flags = Flag.ERROR if error.may_have_run else Flag.ERROR | Flag.NOT_RUN
    return Message(int(Kind.REPLY), message_id, b"", error_body(error), b"", int(flags), 0, session)


def code_of_reply(reply: Message) -> str:
    """Return the code of the error in a reply, plain or of JSON-RPC, or OK."""
    if not reply.flags & Flag.ERROR:
        return "OK"
    try:
        error = from_json(reply.body)["error"]
        return str(error.get("data", error)["code"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(Code.UNKNOWN)


def saying_not_run(body: bytes) -> bytes:
    """Return an error, plain or of JSON-RPC, with what the flag NOT_RUN says of it, for those who see no flags."""
    try:
        value = from_json(body)
        error = value["error"]
        (error["data"] if "jsonrpc" in value else error)["may_have_run"] = False
    except (ValueError, KeyError, TypeError):
        return body
    return dump(value)


def error_of(reply: Message) -> RpcError:
    """Return the error that a reply with the flag ERROR holds."""
    told = parse_error(reply.body)
    error = RpcError(told.code, told.message, told.details)
    note_run(error, may_have_run=not reply.flags & Flag.NOT_RUN)
    note_origin(error)
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class WireError:
    """An error as it came in a reply."""

    code: Code
    message: str
    details: Any
    type_name: str


def parse_error(body: bytes | bytearray | memoryview) -> WireError:
    """Return the error in a reply; a reply that holds none is an error of code UNKNOWN."""
    try:
        fields = from_json(bytes(body))["error"]
        code = fields["code"]
        return WireError(
            code=Code(code) if code in Code.__members__ else Code.UNKNOWN,
            message=str(fields.get("message", "")),
            details=fields.get("details"),
            type_name=str(fields.get("type", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        shown = bytes(body[:80]).decode(errors="replace")
        return WireError(code=Code.UNKNOWN, message=f"unreadable error: {shown}", details=None, type_name="")


def jsonrpc_result(request_id: Any, result_json: bytes) -> bytes:
    """Return a JSON-RPC 2.0 response with a result that is JSON already."""
    return b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (result_json, dump(request_id))


def jsonrpc_error(request_id: Any, body: bytes, *, number: int | None = None) -> bytes:
    """Return a JSON-RPC 2.0 response for the error reply `body`.

    Args:
        number: The JSON-RPC error code, where it does not follow from ours.
    """
    fields = from_json(body)["error"]
    code = JSONRPC_CODES.get(fields["code"], JSONRPC_SERVER_ERROR) if number is None else number
    message = fields.pop("message")
    error = {"code": code, "message": message, "data": fields}
    return dump({"jsonrpc": "2.0", "error": error, "id": request_id})


def load(body: bytes | bytearray) -> Any:
    """Return the JSON value in the body of a request, integers of any size as they are (orjson rounds them).

    Raises:
        RpcError: INVALID_ARGUMENT, with the place and the reason.
    """
    try:
        return read_json(body)
    except LongIntegerError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"the request cannot be read: {error}") from None


def read_json(body: bytes | bytearray) -> Any:
    """Return the JSON value in the body of a request, as `load` does.

    Raises:
        RpcError: INVALID_ARGUMENT: it is not JSON.
        LongIntegerError: it is, and an integer in it cannot be read.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        refusal = RpcError(Code.INVALID_ARGUMENT, f"the request is not JSON: {error}")
        raise long_integer_in(body, str(error)) or refusal from None


def dump(value: Any) -> bytes:
    """Return any value as JSON by its runtime type, as pydantic would: bytes as base64, NaN as a string.

    Raises:
        pydantic_core.PydanticSerializationError: a value has no form in JSON.
    """
    return to_json(value, bytes_mode="base64", inf_nan_mode="strings")
