"""A typed service and a call, in one process; demo.py does the same with real processes."""

import asyncio

from zbusrpc import service
from zbusrpc.testing import running


@service
class Calc:
    """Arithmetic over the bus."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b


async def main() -> None:
    """Serve Calc at a broker on a free port, and call it."""
    async with running(Calc) as calc:  # elsewhere: calc = connect(Calc)
        print("calc.add(1, 2) =", await calc.add(1, 2))
        print("calc.add(a=20, b=22) =", await calc.add(a=20, b=22))


asyncio.run(main())
