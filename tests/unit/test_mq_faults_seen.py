"""A disk that takes nothing is seen by whoever is on call, in figures, listings and commands, until it is well."""

import errno
from typing import Any

import pytest

from tests.support.rights_core import ADMIN, RightsCore, entry, rights, rule
from zbusrpc.broker.mq.journal import RETRY_DELAY_S
from zbusrpc.errors import RpcError
from zbusrpc.message import Kind


@pytest.fixture
def core() -> RightsCore:
    """Return a broker with a topic, and a consumer that has a message of it."""
    core = RightsCore()
    core.declare("orders")
    core.native().ask(Kind.CONSUME, {"group": "billing", "window": 4, "start": "oldest"}, topic="orders")
    core.lab.pass_time(1)
    return core


def seen(core: RightsCore) -> dict[str, Any]:
    """Return what is told, and where."""
    native, web = core.native(), core.web()
    answer = web.ask("GET /metrics")
    assert answer is not None
    figures = dict(line.rpartition(" ")[::2] for line in answer.text.splitlines() if line[:1] != "#")
    return {
        "metrics": float(figures["zbusrpc_journal_failing"]),
        "refused": float(figures["zbusrpc_messages_refused_total"]),
        "closed": float(figures['zbusrpc_topic_closed{topic="orders"}']),
        "stats": native.command("stats")["journals_failing"],
        "topic": native.command("topic", topic="orders")["journal_fails_because"],
        "server": web.ask("GET /api/server").json["result"]["journal_fails_because"],
    }


WELL = {"metrics": 0, "refused": 0, "closed": 0, "stats": 0, "topic": None, "server": None}


def test_full_disk_is_seen_and_so_is_its_end(core: RightsCore) -> None:
    """Messages that were refused stay counted; the journal is well when all is written."""
    assert seen(core) == WELL
    core.lab.disk.fail("append", errno.ENOSPC, calls=1000)

    native = core.native()
    assert isinstance(native.ask(Kind.PRODUCE, entry(b"more"), topic="orders"), RpcError)
    core.lab.store.try_again(core.lab.group(), 0)
    core.lab.pass_time(RETRY_DELAY_S)
    full = seen(core)
    core.lab.disk.faults.clear()
    core.lab.pass_time(2 * RETRY_DELAY_S)

    assert full["metrics"] == full["stats"] == full["refused"] == 1
    assert "No space left on device" in full["topic"]
    assert full["topic"] == full["server"]
    assert seen(core) == WELL | {"refused": 1}


def test_journal_that_is_closed_is_seen(core: RightsCore) -> None:
    """A sync that failed closes it until a restart, whether or not anything is to be written."""
    core.lab.disk.fail("sync", errno.EIO)
    refused = core.native().command("pause", topic="orders", group="billing")
    core.lab.disk.faults.clear()
    core.lab.pass_time(60)
    closed = seen(core)

    assert isinstance(refused, RpcError)
    assert closed["metrics"] == closed["stats"] == 1
    assert "Input/output error" in closed["topic"]
    assert closed["topic"] == closed["server"]


def test_why_the_journal_fails_is_told_to_those_who_may_know() -> None:
    """The figures of a broker are for whoever has the right `server`."""
    core = RightsCore()
    core.lab.store.journal.committer.log.closed_because = "for a test"
    user, ops = rights("user", rule("query")), rights("ops", rule("server"))

    told = {one.name: core.web(one).ask("GET /api/server").json["result"] for one in (ADMIN, user, ops)}

    assert [one["journal_fails_because"] for one in told.values()] == ["for a test", None, "for a test"]
