"""The address that a broker tells others to connect to.

Clients of zbus connect to what a tracker tells them, and not to what their user typed: it must be reachable. A broker
that listens on all addresses tells the one that this machine uses to reach others.
"""

import socket
from typing import Final

from zbusrpc.transport.address import Address

EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::", "*"})
_ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address of no machine (RFC 5737). A UDP socket that is connected sends nothing; it only chooses a route."""


def advertised(given: str | None, host: str, port: int) -> str:
    """Return the address, as `host:port`.

    Args:
        given: What the settings name, with or without a port; None for what can be found out.
        host: What the broker listens on.
        port: What it listens on.
    """
    if given:
        has_port = ":" in given.rpartition("]")[2]
        return given if has_port else str(Address(given.strip("[]"), port))
    return str(Address(_own_address() if host in EVERYWHERE else host, port))


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
            return str(probe.getsockname()[0])
        except OSError:  # no network at all
            return "127.0.0.1"
