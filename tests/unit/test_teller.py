"""The teller: what one tracker is told of a broker, and what it does when that is refused."""

from collections.abc import Callable

import orjson

from tests.support.tracker_net import FakeTime, facts
from zbusrpc import envelope
from zbusrpc.broker.tracker.registry import HEARTBEAT_S
from zbusrpc.broker.tracker.teller import REFRESH_S, REFUSED_S, Teller
from zbusrpc.broker.tracker.tracker import PUSH_DELAY_S, Tracker
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.hello import Hello
from zbusrpc.transport.topology import LEARNT_MAX, Report, ServerFacts, TopicFacts, parse_report

OWN, OTHER = "10.0.0.1:15555", "10.0.0.2:15555"


class Broker:
    """A broker with one tracker, whose part the test plays."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.topics: dict[str, TopicFacts] = {"t": facts(1)}
        self.sent: list[Message] = []
        self.tracker = Tracker(self.time, lambda session, message: None)
        self.tracker.describe = self.topics.get
        self.tracker.begin(ServerFacts(address=OWN, boot="1"), ["t"])
        self.teller = Teller(self.tracker, OTHER, self.sent.append, now=self.time.now, later=self.time.later)
        self.tracker.on_own_change = self.teller.tell

    def open(self, address: str = OTHER, boot: str = "2") -> None:
        """Let there be a connection."""
        self.teller.opened(Hello(address=address, boot=boot))

    def change(self, consumers: int) -> None:
        """Have the topic change, and be told."""
        self.topics["t"] = facts(consumers)
        self.tracker.note("t")
        self.time.run(PUSH_DELAY_S)

    def answer(self, version: int = 1, known: int = 0) -> None:
        """Take a report as a tracker does."""
        body = envelope.result_body(orjson.dumps({"tracker": OTHER, "version": version, "known": known}))
        self.teller.take(Message(Kind.REPLY, 1, body=body))

    def refuse(self, code: Code) -> None:
        """Refuse a report."""
        body = envelope.error_body(RpcError(code, "no"))
        self.teller.take(Message(Kind.REPLY, 0, body=body, flags=Flag.ERROR))

    def told(self, is_wanted: Callable[[Report], bool] = bool) -> list[Report]:
        """Return what was told since, without heartbeats."""
        sent, self.sent[:] = list(self.sent), []
        return [report for report in (parse_report(one.body) for one in sent if one.body) if is_wanted(report)]


def test_everything_first_then_changes_and_heartbeats() -> None:
    """And everything again at intervals."""
    broker = Broker()
    broker.open()

    (first,) = broker.told()
    assert (first.is_full, first.server, first.topics) == (True, broker.tracker.own, {"t": facts(1)})
    broker.answer()
    broker.change(2)
    (change,) = broker.told()
    assert (change.is_full, change.topics, change.version > first.version) == (False, {"t": facts(2)}, True)
    broker.time.run(10 * HEARTBEAT_S)
    beats = [(one.kind, one.body) for one in broker.sent]
    assert beats == [(Kind.REPORT, b"")] * 10
    broker.time.run(REFRESH_S)
    (again,) = broker.told()
    assert (again.is_full, again.topics) == (True, {"t": facts(2)})


def test_nothing_is_told_while_there_is_no_connection() -> None:
    """Nor does a timer ring; the next connection gets everything."""
    broker = Broker()
    broker.open()
    broker.teller.lost()
    broker.told()

    broker.change(2)
    broker.time.run(60)
    assert broker.sent == []
    broker.open()
    assert [report.topics for report in broker.told()] == [{"t": facts(2)}]


def test_broker_does_not_report_to_itself() -> None:
    """It knows itself by address and boot; another process at its address is somebody else."""
    broker = Broker()
    broker.open(OWN, "1")
    assert (broker.teller.is_self, broker.teller.is_open) == (True, False)
    broker.change(2)
    broker.time.run(60)
    assert broker.sent == []

    broker.open(OWN, "another")
    assert (broker.teller.is_self, len(broker.told())) == (False, 1)


def test_tracker_that_has_forgotten_is_told_everything_with_the_next_heartbeat() -> None:
    """A change that comes before the answer to that is told as well."""
    broker = Broker()
    broker.open()
    broker.answer()
    broker.told()

    broker.refuse(Code.FAILED_PRECONDITION)
    broker.change(2)
    assert broker.told() == []
    broker.time.run(HEARTBEAT_S)
    assert [report.topics for report in broker.told()] == [{"t": facts(2)}]
    broker.change(3)
    assert [report.topics for report in broker.told()] == [{"t": facts(3)}]


def test_tracker_that_refuses_is_left_in_peace_for_a_while() -> None:
    """It is told everything REFUSED_S after the last time, and no heartbeats meanwhile."""
    broker = Broker()
    for code in (Code.ABORTED, Code.ALREADY_EXISTS, Code.PERMISSION_DENIED):
        broker.teller.lost()
        broker.open()
        broker.told()
        broker.refuse(code)
        broker.time.run(REFUSED_S - HEARTBEAT_S)
        assert broker.sent == []
        broker.time.run(2 * HEARTBEAT_S)
        assert [report.is_full for report in broker.told()] == [True]

    broker.time.run(10.0)
    broker.told()
    broker.refuse(Code.ABORTED)  # a late word of an older connection has taken its place
    broker.time.run(HEARTBEAT_S)
    assert [report.is_full for report in broker.told()] == [True]


def test_versions_go_on_where_an_earlier_process_ended() -> None:
    """What the tracker has known of it is exceeded at once, as others would not look at what seems old."""
    broker = Broker()
    broker.time.skew_ms = -3_600_000
    broker.open()
    (first,) = broker.told()
    known = first.version + 3_000_000

    broker.answer(known=known)
    broker.time.run(HEARTBEAT_S)

    (again,) = broker.told()
    assert (again.is_full, again.version > known) == (True, True)
    broker.answer(known=again.version - 1)
    broker.time.run(10.0)
    assert broker.told() == []


def test_tracker_is_told_which_versions_it_has_told() -> None:
    """As of its last answer and the time since: one that comes back with a clock that went back goes on from there."""
    broker = Broker()
    broker.open()
    assert broker.told()[0].seen == 0

    broker.answer(version=5_000_000)
    broker.time.run(7.0)
    broker.teller.lost()
    broker.time.run(3.0)
    broker.open()

    assert broker.told(lambda report: report.is_full)[0].seen == 5_010_000


def test_answers_that_make_no_sense_do_no_harm() -> None:
    """A version beyond all measure is not learnt; what cannot be read is not looked at."""
    broker = Broker()
    broker.open()
    (first,) = broker.told()

    for body in (
        b"",
        b"[]",
        b'{"result":null}',
        b'{"result":{"version":-1,"known":"x"}}',
        b'{"result":{"version":1e999}}',
    ):
        broker.teller.take(Message(Kind.REPLY, 1, body=body))
    broker.answer(version=LEARNT_MAX, known=LEARNT_MAX)
    broker.teller.take(Message(Kind.TOPOLOGY, body=b"{"))
    broker.teller.lost()
    broker.open()

    (again,) = broker.told()
    assert (again.seen, again.version < first.version + 1000) == (0, True)
