"""Ids that a peer chooses: another token that chooses the same gets at nothing, and keeps nobody from anything."""

from typing import Any

import pytest

from tests.support.rights_core import ADMIN, Native, RightsCore, entry, rights, rule
from zbusrpc.broker.access.rights import Rights
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.storage.record import Record
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

BANK = rights("bank", rule("produce", "consume", "query", "declare"))
CHAT = rights("chat", rule("produce", "consume", "query", topics=("Chat", "Bank", "orders")))
ID = "order-17"


@pytest.fixture
def core() -> RightsCore:
    """Return a broker with two durable services and a topic."""
    core = RightsCore()
    for service in ("Bank", "Chat"):
        core.native().serve(service, durable=True)
    core.declare("orders")
    return core


def servant(core: RightsCore, *services: str) -> Native:
    """Return a session that serves some durable services, in place of those that made them."""
    for session in list(core.natives.values()):
        session.close()
    native = core.native()
    for service in services:
        assert native.serve(service, durable=True) is None
    return native


def call(session: Native, service: str, said: str, id_: str = ID) -> int:
    """Call a durable service under an id, and return the number of the request."""
    number = session.post(Kind.REQUEST, {"method": said}, topic=service, message_id=id_)
    session.core.run()
    return number


# -- replies of durable services -----------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["Chat", "Bank"], ids=["another service", "another token"])
def test_reply_is_not_given_to_who_says_its_id(core: RightsCore, service: str) -> None:
    """Neither while the call runs nor afterwards: he makes a call of his own, and the caller gets his reply."""
    instance, bank, chat = servant(core, "Bank", "Chat"), core.native(BANK), core.native(CHAT)
    mine = call(bank, "Bank", "pay")
    stolen = call(chat, service, "peep")
    assert [request.topic for request in instance.calls] == [b"Bank", service.encode()]

    instance.reply("paid")

    assert bank.answer(mine) == "paid"
    assert chat.answer(stolen) is None
    instance.reply("peeped")
    assert chat.answer(stolen) == "peeped"
    later = call(chat, service, "again", ID)
    assert chat.answer(later) == "peeped"


@pytest.mark.parametrize("service", ["Chat", "Bank"], ids=["another service", "another token"])
def test_call_is_not_suppressed_by_one_with_its_id(core: RightsCore, service: str) -> None:
    """Who was first with an id keeps nobody else's call from being run."""
    instance, bank, chat = servant(core, "Bank", "Chat"), core.native(BANK), core.native(CHAT)
    call(chat, service, "first")
    instance.reply("first")

    mine = call(bank, "Bank", "pay")
    instance.reply("paid")

    assert bank.answer(mine) == "paid"


def test_own_call_is_known_again(core: RightsCore) -> None:
    """The same token asks again on another connection: the call runs once, and who asked last gets the reply."""
    instance, bank = servant(core, "Bank"), core.native(BANK)
    first, again = call(bank, "Bank", "pay"), core.native(BANK)
    second = call(again, "Bank", "pay")

    instance.reply("paid")

    assert not instance.calls
    assert again.answer(second) == "paid"
    refusal = bank.answer(first)
    assert isinstance(refusal, RpcError)
    assert (refusal.code, refusal.details) == (Code.ABORTED, {"may_have_run": True})


def test_calls_of_two_services_are_told_apart_at_one_instance(core: RightsCore) -> None:
    """Both are stored at the same place of their topics; each caller gets the reply to its own."""
    instance, bank = servant(core, "Bank", "Chat"), core.native(BANK)
    first, second = call(bank, "Bank", "one", "a"), call(bank, "Chat", "two", "b")

    for answer in ("for Bank", "for Chat"):
        instance.reply(answer)

    assert (bank.answer(first), bank.answer(second)) == ("for Bank", "for Chat")


def test_call_is_cancelled_by_its_own_session_alone(core: RightsCore) -> None:
    """A CANCEL names a request of the session that sends it."""
    instance, bank, chat = servant(core, "Bank"), core.native(BANK), core.native(CHAT)
    mine = call(bank, "Bank", "pay")

    chat.post(Kind.CANCEL)
    chat.session.last_id = 0
    instance.reply("paid")

    assert bank.answer(mine) == "paid"


def test_ids_are_whose_they_were_after_a_restart(core: RightsCore) -> None:
    """What is stored says whose its id is."""
    call(core.native(BANK), "Bank", "pay")
    (record,) = core.lab.topic("Bank").log.read(0)

    assert record.owner == BANK.owner
    assert (record.owner, ADMIN.owner, rights("", rule()).owner) != (0, 0, 0)


