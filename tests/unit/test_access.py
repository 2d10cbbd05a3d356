"""Access: which secret has which rights, and what they allow."""

import pytest

from zbusrpc.broker.access import rights as access
from zbusrpc.broker.access.rights import ALL, ANONYMOUS, DECISIONS_MAX, Access, Operation, Rights, Rule, digest_of


def rule(*operations: Operation, topics: tuple[str, ...] = (ALL,), groups: tuple[str, ...] = (ALL,)) -> Rule:
    """Return a rule."""
    return Rule(operations=frozenset(operations), topics=topics, groups=groups)


@pytest.mark.parametrize(
    ("operation", "topic", "group", "is_allowed"),
    [
        (Operation.PRODUCE, "orders", None, True),
        (Operation.PRODUCE, "stock.eu", None, True),
        (Operation.PRODUCE, "stock.", None, True),
        (Operation.PRODUCE, "stock", None, False),
        (Operation.PRODUCE, "Orders", None, False),
        (Operation.PRODUCE, "orders2", None, False),
        (Operation.PRODUCE, ALL, None, False),
        (Operation.CONSUME, "replies", "web", True),
        (Operation.CONSUME, "replies", "web-7", True),
        (Operation.CONSUME, "replies", "other", False),
        (Operation.CONSUME, "replies", ALL, False),
        (Operation.CONSUME, "orders", "web", False),
        (Operation.PRODUCE, "", None, True),
        (Operation.QUERY, "", None, False),
        (Operation.ADMIN, "orders", None, False),
    ],
)
def test_rights_are_those_of_their_rules(operation: Operation, topic: str, group: str | None, is_allowed: bool) -> None:
    """Operation, topic and group must match within one rule; a name may end with *, and case counts."""
    rights = Rights(
        "web",
        [
            rule(Operation.PRODUCE, topics=("orders", "stock.*")),
            rule(Operation.CONSUME, topics=("replies",), groups=("web", "web-*")),
        ],
    )

    assert [rights.allows(operation, topic, group) for _ in range(2)] == [is_allowed, is_allowed]


@pytest.mark.parametrize("operation", list(Operation))
def test_admin_may_do_everything(operation: Operation) -> None:
    """With the right of an admin topics and groups do not count."""
    rights = Rights("ops", [rule(Operation.ADMIN, topics=("none",), groups=("none",))])

    assert rights.allows(operation, "orders", "web")
    assert rights.allows(operation, ALL, ALL)
    assert rights.allows(operation)


def test_all_topics_are_more_than_any() -> None:
    """Only a rule for everything allows what concerns everything."""
    assert Rights("a", [rule(Operation.REMOVE)]).allows(Operation.REMOVE, "orders", ALL)
    assert not Rights("b", [rule(Operation.REMOVE, groups=("a*", "b*"))]).allows(Operation.REMOVE, "orders", ALL)


def test_remembered_decisions_are_bounded() -> None:
    """A client that asks for ever new topics does not fill the memory."""
    rights = Rights("web", [rule(Operation.PRODUCE, topics=("a*",))])

    answers = [rights.allows(Operation.PRODUCE, f"a{number}") for number in range(DECISIONS_MAX * 2 + 1)]

    assert all(answers)
    assert len(rights._decisions) <= DECISIONS_MAX


def test_secret_is_known_by_its_hash() -> None:
    """The right secret gives the rights of its token, another one nothing, and none at all those of everybody."""
    web = Rights("web", [rule(Operation.PRODUCE)], digest_of("s3cret"))
    tokens = Access([web, Rights("ops", [rule(Operation.ADMIN)], digest_of("other"))], [rule(Operation.QUERY)])

    assert tokens.rights_of("s3cret") is web
    assert tokens.rights_of("s3cre") is None
    assert tokens.rights_of("S3CRET") is None
    assert tokens.rights_of("\ud800") is None
    assert tokens.rights_of("") is tokens.anonymous
    assert tokens.anonymous.name == ANONYMOUS
    assert tokens.anonymous.allows(Operation.QUERY)
    assert not tokens.anonymous.allows(Operation.PRODUCE)


def test_without_rules_for_everybody_a_client_without_token_may_do_nothing() -> None:
    """What is not allowed in so many words is not allowed."""
    anonymous = Access().rights_of("")

    assert anonymous is not None
    assert not any(anonymous.allows(operation) for operation in Operation)


def test_every_token_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a look-up takes does not tell which token was found: all are compared, each in constant time."""
    compared: list[bytes] = []
    constant_time = access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append(a) or constant_time(a, b))
    tokens = Access([Rights(str(number), (), digest_of(str(number))) for number in range(5)])

    tokens.rights_of("0")

    assert compared == [digest_of(str(number)) for number in range(5)]


def test_renewed_rights_are_those_of_the_same_secret() -> None:
    """A token that was made anew under its old name has another secret: who shows the old one is a stranger."""
    old = Access([Rights("web", (), digest_of("one")), Rights("ops", (), digest_of("two"))])
    new = Access([Rights("web", (), digest_of("three")), Rights("ops", [rule(Operation.QUERY)], digest_of("two"))])

    assert new.renewed(old.rights_of("one")) is None
    assert new.renewed(old.rights_of("two")) is new.rights_of("two")
    assert new.renewed(old.anonymous) is new.anonymous
    assert new.renewed(None) is new.anonymous


def test_secret_is_in_no_repr() -> None:
    """What may land in a log holds the name of the token only."""
    assert repr(Rights("web", (), digest_of("s3cret"))) == "<rights of web>"
