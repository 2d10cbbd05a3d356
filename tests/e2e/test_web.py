"""Queues for the web: long polling, and what HTTP clients of every kind expect of a server that they do not know."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.sync.client import connect

from tests.support.native import read_to_end
from tests.support.waiting import WAIT_S, wait_until
from tests.support.web import Answer, Web, WebLab, request

CURL = shutil.which("curl")


# -- long polling --------------------------------------------------------------------------------------------


def test_poll_ends_when_no_message_comes(web_lab: WebLab, web: Web, queue: str) -> None:
    """After its time a poll is answered 204, the connection goes on, and what comes later is not lost."""
    answer = web.ask(f"GET /consume/{queue}/g?timeout=0.1")
    web_lab.produce(queue, "later")

    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    assert web_lab.group(queue, "g")["messageCount"] == 1
    assert web.ask(f"GET /consume/{queue}/g").body == b"later"


def test_time_of_a_poll_may_stand_in_a_header(web: Web, queue: str) -> None:
    """What the URL can say a header can say."""
    assert web.ask(f"GET /consume/{queue}/g", Timeout="0.05").status == 204


def test_poll_that_does_not_wait_takes_what_is_there(web_lab: WebLab, web: Web, queue: str) -> None:
    """A time of nothing means: a message if there is one now."""
    web_lab.produce(queue, "one", "two")

    answers = [web.ask(f"GET /consume/{queue}/g?timeout=0") for _ in range(3)]

    assert [(answer.status, answer.body) for answer in answers] == [(200, b"one"), (200, b"two"), (204, b"")]


def test_message_comes_while_a_poll_waits(web_lab: WebLab, web: Web, queue: str) -> None:
    """The poll is answered with the message as soon as it is there."""
    web.send(f"GET /consume/{queue}/g?timeout=60")
    web_lab.wait_consumers(queue, 1, "g")

    web_lab.produce(queue, "now")

    answer = web.receive()
    assert (answer.status, answer.body, answer.headers["topic"]) == (200, b"now", queue)
    assert (answer.headers["consume_group"], answer.headers["offset"]) == ("g", "0")


@pytest.mark.parametrize("is_reset", [False, True], ids=["closes", "resets"])
def test_client_that_hangs_up_takes_no_message(web_lab: WebLab, web: Web, queue: str, is_reset: bool) -> None:
    """A poll whose client is gone takes nothing; the next one gets the message."""
    leaving = Web(web_lab.address)
    leaving.send(f"GET /consume/{queue}/g?timeout=60")
    web_lab.wait_consumers(queue, 1, "g")

    leaving.reset() if is_reset else leaving.socket.close()
    web_lab.wait_consumers(queue, 0, "g")
    web_lab.produce(queue, "hello")

    assert web.ask(f"GET /consume/{queue}/g?timeout=60").body == b"hello"


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", "1e9", "3601", "", "0x1", "1s"])
def test_wrong_time_of_a_poll_is_refused(web_lab: WebLab, web: Web, queue: str, text: str) -> None:
    """The answer is 400 and names what was wrong; the request has not become a consumer."""
    answer = web.ask(f"GET /consume/{queue}/g?timeout={text}")

    assert answer.status == 400
    assert answer.text == f"timeout: {text} is no number of seconds from 0 to 3600"
    assert web_lab.group(queue, "g")["consumerCount"] == 0


def test_poll_of_what_is_not_there_is_told(web: Web, queue: str) -> None:
    """A topic and a group that there are not are 404, each by its name."""
    assert web.ask(f"GET /consume/{queue}x?timeout=60").text == f"Topic({queue}x) not found"
    answer = web.ask(f"GET /consume/{queue}/other?timeout=60")
    assert (answer.status, answer.text) == (404, "ConsumeGroup(other) not found")


def test_two_pollers_get_each_message_once_and_in_order(web_lab: WebLab, queue: str) -> None:
    """Two connections that poll by turns share the group: none is lost, none comes twice, each sees growing offsets."""
    web_lab.produce(queue, *(str(number) for number in range(100)))

    with Web(web_lab.address) as first, Web(web_lab.address) as second:
        received: list[list[int]] = [[], []]
        for turn in range(100):
            number = turn * 7 % 3 % 2
            answer = (first, second)[number].ask(f"GET /consume/{queue}/g?timeout=60")
            received[number].append(int(answer.body))

    assert all(received)
    assert all(numbers == sorted(numbers) for numbers in received)
    assert sorted(received[0] + received[1]) == list(range(100))


# -- methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/query/{}", "/query/{}/g", "/ping", "/", "/query/Nobody", "/js/none.js"])
def test_head_is_the_head_of_get(web: Web, queue: str, path: str) -> None:
    """HEAD answers as GET does, without the body, also where something is not found."""
    path = path.format(queue)
    whole = web.ask(f"GET {path}")

    head = web.ask(f"HEAD {path}")

    assert head.head == whole.head
    assert int(head.headers["content-length"]) == len(whole.body) > 0
    assert web.ask("GET /ping").body == b"OK"


@pytest.mark.parametrize(
    "path", ["/consume/{}/g", "/{}/g?cmd=consume", "/?cmd=consume&topic={}&consume_group=g", "/produce/{}?body=x"]
)
@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH"])
def test_other_methods_do_nothing(web_lab: WebLab, web: Web, queue: str, method: str, path: str) -> None:
    """Where a request would change something, only GET and POST do it, however the command is named."""
    web_lab.produce(queue, "stays")

    answer = web.ask(f"{method} {path.format(queue)}")

    assert answer.status == 405
    assert answer.headers["allow"] == "GET, POST"
    assert web_lab.group(queue, "g")["messageCount"] == 1
    assert web_lab.group(queue, "g")["consumerCount"] == 0


def test_head_of_a_call_is_refused(web: Web) -> None:
    """HEAD would call the service: it does not; the list of services it may have."""
    assert web.ask("HEAD /rpc/Lab/add/1/2").status == 405
    assert web.ask("HEAD /rpc/Lab").status == 200
    assert web.ask("GET /rpc/Lab/add/1/2").json == {"result": 3}


# -- the life of a connection --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "connection", "is_kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: keep-alive\r\n", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: close\r\n", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
@pytest.mark.parametrize("cmd", ["", "cmd: ping\r\n"], ids=["http", "zbus"])
def test_connection_ends_when_it_is_to(web: Web, version: str, connection: str, is_kept: bool, cmd: str) -> None:
    """The answer says whether the connection goes on, and so it is."""
    web.socket.sendall(f"GET /ping HTTP/{version}\r\nHost: 127.0.0.1\r\n{connection}{cmd}\r\n".encode())

    answer = web.receive()

    assert answer.body == b"OK"
    assert answer.headers["connection"].lower() == ("keep-alive" if is_kept else "close")
    assert web.ask("GET /ping").status == 200 if is_kept else web.is_at_end


def test_poll_with_connection_close_ends_after_its_message(web_lab: WebLab, web: Web, queue: str) -> None:
    """A message that comes late is the last that comes."""
    web.send(f"GET /consume/{queue}/g?timeout=60", Connection="close")
    web_lab.wait_consumers(queue, 1, "g")

    web_lab.produce(queue, "last", "next")

    assert web.receive().body == b"last"
    assert web.is_at_end
    wait_until(lambda: web_lab.group(queue, "g")["consumerCount"] == 0, "the end of the session")
    assert web_lab.group(queue, "g")["messageCount"] == 1


# -- bodies --------------------------------------------------------------------------------------------------


def test_body_may_come_after_the_broker_has_agreed(web_lab: WebLab, web: Web, queue: str) -> None:
    """Who expects 100-continue gets it, sends the body then, and is answered."""
    web.socket.sendall(request(f"POST /produce/{queue}", Expect="100-continue", Content_Length="5"))

    assert web.receive().status == 100
    web.socket.sendall(b"he")
    web.socket.sendall(b"llo")

    assert web.receive().status == 200
    assert web_lab.ask(f"GET /consume/{queue}/g").body == b"hello"


def test_agreement_waits_for_earlier_answers(web_lab: WebLab, web: Web, queue: str) -> None:
    """A request that expects 100-continue behind a poll gets it when the poll has ended, not before and not never."""
    web.send(f"GET /consume/{queue}/g?timeout=60")
    web.socket.sendall(request(f"POST /produce/{queue}", Expect="100-continue", Content_Length="5"))
    web_lab.wait_consumers(queue, 1, "g")

    web_lab.produce(queue, "first")

    assert web.receive().body == b"first"
    assert web.receive().status == 100
    web.socket.sendall(b"hello")
    assert web.receive().status == 200


def test_body_that_is_too_long_is_refused_before_it_is_sent(web: Web, queue: str) -> None:
    """Who expects 100-continue for more than the broker takes is told at once."""
    web.socket.sendall(request(f"POST /produce/{queue}", Expect="100-continue", Content_Length=str(1 << 40)))

    assert web.receive().status == 413
    assert web.is_at_end


def test_chunked_body_is_one_message(web_lab: WebLab, web: Web, queue: str) -> None:
    """A body in chunks, however they are cut into blocks, is the body."""
    head = request(f"POST /produce/{queue}", Transfer_Encoding="chunked", Content_Length="0")
    head = head.replace(b"Content-Length: 0\r\n", b"")
    for block in (head, b"5\r\nhel", b"lo\r\n1;x=y\r", b"\n \r\n", b"5\r\nworld\r\n0\r\n", b"Trailer: x\r\n\r\n"):
        web.socket.sendall(block)

    assert web.receive().status == 200
    answer = web_lab.ask(f"GET /consume/{queue}/g")
    assert (answer.body, answer.headers.get("trailer")) == (b"hello world", None)


@pytest.mark.parametrize("size", [0, 1, 10 * 1024 * 1024], ids=["nothing", "one byte", "10 MiB"])
def test_body_of_any_bytes_arrives_whole(web_lab: WebLab, web: Web, queue: str, size: int) -> None:
    """Bodies are bytes: none of them means anything to the broker."""
    body = (bytes(range(256)) * (size // 256 + 1))[:size]

    assert web.ask(f"POST /produce/{queue}", body).status == 200

    assert web_lab.ask(f"GET /consume/{queue}/g").body == body


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain; charset=iso-8859-1", "image/png", 'multipart/x; boundary="a b"']
)
def test_content_type_goes_along(web_lab: WebLab, web: Web, queue: str, content_type: str) -> None:
    """The consumer is told what the producer said that its body is, and the headers of its own."""
    web.ask(f"POST /produce/{queue}", b"{}", Content_Type=content_type, X_Trace="7", Content_Encoding="br")

    headers = web_lab.ask(f"GET /consume/{queue}/g").headers

    assert (headers["content-type"], headers["x-trace"], headers["content-encoding"]) == (content_type, "7", "br")


def test_message_without_type_has_none(web_lab: WebLab, web: Web, queue: str) -> None:
    """The broker does not guess."""
    web.ask(f"POST /produce/{queue}", b"{}")

    assert "content-type" not in web_lab.ask(f"GET /consume/{queue}/g").headers


def test_message_holds_nothing_of_its_request(web_lab: WebLab, web: Web, queue: str) -> None:
    """Credentials, and what a browser says of itself and the connection, do not reach consumers."""
    web.ask(
        f"POST /produce/{queue}?token=secret-1",
        b"x",
        Token="secret-2",
        Authorization="Bearer secret-3",
        Cookie="token=secret-4",
        Proxy_Authorization="Basic secret-5",
        User_Agent="browser",
        Accept_Language="de",
        Connection="keep-alive",
        Sec_Fetch_Mode="cors",
    )

    answer = web_lab.ask(f"GET /consume/{queue}/g")

    assert b"secret" not in answer.head
    assert not {"user-agent", "accept-language", "sec-fetch-mode", "cookie", "token"} & answer.headers.keys()
    assert answer.headers["origin_url"] == f"/produce/{queue}"
    assert answer.headers["origin_method"] == "POST"


# -- names and values in URLs --------------------------------------------------------------------------------


def test_names_and_values_are_percent_decoded(web_lab: WebLab, web: Web, topic: str) -> None:
    """Umlauts and plus signs in path and query arrive as they were meant."""
    name = f"{topic}-Größe+1"
    path = quote(name, safe="")

    assert web.ask(f"GET /declare/{path}/{quote('Grüße', safe='')}").json["groupName"] == "Grüße"
    assert web.ask(f"GET /declare/{path}").json["topicName"] == name
    assert web.ask(f"GET /produce/{path}?body=a%26b+c%2Bd%3D%C3%BC&tag=%C3%A4").status == 200
    answer = web_lab.ask(f"GET /consume/{path}?timeout=60")
    assert (answer.body.decode(), answer.headers["topic"], answer.headers["tag"]) == ("a&b c+d=ü", name, "ä")
    assert web_lab.ask(f"GET /query?topic={path}").json["topicName"] == name


def test_plus_in_a_path_is_a_plus(web_lab: WebLab, topic: str) -> None:
    """Only in a query does it stand for a space."""
    assert web_lab.ask(f"GET /declare/{topic}+1").json["topicName"] == f"{topic}+1"
    assert web_lab.ask(f"GET /query?topic={topic}%2B1").json["topicName"] == f"{topic}+1"


def test_encoded_slash_is_part_of_a_name(web: Web, topic: str) -> None:
    """It parts nothing, and as part of a name it is refused by its own rule."""
    answer = web.ask(f"GET /declare/{topic}%2Fg")

    assert answer.status == 400
    assert "may not hold '/'" in answer.text
    assert web.ask(f"GET /consume/{topic}%2Fg").text == f"Topic({topic}/g) not found"


def test_percent_that_encodes_nothing_stays(web_lab: WebLab, web: Web, queue: str) -> None:
    """A value is taken for what it can be."""
    web.ask(f"GET /produce/{queue}?body=100%25%20of%zz")

    assert web_lab.ask(f"GET /consume/{queue}/g").body == b"100% of%zz"


def test_value_may_hold_what_parts_values(web_lab: WebLab, web: Web, queue: str) -> None:
    """An equals sign, a question mark and a slash after the first are part of the value."""
    web.ask(f"GET /produce/{queue}?body=a=b?c/d")

    assert web_lab.ask(f"GET /consume/{queue}/g").body == b"a=b?c/d"


def test_urls_of_the_later_zbus_are_understood(web: Web, topic: str) -> None:
    """Where the first part of a path is no command it names the topic, and the query the command."""
    assert web.ask(f"GET /{topic}/g?cmd=declare").json["groupName"] == "g"
    assert web.ask(f"GET /{topic}?body=one").status == 200
    assert web.ask(f"POST /{topic}", b"two").status == 200
    assert web.ask(f"GET /{topic}/g?cmd=consume&timeout=60").body == b"one"
    assert web.ask(f"GET /?cmd=consume&topic={topic}&consume_group=g").body == b"two"
    assert web.ask(f"GET /{topic}?cmd=query").json["messageDepth"] == 2
    assert web.ask("GET /Lab/add/1/2").status in {200, 404}
    assert web.ask("GET /Lab//add/1/2").json["result"] == 3


def test_command_of_a_url_makes_no_other_message(web_lab: WebLab, web: Web, queue: str) -> None:
    """A message is stored the same way however its URL names the command: browsers' headers are not in it."""
    for path in (f"/produce/{queue}", f"/{queue}?cmd=produce", f"/?cmd=produce&topic={queue}"):
        web.ask(f"POST {path}", b"x", User_Agent="browser", Referer="http://127.0.0.1/secret")

    answers = [web_lab.ask(f"GET /consume/{queue}/g") for _ in range(3)]

    assert not any({"user-agent", "referer", "cmd"} & answer.headers.keys() for answer in answers)
    assert [answer.headers["origin_method"] for answer in answers] == ["POST"] * 3
    assert [answer.headers["origin_url"].split("?")[0] for answer in answers] == [f"/produce/{queue}", f"/{queue}", "/"]


