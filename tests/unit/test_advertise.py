"""The address that a broker tells others: reachable, whatever it listens on."""

from ipaddress import ip_address

import pytest

from zbusrpc.broker.listeners.advertise import advertised


@pytest.mark.parametrize(
    ("given", "host", "expected"),
    [
        (None, "127.0.0.1", "127.0.0.1:15555"),
        (None, "localhost", "localhost:15555"),
        (None, "::1", "[::1]:15555"),
        ("bus.example", "0.0.0.0", "bus.example:15555"),
        ("bus.example:80", "0.0.0.0", "bus.example:80"),
        ("[2001:db8::1]", "::", "[2001:db8::1]:15555"),
        ("[2001:db8::1]:80", "::", "[2001:db8::1]:80"),
    ],
)
def test_address_is_what_was_given_or_what_is_listened_on(given: str | None, host: str, expected: str) -> None:
    """A name that is given wins, with its port or the broker's."""
    assert advertised(given, host, 15555) == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_everywhere_is_no_address(host: str) -> None:
    """Who listens on all addresses tells one that can be connected to."""
    name, _, port = advertised(None, host, 15555).rpartition(":")

    assert port == "15555"
    assert not ip_address(name).is_unspecified
