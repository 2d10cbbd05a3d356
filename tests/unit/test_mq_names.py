"""Names of topics and groups: which can be used, and what is said of those that cannot."""

import pytest

from zbusrpc.broker.mq.names import NAME_BYTES_MAX, check_name, decode_name, slug
from zbusrpc.errors import Code, RpcError


@pytest.mark.parametrize(
    "name",
    [
        "orders",
        "a",
        "Ä-ö.ß",
        "订单",
        "v1.2_x-y:z@host+1~2#3",
        ".hidden",
        "x" * NAME_BYTES_MAX,
        "คำสั่งซื้อ",
        "हिन्दी",
        "தமிழ்",
        "Đơn-hàng",
        "हिन्\u200dदी",  # a joiner behind a virama, as it is written
        "עִבְרִית",
        "q\u0307",  # which has no letter of its own
    ],
)
def test_letters_of_any_script_make_a_name(name: str) -> None:
    """Letters, digits and the punctuation that is listed make a name, up to 127 bytes."""
    assert check_name("topic", name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "a topic needs a name, not ''"),
        (None, "a topic needs a name, not None"),
        (7, "a topic needs a name, not 7"),
        ("a/b", "topic name 'a/b' may not hold '/': use letters, digits and . _ - : @ + ~ #"),
        ("..", "topic name '..' consists of dots only"),
        ("a b", "topic name 'a b' may not hold ' ': use letters, digits and . _ - : @ + ~ #"),
        ("a\0", "topic name 'a\\x00' may not hold '\\x00': use letters, digits and . _ - : @ + ~ #"),
        ("a\n", "topic name 'a\\n' may not hold '\\n': use letters, digits and . _ - : @ + ~ #"),
        ("x" * 128, "topic name of 128 bytes exceeds the limit of 127 bytes"),
        ("é" * 64, "topic name of 128 bytes exceeds the limit of 127 bytes"),
        ("\u0301a", "topic name '\u0301a' may not hold U+0301: use letters, digits and . _ - : @ + ~ #"),
        ("a.\u0301", "topic name 'a.\u0301' may not hold U+0301: use letters, digits and . _ - : @ + ~ #"),
        ("a\u200db", "topic name 'a\\u200db' may not hold '\\u200d': use letters, digits and . _ - : @ + ~ #"),
        ("a\u202eb", "topic name 'a\\u202eb' may not hold '\\u202e': use letters, digits and . _ - : @ + ~ #"),
        ("a\u3164", "topic name 'a\u3164' may not hold U+3164: use letters, digits and . _ - : @ + ~ #"),
        ("a\ufe0f", "topic name 'a\ufe0f' may not hold U+FE0F: use letters, digits and . _ - : @ + ~ #"),
        ("a\u20dd", "topic name 'a\u20dd' may not hold U+20DD: use letters, digits and . _ - : @ + ~ #"),
        ("\ud800", "topic name '\\ud800' may not hold '\\ud800': use letters, digits and . _ - : @ + ~ #"),
    ],
)
def test_bad_name_is_refused_in_one_line(name: object, said: str) -> None:
    """What cannot be a name is refused with the value and the rule."""
    with pytest.raises(RpcError) as caught:
        check_name("topic", name)

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == said


def test_bytes_that_are_no_text_are_no_name() -> None:
    """A name that came as bytes and is no UTF-8 is refused, not guessed."""
    assert decode_name("topic", "Ä".encode()) == "Ä"

    with pytest.raises(RpcError, match="may not hold"):
        decode_name("topic", b"a\xff")


@pytest.mark.parametrize("name", ["../../etc", "a:b", "订单", "CON.", "x" * 127])
def test_slug_is_a_file_name_anywhere(name: str) -> None:
    """What stands in a file's name is short and ASCII, whatever the name."""
    assert slug(name).isascii()
    assert slug(name).replace("_", "x").isalnum()
    assert len(slug(name)) <= 48
