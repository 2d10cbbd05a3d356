"""An integer of more digits than is read, in a call: refused with its parameter, in every dialect."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.inprocess import http_call, running_broker, serving
from zbusrpc import Code, RpcError, connect, envelope, service
from zbusrpc.broker.assembly.server import Server

pytestmark = pytest.mark.anyio

LONG = 10**4999
REASON = "an integer of 5000 digits, and 4300 are the most"


class Box(BaseModel):
    """What has an integer."""

    size: int


@service
class Store:
    """Takes and gives integers of any size."""

    async def put(self, name: str, count: int, *more: int) -> int:
        return count

    async def pack(self, box: Box) -> None: ...

    async def longest(self) -> dict[str, list[int]]:
        return {"lengths": [1, LONG]}

    async def fail(self) -> None:
        raise RpcError(Code.NOT_FOUND, "none", {"id": LONG})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Run a broker and the service."""
    async with running_broker() as server, serving(server, Store):
        yield server


@pytest.mark.parametrize("of", [Store, "Store"])
async def test_caller_is_told_the_parameter(server: Server, of: Any) -> None:
    """By position, by name and among further ones; typed and untyped."""
    store = connect(of, broker=server.broker.name)
    for call, place, loc in [
        (store.put("tea", LONG), "count", [1]),
        (store.put(name="tea", count=-LONG), "count", ["count"]),
        (store.put("tea", count=LONG), "count", ["count"]),
        (store.put("tea", 1, LONG), "more", [2]),
    ]:
        with pytest.raises(RpcError) as refused:
            await call
        assert refused.value.code is Code.INVALID_ARGUMENT
        assert refused.value.message == f"Store.put: {place}: {REASON}"
        assert refused.value.details == [{"loc": loc, "msg": REASON, "type": "int_parsing_size"}]
        assert not refused.value.may_have_run


@pytest.mark.parametrize(("of", "place"), [(Store, "box.size"), ("Store", "Box: size")])
async def test_caller_is_told_the_field_of_a_model(server: Server, of: Any, place: str) -> None:
    """By the service, or where it is written without a type."""
    with pytest.raises(RpcError, match=f"^INVALID_ARGUMENT: Store.pack: {place}: {REASON}$"):
        await connect(of, broker=server.broker.name).pack(Box(size=LONG))


@pytest.mark.parametrize(
    ("target", "body", "message"),
    [
        ("/rpc/Store", '{"method":"put","params":["tea",%d]}', f"Store.put: count: {REASON}"),
        ("/rpc/Store", '{"params":["tea",%d],"method":"put"}', f"the request cannot be read: params.1: {REASON}"),
        ("/rpc/Store/put", '{"name":"tea","count":%d}', f"the request cannot be read: count: {REASON}"),
        (
            "/rpc/Store",
            '{"jsonrpc":"2.0","id":1,"method":"put","params":["tea",%d]}',
            f"the request cannot be read: params.1: {REASON}",
        ),
    ],
)
async def test_http_says_where_it_stands(server: Server, target: str, body: str, message: str) -> None:
    """By the parameter, or by the place where that was not read yet."""
    _, _, reply = await http_call(server, f"POST {target}", (body.replace("%d", "7" * 5000)).encode())

    assert envelope.load(reply)["error"]["message"] == message


@pytest.mark.parametrize("of", [Store, "Store"])
async def test_result_that_cannot_be_read_is_named(server: Server, of: Any) -> None:
    """With the place in it."""
    store = connect(of, broker=server.broker.name)

    with pytest.raises(RpcError, match=rf"INTERNAL: .*Store\.longest.*: result\.lengths\.1: {REASON}"):
        await store.longest()


async def test_error_that_cannot_be_read_still_answers(server: Server) -> None:
    """The service's log has the rest; JSON-RPC is answered too."""
    with pytest.raises(RpcError, match=r"INTERNAL: Store\.fail failed, and its error cannot be written as JSON"):
        await connect(Store, broker=server.broker.name).fail()

    _, _, reply = await http_call(server, "POST /rpc/Store", b'{"jsonrpc":"2.0","id":1,"method":"fail","params":[]}')
    assert envelope.load(reply)["error"]["data"]["code"] == "INTERNAL"
