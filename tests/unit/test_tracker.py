"""The tracker: what clients are told and when, whose eyes it is for, and what reports cannot do."""

from typing import Any

import orjson
import pytest

from tests.support.tracker_net import FakeTime, facts
from tests.support.zbus_core import TextSession, ZbusCore, read
from zbusrpc.broker.access.rights import Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.sessions.session import Session
from zbusrpc.broker.tracker.registry import LEASE_S, LOOK_S
from zbusrpc.broker.tracker.tracker import LEARN_S, PUSH_BYTES_PER_S, PUSH_DELAY_S, Tracker
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport import topology as words
from zbusrpc.transport.topology import LEARNT_MAX, SELF_ONLY, Report, ServerFacts, TopicFacts, Topology, encode

OWN, OTHER, THIRD = "10.0.0.1:15555", "10.0.0.2:15555", "10.0.0.3:15555"


class Lab:
    """One tracker, whose sessions are lists of what they are sent."""

    def __init__(self, *, is_tracker_only: bool = False, skew_ms: int = 0) -> None:
        self.time = FakeTime()
        self.time.skew_ms = skew_ms
        self.topics: dict[str, TopicFacts] = {"own": facts(1)}
        self.sent: dict[Session, list[Message]] = {}
        self.tracker = Tracker(self.time, lambda session, message: self.sent[session].append(message))
        self.tracker.describe = self.topics.get
        self.tracker.begin(ServerFacts(address=OWN, boot="1", is_tracker_only=is_tracker_only), list(self.topics))

    def session(self, rights: Rights | None = None) -> Session:
        """Begin a session."""
        session = Session(len(self.sent) + 1, "test")
        session.rights = rights
        self.sent[session] = []
        return session

    def client(self, rights: Rights | None = None, body: bytes = b"") -> Session:
        """Begin the session of a client that tracks; what it is told first is forgotten when the tracker is settled."""
        session = self.session(rights)
        self.tracker.track(session, Message(Kind.TRACK, 1, body=body), 0.0)
        return session

    def settle(self) -> None:
        """Let the time pass in which the tracker learns, and forget what was said."""
        self.time.run(LEARN_S + 1.0)
        for messages in self.sent.values():
            messages.clear()

    def report(self, session: Session, report: Report | bytes, id_: int = 0) -> None:
        """Report."""
        body = report if isinstance(report, bytes) else encode(report)
        self.tracker.report(session, Message(Kind.REPORT, id_, body=body), 0.0)

    def broker(self, address: str = OTHER, **topics: int) -> Session:
        """Begin the session of a broker that reports topics, each with the number of its consumers."""
        session = self.session()
        self.report(session, everything(address, **topics))
        return session

    def told(self, session: Session, seconds: float = PUSH_DELAY_S) -> list[Topology]:
        """Return what a client is told, after a while, and forget it."""
        self.time.run(seconds)
        messages, self.sent[session] = self.sent[session], []
        return [words.parse_topology(one.body, is_reply=one.kind == Kind.REPLY) for one in messages]

    def answers(self, session: Session) -> list[Any]:
        """Return what a broker is answered, and forget it."""
        messages, self.sent[session] = self.sent[session], []
        return [orjson.loads(one.body) for one in messages]


def everything(address: str = OTHER, boot: str = "2", version: int = 1, seen: int = 0, **topics: int) -> Report:
    """Return a full report."""
    server = ServerFacts(address=address, boot=boot, trackers=(OWN,))
    found = {name: facts(consumers) for name, consumers in topics.items()}
    return Report(is_full=True, server=server, topics=found, version=version, seen=seen)


def rights(name: str, *topics: str) -> Rights:
    """Return the rights of a token that may see some topics."""
    operations = frozenset({Operation.QUERY, Operation.TRACK_SUB})
    return Rights(name, (Rule(operations=operations, topics=topics),), digest_of(name))


def topics_in(told: Topology, address: str = OTHER) -> dict[str, tuple[int, int] | None]:
    """Return what is told of the topics of a broker."""
    return told.servers[address].topics


# -- what clients are told -----------------------------------------------------------------------------------


def test_client_is_told_everything_and_then_changes() -> None:
    """Also of the broker itself."""
    lab = Lab()
    lab.settle()
    broker, client = lab.broker(t=1), lab.client()

    (first,) = lab.told(client, 0.0)
    assert (first.is_full, first.is_settled, first.trackers, set(first.servers)) == (True, True, (OWN,), {OWN, OTHER})
    lab.told(client)
    lab.report(broker, Report(topics={"t": facts(2), "u": facts(0)}))
    (change,) = lab.told(client)
    assert (change.is_full, change.servers.keys(), topics_in(change)) == (False, {OTHER}, {"t": (2, 0), "u": (0, 0)})
    lab.topics["own"] = facts(5)
    lab.tracker.note("own")
    assert [topics_in(told, OWN) for told in lab.told(client)] == [{"own": (5, 0)}]
    lab.report(broker, Report(gone=("t",)))
    assert [topics_in(told) for told in lab.told(client)] == [{"t": None}]
    lab.report(broker, Report(is_leaving=True))
    assert [told.gone for told in lab.told(client)] == [(OTHER,)]


