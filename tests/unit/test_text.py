"""Text messages as bytes: what stands in a head, and that nothing can break out of its line."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zbusrpc.transport.http import HttpDecoder
from zbusrpc.transport.text import JSON_HEADER, encode_text, header_line, header_lines, one_line

NO_TEXT = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029"}
"""What one or the other client takes for the end of a line, and what HTTP forbids."""
OF_HTTP = {"content-length", "transfer-encoding", "connection", "upgrade", "expect", "proxy-connection"}
TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=40)


# -- messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK"),
        (404, b"HTTP/1.1 404 Not Found"),
        (502, b"HTTP/1.1 502 Bad Gateway"),
        (600, b"HTTP/1.1 600 Unknown Status"),
        (299, b"HTTP/1.1 299 Unknown Status"),
    ],
)
def test_any_status_has_a_line(status: int, line: bytes) -> None:
    """Services of zbus answer with what they like; clients read only the number."""
    assert encode_text(status, "", b"").split(b"\r\n")[0] == line


def test_length_is_the_last_header_and_the_body_follows() -> None:
    """Head and body are one block; names are in lower case, and the length is there also for nothing."""
    assert encode_text(200, "id: 7\r\n" + JSON_HEADER, b"{}") == (
        b"HTTP/1.1 200 OK\r\nconnection: Keep-Alive\r\nid: 7\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    assert encode_text(404, "", b"").endswith(b"connection: Keep-Alive\r\ncontent-length: 0\r\n\r\n")


def test_length_counts_bytes() -> None:
    """Of a body, not letters."""
    assert b"content-length: 3\r\n" in encode_text(200, "", "☃".encode())


def test_answer_without_content_has_no_length() -> None:
    """RFC 9110, 15.3.5: 204 has neither a body nor a length."""
    assert encode_text(204, "a: b\r\n", b"", keep_alive=False) == (
        b"HTTP/1.1 204 No Content\r\nconnection: close\r\na: b\r\n\r\n"
    )


# -- headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("a\r\nb: c", "a  b: c"),
        ("a\x0bb\x0cc\x1cd\x85e\u2028f", "a b c d e f"),
        ("  a  b  ", "a  b"),
        ("\r\n", ""),
        ("\x00", ""),
        ("grüß ☃ \U0001f600", "grüß ☃ \U0001f600"),
        ("a\u00adb\ufeff", "a\u00adb\ufeff"),
    ],
)
def test_text_becomes_one_line(value: str, expected: str) -> None:
    """What ends lines somewhere becomes a space; all else stays."""
    assert one_line(value) == expected
    assert header_line("x", value) == (f"x: {expected}\r\n" if expected else "")


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "a\r\nb", "ü", "a\x00", "(a)", "a=", '"a"', "a\n"])
def test_what_cannot_be_a_name_makes_no_header(name: str) -> None:
    """A name is a token of HTTP, or there is no header."""
    assert header_line(name, "value") == ""


def test_headers_are_lines_in_their_order() -> None:
    """Those without a value are left out."""
    assert header_lines([("b", "1"), ("a", ""), ("x y", "2"), ("a", "3")]) == "b: 1\r\na: 3\r\n"


@given(name=st.text(max_size=20) | TOKENS, value=st.text(max_size=300))
@example(name="x", value="a\r\nb: c")
@example(name="x\r\ny", value="z")
def test_header_is_never_more_than_one_line(name: str, value: str) -> None:
    """Whatever name and value are: one line in anybody's eyes, or none."""
    line = header_line(name, value)

    assert len(line.splitlines()) == bool(line)
    assert line == "" or (line.endswith("\r\n") and line.count("\r") == line.count("\n") == 1)


@given(name=TOKENS.filter(lambda name: name.lower() not in OF_HTTP), value=st.text(max_size=300))
def test_header_is_read_back_as_it_was(name: str, value: str) -> None:
    """A decoder finds the same text, but for what cannot stand in a header."""
    expected = "".join(" " if letter in NO_TEXT else letter for letter in value).strip()
    data = f"GET / HTTP/1.1\r\nfirst: 1\r\n{header_line(name, value)}last: 2\r\n\r\n".encode()

    (request,) = HttpDecoder(0).feed(data)

    assert request.headers == {"first": "1", "last": "2"} | ({name.lower(): expected} if expected else {})
