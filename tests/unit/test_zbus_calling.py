"""Calls between zbus and native peers: each form of request and answer as the other side knows it."""

from typing import Any

import orjson
import pytest

from zbusrpc import envelope
from zbusrpc.broker.dialects.zbus.calling import TextReply, answer_of, jsonrpc_id_of, reply_of, wants_bare_result
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.http import HttpRequest
from zbusrpc.transport.text import JSON_HEADER

SERVICE = 3
"""The session of an instance; 0 is the broker itself."""


def native_reply(body: bytes, *, is_error: bool = False, session: int = SERVICE) -> Message:
    """Return what a Python service, or the broker, answers."""
    return Message(Kind.REPLY, 1, body=body, flags=Flag.ERROR if is_error else 0, session=session)


def native_error(code: Code, text: str, *, session: int = SERVICE, **more: Any) -> Message:
    """Return an error of a Python service, or of the broker."""
    return native_reply(envelope.error_body(RpcError(code, text, **more)), is_error=True, session=session)


def routed(
    body: bytes, status: int = 200, *, version: str = "", head: str = "", jsonrpc: tuple[bool, Any] = (False, None)
) -> TextReply:
    """Return what a zbus service answers."""
    headers = {"cmd": "route"} | ({"version": version} if version else {})
    request = Message(Kind.REQUEST, 5, b"Calc", session=4)
    return reply_of(request, Command(HttpRequest("GET", b"/", headers, body, True)), status, head, jsonrpc)


# -- who wants what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.10", "0.10.0", "0.11.4", "1.0", "1.0.0-b3", "2.0"])
def test_callers_of_later_zbus_want_the_bare_result(version: str) -> None:
    """Since 0.10 there is no envelope."""
    assert wants_bare_result(version)


@pytest.mark.parametrize(
    "version", ["", "0.8", "0.9.5", "0", "1", "x.y", "0.x", "v1.0", ".", "\u0660.\u0661\u0661", "0." + "9" * 20]
)
def test_all_others_want_the_envelope(version: str) -> None:
    """Also those whose version cannot be read."""
    assert not wants_bare_result(version)


# -- answers of native services for zbus callers -------------------------------------------------------------


@pytest.mark.parametrize("result", [b"3", b"null", b'"\xc3\xbc"', b'{"result":1}', b"[1, 2]", b'{"error":"x"}'])
def test_result_has_the_envelope_that_its_caller_knows(result: bytes) -> None:
    """With result and error for callers of 0.8, alone for later ones."""
    reply = native_reply(envelope.result_body(result))

    status, body, head = answer_of(reply, "Calc", is_bare=False)
    assert (status, orjson.loads(body), head) == (200, {"result": orjson.loads(result), "error": None}, JSON_HEADER)
    assert answer_of(reply, "Calc", is_bare=True) == (200, result, JSON_HEADER)


def test_error_of_a_service_is_a_text() -> None:
    """Code and message, with status 200 in the envelope and 600 without."""
    reply = native_error(Code.NOT_FOUND, "no such thing", details={"id": 7})

    assert answer_of(reply, "Calc", is_bare=False) == (
        200,
        b'{"result":null,"error":"NOT_FOUND: no such thing"}',
        JSON_HEADER,
    )
    assert answer_of(reply, "Calc", is_bare=True) == (600, b"NOT_FOUND: no such thing", "")


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        (Code.UNAVAILABLE, 502, b"Service(Calc) Down: reason"),
        (Code.DEADLINE_EXCEEDED, 504, b"reason"),
        (Code.RESOURCE_EXHAUSTED, 429, b"reason"),
        (Code.NOT_FOUND, 404, b"reason"),
        (Code.INVALID_ARGUMENT, 400, b"reason"),
        (Code.PERMISSION_DENIED, 403, b"reason"),
    ],
)
def test_refusal_of_the_broker_is_a_status(code: Code, status: int, text: bytes, is_bare: bool) -> None:
    """No service has answered, so there is no envelope: a line of text, by whose status clients see it."""
    assert answer_of(native_error(code, "reason", session=0), "Calc", is_bare=is_bare) == (status, text, "")


def test_every_code_has_a_status() -> None:
    """Whatever the broker refuses a call with, its caller is answered."""
    for code in Code:
        status, _, _ = answer_of(native_error(code, "x", session=0), "Calc", is_bare=False)
        assert 400 <= status <= 599


def test_answer_in_json_rpc_goes_as_it_is() -> None:
    """Who asks in JSON-RPC is answered so, by errors too."""
    result = native_reply(envelope.jsonrpc_result(7, b"3"))
    error = native_reply(envelope.jsonrpc_error(7, envelope.error_body(RpcError(Code.NOT_FOUND, "x"))), is_error=True)

    for reply in (result, error):
        for is_bare in (False, True):
            assert answer_of(reply, "Calc", is_bare=is_bare) == (200, reply.body, JSON_HEADER)


