"""Calls by method, in the broker core: where the instances of one service differ, each call goes to one that has it."""

import orjson
import pytest

from zbusrpc import envelope
from zbusrpc.broker.calls.editions import EDITIONS_MAX
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.sessions.session import Session
from zbusrpc.envelope import WireError, parse_error
from zbusrpc.errors import Code
from zbusrpc.message import Flag, Kind, Message

NOW = 100.0


def instance(broker: Broker, *methods: str, window: int = 100) -> Session:
    """Let an instance join that tells its methods, or without any nothing."""
    session = broker.connect(f"instance of {','.join(methods)}")
    about = {"methods": methods} if methods else {}
    body = orjson.dumps({"window": window, "about": about})
    broker.receive(session, Message(Kind.SUBSCRIBE, 1, b"Calc", body), NOW)
    assert session.outbox.pop(0).kind == Kind.REPLY
    return session


def call(broker: Broker, caller: Session, method: str, *, flags: int = 0, timeout_ms: int = 0) -> None:
    body = envelope.request_body(method, [])
    message = Message(Kind.REQUEST, caller.last_id + 1, b"Calc", body, flags=flags, timeout_ms=timeout_ms)
    broker.receive(caller, message, NOW)


def given(session: Session) -> list[str]:
    """Return the methods of the calls that an instance was given since this was asked last."""
    messages = [message for message in session.outbox if message.kind == Kind.REQUEST]
    session.outbox.clear()
    return [orjson.loads(message.body)["method"] for message in messages]


def answer(broker: Broker, session: Session, caller: Session, number: int) -> None:
    broker.receive(session, Message(Kind.REPLY, number, body=b'{"result":1}', session=caller.number), NOW)


def error_to(session: Session) -> WireError:
    message = session.outbox.pop()
    assert message.flags & Flag.ERROR
    return parse_error(message.body)


def test_calls_go_only_to_instances_with_the_method() -> None:
    """Two versions side by side: what both have is shared, what one has goes there alone."""
    broker = Broker()
    old, new, caller = instance(broker, "add"), instance(broker, "add", "div"), broker.connect("caller")

    for _ in range(10):
        call(broker, caller, "add")
        call(broker, caller, "div")

    assert given(new).count("div") == 10
    assert given(old) == ["add"] * 10  # who has fewer calls is given more
    assert not caller.outbox


def test_equals_of_different_versions_take_turns() -> None:
    """One call after the other goes to one version after the other."""
    broker = Broker()
    old, new, caller = instance(broker, "add"), instance(broker, "add", "div"), broker.connect("caller")

    for number in range(1, 7):
        call(broker, caller, "add")
        for session in (old, new):
            if (caller.number, number) in session.deliveries:
                answer(broker, session, caller, number)

    assert len(given(old)) == len(given(new)) == 3


def test_waiting_for_a_busy_method_holds_up_no_other() -> None:
    """Calls that only a busy instance can take wait in their order, and those behind them pass."""
    broker = Broker()
    old, new = instance(broker, "add", window=2), instance(broker, "add", "div", window=1)
    caller = broker.connect("caller")
    for method in ("div", "div", "div", "add", "add", "add"):
        call(broker, caller, method)

    assert given(new) == ["div"]
    assert given(old) == ["add", "add"]

    answer(broker, old, caller, 4)
    assert given(old) == ["add"]
    answer(broker, new, caller, 1)
    assert [message.id for message in new.outbox] == [2]
    answer(broker, new, caller, 2)
    assert [message.id for message in new.outbox] == [2, 3]


def test_oldest_call_goes_first_among_all_that_an_instance_can_take() -> None:
    """An instance with every method takes calls of different methods in the order they came."""
    broker = Broker()
    instance(broker, "add", window=1)
    new, caller = instance(broker, "add", "div", window=1), broker.connect("caller")
    for method in ("div", "add", "div", "add", "div"):
        call(broker, caller, method)
    given(new)

    answer(broker, new, caller, 1)
    answer(broker, new, caller, 3)
    answer(broker, new, caller, 4)

    assert given(new) == ["div", "add", "div"]


def test_method_that_none_has_is_refused_at_once_with_what_there_is() -> None:
    """UNIMPLEMENTED names the method, what may have been meant, and what there is; nothing has run."""
    broker = Broker()
    old, new, caller = instance(broker, "add"), instance(broker, "add", "div"), broker.connect("caller")

    call(broker, caller, "divv")

    error = error_to(caller)
    assert error.code is Code.UNIMPLEMENTED
    assert error.message == "no instance of service Calc has the method divv; did you mean div?"
    assert error.details == {"may_have_run": False, "methods": ["add", "div"]}
    assert not given(old)
    assert not given(new)


@pytest.mark.parametrize("running", [[("add",)], [("add",), ("add", "mul")], []])
def test_call_that_waits_for_ready_waits_for_an_instance_with_its_method(running: list[tuple[str, ...]]) -> None:
    """Whatever runs already, it is given to the first instance that has the method; others are not held up."""
    broker = Broker()
    others = [instance(broker, *methods) for methods in running]
    caller = broker.connect("caller")

    call(broker, caller, "div", flags=Flag.WAIT_FOR_READY)
    others.append(instance(broker, "add"))
    call(broker, caller, "add")
    new = instance(broker, "add", "div")

    assert given(new) == ["div"]
    assert [method for other in others for method in given(other)] == ["add"]
    call(broker, caller, "add")
    assert not caller.outbox


