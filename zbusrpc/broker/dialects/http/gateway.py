"""The HTTP gateway: what a request asks of the broker, and the response that its replies make.

    GET  /rpc/Calc/add/1/2              positional parameters as text, converted by the method's types
    GET  /rpc/Calc/add?a=1&b=2          the same by name; `module=` names a module, as in zbus
    POST /rpc/Calc                      an envelope, a JSON-RPC 2.0 request or a batch of those
    POST /rpc/Calc/add                  the parameters alone, a JSON list or object
    GET  /rpc, /rpc/Calc                what is running

`Timeout-Ms` limits a call (default 10 s); `Meta-<key>` is metadata; `traceparent` and `tracestate` go along.

Pure: values in, values out. A `GatewayRequest` is one HTTP request with the calls it makes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import orjson

from zbusrpc import envelope
from zbusrpc.bounds import TIMEOUT_MS
from zbusrpc.config import TIMEOUT_S
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import HEADER_METADATA_PREFIX, HEADER_PARAMS, Flag, Message, encode_headers
from zbusrpc.outcome import note_run
from zbusrpc.transport.http import CLIENT_CLOSED_REQUEST, HttpError, HttpRequest, HttpResponse
from zbusrpc.transport.naming import one_spelling
from zbusrpc.transport.native import HEADERS_BYTES_MAX, TOPIC_BYTES_MAX

BATCH_MAX: Final = 1000
"""Requests in one JSON-RPC batch."""
METADATA_BYTES_MAX: Final = HEADERS_BYTES_MAX - 64
"""As JSON, latin-1 and quotes take twice the bytes that they had in HTTP; the rest is for the gateway's own headers."""
RETRY_AFTER_S_MAX: Final = 86_400
"""A service's details may hold anything; what is no plausible wait is not put into a header."""

Running = Callable[[str], list[dict[str, Any]]]
"""Returns the service of a name that runs, or nothing; without a name all."""
_TRACE_HEADERS: Final = frozenset({"traceparent", "tracestate"})
_TEXT_PARAMS: Final = encode_headers({HEADER_PARAMS: "text"})

STATUS: Final[dict[Code, int]] = {
    Code.CANCELED: CLIENT_CLOSED_REQUEST,
    Code.UNKNOWN: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.ABORTED: HTTPStatus.CONFLICT,
    Code.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DATA_LOSS: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
}
"""The mapping of gRPC codes to HTTP, as google.rpc.Code and the Connect protocol have it."""


@dataclass(slots=True, kw_only=True)
class GatewayCall:
    """One call to the broker, and its reply once it came."""

    body: bytes
    is_jsonrpc: bool = False
    jsonrpc_id: Any = None
    is_notification: bool = False
    """JSON-RPC: nobody wants the reply."""
    reply: bytes = b""
    """Set from the start for what needs no call: a wrong element of a batch."""
    is_error: bool = False
    has_not_run: bool = False
    """Whether that is known of a call that failed."""


@dataclass(slots=True, kw_only=True)
class GatewayRequest:
    """One HTTP request: the calls it makes and, when they have ended, the response."""

    topic: bytes = b""
    header_bytes: bytes = b""
    timeout_ms: int = round(TIMEOUT_S * 1000)
    calls: list[GatewayCall] = field(default_factory=list)
    is_batch: bool = False
    response: HttpResponse | None = None
    """Set as soon as it is known."""
    pending: int = 0
    """Calls that have not ended."""

    def finish_call(self, call: GatewayCall, message: Message) -> None:
        """Note the reply to one of the calls."""
        call.reply = bytes(message.body)
        call.is_error = bool(message.flags & Flag.ERROR)
        call.has_not_run = call.is_error and bool(message.flags & Flag.NOT_RUN)
        self.pending -= 1
        if not self.pending:
            self.response = _respond(self)


def listing_of(path: list[str], list_running: Running) -> HttpResponse:
    """Return the response to `GET /rpc` or `GET /rpc/Calc`."""
    name = one_spelling(path[1]) if len(path) > 1 else ""
    found = list_running(name)
    if name and not found:
        return error_response(RpcError(Code.NOT_FOUND, f"no service {path[1]} is running"))
    return HttpResponse(status=HTTPStatus.OK, body=orjson.dumps({"result": found}))


def is_for_it(target: bytes) -> bool:
    """Whether a request with this target is for the gateway."""
    if target[:1] != b"/":
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    return target[:4] == b"/rpc" and target[4:5] in b"/?"