# -- pipelining ----------------------------------------------------------------------------------------------


def test_pipelined_commands_are_answered_in_order(web: Web, queue: str) -> None:
    """A poll that waits in vain holds back the answers of what follows, which was carried out already."""
    lines = [
        f"GET /consume/{queue}/g?timeout=0.2",
        f"POST /produce/{queue}",
        "GET /rpc/Lab/add/1/2",
        f"GET /query/{queue}",
        "PUT /ping",
        "HEAD /ping",
        "GET /ping",
    ]
    web.socket.sendall(b"".join(request(line, b"x" if line.startswith("POST") else b"") for line in lines))

    answers = [web.receive(is_head=line.startswith("HEAD")) for line in lines]

    assert [answer.status for answer in answers] == [200, 200, 200, 200, 405, 200, 200]
    assert answers[0].body == b"x"  # which the second request has produced
    assert answers[2].json == {"result": 3}
    assert answers[6].body == b"OK"


def test_pipeline_behind_a_poll_that_ends_in_vain(web: Web, queue: str) -> None:
    """When the time of the first is up all answers come, in order."""
    web.socket.sendall(
        request(f"GET /consume/{queue}/g?timeout=0.1") + request(f"GET /query/{queue}") + request("GET /ping")
    )

    answers: list[Answer] = [web.receive() for _ in range(3)]

    assert [answer.status for answer in answers] == [204, 200, 200]
    assert answers[1].json["topicName"] == queue


