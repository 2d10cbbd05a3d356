"""Peers that produce and consume rubbish, or too much: they are told so or lose their connection, nobody else does."""

import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.inprocess import running_broker
from tests.support.processes import Process, Processes
from tests.support.queue_peer import QueuePeer, entry
from tests.support.watch import watching
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.transport.entries import RANGE, RANGES_MAX, encode_ranges

MIB = 1024 * 1024
STALL_S_MAX = 2.0
"""Far more than anything here keeps the broker busy, and far less than what it must not be led into."""
LAST_OFFSET = 2**63 - 1


class Site:
    """A broker, and a good peer whose messages must get through whatever others do."""

    def __init__(self, broker: Process, address: str) -> None:
        self.broker, self.address = broker, address
        self.good = QueuePeer(address)
        self.good.declare("good", durability="os")
        self._subscription = self.good.consume("good", "good", window=8)
        self._count = 0

    def check(self) -> None:
        """See that a message is stored, delivered, and done."""
        offset = self.good.produce("good", f"message {self._count}")["offset"]
        (got,) = self.good.take(self._subscription, 1)
        assert (got.first, got.attempts, got.body.decode()) == (offset, 1, f"message {self._count}")
        assert self.good.ack(self._subscription, offset) == 1
        self._count += 1

    @contextmanager
    def undisturbed(self, memory_mib_max: int = 64) -> Iterator[None]:
        """See that the good peer never waits long, and that the broker does not grow, while something is done."""
        before = self.broker.memory_bytes
        good = QueuePeer(self.address)
        with watching(self.broker, good, lambda peer: peer.command("stats"), every_s=0.01) as watch:
            yield
        self.check()
        print(f"longest wait {watch.longest_s:.3f} s, {(self.broker.memory_bytes - before) // MIB} MiB more")
        assert watch.longest_s < STALL_S_MAX
        assert self.broker.memory_bytes - before < memory_mib_max * MIB
        assert "Traceback" not in self.broker.errors


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a broker for all tests of this file, none of which may harm it."""
    directory = tmp_path_factory.mktemp("site")
    with Processes(directory) as started:
        site = Site(*started.broker("--data-dir", str(directory / "data"), "--durability", "os"))
        with site.good:
            yield site


def refusal_of(ask: Callable[[], object]) -> RpcError:
    """Return the error that a request ends with."""
    with pytest.raises(RpcError) as caught:
        ask()
    return caught.value


# -- what breaks the rules -------------------------------------------------------------------------------

ENTRY = entry("body", id_="id", tag="tag", key="key")
MALFORMED = {
    "message that is cut": Message(Kind.PRODUCE, 1, b"bad", ENTRY[:-1]),
    "message with a rest behind it": Message(Kind.PRODUCE, 1, b"bad", ENTRY + b"rest"),
    "message longer than the frame": Message(Kind.PRODUCE, 1, b"bad", struct.pack(">I", 2**32 - 1) + ENTRY[4:]),
    "message shorter than its head": Message(Kind.PRODUCE, 1, b"bad", struct.pack(">I", 3) + ENTRY[4:]),
    "message of no bytes": Message(Kind.PRODUCE, 1, b"bad", bytes(30)),
    "key longer than the message": Message(Kind.PRODUCE, 1, b"bad", ENTRY[:24] + b"\xff\xff" + ENTRY[26:]),
    "time to live beyond all time": Message(Kind.PRODUCE, 1, b"bad", ENTRY[:4] + b"\xff" * 8 + ENTRY[12:]),
    "delay beyond all time": Message(Kind.PRODUCE, 1, b"bad", ENTRY[:12] + b"\xff" * 8 + ENTRY[20:]),
    "half a range": Message(Kind.ACK, 1, b"", bytes(15), session=1),
    "range that ends before it begins": Message(Kind.ACK, 1, b"", RANGE.pack(2, 1), session=1),
    "range beyond the last offset": Message(Kind.EXTEND, 1, b"", RANGE.pack(0, 2**64 - 1), session=1),
    "too many ranges": Message(Kind.ACK, 1, b"", RANGE.pack(0, 1) * (RANGES_MAX + 1), session=1),
    "delivery to the broker": Message(Kind.DELIVER, 1, b"", ENTRY, session=1),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_broken_rules_end_that_connection_with_a_reason(site: Site, name: str) -> None:
    """Whoever sends what cannot be read is told why and closed; the messages of others go on."""
    with QueuePeer(site.address) as peer:
        peer.declare("bad")
        assert peer.consume("bad", "bad") == 1

        peer.send(MALFORMED[name])
        *_, last = peer.messages()

    assert last.kind == Kind.GOODBYE
    assert bytes(last.body).decode()
    site.check()


REFUSED: dict[str, tuple[Kind, Any, str]] = {
    "no JSON": (Kind.CONSUME, b"\xff{", "invalid JSON"),
    "deep JSON": (Kind.CONSUME, b"[" * 100_000, "recursion limit"),
    "long number": (Kind.CONSUME, b'{"window": %b}' % (b"9" * 100_000), "an integer of 100000 digits"),
    "not an object": (Kind.COMMAND, [], "object"),
    "window too large": (Kind.CONSUME, {"group": "g", "window": 4097}, "window = 4097"),
    "group without a name": (Kind.CONSUME, {"group": ""}, "a group needs a name"),
    "group with a slash": (Kind.CONSUME, {"group": "../../etc"}, "may not hold '/'"),
    "filter that cannot be": (Kind.CONSUME, {"group": "g", "filter": "#.a"}, "must be the last segment"),
    "long filter": (Kind.CONSUME, {"group": "g", "filter": "+." * 5000}, "at most 255 bytes"),
    "start that is nowhere": (Kind.CONSUME, {"group": "g", "start": {"offset": LAST_OFFSET}}, "has no offset"),
    "start of two kinds": (Kind.CONSUME, {"group": "g", "start": {"offset": 1, "time_ms": 1}}, "offset with time_ms"),
    "lease of no time": (Kind.CONSUME, {"group": "g", "lease_ms": 0}, "lease_ms = 0"),
    "topic that is no name": (Kind.COMMAND, {"command": "declare", "topic": "a/b"}, "may not hold '/'"),
    "long topic": (Kind.COMMAND, {"command": "declare", "topic": "x" * 1_000_000}, "1000000 bytes exceeds"),
    "unknown command": (Kind.COMMAND, {"command": "x" * 1_000_000}, "command"),
    "option of a million letters": (Kind.COMMAND, {"command": "stats", "x" * 1_000_000: 1}, "has no option"),
    "segments of no bytes": (Kind.COMMAND, {"command": "declare", "topic": "t", "segment_bytes": 1}, "segment_bytes"),
    "offsets by the million": (
        Kind.COMMAND,
        b'{"command": "purge_dead", "topic": "bad", "offsets": [%b0]}' % (b"0," * 5_000_000),
        "exceeds the limit of 2097152 bytes",
    ),
    "mistakes by the hundred thousand": (
        Kind.CONSUME,
        b"{%b}" % b",".join(b'"%d":0' % number for number in range(150_000)),
        "150000 things are wrong",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_are_refused_in_one_line(site: Site, name: str) -> None:
    """What a body says wrong is refused in one short line, at no cost for others, and the connection goes on."""
    kind, body, reason = REFUSED[name]
    with QueuePeer(site.address) as peer, site.undisturbed(memory_mib_max=128):
        peer.declare("bad")

        error = refusal_of(lambda: peer.ask(kind, body, topic="bad"))

        assert error.code in {Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE}
        assert reason in error.message
        assert "\n" not in error.message
        assert len(error.message) < 400
        assert peer.command("stats")


# -- anything at all -------------------------------------------------------------------------------------

QUEUE_KINDS = (
    Kind.PRODUCE,
    Kind.CONSUME,
    Kind.ACK,
    Kind.NACK,
    Kind.EXTEND,
    Kind.PULL,
    Kind.LEAVE,
    Kind.COMMAND,
)
PEERS = 40
MESSAGES = 120


class Fuzz:
    """Bodies that are nearly right."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def message(self, number: int) -> Message:
        """Return a message to a topic, group or subscription that may exist."""
        kind = self.rng.choice(QUEUE_KINDS)
        is_fatal = kind in {Kind.PRODUCE, Kind.ACK, Kind.EXTEND}  # what cannot be read ends the connection
        body = self._body(kind)
        if self.rng.random() < (0.02 if is_fatal else 0.2):
            body = self._mutated(body)
        id_ = number if self.rng.random() < 0.8 else 0
        timeout_ms = self.rng.choice([0, 0, 1, 50, 2**32 - 1])
        return Message(kind, id_, self._topic(), body, timeout_ms=timeout_ms, session=self.rng.randrange(5))

    def _body(self, kind: Kind) -> bytes:
        if kind == Kind.PRODUCE:
            return b"".join(self._entry() for _ in range(self.rng.randrange(4)))
        if kind in {Kind.ACK, Kind.EXTEND}:
            return b"".join(RANGE.pack(*self._range()) for _ in range(self.rng.randrange(4)))
        return orjson.dumps(self._json(kind))

    def _entry(self) -> bytes:
        return entry(
            self.rng.randbytes(self.rng.randrange(50)),
            id_=self.rng.choice(["", "a", "b", "x" * 255]),
            key=self.rng.choice(["", "", "k", "l"]),
            tag=self.rng.choice(["", "a", "a.b", "....", "*"]),
            ttl_ms=self.rng.choice([0, 0, 1, LAST_OFFSET]),
            delay_ms=self.rng.choice([0, 0, 1, 40, LAST_OFFSET]),
        )

    def _json(self, kind: Kind) -> Any:
        if kind == Kind.NACK:
            then = self.rng.choice(["retry", "release", "dead"])
            ranges = [self._range() for _ in range(self.rng.randrange(4))]
            return {"ranges": ranges, "then": then, **self._some({"delay_ms": self._number(), "reason": "x\0y"})}
        if kind == Kind.PULL:
            return {"max": self.rng.choice([1, 3, 4096])}
        options = {"window": self.rng.choice([0, 1, 5, 4096]), "start": self._start(), **self._group_options()}
        if kind == Kind.CONSUME:
            return {"group": self.rng.choice([None, "g", "h"]), **self._some(options)}
        return self._command() if kind == Kind.COMMAND else None

    def _command(self) -> Any:
        names = ["declare", "declare_group", "topics", "topic", "remove", "empty", "pause", "resume", "seek", "peek"]
        name = self.rng.choice([*names, "dlq", "retry_dead", "purge_dead", "stats"])
        fields = {"topic": self._topic().decode()} if name not in {"topics", "stats"} else {}
        if name in {"declare_group", "pause", "resume", "seek"} or (name in {"remove", "empty"} and self._flip()):
            fields["group"] = self.rng.choice(["g", "h", "letters"])
        given: dict[str, Any] = {"update": self._flip()} if name.startswith("declare") else {}
        given |= {"start": self._start()} if name in {"declare_group", "seek", "peek", "dlq"} else {}
        given |= self._group_options() if name == "declare_group" else {}
        given |= self._topic_options() if name == "declare" else {}
        given |= {"offsets": [self._number()], "as_new": True} if name == "retry_dead" else {}
        return {"command": name, **fields, **self._some(given)}

    def _group_options(self) -> dict[str, Any]:
        return {
            "filter": self.rng.choice(["", "a", "a.*", "#", "+;b", "#.a"]),
            "exclusive": self._flip(),
            "ack": self._flip(),
            "lease_ms": self.rng.choice([100, 30_000]),
            "max_attempts": self.rng.choice([1, 2, 60_000]),
            "backoff_ms": self.rng.choice([0, 10]),
        }

    def _topic_options(self) -> dict[str, Any]:
        return {
            "durability": self.rng.choice(["memory", "os", "disk"]),
            "segment_bytes": self.rng.choice([4096, 65536]),
            "compact": self._flip(),
            "keep_consumed": self._flip(),
            "duplicate_window_ids": self.rng.choice([0, 1, 100]),
            "dead_letter_topic": self.rng.choice(["", "f0", "f1"]),
            "ttl_ms": self.rng.choice([1, 2**62]),
        }

    def _start(self) -> Any:
        number = self._number()
        return self.rng.choice(["oldest", "newest", {"offset": 0}, {"time_ms": number}, {"group": "g"}, {"id": "a"}])

    def _range(self) -> tuple[int, int]:
        first = self.rng.choice([0, 0, 1, self.rng.randrange(50), self._number()])
        return first, min(LAST_OFFSET, first + self.rng.choice([0, 0, 1, 10, LAST_OFFSET]))

    def _number(self) -> int:
        return self.rng.choice([0, 1, 7, 2**31, 2**62, LAST_OFFSET])

    def _topic(self) -> bytes:
        return self.rng.choice([b"f0", b"f1", b"f2", b"f0.dlq"])

    def _flip(self) -> bool:
        return self.rng.random() < 0.5

    def _some(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if self.rng.random() < 0.3}

    def _mutated(self, body: bytes) -> bytes:
        data = bytearray(body)
        for _ in range(self.rng.randrange(1, 3)):
            position = self.rng.randrange(len(data) + 1)
            action = self.rng.randrange(3)
            if action == 0:
                data[position : position + 1] = self.rng.randbytes(1)
            elif action == 1:
                del data[position:]
            else:
                data[position:position] = self.rng.choice([b"-1", b"null", b"9" * 30, b'"\\u0000"', b"\xff" * 8])
        return bytes(data)


