"""Server-sent events: a stored topic as a browser's EventSource reads it."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import requests

from tests.support.processes import Processes
from tests.support.waiting import WAIT_S, wait_until
from tests.support.web import Web, WebLab, request

EVENTS = {"Accept": "text/event-stream"}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"
BLOCK = b"0123456789abcdef" * 16_384
"""256 KiB: some of it fill every buffer between the broker and a reader that stalls."""


def follow(web: Web, path: str, **headers: str) -> bytes:
    """Begin a stream, and return the head of its answer."""
    web.send(f"GET /consume/{path}", **EVENTS, **headers)
    return web.receive_head()


def ids(web: Web, count: int) -> list[int]:
    """Return the ids of the next events."""
    return [int(web.receive_event()["id"]) for _ in range(count)]


def rest(web: Web) -> list[int]:
    """Return the ids of all events up to the last, which says that there will be no more."""
    received = []
    while (event := web.receive_event()).get("event") != "end":
        received.append(int(event["id"]))
    return received


# -- events --------------------------------------------------------------------------------------------------


def test_stream_begins_with_its_type(web: Web, queue: str) -> None:
    """The answer is a stream of events that nobody stores, in chunks."""
    assert follow(web, queue) == HEAD + b"connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"


def test_each_event_is_a_chunk(web_lab: WebLab, web: Web, queue: str) -> None:
    """Programs are given a chunk when it has come: without chunks many wait for a full buffer, or for the end."""
    web.send(f"GET /consume/{queue}", **EVENTS)
    web.receive_until(b"\r\n\r\n")

    for number in range(2):
        web_lab.produce(queue, "x" * 16)
        event = b"id: %d\ndata: xxxxxxxxxxxxxxxx\n\n" % number
        assert web.receive_until(b"\n\n\r\n") == b"%x\r\n%b\r\n" % (len(event), event)


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_client_of_http_1_0_knows_the_end_by_that_of_its_connection(
    web_lab: WebLab, web: Web, queue: str, connection: str
) -> None:
    """It knows no chunks, as nginx does not unless it is told."""
    web.socket.sendall(
        f"GET /consume/{queue}/g HTTP/1.0\r\naccept: text/event-stream\r\nconnection: {connection}\r\n\r\n".encode()
    )
    assert web.receive_head() == HEAD + b"connection: close\r\n\r\n"
    web_lab.produce(queue, "0")
    assert web.receive_until(b"\n\n") == b"id: 0\ndata: 0\n\n"

    web_lab.ask(f"GET /remove/{queue}/g")

    assert web.receive_event()["event"] == "end"
    assert web.is_at_end


def test_message_is_an_event(web_lab: WebLab, web: Web, queue: str) -> None:
    """An event has the offset as its id, the tag as its name where there is one, and the body as data."""
    web_lab.produce(queue, "plain")
    web_lab.ask(f"POST /produce/{queue}?tag=eur.usd", b"1.0834")

    follow(web, queue)

    assert web.receive_until(b"\n\n") == b"id: 0\ndata: plain\n\n"
    assert web.receive_until(b"\n\n") == b"id: 1\nevent: eur.usd\ndata: 1.0834\n\n"


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"a\nb\r\nc\rd", "data: a\ndata: b\ndata: c\ndata: d\n"),
        (b"\n", "data: \ndata: \n"),
        (b"", "data: \n"),
        ("ü\u2028☃".encode(), "data: ü\u2028☃\n"),
        (b"a\xff\xfeb\x00", "data: a\ufffd\ufffdb\x00\n"),
        (b"data: x\n\nid: 9", "data: data: x\ndata: \ndata: id: 9\n"),
    ],
)
def test_body_cannot_leave_its_event(web_lab: WebLab, web: Web, queue: str, body: bytes, data: str) -> None:
    """Each line of a body is a line of data, whatever stands in it; what is no UTF-8 is replaced."""
    web_lab.produce(queue, body)

    follow(web, queue)

    assert web.receive_until(b"\n\n").decode() == f"id: 0\n{data}\n"


def test_events_come_as_they_are_produced(web_lab: WebLab, web: Web, queue: str) -> None:
    """A stream goes on for as long as messages come."""
    follow(web, f"{queue}/g")

    for number in range(20):
        web_lab.produce(queue, str(number))
        assert web.receive_event() == {"id": str(number), "data": str(number)}
    assert web_lab.group(queue, "g")["messageCount"] == 0


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_stream_does_not_end_with_its_request(web_lab: WebLab, web: Web, queue: str, connection: str) -> None:
    """A client that wants no second request on its connection gets all events of the first."""
    follow(web, f"{queue}/g", Connection=connection)

    for number in range(3):
        web_lab.produce(queue, str(number))
        assert web.receive_event()["data"] == str(number)


def test_what_follows_a_stream_takes_nothing_along(web_lab: WebLab, web: Web, queue: str) -> None:
    """A request behind a stream cannot be answered: the message that was meant for it is somebody else's in the end."""
    follow(web, f"{queue}/g")
    web.send(f"GET /consume/{queue}?timeout=60")
    web_lab.wait_consumers(queue, 1)
    web_lab.produce(queue, "one")
    assert web.receive_event()["data"] == "one"
    wait_until(lambda: web_lab.group(queue)["messageCount"] == 0, "the message taken")

    web.reset()
    wait_until(lambda: web_lab.group(queue)["messageCount"] == 1, "the message given back")

    assert web_lab.ask(f"GET /consume/{queue}").body == b"one"


