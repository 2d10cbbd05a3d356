"""Naming: which brokers and which topic a producer, a consumer or a command is about, checked before anything is sent.

Pure. The broker has the whole rule for names; here stands what would not even fit into a frame.
"""

from zbusrpc.errors import UsageError
from zbusrpc.transport.address import Address, parse_addresses
from zbusrpc.transport.naming import one_spelling
from zbusrpc.transport.native import TOPIC_BYTES_MAX


def brokers_of(broker: str | None) -> tuple[Address, ...] | None:
    """Return the brokers that are named, or None: then `fleet_of_loop` finds the default ones, once they are used.

    Raises:
        ConfigError: they are no addresses.
    """
    return None if broker is None else parse_addresses(broker)


def topic_bytes(topic: str) -> bytes:
    """Return a topic as it stands in a frame.

    Raises:
        UsageError: it does not fit there.
    """
    if not isinstance(topic, str):
        raise UsageError(f"a topic is named by a str, not {topic!r}")
    data = one_spelling(topic).encode(errors="replace")
    if not 1 <= len(data) <= TOPIC_BYTES_MAX:
        raise UsageError(f"topic {topic[:40]!r} of {len(data)} bytes: 1 to {TOPIC_BYTES_MAX} bytes")
    return data