def test_many_changes_are_told_together() -> None:
    """A client that waits for one of them does not notice."""
    lab = Lab()
    client, broker = lab.client(), lab.broker()
    lab.settle()

    lab.report(broker, everything())
    for number in range(100):
        lab.report(broker, Report(topics={f"t{number % 10}": facts(number)}))

    (told,) = lab.told(client, 1.0)
    assert topics_in(told) == {f"t{number}": (90 + number, 0) for number in range(10)}


def test_heartbeats_and_depths_are_not_told() -> None:
    """Nor are they answered: they come all the time."""
    lab = Lab()
    client, broker = lab.client(), lab.broker(t=1)
    lab.settle()
    lab.report(broker, everything(t=1))
    lab.told(client)

    for number in range(20):
        lab.report(broker, b"", id_=number + 2)
        lab.report(broker, Report(topics={"t": facts(1, depth=number)}))
        assert lab.told(client, 0.5) == []
    assert lab.answers(broker) == []


def test_broker_that_is_silent_is_gone_within_two_seconds() -> None:
    """And nothing rings afterwards."""
    lab = Lab()
    client = lab.client()
    lab.settle()
    lab.broker(t=1)
    lab.told(client)

    assert lab.told(client, LEASE_S - 0.1) == []
    assert [told.gone for told in lab.told(client, LOOK_S + PUSH_DELAY_S + 0.1)] == [(OTHER,)]
    lab.time.run(LOOK_S)
    assert lab.time._rings == []


def test_tracker_that_has_just_started_says_so() -> None:
    """Until it may have heard of everybody; then it says that, though nothing has changed."""
    lab = Lab()
    client = lab.client()

    assert [told.is_settled for told in lab.told(client, LEARN_S - 0.1)] == [False]
    assert [(told.is_settled, told.servers) for told in lab.told(client, 0.2)] == [(True, {})]
    assert lab.told(client, 10.0) == []


def test_client_that_reads_too_slowly_gets_everything_when_it_catches_up() -> None:
    """And nothing meanwhile, however much happens."""
    lab = Lab()
    client, broker = lab.client(), lab.broker(t=1)
    lab.settle()
    lab.report(broker, everything(t=1))
    lab.told(client)

    client.is_congested = True
    for number in range(100):
        lab.report(broker, everything(t=number))
        lab.time.run(0.1)
    lab.report(broker, Report(is_leaving=True))
    lab.broker(THIRD, u=1)
    assert lab.told(client) == []
    client.is_congested = False
    lab.tracker.catch_up(client)

    (told,) = lab.told(client)
    assert (told.is_full, told.servers.keys()) == (True, {OWN, THIRD})
    assert lab.told(client, 0.5) == []


def test_much_is_told_less_often() -> None:
    """What a push costs is paid for by the wait for the next."""
    lab = Lab()
    clients = [lab.client() for _ in range(30)]
    broker = lab.broker()
    lab.settle()

    lab.report(broker, everything(**{f"topic{number}": 1 for number in range(10_000)}))
    lab.time.run(PUSH_DELAY_S)
    pushed = sum(len(message.body) for client in clients for message in lab.sent[client])
    for client in clients:
        lab.sent[client].clear()
    lab.report(broker, Report(topics={"topic0": facts(2)}))

    wait_s = pushed / PUSH_BYTES_PER_S
    assert wait_s > 4 * PUSH_DELAY_S
    assert lab.told(clients[0], wait_s - 0.01) == []
    assert len(lab.told(clients[0], 0.02)) == 1


def test_client_of_the_broker_alone_hears_of_no_other() -> None:
    """It hears of those from somebody else."""
    lab = Lab()
    client, broker = lab.client(body=SELF_ONLY), lab.broker(t=1)
    assert [told.servers.keys() for told in lab.told(client, 0.0)] == [{OWN}]
    lab.settle()

    lab.report(broker, everything(t=9))
    told = lab.told(client)
    lab.report(broker, Report(is_leaving=True))
    told += lab.told(client)
    assert [(one.servers, one.gone) for one in told] == [({}, ())] * len(told)
    lab.topics["own"] = facts(2)
    lab.tracker.note("own")
    assert [told.servers.keys() for told in lab.told(client)] == [{OWN}]


