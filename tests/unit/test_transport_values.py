"""Addresses, back-off, sniffing and the HELLO."""

import random

import pytest
from pydantic import SecretStr

from zbusrpc.errors import ConfigError, ProtocolError, TokenRefusedError
from zbusrpc.message import Kind, Message
from zbusrpc.transport.address import Address, parse_addresses
from zbusrpc.transport.backoff import CAP_S, FLOOR_S, Backoff
from zbusrpc.transport.hello import Hello, hello_message, parse_hello
from zbusrpc.transport.native import HELLO_BYTES_MAX
from zbusrpc.transport.sniff import Framing, sniff


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("localhost:1", [Address("localhost", 1)]),
        ("localhost", [Address("localhost", 15555)]),
        (" a:1 ; b:2,c:3;", [Address("a", 1), Address("b", 2), Address("c", 3)]),
        ("[::1]:9", [Address("::1", 9)]),
        ("[::1]", [Address("::1", 15555)]),
        ("tls://a:1;b:2", [Address("a", 1, tls=True), Address("b", 2)]),
        ("tls://[::1]", [Address("::1", 15555, tls=True)]),
    ],
)
def test_addresses_are_read_in_order(text: str, addresses: list[Address]) -> None:
    """Addresses are tried in the order in which they stand; the port may be left out."""
    assert list(parse_addresses(text)) == addresses


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "a:",
        "a:0",
        "a:65536",
        "a:x",
        ":1",
        "http://a:1",
        "a:-1",
        "::1",
        "[::1:5",
        "a b:1",
        "a:0000019999999",
        "tls://",
        "tls:a:1",
        "tls://tls://a",
    ],
)
def test_text_that_is_no_address_is_named(text: str) -> None:
    """What cannot be an address is refused with how one is written."""
    with pytest.raises(ConfigError, match="write host:port"):
        parse_addresses(text)


def test_address_is_shown_as_it_is_written() -> None:
    """An address survives being shown and read, IPv6 too."""
    for text in ["a:1", "[::1]:9", "tls://a:1", "tls://[::1]:9"]:
        assert str(parse_addresses(text)[0]) == text


def test_backoff_doubles_to_its_cap_with_jitter() -> None:
    """Waits stay within bounds that double up to the cap, and begin again after a success."""
    backoff = Backoff(rng=random.Random(1))
    bounds = [min(CAP_S, 0.05 * 2**n) for n in range(60)]

    waits = [backoff.next_s() for _ in range(60)]

    assert all(FLOOR_S <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) > 50
    backoff.reset()
    assert backoff.next_s() <= 0.05


def test_backoff_survives_a_thousand_tries() -> None:
    """A peer that is away for days does not overflow the wait."""
    backoff = Backoff()

    assert all(backoff.next_s() <= CAP_S for _ in range(2000))


@pytest.mark.parametrize(
    ("first", "framing"),
    [(0, Framing.NATIVE), (b"G"[0], Framing.HTTP), (b"P"[0], Framing.HTTP), (0x16, Framing.TLS)]
    + [(other, Framing.UNKNOWN) for other in (1, 10, b"g"[0], b"{"[0], 255)],
)
def test_first_byte_tells_the_framing(first: int, framing: Framing) -> None:
    """One byte is enough to know what a client speaks."""
    assert sniff(first) is framing


def test_hello_survives_the_wire() -> None:
    """What one side says of itself, the other reads."""
    hello = Hello(name="me", message_bytes_max=5000, session=7, idle_s=3.5, token=SecretStr("s3cret"))

    assert parse_hello(hello_message(hello)) == hello


def test_longest_hello_fits_its_frame() -> None:
    """Whatever a HELLO holds, its length begins with a zero byte and keeps its limit."""
    token = SecretStr("\u20ac" * 256)
    hello = Hello(name="\u20ac" * 255, software="\U0001f600" * 64, session=2**32 - 1, token=token)

    assert len(hello_message(hello).body) <= HELLO_BYTES_MAX


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Message(Kind.REQUEST), "must be HELLO, not REQUEST"),
        (Message(Kind.GOODBYE, body=b"full"), "full"),
        (Message(Kind.HELLO), "unusable HELLO"),
        (Message(Kind.HELLO, body=b"[]"), "unusable HELLO"),
        (Message(Kind.HELLO, body=b'{"protocol":"nats"}'), "unusable HELLO"),
        (Message(Kind.HELLO, body=b'{"idle_s":0}'), "unusable HELLO"),
        (Message(Kind.HELLO, body=b'{"message_bytes_max":0}'), "unusable HELLO"),
        (Message(Kind.HELLO, body=b'{"version":2}'), "version 2, this side 1"),
        (
            Message(Kind.HELLO, body=b'{"token":"%b"}' % (b"s3cret" * 50)),
            "unusable HELLO: Value should have at most 256",
        ),
    ],
)
def test_anything_but_a_hello_of_our_version_is_refused(message: Message, words: str) -> None:
    """The first message is a HELLO that can be used, or a protocol error."""
    with pytest.raises(ProtocolError, match=words):
        parse_hello(message)


def test_fields_from_the_future_are_ignored() -> None:
    """A later version may say more of itself."""
    assert parse_hello(Message(Kind.HELLO, body=b'{"colour":"red"}')) == Hello(software=Hello().software)


def test_token_is_said_once_and_shown_nowhere() -> None:
    """The secret is in the message that carries it and in nothing that may be printed."""
    hello = Hello(name="me", token=SecretStr("s3cret"))

    assert b"s3cret" in hello_message(hello).body
    assert b"token" not in hello_message(Hello()).body
    assert "s3cret" not in f"{hello!r} {hello} {hello.model_dump_json()} {hello_message(hello)!r}"


def test_refused_token_is_told_from_other_reasons() -> None:
    """A GOODBYE that begins with the code is an error of its own: a client does not come back with the same token."""
    with pytest.raises(TokenRefusedError, match=r"^no such token$"):
        parse_hello(Message(Kind.GOODBYE, body=b"UNAUTHENTICATED: no such token"))
