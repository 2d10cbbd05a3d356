"""The registry: leases that heartbeats renew, who has an address, what is told of it, and its bounds."""

import pytest

from zbusrpc.broker.tracker import registry as module
from zbusrpc.broker.tracker.registry import HEARTBEAT_S, LEASE_S, LOOK_S, Registry
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.topology import GroupFacts, Report, ServerFacts, TopicFacts

A, B = "10.0.0.1:15555", "10.0.0.2:15555"


class Source:
    """A session that reports."""

    last = 0

    def __init__(self) -> None:
        Source.last += 1
        self.number = Source.last


def everything(address: str = A, boot: str = "1", version: int = 1, **topics: int) -> Report:
    """Return a full report of topics, each with the number of its consumers."""
    server = ServerFacts(address=address, boot=boot)
    found = {name: TopicFacts(consumers=consumers) for name, consumers in topics.items()}
    return Report(is_full=True, server=server, topics=found, version=version)


def refusal(registry: Registry, source: Source, report: Report | None, now: float = 0.0) -> RpcError:
    """Return how a report, or a heartbeat, is refused."""
    with pytest.raises(RpcError) as caught:
        registry.report(source, report, now) if report is not None else registry.renew(source, now)
    return caught.value


def pass_time(registry: Registry, begin: float, end: float) -> list[str]:
    """Look at leases as a tracker does; return whom that cost theirs."""
    late, now = [], begin
    while now < end:
        now = min(now + LOOK_S, end)
        late += registry.expire(now)
    return late


# -- leases --------------------------------------------------------------------------------------------------


def test_lease_lasts_as_long_as_it_is_renewed() -> None:
    """Each heartbeat is worth LEASE_S; three may be lost, and less than 2 s after the last it is over."""
    registry, source = Registry(), Source()
    registry.report(source, everything(), 0.0)

    for beat in range(1, 20):
        assert pass_time(registry, (beat - 1) * HEARTBEAT_S, beat * HEARTBEAT_S) == []
        registry.renew(source, beat * HEARTBEAT_S)
    last = 19 * HEARTBEAT_S

    assert pass_time(registry, last, last + 3 * HEARTBEAT_S) == []
    assert pass_time(registry, last + 3 * HEARTBEAT_S, last + 2.0) == [A]
    assert registry.servers == {}
    assert registry.take_changes()[1] == {A}


def test_broker_that_was_forgotten_has_to_report_everything() -> None:
    """Its heartbeats and changes are refused until it does; then its lease begins anew."""
    registry, source = Registry(), Source()
    for report in (None, Report(topics={"t": TopicFacts()})):
        assert refusal(registry, source, report).code is Code.FAILED_PRECONDITION
    registry.report(source, everything(t=1), 0.0)
    pass_time(registry, 0.0, 5.0)

    assert refusal(registry, source, None).code is Code.FAILED_PRECONDITION
    registry.report(source, everything(u=1), 5.0)

    assert list(registry.servers[A].topics) == ["u"]
    assert pass_time(registry, 5.0, 5.0 + LEASE_S - 0.1) == []


def test_end_of_a_connection_says_nothing() -> None:
    """It may have been the network: the broker has its lease to come back, and nobody is told of that."""
    registry, first, second = Registry(), Source(), Source()
    registry.report(first, everything(t=1), 0.0)
    registry.take_changes()

    registry.disconnect(first)
    assert list(registry.servers) == [A]
    registry.report(second, everything(t=1, version=2), 1.0)

    assert registry.take_changes() == ({}, set())
    assert pass_time(registry, 1.0, 1.0 + LEASE_S - 0.1) == []


def test_source_without_lease_lives_as_long_as_its_connection() -> None:
    """As servers of zbus do, which have no heartbeat of this kind."""
    registry, source = Registry(), Source()
    registry.report(source, everything(), 0.0, is_leased=False)

    assert not registry.has_leases
    registry.renew(source, 1.0)
    assert registry.expire(1000.0) == []
    registry.disconnect(source)
    assert registry.take_changes() == ({}, {A})


