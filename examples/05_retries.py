"""Retries: waiting for a service that is not there yet, and trying again when it is said to be safe."""

import asyncio
import logging

from zbusrpc import Code, RpcError, connect, options, rpc, service
from zbusrpc.testing import running, running_broker


@service
class Flaky:
    """Works at the third try."""

    def __init__(self) -> None:
        self.tries = 0

    @rpc(idempotent=True)
    async def read(self) -> str:
        """Return something; it may be done twice."""
        self.tries += 1
        if self.tries < 3:
            raise RpcError(Code.UNAVAILABLE, "not now")
        return f"read at try {self.tries}"

    async def write(self) -> str:
        """Change something; nobody does that twice for you."""
        raise RpcError(Code.UNAVAILABLE, "not now")


async def main() -> None:
    """Call before the service is there, and while it is unwilling."""
    logging.getLogger("zbusrpc").setLevel(logging.CRITICAL)
    async with running_broker() as broker:
        flaky = connect(Flaky, broker=broker)
        try:
            await flaky.read()
        except RpcError as error:
            print("at once:", error.code, "| may have run:", error.may_have_run)

        patient = options(flaky, wait_for_ready=True, retries=5, timeout=5.0)
        waiting = asyncio.create_task(patient.read())
        await asyncio.sleep(0.1)
        async with running(Flaky, broker=broker):
            print("waited:", await waiting)
            try:
                await patient.write()
            except RpcError as error:
                print("not idempotent, not retried:", error)


asyncio.run(main())
