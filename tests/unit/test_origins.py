"""Origins: which requests of browsers may change something, and which pages may read the answer."""

import pytest

from zbusrpc.broker.dialects.http.origins import Origins

APP = "https://app.example.org"
LOCAL = Origins(bound_host="127.0.0.1")


@pytest.mark.parametrize(
    ("headers", "may_write"),
    [
        ({}, True),
        ({"host": "anything.example"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "Cross-Site"}, False),
        ({"origin": "http://localhost:15555", "host": "localhost:15555"}, True),
        ({"origin": "http://LOCALHOST:15555", "host": "localhost:15555"}, True),
        ({"origin": "http://page.localhost:15555", "host": "page.localhost:15555"}, True),
        ({"origin": "http://127.0.0.1:15555", "host": "127.0.0.1:15555"}, True),
        ({"origin": "http://[::1]:15555", "host": "[::1]:15555"}, True),
        ({"origin": "http://192.168.0.7:15555", "host": "192.168.0.7:15555"}, True),
        ({"origin": "http://localhost:8000", "host": "localhost:15555"}, False),
        ({"origin": "http://evil.example", "host": "localhost:15555"}, False),
        ({"origin": "http://evil.example:15555", "host": "evil.example:15555"}, False),
        ({"origin": "http://localhost.evil.example", "host": "localhost.evil.example"}, False),
        ({"origin": "http://127.0.0.1.evil.example", "host": "127.0.0.1.evil.example"}, False),
        ({"origin": "http://localhost:15555"}, False),
        ({"origin": "null", "host": "localhost:15555"}, False),
        ({"origin": "null", "host": "null"}, False),
        ({"origin": "file://", "host": ""}, False),
        ({"origin": "chrome-extension://localhost", "host": "localhost"}, False),
        ({"origin": "http://[", "host": "["}, False),
    ],
)
def test_page_of_another_origin_may_not_write(headers: dict[str, str], may_write: bool) -> None:
    """Programs and the broker's own pages may; other pages, and own ones under a name that may be false, may not."""
    assert LOCAL.may_write(headers) is may_write


def test_bound_host_is_a_name_of_the_broker() -> None:
    """What the broker was told to listen on is its name."""
    headers = {"origin": "http://bus.example.org:15555", "host": "bus.example.org:15555"}

    assert Origins(bound_host="Bus.example.org").may_write(headers)
    assert not LOCAL.may_write(headers)


def test_name_does_not_count_where_tokens_are_asked_for() -> None:
    """A page that had its name resolve to the broker has no token, so any name will do."""
    headers = {"origin": "https://bus.example.org", "host": "bus.example.org"}

    assert Origins(bound_host="0.0.0.0", has_tokens=True).may_write(headers)


def test_allowed_origin_may_write_and_read() -> None:
    """An origin that was named may do both, with its cookies, whatever the case of its letters."""
    origins = Origins((APP.upper(),), "127.0.0.1")

    assert origins.may_write({"origin": APP, "host": "localhost:15555", "sec-fetch-site": "cross-site"})
    assert origins.cors_headers({"origin": APP}) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "vary": "origin",
    }
    assert origins.cors_headers({"origin": "https://app.example.org.evil"}) == {}
    assert origins.cors_headers({}) == {}


def test_nothing_may_be_read_where_nothing_is_configured() -> None:
    """Without a word of configuration there are no CORS headers at all."""
    assert LOCAL.cors_headers({"origin": "http://localhost:15555"}) == {}
    assert LOCAL.preflight({"origin": APP, "access-control-request-method": "POST"}) is None


def test_any_origin_gets_no_credentials() -> None:
    """With * every page may write and read, but not with the cookies of whoever looks at it."""
    origins = Origins(("*",), "127.0.0.1", has_tokens=True)

    assert origins.may_write({"origin": "https://x.example", "host": "localhost"})
    assert not origins.may_write({"origin": "https://x.example", "host": "localhost", "cookie": "token=1"})
    assert origins.cors_headers({"origin": "https://x.example"}) == {"access-control-allow-origin": "*"}


