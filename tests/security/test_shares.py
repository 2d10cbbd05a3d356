"""What one token fills, another finds room in: each bound of the broker has a share for each token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.rights_core import ADMIN, RightsCore, entry, rights, rule
from zbusrpc.broker.access.rights import Rights
from zbusrpc.broker.core.broker import Broker
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.broker.sessions.shares import Shares
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.entries import encode_entry

GREEDY = rights("greedy", rule("produce", "consume", "query", "declare", "remove"))
MODEST = rights("modest", rule("produce", "consume", "query", "declare", "remove"))
LIMITS = Limits(
    queue_calls_max=12,
    queued_bytes_max=4000,
    waiting_calls_max=20,
    topics_max=16,
    groups_per_topic_max=8,
    groups_max=12,
    subscriptions_max=10,
    storing_bytes_max=6000,
    delayed_max=14,
)
YEAR_MS = 365 * 24 * 3600 * 1000
LATE = encode_entry(0, YEAR_MS, 0, b"", b"", b"", b"", b"x")
MANY = 30
BODY = b'{"method":"x","args":["' + b"x" * 474 + b'"]}'
LARGE = b"x" * 2000
Asked = Callable[[int], Any]
"""Asks for one more thing; the answer is an error, a line of HTTP, or None while there is none."""
Ask = Callable[[RightsCore, Rights | None], Asked]


@pytest.fixture
def core() -> RightsCore:
    """Return a broker with low limits."""
    return RightsCore(LIMITS)


# -- what can be asked for, by whom --------------------------------------------------------------------------


def native_calls(core: RightsCore, who: Rights | None, service: str = "", body: bytes = b"{}") -> Asked:
    """Call services that nobody serves, and wait for them; one each where none is named."""
    native = core.native(who)

    def ask(number: int) -> Any:
        name = (service or f"{native.session.number}-{number}").encode()
        request = Message(Kind.REQUEST, number, name, body, flags=Flag.WAIT_FOR_READY)
        core.broker.receive(native.session, request, 0.0)
        core.run()
        return native.answer(number)

    return ask


def native_services(core: RightsCore, who: Rights | None) -> Asked:
    """Serve services."""
    native = core.native(who)
    return lambda number: native.serve(f"S{native.session.number}.{number}")


def declared(core: RightsCore, who: Rights | None) -> Asked:
    """Make topics, by the native dialect."""
    native = core.native(who)
    return lambda number: native.command("declare", topic=f"t{native.session.number}.{number}")


def groups(core: RightsCore, who: Rights | None) -> Asked:
    """Make groups of one topic."""
    native = core.native(who)
    return lambda number: native.command("declare_group", topic="orders", group=f"g{native.session.number}.{number}")


def groups_of_topics(core: RightsCore, who: Rights | None) -> Asked:
    """Make groups of several topics."""
    native = core.native(who)
    return lambda number: native.command(
        "declare_group", topic=("orders", "mails", "news")[number % 3], group=f"h{native.session.number}.{number}"
    )


def subscriptions(core: RightsCore, who: Rights | None) -> Asked:
    """Consume on more and more connections."""
    return lambda number: core.native(who).ask(Kind.CONSUME, {"group": "all", "window": 1}, topic="orders")


def nameless(core: RightsCore, who: Rights | None) -> Asked:
    """Consume without a group: each makes one."""
    return lambda number: core.native(who).ask(Kind.CONSUME, {"window": 1}, topic="orders")


def http_calls(core: RightsCore, who: Rights | None) -> Asked:
    """Call a service by HTTP whose only instance is busy."""
    return lambda number: core.web(who).text("POST /rpc/Busy/method", b"[]")


def zbus_calls(core: RightsCore, who: Rights | None) -> Asked:
    """Call it as a client of zbus."""
    return lambda number: _zbus(core, who, "rpc", topic="Busy", id=str(number), ack="false")


def zbus_topics(core: RightsCore, who: Rights | None) -> Asked:
    """Make topics as a client of zbus, or by WebSocket, does."""
    return lambda number: _zbus(core, who, "declare", topic=f"z{name_of(who)}{number}", id=str(number))


def url_topics(core: RightsCore, who: Rights | None) -> Asked:
    """Make topics by URLs."""
    return lambda number: core.web(who).text(f"GET /declare/u{name_of(who)}{number}")


def page_topics(core: RightsCore, who: Rights | None) -> Asked:
    """Make topics by the page."""
    return lambda number: core.web(who).text(f"POST /api/topics/p{name_of(who)}{number}/declare", b"{}")


def zbus_groups(core: RightsCore, who: Rights | None) -> Asked:
    """Make groups by URLs."""
    return lambda number: core.web(who).text(f"GET /declare/orders/k{name_of(who)}{number}")


def zbus_consumers(core: RightsCore, who: Rights | None) -> Asked:
    """Consume on more and more connections by URLs, and wait."""
    return lambda number: core.web(who).text("GET /consume/orders/all?timeout=60")


def zbus_streams(core: RightsCore, who: Rights | None) -> Asked:
    """Have more and more connections be sent events."""
    return lambda number: core.web(who).text("GET /consume/orders/all", accept="text/event-stream")


def zbus_waiting(core: RightsCore, who: Rights | None) -> Asked:
    """Consume on more and more connections as a client of zbus, and wait."""
    return lambda number: _zbus(core, who, "consume", topic="orders", consume_group="all", id=str(number))


def produced(core: RightsCore, who: Rights | None) -> Asked:
    """Produce to a disk that is stuck."""
    core.lab.hold_workers()
    native = core.native(who)
    return lambda number: native.ask(Kind.PRODUCE, entry(LARGE), topic="orders")


def delayed(core: RightsCore, who: Rights | None) -> Asked:
    """Produce what is not due for a year."""
    native = core.native(who)
    return lambda number: native.ask(
        Kind.PRODUCE, encode_entry(0, YEAR_MS, 0, b"", b"", b"", b"", b"x"), topic="orders"
    )


def zbus_produced(core: RightsCore, who: Rights | None) -> Asked:
    """Do it as a client of zbus."""
    core.lab.hold_workers()
    return lambda number: _zbus(core, who, "produce", LARGE, topic="orders", id=str(number))


def url_produced(core: RightsCore, who: Rights | None) -> Asked:
    """Do it by a URL."""
    core.lab.hold_workers()
    return lambda number: core.web(who).text("POST /produce/orders", LARGE)


def by_socket(cmd: str, body: bytes = b"{}", *, is_stuck: bool = False, **headers: str) -> Ask:
    """Return what sends a command by WebSocket; `NAME` and `N` in a header are the token's name and the number."""

    def begin(core: RightsCore, who: Rights | None) -> Asked:
        if is_stuck:
            core.lab.hold_workers()

        def ask(number: int) -> Any:
            named = {key: value.replace("NAME", name_of(who)) for key, value in headers.items()}
            filled = {key: value.replace("N", str(number)) for key, value in named.items()}
            return core.socket(who).text("GET /", body, cmd=cmd, id=str(number), **filled)

        return ask

    return begin