def test_mere_trackers_are_nobody_to_go_to() -> None:
    """Neither the tracker itself nor one that reports is told of to clients."""
    lab = Lab(is_tracker_only=True)
    client, broker = lab.client(), lab.broker(t=1)
    lab.settle()
    mere = ServerFacts(address=OTHER, boot="3", is_tracker_only=True)

    lab.report(broker, Report(is_full=True, server=mere))

    (told,) = lab.told(client)
    assert (told.servers, told.gone) == ({}, (OTHER,))
    assert [told.servers for told in lab.told(lab.client(), 0.0)] == [{}]


def test_client_that_has_gone_is_not_told() -> None:
    """Nothing of it remains."""
    lab = Lab()
    client = lab.client()
    lab.settle()
    client.is_congested = True
    lab.broker(t=1)
    lab.time.run(1.0)

    lab.tracker.disconnect(client)
    lab.broker(THIRD)

    assert lab.told(client, 1.0) == []
    assert not lab.tracker.tracks(client)
    assert not lab.tracker._behind


# -- whose eyes ----------------------------------------------------------------------------------------------


def test_client_is_told_what_its_token_may_query() -> None:
    """Everything of that and nothing else; not even that something else has changed."""
    lab = Lab()
    broker = lab.broker(**{"red.1": 1, "blue.1": 1})
    red = lab.client(rights("red", "red.*"))
    (first,) = lab.told(red, 0.0)
    assert {address: set(server.topics) for address, server in first.servers.items()} == {OWN: set(), OTHER: {"red.1"}}
    lab.settle()
    lab.report(broker, everything(**{"red.1": 1, "blue.1": 1}))
    lab.told(red)

    lab.report(broker, Report(topics={"blue.1": facts(2), "blue.2": facts(2)}))
    assert lab.told(red) == []
    lab.report(broker, Report(topics={"red.1": facts(2), "blue.1": facts(3)}, gone=("blue.2",)))
    assert [topics_in(told) for told in lab.told(red)] == [{"red.1": (2, 0)}]


def test_rights_that_have_changed_hold_from_now_on() -> None:
    """Who may see other things is told everything anew; whose token is gone, or may not track, nothing any more."""
    lab = Lab()
    wider, gone, narrowed = lab.client(rights("a", "red")), lab.client(rights("b", "*")), lab.client(rights("c", "*"))
    broker = lab.broker(red=1, blue=1)
    lab.settle()
    only_query = Rights("c", (Rule(operations=frozenset({Operation.QUERY})),), digest_of("c"))

    lab.tracker.renew(Access((rights("a", "red", "blue"), only_query)))
    lab.report(broker, everything(red=2, blue=1))

    (told,) = lab.told(wider)
    assert (told.is_full, topics_in(told)) == (True, {"red": (2, 0), "blue": (1, 0)})
    assert (lab.told(gone), lab.told(narrowed)) == ([], [])


# -- versions ------------------------------------------------------------------------------------------------


def test_versions_grow_over_a_restart_with_a_clock_that_went_back() -> None:
    """As soon as one broker has said what it has seen."""
    before = Lab()
    client = before.client()
    last = before.told(client, 10.0)[-1].version
    lab = Lab(skew_ms=-3_600_000)
    client, broker = lab.client(), lab.session()
    lab.told(client)

    lab.report(broker, everything(seen=last + 10_000), id_=1)

    (answer,) = lab.answers(broker)
    assert answer["result"]["version"] > last + 10_000
    versions = [told.version for told in lab.told(client, LEARN_S)]
    assert versions == sorted(set(versions))
    assert versions[0] > answer["result"]["version"]


def test_answer_tells_what_was_known() -> None:
    """By which a broker that has restarted goes on."""
    lab = Lab()
    broker = lab.session()
    lab.report(broker, everything(version=77), id_=1)
    lab.report(broker, everything(version=78), id_=2)

    assert [(one["result"]["tracker"], one["result"]["known"]) for one in lab.answers(broker)] == [(OWN, 0), (OWN, 77)]


# -- hostile reports -----------------------------------------------------------------------------------------