def test_broker_that_leaves_is_forgotten_at_once() -> None:
    """Leaving again does nothing."""
    registry, source = Registry(), Source()
    registry.report(source, everything(), 0.0)

    registry.report(source, Report(is_leaving=True), 0.1)
    registry.report(source, Report(is_leaving=True), 0.1)

    assert (registry.servers, registry.gone) == ({}, {A})


def test_tracker_that_was_stopped_blames_nobody() -> None:
    """Leases are longer by the time that it stood still, and no longer: who is dead is found out as soon as ever."""
    registry, alive, dead, late = Registry(), Source(), Source(), Source()
    registry.report(alive, everything(A), 0.0)
    registry.report(dead, everything(B), 0.0)
    pass_time(registry, 0.0, 1.0)

    assert registry.expire(61.0) == []
    registry.renew(alive, 61.1)
    assert pass_time(registry, 61.0, 62.5) == [B]

    registry.renew(alive, 62.5)
    registry.report(late, everything(B), 62.5)  # what has waited may be read before leases are looked at
    pass_time(registry, 62.5, 63.0)
    registry.renew(late, 163.0)
    registry.renew(alive, 163.0)
    assert registry.expire(163.0) == []
    assert set(pass_time(registry, 163.0, 163.0 + LEASE_S + LOOK_S)) == {A, B}


def test_tracker_that_was_stopped_before_its_first_look_blames_nobody() -> None:
    """Also where it had nobody to look after before."""
    registry, source = Registry(), Source()
    pass_time(registry, 0.0, 1.0)
    registry.rest()
    registry.report(source, everything(), 10.0)

    assert registry.expire(20.0) == []


# -- addresses -----------------------------------------------------------------------------------------------


def test_newer_connection_has_the_address() -> None:
    """Of two that report it. The older is told why; what it says late changes nothing, nor does its end."""
    registry, older, newer = Registry(), Source(), Source()
    registry.report(older, everything(boot="old", t=1), 0.0)
    registry.report(newer, everything(boot="new", t=2), 0.1)

    for report in (everything(boot="old", version=9, t=1), Report(gone=("t",)), None):
        error = refusal(registry, older, report, 0.2)
        assert error.code is Code.ABORTED
        assert f"a newer connection reports the address {A}; see --advertise" in error.message
    registry.report(older, Report(is_leaving=True), 0.3)
    registry.disconnect(older)

    assert registry.servers[A].facts.boot == "new"
    assert registry.servers[A].topics["t"].consumers == 2
    registry.renew(newer, 0.4)
    assert registry._ousted == {}


def test_older_connection_has_the_address_when_the_newer_has_left() -> None:
    """A process that was mistaken may have been put right."""
    registry, older, newer = Registry(), Source(), Source()
    registry.report(older, everything(boot="old"), 0.0)
    registry.report(newer, everything(boot="new"), 0.1)

    registry.report(newer, Report(is_leaving=True), 0.2)
    registry.report(older, everything(boot="old", version=2), 5.0)

    assert registry.servers[A].facts.boot == "old"
    registry.renew(older, 5.1)


def test_address_of_the_tracker_is_its_own() -> None:
    """Nobody else can report it."""
    registry = Registry()
    registry.know_self(ServerFacts(address=A, boot="own"))

    error = refusal(registry, Source(), everything(A, boot="other"))

    assert (error.code, A in error.message) == (Code.ALREADY_EXISTS, True)
    assert registry.expire(1e9) == []


def test_source_that_reports_another_address_has_left_the_one_before() -> None:
    """A change cannot rename it, only a full report can."""
    registry, source = Registry(), Source()
    registry.report(source, everything(A), 0.0)
    error = refusal(registry, source, Report(server=ServerFacts(address=B, boot="1")))
    assert error.code is Code.INVALID_ARGUMENT

    registry.report(source, everything(B), 0.1)

    assert list(registry.servers) == [B]
    assert registry.gone == {A}


def test_reconnecting_leaves_nothing_behind() -> None:
    """A hundred connections of each of some brokers, ended before or after the next one reports."""
    registry, sources = Registry(), [Source() for _ in range(400)]
    for number, source in enumerate(sources):
        registry.report(source, everything(f"10.0.0.{number % 4}:1", version=number), 0.0)
        if number % 2:
            registry.disconnect(source)
    for source in sources:
        registry.disconnect(source)
    pass_time(registry, 0.0, 2.0)

    assert (registry.servers, registry._by_source, registry._ousted) == ({}, {}, {})


