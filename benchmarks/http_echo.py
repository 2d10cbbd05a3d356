"""The yardstick of the HTTP benchmark: a uvloop server that finds the blank line and answers with fixed bytes.

python benchmarks/http_echo.py PORT REPLY_IN_HEX
"""

import asyncio
import sys
from typing import Any

import uvloop


class Echo(asyncio.Protocol):
    """Answers each head that ends with a blank line; bodies it does not know."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        heads = (self._rest + data).split(b"\r\n\r\n")
        self._rest = heads.pop()
        if heads:
            self._transport.write(self._reply * len(heads))


async def serve(port: int, reply: bytes) -> None:
    """Answer until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(reply), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), bytes.fromhex(sys.argv[2])))
