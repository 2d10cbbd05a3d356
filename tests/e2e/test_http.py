"""Calls over HTTP/1.1, on the same port: every form of request, every kind of answer."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fixtures import Site, open_site
from tests.support.native import dial, read_to_end, statistics
from tests.support.processes import Processes, port_of
from tests.support.waiting import WAIT_S, wait_until

JSON = {"Content-Type": "application/json"}
CODES = {
    "CANCELED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


class Http:
    """A client with one connection that is kept alive."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port_of(address), timeout=WAIT_S)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return status and body of a response, which must be JSON if there is any."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self.connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        self.response = self.connection.getresponse()
        text = self.response.read()
        if text:
            assert self.response.headers["Content-Type"] == "application/json"
        return self.response.status, json.loads(text) if text else None

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Send a GET."""
        return self.send("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Send a POST."""
        return self.send("POST", path, body, **headers)


@pytest.fixture
def http_client(shared_site: Site) -> Iterator[Http]:
    """Connect to the shared broker."""
    client = Http(shared_site.address)
    yield client
    client.connection.close()


# -- forms of requests ---------------------------------------------------------------------------------------


def test_path_parameters_become_the_types_of_the_method(http_client: Http) -> None:
    """GET with values in the path converts each by the method's types; a string may look like a number."""
    assert http_client.get("/rpc/Lab/add/1/-2") == (200, {"result": -1})
    assert http_client.get("/rpc/Lab/length/12345") == (200, {"result": 5})


def test_query_parameters_go_by_name(http_client: Http) -> None:
    """GET with a query passes parameters by name."""
    assert http_client.get("/rpc/Lab/add?a=1&b=2") == (200, {"result": 3})
    assert http_client.get("/rpc/Lab/add?a=1") == (200, {"result": 11})


def test_path_is_percent_decoded(http_client: Http) -> None:
    """Escapes in path and query are decoded after they were parted: a slash or ampersand in a value stays in it."""
    assert http_client.get("/rpc/Lab/any_value/a%2Fb%20%C3%BC") == (200, {"result": "a/b \u00fc"})
    assert http_client.get("/rpc/Lab/any_value?value=a%26b+c") == (200, {"result": "a&b c"})


def test_json_in_the_path_makes_models(http_client: Http) -> None:
    """A value that has to be more than a string may be written as JSON."""
    parcel = (
        '{"id":"12345678-1234-5678-1234-567812345678","weight":"1","sent":"2024-01-01T00:00:00Z",'
        '"color":"red","seal":"AAE="}'
    )

    status, body = http_client.get("/rpc/Lab/repaint?" + "parcel=" + parcel.replace('"', "%22"))

    assert (status, body["result"]["color"], body["result"]["seal"]) == (200, "blue", "AAE=")


def test_post_takes_the_envelope(http_client: Http) -> None:
    """POST to a service takes the envelope, with parameters by position or by name."""
    assert http_client.post("/rpc/Lab", {"method": "add", "params": [1, 2]}) == (200, {"result": 3})
    assert http_client.post("/rpc/Lab", {"method": "add", "params": {"a": 1}}) == (200, {"result": 11})
    assert http_client.post("/rpc/Lab", {"module": "Lab", "method": "subtract", "params": [1, 2]})[1] == {"result": -1}


def test_post_to_a_method_takes_the_parameters_alone(http_client: Http) -> None:
    """POST to a method takes a JSON list or object of parameters, or nothing."""
    assert http_client.post("/rpc/Lab/add", [1, 2]) == (200, {"result": 3})
    assert http_client.post("/rpc/Lab/add", {"a": 1, "b": 5}) == (200, {"result": 6})
    assert http_client.post("/rpc/Lab/metadata", b"", Meta_Tenant="x") == (200, {"result": {"tenant": "x"}})


def test_chunked_body_is_taken(shared_site: Site, http_client: Http) -> None:
    """A body may come in chunks, without its length."""

    def chunks() -> Iterator[bytes]:
        yield b'{"method":"add",'
        yield b'"params":[1,2]}'

    http_client.connection.request("POST", "/rpc/Lab", chunks(), JSON, encode_chunked=True)
    response = http_client.connection.getresponse()

    assert json.loads(response.read()) == {"result": 3}