def test_stream_of_what_is_not_there_is_told(web: Web, queue: str) -> None:
    """EventSource gives up at a status that is not 200, and says so to its page."""
    answer = web.ask(f"GET /consume/{queue}/none", **EVENTS)

    assert (answer.status, answer.text) == (404, "ConsumeGroup(none) not found")


def test_stream_may_follow_a_poll_on_the_same_connection(web_lab: WebLab, web: Web, queue: str) -> None:
    """Browsers use connections again: one that has polled a group may stream it then."""
    assert web.ask(f"GET /consume/{queue}/g?timeout=0").status == 204

    follow(web, f"{queue}/g")
    web_lab.produce(queue, "one")

    assert web.receive_event()["data"] == "one"
    assert web_lab.group(queue, "g")["consumerCount"] == 1


def test_stream_behind_a_request_that_waits_is_refused(web_lab: WebLab, web: Web, queue: str) -> None:
    """Its events could not be sent before the other answer, and would pile up: the broker says so."""
    web.socket.sendall(request(f"GET /consume/{queue}?timeout=0.2") + request(f"GET /consume/{queue}/g", **EVENTS))

    answers = [web.receive() for _ in range(2)]

    assert [answer.status for answer in answers] == [204, 400]
    assert answers[1].text == "an event stream cannot begin behind requests that wait for answers"
    assert web_lab.group(queue, "g")["consumerCount"] == 0


# -- programs that read lines -------------------------------------------------------------------------------


def lines_by_requests(url: str) -> Iterator[str]:
    """Yield lines as people who use requests read them."""
    with requests.Session() as session:
        session.trust_env = False
        with session.get(url, headers=EVENTS, stream=True, timeout=WAIT_S) as answer:
            yield from answer.iter_lines(decode_unicode=True)


def lines_by_httpx(url: str) -> Iterator[str]:
    """Yield lines as people who use httpx read them."""
    with (
        httpx.Client(timeout=WAIT_S, trust_env=False) as client,
        client.stream("GET", url, headers=EVENTS) as answer,
    ):
        yield from answer.iter_lines()


