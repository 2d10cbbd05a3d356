"""The service of the demo: arithmetic over the bus. Serve it with: zbusrpc serve calc:Calc"""

from dataclasses import dataclass

from zbusrpc import Code, RpcError, rpc, service


@dataclass(eq=False)
class DivisionByZero(RpcError):
    """There is no such quotient."""

    code = Code.INVALID_ARGUMENT
    message = "{dividend} cannot be divided by zero"
    dividend: int


@service(version="1.0")
class Calc:
    """Arithmetic over the bus."""

    @rpc(idempotent=True)
    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b

    async def divide(self, a: int, b: int) -> float:
        """Return the quotient."""
        if b == 0:
            raise DivisionByZero(dividend=a)
        return a / b

    def factor(self, n: int) -> list[int]:
        """Return the prime factors; a `def` method runs in a thread, so that it may compute for long."""
        factors: list[int] = []
        divisor = 2
        while divisor * divisor <= n:
            while n % divisor == 0:
                factors.append(divisor)
                n //= divisor
            divisor += 1
        return [*factors, n] if n > 1 else factors
