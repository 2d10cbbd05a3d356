"""The envelope: what is written can be read again, and any bytes are a request or INVALID_ARGUMENT."""

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from zbusrpc import envelope
from zbusrpc.errors import Code, RpcError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
PARAMS = st.lists(JSON, max_size=4) | st.dictionaries(st.text(), JSON, max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1), PARAMS)
def test_request_is_read_as_it_was_written(method: str, params: list[object] | dict[str, object]) -> None:
    """Method and parameters come out as they went in, integers of any size included."""
    request = envelope.parse_request(envelope.request_body(method, params))

    assert (request.method, request.params) == (method, params)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(Code), st.text(), st.text(max_size=20), JSON)
def test_error_is_read_as_it_was_written(code: Code, message: str, type_name: str, details: object) -> None:
    """Code, message, class and details of an error come out as they went in."""
    body = envelope.error_body(RpcError(code, message, details), type_name=type_name)

    error = envelope.parse_error(body)

    assert (error.code, error.message, error.type_name, error.details) == (code, message, type_name, details)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), JSON.map(envelope.dump)))
def test_any_bytes_are_a_request_or_an_invalid_argument(body: bytes) -> None:
    """A body that is no request gives INVALID_ARGUMENT and nothing else."""
    try:
        outcome: object = bool(envelope.parse_request(body).method)
    except RpcError as error:
        outcome = error.code

    assert outcome in {True, Code.INVALID_ARGUMENT}


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), JSON.map(envelope.dump), JSON.map(lambda v: envelope.dump({"error": v}))))
def test_any_bytes_are_an_error_of_some_code(body: bytes) -> None:
    """A reply that is flagged as an error but holds none is an error of code UNKNOWN."""
    assert envelope.parse_error(body).code in Code


@settings(max_examples=100, deadline=None)
@given(JSON, JSON.map(envelope.dump))
def test_jsonrpc_response_carries_id_and_result(request_id: object, result: bytes) -> None:
    """A JSON-RPC response is JSON with the id of its request."""
    answer = envelope.load(envelope.jsonrpc_result(request_id, result))

    assert answer == {"jsonrpc": "2.0", "result": envelope.load(result), "id": request_id}
    assert orjson.loads(envelope.jsonrpc_error(None, envelope.error_body(RpcError("NOT_FOUND", "x"))))["id"] is None
