"""Names: two spellings are one name, those that the broker keeps for itself cannot be had, in every dialect."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.support.rights_core import ADMIN, RightsCore, entry, rights, rule
from tests.support.tokens import secret_of, write_tokens
from zbusrpc.broker.access.token_file import read_tokens
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind
from zbusrpc.mq.naming import topic_bytes
from zbusrpc.service.definition import service
from zbusrpc.transport.naming import one_spelling, one_spelling_bytes

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
THAI, HINDI = "คำสั่งซื้อ", "हिन्दी"


@pytest.fixture
def core() -> RightsCore:
    """Return a broker with a topic whose name can be written in two ways."""
    core = RightsCore()
    core.declare(DECOMPOSED)
    return core


def test_two_spellings_are_one_name(core: RightsCore) -> None:
    """Natively, by zbus in headers and URLs, by the page's API, in commands and lists."""
    native, web = core.native(), core.web()
    assert core.topic_names() == {COMPOSED}

    for spelled in (COMPOSED, DECOMPOSED):
        native.ask(Kind.PRODUCE, entry(b"x"), topic=spelled)
        assert native.command("declare", topic=spelled)["created"] is False
        assert native.ask(Kind.CONSUME, {"group": spelled}, topic=spelled)["group"] == COMPOSED
        for line in (f"GET /produce/{quote(spelled)}?body=x", f"GET /query/{quote(spelled)}", f"GET /{quote(spelled)}"):
            assert web.text(line).startswith("200 ")
        assert web.text("GET /", cmd="produce", topic=spelled).startswith("200 ")
        assert web.text(f"GET /api/topics/{quote(spelled)}").startswith("200 ")

    assert core.topic_names() == {COMPOSED}
    assert set(core.lab.topic(COMPOSED).groups) == {COMPOSED}


def test_rights_go_by_the_name_whatever_its_spelling(core: RightsCore, tmp_path: Any) -> None:
    """A rule may be written in another way than the topic, and a topic in another way than the rule."""
    rules = [{"operations": ["produce"], "topics": [DECOMPOSED], "groups": [DECOMPOSED]}]
    access = read_tokens(str(write_tokens(tmp_path / "tokens.toml", {"shop": rules}))).access()
    allowed = access.rights_of(secret_of("shop"))
    other = rights("other", rule("produce", topics=("cafe",)))

    for spelled in (COMPOSED, DECOMPOSED):
        assert isinstance(core.native(allowed).ask(Kind.PRODUCE, entry(b"x"), topic=spelled), dict)
        refused = core.native(other).ask(Kind.PRODUCE, entry(b"x"), topic=spelled)
        assert isinstance(refused, RpcError)
        assert refused.code is Code.PERMISSION_DENIED


def test_service_is_reached_by_either_spelling(core: RightsCore) -> None:
    """By native calls, the gateway and zbus."""
    instance = core.native()
    assert instance.serve("Caf\u00e9") is None

    core.native().post(Kind.REQUEST, {"method": "x"}, topic="Cafe\u0301")
    for line in (f"GET /rpc/{quote('Cafe' + chr(0x301))}/x", f"GET /{quote('Cafe' + chr(0x301))}/x"):
        core.web().begin(line)
    core.run()

    assert [call.topic.decode() for call in instance.calls] == ["Caf\u00e9"] * 3
    assert core.web().text(f"GET /rpc/{quote('Cafe' + chr(0x301))}").startswith("200 ")


def test_clients_write_the_one_spelling() -> None:
    """They look for the brokers that have a topic by the name that those tell."""

    @service(name=DECOMPOSED)
    class Named:
        """A service."""

    assert topic_bytes(DECOMPOSED) == COMPOSED.encode()
    assert Named.__zbusrpc_service__.name == COMPOSED  # type: ignore[attr-defined]
    assert one_spelling_bytes(b"\xff") == b"\xff"
    assert one_spelling("orders") == "orders"