def _zbus(core: RightsCore, who: Rights | None, cmd: str, body: bytes = b'{"method":"x"}', **headers: str) -> Any:
    exchange = core.web(who).zbus(cmd, body, **headers)
    if exchange.data is None:
        return ""
    head, _, body = exchange.data.partition(b"\r\n\r\n")
    return f"{head.split(b' ')[1].decode()} {body.decode()}"


def name_of(who: Rights | None) -> str:
    return who.name if who is not None else "nobody"


@dataclass(frozen=True)
class Case:
    """One thing of which one token has a share."""

    ask: Ask
    share: int
    """How many a token may have."""
    says: str
    """What the error says of it."""
    used: int = 0
    """How much that is, where it is not how many."""


CASES = {
    "services waited for": Case(native_calls, 8, "of 16 services"),
    "services served": Case(native_services, 8, "of 16 services"),
    "calls of one service": Case(
        lambda core, who: native_calls(core, who, "Calc"), 6, "of 12 calls that may wait for service Calc"
    ),
    "bytes": Case(lambda core, who: native_calls(core, who, "Calc", BODY), 4, "of 4000 bytes that may wait", used=2000),
    "calls by HTTP": Case(http_calls, 6, "of 12 calls that may wait for service Busy"),
    "calls by zbus": Case(zbus_calls, 6, "of 12 calls that may wait for service Busy"),
    "topics": Case(declared, 8, "of 16 stored topics"),
    "topics by zbus": Case(zbus_topics, 6, "of 12 consume groups"),
    "topics by URLs": Case(url_topics, 6, "of 12 consume groups"),
    "topics by the page": Case(page_topics, 8, "of 16 stored topics"),
    "groups of a topic": Case(groups, 4, "of 8 consume groups of topic orders"),
    "groups of a topic by URLs": Case(zbus_groups, 4, "of 8 consume groups of topic orders"),
    "groups of consumers": Case(nameless, 4, "of 8 consume groups of topic orders"),
    "groups": Case(groups_of_topics, 6, "of 12 consume groups"),
    "subscriptions": Case(subscriptions, 5, "of 10 subscriptions"),
    "subscriptions by URLs": Case(zbus_consumers, 5, "of 10 subscriptions"),
    "subscriptions by event streams": Case(zbus_streams, 5, "of 10 subscriptions"),
    "subscriptions by zbus": Case(zbus_waiting, 5, "of 10 subscriptions"),
    "delayed messages": Case(delayed, 7, "of 14 delayed messages that may wait in topic orders"),
    "bytes for the disk": Case(produced, 1, "of 6000 bytes that may wait for the disk", used=3000),
    "bytes for the disk by zbus": Case(zbus_produced, 1, "of 6000 bytes that may wait for the disk", used=3000),
    "bytes for the disk by URLs": Case(url_produced, 1, "of 6000 bytes that may wait for the disk", used=3000),
    "calls by WebSocket": Case(by_socket("rpc", topic="Busy"), 6, "of 12 calls that may wait for service Busy"),
    "topics by WebSocket": Case(by_socket("declare", topic="wNAMEN"), 6, "of 12 consume groups"),
    "groups by WebSocket": Case(
        by_socket("declare", topic="orders", consume_group="wNAMEN"), 4, "of 8 consume groups of topic orders"
    ),
    "subscriptions by WebSocket": Case(
        by_socket("consume", topic="orders", consume_group="all"), 5, "of 10 subscriptions"
    ),
    "bytes for the disk by WebSocket": Case(
        by_socket("produce", LARGE, is_stuck=True, topic="orders"),
        1,
        "of 6000 bytes that may wait for the disk",
        used=3000,
    ),
}


