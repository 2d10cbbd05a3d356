"""The context of a call, and log lines that carry its id: the service's own, and those of any library."""

import asyncio
import logging

import structlog

from zbusrpc import context, options, service
from zbusrpc.telemetry import configure_logging
from zbusrpc.testing import running

log = structlog.get_logger()


@service
class Greeter:
    """Greets whoever the metadata name."""

    async def hello(self) -> str:
        """Return a greeting."""
        call = context()
        log.info("greeter.hello", user=call.metadata["user"])
        logging.getLogger("some.library").warning("a line of the standard library")
        return f"hello {call.metadata['user']}: {call.service}.{call.method}, attempt {call.attempt}"


async def main() -> None:
    """Call with metadata; the command line configures logging in the same way."""
    configure_logging("info", as_json=True)
    async with running(Greeter) as greeter:
        print(await options(greeter, metadata={"user": "ada"}).hello())


asyncio.run(main())
