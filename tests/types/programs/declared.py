"""What the type checkers are shown: services as people declare them."""

from dataclasses import dataclass
from datetime import datetime
from typing import assert_type

from zbusrpc import Code, RpcError, rpc, service


@dataclass(eq=False)
class InsufficientFunds(RpcError):
    """An account has too little."""

    code = Code.FAILED_PRECONDITION
    message = "{missing} cents are missing"
    missing: int


@dataclass
class Order:
    """A parameter with fields."""

    item: str
    count: int
    due: datetime | None = None


@service
class Calc:
    """Plain @service, methods of both colours."""

    async def add(self, a: int, b: int = 0) -> int:
        """Return the sum."""
        return a + b

    def factor(self, n: int) -> list[int]:
        """Return the prime factors."""
        return [n]

    @rpc
    async def bare(self) -> str:
        """@rpc without arguments."""
        return ""

    @rpc(timeout=2.0, idempotent=True, errors=(InsufficientFunds,))
    async def order(self, order: Order) -> dict[str, float]:
        """@rpc with arguments."""
        raise InsufficientFunds(missing=order.count)

    @rpc(name="other", deprecated="use add")
    def old(self, *, text: str) -> bytes | None:
        """@rpc on a blocking method."""
        return text.encode()


@service(name="Bank", version="2.1", concurrency=8)
class Bank:
    """@service with arguments, and an __init__ of its own."""

    def __init__(self, currency: str) -> None:
        self.currency = currency

    async def balance(self, account: str) -> int:
        """Return the cents."""
        return len(account)


# Decorated classes and methods stay what they were.
assert_type(Calc(), Calc)
assert_type(Bank("EUR"), Bank)
assert_type(Bank("EUR").currency, str)
assert_type(Calc().factor(91), list[int])
assert_type(Calc().old(text="x"), bytes | None)
