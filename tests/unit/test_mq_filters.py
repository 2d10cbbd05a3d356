"""Filters: the rules of zbus 0.8 and 0.11 together, and that none of them can be made slow."""

import random
import time

import pytest

from zbusrpc.broker.mq.filters import FILTER_BYTES_MAX, check_filter, compile_filter
from zbusrpc.errors import Code, RpcError


def takes(text: str, tag: str) -> bool:
    matches = compile_filter(text)
    return matches is None or bool(matches(tag.encode()))


@pytest.mark.parametrize(
    ("text", "taken", "left"),
    [
        ("", ["", "a", "a.b"], []),
        ("*", ["", "a", "a.b.c"], []),
        ("#", ["", "a", "a.b.c"], []),
        ("+", ["", "a"], ["a.b", "."]),
        ("abc", ["abc"], ["", "ab", "abcd", "abc.", "ABC", "abc.x"]),
        ("abc.*", ["abc.x", "abc.x.y", "abc."], ["abc", "", "abcx", "xabc.x"]),
        ("abc.#", ["abc", "abc.x", "abc.x.y"], ["abcx", ""]),
        ("abc.+", ["abc.x", "abc."], ["abc", "abc.x.y"]),
        ("a.+.c", ["a.b.c", "a..c"], ["a.c", "a.b.b.c"]),
        ("a.*.c", ["a.b.c", "a..c"], ["a.c", "a.b.b.c", "a.b"]),
        ("*.*", ["a.b", "a.b.c", "."], ["a", ""]),
        ("*.c", ["a.c", ".c"], ["c", "a.b.c"]),
        ("+.+", ["a.b"], ["a", "a.b.c"]),
        ("Stock.HK.*;Stock.A.*", ["Stock.HK.1", "Stock.A.1.2"], ["Stock.B.1", "Stock.A"]),
        (" a ; b.# ;", ["a", "b", "b.c"], ["c", ""]),
        ("a+.b*", ["a+.b*"], ["ax.by", "a.b"]),
        ("a[b].(c)|d\\", ["a[b].(c)|d\\"], ["ab.c", "d"]),
        ("é.+", ["é.x"], ["e.x"]),
    ],
)
def test_filter_takes_what_the_rules_say(text: str, taken: list[str], left: list[str]) -> None:
    """Each rule takes these tags and leaves those."""
    assert [tag for tag in [*taken, *left] if takes(text, tag)] == taken


def test_tag_of_any_bytes_is_one_text() -> None:
    """A tag is bytes: line feeds and what is no UTF-8 are part of a segment."""
    matches = compile_filter("a.*")
    assert matches is not None

    assert matches(b"a.\n\xff\0")
    assert not matches(b"a\n.b")


def model_takes(text: str, tag: str) -> bool:
    """The rules once more, segment by segment, for one alternative."""
    wanted, there = text.split("."), tag.split(".")
    for number, segment in enumerate(wanted):
        is_last = number == len(wanted) - 1
        if is_last and segment == "#":
            return len(there) >= number
        if is_last and segment == "*":
            return len(there) > number
        if number >= len(there) or (segment not in {"+", "*"} and segment != there[number]):
            return False
    return len(wanted) == len(there)


def test_filters_agree_with_the_rules_spelled_out() -> None:
    """On random filters and tags the compiled filter says what a loop over the segments says."""
    rng = random.Random(7)

    for _ in range(3000):
        text = ".".join(rng.choice(["a", "b", "+", "*", ""]) for _ in range(rng.randint(1, 4)))
        text += rng.choice(["", "", ".#", ".*"])
        tag = ".".join(rng.choice(["a", "b", "", "ab"]) for _ in range(rng.randint(1, 5)))
        if text:
            assert takes(text, tag) == model_takes(text, tag), (text, tag)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#.a", "filter '#.a': # stands for the rest and must be the last segment"),
        ("x;a.#.#", "filter 'x;a.#.#': # stands for the rest and must be the last segment"),
        ("é" * 128, "a filter has at most 255 bytes, this one 256"),
        (";", "filter ';' names no tag: leave it away to take all messages"),
        (" ; ", "filter ' ; ' names no tag: leave it away to take all messages"),
    ],
)
def test_bad_filter_is_refused(text: str, said: str) -> None:
    """What cannot be meant is refused with the filter and the reason."""
    with pytest.raises(RpcError) as caught:
        compile_filter(text)

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == said


@pytest.mark.parametrize(
    "text",
    [
        ".".join("*" * 127) + ".x",
        ".".join("+" * 127) + ".#",
        ";".join("*" * 64) + ";" + ".".join("*" * 60) + ".y",
        "a" * FILTER_BYTES_MAX,
    ],
)
def test_no_tag_makes_a_filter_slow(text: str) -> None:
    """The worst filters with the worst tags take microseconds, so that nobody can stop a broker with them."""
    matches = compile_filter(text)
    assert matches is not None

    begin = time.perf_counter()
    for tag in (b"." * 255, b"a" * 255, b"a." * 127, b".a" * 127):
        for _ in range(20):
            matches(tag)

    assert time.perf_counter() - begin < 0.2


@pytest.mark.parametrize("text", ["a.**", "**", "a.##", "**.b", "x; a.*# "])
def test_signs_that_mean_nothing_together_are_refused(text: str) -> None:
    """Who writes them means something; a filter that is stored already goes on as it did."""
    with pytest.raises(RpcError, match=r"is no segment: write \+ for one segment"):
        check_filter(text)
    assert compile_filter("a.**") is not None


@pytest.mark.parametrize("text", ["", "*", "a.*", "a.+.#", "a+.b*", "x;y.*"])
def test_signs_that_mean_something_are_taken(text: str) -> None:
    """A sign within a name is a letter like others."""
    check_filter(text)