def take(request: HttpRequest, list_running: Running) -> GatewayRequest:
    """Return what a request to a path below /rpc asks for, with calls to make or with its response."""
    path = path_of(request)
    is_get = request.method != "POST"
    path = path[:-1] if len(path) > 1 and path[-1] == "" and len(path) <= 3 else path
    if is_get and len(path) < 3:
        return GatewayRequest(response=listing_of(path, list_running))
    if len(path) < 2 or (not is_get and len(path) > 3):
        error = RpcError(Code.NOT_FOUND, "POST goes to /rpc/<service> or /rpc/<service>/<method>")
        return GatewayRequest(response=error_response(error))
    coding = request.headers.get("content-encoding", "").lower()
    if request.body and coding not in {"", "identity"}:
        return GatewayRequest(response=_refuse_coding(coding))
    return _open(request, path)


def _refuse_coding(coding: str) -> HttpResponse:
    """Return the response to a body that has to be unpacked first, which could make any size of it."""
    text = f"a body with Content-Encoding: {coding:.40} is not unpacked; send it as it is"
    response = error_response(RpcError(Code.INVALID_ARGUMENT, text))
    response.status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return response


def take_token(request: HttpRequest) -> None:
    """Make a header of the parameter `token` in a request's URL, so that no service gets it as a parameter."""
    path, _, query = request.target.partition(b"?")
    if b"token" not in query.lower() and b"%" not in query:
        return
    left = []
    for part in query.split(b"&"):
        name, _, value = (unquote(piece.decode("latin-1")) for piece in part.partition(b"="))
        if name.lower() == "token":
            request.headers.setdefault("token", value)
        else:
            left.append(part)
    request.target = path + b"?" + b"&".join(left) if left else path


def path_of(request: HttpRequest) -> list[str]:
    """Return the parts of the path, percent-decoded: an encoded slash does not part them."""
    raw = request.target.split(b"?", 1)[0].split(b"#", 1)[0].decode("latin-1")
    if "://" in raw.split("/rpc", 1)[0]:
        raw = "/" + raw.split("://", 1)[1].partition("/")[2]  # the absolute form, as to a proxy (RFC 9112, 3.2.2)
    parts = raw.split("/")[1:]
    return [unquote(part) for part in parts] if "%" in raw else parts or [""]


def _open(request: HttpRequest, path: list[str]) -> GatewayRequest:
    """Return what a request below /rpc/<service> asks for: with calls to make, or with its response."""
    asked = GatewayRequest()
    try:
        passed = _read_headers(asked, request.headers)
        asked.topic = path[1].encode()
        if not 1 <= len(asked.topic) <= TOPIC_BYTES_MAX:
            raise RpcError(Code.INVALID_ARGUMENT, f"a service's name has 1 to {TOPIC_BYTES_MAX} bytes")
        if request.method != "POST":
            _read_get(asked, request, path, passed)
        else:
            _read_post(asked, request.body, path)
    except RpcError as error:
        note_run(error, may_have_run=False)
        asked.response = error_response(error)
    asked.pending = sum(1 for call in asked.calls if not call.reply)
    return asked


def error_response(error: RpcError) -> HttpResponse:
    """Return the response for an error."""
    return _response_of_error(envelope.error_body(error), has_not_run=not error.may_have_run)


def protocol_error_response(error: HttpError) -> HttpResponse:
    """Return the last response on a connection that broke the rules of HTTP."""
    code = Code.RESOURCE_EXHAUSTED if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else Code.INVALID_ARGUMENT
    return HttpResponse(status=error.status, body=envelope.error_body(RpcError(code, str(error))))


def _read_headers(asked: GatewayRequest, headers: dict[str, str]) -> dict[str, str]:
    """Take the time limit out of a request's headers, and return what goes along: metadata and trace context."""
    timeout = headers.get("timeout-ms")
    if timeout is not None:
        try:
            asked.timeout_ms = TIMEOUT_MS.whole(timeout)
        except ValueError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"Timeout-Ms: {error}") from None
    passed = {
        name: value for name, value in headers.items() if name[:5] == HEADER_METADATA_PREFIX or name in _TRACE_HEADERS
    }
    if not passed:
        return passed
    asked.header_bytes = encode_headers(passed)
    if len(asked.header_bytes) > METADATA_BYTES_MAX:
        raise RpcError(Code.INVALID_ARGUMENT, f"metadata of over {METADATA_BYTES_MAX} bytes as JSON")
    return passed


def _read_get(asked: GatewayRequest, request: HttpRequest, path: list[str], passed: dict[str, str]) -> None:
    query = request.target.partition(b"?")[2].decode("latin-1")
    named = parse_qs(query, keep_blank_values=True) if query else {}
    module = named.pop("module", [""])[0]
    by_name = {name: values[0] if len(values) == 1 else values for name, values in named.items()}
    body: dict[str, Any] = {"method": path[2], "params": path[3:] or by_name or []}
    if by_name and path[3:]:
        body["named"] = by_name
    if module:
        body["module"] = module
    asked.calls.append(GatewayCall(body=orjson.dumps(body)))
    asked.header_bytes = encode_headers({**passed, HEADER_PARAMS: "text"}) if passed else _TEXT_PARAMS


