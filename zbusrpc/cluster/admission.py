"""The admission: which of the addresses that brokers are told by may be dialled.

A client whose brokers are all named with TLS shows its token to nobody in the clear, whatever a tracker tells.
"""

from collections.abc import Collection
from typing import Any

from zbusrpc.transport.address import Address, address_named, would_expose


class Admission:
    """Looks at the addresses that brokers tell of."""

    def __init__(self, named: Collection[Address], log: Any, event: str) -> None:
        """Take what the user has named, and how the log is told, once, of a broker that is left out."""
        self._named, self._log, self._event = named, log, event
        self._is_said = False

    def admits(self, address: str) -> Address | None:
        """Return where to dial, or None where it is no address, or would show a token in the clear."""
        dialled = address_named(address)
        if dialled is None or not would_expose(dialled, self._named):
            return dialled
        if not self._is_said:
            self._is_said = True
            self._log.warning(self._event, broker=address, fix="name one broker without tls://, or give it TLS")
        return None
