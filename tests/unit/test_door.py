"""The door: how many connections of one address are let in."""

from zbusrpc.broker.listeners.quotas import TOLD_EVERY_S, TOLD_MAX, Door


def test_address_gets_so_many_places_and_no_more() -> None:
    """At the limit an address is turned away, others are let in, and a place that is given back is free."""
    door = Door(2)

    assert [door.enter(holder, "10.0.0.1") for holder in "abc"] == [True, True, False]
    assert door.enter("d", "10.0.0.2")
    door.leave("a")
    door.leave("a")
    door.leave("never there")
    assert [door.enter(holder, "10.0.0.1") for holder in "ef"] == [True, False]


def test_place_goes_on_with_another_holder() -> None:
    """Who takes over a connection has its place, and gives it back."""
    door = Door(1)

    door.enter("arrival", "10.0.0.1")
    door.hand_over("arrival", "peer")
    door.leave("arrival")
    assert not door.enter("next", "10.0.0.1")
    door.leave("peer")
    assert door.enter("next", "10.0.0.1")


def test_addresses_of_one_network_count_as_one() -> None:
    """Of IPv6 the first 64 bits count, of a mapped address the IPv4 one."""
    door = Door(1)

    assert door.enter("a", "2001:db8::1")
    assert not door.enter("b", "2001:db8::ffff:2")
    assert door.enter("c", "2001:db8:0:1::1")
    assert door.enter("d", "::ffff:10.0.0.1")
    assert not door.enter("e", "10.0.0.1")
    assert door.enter("f", "fe80::1%eth0")


def test_nothing_is_kept_of_addresses_that_left() -> None:
    """Ever new addresses do not fill the memory."""
    door = Door(1)

    for number in range(100):
        door.enter(number, f"10.0.0.{number}")
        door.leave(number)
    for number in range(TOLD_MAX + 10):
        door.is_news(f"10.1.{number >> 8}.{number & 255}", 0.0)

    assert not door._count
    assert not door._places
    assert len(door._told) <= TOLD_MAX


def test_address_is_told_of_once_a_minute() -> None:
    """The log is not another thing that can be filled."""
    door = Door(1)

    assert [door.is_news("10.0.0.1", at) for at in (0.0, 1.0, TOLD_EVERY_S - 1)] == [True, False, False]
    assert door.is_news("10.0.0.2", 1.0)
    assert door.is_news("10.0.0.1", TOLD_EVERY_S)
