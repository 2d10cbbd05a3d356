"""A seeded simulation: a broker core and an independent model of it take the same steps and must agree."""

import random
from collections.abc import Callable

import orjson
import pytest

from tests.property.broker_model import Key, Model, ModelCall
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import ProtocolError
from zbusrpc.message import Flag, Kind, Message

TOPICS = ("Calc", "Mail", "Shop", "Zoo")
LIMITS = Limits(queue_calls_max=5, queued_bytes_max=120, topics_max=3, calls_per_session_max=6)
STEP_S = 0.25
"""Times are multiples of it, so that no deadline falls into the 10 ms within which both answers are right."""


class Simulation:
    """One broker, its model, and a random history of both."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.broker = Broker("simulated", LIMITS)
        self.model = Model(LIMITS)
        self.sessions: dict[int, Session] = {}
        self.now = 1000.0
        self.started: list[Key] = []
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (3, self.connect),
            (30, self.request),
            (6, self.cancel),
            (8, self.subscribe),
            (3, self.unsubscribe),
            (30, self.finish),
            (5, self.congest),
            (8, self.pass_time),
            (2, self.disconnect),
            (2, self.break_the_rules),
        ]

    def step(self) -> None:
        """Do one random thing to broker and model, and compare them."""
        weights = [weight for weight, _ in self.actions]
        action = self.rng.choices([action for _, action in self.actions], weights)[0] if self.sessions else self.connect
        action()
        self.model.observe(self.broker, self.now)
        self.model.check(self.broker)

    def any_session(self) -> Session:
        return self.rng.choice(list(self.sessions.values()))

    def receive(self, session: Session, message: Message) -> None:
        self.broker.receive(session, message, self.now)

    # -- actions -----------------------------------------------------------------------------------------

    def connect(self) -> None:
        if len(self.sessions) < 7:
            session = self.broker.connect("peer")
            self.sessions[session.number] = session
            self.model.connect(session.number)

    def request(self) -> None:
        session, rng = self.any_session(), self.rng
        topic, body = rng.choice(TOPICS), bytes(rng.randrange(50))
        flags = rng.choice([0, 0, Flag.IDEMPOTENT]) | rng.choice([0, 0, Flag.WAIT_FOR_READY])
        timeout_ms = rng.choice([0, 250, 500, 1000, 4000])
        key = session.number, session.last_id + rng.choice([1, 1, 1, 5])
        deadline = self.now + timeout_ms / 1000 if timeout_ms else None
        self.receive(session, Message(Kind.REQUEST, key[1], topic.encode(), body, b"", flags, timeout_ms))
        self.started.append(key)
        self.model.request(key, ModelCall(topic, flags, deadline, len(body)), self.now)

    def cancel(self) -> None:
        session = self.any_session()
        own = [key for key in self.started[-40:] if key[0] == session.number]
        if own:
            key = self.rng.choice(own)
            self.receive(session, Message(Kind.CANCEL, key[1]))
            self.model.cancel(key)

    def subscribe(self) -> None:
        session, topic, window = self.any_session(), self.rng.choice(TOPICS), self.rng.choice([1, 2, 3, 8])
        if (session.number, topic) not in self.model.subscriptions:
            body = orjson.dumps({"window": window})
            self.receive(session, Message(Kind.SUBSCRIBE, 0, topic.encode(), body))
            self.model.subscribe(session.number, topic, window, self.now)

    def unsubscribe(self) -> None:
        session, topic = self.any_session(), self.rng.choice(TOPICS)
        self.receive(session, Message(Kind.UNSUBSCRIBE, 0, topic.encode()))
        self.model.unsubscribe(session.number, topic, self.now)

    def finish(self) -> None:
        session, rng = self.any_session(), self.rng
        held = list(self.model.held[session.number])
        key = rng.choice(held) if held and rng.random() < 0.95 else rng.choice(self.started or [(1, 1)])
        kind = rng.choices([Kind.REPLY, Kind.DONE, Kind.RETURN], [8, 1, 2])[0]
        self.receive(session, Message(kind, key[1], body=b'{"result":1}', session=key[0]))
        self.model.finish(session.number, key, kind, self.now)

    def congest(self) -> None:
        session = self.any_session()
        is_congested = not self.model.sessions[session.number]
        self.broker.set_congested(session, is_congested, self.now)
        self.model.congest(session.number, is_congested, self.now)

    def pass_time(self) -> None:
        self.now += STEP_S * self.rng.choice([1, 1, 2, 8])
        if self.rng.random() < 0.8:  # the shell's timer may be late
            self.broker.expire(self.now)
            self.model.expire(self.now)

    def disconnect(self) -> None:
        session = self.any_session()
        del self.sessions[session.number]
        self.broker.disconnect(session, self.now)
        self.model.disconnect(session.number, self.now)

    def break_the_rules(self) -> None:
        session = self.any_session()
        wrong = self.rng.choice(
            [
                Message(Kind.REQUEST, session.last_id, b"Calc"),
                Message(Kind.SUBSCRIBE, 0, b"", b'{"window":1}'),
                Message(Kind.SUBSCRIBE, 0, b"Calc", b'{"window":0}'),
                Message(Kind.SUBSCRIBE, 0, b"Calc", b"[]"),
                Message(Kind.PONG),
            ]
        )
        with pytest.raises(ProtocolError):
            self.receive(session, wrong)

    def end(self) -> None:
        """Let everybody go and see that nothing is left."""
        for session in list(self.sessions.values()):
            del self.sessions[session.number]
            self.broker.disconnect(session, self.now)
            self.model.disconnect(session.number, self.now)
            self.model.observe(self.broker, self.now)
            self.model.check(self.broker)
        statistics = self.broker.statistics()
        sizes = ("sessions", "topics", "queued", "queued_bytes", "in_flight")
        assert {name: statistics[name] for name in sizes} == dict.fromkeys(sizes, 0)
        assert [(len(shares), shares.total) for shares in self.broker.calls.topics.shares] == [(0, 0)] * 5
        self.broker.expire(self.now + 100)
        assert self.broker.next_expiry() is None
        assert not self.broker.dirty


def simulate(seed: int, steps: int) -> None:
    simulation = Simulation(seed)
    for number in range(steps):
        try:
            simulation.step()
        except BaseException:
            print(f"seed {seed}, step {number}")
            raise
    simulation.end()


@pytest.mark.parametrize("seed", range(30))
def test_broker_core_does_what_its_model_says(seed: int) -> None:
    """Whatever callers, instances and the clock do, each call ends once and as the model says, and nothing leaks."""
    simulate(seed, 500)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_broker_core_does_what_its_model_says_for_long(seed: int) -> None:
    """The same over many more histories."""
    simulate(seed, 2000)