def _read_post(asked: GatewayRequest, body: bytes, path: list[str]) -> None:
    if len(path) == 3:
        params = envelope.load(body or b"[]")
        asked.calls.append(GatewayCall(body=envelope.request_body(path[2], params)))
    elif b'"jsonrpc"' in body or body.lstrip()[:1] == b"[":
        _read_jsonrpc(asked, body)
    else:
        asked.calls.append(GatewayCall(body=body))


def _read_jsonrpc(asked: GatewayRequest, body: bytes) -> None:
    """Split a JSON-RPC 2.0 body into calls; a wrong element of a batch is answered in its place."""
    try:
        value = envelope.load(body)
    except RpcError as error:
        answer = envelope.jsonrpc_error(None, envelope.error_body(error), number=envelope.JSONRPC_PARSE_ERROR)
        asked.response = HttpResponse(status=HTTPStatus.OK, body=answer)
        return
    if isinstance(value, dict) and value.get("jsonrpc") != "2.0":
        asked.calls.append(GatewayCall(body=body))
        return
    asked.is_batch = isinstance(value, list)
    elements = value if isinstance(value, list) else [value]
    if not 1 <= len(elements) <= BATCH_MAX:
        answer = _invalid_request(f"a batch of {len(elements)} requests: the limits are 1 and {BATCH_MAX}")
        asked.response = HttpResponse(status=HTTPStatus.OK, body=answer)
        return
    asked.calls += [_read_element(element) for element in elements]
    if all(call.reply for call in asked.calls):
        asked.response = _respond(asked)


def _read_element(element: Any) -> GatewayCall:
    """Return the call that one JSON-RPC request asks for, or one that has its error already and no body."""
    problem = ""
    if not isinstance(element, dict) or element.get("jsonrpc") != "2.0":
        problem = 'a request is an object with "jsonrpc": "2.0"'
    elif not isinstance(element.get("method"), str) or not element["method"]:
        problem = "the request names no method"
    if problem:
        return GatewayCall(body=b"", is_jsonrpc=True, reply=_invalid_request(problem), is_error=True)
    return GatewayCall(
        body=envelope.dump(element),
        is_jsonrpc=True,
        jsonrpc_id=element.get("id"),
        is_notification="id" not in element,
    )


def _invalid_request(problem: str) -> bytes:
    refusal = envelope.error_body(RpcError(Code.INVALID_ARGUMENT, problem))
    return envelope.jsonrpc_error(None, refusal, number=envelope.JSONRPC_INVALID_REQUEST)


def _respond(asked: GatewayRequest) -> HttpResponse:
    """Return the response of a request whose calls have ended."""
    first = asked.calls[0]
    if not first.is_jsonrpc:
        if first.is_error:
            return _response_of_error(first.reply, has_not_run=first.has_not_run)
        return HttpResponse(status=HTTPStatus.OK, body=first.reply)
    answers = [_jsonrpc_answer(call) for call in asked.calls if not call.is_notification]
    if not answers:
        return HttpResponse(status=HTTPStatus.NO_CONTENT)
    body = b"[%b]" % b",".join(answers) if asked.is_batch else answers[0]
    return HttpResponse(status=HTTPStatus.OK, body=body)


def _jsonrpc_answer(call: GatewayCall) -> bytes:
    """Return the service's answer, or the broker's own refusal in the form of JSON-RPC."""
    answer = call.reply
    if call.is_error and not call.reply.startswith(b'{"jsonrpc"'):
        error = envelope.parse_error(call.reply)  # the broker's own, or of a service that knows no JSON-RPC
        body = envelope.error_body(RpcError(error.code, error.message, error.details), type_name=error.type_name)
        answer = envelope.jsonrpc_error(call.jsonrpc_id, body)
    return envelope.saying_not_run(answer) if call.has_not_run else answer


def _response_of_error(body: bytes, *, has_not_run: bool) -> HttpResponse:
    body = envelope.saying_not_run(body) if has_not_run else body
    error = envelope.parse_error(body)
    headers = {}
    retry_after_s = error.details.get("retry_after_s") if isinstance(error.details, dict) else None
    if isinstance(retry_after_s, int | float) and 0 <= retry_after_s < RETRY_AFTER_S_MAX:
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    return HttpResponse(status=STATUS[error.code], body=body, headers=headers)