HOSTILE = [
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"is_full":true}',
    b'{"is_full":true,"server":{"address":"","boot":"x"}}',
    b'{"is_full":true,"server":{"address":"h:1"}}',
    b'{"is_full":true,"server":{"address":"%s","boot":"x"}}' % (b"h" * 301),
    b'{"is_full":true,"server":{"address":"h 1;h:2","boot":"x"}}',
    b'{"is_full":true,"server":{"address":"h:1\\r\\nx: y","boot":"x"}}',
    b'{"is_full":true,"server":{"address":"h\\u0000:1","boot":"x"}}',
    b'{"is_full":true,"server":{"address":"user@h:1","boot":"x"}}',
    b'{"is_full":true,"server":{"address":"h#:1","boot":"x"}}',
    b'{"is_full":true,"server":{"address":"<script>:1","boot":"x"}}',
    b'{"is_full":true,"server":{"address":"h:1","boot":"x","state":"dead"}}',
    b'{"is_full":true,"server":{"address":"h:1","boot":"x","trackers":["nowhere at all"]}}',
    b'{"is_full":true,"server":{"address":"h:1","boot":"x","trackers":[%s]}}' % b",".join([b'"h:1"'] * 65),
    b'{"topics":{"%s":{}}}' % (b"t" * 301),
    b'{"topics":{"t":{"consumers":-1}}}',
    b'{"topics":{"t":{"consumers":9223372036854775808}}}',
    b'{"topics":{"t":{"consumers":1.5}}}',
    b'{"topics":{"t":null}}',
    b'{"topics":[]}',
    b'{"version":9007199254740992}',
    b'{"seen":%d}' % LEARNT_MAX,
    b'{"version":-1}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_report_that_cannot_be_is_refused(body: bytes) -> None:
    """In one line, also where no answer was wanted; nothing changes."""
    lab = Lab()
    client, broker = lab.client(), lab.broker(t=1)
    lab.settle()
    lab.report(broker, everything(t=1))
    lab.told(client)

    lab.report(broker, body)

    (message,) = lab.sent[broker]
    error = orjson.loads(message.body)["error"]
    assert (message.kind, message.flags & Flag.ERROR != 0, error["code"]) == (Kind.REPLY, True, "INVALID_ARGUMENT")
    assert error["message"].startswith("REPORT: ")
    assert len(error["message"]) < 600
    assert "\n" not in error["message"]
    assert lab.told(client) == []
    assert list(lab.tracker.registry.servers) == [OWN, OTHER]


def test_report_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bytes, before it is read."""
    monkeypatch.setattr(words, "REPORT_BYTES_MAX", 100)
    lab = Lab()
    broker = lab.session()

    lab.report(broker, everything(**{f"topic{number}": 1 for number in range(10)}))

    (answer,) = lab.answers(broker)
    assert "exceeds the limit of 100 bytes" in answer["error"]["message"]


def test_greatest_versions_leave_room_for_more() -> None:
    """A broker cannot use up the numbers of a tracker."""
    lab = Lab()
    broker, client = lab.session(), lab.client()

    lab.report(broker, everything(version=words.VERSION_MAX, seen=LEARNT_MAX - 1, t=1))

    versions = [told.version for told in lab.told(client, 10.0)]
    assert LEARNT_MAX <= versions[-1] < words.VERSION_MAX
    assert lab.tracker.own_report().version < words.VERSION_MAX


# -- zbus ----------------------------------------------------------------------------------------------------


def native_report(core: ZbusCore, state: str = "live") -> TextSession:
    """Have a broker report to the tracker of a core."""
    session = core.session()
    server = {"address": OTHER, "boot": "2", "state": state, "software": "x"}
    topics = {"Orders": {"mask": 2, "consumers": 3, "depth": 7, "groups": [{"name": "g", "consumers": 3, "lag": 4}]}}
    body = orjson.dumps({"is_full": True, "server": server, "topics": topics, "version": 5})
    core.broker.receive(session.session, Message(Kind.REPORT, 1, body=body), 0.0)
    core.run()
    return session


def server_table(core: ZbusCore) -> dict[str, Any]:
    """Return what a client of zbus is told."""
    table: dict[str, Any] = orjson.loads(read(core.session().zbus("tracker")).body)["serverTable"]
    return table


def test_brokers_are_told_to_clients_of_zbus() -> None:
    """With their topics and groups, as if they had reported the zbus way."""
    core = ZbusCore()
    native_report(core)

    info = server_table(core)[OTHER]

    assert (info["serverVersion"], info["infoVersion"]) == ("x", 5)
    topic = info["topicTable"]["Orders"]
    assert (topic["mask"], topic["consumerCount"], topic["messageDepth"]) == (2, 3, 7)
    assert [(one["groupName"], one["messageCount"]) for one in topic["consumeGroupList"]] == [("g", 4)]


def test_brokers_that_drain_are_not_told_to_clients_of_zbus() -> None:
    """They would be gone to; whoever is connected moves on. That holds for the broker itself as well, unless all do."""
    core = ZbusCore()
    other = native_report(core, "draining")
    assert list(server_table(core)) == [core.hub.address]

    core.hub.tracker.set_state("draining")
    assert sorted(server_table(core)) == sorted([core.hub.address, OTHER])

    other.close()
    native_report(core)
    assert list(server_table(core)) == [OTHER]