def test_pipelined_polls_of_one_connection_get_messages_in_order(web_lab: WebLab, web: Web, queue: str) -> None:
    """Each of many polls that wait at once gets its own message."""
    web.socket.sendall(request(f"GET /consume/{queue}/g?timeout=60") * 50)
    web_lab.wait_consumers(queue, 1, "g")

    web_lab.produce(queue, *(str(number) for number in range(50)))

    assert [int(web.receive().body) for _ in range(50)] == list(range(50))


# -- services beside queues ----------------------------------------------------------------------------------


def test_services_and_queues_share_a_connection(web_lab: WebLab, web: Web, queue: str) -> None:
    """Calls of the gateway and commands of zbus take turns on one connection, which is one session."""
    senders: set[str] = set()

    for number in range(5):
        assert web.ask(f"GET /rpc/Lab/add/{number}/1").json == {"result": number + 1}
        assert web.ask(f"POST /produce/{queue}", b"%d" % number).status == 200
        assert web.ask(f"GET /consume/{queue}/g").body == b"%d" % number
        assert web.ask("GET /", cmd="produce", topic=queue, id=str(number)).headers["id"] == str(number)
        senders.add(web.ask(f"GET /consume/{queue}/g").headers["sender"])

    assert len(senders) == 1


def test_gateway_is_called_by_websocket(web_lab: WebLab, queue: str) -> None:
    """A frame may hold a request of the gateway as well as a command; the answer carries the id of its request."""
    with connect(f"ws://{web_lab.address}/", compression=None, proxy=None) as websocket:
        websocket.send(request("GET /rpc/Lab/add/1/2", id="a").decode())
        websocket.send(request("POST /rpc/Lab", b'{"method":"add","params":[3,4]}', id="b"))
        websocket.send(request(f"GET /produce/{queue}?body=x", cmd="", id="c"))
        replies = [websocket.recv(WAIT_S, decode=False) for _ in range(3)]

    by_id = {reply.partition(b"id: ")[2][:1]: reply for reply in replies}
    assert by_id[b"a"].endswith(b'{"result":3}')
    assert by_id[b"b"].endswith(b'{"result":7}')
    assert by_id[b"c"].startswith(b"HTTP/1.1 200 OK\r\n")


