"""What is told to somebody whose rights end short of what he asks about: groups, figures, names."""

import re
from typing import Any, Final

import pytest

from tests.support.rights_core import Native, RightsCore, Web, entry, rights, rule
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind

MINE: Final = rights("mine", rule("query", "consume", "declare", topics=("public",), groups=("mine",)))
STARTS: Final[list[tuple[int, dict[str, Any]]]] = [
    (Kind.COMMAND, {"command": "peek", "topic": "public"}),
    (Kind.COMMAND, {"command": "dlq", "topic": "public"}),
    (Kind.COMMAND, {"command": "seek", "topic": "public", "group": "mine"}),
    (Kind.COMMAND, {"command": "declare_group", "topic": "public", "group": "mine"}),
    (Kind.CONSUME, {"group": "mine"}),
]
ON_THE_WEB: Final = [
    "GET /api/topics/public/messages?start=group:{}",
    "GET /api/topics/public/dead-letters?start=group:{}",
    "GET /declare/public/mine?group_start_copy={}",
]


@pytest.fixture
def core() -> RightsCore:
    """Return a broker with a topic, its groups and its dead letters."""
    core = RightsCore()
    core.declare("public", "public.dlq", "hidden.letters")
    for topic, group in (("public", "mine"), ("public", "theirs"), ("public.dlq", "theirs")):
        core.native().command("declare_group", topic=topic, group=group)
    return core


def without_name(text: str, name: str) -> str:
    """Return an answer without the name that was asked for."""
    return re.sub(rf"\b{name}\b", "NAME", text)


@pytest.mark.parametrize(("kind", "asked"), STARTS)
@pytest.mark.parametrize("is_new", [False, True])
def test_place_of_another_group_is_not_told(core: RightsCore, kind: int, asked: dict[str, Any], is_new: bool) -> None:
    """Neither where it stands, nor whether there is one, whatever takes a start."""
    if is_new:
        core.native().command("remove", topic="public", group="mine")
    answers = []
    for name in ("theirs", "nope"):
        topic = "public" if kind == Kind.CONSUME else ""
        answers.append(core.native(MINE).ask(kind, asked | {"start": {"group": name}}, topic=topic))

    if is_new and asked.get("command") == "seek":
        assert [answer.code for answer in answers] == [Code.NOT_FOUND] * 2
        return
    assert all(isinstance(answer, RpcError) and answer.code is Code.PERMISSION_DENIED for answer in answers), answers
    assert without_name(answers[0].message, "theirs") == without_name(answers[1].message, "nope")


@pytest.mark.parametrize("line", ON_THE_WEB)
def test_place_of_another_group_is_not_told_on_the_web(core: RightsCore, line: str) -> None:
    """By the API and by zbus, whatever the spelling."""
    told = [without_name(core.web(MINE).text(line.format(name)), name) for name in ("theirs", "THEIRS", "nope")]

    assert told[0].startswith("403")
    assert told[0] == told[1] == told[2]


def test_own_group_is_a_start(core: RightsCore) -> None:
    """Who may query a group, consume by it or declare it may begin where it stands."""
    assert core.native(MINE).command("peek", topic="public", start={"group": "mine"})["next_offset"] == 1


