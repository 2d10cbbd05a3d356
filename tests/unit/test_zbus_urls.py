"""URLs of the zbus dialect: which command, topic and group a request names."""

import tracemalloc

import pytest

from zbusrpc.broker.dialects.zbus.urls import COMMANDS, NOWHERE, PAGES, Command
from zbusrpc.transport.http import HttpRequest


def command(target: str, body: bytes = b"", **headers: str) -> Command:
    """Return what a request asks for."""
    return Command(HttpRequest("GET", target.encode("latin-1"), dict(headers), body, True))


@pytest.mark.parametrize(
    ("target", "name", "topic", "group"),
    [
        ("/", "home", "", ""),
        ("", "home", "", ""),
        ("*", "home", "", ""),
        ("//", "home", "", ""),
        ("//query//T", NOWHERE, "", ""),
        ("//query/T", NOWHERE, "", ""),
        ("///T", NOWHERE, "", ""),
        ("//T?cmd=remove&topic=U", NOWHERE, "U", ""),
        ("http://host//query/T", NOWHERE, "", ""),
        ("/query//T", "query", "", ""),
        ("/remove//g", "remove", "", ""),
        ("/produce/T", "produce", "T", ""),
        ("/PRODUCE/T", "produce", "T", ""),
        ("/produce/T/g", "produce", "T", ""),
        ("/produce", "produce", "", ""),
        ("/produce/", "produce", "", ""),
        ("/consume/T", "consume", "T", ""),
        ("/consume/T/", "consume", "T", ""),
        ("/consume/T/g", "consume", "T", "g"),
        ("/consume/T/g/more", "consume", "T", "g"),
        ("/consume//g", "consume", "", ""),
        ("/unconsume/T/g", "unconsume", "T", "g"),
        ("/ack/T/g", "ack", "T", "g"),
        ("/declare/T/g", "declare", "T", "g"),
        ("/query/T/g", "query", "T", "g"),
        ("/remove/T/g", "remove", "T", "g"),
        ("/empty/T/g", "empty", "T", "g"),
        ("/server/T/g", "server", "T", ""),
        ("/route/T", "route", "T", ""),
        ("/?cmd=query&topic=T", "query", "T", ""),
        ("/?cmd=consume&topic=T&consume_group=g", "consume", "T", "g"),
        ("/?topic=T", "home", "T", ""),
        ("/T", "produce", "T", ""),
        ("/T/g?cmd=consume", "consume", "T", "g"),
        ("/T?cmd=remove", "remove", "T", ""),
        ("/consume/T?cmd=remove", "consume", "T", ""),
        ("http://127.0.0.1:15555/consume/T/g", "consume", "T", "g"),
        ("https://host/consume/T", "consume", "T", ""),
        ("http://host", "home", "", ""),
        ("/consume/a%2Fb/c%20d", "consume", "a/b", "c d"),
        ("/consume/Gr%C3%B6%C3%9Fe/%E2%98%83", "consume", "Größe", "☃"),
        ("/consume/a+b?consume_group=c+d", "consume", "a+b", "c d"),
        ("/%63onsume/T", "consume", "T", ""),
        ("/consume/%zz%", "consume", "%zz%", ""),
        ("/js/zbus.js", "js", "", ""),
        ("/favicon.ico", "favicon.ico", "", ""),
    ],
)
def test_url_names_command_topic_and_group(target: str, name: str, topic: str, group: str) -> None:
    """By its path as in zbus 0.8 where the first part is a command, otherwise as in 0.11."""
    read = command(target)

    assert (read.name, read.topic, read.group) == (name, topic, group)
    assert read.is_by_url


def test_header_names_the_command_and_the_url_nothing() -> None:
    """With `cmd` the URL is not read."""
    read = command("/remove/U/h?body=x&tag=y", cmd="query", topic="T")

    assert (read.name, read.topic, read.group, read.body, read.is_by_url) == ("query", "T", "", b"", False)
    assert "tag" not in read.headers


def test_command_of_a_header_is_compared_as_it_is() -> None:
    """As zbus does, which knows no `Produce`."""
    assert command("/", cmd="Produce").name == "Produce"


def test_headers_win_over_the_url() -> None:
    """What a header says is not changed by the path or the query."""
    read = command("/consume/T/g?tag=u&other=1", b"body", topic="H", consume_group="h", tag="t")

    assert (read.topic, read.group, read.headers["tag"], read.headers["other"]) == ("H", "h", "t", "1")


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("body=x", b"x"),
        ("BODY=x", b"x"),
        ("body=", b""),
        ("body", b""),
        ("body=a=b", b"a=b"),
        ("body=a+b", b"a b"),
        ("body=a%26b%3D%C3%BC", "a&b=ü".encode()),
        ("body=%FF", "\ufffd".encode()),
        ("body=x&body=y", b"x"),
        ("a=1&&body=x&", b"x"),
    ],
)
def test_body_may_stand_in_the_query(query: str, body: bytes) -> None:
    """Where there is no other; it is text, so what is no UTF-8 is replaced."""
    assert command(f"/produce/T?{query}").body == body
    assert command(f"/produce/T?{query}", b"real").body == b"real"


def test_query_becomes_headers() -> None:
    """By lower-case names; one that is empty is there, so that it can clear something."""
    read = command("/declare/T/g?GROUP_FILTER=&Group_Mask=8&x=1&x=2")

    assert (read.headers["group_filter"], read.headers["group_mask"], read.headers["x"]) == ("", "8", "1")


@pytest.mark.parametrize("name", ["host", "origin", "Origin", "cookie", "authorization", "referer", "sec-fetch-site"])
def test_query_does_not_say_who_asks(name: str) -> None:
    """A page can write any URL: what only a browser may say does not count there."""
    assert name.lower() not in command(f"/produce/T?{name}=x").headers
    assert name.lower() not in command(f"/produce/T?a=b&{name}=x").headers
    assert command(f"/produce/T?{name}=x", **{name.lower(): "real"}).headers[name.lower()] == "real"


def test_rest_of_a_later_url_is_kept() -> None:
    """Module, method and parameters of a call, or the name of a page's file."""
    assert command("/Lab/m/add/1/a%2Fb").path == ("m", "add", "1", "a/b")
    assert command("/page/a/b.htm").path == ("page", "a", "b.htm")
    assert command("/consume/T/g/x").path == ()


def test_no_topic_has_the_name_of_a_command() -> None:
    """In a path; by header or query it can be named."""
    for word in COMMANDS | PAGES:
        assert command(f"/{word}/T").name == word
    assert command("/produce/consume").topic == "consume"


def test_long_paths_are_not_remembered() -> None:
    """A client that asks for ever new ones does not fill the memory."""
    tracemalloc.start()
    for number in range(1000):
        command(f"/{number}{'x' * 10_000}/g")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size < 1_000_000


def test_same_path_is_read_again_for_each_request() -> None:
    """What is remembered of a path does not hold what one request has said."""
    first = command("/T/g?cmd=consume&tag=x")
    second = command("/T/g")

    assert (first.name, second.name, second.headers.get("tag")) == ("consume", "produce", None)