# -- curl ----------------------------------------------------------------------------------------------------


def curl(*arguments: str, stdin: bytes = b"") -> bytes:
    """Return what curl prints; it fails on an answer that is an error."""
    assert CURL is not None
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    command = [CURL, "--silent", "--show-error", "--fail-with-body", "--max-time", str(WAIT_S), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, env=environment).stdout


@pytest.mark.skipif(CURL is None, reason="there is no curl; on Debian: apt-get install curl")
def test_curl_works_with_queues_and_services(web_lab: WebLab, queue: str, tmp_path: Path) -> None:
    """Curl produces text and files, polls, follows an event stream and calls a service."""
    url = f"http://{web_lab.address}"
    file = tmp_path / "data"
    file.write_bytes(bytes(range(256)) * 8192)

    curl(f"{url}/produce/{queue}?body=hello")
    curl(f"{url}/produce/{queue}", "--data-binary", "@-", "-H", "Content-Type: text/plain", stdin=b"from a pipe")
    curl(f"{url}/produce/{queue}", "--data-binary", f"@{file}")  # 2 MiB: curl expects 100-continue
    curl(f"{url}/produce/{queue}", "-H", "Transfer-Encoding: chunked", "--data-binary", "chunked")

    consume = f"{url}/consume/{queue}/g?timeout=20"
    assert curl(consume, "--next", "--silent", consume) == b"hellofrom a pipe"
    assert curl(consume) == file.read_bytes()
    assert curl("--http1.0", consume) == b"chunked"
    assert curl(f"{url}/consume/{queue}/g?timeout=0.1", "--write-out", "%{http_code}") == b"204"
    assert curl("--head", f"{url}/query/{queue}").startswith(b"HTTP/1.1 200 OK\r\n")
    assert curl(f"{url}/rpc/Lab/add/1/2") == b'{"result":3}'