def prepare(core: RightsCore) -> None:
    """Have topics, a group and a service that is busy; the broker itself pays for none of it."""
    admin = core.native(ADMIN)
    for topic in ("orders", "mails", "news"):
        admin.command("declare", topic=topic)
    admin.command("declare_group", topic="orders", group="all")
    admin.serve("Busy", window=1)
    admin.post(Kind.REQUEST, {"method": "x"}, topic="Busy")
    core.run()


def filled(ask: Asked) -> tuple[int, Any]:
    """Ask until it is refused; return how often it was not, and the refusal."""
    for number in range(1, MANY):
        answer = ask(number)
        if refused(answer):
            return number - 1, answer
    raise AssertionError("nothing was refused")


def refused(answer: Any) -> bool:
    """Say whether an answer, of whatever dialect, is a refusal."""
    return isinstance(answer, RpcError) or (isinstance(answer, str) and answer[:1] in ("4", "5"))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_token_leaves_room_for_another(core: RightsCore, case: Case) -> None:
    """It is told whose share is used up, and what that is; another token has a share of its own."""
    prepare(core)

    count, refusal = filled(case.ask(core, GREEDY))

    assert count == case.share
    assert f"the share of token greedy is used up: {case.used or case.share} {case.says}; retry after" in str(refusal)
    if isinstance(refusal, RpcError):
        assert (refusal.code, refusal.details["retry_after_s"]) == (Code.RESOURCE_EXHAUSTED, 0.5)
    else:
        assert refusal.startswith("429 ")
    assert not refused(case.ask(core, MODEST)(MANY))


def test_who_has_shown_no_token_shares_with_all_others_who_have_not(core: RightsCore) -> None:
    """However many connections they have: tokens still find room."""
    nobody = Rights("anonymous", [rule("produce")])

    count, refusal = filled(lambda number: native_calls(core, nobody, "Calc")(1))

    assert count == 6
    assert "the share of clients without a token (anonymous) is used up: 6 of 12 calls" in str(refusal)
    assert native_calls(core, MODEST, "Calc")(1) is None


def test_without_tokens_each_connection_has_a_share(core: RightsCore) -> None:
    """One that calls without end leaves room for the others; what outlives connections is anybody's."""
    prepare(core)

    count, refusal = filled(native_calls(core, None, "Calc"))
    made, told = filled(declared(core, None))

    assert count == 6
    assert "the share of native is used up: 6 of 12 calls that may wait for service Calc" in str(refusal)
    assert native_calls(core, None, "Calc")(1) is None
    assert (made, told.message) == (13, "the broker's limit of 16 stored topics is reached; retry after 0.5 s")


