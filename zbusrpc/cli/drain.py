"""`zbusrpc broker drain`: take a broker out, and wait for its end."""

import asyncio
import sys
import time
from typing import Any, Final

from zbusrpc.cli.shell import ask, fail, print_json, print_text
from zbusrpc.cluster.fleets import fleet_of_loop
from zbusrpc.errors import ConfigError
from zbusrpc.mq.commands import command
from zbusrpc.transport.address import parse_addresses

ANSWER_S: Final = 10.0
"""For the broker to say that it begins; it does so at once."""
POLL_S: Final = 0.02


def run_drain(address: str, timeout_s: float, *, as_json: bool) -> None:
    """Have a broker end in order; exit with 1 where it is still there after the timeout."""
    facts = ask(_drain(address, timeout_s), as_json=as_json)
    if as_json:
        print_json(facts)
    if not facts["ended"]:
        fail(f"broker {address} drains, and is still there after {timeout_s:g} s; it ends after its --grace")
    if not as_json:
        again = "; another one listens there again" if facts["restarted"] else ""
        print_text(f"broker {address} is drained and has ended{again}\n")


async def _drain(address: str, timeout_s: float) -> dict[str, Any]:
    """Return what has become of a broker.

    Raises:
        ConfigError: it is no address, or several.
        RpcError: the broker cannot be reached or refuses.
    """
    brokers = parse_addresses(address)
    if len(brokers) > 1:
        raise ConfigError(f"{address!r} names several brokers; drain one after the other")
    channel = fleet_of_loop(brokers).seeds[0].channel
    began = time.monotonic()
    result = await command("drain", address, max(timeout_s, ANSWER_S))
    connection = channel.connection
    _tell(result["unfinished"], address)
    is_there = connection is not None
    while is_there and time.monotonic() < began + timeout_s:
        await asyncio.sleep(POLL_S)
        is_there = channel.connection is connection
    if not is_there:
        await channel.wait_attempt()
    return {
        "broker": address,
        "unfinished": result["unfinished"],
        "ended": not is_there,
        "restarted": not is_there and channel.connection is not None,
        "seconds": round(time.monotonic() - began, 3),
    }


def _tell(unfinished: int, address: str) -> None:
    """Say what there is to wait for, to a person who waits."""
    if unfinished:
        sys.stderr.write(f"zbusrpc: broker {address} drains; calls and messages under way: {unfinished:,}\n")
