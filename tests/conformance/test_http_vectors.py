"""The HTTP vectors, which hold for any broker that serves the little service they name, hold for ours."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.inprocess import http, running_broker, serving
from zbusrpc import RpcError, context, service

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("http_vectors.json").read_text(encoding="utf-8"))[
    "vectors"
]

pytestmark = pytest.mark.anyio


@service
class Calc:
    """What the vectors call."""

    async def add(self, a: int, b: int = 10) -> int:
        return a + b

    async def echo(self, text: str) -> str:
        return text

    async def total(self, values: list[int]) -> int:
        return sum(values)

    async def who(self) -> str:
        return context().metadata.get("user", "nobody")

    async def fail(self, code: str) -> None:
        raise RpcError(code, "as asked")


def request_of(vector: dict[str, Any]) -> bytes:
    if "raw" in vector:
        return str(vector["raw"]).encode()
    body = vector.get("request_body", "").encode()
    headers = {"host": "test", "connection": "close", **vector.get("request_headers", {})}
    if body or vector["request"].startswith("POST"):
        headers["content-length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{vector['request']} HTTP/1.1\r\n{lines}\r\n".encode() + body


def split(answer: bytes) -> tuple[int, dict[str, str], str]:
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in VECTORS])
async def test_request_is_answered_as_its_vector_says(vector: dict[str, Any]) -> None:
    """Status, headers and body are those of the vector."""
    async with running_broker() as server, serving(server, Calc):
        status, headers, body = split(await http(server, request_of(vector)))

    assert status == vector["status"], body
    assert vector.get("headers", {}).items() <= headers.items()
    assert vector.get("body") is None or json.loads(body) == vector["body"]
    assert vector.get("text") is None or body == vector["text"]
    assert [part for part in vector.get("body_has", []) if part not in body] == []


def pieces(data: bytes) -> Iterator[bytes]:
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        yield rest[:length]
        data = rest[length:]


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Many requests in one block are answered one after the other, the refused ones in their place."""
    good = [b"GET /rpc/Calc/add/%d/1 HTTP/1.1\r\nhost: t\r\n\r\n" % number for number in range(600)]
    bad = b"GET /rpc/Nobody/x HTTP/1.1\r\nhost: t\r\n\r\n"
    last = b"GET /rpc/Calc/who HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"
    async with running_broker() as server, serving(server, Calc):
        answer = await http(server, b"".join([*good, bad, last]))

    bodies = [json.loads(body) for body in pieces(answer)]
    assert bodies[:600] == [{"result": number + 1} for number in range(600)]
    assert bodies[600]["error"]["code"] == "UNAVAILABLE"
    assert bodies[601:] == [{"result": "nobody"}]
