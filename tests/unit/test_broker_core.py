"""The broker core: what it answers itself, and the rules that peers must keep."""

import orjson
import pytest

from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.session import Session
from zbusrpc.envelope import WireError, parse_error
from zbusrpc.errors import Code, ProtocolError
from zbusrpc.message import Flag, Kind, Message, encode_headers
from zbusrpc.transport.native import HEADERS_BYTES_MAX, payload_size

NOW = 100.0
OK = b'{"result":3}'


def subscribe(broker: Broker, session: Session, topic: bytes = b"Calc", window: int = 1, **about: object) -> None:
    body = orjson.dumps({"window": window, "about": about})
    broker.receive(session, Message(Kind.SUBSCRIBE, 1, topic, body), NOW)
    session.outbox.clear()


def request(
    broker: Broker, session: Session, number: int = 1, flags: int = 0, timeout_ms: int = 0, now: float = NOW
) -> None:
    message = Message(Kind.REQUEST, number, b"Calc", b"body", flags=flags, timeout_ms=timeout_ms)
    broker.receive(session, message, now)


def error_to(session: Session) -> WireError:
    message = session.outbox.pop()
    assert message.kind == Kind.REPLY
    assert message.flags & Flag.ERROR
    return parse_error(message.body)


def test_reply_is_routed_to_its_caller() -> None:
    """A call goes to the instance with the caller's session in it, and its reply comes back with the caller's id."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)

    request(broker, caller, number=5)
    (delivered,) = instance.outbox
    broker.receive(instance, Message(Kind.REPLY, 5, body=OK, session=delivered.session), NOW)

    assert (delivered.id, delivered.session, bytes(delivered.body)) == (5, caller.number, b"body")
    (reply,) = caller.outbox
    assert (reply.id, reply.body) == (5, OK)


def test_service_that_nobody_runs_is_unavailable_with_the_nearest_name() -> None:
    """The refusal names the service, the broker, what is running, and what may have been meant."""
    broker = Broker("here:1")
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance, b"Calk")

    request(broker, caller)

    error = error_to(caller)
    assert error.code is Code.UNAVAILABLE
    assert error.message == (
        "no instance of service Calc is connected to broker here:1; running: Calk; did you mean Calk?"
    )
    assert error.details == {"may_have_run": False, "running": ["Calk"]}


def test_call_that_waits_for_ready_is_delivered_to_the_first_instance() -> None:
    """With WAIT_FOR_READY a call waits for its service instead of failing."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")

    request(broker, caller, flags=Flag.WAIT_FOR_READY)
    assert not caller.outbox
    broker.receive(instance, Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":1}'), NOW)

    assert [message.kind for message in instance.outbox] == [Kind.REPLY, Kind.REQUEST]


def test_deadline_that_passes_in_the_queue_never_reaches_a_handler() -> None:
    """The caller gets DEADLINE_EXCEEDED, and the instance hears nothing of the call."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller, 1)
    request(broker, caller, 2, timeout_ms=50)
    instance.outbox.clear()

    broker.expire(NOW + 0.07)
    broker.receive(instance, Message(Kind.REPLY, 1, body=OK, session=caller.number), NOW + 0.08)

    assert not instance.outbox
    kinds = [(message.id, bool(message.flags & Flag.ERROR)) for message in caller.outbox]
    assert kinds == [(2, True), (1, False)]
    assert broker.statistics()["expired"] == 1


def test_deadline_that_passes_in_the_handler_cancels_it() -> None:
    """The caller gets DEADLINE_EXCEEDED, the instance a CANCEL, and its late reply is dropped and counted."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller, 1, timeout_ms=50)
    instance.outbox.clear()

    broker.expire(NOW + 0.07)
    broker.receive(instance, Message(Kind.REPLY, 1, body=OK, session=caller.number), NOW + 0.08)

    assert error_to(caller).details == {"may_have_run": True}
    assert not caller.outbox
    assert [message.kind for message in instance.outbox] == [Kind.CANCEL]
    assert broker.statistics()["late_replies"] == 1


def test_time_spent_waiting_is_taken_off_the_limit() -> None:
    """An instance is told how much time is left, not how much there was."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    request(broker, caller, flags=Flag.WAIT_FOR_READY, timeout_ms=1000)

    broker.receive(instance, Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":1}'), NOW + 0.4)

    assert instance.outbox[-1].timeout_ms == 600


def test_call_of_a_dead_instance_is_run_by_another_if_idempotent() -> None:
    """The next instance is told that it is the second; the caller notices nothing."""
    broker = Broker()
    caller, first, second = (broker.connect(name) for name in ("caller", "first", "second"))
    subscribe(broker, first)
    subscribe(broker, second)
    request(broker, caller, flags=Flag.IDEMPOTENT)

    broker.disconnect(first, NOW)

    (delivered,) = second.outbox
    assert delivered.headers() == {"attempt": "2"}
    assert not caller.outbox


def test_call_of_a_dead_instance_fails_at_once_otherwise() -> None:
    """UNAVAILABLE says that the call may have run."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller)

    broker.disconnect(instance, NOW)

    error = error_to(caller)
    assert error.code is Code.UNAVAILABLE
    assert "may have run" in error.message
    assert error.details["may_have_run"] is True


def test_call_that_kills_instances_is_given_up_after_three() -> None:
    """An idempotent call that kills whoever runs it must not kill them all."""
    broker = Broker()
    caller = broker.connect("caller")
    instances = [broker.connect(f"i{number}") for number in range(5)]
    for instance in instances:
        subscribe(broker, instance)
    request(broker, caller, flags=Flag.IDEMPOTENT)

    for _ in range(3):
        victim = next(instance for instance in instances if instance.deliveries)
        instances.remove(victim)
        broker.disconnect(victim, NOW)

    assert error_to(caller).details["attempts"] == 3
    assert not any(instance.deliveries for instance in instances)


def test_cancelled_call_frees_its_place_when_the_instance_says_done() -> None:
    """A cancelled call holds its credit until its handler has ended."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller, 1)
    request(broker, caller, 2)

    broker.receive(caller, Message(Kind.CANCEL, 1), NOW)
    assert [message.kind for message in instance.outbox] == [Kind.REQUEST, Kind.CANCEL]
    broker.receive(instance, Message(Kind.DONE, 1, session=caller.number), NOW)

    assert [message.id for message in instance.outbox] == [1, 1, 2]
    assert not caller.outbox


def test_full_queue_refuses_with_the_time_to_retry() -> None:
    """RESOURCE_EXHAUSTED names the bound and asks to wait."""
    broker = Broker(limits=Limits(queue_calls_max=1))
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    for number in (1, 2, 3):
        request(broker, caller, number)

    error = error_to(caller)
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.details == {"retry_after_s": 0.5, "may_have_run": False}
    assert "1 calls wait" in error.message


def test_refused_call_leaves_no_topic_behind() -> None:
    """A call that finds no room in a new topic does not use up one of the broker's topics."""
    broker = Broker(limits=Limits(queued_bytes_max=1))
    caller = broker.connect("caller")

    request(broker, caller, flags=Flag.WAIT_FOR_READY)

    assert error_to(caller).code is Code.RESOURCE_EXHAUSTED
    assert broker.statistics()["topics"] == 0


def test_draining_broker_takes_no_calls() -> None:
    """A broker that is about to end refuses at once, and nothing has run."""
    broker = Broker("b:1")
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    broker.calls.is_draining = True

    request(broker, caller)

    assert error_to(caller).details["may_have_run"] is False
    assert not instance.outbox


@pytest.mark.parametrize(
    "message",
    [
        Message(Kind.REQUEST, 0, b"Calc"),
        Message(Kind.SUBSCRIBE, 1, b"Calc", b""),
        Message(Kind.SUBSCRIBE, 1, b"Calc", b"{}"),
        Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":0}'),
        Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":4097}'),
        Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":"1"}'),
        Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":true}'),
        Message(Kind.SUBSCRIBE, 1, b"Calc", b'{"window":1,"about":{"a":' + b"[" * 248 + b"]" * 248 + b"}}"),
        Message(Kind.SUBSCRIBE, 1, b"", b'{"window":1}'),
        Message(Kind.SUBSCRIBE, 1, b"\xff", b'{"window":1}'),
        Message(Kind.PONG),
    ],
)
def test_message_that_breaks_the_rules_changes_nothing(message: Message) -> None:
    """A wrong message raises ProtocolError before anything has changed."""
    broker = Broker()
    session = broker.connect("peer")
    before = broker.statistics()

    with pytest.raises(ProtocolError):
        broker.receive(session, message, NOW)

    assert broker.statistics() == before
    assert not session.outbox


def test_ids_of_requests_must_grow() -> None:
    """An id that was used cannot be used again."""
    broker = Broker()
    caller = broker.connect("caller")
    request(broker, caller, 5)

    with pytest.raises(ProtocolError, match="ids must grow"):
        request(broker, caller, 5)


def test_subscribing_twice_is_refused() -> None:
    """A session serves a topic once."""
    broker = Broker()
    session = broker.connect("instance")
    subscribe(broker, session)

    with pytest.raises(ProtocolError, match="already"):
        subscribe(broker, session)


def test_instance_cannot_pretend_to_be_another_in_listings() -> None:
    """What an instance says of itself does not hide what the broker knows."""
    broker = Broker()
    instance = broker.connect("instance")
    about = {"session": 77, "name": "root", "window": 9, "in_flight": -1, "version": "1"}
    body = orjson.dumps({"window": 2, "about": about})

    broker.receive(instance, Message(Kind.SUBSCRIBE, 1, b"Calc", body), NOW)

    (listed,) = broker.services()[0]["instances"]

    assert listed == {"session": 1, "name": "instance", "window": 2, "in_flight": 0, "version": "1"}


def test_request_that_an_instance_cannot_take_is_refused() -> None:
    """A request over the limit of the instance would cost it its connection; the caller gets the error instead."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance", message_bytes_max=1000)
    subscribe(broker, instance)

    broker.receive(caller, Message(Kind.REQUEST, 1, b"Calc", b"x" * 997), NOW)
    assert error_to(caller).details == {"size": 1001, "limit": 1000, "may_have_run": False}
    assert not instance.outbox
    broker.receive(caller, Message(Kind.REQUEST, 2, b"Calc", b"x" * 996), NOW)

    assert [payload_size(message) for message in instance.outbox] == [1000]


def test_reply_that_a_caller_cannot_take_is_an_error() -> None:
    """A reply over the limit of the caller becomes RESOURCE_EXHAUSTED, which says that the call has run."""
    broker = Broker()
    caller, instance = broker.connect("caller", message_bytes_max=1000), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller)

    broker.receive(instance, Message(Kind.REPLY, 1, body=b"x" * 1001, session=caller.number), NOW)

    error = error_to(caller)
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.details == {"size": 1001, "limit": 1000, "may_have_run": True}


@pytest.mark.parametrize("headers", [b"not json", encode_headers({"k": "x" * (HEADERS_BYTES_MAX - 8)})])
def test_headers_that_cannot_be_added_to_do_not_hurt_the_next_instance(headers: bytes) -> None:
    """Redelivery never makes headers that the next instance must refuse."""
    broker = Broker()
    caller, first, second = (broker.connect(name) for name in ("caller", "first", "second"))
    subscribe(broker, first)
    subscribe(broker, second)
    broker.calls.request(caller, Message(Kind.REQUEST, 1, b"Calc", b"", headers, Flag.IDEMPOTENT), NOW)

    broker.disconnect(first, NOW)

    (delivered,) = second.outbox
    assert len(delivered.header_bytes) <= HEADERS_BYTES_MAX


def test_late_answers_of_all_kinds_are_dropped() -> None:
    """REPLY, DONE and RETURN for a call that nobody has change nothing; replies are counted."""
    broker = Broker()
    session = broker.connect("peer")

    for kind in (Kind.REPLY, Kind.DONE, Kind.RETURN):
        broker.receive(session, Message(kind, 7, session=3), NOW)

    assert not session.outbox
    assert broker.statistics()["late_replies"] == 1


def test_one_cannot_answer_for_another() -> None:
    """A reply counts only from the session that was given the call."""
    broker = Broker()
    caller, instance, thief = (broker.connect(name) for name in ("caller", "instance", "thief"))
    subscribe(broker, instance)
    request(broker, caller)

    broker.receive(thief, Message(Kind.REPLY, 1, body=OK, session=caller.number), NOW)

    assert not caller.outbox


def test_query_tells_what_is_running() -> None:
    """The reply to a QUERY lists services with their instances, and the counters."""
    broker = Broker("b:1")
    instance = broker.connect("instance")
    subscribe(broker, instance, version="2", methods=["add"])

    broker.receive(instance, Message(Kind.QUERY, 9), NOW)

    (reply,) = instance.outbox
    result = orjson.loads(reply.body)["result"]
    assert result["broker"] == "b:1"
    assert result["services"][0]["instances"][0]["methods"] == ["add"]
    assert result["statistics"]["sessions"] == 1


def test_instance_that_hands_everything_back_does_not_get_it_for_ever() -> None:
    """A call that instances keep returning while they go on serving fails after three of them; it has not run."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller, number=5)

    for _ in range(3):
        (delivered,) = instance.outbox
        instance.outbox.clear()
        broker.receive(instance, Message(Kind.RETURN, 5, session=delivered.session), NOW)

    error = error_to(caller)
    assert error.code is Code.UNAVAILABLE
    assert error.details == {"may_have_run": False}
    assert not instance.outbox


# -- may have run ----------------------------------------------------------------------------------------


def test_call_that_an_instance_had_before_it_died_is_never_said_not_to_have_run() -> None:
    """Its deadline passes while it waits for the next instance: its handler had begun."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    flags = Flag.IDEMPOTENT | Flag.WAIT_FOR_READY
    request(broker, caller, flags=flags, timeout_ms=1000)
    broker.disconnect(instance, NOW)

    broker.expire(NOW + 2)

    error = error_to(caller)
    assert error.code is Code.DEADLINE_EXCEEDED
    assert error.details["may_have_run"] is True
    assert "it has not run" not in error.message


def test_call_that_does_not_fit_the_next_instance_may_have_run_at_the_first() -> None:
    """What is refused after an instance died says so, whatever the refusal is."""
    broker = Broker()
    caller, instance, small = broker.connect("caller"), broker.connect("instance"), broker.connect("small")
    small.message_bytes_max, small.body_bytes_sure = 6, 0
    subscribe(broker, instance)
    request(broker, caller, flags=Flag.IDEMPOTENT)
    subscribe(broker, small)

    broker.disconnect(instance, NOW)

    error = error_to(caller)
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.details["may_have_run"] is True


def test_call_that_was_handed_back_has_not_run() -> None:
    """An instance that gives a call back has not begun it; after that it waits, and its deadline passes."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller, flags=Flag.WAIT_FOR_READY, timeout_ms=1000)
    (delivered,) = instance.outbox
    broker.receive(instance, Message(Kind.UNSUBSCRIBE, 2, b"Calc"), NOW)
    broker.receive(instance, Message(Kind.RETURN, 1, session=delivered.session), NOW)

    broker.expire(NOW + 2)

    assert error_to(caller).details["may_have_run"] is False


def refuse(broker: Broker, instance: Session, flags: Flag = Flag.ERROR | Flag.NOT_RUN) -> None:
    """Have an instance answer what it was given with an error."""
    given = instance.outbox[-1]
    message = Message(
        Kind.REPLY, given.id, body=b'{"error":{"code":"UNIMPLEMENTED"}}', flags=flags, session=given.session
    )
    broker.receive(instance, message, NOW)


def says_not_run(session: Session) -> bool:
    """Whether the last message to a caller says that its call has not run."""
    (reply,) = session.outbox
    assert reply.flags & Flag.ERROR
    return bool(reply.flags & Flag.NOT_RUN)


def test_word_of_an_instance_that_it_has_not_run_is_passed_on() -> None:
    """An instance knows it of what it refuses before the handler begins; without its word a call may have run."""
    for flags in (Flag.ERROR, Flag.ERROR | Flag.NOT_RUN):
        broker = Broker()
        caller, instance = broker.connect("caller"), broker.connect("instance")
        subscribe(broker, instance)
        request(broker, caller)

        refuse(broker, instance, flags)

        assert says_not_run(caller) is bool(flags & Flag.NOT_RUN)


def test_word_of_an_instance_is_only_about_itself() -> None:
    """A call that an instance had which died may have run there, whatever the next one says."""
    broker = Broker()
    caller, first, second = (broker.connect(name) for name in ("caller", "first", "second"))
    subscribe(broker, first)
    request(broker, caller, flags=Flag.IDEMPOTENT)
    subscribe(broker, second)
    broker.disconnect(first, NOW)

    refuse(broker, second)

    assert not says_not_run(caller)


@pytest.mark.parametrize(
    ("request_flags", "return_flags", "has_not_run"),
    [
        (Flag.NONE, Flag.NONE, True),
        (Flag.NONE, Flag.NOT_RUN, True),
        (Flag.IDEMPOTENT, Flag.NOT_RUN, True),
        (Flag.IDEMPOTENT, Flag.NONE, False),
    ],
)
def test_call_that_is_handed_back_says_whether_it_has_run(
    request_flags: Flag, return_flags: Flag, has_not_run: bool
) -> None:
    """Only what is idempotent is handed back after it began; an instance that did not begin it says so."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance)
    request(broker, caller, flags=request_flags)
    given = instance.outbox[-1]
    broker.receive(instance, Message(Kind.UNSUBSCRIBE, 2, b"Calc"), NOW)

    broker.receive(instance, Message(Kind.RETURN, given.id, flags=return_flags, session=given.session), NOW)

    assert says_not_run(caller) is has_not_run


def test_window_of_an_instance_may_grow() -> None:
    """One that had old work to finish takes more when that is done; smaller or equal is a mistake."""
    broker = Broker()
    caller, instance = broker.connect("caller"), broker.connect("instance")
    subscribe(broker, instance, window=1)
    for number in (1, 2, 3, 4):
        request(broker, caller, number=number)
    assert [message.id for message in instance.outbox] == [1]

    broker.receive(instance, Message(Kind.SUBSCRIBE, 2, b"Calc", b'{"window":3}'), NOW)

    assert [message.id for message in instance.outbox if message.kind == Kind.REQUEST] == [1, 2, 3]
    assert broker.services()[0]["instances"][0]["window"] == 3
    for window in (b'{"window":3}', b'{"window":1}'):
        with pytest.raises(ProtocolError, match="already"):
            broker.receive(instance, Message(Kind.SUBSCRIBE, 3, b"Calc", window), NOW)