@pytest.mark.parametrize("name", [THAI, HINDI])
def test_names_of_every_script_work_everywhere(core: RightsCore, name: str) -> None:
    """Letters with marks make names of topics and groups."""
    native, web = core.native(), core.web()

    assert native.command("declare", topic=name)["topic"] == name
    assert native.command("declare_group", topic=name, group=name)["group"] == name
    assert web.text(f"GET /produce/{quote(name)}?body=x").startswith("200 ")
    assert web.text(f"GET /consume/{quote(name)}/{quote(name)}") == "200 x"
    assert name in web.text("GET /server")


# -- names that the broker uses ------------------------------------------------------------------------------

RESERVED = "is the broker's own"


@pytest.fixture
def full() -> RightsCore:
    """Return a broker with dead letters and a durable service."""
    core = RightsCore()
    core.declare("orders", dead_letter_topic="dead")
    core.declare("dead", "other", "other.dlq")
    core.native().serve("Bank", durable=True)
    return core


@pytest.mark.parametrize(("topic", "group"), [("other.dlq", "letters"), ("dead", "letters"), ("Bank", "calls")])
def test_group_of_the_broker_cannot_be_had(full: RightsCore, topic: str, group: str) -> None:
    """Nobody makes, joins, moves, empties, pauses or removes it; each is told so."""
    native, web = full.native(ADMIN), full.web(ADMIN)
    asked = [
        native.ask(Kind.CONSUME, {"group": group}, topic=topic),
        native.command("declare_group", topic=topic, group=group),
        native.command("seek", topic=topic, group=group, start="oldest"),
        native.command("pause", topic=topic, group=group),
        native.command("resume", topic=topic, group=group),
        native.command("empty", topic=topic, group=group),
        native.command("remove", topic=topic, group=group),
    ]
    lines = [
        f"GET /declare/{topic}/{group}?group_start_offset=0",
        f"GET /remove/{topic}/{group}",
        f"GET /empty/{topic}/{group}",
        f"POST /api/topics/{topic}/groups/{group}/remove",
        f"POST /api/topics/{topic}/groups/{group}/declare",
    ]
    lines += [f"GET /consume/{topic}/{group}"] if topic != "Bank" else []  # so zbus serves a durable service

    assert [one.code for one in asked] == [Code.INVALID_ARGUMENT] * len(asked)
    assert all(RESERVED in one.message for one in asked)
    for line in lines:
        assert web.text(line).startswith("400 ")
        assert RESERVED in web.text(line)


def test_reserved_names_are_free_elsewhere(full: RightsCore) -> None:
    """Where they have no meaning for the broker they are names like others."""
    native = full.native()

    for group in ("letters", "calls"):
        assert native.ask(Kind.CONSUME, {"group": group}, topic="other")["group"] == group
    native.command("declare", topic="letters")
    assert full.web().text("GET /declare/letters").startswith("200 ")


def test_topic_with_a_group_of_letters_takes_no_dead_letters(full: RightsCore) -> None:
    """Else the broker would take somebody's group for its own."""
    native = full.native()
    native.command("declare_group", topic="other", group="letters")

    refused = native.command("declare", topic="orders", update=True, dead_letter_topic="other")

    assert isinstance(refused, RpcError)
    assert "topic other has a group letters, which dead letters need" in refused.message


@pytest.mark.parametrize("name", ["a\u202eb", "a\u200b", "a\x1b[31m", "a\u3164"])
def test_name_that_cannot_be_seen_is_no_name(name: str) -> None:
    """Neither of a topic nor of a group, in any dialect."""
    core = RightsCore()
    core.declare("orders")
    native, web = core.native(), core.web()

    assert isinstance(native.command("declare", topic=name), RpcError)
    assert isinstance(native.command("declare_group", topic="orders", group=name), RpcError)
    assert isinstance(native.ask(Kind.CONSUME, {"group": name}, topic="orders"), RpcError)
    assert web.text(f"GET /declare/{quote(name)}").startswith("400 ")
    assert web.text(f"GET /declare/orders/{quote(name)}").startswith("400 ")
    assert core.topic_names() == {"orders"}