@pytest.mark.skipif(CURL is None, reason="there is no curl; on Debian: apt-get install curl")
def test_bodies_of_a_curl_that_offers_http2_arrive(web_lab: WebLab, queue: str, tmp_path: Path) -> None:
    """It offers to upgrade with its first request of a connection; small, large and chunked bodies are stored whole."""
    produce, file = f"http://{web_lab.address}/produce/{queue}", tmp_path / "data"
    file.write_bytes(bytes(range(256)) * 8192)
    chunked = ("-H", "Transfer-Encoding: chunked")

    curl("--http2", produce, "--data-binary", "small", "--next", "--silent", produce, "--data-binary", "second")
    curl("--http2", produce, "--data-binary", f"@{file}")  # it waits for 100 Continue, too
    curl("--http2", produce, *chunked, "--data-binary", f"@{file}")

    consume = f"http://{web_lab.address}/consume/{queue}?timeout=20"
    assert [curl(consume) for _ in range(4)] == [b"small", b"second", file.read_bytes(), file.read_bytes()]


@pytest.mark.skipif(CURL is None, reason="there is no curl; on Debian: apt-get install curl")
def test_curl_shows_the_reason_of_an_error(web_lab: WebLab) -> None:
    """A person who mistypes reads why."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        curl(f"http://{web_lab.address}/consume/Nobody")

    assert caught.value.stdout == b"Topic(Nobody) not found"


# -- those that send and hang up -----------------------------------------------------------------------------


def test_client_that_sends_and_closes_its_side_has_produced(web_lab: WebLab, queue: str) -> None:
    """A request that came whole is carried out even if its client does not stay for the answer."""
    with Web(web_lab.address) as web:
        web.socket.sendall(request(f"GET /produce/{queue}?body=bye"))
        web.socket.shutdown(socket.SHUT_WR)
        read_to_end(web.socket)

    assert web_lab.ask(f"GET /consume/{queue}/g?timeout=60").body == b"bye"