def test_one_service_leaves_bytes_for_others(core: RightsCore) -> None:
    """Calls to one that is stuck, of many tokens together, do not fill the queues of all."""
    tokens = [rights(f"token {number}", rule("produce")) for number in range(20)]
    answers = [native_calls(core, token, "Stuck", BODY)(1) for token in tokens]
    told = [str(answer) for answer in answers if answer is not None]

    assert len(answers) - len(told) == 6
    assert "the share of service Stuck is used up: 3000 of 4000 bytes that may wait" in told[0]
    assert native_calls(core, tokens[0], "Other", BODY)(1) is None


def test_a_call_may_wait_alone_whatever_its_size(core: RightsCore) -> None:
    """A share is not to refuse what is large, as long as there is room for it."""
    ask = native_calls(core, GREEDY, "Calc", b" " * 3500)

    assert ask(1) is None
    assert "bytes" in str(ask(2))


# -- what is given back --------------------------------------------------------------------------------------


def in_use(core: RightsCore) -> list[int]:
    """Return how much of each thing somebody has."""
    store, queues = core.lab.store, core.broker.queues
    assert queues is not None
    lasting = (store._topics_made, store._groups_made, store._groups_of_topic, queues._subscriptions)
    lasting += (queues.intake.shares,)
    return [shares.total for shares in (*core.broker.calls.topics.shares, *lasting)]


def test_shares_of_calls_end_with_them(core: RightsCore) -> None:
    """By a reply, a cancellation, a deadline, the end of the connection: nothing is kept, nobody is remembered."""
    prepare(core)
    before = in_use(core)
    greedy = core.native(GREEDY)

    def call(timeout_ms: int = 0) -> None:
        body = Message(Kind.REQUEST, greedy._last_id + 1, b"Calc", b"{}", flags=Flag.WAIT_FOR_READY)
        body.timeout_ms = timeout_ms
        greedy._last_id += 1
        core.broker.receive(greedy.session, body, core.lab.scheduler.now())

    call()
    core.broker.receive(greedy.session, Message(Kind.CANCEL, greedy._last_id), 0.0)
    assert in_use(core) == before
    call(timeout_ms=1000)
    core.pass_time(2.0)
    assert in_use(core) == before
    call()
    servant = core.native(ADMIN)
    servant.serve("Calc")
    servant.reply("done")
    servant.close()
    assert in_use(core) == before
    call()
    assert in_use(core) != before
    greedy.close()
    assert in_use(core) == before
    assert len(core.broker.calls.topics.shares[0]) == 1  # whoever serves Busy


def test_who_serves_a_service_pays_for_it(core: RightsCore) -> None:
    """Those who have waited for it pay no more, and may wait for others."""
    ask = native_calls(core, GREEDY)
    count, _ = filled(ask)
    names = list(core.broker.calls.topics)
    servant = core.native(MODEST)
    for name in names:
        servant.serve(name.decode())

    again, _ = filled(native_calls(core, GREEDY))

    assert (count, again) == (8, 8)


def test_shares_of_what_is_stored_are_known_after_a_restart(core: RightsCore) -> None:
    """Topics and groups are still theirs who made them, and given back with them."""
    filled(declared(core, GREEDY))
    core.native(ADMIN).command("declare", topic="orders")
    filled(groups(core, GREEDY))
    store = core.lab.store
    before = store._topics_made.total, store._groups_made.total, len(store._topics_made), len(store._groups_of_topic)

    core.lab.restart()
    store = core.lab.store
    after = store._topics_made.total, store._groups_made.total, len(store._topics_made), len(store._groups_of_topic)
    for topic in list(store.topics.values()):
        store.remove_topic(topic, lambda error: None)
    core.lab.run()

    assert before == after == (9, 4, 2, 1)
    assert (store._topics_made.total, store._groups_made.total, len(store._groups_of_topic)) == (0, 0, 0)


def test_calls_that_were_taken_are_kept_by_a_restart(core: RightsCore) -> None:
    """However many there were: what an instance had waits too, then, and nobody is refused what was stored."""
    servant = core.native(ADMIN)
    servant.serve("Bank", durable=True, window=10)
    for number in range(14):
        core.native(rights(f"token {number}", rule("produce"))).ask(Kind.REQUEST, {"method": "x"}, topic="Bank")
    assert len(servant.calls) == 10

    core.lab.restart()
    broker = Broker("again", LIMITS)
    broker.attach(core.lab.store)
    for _ in broker.restoring():
        pass

    assert broker.statistics()["queued"] == 14
    assert len(broker.calls.topics.shares[1]) == 14  # whose they are is known


