"""A message queue without sockets: the real core over a disk in memory, a clock that the test sets, and peers.

    lab = QueueLab()
    anna, bert = lab.peer("anna"), lab.peer("bert")
    anna.declare("orders")
    consumer = bert.consume("orders", "billing")
    anna.produce("orders", "one", "two")
    assert consumer.take() == ["one", "two"]

What a peer asks for is carried out at once, with all turns and workers it takes, unless it is only sent: then `run`
does it, or `turn` one turn of it. `pass_time` moves both clocks and rings all that is due; `jump_clock` moves the wall
clock.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from tests.support.faulty_disk import FaultyDisk
from zbusrpc.broker.assembly.clock import Clock
from zbusrpc.broker.mq.backend import Backend, FileBackend
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.journal import Journal
from zbusrpc.broker.mq.queues import Queues
from zbusrpc.broker.mq.recollection import Said
from zbusrpc.broker.mq.requests import asked_by
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.session import BYTES_MAX, Session
from zbusrpc.broker.storage.commit import Durability
from zbusrpc.envelope import WireError, parse_error
from zbusrpc.errors import RpcError
from zbusrpc.message import Flag, Kind, Message, encode_headers
from zbusrpc.transport.entries import Entry, decode_entries, encode_entry, encode_ranges

DATA_DIR = "/data"
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
Work = tuple[Callable[[], None], Callable[[BaseException | None], None]]


class LabScheduler:
    """Time, turns and threads that stand still until the test moves them."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.wall_ms = START_MS
        self.turns: list[Callable[[], None]] = []
        self.work: list[Work] = []
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.start_clock()

    def now(self) -> float:
        return self.now_s

    def start_clock(self) -> None:
        """Look at the wall clock, as a broker does when it starts."""
        self.now_ms = Clock(lambda: self.wall_ms * 1_000_000, lambda: round(self.now_s * 1e9)).now_ms

    def soon(self, callback: Callable[[], None]) -> None:
        self.turns.append(callback)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (self.now_s + delay_s, next(self._numbers), callback))

    def in_worker(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        self.work.append((work, done))

    def sync(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Do `work` in a worker: tests decide when."""
        self.in_worker(work, done)

    def advance(self, to_s: float) -> None:
        """Let time pass on both clocks."""
        self.wall_ms += round((to_s - self.now_s) * 1000)
        self.now_s = to_s

    def forget(self) -> None:
        """Let nothing go on of what a process had begun."""
        self.turns, self.work, self.timers = [], [], []


class QueueLab:
    """One broker's message queue and all that drives it."""

    def __init__(
        self,
        disk: Any = None,
        *,
        data_dir: str = DATA_DIR,
        durability: Durability = Durability.DISK,
        seed: int = 1,
        limits: Limits | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.disk = disk or FaultyDisk()
        """A real one will do for what is no power cut."""
        self._backend = backend
        self.scheduler = LabScheduler()
        self.are_workers_held = False
        """Whether workers wait for `work`."""
        self.on_delivery: Callable[[Consumer, Entry], None] = lambda consumer, entry: None
        """Called with each message as it reaches its consumer."""
        self._data_dir, self._limits = data_dir, limits
        self._durability, self._rng = durability, random.Random(seed)
        self._peers: dict[int, Peer] = {}
        self._numbers = itertools.count(1)
        self._faults: list[Exception] = []
        self._open()

    def _open(self) -> None:
        self.scheduler.start_clock()
        backend = self._backend or FileBackend(self.disk, self._data_dir)
        self.store = Store(backend, self.scheduler, durability=self._durability, rng=self._rng, limits=self._limits)
        self.queues = Queues(self.store, self._send, rng=self._rng)
        self._watch_for_faults()
        for _ in self.store.opening():
            pass

    def _watch_for_faults(self) -> None:
        dispatch = self.queues._dispatch

        def watched(group: Group, now: float, now_ms: int) -> None:
            try:
                dispatch(group, now, now_ms)
            except Exception as error:
                self._faults.append(error)

        self.queues._dispatch = watched

    def _send(self, session: Session, message: Message) -> None:
        self._peers[session.number].received(message)

    # -- what there is -----------------------------------------------------------------------------------

    def peer(self, name: str = "peer", message_bytes_max: int = BYTES_MAX) -> "Peer":
        """Begin a session."""
        session = Session(next(self._numbers), name, message_bytes_max)
        peer = self._peers[session.number] = Peer(self, session)
        return peer

    def topic(self, name: str = "orders") -> Topic:
        return self.store.topics[name]

    def group(self, topic: str = "orders", name: str = "billing") -> Group:
        return self.store.topics[topic].groups[name]

    # -- turns -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Hand out what is there; a fault of one group, which a broker only logs, fails the test."""
        self.queues.settle()
        if self._faults:
            raise self._faults.pop()

    def turn(self) -> None:
        """End the turn: hand out what is there, and call what was to be called."""
        self.settle()
        turns, self.scheduler.turns = self.scheduler.turns, []
        for callback in turns:
            callback()
            self.settle()

    def work(self, number: int = 0) -> None:
        """Let a worker finish."""
        work, done = self.scheduler.work.pop(number)
        error: BaseException | None = None
        try:
            work()
        except Exception as raised:
            error = raised
        done(error)
        self.settle()

    def run(self) -> None:
        """Go on until there is nothing to do now."""
        self.turn()
        while self.scheduler.turns or (self.scheduler.work and not self.are_workers_held):
            self.turn()
            if self.scheduler.work and not self.are_workers_held:
                self.work()

    def hold_workers(self) -> None:
        """Let workers wait for `work` from now on."""
        self.are_workers_held = True

    def release_workers(self) -> None:
        """Let workers work again."""
        self.are_workers_held = False
        self.run()

    # -- time --------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what is due on the way."""
        scheduler = self.scheduler
        end = scheduler.now_s + seconds
        self.run()
        while (at := self._next_at()) is not None and at <= end:
            scheduler.advance(max(at, scheduler.now_s))
            while scheduler.timers and scheduler.timers[0][0] <= scheduler.now_s:
                heapq.heappop(scheduler.timers)[2]()
                self.settle()
            self.queues.expire(scheduler.now_s)
            self.run()
        scheduler.advance(end)

    def _next_at(self) -> float | None:
        times = [self.scheduler.timers[0][0] if self.scheduler.timers else None, self.queues.next_expiry()]
        return min((at for at in times if at is not None), default=None)

    def jump_clock(self, by_ms: int) -> None:
        """Let somebody set the wall clock."""
        self.scheduler.wall_ms += by_ms

    # -- ends and beginnings -----------------------------------------------------------------------------

    def restart(self) -> None:
        """Close as a broker does that is asked to stop, and open again."""
        closed: list[bool] = []
        self.disconnect_all()
        self.store.close(lambda: closed.append(True))
        self.run()
        assert closed
        self.crash()

    def crash(self) -> None:
        """Stop as `kill -9` does, and open again: what was written is there."""
        for peer in self._peers.values():
            peer.session.is_gone = True
        self._peers.clear()
        self.scheduler.forget()
        self._open()

    def disconnect_all(self) -> None:
        """Let all peers lose their connections."""
        for peer in [peer for peer in self._peers.values() if not peer.session.is_gone]:
            peer.disconnect()


class Peer:
    """One session and what it was sent."""

    def __init__(self, lab: QueueLab, session: Session) -> None:
        self.lab, self.session = lab, session
        self.replies: dict[int, Any | WireError] = {}
        """Results and errors, by request."""
        self.consumers: dict[int, Consumer] = {}
        self.frames: list[Message] = []
        """All that came, in order."""

    def received(self, message: Message) -> None:
        self.frames.append(message)
        if message.kind == Kind.REPLY:
            assert message.id not in self.replies, "answered twice"
            is_error = message.flags & Flag.ERROR
            self.replies[message.id] = parse_error(message.body) if is_error else orjson.loads(message.body)["result"]
            self._note_subscription(message.id)
        elif message.kind == Kind.DELIVER:
            consumer = self.consumers[message.session]
            for one in decode_entries(message.body):
                consumer.entries.append(one)
                self.lab.on_delivery(consumer, one)
        elif message.kind == Kind.MOVED:
            consumer = self.consumers.pop(message.session)
            consumer.number = orjson.loads(message.body)["subscription"]
            self.consumers[consumer.number] = consumer
        elif message.kind == Kind.RECALL:
            self.consumers[message.session].recalls.append(int.from_bytes(message.body, "big"))
        else:
            assert message.kind == Kind.LEAVE
            self.consumers[message.session].ended = parse_error(message.body)

    def _note_subscription(self, request_id: int) -> None:
        result = self.replies[request_id]
        if isinstance(result, dict) and "subscription" in result:
            consumer = Consumer(self, result)
            self.consumers[consumer.number] = consumer

    # -- asking ------------------------------------------------------------------------------------------

    def send(
        self,
        kind: Kind,
        body: bytes = b"",
        *,
        topic: str = "",
        session: int = 0,
        timeout_ms: int = 0,
        is_answered: bool = True,
    ) -> int:
        """Send a message and return its id; nothing is done yet that waits for the end of the turn."""
        self.session.last_id += 1
        id_ = self.session.last_id if is_answered else 0
        message = Message(kind, id_, topic.encode(), body, timeout_ms=timeout_ms, session=session)
        try:
            self.lab.queues.receive(self.session, message, asked_by(message))
        except RpcError as error:  # it cannot be read
            self.lab.queues.refuse(self.session, id_, error)
        return id_

    def answer(self, request_id: int) -> Any:
        """Return the answer to a request, which is there; raise it where it is an error."""
        answer = self.replies[request_id]
        if isinstance(answer, WireError):
            raise RpcError(answer.code, answer.message, answer.details)
        return answer

    def ask(self, kind: Kind, body: Any = b"", **fields: Any) -> Any:
        """Send a message and return the answer; what is no bytes becomes JSON."""
        request_id = self.send(kind, body if isinstance(body, bytes) else orjson.dumps(body), **fields)
        self.lab.run()
        return self.answer(request_id)

    def command(self, name: str, **fields: Any) -> Any:
        return self.ask(Kind.COMMAND, {"command": name, **fields})

    def send_command(self, name: str, **fields: Any) -> int:
        return self.send(Kind.COMMAND, orjson.dumps({"command": name, **fields}))

    def declare(self, topic: str = "orders", **options: Any) -> Any:
        return self.command("declare", topic=topic, **options)

    def produce(self, topic: str, *messages: "str | bytes") -> Any:
        """Store a frame of messages, made by `entry` or given as their bodies, and return the receipt."""
        request_id = self.send_produce(topic, *messages)
        self.lab.run()
        return self.answer(request_id)

    def send_produce(self, topic: str, *messages: "str | bytes") -> int:
        entries = (one if isinstance(one, bytes) else entry(one) for one in messages)
        return self.send(Kind.PRODUCE, b"".join(entries), topic=topic)

    def consume(self, topic: str, group: str | None = "billing", **options: Any) -> "Consumer":
        result = self.ask(Kind.CONSUME, {"group": group, **options}, topic=topic)
        return self.consumers[result["subscription"]]

    def disconnect(self) -> None:
        """Lose the connection."""
        self.session.is_gone = True
        self.lab.queues.disconnect(self.session)
        self.lab.run()

    def congest(self, is_congested: bool) -> None:
        """Read too slowly, or not any more."""
        self.session.is_congested = is_congested
        self.lab.queues.set_congested(self.session, is_congested)
        self.lab.run()


class Consumer:
    """One subscription of a peer, and what was delivered to it."""

    def __init__(self, peer: Peer, result: dict[str, Any]) -> None:
        self.peer = peer
        self.number: int = result["subscription"]
        self.group: str = result["group"]
        self.result = result
        self.entries: list[Entry] = []
        self.recalls: list[int] = []
        """How many messages it was asked for, each time."""
        self.ended: WireError | None = None
        self._taken = 0

    def take_entries(self) -> list[Entry]:
        """Return what was delivered since this was last asked."""
        entries, self._taken = self.entries[self._taken :], len(self.entries)
        return entries

    def take(self) -> list[str]:
        """Return the bodies of what was delivered since this was last asked."""
        return [one.body.decode() for one in self.take_entries()]

    def attempts(self) -> list[tuple[str, int]]:
        """Return bodies and numbers of the delivery of what was delivered since this was last asked."""
        return [(one.body.decode(), one.attempts) for one in self.take_entries()]

    def work_off(self) -> list[str]:
        """Take and acknowledge until nothing more comes, and return the bodies."""
        bodies: list[str] = []
        while entries := self.take_entries():
            bodies += [one.body.decode() for one in entries]
            self.ack(*(one.first for one in entries))
        return bodies

    def offset_of(self, body: str) -> int:
        """Return the offset at which a message was delivered last."""
        return next(one.first for one in reversed(self.entries) if one.body.decode() == body)

    def ack(self, *offsets: int) -> int:
        return int(self.peer.ask(Kind.ACK, encode_ranges(sorted(offsets)), session=self.number))

    def ack_all(self) -> int:
        return self.ack(*{one.first for one in self.entries})

    def extend(self, *offsets: int) -> int:
        return int(self.peer.ask(Kind.EXTEND, encode_ranges(sorted(offsets)), session=self.number))

    def begin(self, *offsets: int) -> int:
        """Say that messages were begun."""
        return int(self.peer.ask(Kind.BEGUN, encode_ranges(sorted(offsets)), session=self.number))

    def nack(self, *offsets: int, **fields: Any) -> int:
        body = {"ranges": [[offset, offset] for offset in offsets], **fields}
        return int(self.peer.ask(Kind.NACK, body, session=self.number))

    def send_pull(self, count: int, timeout_ms: int = 0) -> int:
        return self.peer.send(Kind.PULL, orjson.dumps({"max": count}), session=self.number, timeout_ms=timeout_ms)

    def pull(self, count: int, timeout_ms: int = 0) -> int:
        request_id = self.send_pull(count, timeout_ms)
        self.peer.lab.run()
        return int(self.peer.answer(request_id))

    def leave(self) -> None:
        self.peer.ask(Kind.LEAVE, session=self.number)


def entry(
    body: str = "",
    *,
    id_: str = "",
    tag: str = "",
    key: str = "",
    ttl_ms: int = 0,
    delay_ms: int = 0,
    headers: dict[str, str] | None = None,
) -> bytes:
    """Return one message as a producer sends it."""
    head = encode_headers(headers or {})
    return encode_entry(ttl_ms, delay_ms, 0, id_.encode(), tag.encode(), key.encode(), head, body.encode())


def read_journal(journal: Journal) -> dict[bytes, Said]:
    """Return what a journal says of each group, read in one go."""
    reading = journal.reading()
    while True:
        try:
            next(reading)
        except StopIteration as ended:
            found: dict[bytes, Said] = ended.value
            return found


def lab_with(*bodies: str | bytes, topic: str = "orders", **options: Any) -> tuple[QueueLab, Peer]:
    """Return a lab with a topic that holds some messages, and the peer that made it."""
    lab = QueueLab()
    peer = lab.peer("anna")
    peer.declare(topic, **options)
    if bodies:
        peer.produce(topic, *bodies)
    return lab, peer


def bodies_of(shown: dict[str, Any]) -> list[str]:
    """Return the bodies of what `peek` or `dlq` shows."""
    return [message["body"] for message in shown["messages"]]


def outcome(attempt: Callable[[], Any]) -> Any:
    """Return what an attempt gives, or the error with which it is refused."""
    try:
        return attempt()
    except RpcError as error:
        return error


def refusals(*attempts: Callable[[], object]) -> Iterator[RpcError]:
    """Yield the error of each attempt; all must fail."""
    for attempt in attempts:
        try:
            attempt()
        except RpcError as error:
            yield error
        else:
            raise AssertionError("was not refused")
