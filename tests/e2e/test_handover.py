"""Handing over: what becomes of a message whose consumer is gone before its bytes were on the way.

A message counts as consumed when its bytes were handed to a live connection. So clients here are cut off where that
has not happened for sure: nothing may be lost then, and nothing may come twice.
"""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from websockets.sync.client import connect

from tests.support.processes import Process, Processes
from tests.support.waiting import WAIT_S, wait_until
from tests.support.web import Web, WebLab, request

ROUNDS = 25


@pytest.fixture(scope="module")
def os_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, WebLab]]:
    """Run a broker that leaves syncing to the system, which makes it faster than its clients."""
    with Processes(tmp_path_factory.mktemp("handover")) as processes:
        data = str(processes.directory / "data")
        process, address = processes.broker("--durability", "os", "--data-dir", data)
        yield process, WebLab(address)


def poll(queue: str, timeout_s: float = 60) -> bytes:
    """Return a poll of group g as bytes."""
    return request(f"GET /consume/{queue}/g?timeout={timeout_s}")


def zbus_consume(queue: str) -> bytes:
    """Return the consume of a zbus client as bytes."""
    return zbus_request("consume", queue, uuid4().hex)


def zbus_request(command: str, queue: str, id_: str = "") -> bytes:
    """Return a request of a zbus client that concerns group g."""
    return f"GET / HTTP/1.1\r\ncmd: {command}\r\nid: {id_}\r\ntopic: {queue}\r\nconsume_group: g\r\n\r\n".encode()


# -- one consumer that is gone -------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [poll, zbus_consume], ids=["http", "zbus"])
def test_message_for_a_reset_connection_goes_to_the_next(
    web_lab: WebLab, web: Web, queue: str, wait: Callable[[str], bytes]
) -> None:
    """The reset is on its way when the message is stored: each time the message is the next consumer's."""
    with Web(web_lab.address) as left:
        for number in range(ROUNDS):
            dying = Web(web_lab.address)
            dying.socket.sendall(wait(queue))
            web_lab.wait_consumers(queue, 2 if number else 1, "g")

            dying.reset()
            web.send(f"POST /produce/{queue}", b"%d" % number)

            answer = left.ask(f"GET /consume/{queue}/g?timeout=60")
            assert answer.body == b"%d" % number
            assert "retry" not in answer.headers
            assert web.receive().status == 200


def test_message_for_a_websocket_that_is_gone_goes_to_the_next(web_lab: WebLab, queue: str) -> None:
    """A WebSocket that was closed, and one whose connection was cut, take nothing along."""
    for number in range(ROUNDS):
        with connect(f"ws://{web_lab.address}/", compression=None, proxy=None) as websocket:
            websocket.send(zbus_consume(queue))
            web_lab.wait_consumers(queue, 1, "g")
            if number % 2:
                websocket.socket.shutdown(socket.SHUT_RDWR)
        web_lab.wait_consumers(queue, 0, "g")
        web_lab.produce(queue, str(number))

        assert web_lab.ask(f"GET /consume/{queue}/g?timeout=60").body == b"%d" % number


@pytest.mark.parametrize("is_reset", [False, True], ids=["closes", "resets"])
def test_messages_that_wait_behind_an_unanswered_request_are_given_back(
    web_lab: WebLab, web: Web, queue: str, is_reset: bool
) -> None:
    """Answers that were held back by an earlier one were not handed over: they come again, in order, and first."""
    web_lab.produce(queue, *"abcd")
    dying = Web(web_lab.address)
    web_lab.declare(f"{queue}-2")
    dying.socket.sendall(request(f"GET /consume/{queue}-2?timeout=60") + poll(queue) * 3)
    wait_until(lambda: web_lab.group(queue, "g")["messageCount"] == 1, "three messages taken")

    dying.reset() if is_reset else dying.socket.close()
    wait_until(lambda: web_lab.group(queue, "g")["messageCount"] == 4, "three messages given back")

    assert [web.ask(f"GET /consume/{queue}/g?timeout=60").body for _ in range(4)] == [b"a", b"b", b"c", b"d"]


def test_full_pipeline_that_was_reset_takes_nothing_along(web_lab: WebLab, web: Web, queue: str) -> None:
    """A connection with so many requests that the broker reads no more of it is found to be gone when it is written."""
    dying = Web(web_lab.address)
    dying.socket.sendall(poll(queue) * 300)
    web_lab.wait_consumers(queue, 1, "g")
    dying.reset()

    web_lab.produce(queue, *(str(number) for number in range(20)))

    received = [web.ask(f"GET /consume/{queue}/g?timeout=60").body for _ in range(20)]
    assert received == [b"%d" % number for number in range(20)]


def test_poll_that_is_answered_is_consumed_once(web_lab: WebLab, web: Web, queue: str) -> None:
    """A client that hangs up after its message has come gives nothing back."""
    web_lab.produce(queue, "one", "two")
    with Web(web_lab.address) as leaving:
        assert leaving.ask(f"GET /consume/{queue}/g?timeout=60").body == b"one"
        leaving.reset()
    web_lab.wait_consumers(queue, 0, "g")

    assert web.ask(f"GET /consume/{queue}/g?timeout=60").body == b"two"
    assert web.ask(f"GET /consume/{queue}/g?timeout=0").status == 204