def test_listing_says_what_runs(shared_site: Site, http_client: Http) -> None:
    """GET /rpc lists services with their instances; GET /rpc/Lab one of them."""
    status, body = http_client.get("/rpc")
    _, one = http_client.get("/rpc/Lab")

    (lab,) = [service for service in body["result"] if service["service"] == "Lab"]
    assert status == 200
    assert one["result"][0]["service"] == "Lab"
    assert "add" in lab["instances"][0]["methods"]
    assert lab["instances"][0]["version"] == "7"
    assert http_client.get("/rpc/Nobody")[0] == 404


# -- JSON-RPC 2.0 --------------------------------------------------------------------------------------------


def rpc(number: Any, method: str, params: Any) -> dict[str, Any]:
    """Return a JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def test_jsonrpc_single(http_client: Http) -> None:
    """A JSON-RPC request is answered in JSON-RPC, with its id, result or error."""
    assert http_client.post("/rpc/Lab", rpc("x", "add", [1, 2])) == (200, {"jsonrpc": "2.0", "result": 3, "id": "x"})
    assert http_client.post("/rpc/Lab", rpc(7, "add", {"a": 1}))[1]["result"] == 11


@pytest.mark.parametrize(
    ("service", "method", "params", "number"),
    [
        ("Lab", "nothing", [], -32601),
        ("Lab", "add", ["x"], -32602),
        ("Lab", "explode", ["x"], -32603),
        ("Lab", "refuse", ["NOT_FOUND"], -32000),
        ("Nobody", "add", [1], -32000),
    ],
)
def test_jsonrpc_errors_have_their_numbers(
    http_client: Http, service: str, method: str, params: list[Any], number: int
) -> None:
    """Errors of service and broker alike come as JSON-RPC errors, with our code in their data."""
    status, body = http_client.post(f"/rpc/{service}", rpc(1, method, params))

    assert (status, body["jsonrpc"], body["id"]) == (200, "2.0", 1)
    assert body["error"]["code"] == number
    assert body["error"]["data"]["code"] in CODES


def test_jsonrpc_parse_error_has_no_id(http_client: Http) -> None:
    """A body that is no JSON is answered with -32700 and the id null."""
    status, body = http_client.post("/rpc/Lab", b'{"jsonrpc": "2.0", "id": 1, "method"')

    assert (status, body["error"]["code"], body["id"]) == (200, -32700, None)


def test_jsonrpc_notification_has_no_answer(shared_site: Site, http_client: Http) -> None:
    """A request without id is run and answered with 204 and no body."""
    notification = {"jsonrpc": "2.0", "method": "work", "params": ["notified", 0]}

    assert http_client.post("/rpc/Lab", notification) == (204, None)
    assert http_client.get("/rpc/Lab/add/1/2") == (200, {"result": 3})
    wait_until(lambda: "finished" in shared_site.processes.marks("notified"), "run")


def test_jsonrpc_batch_is_answered_in_order(http_client: Http) -> None:
    """A batch gives a list: each request's answer in its place, wrong ones too, none for notifications."""
    batch = [
        rpc(1, "work", ["slow", 0.1]),
        rpc(2, "add", [1, 2]),
        {"jsonrpc": "2.0", "method": "add", "params": [1, 2]},
        "nonsense",
        {"foo": "boo"},
        rpc(3, "nothing", []),
    ]

    status, body = http_client.post("/rpc/Lab", batch)

    assert status == 200
    assert [answer["id"] for answer in body] == [1, 2, None, None, 3]
    assert body[1]["result"] == 3
    assert [answer["error"]["code"] for answer in body[2:]] == [-32600, -32600, -32601]


def test_jsonrpc_batch_of_notifications_has_no_answer(http_client: Http) -> None:
    """A batch of notifications alone is answered with 204."""
    assert http_client.post("/rpc/Lab", [{"jsonrpc": "2.0", "method": "add", "params": [1]}] * 3) == (204, None)