@pytest.mark.parametrize("seed", [20240611, 20240612])
def test_anything_harms_nobody_else(site: Site, seed: int) -> None:
    """Thousands of messages that are nearly right: the broker lives, does not grow, and the good peer is served."""
    print(f"seed {seed}")
    fuzz, answered = Fuzz(seed), 0
    with site.undisturbed():
        for _ in range(PEERS):
            answered += say_anything(site.address, fuzz)
            site.check()

    print(f"{answered} answers and deliveries")
    assert answered > PEERS * MESSAGES / 4


def test_broker_starts_again_on_what_anything_left(processes: Processes, tmp_path: Path) -> None:
    """Whatever such messages made of topics and groups, a kill -9 later all of it is opened again, and goes on."""
    fuzz, arguments = Fuzz(7), ("--data-dir", str(tmp_path / "data"))
    for _ in range(2):
        broker, address = processes.broker(*arguments)
        for _ in range(PEERS // 4):
            say_anything(address, fuzz)
        broker.kill()

        assert not broker.log("mq.unreadable_topic")
        assert not broker.log("mq.damage")
        assert "Traceback" not in broker.errors


def say_anything(address: str, fuzz: Fuzz) -> int:
    """Be one peer, and return how many answers and deliveries came."""
    answered = 0
    with QueuePeer(address) as peer, suppress(AssertionError, StopIteration, OSError):
        for topic in ("f0", "f1", "f2"):
            with suppress(RpcError):
                peer.declare(topic)
        for number in range(1000, 1000 + MESSAGES):
            peer.send(fuzz.message(number))
        peer.send(Message(Kind.PING, 1))
        while peer.next_message().kind != Kind.PONG:
            answered += 1
    return answered


# -- too much --------------------------------------------------------------------------------------------


def test_long_ranges_do_not_stall_the_broker(site: Site) -> None:
    """However many and long the ranges of one frame are, the broker looks at what it has once."""
    pending, per_frame = 60_000, 6_000
    with QueuePeer(site.address) as peer:
        peer.declare("wide")
        for _ in range(0, pending, per_frame):
            peer.produce("wide", *[entry("", delay_ms=3_600_000)] * per_frame)
        subscription = peer.consume("wide", "billing", lease_ms=100_000)
        peer.produce("wide", "now", "later")
        now, later = peer.take(subscription, 2)
        everything = RANGE.pack(0, LAST_OFFSET)
        overlapping = b"".join(RANGE.pack(number, pending + number) for number in range(RANGES_MAX - 1))

        with site.undisturbed():
            assert peer.ask(Kind.EXTEND, everything * RANGES_MAX, session=subscription) == 2
            assert peer.ask(Kind.EXTEND, everything + overlapping, session=subscription) == 2
            assert peer.ask(Kind.ACK, overlapping + RANGE.pack(later.first, LAST_OFFSET), session=subscription) == 2
            ranges = [[0, LAST_OFFSET]] * 10_000
            assert peer.ask(Kind.NACK, {"ranges": ranges, "then": "dead"}, session=subscription) == 0
            single = encode_ranges(range(0, 2 * RANGES_MAX, 2))
            assert peer.ask(Kind.ACK, single, session=subscription) == 0
        peer.command("remove", topic="wide")

    assert now.first == pending


def test_same_answer_a_thousand_times_counts_once(site: Site) -> None:
    """A message that is given back again and again in one frame comes again once, and none of its attempts is lost."""
    with QueuePeer(site.address) as peer:
        peer.declare("again")
        peer.produce("again", "one")
        subscription = peer.consume("again", "billing", window=1)
        (first,) = peer.take(subscription, 1)
        counts = []
        for then in ("release", "retry", "release"):
            fields = {"ranges": [[first.first, first.first]] * 1000, "then": then, "delay_ms": 0}
            counts.append(peer.ask(Kind.NACK, fields, session=subscription))
            (again,) = peer.take(subscription, 1)
        count = peer.ack(subscription, first.first, first.first)
        peer.command("remove", topic="again")

    assert counts == [1, 1, 1]
    assert again.attempts == 2
    assert count == 1


def test_answer_that_its_peer_cannot_take_is_an_error(site: Site) -> None:
    """Who asks for more than it takes in one message is told so, and keeps its connection."""
    with QueuePeer(site.address) as peer:
        peer.declare("large")
        peer.produce("large", entry(b"\xff" * 14 * MIB))  # a third longer in base64
        error = refusal_of(lambda: peer.command("peek", topic="large", body_bytes_max=2**31))
        shown = peer.command("peek", topic="large", body_bytes_max=10)
        peer.command("remove", topic="large")

    assert error.code is Code.RESOURCE_EXHAUSTED
    assert f"exceeds the limit of {16 * MIB} bytes" in error.message
    assert len(shown["messages"]) == 1


def test_subscriptions_of_one_peer_are_bounded(site: Site) -> None:
    """A peer that consumes a hundred thousand times is refused from some number on, and others are served."""
    limit, count = Limits().subscriptions_per_session_max, 12_000
    with QueuePeer(site.address) as peer, site.undisturbed(memory_mib_max=160):
        peer.declare("many")
        requests = [peer.post(Kind.CONSUME, {"group": "one", "window": 1}, topic="many") for _ in range(count)]
        refusals = [error for error in map(peer.outcome, requests) if isinstance(error, RpcError)]
        peer.command("remove", topic="many")

    assert len(refusals) == count - limit
    assert {error.code for error in refusals} == {Code.RESOURCE_EXHAUSTED}
    assert f"limit of {limit} subscriptions of one connection" in refusals[0].message


@pytest.mark.anyio
async def test_topics_and_groups_are_bounded(tmp_path: Path) -> None:
    """However many topics and groups one peer asks for, there are no more than the limits say, and others work."""
    limits = Limits(topics_max=20, groups_per_topic_max=10, groups_max=25)

    def ask_for_many(address: str) -> tuple[list[Any], list[Any], list[Any]]:
        with QueuePeer(address) as peer:
            topics = [peer.post(Kind.COMMAND, {"command": "declare", "topic": f"t{number}"}) for number in range(50)]
            made = [peer.outcome(request) for request in topics]
            asked = [(f"t{number % 2}", f"g{number}") for number in range(50)]
            groups = [peer.post(Kind.CONSUME, {"group": group}, topic=topic) for topic, group in asked]
            joined = [peer.outcome(request) for request in groups]
            nameless = [peer.post(Kind.CONSUME, {"group": None}, topic="t2") for _ in range(20)]
            alone = [peer.outcome(request) for request in nameless]
            assert peer.produce("t0", "goes on")["offset"] == 0
            return made, joined, alone

    async with running_broker(limits=limits, data_dir=str(tmp_path / "data")) as server:
        import anyio

        made, joined, alone = await anyio.to_thread.run_sync(ask_for_many, server.broker.name)

    assert [isinstance(one, RpcError) for one in made] == [False] * 20 + [True] * 30
    assert "limit of 20 stored topics" in made[-1].message
    assert [isinstance(one, RpcError) for one in joined] == [False] * 20 + [True] * 30
    assert "limit of 10 consume groups of one topic" in joined[-1].message
    assert [isinstance(one, RpcError) for one in alone] == [False] * 5 + [True] * 15
    assert "limit of 25 consume groups" in alone[-1].message
    for error in (made[-1], joined[-1], alone[-1]):
        assert error.code is Code.RESOURCE_EXHAUSTED
