"""The peers of the call benchmark: the same `add(a, b)` over NATS (nats-py) and over grpc.aio.

Each peer gets orjson, one connection and a time limit for each call, and is run twice: on asyncio's own event loop, as
its documentation has it, and on uvloop, as users do who want speed.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

Add = Callable[[int, int], Awaitable[int]]
SERVICE = "Calc"
METHOD = "/Calc/add"


async def nats_add(port: int) -> tuple[Add, Callable[[], Awaitable[Any]]]:
    """Return `add` as a request over NATS, and how to close."""
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{port}")

    async def add(a: int, b: int) -> int:
        reply = await client.request("Calc.add", orjson.dumps({"params": [a, b]}), timeout=10)
        return int(orjson.loads(reply.data)["result"])

    return add, client.close


async def serve_nats(port: int) -> None:
    """Answer `add` over NATS until the process ends."""
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{port}")

    async def on_request(message: Any) -> None:
        a, b = orjson.loads(message.data)["params"]
        await message.respond(orjson.dumps({"result": a + b}))

    await client.subscribe("Calc.add", queue="calc", cb=on_request)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def grpc_add(port: int) -> tuple[Add, Callable[[], Awaitable[Any]]]:
    """Return `add` as a unary call of grpc.aio, and how to close."""
    import grpc.aio

    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    method = channel.unary_unary(METHOD, request_serializer=orjson.dumps, response_deserializer=orjson.loads)

    async def add(a: int, b: int) -> int:
        return int((await method([a, b], timeout=10))["result"])

    return add, channel.close


async def serve_grpc(port: int) -> None:
    """Answer `add` over grpc.aio until the process ends."""
    import grpc
    import grpc.aio

    async def add(request: list[int], context: Any) -> dict[str, int]:
        return {"result": request[0] + request[1]}

    handler = grpc.unary_unary_rpc_method_handler(
        add, request_deserializer=orjson.loads, response_serializer=orjson.dumps
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"add": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    import uvloop

    serve = {"nats": serve_nats, "grpc": serve_grpc}[sys.argv[1]]
    run = {"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[3]]
    run(serve(int(sys.argv[2])))