def lines_by_curl(url: str, *more: str) -> Iterator[str]:
    """Yield what curl -N prints."""
    command = [
        "curl",
        "-sN",
        "--noproxy",
        "*",
        "-H",
        "Accept: text/event-stream",
        "--max-time",
        f"{WAIT_S}",
        *more,
        url,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        try:
            yield from (line.rstrip("\n") for line in curl.stdout)
        finally:
            curl.terminate()


def lines_by_curl_1_0(url: str) -> Iterator[str]:
    """Yield what it prints where it speaks HTTP/1.0."""
    return lines_by_curl(url, "--http1.0")


@pytest.mark.parametrize("lines_of", [lines_by_requests, lines_by_httpx, lines_by_curl, lines_by_curl_1_0])
def test_program_is_given_each_event_at_once(
    web_lab: WebLab, queue: str, lines_of: Callable[[str], Iterator[str]]
) -> None:
    """The next message is produced when the one before it was read, however little it is; at its end the lines end."""
    lines = lines_of(f"http://{web_lab.address}/consume/{queue}/g")
    for number in range(3):
        web_lab.produce(queue, str(number))
        assert [next(lines) for _ in range(3)] == [f"id: {number}", f"data: {number}", ""]

    web_lab.ask(f"GET /remove/{queue}/g")

    assert list(lines) == ["event: end", "data: ConsumeGroup(g) not found", ""]


# -- beginning again -----------------------------------------------------------------------------------------


def test_stream_goes_on_where_it_was_cut(web_lab: WebLab, queue: str) -> None:
    """An EventSource that comes back with the last id it has seen misses nothing, though more had been sent."""
    web_lab.produce(queue, *(str(number) for number in range(10)))
    with Web(web_lab.address) as first:
        follow(first, f"{queue}/g")
        assert ids(first, 10) == list(range(10))
    web_lab.wait_consumers(queue, 0, "g")
    web_lab.produce(queue, "10")

    with Web(web_lab.address) as second:
        follow(second, f"{queue}/g", Last_Event_ID="3")
        assert ids(second, 7) == list(range(4, 11))


def test_stream_that_comes_back_and_has_seen_all_gets_what_is_new(web_lab: WebLab, queue: str) -> None:
    """What was seen does not come again."""
    web_lab.produce(queue, "0", "1", "2")
    with Web(web_lab.address) as first:
        follow(first, f"{queue}/g")
        ids(first, 3)
    web_lab.wait_consumers(queue, 0, "g")

    with Web(web_lab.address) as second:
        follow(second, f"{queue}/g", Last_Event_ID="2")
        web_lab.produce(queue, "3")
        assert ids(second, 1) == [3]


def test_others_in_the_group_are_not_moved_back(web_lab: WebLab, web: Web, queue: str) -> None:
    """Where somebody else consumes in the group the place is not one stream's to say."""
    web_lab.produce(queue, "0", "1", "2")
    with Web(web_lab.address) as other:
        follow(other, f"{queue}/g")
        assert ids(other, 3) == [0, 1, 2]

        follow(web, f"{queue}/g", Last_Event_ID="0")
        web_lab.produce(queue, "3", "4")
        wait_until(lambda: web_lab.group(queue, "g")["messageCount"] == 0, "both messages sent")
        web_lab.ask(f"GET /remove/{queue}")

        assert sorted(rest(web) + rest(other)) == [3, 4]


@pytest.mark.parametrize("seen", ["99", "x", "-1", "", "1" * 40, "²"])
def test_id_that_was_never_sent_is_ignored(web_lab: WebLab, web: Web, queue: str, seen: str) -> None:
    """An id of another topic, or no number at all, does not move the group."""
    web_lab.produce(queue, "0", "1")

    follow(web, f"{queue}/g", Last_Event_ID=seen)

    assert ids(web, 2) == [0, 1]


# -- several readers -----------------------------------------------------------------------------------------


def test_streams_of_one_group_share_its_messages(web_lab: WebLab, web: Web, queue: str) -> None:
    """Each message comes to one of them, to each in order."""
    with Web(web_lab.address) as other:
        follow(web, f"{queue}/g")
        follow(other, f"{queue}/g")

        web_lab.produce(queue, *(str(number) for number in range(40)))
        wait_until(lambda: web_lab.group(queue, "g")["messageCount"] == 0, "all messages sent")
        web_lab.ask(f"GET /remove/{queue}")
        received = rest(web), rest(other)

    assert all(received)
    assert all(events == sorted(events) for events in received)
    assert sorted(received[0] + received[1]) == list(range(40))


def test_reader_that_stalls_gets_everything_when_it_goes_on(web_lab: WebLab, web: Web, queue: str) -> None:
    """Its stream pauses: another group's reader is not kept waiting, and afterwards nothing is missing."""
    follow(web, f"{queue}/g")
    with Web(web_lab.address) as other:
        follow(other, queue)
        for number in range(60):
            web_lab.produce(queue, b"%d " % number + BLOCK)
            assert other.receive_event()["data"].startswith(f"{number} ")

    assert web_lab.group(queue, "g")["messageCount"] > 0  # they wait in the group, not in memory of the connection
    for number in range(60):
        event = web.receive_event()
        assert (event["id"], event["data"]) == (str(number), f"{number} " + BLOCK.decode())
    wait_until(lambda: web_lab.group(queue, "g")["messageCount"] == 0, "the end of the pause")


def test_group_of_a_reader_that_stalls_goes_on_by_others(web_lab: WebLab, web: Web, queue: str) -> None:
    """Others in the group take what the stalled reader cannot; together they have everything once."""
    follow(web, f"{queue}/g")
    web_lab.produce(queue, *(BLOCK for _ in range(60)))
    wait_until(lambda: 0 < web_lab.group(queue, "g")["messageCount"] < 60, "the pause")

    with Web(web_lab.address) as other, ThreadPoolExecutor() as threads:
        follow(other, f"{queue}/g")
        taken = threads.submit(rest, other)
        wait_until(lambda: web_lab.group(queue, "g")["messageCount"] == 0, "all messages sent")
        web_lab.ask(f"GET /remove/{queue}")
        received = rest(web), taken.result(WAIT_S)

    assert all(received)
    assert all(events == sorted(events) for events in received)
    assert sorted(received[0] + received[1]) == list(range(60))


# -- the end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["Topic", "ConsumeGroup"])
def test_removal_ends_the_stream(web_lab: WebLab, web: Web, queue: str, what: str) -> None:
    """The last event says what is gone, and the answer ends: an EventSource that comes back is told 404."""
    web_lab.produce(queue, "0")
    follow(web, f"{queue}/g")

    web_lab.ask(f"GET /remove/{queue}" if what == "Topic" else f"GET /remove/{queue}/g")

    assert web.receive_event() == {"id": "0", "data": "0"}
    name = queue if what == "Topic" else "g"
    assert web.receive_event() == {"event": "end", "data": f"{what}({name}) not found"}
    assert web.is_body_at_end
    assert web.ask(f"GET /consume/{queue}/g", **EVENTS, Last_Event_ID="0").status == 404


def test_client_that_wants_to_close_is_let_go_when_its_stream_ends(web_lab: WebLab, web: Web, queue: str) -> None:
    """The connection ends with the answer, as it was asked to."""
    follow(web, f"{queue}/g", Connection="close")

    web_lab.ask(f"GET /remove/{queue}/g")

    assert web.receive_event()["event"] == "end"
    assert web.is_at_end


def test_stream_ends_when_its_connection_consumes_no_more(web_lab: WebLab, web: Web, queue: str) -> None:
    """A request to leave the group may follow the stream; it is answered when that has ended."""
    follow(web, f"{queue}/g")

    web.send(f"GET /unconsume/{queue}/g")

    assert web.is_body_at_end
    assert web.receive().status == 200
    assert web_lab.group(queue, "g")["consumerCount"] == 0


def test_stream_ends_with_the_broker(processes: Processes, tmp_path: Path) -> None:
    """A broker that stops closes its streams; whoever comes back afterwards goes on where it was."""
    broker, address = processes.broker("--data-dir", str(tmp_path / "data"))
    web_lab = WebLab(address)
    web_lab.declare("T")
    web_lab.produce("T", "0", "1")
    with Web(address) as web:
        follow(web, "T")
        assert ids(web, 2) == [0, 1]

        broker.send_signal(signal.SIGINT)

        assert web.is_body_at_end
        assert web.is_at_end
    assert broker.wait_exit() == 0

    _, address = processes.broker("--data-dir", str(tmp_path / "data"))
    with Web(address) as web:
        follow(web, "T", Last_Event_ID="0")
        WebLab(address).produce("T", "2")
        assert ids(web, 2) == [1, 2]


def test_reader_that_is_gone_is_no_consumer_any_more(web_lab: WebLab, web: Web, queue: str) -> None:
    """The group is free for the next as soon as the connection is gone."""
    with Web(web_lab.address) as leaving:
        follow(leaving, f"{queue}/g")
        leaving.reset()
    web_lab.wait_consumers(queue, 0, "g")

    web_lab.produce(queue, "0")
    follow(web, f"{queue}/g")

    assert ids(web, 1) == [0]
