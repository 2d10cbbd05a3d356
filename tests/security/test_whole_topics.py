"""Whole topics: a right to some groups is none to the topic, and a name is a service's or a topic's, never both."""

from typing import Any

import pytest

from tests.support.rights_core import ADMIN, Native, RightsCore, entry, rights, rule
from tests.support.zbus_core import read
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

EVERYTHING = ("produce", "consume", "query", "declare", "empty", "remove")
AUDIT = rights("audit", rule(*EVERYTHING, groups=("audit",)))
"""Everything, with one group."""
WHOLE = rights("whole", rule(*EVERYTHING))


@pytest.fixture
def core() -> RightsCore:
    """Return a broker with a topic, its dead letters and two services."""
    core = RightsCore()
    core.declare("orders", "orders.dlq", "other")
    for topic in ("orders", "orders.dlq"):
        for group in ("audit", "billing"):
            core.native().command("declare_group", topic=topic, group=group)
    core.native().serve("Chat")
    core.native().serve("Bank", durable=True)
    core.web().ask("GET /declare/Old?topic_mask=2&consume_group=audit")
    return core


# -- rights to all groups ------------------------------------------------------------------------------------

SERVE: dict[str, Any] = {"window": 1}
NATIVE: list[tuple[int, Any, str]] = [
    (Kind.SUBSCRIBE, SERVE, "orders"),
    (Kind.SUBSCRIBE, SERVE, "Chat"),
    (Kind.SUBSCRIBE, SERVE, "New"),
    (Kind.SUBSCRIBE, SERVE | {"about": {"durable": True}}, "Bank"),
    (Kind.SUBSCRIBE, SERVE | {"about": {"durable": True}}, "New"),
    (Kind.COMMAND, {"command": "declare", "topic": "new"}, ""),
    (Kind.COMMAND, {"command": "declare", "topic": "orders", "update": True, "keep_s": 1}, ""),
    (Kind.COMMAND, {"command": "remove", "topic": "orders"}, ""),
    (Kind.COMMAND, {"command": "empty", "topic": "orders"}, ""),
    (Kind.COMMAND, {"command": "purge_dead", "topic": "orders"}, ""),
]
WEB = [
    "GET /declare/new",
    "GET /declare/orders?topic_mask=2",
    "GET /declare/orders?topic_mask=2&consume_group=audit",
    "GET /remove/orders",
    "GET /empty/orders",
    "GET /consume/Old/audit?timeout=0",
    "POST /api/topics/new/declare",
    "POST /api/topics/orders/remove",
    "POST /api/topics/orders/empty",
    "POST /api/topics/orders/dead-letters/purge",
]


@pytest.mark.parametrize("asked", NATIVE, ids=str)
def test_message_about_a_whole_topic_needs_the_right_to_all_groups(
    core: RightsCore, asked: tuple[int, Any, str]
) -> None:
    """With a right to one group it is refused, and nothing has changed."""
    kind, body, topic = asked
    before = core.topic_names()

    refused = core.native(AUDIT).ask(kind, body, topic=topic)

    assert isinstance(refused, RpcError)
    assert refused.code is Code.PERMISSION_DENIED
    assert core.topic_names() == before
    assert core.lab.topic("orders").log.next_offset == 1


@pytest.mark.parametrize("line", WEB)
def test_request_about_a_whole_topic_needs_the_right_to_all_groups(core: RightsCore, line: str) -> None:
    """By URL, and by the page's API."""
    before = core.topic_names()

    answer = core.web(AUDIT).ask(line)

    assert answer is not None
    assert answer.status == 403
    assert core.topic_names() == before
    assert core.lab.topic("orders").options.mask == 0


@pytest.mark.parametrize("asked", [one for one in NATIVE if one[2] != "orders"], ids=str)
def test_right_to_all_groups_is_enough(core: RightsCore, asked: tuple[int, Any, str]) -> None:
    """What the others are refused goes on with it."""
    kind, body, topic = asked

    assert not isinstance(core.native(WHOLE).ask(kind, body, topic=topic), RpcError)


@pytest.mark.parametrize("line", [line for line in WEB if "topic_mask" not in line])
def test_right_to_all_groups_is_enough_on_the_web(core: RightsCore, line: str) -> None:
    """Here, too."""
    web = core.web(WHOLE)
    answer = web.begin(line)
    core.pass_time(1)

    assert read(answer).status in {200, 204}


