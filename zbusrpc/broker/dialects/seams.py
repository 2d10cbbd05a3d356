"""The seam of dialects: what a protocol on the port has to offer, and what it finds.

A dialect claims connections by their first bytes and carries them from then on. It meets the core in `House.turns`: a
connection that has shown who it is gets a session there, says with `receive` what its peer asks, and is told by `send`
what there is for it. The first of a broker's dialects that does not say NO decides: later ones wait for it.
"""

import asyncio
from enum import Enum, auto
from typing import Protocol

from zbusrpc.broker.access.rights import Access
from zbusrpc.broker.core.turns import Place, Turns
from zbusrpc.broker.sessions.memory import Input, Output
from zbusrpc.transport.hello import Hello


class Claim(Enum):
    """Whether a dialect takes a connection."""

    YES = auto()
    NO = auto()
    MORE = auto()
    """It cannot tell yet."""


class Dialect(Protocol):
    """A protocol that is spoken on the port."""

    def claims(self, first: bytes) -> Claim:
        """Say by the first bytes of a connection, one at least, whether it is one of this dialect."""
        ...

    def open(self, place: Place) -> asyncio.Protocol:
        """Return what carries a connection on. It has to give `place` back at the end, or a session to do so."""
        ...


class House(Protocol):
    """What dialects find: the broker that they are spoken to."""

    turns: Turns
    hello: Hello
    """What the broker says of itself."""
    access: Access | None
    """Who may do what; None lets everybody do everything."""
    message_bytes_max: int
    input: Input
    output: Output
    """What all peers together make the broker keep."""
