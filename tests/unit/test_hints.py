"""Hints: guesses have a bound, each of them and all together."""

from collections.abc import Iterable

import orjson
import pytest

from tests.support.queue_lab import QueueLab
from tests.support.steps import steps_of
from zbusrpc import envelope
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.mq.requests import asked_by
from zbusrpc.broker.sessions.hints import PER_SECOND, Hints
from zbusrpc.errors import nearest
from zbusrpc.message import Kind, Message

MIB = 1024 * 1024


def test_so_many_guesses_a_second_and_no_more() -> None:
    """Whoever asks on gets none until the next second."""
    hints = Hints()

    told = [hints.did_you_mean("ordres", ["orders"], 7.0 + n / 1000) for n in range(PER_SECOND + 5)]

    assert told == ["; did you mean orders?"] * PER_SECOND + [""] * 5
    assert hints.did_you_mean("ordres", ["orders"], 8.0) == "; did you mean orders?"


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("x" * (16 * MIB), ["x"]),
        ("ab" * 32, ["ba" * 32] * 10_000),
        ("ab" * 32, [("ab" * n + "ba" * 32)[:64] for n in range(32)] * 400),
        ("service", [f"service{n}" for n in range(100_000)]),
    ],
)
def test_what_a_guess_costs_has_a_bound(name: str, names: Iterable[str]) -> None:
    """However long or many the names are, and however much they are alike."""
    assert steps_of(lambda: nearest(name, names)) < 200_000


def test_only_some_calls_to_a_missing_service_are_told_what_runs() -> None:
    """The others hear what they must: a thousand of them cost a thousand refusals."""
    broker = Broker("here:1")
    instance, caller = broker.connect("instance"), broker.connect("caller")
    for number in range(100):
        broker.receive(instance, Message(Kind.SUBSCRIBE, number + 1, b"Calc%d" % number, b'{"window":1}'), 1.0)
    for number in range(1000):
        broker.receive(caller, Message(Kind.REQUEST, number + 1, b"Clac", b"{}"), 1.0)

    errors = [envelope.parse_error(message.body) for message in caller.outbox]

    assert [error.details["may_have_run"] for error in errors] == [False] * 1000
    assert sum("running" in error.details for error in errors) == PER_SECOND
    assert errors[-1].message == "no instance of service Clac is connected to broker here:1"


def test_thousand_wrong_names_of_topics_are_refused_in_bounded_time() -> None:
    """As names of services."""
    lab = QueueLab()
    anna = lab.peer("anna")
    for number in range(300):
        anna.declare(f"orders-{number}")
    body = orjson.dumps({"command": "topic", "topic": "order-1234567"})

    def ask() -> None:
        for number in range(1000):
            message = Message(Kind.COMMAND, 10_000 + number, b"", body)
            lab.queues.receive(anna.session, message, asked_by(message))

    assert steps_of(ask) < 3_000_000
