"""Errors: a declared one keeps its class and fields, anything else is INTERNAL and stays in the service's log."""

import asyncio
import logging
from dataclasses import dataclass

from zbusrpc import Code, RpcError, service
from zbusrpc.testing import running


@dataclass(eq=False)
class InsufficientFunds(RpcError):
    """The account has less than was asked for."""

    code = Code.FAILED_PRECONDITION
    message = "{missing} cents are missing on account {account}"
    account: str
    missing: int


@service
class Bank:
    """Holds 1000 cents for everybody."""

    async def withdraw(self, account: str, cents: int) -> int:
        """Return what is left."""
        if cents > 1000:
            raise InsufficientFunds(account=account, missing=cents - 1000)
        if cents < 0:
            raise RpcError(Code.OUT_OF_RANGE, "cents are counted upwards")
        return 1000 - cents

    async def audit(self) -> None:
        """Fail in a way that nobody has planned."""
        raise ZeroDivisionError("secrets of the house")


async def main() -> None:
    """Run into each kind of error."""
    logging.getLogger("zbusrpc").setLevel(logging.CRITICAL)  # this example prints what callers see, not the log
    async with running(Bank) as bank:
        print("left:", await bank.withdraw("ada", 400))
        try:
            await bank.withdraw("ada", 1250)
        except InsufficientFunds as error:
            print("declared:", error, "| missing =", error.missing)
        try:
            await bank.withdraw("ada", -1)
        except RpcError as error:
            print("plain:", error)
        try:
            await bank.audit()
        except RpcError as error:
            print("unexpected:", error)
        try:
            await bank.withdraw("ada", "ten")  # type: ignore[arg-type]  # the type checker sees it, too
        except RpcError as error:
            print("invalid:", error)


asyncio.run(main())
