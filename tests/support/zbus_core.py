"""Text sessions without sockets: the real core and its topics over a disk in memory, with time that the test moves.

    core = ZbusCore()
    anna, bert = core.session(), core.session()
    anna.zbus("declare", topic="orders")
    waiting = bert.zbus("consume", topic="orders")
    anna.zbus("produce", b"hello", topic="orders")
    assert read(waiting).body == b"hello"

What a session asks for is carried out at once, with all turns it takes.
"""

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from tests.support.queue_lab import QueueLab
from tests.support.web import Answer
from zbusrpc.broker.core.asking import Asker
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.dialects.zbus.session import ZbusSession
from zbusrpc.broker.dialects.zbus.urls import Command
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.session import Session
from zbusrpc.message import Kind, Message
from zbusrpc.transport.http import HttpRequest


class Ring:
    """A timer that rings when the test lets time pass."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Let it not ring."""
        self.callback = None


class ZbusCore:
    """One broker's core with its hub."""

    def __init__(self, *, has_queues: bool = True, limits: Limits | None = None) -> None:
        self._rings: list[tuple[float, int, Ring]] = []
        self._numbers = itertools.count()
        self.lab = QueueLab(limits=limits)
        self.broker = Broker("127.0.0.1:15555", limits)
        if has_queues:
            self.broker.attach(self.lab.store)
        scheduler = self.lab.scheduler
        self.hub = Hub(self.broker, now=scheduler.now, now_ms=scheduler.now_ms, later=self._later)
        self.hub.address = self.broker.name
        self.hub.attach()
        self._sessions: dict[int, TextSession] = {}

    def session(self) -> "TextSession":
        """Begin a session."""
        made = TextSession(self)
        self._sessions[made.session.number] = made
        return made

    def group(self, topic: str, name: str = "") -> Group:
        """Return a group."""
        return self.lab.store.topics[topic].groups[name or topic]

    @property
    def timers(self) -> int:
        """How many timers would ring, besides those by which the tracker tells of changes."""
        callbacks = [ring.callback for _, _, ring in self._rings]
        return sum(one is not None and getattr(one, "__self__", None) is not self.hub.tracker for one in callbacks)

    def run(self) -> None:
        """Go on until there is nothing to do now."""
        scheduler = self.lab.scheduler
        self._settle()
        while scheduler.turns or (scheduler.work and not self.lab.are_workers_held):
            turns, scheduler.turns = scheduler.turns, []
            for callback in turns:
                callback()
            if scheduler.work and not self.lab.are_workers_held:
                self.lab.work()
            self._settle()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and ring what is due on the way."""
        scheduler, end = self.lab.scheduler, self.lab.scheduler.now_s + seconds
        while self._rings and self._rings[0][0] <= end:
            at, _, ring = heapq.heappop(self._rings)
            scheduler.advance(max(at, scheduler.now_s))
            if ring.callback is not None:
                ring.callback()
                self.run()
        scheduler.advance(end)
        self.broker.expire(scheduler.now_s)
        self.run()

    def _later(self, delay_s: float, callback: Callable[[], None]) -> Ring:
        ring = Ring(callback)
        heapq.heappush(self._rings, (self.lab.scheduler.now_s + delay_s, next(self._numbers), ring))
        return ring

    def _settle(self) -> None:
        self.broker.settle()
        while self.broker.dirty:
            dirty, self.broker.dirty = self.broker.dirty, []
            for session in dirty:
                items, session.outbox = session.outbox, []
                if session.number in self._sessions:
                    self._sessions[session.number].receive(items)
            self.broker.settle()


class TextSession:
    """One text connection, as far as the core knows it."""

    def __init__(self, core: ZbusCore) -> None:
        self._core = core
        self.session: Session = core.broker.connect("test")
        self.pushes: list[bytes] = []
        """What came without a request."""
        self.is_behind = False
        """Whether what is sent next comes while an earlier request waits for its answer."""
        self.asker = Asker(core.broker, self.session, self.pushes.append, core.hub.now)
        self.dialect = ZbusSession(core.hub, self.asker)

    def zbus(self, cmd: str, body: bytes = b"", **headers: str) -> Exchange:
        """Send a request of a zbus client."""
        return self._take(HttpRequest("GET", b"/", {"cmd": cmd, **headers}, body, True), is_ordered=False)

    def start(self, cmd: str, **headers: str) -> Exchange:
        """Send a request of a zbus client, and let no turn pass."""
        return self._begin(HttpRequest("GET", b"/", {"cmd": cmd, **headers}, b"", True), is_ordered=False)

    def http(self, target: str, body: bytes = b"", **headers: str) -> Exchange:
        """Send a request of an HTTP client; `_` in names of headers stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._take(HttpRequest("GET", target.encode(), named, body, True), is_ordered=True)

    def close(self) -> None:
        """End the session, as the loss of its connection does."""
        self.dialect.close()
        self._core.broker.disconnect(self.session, self._core.lab.scheduler.now())
        self._core.run()

    def receive(self, items: list[Any]) -> None:
        """Take what the core has for this session."""
        for item in items:
            if isinstance(item, Message) and item.kind == Kind.REPLY:
                self.asker.take_reply(item)
            elif isinstance(item, Message):
                self.dialect.receive(item)

    def _take(self, request: HttpRequest, *, is_ordered: bool) -> Exchange:
        exchange = self._begin(request, is_ordered=is_ordered)
        self._core.run()
        return exchange

    def _begin(self, request: HttpRequest, *, is_ordered: bool) -> Exchange:
        exchange = Exchange(
            lambda answered: self._core.broker.send(self.session, answered),
            id_=request.headers.get("id", ""),
            is_ordered=is_ordered,
        )
        exchange.is_first = not self.is_behind
        self.dialect.take(Command(request), exchange)
        return exchange


def read(exchange: Exchange) -> Answer:
    """Return the answer of an exchange, which must have one."""
    assert exchange.data is not None, "no answer"
    head, _, body = exchange.data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(status=int(first.split(" ")[1]), headers=headers, body=body, head=head)
