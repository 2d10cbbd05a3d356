"""What the monitor does for one row does not grow with the others: counted are steps, with few topics and many."""

import pytest

from tests.support.rights_core import ADMIN, RightsCore, entry, rights, rule
from tests.support.steps import steps_of
from zbusrpc.broker.access.rights import Rights
from zbusrpc.message import Kind

FEW, MANY = 5, 50
SOME = rights("some", rule("query", topics=("t0", "T", "S"), groups=("g",)))


def core_with(count: int) -> RightsCore:
    """Return a broker with so many topics, groups of each, and services."""
    core = RightsCore()
    core.declare("T", *(f"t{number}" for number in range(count)))
    native = core.native()
    for number in range(count):
        native.command("declare_group", topic=f"t{number}", group="g")
        native.serve(f"s{number}")
    native.command("declare_group", topic="T", group="g")
    native.serve("S")
    return core


@pytest.mark.parametrize("who", [ADMIN, SOME], ids=lambda who: who.name)
@pytest.mark.parametrize("path", ["/api/topics/T", "/api/services/S"])
def test_one_row_costs_as_much_among_many_as_among_few(path: str, who: Rights) -> None:
    """Neither the rows nor the names of others are looked at."""
    steps = []
    for count in (FEW, MANY):
        web = core_with(count).web(who)
        assert web.ask(f"GET {path}").status == 200
        steps.append(steps_of(lambda web=web: web.ask(f"GET {path}")))

    assert abs(steps[1] - steps[0]) < FEW


def test_row_of_one_topic_says_what_the_list_says() -> None:
    """Also of where dead letters lie, of what is removed, and of what was looked up before."""
    core = core_with(1)
    core.native().command("declare", topic="T", dead_letter_topic="letters", update=True)
    core.declare("letters", "x.dlq")
    core.native().ask(Kind.PRODUCE, entry(b"more"), topic="T")
    web = core.web()

    listed = {row["topic"]: row for row in web.ask("GET /api/topics").json["result"]}
    for name, row in listed.items():
        shown = web.ask(f"GET /api/topics/{name}").json["result"]
        assert {key: value for key, value in shown.items() if key != "groups"} == row
        assert len(shown["groups"]) == row["group_count"]
    assert {name for name, row in listed.items() if row["is_dead_letter_topic"]} == {"letters", "x.dlq"}
    for row in web.ask("GET /api/services").json["result"]:
        shown = web.ask(f"GET /api/services/{row['service']}").json["result"]
        assert {key: value for key, value in shown.items() if key != "interface"} == row
    for path in ("topics/none", "topics/t", "services/none"):
        assert web.ask(f"GET /api/{path}").status == 404
