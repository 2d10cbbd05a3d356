"""Pages in browsers: which of them may use the broker, and which may read its answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.fixtures import Site, open_site
from tests.support.processes import Processes, port_of
from tests.support.tokens import secret_of, write_tokens
from tests.support.web import Answer, Web, WebLab

APP = "https://app.example.org"
STRANGER = "https://evil.example"
CORS = "access-control-allow-origin"


@pytest.fixture
def lab(zbus_site: Site) -> WebLab:
    """Look at the shared broker, which lets no pages in but its own."""
    return WebLab(zbus_site.address)


@pytest.fixture
def queue(lab: WebLab, topic: str) -> str:
    """Return the name of a topic of the shared broker."""
    lab.declare(topic)
    return topic


@pytest.fixture(scope="module")
def open_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebLab]:
    """Run a broker that lets in one other origin."""
    with Processes(tmp_path_factory.mktemp("pages")) as processes:
        data = str(processes.directory / "data")
        site = open_site(processes, broker=("--allow-origin", APP, "--data-dir", data))
        yield WebLab(site.address)


@pytest.fixture
def open_queue(open_lab: WebLab, topic: str) -> str:
    """Return the name of a topic of that broker."""
    open_lab.declare(topic)
    return topic


def is_handshake_done(address: str, origin: str | None) -> bool:
    """Open a WebSocket as a page of an origin; say whether that was let in."""
    try:
        with connect(f"ws://{address}/", origin=origin, compression=None, proxy=None) as websocket:  # type: ignore[arg-type]
            websocket.send("GET / HTTP/1.1\r\ncmd: ping\r\n\r\n")
            return "OK" in str(websocket.recv())
    except InvalidStatus as refusal:
        if refusal.response.status_code != 403:
            raise
        return False


# -- a page of somebody else ---------------------------------------------------------------------------------

FOREIGN = [
    {"Origin": STRANGER},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": STRANGER, "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("line", ["GET /produce/{}?body=x", "POST /produce/{}", "GET /consume/{}", "GET /remove/{}"])
def test_page_of_somebody_else_changes_nothing(lab: WebLab, queue: str, line: str, headers: dict[str, str]) -> None:
    """A request that a browser sends for a foreign page is refused, and the text names the setting."""
    lab.produce(queue, "stays")

    answer = lab.ask(line.format(queue), **headers)

    assert answer.status == 403
    assert "--allow-origin" in answer.text
    assert CORS not in answer.headers
    assert lab.group(queue)["messageCount"] == 1


@pytest.mark.parametrize("name", ["origin", "Origin", "%6Frigin", "host", "sec-fetch-site"])
def test_page_cannot_say_by_a_url_who_it_is(lab: WebLab, queue: str, name: str) -> None:
    """What browsers say of a page stands in headers; a page can write any URL, so nothing of it counts there."""
    for value in (f"http://{lab.address}", lab.address, "same-origin"):
        answer = lab.ask(f"GET /produce/{queue}?body=x&{name}={value}", Host=lab.address, Sec_Fetch_Site="cross-site")
        assert answer.status == 403
    assert lab.group(queue)["messageCount"] == 0


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("line", ["GET /rpc/Lab/add/1/2", "POST /rpc/Lab", "POST /rpc/Lab/add", "POST /rpc/Lab/"])
def test_page_of_somebody_else_calls_nothing(lab: WebLab, line: str, headers: dict[str, str]) -> None:
    """Nor does it call a service, in whatever form; the answer is one of the gateway."""
    body = b'{"method":"add","params":[1,2]}' if line.startswith("POST") else b""

    answer = lab.ask(line, body, **headers)

    assert answer.status == 403
    assert answer.json["error"]["code"] == "PERMISSION_DENIED"


def test_page_of_somebody_else_reads_nothing(lab: WebLab, queue: str) -> None:
    """What changes nothing is answered, but without the headers that would let the page read it."""
    for line in (f"GET /query/{queue}", "GET /ping", "GET /", "GET /rpc", "GET /query/Nobody"):
        answer = lab.ask(line, Origin=STRANGER, Sec_Fetch_Site="cross-site")
        assert answer.status in {200, 404}
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_programs_and_own_pages_are_let_in(lab: WebLab, queue: str) -> None:
    """Programs send no origin; a page that the broker's own address has shown is no stranger."""
    port = port_of(lab.address)
    for host in ("127.0.0.1", "localhost", "[::1]"):
        own = {"Origin": f"http://{host}:{port}", "Host": f"{host}:{port}", "Sec-Fetch-Site": "same-origin"}
        assert lab.ask(f"POST /produce/{queue}", b"x", **own).status == 200
    assert lab.ask(f"POST /produce/{queue}", b"x", Sec_Fetch_Site="none").status == 200
    assert lab.ask(f"POST /produce/{queue}", b"x").status == 200
    assert lab.group(queue)["messageCount"] == 5


