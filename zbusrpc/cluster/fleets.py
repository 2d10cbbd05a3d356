"""The fleets of an event loop: one for each set of seeds, which all proxies, producers and consumers there share."""

import asyncio

from zbusrpc.cluster.fleet import Fleet
from zbusrpc.cluster.loops import belongings_of
from zbusrpc.config import default_broker
from zbusrpc.errors import UsageError
from zbusrpc.transport.address import Address, parse_addresses


def fleet_of_loop(seeds: tuple[Address, ...] | None) -> Fleet:
    """Return the running loop's fleet for `seeds`.

    Args:
        seeds: Brokers; None for those that are the default ones now.

    Raises:
        ConfigError: the default ones are no addresses.
        UsageError: no asyncio event loop is running here.
    """
    if seeds is None:
        seeds = parse_addresses(default_broker())
    loop = asyncio._get_running_loop()
    if loop is None:
        raise UsageError("a call needs a running asyncio event loop; without one write: blocking(proxy.method)(...)")
    fleets = belongings_of(loop)
    fleet: Fleet | None = fleets.get(seeds)
    if fleet is None or fleet.is_closed:
        fleet = fleets[seeds] = Fleet(seeds)
    return fleet


async def close_fleets(seeds: tuple[Address, ...] | None = None) -> None:
    """Close the connections that calls of this event loop have opened; the next call opens new ones.

    Args:
        seeds: Close only those to these brokers, and to those that they lead to.
    """
    fleets = belongings_of(asyncio.get_running_loop())
    for name in [seeds] if seeds else list(fleets):
        fleet = fleets.pop(name, None)
        if fleet is not None:
            await fleet.close()