@pytest.mark.parametrize(
    ("running", "words"),
    [
        ([], "no instance of service Calc is connected to broker here:1; no service is running there"),
        (["add"], "no instance of service Calc has the method div; there are add"),
    ],
)
def test_call_that_has_waited_in_vain_is_told_for_what(running: list[str], words: str) -> None:
    """At its deadline it is told what was missing, what there is, and that it has not run."""
    broker = Broker("here:1")
    for method in running:
        instance(broker, method)
    caller = broker.connect("caller")
    call(broker, caller, "div", flags=Flag.WAIT_FOR_READY, timeout_ms=50)

    broker.expire(NOW + 0.07)

    error = error_to(caller)
    assert error.code is Code.DEADLINE_EXCEEDED
    assert error.message == f"the deadline passed: {words}; it has not run"
    assert error.details["may_have_run"] is False
    assert error.details.get("methods", []) == running


def test_call_that_was_tried_before_it_waited_may_have_run() -> None:
    """An idempotent call whose instance died waits for another; nobody knows what the first one has done."""
    broker = Broker()
    first, caller = instance(broker, "add"), broker.connect("caller")
    call(broker, caller, "add", flags=Flag.IDEMPOTENT | Flag.WAIT_FOR_READY, timeout_ms=50)
    broker.disconnect(first, NOW)

    broker.expire(NOW + 0.07)

    error = error_to(caller)
    assert error.details["may_have_run"] is True
    assert "has not run" not in error.message


def test_instance_that_tells_nothing_has_every_method() -> None:
    """One of another language, or with too many methods, is given whatever the others lack."""
    broker = Broker()
    python, other, caller = instance(broker, "add"), instance(broker), broker.connect("caller")

    call(broker, caller, "div")
    call(broker, caller, "add")

    assert given(other) == ["div"]
    assert given(python) == ["add"]


def test_request_that_names_no_method_goes_to_any_instance() -> None:
    """Which instance says what is wrong with it does not matter."""
    broker = Broker()
    old, new, caller = instance(broker, "add"), instance(broker, "div"), broker.connect("caller")

    broker.receive(caller, Message(Kind.REQUEST, 1, b"Calc", b"no JSON"), NOW)

    assert len(old.outbox) + len(new.outbox) == 1


def test_calls_end_when_the_last_instance_with_their_method_leaves() -> None:
    """Those that wait are told, unless they wait for ready; those of other methods stay."""
    broker = Broker()
    old, new, caller = instance(broker, "add", window=1), instance(broker, "div", window=1), broker.connect("caller")
    for method in ("add", "div", "add", "div"):
        call(broker, caller, method)
    call(broker, caller, "div", flags=Flag.WAIT_FOR_READY)

    broker.disconnect(new, NOW)

    errors = {message.id: parse_error(message.body) for message in caller.outbox}
    assert {number: error.details["may_have_run"] for number, error in errors.items()} == {2: True, 4: False}
    assert broker.statistics()["queued"] == 2
    given(old)
    answer(broker, old, caller, 1)
    assert given(old) == ["add"]
    assert given(instance(broker, "div")) == ["div"] or broker.statistics()["queued"] == 0


def test_canceled_and_expired_calls_leave_their_lines() -> None:
    """A call that ends while it waits is nowhere any more."""
    broker = Broker()
    instance(broker, "add", window=1)
    new, caller = instance(broker, "div", window=1), broker.connect("caller")
    call(broker, caller, "div")
    call(broker, caller, "div", timeout_ms=50)
    call(broker, caller, "div")
    call(broker, caller, "div")
    given(new)

    broker.expire(NOW + 0.07)
    broker.receive(caller, Message(Kind.CANCEL, 3), NOW)
    answer(broker, new, caller, 1)

    assert [message.id for message in new.outbox] == [4]
    assert broker.statistics()["queued"] == broker.statistics()["queued_bytes"] == 0


def test_more_versions_than_are_told_apart_are_served_all_the_same() -> None:
    """From some number on instances count as having every method; none is left without calls that only it has."""
    broker = Broker()
    sessions = [instance(broker, "add", f"m{number}") for number in range(EDITIONS_MAX + 4)]
    caller = broker.connect("caller")

    for number in range(EDITIONS_MAX - 1):
        call(broker, caller, f"m{number}")
        assert given(sessions[number]) == [f"m{number}"]
    for session in sessions:
        broker.disconnect(session, NOW)

    assert broker.statistics()["topics"] == 0


def test_instances_that_differ_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the service and the methods that not all have, once for each set, however often one comes again."""
    broker = Broker()
    instance(broker, "add")
    instance(broker, "add")
    for _ in range(3):
        broker.disconnect(instance(broker, "add", "div", "mul"), NOW)

    (record,) = [record for record in caplog.records if "broker.methods_differ" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert "service='Calc'" in record.getMessage()
    assert "methods='div, mul'" in record.getMessage()