# -- many consumers that are gone ----------------------------------------------------------------------------


def test_consumers_that_are_killed_leave_nothing_behind(os_site: tuple[Process, WebLab]) -> None:
    """After 200 of them the group has no consumer, the broker no more descriptors, and nothing is missing."""
    process, web_lab = os_site
    queue = f"T{uuid4().hex}"
    web_lab.declare(queue, "g")
    descriptors = count_descriptors(process)

    for number in range(200):
        dying = Web(web_lab.address)
        dying.socket.sendall((poll, zbus_consume)[number % 2](queue) * (1 + number % 3))
        if number % 5 == 0:
            web_lab.wait_consumers(queue, 1, "g")
        dying.reset() if number % 4 else dying.socket.close()
        if number % 5 == 0:
            web_lab.wait_consumers(queue, 0, "g")
    web_lab.wait_consumers(queue, 0, "g")
    wait_until(lambda: count_descriptors(process) <= descriptors, "the end of all connections")

    web_lab.produce(queue, *(str(number) for number in range(200)))
    with Web(web_lab.address) as web:
        received = [int(web.ask(f"GET /consume/{queue}/g?timeout=60").body) for _ in range(200)]
    assert received == list(range(200))


def count_descriptors(process: Process) -> int:
    """Return how many files and connections a process has open."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


class Crowd:
    """Consumers of one group that come and go at random, and what they have received."""

    def __init__(self, web_lab: WebLab, queue: str, count: int, seed: int) -> None:
        self._lab, self._queue, self._count, self._seed = web_lab, queue, count, seed
        self._lock = threading.Lock()
        self.received: list[int] = []
        self.per_connection: list[list[int]] = []

    @property
    def is_done(self) -> bool:
        """Whether all messages have come."""
        return len(self.received) >= self._count

    def consume(self, number: int, *, is_cut: bool) -> None:
        """Be one of them; `is_cut` lets some connections end while messages wait in vain to be written."""
        rng = random.Random(self._seed * 100 + number)
        ways = [self._poll, self._pipeline, self._zbus] + [self._vanish] * is_cut
        while not self.is_done:
            with Web(self._lab.address) as web:
                bodies = rng.choice(ways)(web, rng)
            with self._lock:
                self.received += bodies
                self.per_connection.append(bodies)

    def _poll(self, web: Web, rng: random.Random) -> list[int]:
        """One after the other."""
        answers = [web.ask(f"GET /consume/{self._queue}/g?timeout=0.01") for _ in range(rng.randrange(1, 30))]
        return [int(answer.body) for answer in answers if answer.status == 200]

    def _pipeline(self, web: Web, rng: random.Random) -> list[int]:
        """Several at once."""
        count = rng.randrange(1, 40)
        web.socket.sendall(poll(self._queue, 0.01) * count)
        answers = [web.receive() for _ in range(count)]
        return [int(answer.body) for answer in answers if answer.status == 200]

    def _zbus(self, web: Web, rng: random.Random) -> list[int]:
        """As a zbus client that asks again before it has its answer, and says that it leaves."""
        received: list[int] = []
        for _ in range(rng.randrange(1, 10)):
            web.socket.sendall(zbus_consume(self._queue) * rng.randrange(1, 3))
        web.socket.sendall(zbus_request("unconsume", self._queue) + zbus_request("ping", self._queue, "last"))
        while (answer := web.receive()).headers.get("id") != "last":
            received.append(int(answer.body))
        return received

    def _vanish(self, web: Web, rng: random.Random) -> list[int]:
        """Behind a poll that is not answered, so that no message can have been written."""
        web.socket.sendall(request(f"GET /consume/{self._queue}-2?timeout=60") + poll(self._queue) * rng.randrange(30))
        if rng.random() < 0.5:
            with suppress(AssertionError):
                wait_until(lambda: False, "a moment", rng.random() / 100)
        web.reset()
        return []


@pytest.mark.parametrize("is_cut", [False, True], ids=["leave", "are cut"])
def test_consumers_that_come_and_go_lose_and_double_nothing(os_site: tuple[Process, WebLab], is_cut: bool) -> None:
    """Eight of them share 2,000 messages that are produced meanwhile; who is cut off gives back what it had."""
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    _, web_lab = os_site
    queue = f"T{uuid4().hex}"
    web_lab.declare(queue, "g")
    web_lab.declare(f"{queue}-2")
    crowd = Crowd(web_lab, queue, 2000, seed)

    with ThreadPoolExecutor(8) as threads, Web(web_lab.address) as producer:
        consuming = [threads.submit(crowd.consume, number, is_cut=is_cut) for number in range(8)]
        for first in range(0, 2000, 20):
            numbers = range(first, first + 20)
            producer.socket.sendall(b"".join(request(f"POST /produce/{queue}", b"%d" % one) for one in numbers))
            assert [producer.receive().status for _ in numbers] == [200] * 20
        for future in consuming:
            future.result(3 * WAIT_S)

    assert sorted(crowd.received) == list(range(2000))
    web_lab.wait_consumers(queue, 0, "g")
    assert web_lab.group(queue, "g")["messageCount"] == 0
    if not is_cut:  # what was given back comes late
        assert all(bodies == sorted(bodies) for bodies in crowd.per_connection)
