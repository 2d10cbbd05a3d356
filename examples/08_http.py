"""HTTP: the same service for every language. Only the standard library calls here.

PHP         json_decode(file_get_contents("http://localhost:15555/rpc/Calc/add/1/2"))->result
JavaScript  (await (await fetch("http://localhost:15555/rpc/Calc/add/1/2")).json()).result
Go          http.Get("http://localhost:15555/rpc/Calc/add/1/2")
shell       curl localhost:15555/rpc/Calc/add/1/2
"""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

from zbusrpc import context, service
from zbusrpc.testing import running, running_broker


@service
class Calc:
    """Arithmetic over the bus."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b

    async def user(self) -> str:
        """Return who the caller says it is."""
        return context().metadata.get("user", "unknown")


def fetch(url: str, value: Any = None, **headers: str) -> str:
    """Return status and body of a GET, or of a POST of a JSON value."""
    data = None if value is None else json.dumps(value).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=5) as response:
            return f"{response.status} {response.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.read().decode()}"


def show(base: str) -> None:
    """Make a call in each of the forms."""
    print("path     ", fetch(f"{base}/rpc/Calc/add/1/2"))
    print("query    ", fetch(f"{base}/rpc/Calc/add?a=1&b=2"))
    print("envelope ", fetch(f"{base}/rpc/Calc", {"method": "add", "params": {"a": 1, "b": 2}}))
    print("params   ", fetch(f"{base}/rpc/Calc/add", [1, 2]))
    request = {"jsonrpc": "2.0", "method": "add", "params": [1, 2], "id": 1}
    print("JSON-RPC ", fetch(f"{base}/rpc/Calc", request))
    print("batch    ", fetch(f"{base}/rpc/Calc", [request, {**request, "id": 2}]))
    print("metadata ", fetch(f"{base}/rpc/Calc/user", **{"Meta-User": "ada", "Timeout-Ms": "500"}))
    print("mistake  ", fetch(f"{base}/rpc/Calc/ad/1/2"))
    print("nobody   ", fetch(f"{base}/rpc/Clac/add/1/2"))
    print("listing  ", fetch(f"{base}/rpc/Calc"))


async def main() -> None:
    """Serve Calc and call it over HTTP."""
    async with running_broker() as broker, running(Calc, broker=broker):
        await asyncio.to_thread(show, f"http://{broker}")


asyncio.run(main())