@pytest.mark.parametrize("batch", [[], [1, 2]])
def test_jsonrpc_empty_or_invalid_batch(http_client: Http, batch: list[Any]) -> None:
    """An empty batch is one error, a batch of rubbish a list of them."""
    status, body = http_client.post("/rpc/Lab", batch)

    errors = body if batch else [body]
    assert status == 200
    assert [error["error"]["code"] for error in errors] == [-32600] * max(1, len(batch))


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "status"), CODES.items())
def test_status_of_each_code(http_client: Http, code: str, status: int) -> None:
    """Each code has its status, and a JSON body with code, message and details."""
    error = {"code": code, "message": "as was asked", "details": {"why": "a test"}}

    assert http_client.get(f"/rpc/Lab/refuse/{code}") == (status, {"error": error})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/rpc/Nobody/add/1", None, 503, "UNAVAILABLE"),
        ("GET", "/rpc/Lab/nothing", None, 501, "UNIMPLEMENTED"),
        ("GET", "/rpc/Lab/add/x", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/rpc/Lab/add/1/2/3", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/rpc/Lab/add/1?a=2", None, 400, "INVALID_ARGUMENT"),
        ("POST", "/rpc", b"{}", 404, "NOT_FOUND"),
        ("POST", "/rpc/Lab", b"", 400, "INVALID_ARGUMENT"),
        ("POST", "/rpc/Lab", b"{", 400, "INVALID_ARGUMENT"),
        ("POST", "/rpc/Lab", b"\xff\xfe", 400, "INVALID_ARGUMENT"),
        ("POST", "/rpc/Lab", b"17", 400, "INVALID_ARGUMENT"),
        ("POST", "/rpc/Lab/add", b"17", 400, "INVALID_ARGUMENT"),
        ("POST", "/rpc/Lab", b'{"method": "add", "params": 1}', 400, "INVALID_ARGUMENT"),
        ("POST", "/rpc/Lab", b'{"module": "Other", "method": "add"}', 400, "INVALID_ARGUMENT"),
        ("GET", "/rpc/Lab/lie", None, 500, "INTERNAL"),
        ("GET", "/rpc/" + "x" * 300 + "/add", None, 400, "INVALID_ARGUMENT"),
    ],
)
def test_mistakes_are_answered_in_json(
    http_client: Http, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    """Every mistake has its status and a JSON body, and the connection goes on."""
    answered, error = http_client.send(method, path, body)

    assert (answered, error["error"]["code"]) == (status, code)
    assert error["error"]["message"]
    assert http_client.get("/rpc/Lab/add/1/2") == (200, {"result": 3})


def test_deeply_nested_json_is_refused(http_client: Http) -> None:
    """JSON that is nested without end is refused, and hurts neither broker nor service."""
    for path in ("/rpc/Lab", "/rpc/Lab/any_value"):
        status, body = http_client.post(path, b"[" * 100_000)

        assert status in {200, 400}
        assert "error" in body
    assert http_client.get("/rpc/Lab/add/1/2") == (200, {"result": 3})


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
def test_other_methods_are_not_allowed(http_client: Http, method: str) -> None:
    """Methods besides GET and POST are answered with 405, and what is allowed."""
    status, _ = http_client.send(method, "/rpc/Lab/add/1/2")

    assert status == 405
    assert http_client.response.headers["Allow"] == "GET, POST"


def test_pages_of_other_sites_may_not_call(http_client: Http) -> None:
    """A request that a browser sends for another site's page is refused."""
    assert http_client.get("/rpc/Lab/add/1/2", Sec_Fetch_Site="cross-site")[0] == 403
    assert http_client.get("/rpc/Lab/add/1/2", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize("value", ["0", "-1", "soon", "99999999999999"])
def test_unusable_timeout_is_refused(http_client: Http, value: str) -> None:
    """A Timeout-Ms that is no time is refused instead of ignored."""
    assert http_client.get("/rpc/Lab/add/1/2", Timeout_Ms=value)[0] == 400


def test_full_queue_asks_to_retry_later(processes: Processes) -> None:
    """A full queue is 429 with Retry-After in seconds."""
    site = open_site(processes, "--concurrency", "1", broker=("--queue-calls-max", "1"))
    waiting = [Http(site.address), Http(site.address)]
    waiting[0].connection.request("GET", "/rpc/Lab/work/running/60")
    wait_until(lambda: site.processes.marks("running"), "start")
    waiting[1].connection.request("GET", "/rpc/Lab/work/waiting/60")
    wait_until(lambda: statistics(site.address)["queued"] == 1, "call in the queue")
    client = Http(site.address)

    status, body = client.get("/rpc/Lab/add/1/2")

    assert (status, body["error"]["code"]) == (429, "RESOURCE_EXHAUSTED")
    assert client.response.headers["Retry-After"] == "1"
    for peer in (*waiting, client):
        peer.connection.close()


def test_too_large_body_is_refused_by_its_length(processes: Processes) -> None:
    """A body over the limit is 413 as soon as its length is known, and the connection is closed."""
    site = open_site(processes, broker=("--message-bytes-max", "2048"))
    with dial(site.address) as connection:
        connection.sendall(b"POST /rpc/Lab HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n")
        answer = read_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"999999999999 bytes exceeds the limit of 2048 bytes" in answer
    with dial(site.address) as connection:
        connection.sendall(b"GET /rpc/Lab/add/1/2 HTTP/1.0\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


# -- the connection ------------------------------------------------------------------------------------------


def test_connection_is_kept_alive(shared_site: Site, http_client: Http) -> None:
    """Many requests go over one connection, which is one session at the broker."""
    http_client.get("/rpc/Lab/add/1/2")
    first = http_client.connection.sock
    before = statistics(shared_site.address)["sessions"]

    answers = [http_client.get(f"/rpc/Lab/add/{number}/1")[1]["result"] for number in range(20)]

    assert answers == list(range(1, 21))
    assert http_client.connection.sock is first
    assert statistics(shared_site.address)["sessions"] == before


@pytest.mark.parametrize("head", [b"HTTP/1.0\r\n\r\n", b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
def test_connection_closes_when_asked(shared_site: Site, head: bytes) -> None:
    """HTTP/1.0 and Connection: close end the connection after the answer."""
    with dial(shared_site.address) as connection:
        connection.sendall(b"GET /rpc/Lab/add/1/2 " + head)
        answer = read_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in answer
    assert answer.endswith(b'{"result":3}')


def test_pipelined_requests_are_answered_in_order(shared_site: Site) -> None:
    """Requests that come without waiting run at once and are answered in their order, however long each takes."""
    paths = ["work/piped/0.2", *[f"add/{number}/0" for number in range(30)]]
    with dial(shared_site.address) as connection:
        connection.sendall(b"".join(b"GET /rpc/Lab/%b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() for path in paths))
        connection.sendall(b"GET /rpc HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = read_to_end(connection)

    bodies = [json.loads(part.partition(b"\r\n\r\n")[2])["result"] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies[1:-1] == list(range(30))
    assert bodies[-1][0]["service"] == "Lab"


def test_long_pipeline_is_answered_completely(shared_site: Site) -> None:
    """More requests than may wait at once are read as the earlier ones are answered."""
    request = b"GET /rpc/Lab/add/1/2 HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /rpc/Lab/add/1/2 HTTP/1.1\r\nConnection: close\r\n\r\n"
    with dial(shared_site.address) as connection:
        connection.sendall(request * 1999 + last)
        answer = read_to_end(connection)

    assert answer.count(b'{"result":3}') == 2000


def test_pipeline_that_is_cut_hurts_nobody(shared_site: Site, http_client: Http) -> None:
    """A peer that sends many requests and hangs up leaves nothing behind."""
    before = statistics(shared_site.address)["sessions"]
    for _ in range(5):
        with dial(shared_site.address) as connection:
            connection.sendall(b"GET /rpc/Lab/work/cut/60 HTTP/1.1\r\nHost: x\r\n\r\n" * 200)

    wait_until(lambda: statistics(shared_site.address)["in_flight"] == 0, "cancelled calls")
    wait_until(lambda: statistics(shared_site.address)["sessions"] == before, "closed sessions")
    assert http_client.get("/rpc/Lab/add/1/2") == (200, {"result": 3})


def test_request_in_single_bytes_is_understood(shared_site: Site) -> None:
    """However a request is cut into blocks, it is the same request."""
    with dial(shared_site.address) as connection:
        for byte in b"GET /rpc/Lab/add/1/2 HTTP/1.1\r\nConnection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
        answer = read_to_end(connection)

    assert answer.endswith(b'{"result":3}')


def test_expect_continue_is_answered(shared_site: Site) -> None:
    """A peer that waits for "100 Continue" before its body gets it."""
    with dial(shared_site.address) as connection:
        connection.sendall(
            b"POST /rpc/Lab HTTP/1.1\r\nHost: x\r\nContent-Length: 31\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"method":"add","params":[1,2]}')
        answer = read_to_end(connection)

    assert answer.endswith(b'{"result":3}')


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET\r\n\r\n",
        b"GARBAGE GARBAGE GARBAGE\r\n\r\n",
        b"GET /rpc HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /rpc/Lab HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /rpc/Lab HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nrest",
        b"A" * 100_000,
    ],
)
def test_rubbish_is_answered_and_closed(shared_site: Site, http_client: Http, rubbish: bytes) -> None:
    """What is no HTTP gets a 4xx that says why and a closed connection; others notice nothing."""
    with dial(shared_site.address) as connection:
        connection.sendall(rubbish)
        answer = read_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 4")
    assert b"\r\n\r\n" in answer.strip(), "it says why"
    assert http_client.get("/rpc/Lab/add/1/2") == (200, {"result": 3})