# -- versions ------------------------------------------------------------------------------------------------


def test_broker_is_told_what_it_has_told_before() -> None:
    """Over its restart, also when its clock went back and the tracker has forgotten it meanwhile."""
    registry, first, second = Registry(), Source(), Source()

    assert registry.report(first, everything(version=1000), 0.0) == 0
    assert registry.report(first, Report(version=1001), 0.0) == 1000
    pass_time(registry, 0.0, 10.0)
    assert registry.report(second, everything(boot="2", version=5), 10.0) == 1001
    assert registry.servers[A].version == 1001
    assert registry.report(second, everything(boot="2", version=1002), 10.0) == 1001


# -- what is told --------------------------------------------------------------------------------------------


def test_changes_are_told_once_and_news_only() -> None:
    """Topics that came, changed or went; not the depth of a topic, nor the lag of a group."""
    registry, source = Registry(), Source()
    registry.report(source, everything(a=1, b=1, c=1), 0.0)
    assert registry.take_changes() == ({A: None}, set())

    group = GroupFacts(name="g", lag=1)
    registry.report(source, Report(topics={"a": TopicFacts(consumers=2)}, gone=("b", "unknown")), 0.0)
    assert registry.take_changes() == ({A: {"a", "b"}}, set())
    registry.report(source, Report(topics={"c": TopicFacts(consumers=1, groups=(group,))}), 0.0)
    assert registry.take_changes() == ({A: {"c"}}, set())
    busy = TopicFacts(consumers=1, depth=9, groups=(group.model_copy(update={"lag": 7}),))
    registry.report(source, Report(topics={"c": busy}), 0.0)
    assert registry.take_changes() == ({}, set())
    assert registry.servers[A].topics["c"].depth == 9
    registry.report(source, everything(a=2), 0.0)
    assert registry.take_changes() == ({A: {"c"}}, set())


def test_restarted_broker_is_told_whole() -> None:
    """Another boot is another broker, even with the same topics."""
    registry, first, second = Registry(), Source(), Source()
    registry.report(first, everything(a=1), 0.0)
    registry.take_changes()

    registry.report(second, everything(boot="2", a=1), 0.1)

    assert registry.take_changes() == ({A: None}, set())


def test_broker_that_went_and_came_between_two_tellings_is_not_gone() -> None:
    """It is told whole; one that came and went is just gone."""
    registry, source = Registry(), Source()
    registry.report(source, everything(a=1), 0.0)
    registry.take_changes()

    registry.leave(source)
    registry.report(source, everything(a=1), 0.0)
    assert registry.take_changes() == ({A: None}, set())

    registry.report(source, everything(b=1), 0.0)
    registry.leave(source)
    assert registry.take_changes() == ({}, {A})


# -- bounds --------------------------------------------------------------------------------------------------


def test_brokers_and_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much is refused, and nothing of it remains; whoever is there already may go on."""
    monkeypatch.setattr(module, "SERVERS_MAX", 2)
    monkeypatch.setattr(module, "TOPICS_MAX", 3)
    registry, sources = Registry(), [Source() for _ in range(4)]
    registry.report(sources[0], everything("h:1", a=1, b=1), 0.0)
    registry.report(sources[1], everything("h:2"), 0.0)

    assert refusal(registry, sources[2], everything("h:3")).code is Code.RESOURCE_EXHAUSTED
    assert refusal(registry, sources[3], everything("h:2", a=1, b=1, c=1, d=1)).code is Code.RESOURCE_EXHAUSTED
    many = Report(topics={"c": TopicFacts(), "d": TopicFacts()})
    assert refusal(registry, sources[0], many).code is Code.RESOURCE_EXHAUSTED
    registry.report(sources[0], everything("h:1", a=1, b=1, c=1), 0.0)

    assert {address: len(server.topics) for address, server in registry.servers.items()} == {"h:1": 3, "h:2": 0}
    assert len(registry._by_source) == 2
    for number in range(10):
        registry.leave(sources[1])
        registry.report(sources[1], everything(f"h:{number + 5}"), 0.0)
    assert len(registry._versions) == 2
