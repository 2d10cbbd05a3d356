"""The line of a text connection: order, some a turn, and steps that the next ones wait for."""

from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.pipeline import REQUEST_BYTES, TURN_MAX, TURN_S, Pipeline
from zbusrpc.transport.http import HttpRequest


class Desk:
    """Takes requests, while it is open."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.is_open = True
        self.now = 0.0
        self.line = Pipeline(self._take, lambda: self.is_open, lambda: self.now)

    def _take(self, request: HttpRequest) -> None:
        self.taken.append(request.target.decode())
        self.now += TURN_S if request.target == b"long" else TURN_S / 100

    def join(self, *names: str) -> None:
        """Let requests wait."""
        for name in names:
            self.line.join(HttpRequest("GET", name.encode(), {}, b"", True))


def exchange() -> Exchange:
    """Return one whose answer nobody hears."""
    return Exchange(lambda exchange: None)


def test_requests_are_taken_in_their_order() -> None:
    """First come, first served, and then the line is free."""
    desk = Desk()
    desk.join("a", "b", "c")
    assert not desk.line.is_free
    desk.line.move()

    assert desk.taken == ["a", "b", "c"]
    assert desk.line.is_free


def test_some_are_taken_a_turn() -> None:
    """Thousands of requests in one block do not keep others from their turn."""
    desk = Desk()
    desk.join(*map(str, range(2 * TURN_MAX + 1)))
    desk.line.move()

    assert len(desk.taken) == TURN_MAX
    assert desk.line.can_move
    desk.line.move()
    desk.line.move()
    assert desk.taken == [str(number) for number in range(2 * TURN_MAX + 1)]


def test_long_ones_are_taken_one_a_turn() -> None:
    """A turn ends when it has taken its time, whatever took it; what is short goes on by number."""
    desk = Desk()
    desk.join("long", "long", "a", "b", "long", *"cdefghijklmno")

    turns = []
    while desk.line:
        before = len(desk.taken)
        desk.line.move()
        turns.append("".join(desk.taken[before:]))

    assert turns == ["long", "long", "ablong", "cdefghijklmno"]


def test_nothing_is_taken_while_answers_are_not() -> None:
    """Who does not read gets nothing done."""
    desk = Desk()
    desk.is_open = False
    desk.join("a")
    desk.line.move()
    assert desk.taken == []
    assert not desk.line.can_move

    desk.is_open = True
    desk.line.move()
    assert desk.taken == ["a"]


def test_requests_wait_for_the_answer_to_a_step() -> None:
    """What comes behind a declare is carried out when that has its answer, and no other."""
    desk, step, other = Desk(), exchange(), exchange()
    desk.line.wait_for(step)
    desk.join("a")
    desk.line.move()
    assert desk.taken == []

    other.answer(200)
    assert not desk.line.note_answer(other)
    step.answer(200)
    assert desk.line.note_answer(step)
    desk.line.move()
    assert desk.taken == ["a"]


def test_step_that_was_answered_at_once_stops_nobody() -> None:
    """A declare that was refused holds nothing up."""
    desk, step = Desk(), exchange()
    step.answer(400)
    desk.line.wait_for(step)

    assert desk.line.is_free


def test_of_who_has_gone_only_messages_are_taken() -> None:
    """What was produced before the end of a connection counts; nobody is there for the rest."""
    desk = Desk()
    desk.line.wait_for(exchange())
    desk.join("produce", "query", "produce")
    desk.line.drain(lambda request: request.target == b"produce")

    assert desk.taken == ["produce", "produce"]
    assert not desk.line


def test_what_waits_is_counted() -> None:
    """Whole requests take memory as parts of them do, until they are carried out or forgotten."""
    for end in ("move", "drain", "end"):
        desk = Desk()
        desk.is_open = False
        desk.line.join(HttpRequest("POST", b"/", {}, b"x" * 1000, True))
        desk.join("a")
        assert desk.line.held_bytes == 1000 + 2 * REQUEST_BYTES

        if end == "move":
            desk.is_open = True
            desk.line.move(1)
            assert desk.line.held_bytes == REQUEST_BYTES
            desk.line.move()
        elif end == "drain":
            desk.line.drain(lambda request: True)
        else:
            desk.line.end()

        assert desk.line.held_bytes == 0, end