def test_websocket_of_somebody_else_is_not_opened(lab: WebLab) -> None:
    """A WebSocket could change things, and browsers let every page open one: the broker looks at the origin."""
    assert is_handshake_done(lab.address, None)
    assert is_handshake_done(lab.address, f"http://{lab.address}")
    assert not is_handshake_done(lab.address, STRANGER)
    assert not is_handshake_done(lab.address, "null")


@pytest.mark.parametrize("line", ["GET /query/{}", "GET /rpc", "GET /ping", "POST /produce/{}", "OPTIONS /ping"])
@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "same-origin"}], ids=str)
def test_name_that_was_pointed_here_is_refused(lab: WebLab, queue: str, line: str, headers: dict[str, str]) -> None:
    """A page whose own name was made to resolve to this machine is of the same origin, and is not let in for that."""
    host = f"evil.example:{port_of(lab.address)}"

    answer = lab.ask(line.format(queue), Host=host, **headers)

    assert answer.status == 403
    assert "evil.example" in answer.text
    assert lab.group(queue)["messageCount"] == 0


# -- a page that is let in -----------------------------------------------------------------------------------


def allowed(answer: Answer) -> bool:
    """Say whether the page of the app may read an answer, with its cookies."""
    return (
        answer.headers.get(CORS) == APP
        and answer.headers["access-control-allow-credentials"] == "true"
        and "origin" in answer.headers["vary"].lower()
    )


