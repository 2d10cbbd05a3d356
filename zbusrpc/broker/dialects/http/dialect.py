"""HTTP and what is written like it: zbus, and WebSocket after an upgrade."""

import asyncio

from zbusrpc.broker.core.turns import Place
from zbusrpc.broker.dialects.http.connection import TextPeer
from zbusrpc.broker.dialects.http.weighed import House
from zbusrpc.broker.dialects.seams import Claim
from zbusrpc.transport.sniff import Framing, sniff


class HttpDialect:
    """Opens text connections."""

    def __init__(self, house: House) -> None:
        self._house = house

    def claims(self, first: bytes) -> Claim:
        """Say whether a connection begins with a capital letter, as requests do, and responses that zbus forwards."""
        return Claim.YES if sniff(first[0]) is Framing.HTTP else Claim.NO

    def open(self, place: Place) -> asyncio.Protocol:
        """Return what carries a connection on."""
        return TextPeer(self._house, place)
