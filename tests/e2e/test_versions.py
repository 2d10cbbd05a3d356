"""Two versions of a service side by side, as in a rollout: each call goes to an instance that has its method."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.inprocess import http, http_call, running_broker, serving
from tests.support.waiting import eventually
from zbusrpc import Code, RpcError, connect, options, service
from zbusrpc.broker.assembly.server import Server
from zbusrpc.cluster.fleets import fleet_of_loop
from zbusrpc.transport.address import parse_addresses

pytestmark = pytest.mark.anyio

CALLS = 12
"""So many of each kind: half of them would go wrong if they went to both."""


@service(name="Calc", version="1")
class Old:
    """The version that runs."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b


@service(name="Calc", version="2")
class New(Old):
    """The version that is rolled out."""

    async def div(self, a: int, b: int) -> int:
        """Return the quotient."""
        return a // b


@service(name="Stored", durable=True)
class OldStored(Old):
    """The version that runs, of a durable service."""


@service(name="Stored", durable=True)
class NewStored(New):
    """The version that is rolled out, of a durable service."""


async def _by_url(server: Server) -> Any:
    return orjson.loads((await http_call(server, "GET /rpc/Calc/div/12/3"))[2])["result"]


async def _by_parameters(server: Server) -> Any:
    return orjson.loads((await http_call(server, "POST /rpc/Calc/div", b"[12, 3]"))[2])["result"]


async def _by_envelope(server: Server) -> Any:
    body = b'{"params": [12, 3], "method": "div"}'
    return orjson.loads((await http_call(server, "POST /rpc/Calc", body))[2])["result"]


async def _by_jsonrpc(server: Server) -> Any:
    body = b'[{"jsonrpc": "2.0", "id": 1, "method": "div", "params": {"b": 3, "a": 12}}]'
    return orjson.loads((await http_call(server, "POST /rpc/Calc", body))[2])[0]["result"]


async def _by_zbus(server: Server) -> Any:
    body = b'{"method": "div", "params": [12, 3]}'
    head = b"POST / HTTP/1.1\r\ncmd: produce\r\ntopic: Calc\r\nack: false\r\nid: 7\r\nconnection: close\r\n"
    answer = await http(server, head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    return orjson.loads(answer.partition(b"\r\n\r\n")[2])["result"]


WAYS = {
    "typed": lambda server: connect(New, broker=server.broker.name).div(12, 3),
    "by name": lambda server: connect("Calc", broker=server.broker.name).div(a=12, b=3),
    "HTTP, a URL": _by_url,
    "HTTP, parameters": _by_parameters,
    "HTTP, an envelope": _by_envelope,
    "JSON-RPC": _by_jsonrpc,
    "zbus": _by_zbus,
}


@pytest.mark.parametrize("way", WAYS)
async def test_each_call_goes_to_a_version_that_has_its_method(way: str, tmp_path: Path) -> None:
    """However a call is made, it never meets an instance without its method."""
    async with running_broker(data_dir=str(tmp_path)) as server, serving(server, Old), serving(server, New):
        results = await asyncio.gather(*[WAYS[way](server) for _ in range(CALLS)])

    assert results == [4] * CALLS


async def test_version_that_is_at_another_broker_is_found() -> None:
    """Where one broker has only old instances, a call of a new method goes to one that has others, also if it waits."""
    async with running_broker() as first, running_broker() as second, serving(first, Old), serving(second, New):
        address = f"{first.broker.name};{second.broker.name}"
        proxy = connect(New, broker=address)
        await proxy.add(1, 2)
        fleet = fleet_of_loop(parse_addresses(address))
        await eventually(lambda: len(fleet.route(b"Calc")) == 2, "the client is told of both")

        results = [await proxy.div(12, 3) for _ in range(CALLS)]
        waiting = [await options(proxy, wait_for_ready=True, timeout=5.0).div(12, 3) for _ in range(CALLS)]

    assert results == waiting == [4] * CALLS


async def test_method_that_no_broker_has_is_refused_at_once() -> None:
    """The error of the last broker says what there is, and that nothing has run."""
    async with running_broker() as first, running_broker() as second, serving(first, Old), serving(second, New):
        proxy = connect("Calc", broker=f"{first.broker.name};{second.broker.name}")
        await proxy.add(1, 2)

        with pytest.raises(RpcError) as caught:
            await proxy.mul(3, 4)

    assert caught.value.code is Code.UNIMPLEMENTED
    assert not caught.value.may_have_run
    assert "add" in caught.value.details["methods"]


async def test_call_that_waits_for_ready_waits_for_the_new_version() -> None:
    """While only the old version runs it waits, and is carried out as soon as the new one is there."""
    async with running_broker() as server, serving(server, Old):
        proxy = connect(New, broker=server.broker.name)
        call = asyncio.create_task(options(proxy, wait_for_ready=True).div(12, 3))
        await eventually(lambda: server.broker.statistics()["queued"], "it waits")
        assert await proxy.add(1, 2) == 3

        async with serving(server, New):
            assert await call == 4


async def test_stored_call_waits_for_a_version_that_has_its_method(tmp_path: Path) -> None:
    """A call that was stored when the new version ran is not given to the old one; a wrong name is refused at once."""
    async with running_broker(data_dir=str(tmp_path)) as server, serving(server, OldStored):
        async with serving(server, NewStored, concurrency=1):
            assert await connect(NewStored, broker=server.broker.name).div(12, 3) == 4
        with pytest.raises(RpcError) as caught:
            await connect("Stored", broker=server.broker.name).mul(3, 4)
        patient = options(connect(NewStored, broker=server.broker.name), wait_for_ready=True)
        call = asyncio.create_task(patient.div(8, 2))
        await eventually(lambda: server.broker.statistics()["queued"], "it waits")

        async with serving(server, NewStored):
            assert await call == 4

    assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Calk", r"no instance of service Calk is connected to broker \S+; running: Calc; did you mean Calc\?"),
        ("Calc", r"no instance of service Calc has the method div; there are add"),
    ],
)
async def test_call_that_waits_for_what_never_comes_says_what_there_is(name: str, words: str) -> None:
    """It ends at its deadline, has not run, and names what was missing and what is running."""
    async with running_broker() as server, serving(server, Old):
        waiting = options(connect(name, broker=server.broker.name), wait_for_ready=True, timeout=0.2)

        with pytest.raises(RpcError, match=f"the deadline passed: {words}; it has not run") as caught:
            await waiting.div(12, 3)

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert not caught.value.may_have_run
