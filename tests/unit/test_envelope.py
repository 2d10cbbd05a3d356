"""The envelope of requests, replies and errors."""

import pytest

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError


def test_request_without_params_has_none() -> None:
    """Parameters may be left out or null."""
    assert envelope.parse_request(b'{"method":"now"}').params == []
    assert envelope.parse_request(b'{"method":"now","params":null}').params == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"NaN", "not JSON"),
        (b'{"method":"a"} x', "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "batch"),
        (b"3", "not int"),
        (b"{}", "names no method"),
        (b'{"method":""}', "names no method"),
        (b'{"method":3}', "names no method"),
        (b'{"method":"a","params":3}', "params must be"),
        (b'{"method":"a","module":3}', "module must be"),
    ],
)
def test_unusable_request_is_an_invalid_argument(body: bytes, words: str) -> None:
    """A body that is no request is INVALID_ARGUMENT with the reason."""
    with pytest.raises(RpcError, match=words) as caught:
        envelope.parse_request(body)

    assert caught.value.code is Code.INVALID_ARGUMENT


def test_large_integers_are_not_rounded() -> None:
    """Integers beyond 64 bits are read as they are."""
    assert envelope.parse_request(b'{"method":"a","params":[1180591620717411303425]}').params == [2**70 + 1]


def test_error_body_carries_class_and_typed_details() -> None:
    """A declared error travels with its class's name and its details as they were written."""
    body = envelope.error_body(RpcError(Code.ABORTED, "m"), type_name="Locked", details_json=b'{"owner":"ann"}')

    error = envelope.parse_error(body)

    assert (error.code, error.type_name, error.details) == (Code.ABORTED, "Locked", {"owner": "ann"})


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"error":3}', b'{"error":{}}', b'{"error":{"code":["x"]}}'])
def test_unreadable_error_has_code_unknown(body: bytes) -> None:
    """A reply that holds no error is one of code UNKNOWN which shows what came."""
    error = envelope.parse_error(body)

    assert error.code is Code.UNKNOWN
    assert "unreadable" in error.message


def test_error_of_a_code_from_the_future_is_unknown() -> None:
    """A code that this side does not know is UNKNOWN, with its message."""
    error = envelope.parse_error(b'{"error":{"code":"TEAPOT","message":"short"}}')

    assert (error.code, error.message) == (Code.UNKNOWN, "short")


@pytest.mark.parametrize(
    ("code", "number"),
    [("INVALID_ARGUMENT", -32602), ("UNIMPLEMENTED", -32601), ("INTERNAL", -32603), ("NOT_FOUND", -32000)],
)
def test_jsonrpc_error_has_the_number_of_its_code(code: str, number: int) -> None:
    """JSON-RPC numbers are those of its section 5.1; our code is in the data."""
    answer = envelope.load(envelope.jsonrpc_error("id", envelope.error_body(RpcError(code, "m"))))

    assert answer == {"jsonrpc": "2.0", "error": {"code": number, "message": "m", "data": {"code": code}}, "id": "id"}


def test_dump_writes_bytes_as_url_safe_base64_and_infinities_as_strings() -> None:
    """Values without a form in JSON travel as the protocol says."""
    assert envelope.dump([b"\xff\x00", float("nan"), float("inf"), 2**70]) == (
        b'["_wA=","NaN","Infinity",1180591620717411303424]'
    )
