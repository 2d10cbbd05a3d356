"""Masks and values of zbus headers, in the spellings of all its clients."""

import pytest

from zbusrpc.bounds import Bound
from zbusrpc.broker.dialects.zbus.masks import Mask, group_options, topic_options
from zbusrpc.broker.dialects.zbus.values import is_true, number_of, seconds_of, wants_ack
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.errors import Code, RpcError

# -- values --------------------------------------------------------------------------------------------------

SMALL, HUNDRED = Bound("mask", 0, 64, ""), Bound("time", 0, 100, "")


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "t", "T"])
def test_yes_in_every_language(text: str) -> None:
    """Go and JavaScript write true, Python True, Java, PHP and C++ 1."""
    assert is_true(text)
    assert wants_ack({"ack": text})


@pytest.mark.parametrize("text", ["false", "False", "0", "", "no", "yes", "2", "on", " 1"])
def test_everything_else_is_no(text: str) -> None:
    """As zbus has it: what cannot be read is no."""
    assert not is_true(text)
    assert not wants_ack({"ack": text})


def test_ack_is_wanted_unless_somebody_says_no() -> None:
    """Without the header there is an answer."""
    assert wants_ack({})


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("10", 10), ("9223372036854775807", 2**63 - 1)])
def test_number_of_a_header(text: str, number: int) -> None:
    """Whole numbers up to the highest of 64 bits."""
    assert number_of({"offset": text}, "offset") == number


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1.0", "1e3", "0x1", " 1", "1_0", "²", "٣", "x", "9223372036854775808", "1" * 1000]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    """The text names the header, the value, cut to a line, and what it may be."""
    with pytest.raises(RpcError, match=rf"offset: .* is no number from 0 to {2**63 - 1}$") as caught:
        number_of({"offset": text}, "offset")

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert len(caught.value.message) < 120


def test_number_has_a_bound_of_its_own() -> None:
    """And where there is no header there is none."""
    assert number_of({"mask": "64"}, "mask", SMALL) == 64
    with pytest.raises(RpcError, match="mask: 65 is no number from 0 to 64"):
        number_of({"mask": "65"}, "mask", SMALL)
    assert number_of({}, "mask") is None


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("20", 20), ("0.25", 0.25), ("1e2", 100), (".5", 0.5)])
def test_seconds_of_a_header(text: str, seconds: float) -> None:
    """With fractions."""
    assert seconds_of({"timeout": text}, "timeout", HUNDRED) == seconds


@pytest.mark.parametrize("text", ["", "-1", "-0.1", "nan", "inf", "-inf", "101", "1s", "x", "0x1"])
def test_what_are_no_seconds_is_refused(text: str) -> None:
    """Also what Python would take for a number and no clock knows."""
    with pytest.raises(RpcError, match=r"timeout: .* is no number of seconds from 0 to 100"):
        seconds_of({"timeout": text}, "timeout", HUNDRED)


def test_no_seconds_without_a_header() -> None:
    """Nothing is not zero."""
    assert seconds_of({}, "timeout", HUNDRED) is None


# -- masks ---------------------------------------------------------------------------------------------------


def test_bits_are_those_of_later_zbus() -> None:
    """The numbers of 0.9: clients of 0.8 declare 3 and mean memory and RPC."""
    assert [(mask.name, mask.value) for mask in Mask] == [
        ("MEMORY", 1),
        ("RPC", 2),
        ("PROXY", 4),
        ("PAUSE", 8),
        ("EXCLUSIVE", 16),
        ("DELETE_ON_EXIT", 32),
        ("ACK_REQUIRED", 64),
    ]


def test_memory_counts_when_a_topic_is_made() -> None:
    """A topic that is there is not made less durable by a mask."""
    assert topic_options(3, is_new=True) == {"mask": 3, "durability": Durability.MEMORY}
    assert topic_options(3, is_new=False) == {"mask": 3}
    assert topic_options(2, is_new=True) == {"mask": 2}


@pytest.mark.parametrize(
    ("mask", "topic_mask", "on"),
    [
        (0, 0, set()),
        (8, 0, {"paused"}),
        (16 | 32, 0, {"exclusive", "delete_on_exit"}),
        (0, 8 | 16, {"paused", "exclusive"}),
        (64, 8 | 16, set()),
        (1 | 2 | 4 | 64, 0, set()),
    ],
)
def test_group_without_mask_follows_its_topic(mask: int, topic_mask: int, on: set[str]) -> None:
    """What bits do not ask for is off, so that a mask can take it back; its own mask is told again."""
    options = group_options(mask, topic_mask)

    assert options.pop("mask") == mask
    assert {name for name, value in options.items() if value} == on
    assert options.keys() == {"paused", "exclusive", "delete_on_exit"}