def test_preflight_allows_what_is_asked() -> None:
    """The question of an allowed origin is answered with methods, its headers and how long that holds."""
    asked = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,token",
        "access-control-request-private-network": "true",
    }

    answer = Origins((APP,)).preflight(asked)

    assert answer is not None
    assert answer["access-control-allow-origin"] == APP
    assert answer["access-control-allow-methods"] == "GET, POST"
    assert answer["access-control-allow-headers"] == "content-type,token"
    assert answer["access-control-allow-private-network"] == "true"
    assert int(answer["access-control-max-age"]) > 0


def test_what_is_no_preflight_is_not_answered_as_one() -> None:
    """A mere OPTIONS, and one of an origin that may not, are none."""
    origins = Origins((APP,))

    assert origins.preflight({"origin": APP}) is None
    assert origins.preflight({"origin": "https://evil.example", "access-control-request-method": "POST"}) is None
    assert origins.preflight({"access-control-request-method": "POST"}) is None


@pytest.mark.parametrize(
    ("host", "is_rebound"),
    [
        ("", False),
        ("localhost:15555", False),
        ("127.0.0.1", False),
        ("[::1]:15555", False),
        ("10.0.0.7:15555", False),
        ("evil.example:15555", True),
        ("localhost.evil.example", True),
        ("[", True),
    ],
)
def test_foreign_name_of_the_broker_is_noticed(host: str, is_rebound: bool) -> None:
    """A request to the broker under a name that anybody may have pointed here is told from others."""
    assert LOCAL.is_rebound({"host": host} if host else {}) is is_rebound
    assert not Origins(has_tokens=True).is_rebound({"host": host})


@pytest.mark.parametrize(
    ("allowed", "origin", "is_allowed"),
    [
        ("http://127.0.0.1:*", "http://127.0.0.1:8000", True),
        ("http://127.0.0.1:*", "http://127.0.0.1", True),
        ("http://127.0.0.1:*", "https://127.0.0.1:8000", False),
        ("http://127.0.0.1:*", "http://127.0.0.11:8000", False),
        ("http://127.0.0.1:*", "http://127.0.0.1:8000.evil.example", False),
        ("http://[::1]:*", "http://[::1]:8000", True),
        ("https://*.example.org", "https://a.example.org", True),
        ("https://*.example.org", "https://a.b.example.org", True),
        ("https://*.example.org", "https://example.org", False),
        ("https://*.example.org", "https://a.example.org:8443", False),
        ("https://*.example.org", "https://evil.example/.example.org", False),
        ("https://*.example.org", "https://evilexample.org", False),
        ("https://*.example.org", "https://a.exampleXorg", False),
        ("https://*.example.org:*", "https://a.example.org:8443", True),
        ("https://*.example.org", "null", False),
    ],
)
def test_star_stands_for_ports_or_names(allowed: str, origin: str, is_allowed: bool) -> None:
    """What is allowed may write and read; nothing that only looks like it may."""
    origins = Origins(("https://other.example", allowed), "127.0.0.1")

    assert origins.may_write({"origin": origin, "host": "localhost:15555"}) is is_allowed
    assert ("access-control-allow-origin" in origins.cors_headers({"origin": origin})) is is_allowed


@pytest.mark.parametrize(
    ("host", "is_rebound"),
    [
        ("mq.example.org", False),
        ("MQ.example.org:8443", False),
        ("a.example.net", False),
        ("example.net", True),
        ("mq.example.org.evil.example", True),
        ("evil.example", True),
    ],
)
def test_name_of_an_allowed_origin_is_trusted(host: str, is_rebound: bool) -> None:
    """A proxy passes on what it is called; pages of that name are let in, so it is in nobody else's hands."""
    origins = Origins(("https://mq.example.org", "https://*.example.net"), "127.0.0.1")

    assert origins.is_rebound({"host": host}) is is_rebound
    assert not origins.may_write({"origin": f"http://{host.lower()}", "host": host})