def test_page_that_is_let_in_reads_every_answer(open_lab: WebLab, open_queue: str) -> None:
    """Results, errors, refusals, polls in vain and the gateway: of each the page may see what happened."""
    page = {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
    answers = [
        open_lab.ask(line.format(open_queue), **page)
        for line in (
            "POST /produce/{}",
            "GET /consume/{}",
            "GET /consume/{}?timeout=0",
            "GET /consume/{}x",
            "GET /consume/{}?timeout=x",
            "HEAD /query/{}",
            "GET /rpc/Lab/add/1/2",
            "GET /rpc/Nobody/add",
            "GET /rpc",
        )
    ]

    assert [answer.status for answer in answers] == [200, 200, 204, 404, 400, 200, 200, 503, 200]
    assert all(allowed(answer) for answer in answers)


def test_page_that_is_let_in_follows_a_stream(open_lab: WebLab, open_queue: str) -> None:
    """The head of a stream of events lets the page read it."""
    open_lab.produce(open_queue, "x")
    with Web(open_lab.address) as web:
        web.send(f"GET /consume/{open_queue}", Origin=APP, Accept="text/event-stream")
        assert f"{CORS}: {APP}\r\n".encode() in web.receive_head()
        assert web.receive_event()["data"] == "x"


def test_page_that_is_let_in_opens_a_websocket(open_lab: WebLab) -> None:
    """And no other."""
    assert is_handshake_done(open_lab.address, APP)
    assert is_handshake_done(open_lab.address, APP.upper())
    assert not is_handshake_done(open_lab.address, STRANGER)
    assert not is_handshake_done(open_lab.address, APP + ":8443")


def test_headers_of_one_answer_do_not_stick_to_the_next(open_lab: WebLab) -> None:
    """What a page may read is decided for each request of a connection."""
    with Web(open_lab.address) as web:
        assert allowed(web.ask("GET /ping", Origin=APP))
        assert CORS not in web.ask("GET /ping", Origin=STRANGER).headers
        assert CORS not in web.ask("GET /ping").headers
        assert allowed(web.ask("GET /rpc", Origin=APP))
        assert CORS not in web.ask("GET /rpc").headers


# -- what browsers ask before --------------------------------------------------------------------------------

QUESTION = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,meta-x"}


@pytest.mark.parametrize("path", ["/produce/T", "/rpc/Lab", "/consume/T/g?timeout=1", "/"])
def test_preflight_of_an_allowed_origin(open_lab: WebLab, path: str) -> None:
    """The answer allows what was asked for, and the request itself is not carried out."""
    answer = open_lab.ask(f"OPTIONS {path}", Origin=APP, **QUESTION)

    assert (answer.status, answer.body) == (204, b"")
    assert allowed(answer)
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert answer.headers["access-control-allow-headers"] == "content-type,meta-x"
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "access-control-allow-private-network" not in answer.headers
    question = {**QUESTION, "Access-Control-Request-Private-Network": "true"}
    private = open_lab.ask(f"OPTIONS {path}", Origin=APP, **question)
    assert private.headers["access-control-allow-private-network"] == "true"


def test_preflight_of_another_origin_allows_nothing(open_lab: WebLab) -> None:
    """A browser that gets no permission does not send the request."""
    answer = open_lab.ask("OPTIONS /produce/T", Origin=STRANGER, **QUESTION)

    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_options_without_a_question_tells_the_methods(open_lab: WebLab) -> None:
    """A program that asks is told."""
    for target in ("/produce/T", "/rpc/Lab/add", "*"):
        answer = open_lab.ask(f"OPTIONS {target}")
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")


def test_lines_cannot_be_put_into_an_answer(open_lab: WebLab) -> None:
    """What a preflight repeats is one line."""
    question = {**QUESTION, "Access-Control-Request-Headers": "x\u0085y: z"}

    answer = open_lab.ask("OPTIONS /produce/T", Origin=APP, **question)

    assert answer.headers["access-control-allow-headers"] == "x y: z"


# -- every page ----------------------------------------------------------------------------------------------


def test_any_page_may_be_let_in(processes: Processes, tmp_path: Path) -> None:
    """With * every page reads and writes, without the cookies of whoever looks at it."""
    _, address = processes.broker("--allow-origin", "*", "--data-dir", str(tmp_path / "data"))
    lab = WebLab(address)
    lab.declare("T")

    answer = lab.ask("POST /produce/T", b"x", Origin=STRANGER, Sec_Fetch_Site="cross-site")
    question = lab.ask("OPTIONS /produce/T", Origin=STRANGER, **QUESTION)

    assert (answer.status, answer.headers[CORS], question.headers[CORS]) == (200, "*", "*")
    assert "access-control-allow-credentials" not in answer.headers | question.headers
    assert is_handshake_done(address, STRANGER)


def test_any_page_with_tokens_needs_one_of_its_own(processes: Processes, tmp_path: Path) -> None:
    """Where tokens count a page shows its own; the cookie that the browser has is not for every page."""
    rules = [{"operations": ["admin"], "topics": ["*"]}]
    tokens = write_tokens(tmp_path / "tokens.toml", {"page": rules})
    data = ("--tokens", str(tokens), "--data-dir", str(tmp_path / "data"))
    _, address = processes.broker("--allow-origin", "*", *data)
    lab, page = WebLab(address), {"Origin": STRANGER, "Sec-Fetch-Site": "cross-site"}
    secret = secret_of("page")

    assert lab.ask("GET /declare/T", Token=secret).status == 200
    assert lab.ask("POST /produce/T", b"x", Token=secret, **page).status == 200
    assert lab.ask("POST /produce/T", b"x", Authorization=f"Bearer {secret}", **page).status == 200
    assert lab.ask("POST /produce/T", b"x", Cookie=f"token={secret}", **page).status == 403
    assert lab.ask("POST /produce/T", b"x", Cookie=f"token={secret}").status == 200
    assert lab.ask("POST /produce/T", b"x", **page).status == 403
    assert lab.ask("POST /produce/T", b"x", Token="wrong", **page).status == 401
    assert lab.ask("OPTIONS /produce/T", **page, **QUESTION).status == 204  # browsers ask without any token