def figures(said: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a topic or group beyond that it is there."""
    names = {"topic", "group", "durability", "created"}
    return {name: value for name, value in said.items() if name not in names and value}


@pytest.mark.parametrize("operation", ["produce", "consume"])
def test_topic_that_may_not_be_queried_has_no_figures(core: RightsCore, operation: str) -> None:
    """Who declares a topic to use it learns that it is there."""
    token = rights("user", rule(operation, topics=("public",)))
    native = core.native(token).command("declare", topic="public")
    web = core.web(token).ask("POST /api/topics/public/declare", b"{}")

    assert native["topic"] == "public"
    assert native["created"] is False
    assert not figures(native)
    assert web is not None
    assert not figures(web.json["result"])


def test_group_that_may_not_be_queried_has_no_figures(core: RightsCore) -> None:
    """Who declares a group, natively or by zbus, learns that it is there."""
    token = rights("maker", rule("declare", topics=("public",)))
    native = core.native(token).command("declare_group", topic="public", group="mine")
    core.native().ask(Kind.CONSUME, {"group": "mine"}, topic="public")

    assert not figures(native)
    for line in ("GET /declare/public/mine", "GET /declare/public"):
        answer = core.web(token).ask(line)
        assert answer is not None
        info = answer.json
        for said in (info, *info.get("consumeGroupList", [])):
            counted = {"messageDepth", "messageCount", "consumerCount", "consumerList", "lastUpdatedTime"}
            assert not any(said[name] for name in counted & said.keys()), said


COUNTED: Final[dict[str, dict[str, Any]]] = {
    "seek": {"command": "seek", "topic": "public", "group": "mine", "start": "newest"},
    "empty a group": {"command": "empty", "topic": "public", "group": "mine"},
    "empty a topic": {"command": "empty", "topic": "public"},
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("may_query", [True, False])
def test_what_a_command_did_is_counted_for_who_may_query(core: RightsCore, name: str, may_query: bool) -> None:
    """Who moves or empties without it is told that it is done, and not of how much: natively and by the API."""
    operations = ("declare", "empty", *(("query",) if may_query else ()))
    token = rights("mover", rule(*operations, topics=("public",)))
    asked = COUNTED[name]
    if name == "seek":
        target, body = "/api/topics/public/groups/mine/seek", b'{"start":"newest"}'
    else:
        target, body = f"/api/topics/public{'/groups/mine' if 'group' in asked else ''}/empty", b"{}"

    native = core.native(token).ask(Kind.COMMAND, asked)
    core.native().command("seek", topic="public", group="mine", start="oldest")
    core.native().ask(Kind.PRODUCE, entry(b"more"), topic="public")
    web = core.web(token).ask(f"POST {target}", body)

    assert web is not None
    assert web.status == 200, web.body
    for said in (native, web.json["result"]):
        assert isinstance(said, dict), said
        assert any(said.values()) is may_query, said


@pytest.mark.parametrize("line", ["GET /declare/public/mine", "GET /declare/public/mine?group_mask=0"])
def test_group_begins_where_one_stands_that_may_be_known(core: RightsCore, line: str) -> None:
    """One that names no place, of zbus: not where another stands of which its maker may know nothing."""
    core.native().command("remove", topic="public", group="mine")
    core.native().command("seek", topic="public", group="theirs", start="newest")

    core.web(MINE).ask(line)
    assert core.group("public", "mine").position == 0
    core.native().command("remove", topic="public", group="mine")
    core.web().ask(line)
    assert core.group("public", "mine").position == 1


@pytest.mark.parametrize("groups", [("mine",), ("*",)])
def test_group_of_a_letter_is_named_to_who_may_query_it(core: RightsCore, groups: tuple[str, ...]) -> None:
    """Also where it is gone, and its letters cannot be given back: natively and by the API."""
    admin = core.native()
    admin.command("declare_group", topic="public", group="hidden", max_attempts=1)
    joined = admin.ask(Kind.CONSUME, {"group": "hidden", "window": 1}, topic="public")
    admin.ask(Kind.NACK, {"ranges": [[0, 0]]}, session=joined["subscription"])
    admin.command("remove", topic="public", group="hidden")
    token = rights("retrier", rule("produce", topics=("*",)), rule("query", topics=("*",), groups=groups))

    native = core.native(token).command("retry_dead", topic="public")
    web = core.web(token).ask("POST /api/topics/public/dead-letters/retry", b"{}")

    assert web is not None
    for said in (native, web.json["result"]):
        assert said["retried"] == 0
        assert any("is gone; say as_new" in left["reason"] for left in said["left"]), said
        assert ("hidden" in str(said)) is (groups == ("*",)), said


def test_figures_are_those_of_the_groups_that_may_be_queried(core: RightsCore) -> None:
    """Counts of groups and consumers go over no others."""
    core.native().ask(Kind.CONSUME, {"group": "theirs"}, topic="public")
    native, web = core.native(MINE), core.web(MINE)
    asked = web.ask("GET /api/topics/public")
    assert asked is not None

    for said in (
        native.command("topic", topic="public"), native.command("topics")[0],
        native.command("declare", topic="public"), asked.json["result"],
    ):  # fmt: skip
        assert (said["group_count"], said["consumers"]) == (1, 0), said
    stats = native.command("stats")
    assert (stats["groups"], stats["consumers"]) == (1, 0)
    assert core.native().command("topic", topic="public")["group_count"] == 2


def told_of_letters(native: Native, web: Web) -> list[str]:
    """Ask for everything that has to do with the dead letters of `hb`, and return the answers."""
    told = [str(native.ask(Kind.COMMAND, {"command": name, "topic": "hb"})) for name in LETTERS]
    told += [str(native.ask(Kind.COMMAND, {"command": "topics"}))]
    told += [web.text(f"POST /api/topics/hb/dead-letters/{name}") for name in ("retry", "purge")]
    return told + [web.text(f"GET /api/{path}") for path in ("topics/hb", "topics/hb/dead-letters", "topics", "live")]


LETTERS: Final = ("dlq", "retry_dead", "purge_dead", "topic", "declare")


def test_topic_of_dead_letters_is_named_to_nobody_who_may_not_query_it(core: RightsCore) -> None:
    """Neither by refusals nor by options."""
    core.native().command("declare", topic="hb", dead_letter_topic="hidden.letters")
    for operations in (("produce",), ("query",), ("query", "produce", "empty", "declare")):
        token = rights("hb", rule(*operations, topics=("hb",)))
        told = told_of_letters(core.native(token), core.web(token))
        assert not [text for text in told if "hidden" in text], operations
    assert any("hidden.letters" in text for text in told_of_letters(core.native(), core.web()))


@pytest.mark.parametrize("group", ["auto-zz", "auto-", "auto-0123456789ab"])
def test_name_that_the_broker_gives_is_nobody_elses(core: RightsCore, group: str) -> None:
    """No group is made by such a name; one that is there may be come back to."""
    native = core.native()
    assert is_refused(native.ask(Kind.CONSUME, {"group": group}, topic="public"))
    assert is_refused(native.ask(Kind.COMMAND, {"command": "declare_group", "topic": "public", "group": group}))
    assert core.web().text(f"GET /declare/public/{group}").startswith("400")

    given = native.ask(Kind.CONSUME, {}, topic="public")["group"]
    again = {"group": given, "delete_on_exit": True}
    assert native.ask(Kind.CONSUME, again, topic="public")["group"] == given
    core.native().command("remove", topic="public", group=given)
    assert core.native().ask(Kind.CONSUME, again, topic="public")["group"] == given  # after an outage


def is_refused(answer: Any) -> bool:
    """Say whether a request cannot be carried out as it is."""
    return isinstance(answer, RpcError) and answer.code is Code.INVALID_ARGUMENT


def test_message_is_still_stored_by_who_may_produce_alone(core: RightsCore) -> None:
    """What is withheld is not needed to work."""
    native = core.native(rights("user", rule("produce", topics=("public",))))
    assert not isinstance(native.command("declare", topic="public"), RpcError)
    assert not isinstance(native.ask(Kind.PRODUCE, entry(b"x"), topic="public"), RpcError)