# -- answers of zbus services --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"result":3}', 3),
        (b'{"result":3,"error":null}', 3),
        (b'{"error":null}', None),
        (b"{}", None),
        (b"", None),
        (b"3", 3),
        (b'"text"', "text"),
        (b"[1]", [1]),
        (b'{"result":1,"other":2}', {"result": 1, "other": 2}),
        (b"plain text", "plain text"),
        (b"\xff\x00", "\ufffd\x00"),
        (b'{"result":', '{"result":'),
    ],
)
def test_native_caller_gets_the_result_of_a_zbus_service(body: bytes, result: Any) -> None:
    """In the envelope, without, or as no JSON at all: there is always a result."""
    reply = routed(body)

    assert (reply.kind, reply.id, reply.session, reply.flags) == (Kind.REPLY, 5, 4, 0)
    assert orjson.loads(reply.body) == {"result": result}


@pytest.mark.parametrize(
    ("error", "message", "details"),
    [
        ("broken", "broken", None),
        ({"message": "x"}, '{"message":"x"}', {"message": "x"}),
        ({}, "{}", {}),
        (7, "7", 7),
        (False, "false", False),
        ("", "", None),
    ],
)
def test_native_caller_gets_the_error_of_a_zbus_service(error: Any, message: str, details: Any) -> None:
    """Whatever it is but null, as an error of code UNKNOWN, with its value as details."""
    reply = routed(orjson.dumps({"result": None, "error": error}))

    assert reply.flags == Flag.ERROR
    read = envelope.parse_error(reply.body)
    assert (read.code, read.message, read.details) == (Code.UNKNOWN, message, details)


@pytest.mark.parametrize(
    ("status", "body", "message"), [(600, b"broken", "broken"), (500, b"", "status 500"), (404, b'"no"', "no")]
)
def test_status_of_an_error_is_an_error(status: int, body: bytes, message: str) -> None:
    """As services of 0.10 say it."""
    reply = routed(body, status, version="0.11.5")

    assert reply.flags == Flag.ERROR
    assert envelope.parse_error(reply.body).message == message


def test_bare_result_is_not_taken_for_an_envelope() -> None:
    """A service of 0.10 and later may return an object that looks like one."""
    assert orjson.loads(routed(b'{"result":3}', version="0.11.5").body) == {"result": {"result": 3}}
    assert orjson.loads(routed(b'{"error":"x"}', version="0.11.5").body) == {"result": {"error": "x"}}


def test_zbus_caller_gets_the_answer_of_a_zbus_service_as_it_was_written() -> None:
    """Status, headers and bytes, where both know the same form."""
    old = routed(b'{"result" : 3}', 201, head="x: y\r\n")
    new = routed(b" 3", 200, version="0.11.5", head="x: y\r\n")

    assert answer_of(old, "Calc", is_bare=False) == (201, b'{"result" : 3}', "x: y\r\n")
    assert answer_of(new, "Calc", is_bare=True) == (200, b" 3", "x: y\r\n")


def test_zbus_caller_gets_the_form_that_it_knows() -> None:
    """A caller of one age and a service of the other understand each other."""
    old, new = routed(b'{"result":3}'), routed(b"3", version="0.11.5")
    failed = routed(b"broken", 600, version="0.11.5")

    assert answer_of(old, "Calc", is_bare=True)[:2] == (200, b"3")
    assert answer_of(new, "Calc", is_bare=False)[:2] == (200, b'{"result":3,"error":null}')
    status, body, _ = answer_of(failed, "Calc", is_bare=False)
    assert (status, orjson.loads(body)["error"]) == (200, "UNKNOWN: broken")


# -- JSON-RPC ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"add"}', (True, 7)),
        (b'{"jsonrpc":"2.0","id":"a","method":"add"}', (True, "a")),
        (b'{"jsonrpc":"2.0","method":"add"}', (True, None)),
        (b'{"jsonrpc":"1.0","id":7}', (False, 7)),
        (b'{"method":"add","params":[1]}', (False, None)),
        (b'{"params":["jsonrpc"]}', (False, None)),
        (b'["jsonrpc"]', (False, None)),
        (b'{"jsonrpc"', (False, None)),
        (b"", (False, None)),
    ],
)
def test_request_in_json_rpc_is_known(body: bytes, expected: tuple[bool, Any]) -> None:
    """By its version; what cannot be read is none."""
    assert jsonrpc_id_of(body) == expected


def test_json_rpc_caller_is_answered_so_by_a_zbus_service() -> None:
    """The result or the error of an old service, with the id of the request."""
    result = routed(b'{"result":3}', jsonrpc=(True, 7))
    error = routed(b'{"error":"broken"}', jsonrpc=(True, 7))

    assert orjson.loads(result.body) == {"jsonrpc": "2.0", "id": 7, "result": 3}
    read = orjson.loads(error.body)
    assert (read["id"], read["error"]["message"], error.flags) == (7, "broken", Flag.ERROR)
