"""The service that benchmarks call, and its bodies for the larger payloads."""

from zbusrpc import rpc, service


@service(concurrency=256)
class Calc:
    """Arithmetic over the bus."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b

    @rpc(idempotent=True)
    async def add_again(self, a: int, b: int) -> int:
        """Return the sum; may run twice."""
        return a + b

    async def echo(self, data: str) -> str:
        """Return what came."""
        return data
