"""One request and its answer: what is written, once, whatever ends first."""

import pytest

from zbusrpc.broker.dialects.http.answer import Exchange, clean_id
from zbusrpc.transport.http import HttpResponse

answered: list[Exchange] = []


def exchange(*, id_: str = "", keep_alive: bool = True, head: str = "") -> Exchange:
    """Return an exchange that notes its answers."""
    answered.clear()
    made = Exchange(answered.append, id_=id_, keep_alive=keep_alive)
    made.head = head
    return made


def test_plain_answer_is_a_message() -> None:
    """Without an id and further headers there is little to say."""
    one = exchange()

    one.answer(200, b"hello")

    assert one.data == b"HTTP/1.1 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 5\r\n\r\nhello"
    assert answered == [one]


def test_answer_repeats_the_id_and_has_all_headers() -> None:
    """First those of the exchange, then those of the answer."""
    one = exchange(id_="7", keep_alive=False, head="vary: origin\r\n")

    one.answer(404, b"no", "x: y\r\n")

    assert one.data == (
        b"HTTP/1.1 404 Not Found\r\nconnection: close\r\nid: 7\r\nvary: origin\r\nx: y\r\ncontent-length: 2\r\n\r\nno"
    )


def test_text_for_people_has_no_type() -> None:
    """Some clients decode what has one, and then decode it again."""
    one = exchange()

    one.answer_text(400, "nö")

    assert one.data is not None
    assert one.data.endswith(b"content-length: 3\r\n\r\nn\xc3\xb6")
    assert b"content-type" not in one.data


@pytest.mark.parametrize("status", [200, 404])
def test_answer_to_head_ends_with_the_head(status: int) -> None:
    """Its length is that of the body which GET gets."""
    one = exchange()
    one.is_head = True

    one.answer(status, b"\r\n\r\nbody")

    assert one.data is not None
    assert one.data.endswith(b"content-length: 8\r\n\r\n")


def test_first_answer_counts() -> None:
    """What comes afterwards, for example while the connection closes, is nothing."""
    one = exchange()

    one.answer(200, b"first")
    one.answer_text(503, "second")
    one.answer_http(HttpResponse(status=503))

    assert one.data is not None
    assert one.data.endswith(b"first")
    assert len(answered) == 1


def test_answer_of_the_gateway_has_the_same_headers() -> None:
    """The id goes along as bytes of UTF-8, and so do the headers for pages."""
    one = exchange(id_="ü", keep_alive=False, head="access-control-allow-origin: *\r\nvary: origin\r\n")

    one.answer_http(HttpResponse(status=200, body=b"{}"))

    assert one.data is not None
    head = one.data.decode().split("\r\n")
    assert head[0] == "HTTP/1.1 200 OK"
    assert {"access-control-allow-origin: *", "vary: origin", "id: ü", "Connection: close"} <= set(head)


def test_page_that_may_read_an_answer_may_read_all_its_headers() -> None:
    """Those of a message are the application's, and have any names."""
    cors = "access-control-allow-origin: https://app.example\r\nvary: origin\r\n"
    message, plain = exchange(id_="7", head=cors), exchange(head="access-control-allow-origin: *\r\n")
    gateway = exchange(head=cors)

    message.answer(200, b"x", "offset: 1\r\nx-trace: a: b\r\n")
    plain.answer(204)
    gateway.answer_http(HttpResponse(status=429, headers={"Retry-After": "1"}))

    exposes = b"access-control-expose-headers: "
    assert message.data is not None
    assert exposes + b"id, offset, x-trace\r\n" in message.data
    assert plain.data is not None
    assert exposes not in plain.data
    assert gateway.data is not None
    assert exposes + b"Retry-After\r\n" in gateway.data


def test_stream_collects_what_was_not_written() -> None:
    """Each part is told; what nobody has taken yet is one block."""
    one = exchange()
    one.is_stream = True

    one.stream(b"a")
    one.stream(b"b")
    taken, one.data = one.data, None
    one.stream(b"c")

    assert (taken, one.data) == (b"ab", b"c")
    assert len(answered) == 3


@pytest.mark.parametrize("keep_alive", [True, False])
def test_stream_is_in_chunks_and_has_an_end(keep_alive: bool) -> None:
    """The connection goes on afterwards, if the client has it so."""
    one = exchange(keep_alive=keep_alive, head="vary: origin\r\n")
    one.takes_chunks = True

    one.begin_stream("a: b\r\n")
    assert one.is_stream
    one.stream(b"0123456789")
    one.end_stream(b"z")

    connection = b"keep-alive" if keep_alive else b"close"
    head = (
        b"HTTP/1.1 200 OK\r\na: b\r\nvary: origin\r\nconnection: %b\r\ntransfer-encoding: chunked\r\n\r\n" % connection
    )
    assert one.data == head + b"a\r\n0123456789\r\n1\r\nz\r\n0\r\n\r\n"
    assert (one.is_stream, one.keep_alive) == (False, keep_alive)


def test_stream_without_chunks_ends_with_its_connection() -> None:
    """Nothing else can say that it is over."""
    one = exchange()

    one.begin_stream("")
    one.stream(b"a")
    one.end_stream(b"z")

    assert one.data == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\naz"
    assert (one.is_stream, one.keep_alive) == (False, False)


def test_what_is_cut_short_has_an_end() -> None:
    """A stream ends, who waits is answered, and an answer stays as it is."""
    stream, waiting, done = exchange(), exchange(), exchange()
    stream.takes_chunks = True
    stream.begin_stream("")
    done.answer(200, b"done")

    for one in (stream, waiting, done):
        one.cut_short(HttpResponse(status=503))

    assert stream.data is not None
    assert stream.data.endswith(b"\r\n\r\n0\r\n\r\n")
    assert waiting.data is not None
    assert waiting.data.startswith(b"HTTP/1.1 503 ")
    assert done.data is not None
    assert done.data.endswith(b"done")


@pytest.mark.parametrize(("text", "expected"), [("7", "7"), ("a\r\nb", "a  b"), ("\x7f", ""), ("", ""), (" ü ", "ü")])
def test_id_is_one_line(text: str, expected: str) -> None:
    """An id that could end its line cannot."""
    assert clean_id(text) == expected