def test_right_to_a_group_is_enough_for_that_group(core: RightsCore) -> None:
    """What names it is not about the whole topic."""
    native, web = core.native(AUDIT), core.web(AUDIT)

    for command in ({"command": "pause"}, {"command": "resume"}, {"command": "seek", "start": "newest"}):
        assert not isinstance(native.ask(Kind.COMMAND, command | {"topic": "orders", "group": "audit"}), RpcError)
    for line in ("GET /declare/orders/audit", "GET /empty/orders/audit", "GET /consume/orders/audit?timeout=0"):
        answer = web.begin(line)
        core.pass_time(1)
        assert read(answer).status in {200, 204}
    assert not isinstance(native.command("remove", topic="orders", group="audit"), RpcError)


# -- one name, one kind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("topic", ["orders", "empty"])
def test_service_does_not_take_the_name_of_a_topic(core: RightsCore, topic: str, durable: bool) -> None:
    """Whether the topic holds messages or not: what is produced there is stored as before."""
    core.native().command("declare", topic="empty")
    refused = core.native(WHOLE).serve(topic, durable=durable)

    assert isinstance(refused, RpcError)
    assert refused.code is Code.FAILED_PRECONDITION
    assert refused.message == f"{topic} is a topic of messages, and no service: a service needs a name of its own"
    before = core.lab.topic(topic).log.next_offset
    assert core.web().text(f"GET /produce/{topic}?body=x").startswith("200 ")
    core.native().ask(Kind.PRODUCE, entry(b"x"), topic=topic)
    assert core.lab.topic(topic).log.next_offset == before + 2


def test_service_does_not_take_the_place_of_dead_letters(core: RightsCore) -> None:
    """The broker makes it when it needs it."""
    core.native().command("declare", topic="other", dead_letter_topic="spare", update=True)

    for name in ("orders.dlq", "new.dlq", "spare"):
        refused = core.native(WHOLE).serve(name)
        assert isinstance(refused, RpcError)
        assert refused.message == f"{name} is for dead letters: a service needs another name"
    taken = core.native(WHOLE).command("declare", topic="other", dead_letter_topic="Chat", update=True)
    assert isinstance(taken, RpcError)
    assert taken.message == "Chat is a service that runs here: name another topic for the dead letters of other"


@pytest.mark.parametrize("service", ["Chat", "Bank", "Old"])
def test_topic_does_not_take_the_name_of_a_service(core: RightsCore, service: str) -> None:
    """It is neither made beside it nor becomes one of messages; messages are not stored as if it were."""
    native = core.native(WHOLE)

    produced = native.ask(Kind.PRODUCE, entry(b"x"), topic=service)

    assert isinstance(produced, RpcError)
    assert produced.code is Code.FAILED_PRECONDITION
    assert "service" in produced.message
    if service == "Chat":
        declared = native.command("declare", topic=service)
        assert isinstance(declared, RpcError)
        assert declared.message == ("Chat is a service that runs here: a topic of messages needs a name of its own")
        assert "Chat" not in core.topic_names()


@pytest.mark.parametrize("mask", ["", "&topic_mask=0", "&topic_mask=2"])
def test_service_that_zbus_declares_stays_one(core: RightsCore, mask: str) -> None:
    """Clients of zbus declare before they call: they are told the service, and the next call reaches it."""
    declared = core.web().text(f"GET /declare/Chat?x=1{mask}")

    assert declared.startswith("200 ")
    assert '"mask":2' in declared
    (instance,) = (one for one in core.natives.values() if b"Chat" in one.session.consumers)
    core.web().ask('GET /produce/Chat?body={"method":"hi"}')
    assert [call.topic for call in instance.calls] == [b"Chat"]
    assert not isinstance(core.native().serve("Chat"), RpcError)


@pytest.mark.parametrize(
    ("topic", "options"), [("orders", {"rpc": True}), ("orders", {"mask": 2}), ("Bank", {"rpc": False})]
)
def test_topic_that_holds_messages_stays_what_it_is(core: RightsCore, topic: str, options: dict[str, Any]) -> None:
    """Its messages would go as calls, or its calls as messages."""
    core.native().post(Kind.REQUEST, {"method": "x"}, topic="Bank")
    core.run()

    refused = core.native().command("declare", topic=topic, update=True, **options)

    assert isinstance(refused, RpcError)
    assert refused.code is Code.FAILED_PRECONDITION
    assert "empty it first" in refused.message


def test_topic_that_is_being_made_is_taken(core: RightsCore) -> None:
    """Who subscribes in the same turn as another declares does not get in between."""
    native: Native = core.native()
    numbers = [
        native.post(Kind.COMMAND, {"command": "declare", "topic": "soon"}),
        native.post(Kind.SUBSCRIBE, SERVE, topic="soon"),
    ]
    core.run()

    declared, served = (native.answer(number) for number in numbers)

    assert declared["topic"] == "soon"
    assert isinstance(served, RpcError)
    assert core.native(ADMIN).command("topic", topic="soon")["messages"] == 0
