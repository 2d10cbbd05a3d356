"""Broker addresses: `host:port;tls://host2:port`, as people write them."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from zbusrpc.config import DEFAULT_PORT
from zbusrpc.errors import ConfigError

SEPARATORS: Final = ";,"
TLS_SCHEME: Final = "tls://"


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int
    tls: bool = False
    """Whether the connection is encrypted."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS_SCHEME if self.tls else ''}{host}:{self.port}"


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Return the addresses in `text`, in the order in which they are to be tried.

    Raises:
        ConfigError: one of them is no address; the text names it.
    """
    if not isinstance(text, str):
        raise ConfigError(f"brokers are named by one text, host:port;host2:port, and not by {text!r}")
    for separator in SEPARATORS[1:]:
        text = text.replace(separator, SEPARATORS[0])
    parts = [part.strip() for part in text.split(SEPARATORS[0]) if part.strip()]
    if not parts:
        raise ConfigError(f"no broker in {text!r}; write host:port, several with ; between them")
    return tuple(_parse(part) for part in parts)


def address_named(text: str) -> Address | None:
    """Return the address that a broker says it has, or None where that is none."""
    try:
        return _parse(text)
    except ConfigError:
        return None


def would_expose(address: Address, named: Iterable[Address]) -> bool:
    """Whether dialling an address that a broker tells of would show a token in the clear, though TLS is wanted.

    Args:
        named: What the user has named. If that is all with TLS, nothing else is good enough.
    """
    return not address.tls and all(one.tls for one in named)


def _parse(given: str) -> Address:
    text = given.removeprefix(TLS_SCHEME)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    is_host = bool(host) and not set(host) & set("/[] ") and (is_bracketed or ":" not in host)
    if not is_host or not port.isdecimal() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise ConfigError(f"{given!r} is no broker address; write host:port with a port from 1 to 65535")
    return Address(host, int(port), tls=text != given)
