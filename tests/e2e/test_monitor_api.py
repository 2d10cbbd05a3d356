"""The monitor's API with real brokers: every request, rights, origins, live pushes, figures for Prometheus, `top`."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.fixtures import Site
from tests.support.processes import Processes, port_of
from tests.support.tokens import Rules, secret_of, write_tokens
from tests.support.waiting import WAIT_S, wait_until
from tests.support.web import Answer, WebLab
from zbusrpc import Consumer

TOKENS: Final[dict[str, Rules]] = {
    "ops": [{"operations": ["admin"], "topics": ["*"]}],
    "viewer": [{"operations": ["query", "server"], "topics": ["open.*"]}],
    "sender": [{"operations": ["produce"], "topics": ["open.*"]}],
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebLab]:
    """Run a broker with tokens, which has topics `open.a` and `closed`, for tests that leave them as they are."""
    directory = tmp_path_factory.mktemp("guarded")
    tokens = write_tokens(directory / "tokens.toml", TOKENS)
    with Processes(directory) as started:
        _, address = started.broker("--tokens", str(tokens), "--data-dir", str(directory / "data"))
        lab = WebLab(address)
        for topic in ("open.a", "closed"):
            assert lab.ask(f"POST /api/topics/{topic}/declare", **shown("ops")).status == 200
        yield lab


def shown(token: str) -> dict[str, str]:
    """Return the headers that show a token."""
    return {"Token": secret_of(token)}


def result(answer: Answer) -> Any:
    """Return the result of an answer that must hold one."""
    assert answer.status == 200, answer
    return answer.json["result"]


def post(lab: WebLab, path: str, **body: Any) -> Any:
    """Change something, and return the result."""
    return result(lab.ask(f"POST {path}", orjson.dumps(body) if body else b""))


class Viewer:
    """A page's WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def ask(self, line: str, body: str = "", **headers: str) -> tuple[int, Any]:
        """Send a request, and return status and answer; pushes that come before it are dropped."""
        fields = {"id": "7", "content-length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._socket.send(f"{line} HTTP/1.1\r\n{lines}\r\n{body}")
        while True:
            head, answer = self._receive()
            if "\r\nid: 7\r\n" in head:
                return int(head.split(" ")[1]), answer

    def push(self) -> Any:
        """Return the next push."""
        head, push = self._receive()
        assert "\r\ncmd: live\r\n" in head
        return push

    def push_until(self, condition: str) -> Any:
        """Return the first push that says something, such as `changed.topics.T`."""
        how, kind, name = condition.split(".", 2)
        while True:
            rows = self.push()[how][kind]
            for row in rows:
                if name in (row if isinstance(row, str | list) else row.values()):
                    return row

    def _receive(self) -> tuple[str, Any]:
        head, _, body = str(self._socket.recv(timeout=WAIT_S, decode=True)).partition("\r\n\r\n")
        return f"{head}\r\n", orjson.loads(body) if body else None


@contextmanager
def viewer_of(address: str, **headers: str) -> Iterator[Viewer]:
    """Open a WebSocket."""
    with connect(f"ws://{address}/", additional_headers=headers, proxy=None) as socket:
        yield Viewer(socket)


# -- looking and changing ------------------------------------------------------------------------------------


def test_topics_and_groups_are_made_changed_and_removed(web_lab: WebLab, topic: str) -> None:
    """Each request does what the command of the same name does, and is seen at once."""
    made = post(web_lab, f"/api/topics/{topic}/declare", durability="os")
    post(web_lab, f"/api/topics/{topic}/groups/g/declare", start="oldest", filter="a.*")
    web_lab.produce(topic, "one", "two", "three")
    post(web_lab, f"/api/topics/{topic}/groups/g/pause")
    moved = post(web_lab, f"/api/topics/{topic}/groups/g/seek", start="offset:2")
    shown = result(web_lab.ask(f"GET /api/topics/{topic}"))
    post(web_lab, f"/api/topics/{topic}/groups/g/resume")
    passed = post(web_lab, f"/api/topics/{topic}/groups/g/empty")
    post(web_lab, f"/api/topics/{topic}/groups/g/remove")
    emptied = post(web_lab, f"/api/topics/{topic}/empty")
    listed = [row for row in result(web_lab.ask("GET /api/topics")) if row["topic"] == topic]
    post(web_lab, f"/api/topics/{topic}/remove")

    assert (made["created"], made["options"]["durability"]) == (True, "os")
    assert moved == {"offset": 2, "passed": 2, "delayed": 0}
    assert shown["messages"] == 3
    (group,) = shown["groups"]
    assert (group["lag"], group["position"], group["paused"], group["filter"]) == (1, 2, True, "a.*")
    assert group["oldest_unacked_ms"] > 0
    assert passed == {"removed": 1}
    assert emptied == {"removed": 3}
    assert [(row["group_count"], row["messages"]) for row in listed] == [(0, 0)]
    gone = web_lab.ask(f"GET /api/topics/{topic}")
    assert (gone.status, gone.json["error"]["code"]) == (404, "NOT_FOUND")


def test_messages_are_shown_page_by_page(web_lab: WebLab, queue: str) -> None:
    """From where one wants, as many as one wants, and only those with some tags."""
    web_lab.produce(queue, "zero", "one", "two")
    web_lab.ask(f"GET /produce/{queue}?body=three&tag=eu.new")

    page = result(web_lab.ask(f"GET /api/topics/{queue}/messages?start=offset:1&count=2"))
    tagged = result(web_lab.ask(f"GET /api/topics/{queue}/messages?filter=eu.*"))
    wrong = web_lab.ask(f"GET /api/topics/{queue}/messages?start=somewhere:1")

    assert [message["body"] for message in page["messages"]] == ["one", "two"]
    assert (page["next_offset"], page["end_offset"]) == (3, 4)
    assert [message["body"] for message in tagged["messages"]] == ["three"]
    assert wrong.status == 400
    assert wrong.json["error"]["message"].startswith("start = 'somewhere:1': write oldest, newest, offset:N")


@pytest.mark.anyio
@pytest.mark.usefixtures("links")
async def test_dead_letters_are_shown_given_back_and_forgotten(zbus_site: Site, web_lab: WebLab, topic: str) -> None:
    """What was rejected waits with its reason; a retry gives it back, a purge forgets it."""
    post(web_lab, f"/api/topics/{topic}/declare")
    post(web_lab, f"/api/topics/{topic}/groups/g/declare")
    web_lab.produce(topic, "bad", "worse")
    async with Consumer(topic, group="g", broker=zbus_site.address) as consumer, asyncio.timeout(WAIT_S):
        async for message in consumer:
            await message.reject("cannot read it")
            if message.body == b"worse":
                break
    path = f"/api/topics/{topic}"
    await asyncio.to_thread(
        wait_until, lambda: result(web_lab.ask(f"GET {path}"))["dead_letters"] == 2, "two dead letters"
    )

    letters = result(web_lab.ask(f"GET {path}/dead-letters?count=5"))["messages"]
    retried = post(web_lab, f"{path}/dead-letters/retry", offsets=[0])
    purged = post(web_lab, f"{path}/dead-letters/purge")

    assert [letter["headers"]["dead-reason"] for letter in letters] == ["cannot read it"] * 2
    assert (retried["retried"], retried["left"]) == (1, [])
    assert purged == {"purged": 1}
    after = result(web_lab.ask(f"GET {path}"))
    assert (after["dead_letters"], after["groups"][0]["lag"]) == (0, 1)


def test_service_is_shown_with_its_methods_and_figures(zbus_site: Site, web_lab: WebLab) -> None:
    """Calls, errors and times are counted; the schemas of methods are told."""
    before = result(web_lab.ask("GET /api/services/Lab"))
    for _ in range(4):
        assert web_lab.ask("GET /rpc/Lab/add/1/2").status == 200
    assert web_lab.ask("GET /rpc/Lab/nothing").status == 501

    after = result(web_lab.ask("GET /api/services/Lab"))

    assert (after["calls"] - before["calls"], after["errors"] - before["errors"]) == (5, 1)
    assert 0 < after["p50_ms"] <= after["p99_ms"]
    add = after["interface"]["methods"]["add"]
    assert add["params"]["properties"]["a"]["type"] == add["result"]["type"] == "integer"
    assert add["params"]["required"] == ["a"]
    assert web_lab.ask("GET /api/services/None").status == 404


def test_answers_are_as_the_description_says(web_lab: WebLab, queue: str) -> None:
    """Each GET answers with the fields that its schema names, all of them and no other."""
    document = web_lab.ask("GET /api/openapi.json").json
    schemas = document["components"]["schemas"]

    for path, item in document["paths"].items():
        if "get" not in item or path in {"/api/openapi.json", "/metrics"}:
            continue
        answer = result(web_lab.ask(f"GET {path.format(topic=queue, service='Lab')}"))
        schema = item["get"]["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["result"]
        rows = answer if schema.get("type") == "array" else [answer]
        shape = schemas[(schema.get("items") or schema)["$ref"].rpartition("/")[2]]
        for row in rows:
            assert set(shape["required"]) <= row.keys(), path
            assert not shape.get("additionalProperties", True) <= False or row.keys() <= shape["properties"].keys()


def test_figures_for_prometheus_are_read_by_its_own_parser(web_lab: WebLab, queue: str) -> None:
    """Those of the broker, of topics and groups, and a histogram for each service."""
    web_lab.produce(queue, "one")
    assert web_lab.ask("GET /rpc/Lab/add/1/2").status == 200

    answer = web_lab.ask("GET /metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["zbusrpc_calls_requests"].samples[0].value >= 1
    lag = [one.value for one in families["zbusrpc_group_lag"].samples if one.labels == {"topic": queue, "group": "g"}]
    assert lag == [1]
    latency = families["zbusrpc_service_latency_seconds"]
    assert latency.type == "histogram"
    buckets = [one.value for one in latency.samples if one.name.endswith("_bucket") and one.labels["service"] == "Lab"]
    assert buckets == sorted(buckets)
    assert buckets[-1] >= 1


# -- live ----------------------------------------------------------------------------------------------------


def test_page_is_told_of_changes_as_they_happen(web_lab: WebLab, topic: str) -> None:
    """Rows come, change and go; what is done by the same connection has its answer in between."""
    with viewer_of(web_lab.address) as viewer:
        _, snapshot = viewer.ask("GET /api/live")
        status, _ = viewer.ask(f"POST /api/topics/{topic}/declare", "{}")
        row = viewer.push_until(f"changed.topics.{topic}")
        web_lab.ask(f"GET /declare/{topic}/g")
        web_lab.produce(topic, "one")
        group = viewer.push_until(f"changed.groups.{topic}")
        viewer.ask(f"POST /api/topics/{topic}/remove")
        gone = viewer.push_until(f"gone.topics.{topic}")

    assert snapshot["result"]["server"]["is_self"]
    assert status == 200
    assert (row["messages"], gone) == (0, topic)
    assert group["group"] == "g"


def test_page_comes_with_all_its_files(web_lab: WebLab) -> None:
    """A browser gets the page, other clients the text as before; files have their types, and no sandbox."""
    page = web_lab.ask("GET /", Accept="text/html")
    named = [part.split('"')[0] for part in page.text.split('="monitor/')[1:]]

    assert "sandbox" not in page.headers["content-security-policy"]
    assert named
    for name in named:
        assert web_lab.ask(f"GET /monitor/{name}").status == 200, name
    assert web_lab.ask("GET /").text.startswith("zbusrpc ")
    assert web_lab.ask("GET /monitor/../pages.py").status == 404
    for path, home in (("/monitor", "./"), ("/monitor/", "../"), ("/monitor/index.html?x", "../")):
        answer = web_lab.ask(f"GET {path}")
        assert (answer.status, answer.headers["location"]) == (302, home)


# -- rights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["GET /api/server", "GET /api/topics", "GET /api/live", "GET /metrics"])
def test_who_shows_no_token_is_asked_for_one(guarded: WebLab, line: str) -> None:
    """The page itself is for everybody: it has the form for the token."""
    answer = guarded.ask(line)

    assert (answer.status, answer.json["error"]["code"]) == (401, "UNAUTHENTICATED")
    assert guarded.ask("GET /", Accept="text/html", Cookie="token=stale").status == 200
    assert guarded.ask(line, Cookie="token=stale").status == 401


def test_token_sees_and_does_what_it_may(guarded: WebLab) -> None:
    """Other topics are neither shown nor changed; what a token may is told."""
    viewer, sender = shown("viewer"), shown("sender")

    rights = result(guarded.ask("GET /api/server", **viewer))["rights"]
    assert (rights["name"], rights["operations"], rights["topics"]) == ("viewer", ["query", "server"], ["open.*"])
    assert [row["topic"] for row in result(guarded.ask("GET /api/topics", **viewer))] == ["open.a"]
    assert 'topic="closed"' not in guarded.ask("GET /metrics", **viewer).text
    refused = [
        guarded.ask("GET /api/topics/closed", **viewer),
        guarded.ask("GET /api/topics/closed/messages", **viewer),
        guarded.ask("GET /api/topics", **sender),
        guarded.ask("GET /api/live", **sender),
        guarded.ask("GET /metrics", **sender),
        guarded.ask("POST /api/topics/open.a/remove", **viewer),
        guarded.ask("POST /api/topics/open.b/declare", **viewer),
        guarded.ask("POST /api/topics/open.a/groups/g/declare", **viewer),
        guarded.ask("POST /api/topics/open.a/dead-letters/purge", **viewer),
        guarded.ask("POST /api/drain", **viewer),
    ]
    assert [answer.status for answer in refused] == [403] * len(refused)
    assert result(guarded.ask("GET /api/topics", **shown("ops")))


def test_token_is_kept_in_a_cookie_that_no_script_reads(guarded: WebLab) -> None:
    """Who logs in with a known token gets it; who logs out loses it."""
    body = orjson.dumps({"token": secret_of("viewer")})

    unknown = guarded.ask("POST /api/login", b'{"token": "guess"}')
    known = guarded.ask("POST /api/login", body, Cookie="token=stale")
    cookie = known.headers["set-cookie"]
    shown = cookie.partition(";")[0]
    again = guarded.ask("GET /api/topics", Cookie=shown)
    out = guarded.ask("POST /api/logout", Cookie=shown)
    after = guarded.ask("GET /api/topics", Cookie=shown)

    assert unknown.status == 401
    assert result(known)["name"] == "viewer"
    name = f"zbusrpc-{guarded.address.rpartition(':')[2]}"
    assert re.fullmatch(rf"{name}=[\w-]{{43}}; Path=/; HttpOnly; SameSite=Strict", cookie)
    assert secret_of("viewer") not in cookie
    by_https = guarded.ask("POST /api/login", body, Origin=f"https://{guarded.address}", Host=guarded.address)
    assert by_https.headers["set-cookie"].endswith("; Secure")  # as a page behind a proxy with TLS asks
    assert (again.status, after.status) == (200, 401)
    assert out.headers["set-cookie"].startswith(f"{name}=; Max-Age=0;")


def test_token_shown_once_holds_for_a_websocket(guarded: WebLab) -> None:
    """A page shows it to other brokers of the set so, where its cookie does not count."""
    with viewer_of(guarded.address) as viewer:
        before, _ = viewer.ask("GET /api/live")
        refused, _ = viewer.ask("POST /api/login", '{"token": "guess"}')
        viewer.ask("POST /api/login", json.dumps({"token": secret_of("viewer")}))
        after, snapshot = viewer.ask("GET /api/live")
        viewer.ask("POST /api/logout")
        out, _ = viewer.ask("GET /api/topics")

    assert (before, refused, after, out) == (401, 401, 200, 401)
    assert [row["topic"] for row in snapshot["result"]["topics"]] == ["open.a"]


def test_page_of_somebody_else_changes_nothing(web_lab: WebLab, topic: str) -> None:
    """It may neither send a POST nor open a WebSocket, and cannot read what it asks for."""
    evil = {"Origin": "https://evil.example"}

    refused = web_lab.ask(f"POST /api/topics/{topic}/declare", **evil)
    looked = web_lab.ask("GET /api/topics", **evil)

    assert refused.status == 403
    assert "access-control-allow-origin" not in looked.headers
    assert web_lab.ask(f"GET /api/topics/{topic}").status == 404
    with pytest.raises(InvalidStatus), viewer_of(web_lab.address, **evil):
        pass
    own = {"Origin": f"http://localhost:{web_lab.address.rpartition(':')[2]}"}
    assert web_lab.ask(f"POST /api/topics/{topic}/declare", **own).status == 200


# -- the whole broker ----------------------------------------------------------------------------------------


def test_broker_is_taken_out(processes: Processes) -> None:
    """It answers first, and ends."""
    process, address = processes.broker()

    answer = WebLab(address).ask("POST /api/drain")

    assert (answer.status, answer.json) == (200, {"result": {"unfinished": 0}})
    assert process.wait_exit() == 0


def test_top_shows_brokers_once(zbus_site: Site, web_lab: WebLab, queue: str) -> None:
    """For people as tables, for programs as JSON; a broker that is not there is one line among others."""
    web_lab.produce(queue, "one")
    processes, gone = zbus_site.processes, "127.0.0.1:1"

    code, tables, errors = processes.run("top", "--once", "--broker", f"{zbus_site.address};{gone}")
    both_names = f"{zbus_site.address};localhost:{port_of(zbus_site.address)}"
    _, line, _ = processes.run("top", "--once", "--json", "--broker", both_names)
    failed, _, why = processes.run("top", "--once", "--broker", gone)

    assert (code, errors) == (0, "")
    assert zbus_site.address in tables
    assert f"{gone} connection refused" in " ".join(tables.split())
    assert "Lab" in tables
    told = json.loads(line)
    assert [server["in_rate"] is not None for server in told["servers"]] == [True]
    assert [row["topic"] for row in told["topics"]].count(queue) == 1
    assert (failed, why) == (1, f"zbusrpc: broker {gone}: connection refused\n")


def test_top_shows_its_token(guarded: WebLab, processes: Processes) -> None:
    """Without one, or with one that may see nothing, it says why in one line."""
    arguments = ("top", "--once", "--broker", guarded.address)

    code, tables, _ = processes.run(*arguments, "--token", secret_of("viewer"))
    denied = processes.run(*arguments, "--token", secret_of("sender"))
    unknown = processes.run(*arguments, "--token", "guess")

    assert (code, "open.a" in tables, "closed" in tables) == (0, True, False)
    assert denied[0] == 1
    assert "token sender has no right to query" in denied[2]
    assert unknown == (1, "", f"zbusrpc: broker {guarded.address}: this broker does not know the token\n")
