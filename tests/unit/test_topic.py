"""Topics: which consumer gets a call, and in which order calls wait."""

from zbusrpc.broker.calls.call import Call, Instance
from zbusrpc.broker.calls.service_queue import ServiceQueue
from zbusrpc.broker.sessions.session import Session
from zbusrpc.message import Kind, Message


def consumer(number: int, window: int) -> Instance:
    return Instance(Session(number, f"s{number}"), b"Calc", window, {})


def call(number: int) -> Call:
    return Call(Session(99, "caller"), Message(Kind.REQUEST, number), None, 0.0)


def test_consumer_with_the_most_credit_is_taken() -> None:
    """The least loaded consumer gets the next call."""
    topic = ServiceQueue()
    small, large = consumer(1, 1), consumer(2, 3)
    topic.join(small)
    topic.join(large)

    taken = [topic.pool.take() for _ in range(5)]

    assert taken[:2] == [large, large]
    assert set(taken[2:4]) == {small, large}
    assert taken[4] is None


def test_among_equals_the_one_that_waited_longest_is_taken() -> None:
    """Equal consumers take turns."""
    topic = ServiceQueue()
    members = [consumer(number, 2) for number in range(3)]
    for member in members:
        topic.join(member)

    assert [topic.pool.take() for _ in range(6)] == members + members


def test_returned_credit_is_used_again() -> None:
    """A consumer that finished a call takes another, and never more than its window."""
    topic = ServiceQueue()
    member = consumer(1, 1)
    topic.join(member)

    assert topic.pool.take() is member
    assert topic.pool.take() is None
    topic.pool.give(member)
    assert topic.pool.take() is member
    assert member.credit == 0


def test_suspended_consumer_gets_nothing_until_it_resumes() -> None:
    """A consumer that reads too slowly is passed over, also when its credit grows."""
    topic = ServiceQueue()
    member = consumer(1, 2)
    topic.join(member)
    topic.pool.take()

    member.session.is_congested = True
    topic.pool.suspend(member)
    topic.pool.give(member)
    assert topic.pool.take() is None

    member.session.is_congested = False
    topic.pool.resume(member)
    assert topic.pool.take() is member


def test_consumer_that_left_gets_nothing() -> None:
    """Credit that comes back after a consumer left brings nothing."""
    topic = ServiceQueue()
    member = consumer(1, 2)
    topic.join(member)
    topic.pool.take()

    topic.leave(member)
    topic.pool.give(member)

    assert topic.pool.take() is None
    assert topic.is_unused


def test_calls_wait_in_order_and_the_failed_one_first() -> None:
    """First come, first served; a call that an instance failed goes before all."""
    topic, member = ServiceQueue(), consumer(1, 1)
    one, two, again = call(1), call(2), call(3)
    topic.put(one)
    topic.put(two)
    topic.put(again, is_first=True)

    topic.discard(one)

    assert [topic.take_call(member) for _ in range(3)] == [again, two, None]
