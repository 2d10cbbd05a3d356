"""Methods: what an instance tells of its own, and which one a request names."""

import orjson
import pytest

from zbusrpc import envelope
from zbusrpc.broker.calls.methods import METHODS_MAX, PARSED_BYTES_MAX, method_of, methods_of

LONG = "x" * PARSED_BYTES_MAX


@pytest.mark.parametrize(
    ("body", "method"),
    [
        (envelope.request_body("add", [1, 2]), "add"),
        (envelope.request_body("addiere_größen", {"a": LONG}), "addiere_größen"),
        (b'{"method": "add", "params": []}', "add"),
        (b' {\n"method" : "add"}', "add"),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "add", "params": [1]}', "add"),
        (b'{"id":null,"jsonrpc":"2.0","method":"add"}', "add"),
        (b'{"module":"","method":"add"}', "add"),
        (b'{"params":[1,2],"method":"add"}', "add"),
        (b'{"params":{"method":"no"},"method":"add"}', "add"),
        (b'{"id":{"method":"no"},"method":"add"}', "add"),
        (rb'{"method":"add\"it"}', 'add"it'),
        (b'{"id":"%b","method":"add"}' % (b"7" * 3000), "add"),
        (bytearray(b'{"method":"add"}'), "add"),
        (b'{"params":["%b"],"method":"add"}' % LONG.encode(), None),
        (b'{"method":7}', None),
        (b'{"method":"add"', None),
        (b'{"method":"%b"}' % LONG.encode(), None),
        (b'["method","add"]', None),
        (b"body", None),
        (b"", None),
        (b"{" + b" " * 100_000, None),
    ],
)
def test_method_of_a_request_is_found_without_reading_all_of_it(body: bytes, method: str | None) -> None:
    """However clients write it, its name is found; where it would cost too much, or there is none, it is not known."""
    assert method_of(body) == method


@pytest.mark.parametrize(
    ("about", "methods"),
    [
        ({"methods": ["add", "div"]}, frozenset({"add", "div"})),
        ({"methods": [str(number) for number in range(METHODS_MAX)]}, frozenset(map(str, range(METHODS_MAX)))),
        ({"methods": [str(number) for number in range(METHODS_MAX + 1)]}, None),
        ({"methods": ["x" * 256]}, None),
        ({"methods": ["ü" * 128]}, None),
        ({"methods": []}, None),
        ({"methods": ["add", 7]}, None),
        ({"methods": "add"}, None),
        ({}, None),
    ],
)
def test_instance_that_tells_no_usable_names_has_every_method(
    about: dict[str, object], methods: frozenset[str] | None
) -> None:
    """What is told is believed, as long as it is a list of names of some size."""
    assert methods_of(orjson.loads(orjson.dumps(about))) == methods