def test_shares_of_bytes_end_when_they_are_stored(core: RightsCore) -> None:
    """Or when they cannot be: at each level of durability, one by one or as a batch."""
    prepare(core)
    for durability in ("disk", "os", "memory"):
        core.native(ADMIN).command("declare", topic=durability, durability=durability)
        core.native(GREEDY).ask(Kind.PRODUCE, entry(LARGE), topic=durability)
        core.web(GREEDY).zbus("produce", LARGE, topic=durability, id="1")
        wrong = core.native(GREEDY).ask(Kind.PRODUCE, entry(b"a", "same") + entry(b"b", "same"), topic=durability)
        assert isinstance(wrong, RpcError)
    core.lab.topic("orders").log.fail("the disk is gone")
    core.native(GREEDY).ask(Kind.PRODUCE, entry(LARGE), topic="orders")
    core.web(GREEDY).zbus("produce", LARGE, topic="orders", id="1")
    core.run()

    assert core.broker.queues is not None
    intake = core.broker.queues.intake
    for shares in (intake.shares, intake.shares_of_topics):
        assert (shares.total, len(shares)) == (0, 0)


def test_one_token_leaves_room_in_a_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may wait for the disk in one topic is not all one token's either."""
    core = RightsCore()
    prepare(core)
    assert core.broker.queues is not None
    monkeypatch.setattr(core.broker.queues.intake, "_storing_of_topic", Shares(5000))

    count, refusal = filled(produced(core, GREEDY))

    assert count == 1
    assert "2500 of 5000 bytes that may wait for the disk in topic orders" in str(refusal)
    assert produced(core, MODEST)(1) is None


def test_shares_of_consumers_end_with_them(core: RightsCore) -> None:
    """By leaving, the end of the connection, the removal of the group or its topic."""
    admin = core.native(ADMIN)
    admin.command("declare", topic="orders")
    before = in_use(core)
    greedy = core.native(GREEDY)
    for end in ("leave", "close", "remove group", "remove topic"):
        said = greedy.ask(Kind.CONSUME, {"group": "g", "window": 1}, topic="orders")
        assert in_use(core) != before
        if end == "leave":
            greedy.ask(Kind.LEAVE, session=said["subscription"])
        elif end == "close":
            greedy.close()
            greedy = core.native(GREEDY)
        elif end == "remove group":
            admin.command("remove", topic="orders", group="g")
        else:
            admin.command("remove", topic="orders")
            admin.command("declare", topic="orders")
        if end in ("leave", "close"):
            admin.command("remove", topic="orders", group="g")
        assert in_use(core) == before, end


def test_shares_count_exactly() -> None:
    """Who has given all back is forgotten, and a share is a part of the whole."""
    shares = Shares(10, 0.5)
    shares.take("a", 5)
    shares.take("b", 2)

    assert (shares.most, shares.total, len(shares)) == (5, 7, 2)
    assert (shares.is_used_up("a"), shares.is_used_up("b", 3), shares.is_used_up("b", 4)) == (True, False, True)
    assert (shares.is_full(3), shares.is_full(4), shares.is_used_up("c", 9)) == (False, True, False)
    shares.give_back("a", 5)
    assert (shares.total, len(shares)) == (2, 1)


def test_delayed_messages_count_until_they_are_due_or_gone(core: RightsCore) -> None:
    """A batch counts as a whole, the first too; a share ends with the delay, and when the topic is emptied."""
    prepare(core)
    native = core.native(GREEDY)

    def produce(count: int, delay_ms: int) -> Any:
        body = b"".join(encode_entry(0, delay_ms, 0, b"", b"", b"", b"", b"x") for _ in range(count))
        return native.ask(Kind.PRODUCE, body, topic="orders")

    assert refused(produce(8, 10_000))
    assert not refused(produce(6, 10_000))
    assert refused(produce(2, 10_000))
    assert not refused(produce(100, 0))
    core.pass_time(11)
    assert not refused(produce(7, YEAR_MS))
    assert refused(produce(1, 1000))
    core.native(ADMIN).command("empty", topic="orders")
    assert not refused(produce(7, YEAR_MS))
    assert not refused(
        core.native(None).ask(Kind.PRODUCE, encode_entry(0, YEAR_MS, 0, b"", b"", b"", b"", b"x"), topic="orders")
    )
