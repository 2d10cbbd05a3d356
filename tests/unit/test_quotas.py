"""The quotas: how many connections of one address are let in."""

from zbusrpc.broker.listeners.quotas import TOLD_EVERY_S, TOLD_MAX, Quotas


def are_let_in(quotas: Quotas, *addresses: str) -> list[bool]:
    """Say which of some connections get a place."""
    return [quotas.enter(address) is not None for address in addresses]


def test_address_gets_so_many_places_and_no_more() -> None:
    """At the limit an address is turned away, others are let in, and a place that is given back is free, once."""
    quotas = Quotas(2)

    place = quotas.enter("10.0.0.1")
    assert place is not None
    assert are_let_in(quotas, "10.0.0.1", "10.0.0.1", "10.0.0.2") == [True, False, True]
    place.leave()
    place.leave()
    assert are_let_in(quotas, "10.0.0.1", "10.0.0.1") == [True, False]


def test_addresses_of_one_network_count_as_one() -> None:
    """Of IPv6 the first 64 bits count, of a mapped address the IPv4 one."""
    quotas = Quotas(1)

    assert are_let_in(quotas, "2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1") == [True, False, True]
    assert are_let_in(quotas, "::ffff:10.0.0.1", "10.0.0.1", "fe80::1%eth0") == [True, False, True]


def test_all_together_have_a_limit() -> None:
    """One more is turned away, whatever its address."""
    quotas = Quotas(10, 2)

    places = [quotas.enter(f"10.0.0.{number}") for number in range(3)]
    assert places[2] is None
    assert quotas.taken == 2
    assert places[0] is not None
    places[0].leave()
    assert are_let_in(quotas, "10.0.0.4") == [True]


def test_nothing_is_kept_of_addresses_that_left() -> None:
    """Ever new addresses do not fill the memory."""
    quotas = Quotas(1)

    for number in range(100):
        place = quotas.enter(f"10.0.0.{number}")
        assert place is not None
        place.leave()
    for number in range(TOLD_MAX + 10):
        quotas.is_news(f"10.1.{number >> 8}.{number & 255}", 0.0)

    assert not quotas._count
    assert not quotas.taken
    assert len(quotas._told) <= TOLD_MAX


def test_address_is_told_of_once_a_minute() -> None:
    """The log is not another thing that can be filled."""
    quotas = Quotas(1)

    assert [quotas.is_news("10.0.0.1", at) for at in (0.0, 1.0, TOLD_EVERY_S - 1)] == [True, False, False]
    assert quotas.is_news("10.0.0.2", 1.0)
    assert quotas.is_news("10.0.0.1", TOLD_EVERY_S)