# -- messages ------------------------------------------------------------------------------------------------


def test_message_is_not_suppressed_by_one_with_its_id(core: RightsCore) -> None:
    """Two tokens that call their messages the same have two messages; one token that says it twice has one."""
    bank, chat = core.native(BANK), core.native(CHAT)

    receipts = [
        session.ask(Kind.PRODUCE, entry(b"x", ID), topic="orders") for session in (chat, bank, bank, core.native(None))
    ]

    assert ["duplicates" in receipt for receipt in receipts] == [False, False, True, False]


def test_owners_of_ids_are_known_from_the_log() -> None:
    """After a restart each token's ids are still its own, and no more than its own."""
    core = RightsCore()
    core.declare("orders")
    core.native(CHAT).ask(Kind.PRODUCE, entry(b"x", ID), topic="orders")
    core.lab.topic("orders").forget_emptied()  # as of a start: the ids are read from the log when they are needed

    mine = core.native(BANK).ask(Kind.PRODUCE, entry(b"x", ID), topic="orders")
    again = core.native(CHAT).ask(Kind.PRODUCE, entry(b"x", ID), topic="orders")

    assert "duplicates" not in mine
    assert "duplicates" in again


def test_place_by_id_finds_the_last_message_of_anybody(core: RightsCore) -> None:
    """Who may read a topic may begin at a message, whoever has produced it."""
    for token in (BANK, CHAT):
        core.native(token).ask(Kind.PRODUCE, entry(b"x", ID), topic="orders")

    core.native().command("declare_group", topic="orders", group="g", start={"id": ID})

    assert core.lab.group("orders", "g").position == 2


# -- addresses of brokers --------------------------------------------------------------------------------------


def test_address_of_a_broker_is_reported_by_its_token_alone() -> None:
    """Nobody takes over what another's broker serves by saying that he is at its address, while it lives."""
    core = RightsCore()
    facts = {"mask": 0, "consumers": 1, "depth": 0, "created_ms": 0, "groups": []}

    def report(token: Rights, topic: str) -> Any:
        told = {"is_full": True, "server": {"address": "bank:1", "boot": token.name}, "topics": {topic: facts}}
        return core.native(token).ask(Kind.REPORT, told | {"version": 1})

    mine, other = (rights(name, rule("track_pub")) for name in ("mine", "other"))
    assert not isinstance(report(mine, "Bank"), RpcError)
    refused = report(other, "Evil")
    again = report(mine, "Bank")

    assert isinstance(refused, RpcError)
    assert refused.code is Code.ALREADY_EXISTS
    assert not isinstance(again, RpcError)
    assert set(core.hub.tracker.registry.servers["bank:1"].topics) == {"Bank"}


# -- a fault of one ------------------------------------------------------------------------------------------


def test_two_durable_subscriptions_in_one_write_harm_nobody() -> None:
    """The second is refused, and others that wait for the same topic are answered."""
    core = RightsCore()
    twice, other = core.native(), core.native()
    body = {"window": 1, "about": {"durable": True}}
    numbers = [twice.post(Kind.SUBSCRIBE, body, topic="New") for _ in range(2)]
    theirs = other.post(Kind.SUBSCRIBE, body, topic="New")
    declared = other.post(Kind.COMMAND, {"command": "declare", "topic": "New"})
    core.run()

    first, second = (twice.answer(number) for number in numbers)
    assert first is None
    assert isinstance(second, RpcError)
    assert "serves New already" in second.message
    assert theirs in other.replies
    assert other.answer(theirs) is None
    assert other.answer(declared)["topic"] == "New"


def test_fault_in_one_answer_keeps_none_from_others() -> None:
    """Whatever raises where many are told, the others are told as well."""
    core = RightsCore()
    told: list[str] = []

    def fails(*said: object) -> None:
        raise RuntimeError("a fault of ours")

    store = core.lab.store
    store.declare("T", {}, update=False, done=fails)
    store.declare("T", {}, update=False, done=lambda topic, error: told.append("topic"))
    core.run()
    for done in (fails, lambda group, error: told.append("group")):
        if "g" in core.lab.topic("T").groups:
            store.when_started(core.lab.group("T", "g"), done)
        else:
            store.create_group(core.lab.topic("T"), "g", GroupOptions(), "oldest", done)
    topic = core.lab.topic("T")
    for done in (fails, lambda receipt, error: told.append("stored")):
        topic.append([Record(b"x")], done)
    core.run()

    assert sorted(told) == ["group", "stored", "topic"]
