"""The registry: the brokers that a tracker knows of, each as long as its lease lasts.

    report ──> renew, renew, ... ──> leave, or `expire` when nothing was heard for LEASE_S
                                └──> ousted: a newer connection reports the address

What comes late by an old connection of a broker, or of another process that believes to have the same address, is
thus refused. Only what is heard renews a lease; that a connection ended says nothing, as it may have been the network.
A tracker that was stopped for a while itself has heard nobody in that time, which is nobody's fault: the leases are
longer by it.

Pure: `now` is passed in, in seconds of a monotonic clock of the tracker's own; clocks of other machines do not count.
"""

from typing import Final, Protocol

from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.topology import Report, ServerFacts, TopicFacts

HEARTBEAT_S: Final = 0.5
"""How often a broker says that it lives."""
LEASE_S: Final = 1.6
"""Three heartbeats may be lost or late; with the wait for the next look it is under 2 s."""
LOOK_S: Final = 0.2
"""How often leases are looked at, while there are any."""
SERVERS_MAX: Final = 10_000
TOPICS_MAX: Final = 100_000
"""Of one broker; it has far fewer itself."""


class Source(Protocol):
    """A session by which a broker reports."""

    number: int
    """Grows from one to the next."""


class Server:
    """A broker, as a tracker knows it."""

    __slots__ = ("facts", "lease_until", "owner", "source", "topics", "version")

    def __init__(self, facts: ServerFacts, source: Source | None, lease_until: float | None) -> None:
        self.facts = facts
        self.topics: dict[str, TopicFacts] = {}
        self.source = source
        """The session that reports it; None for the broker itself."""
        self.lease_until = lease_until
        """None where it lives as long as its session."""
        self.owner = 0
        """By whose token it is reported: while it lives, nobody reports its address by another."""
        self.version = 0
        """The greatest version of itself that it has told."""


class Registry:
    """The brokers that a tracker knows of."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        """By address."""
        self.changed: dict[str, set[str] | None] = {}
        """What is to be told: by address the topics that changed, or None for all of a broker."""
        self.gone: set[str] = set()
        """Brokers that are there no more, and of which that is to be told."""
        self._by_source: dict[Source | None, str] = {}
        self._ousted: dict[Source | None, str] = {}
        """Sources whose address a newer one reports."""
        self._versions: dict[str, int] = {}
        """Of brokers that are gone, the last SERVERS_MAX of them: one that comes back must tell greater ones."""
        self._looked_at: float | None = None

    # -- what is reported --------------------------------------------------------------------------------

    def report(self, source: Source, report: Report, now: float, *, is_leased: bool = True, owner: int = 0) -> int:
        """Take a report in, and return the greatest version that the broker had told before.

        Args:
            source: The session that it came by.
            is_leased: Whether it says in time that it lives; a broker of zbus lives as long as its session.
            owner: Of the token by which it came (see `Rights.owner`).

        Raises:
            RpcError: as of `renew`. ALREADY_EXISTS: the address is the tracker's own, or that of a broker which lives
                and is reported by another token. RESOURCE_EXHAUSTED: there are too many brokers, or topics.
                INVALID_ARGUMENT: it changes the address, and does not hold everything.
        """
        if report.is_leaving:
            self.leave(source)
            return 0
        server = self._begin(source, report, owner) if report.is_full else _check(self._server_of(source), report)
        server.lease_until = now + LEASE_S if is_leased else None
        if self._looked_at is None:
            self._looked_at = now
        known, server.version = server.version, max(server.version, report.version)
        if report.server is not None and report.server != server.facts:
            server.facts = report.server
            self._mark(server.facts.address, None)
        self._take_topics(server, report)
        return known

    def _begin(self, source: Source, report: Report, owner: int) -> Server:
        assert report.server is not None
        _check_count(len(report.topics))
        address = report.server.address
        known = self.servers.get(address)
        if known is not None and known.source is None:
            raise RpcError(Code.ALREADY_EXISTS, f"{address} is the address of this tracker; see --advertise")
        if known is not None and known.owner != owner:
            raise RpcError(Code.ALREADY_EXISTS, f"{address} is reported by another token, and lives; see --advertise")
        if known is None and len(self.servers) >= SERVERS_MAX:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"the tracker's limit of {SERVERS_MAX} brokers is reached")
        if known is not None and known.source is not None and source.number < known.source.number:
            self._ousted[source] = address
            raise self._refusal(source)
        before = self._by_source.get(source)
        if before is not None and before != address:
            self.leave(source)
        if known is None:
            known = self.servers[address] = Server(report.server, source, None)
            known.version = self._versions.pop(address, 0)
            self._mark(address, None)
        elif known.source is not source:
            if self._by_source.pop(known.source, None) is not None:
                self._ousted[known.source] = address
            known.source = source
        known.owner = owner
        self._by_source[source] = address
        self._ousted.pop(source, None)
        self.gone.discard(address)
        return known

    def _server_of(self, source: Source) -> Server:
        address = self._by_source.get(source)
        if address is not None:
            return self.servers[address]
        if source in self._ousted:
            raise self._refusal(source)
        raise RpcError(Code.FAILED_PRECONDITION, "this tracker has forgotten you: report everything")

    def _refusal(self, source: Source) -> RpcError:
        text = f"a newer connection reports the address {self._ousted[source]}; see --advertise and --port"
        return RpcError(Code.ABORTED, text)

    def _take_topics(self, server: Server, report: Report) -> None:
        """Take over topics, and note which are others than before: those whose depth alone has changed are not."""
        address, before = server.facts.address, server.topics
        gone = before.keys() - report.topics.keys() if report.is_full else before.keys() & set(report.gone)
        changed = gone | {name for name, facts in report.topics.items() if is_news(before.get(name), facts)}
        for name in gone:
            del before[name]
        before |= report.topics
        if changed:
            self._mark(address, changed)

    def renew(self, source: Source, now: float) -> None:
        """Note that a broker lives.

        Raises:
            RpcError: FAILED_PRECONDITION: it has to report everything first. ABORTED: another process reports its
                address.
        """
        server = self._server_of(source)
        if server.lease_until is not None:
            server.lease_until = now + LEASE_S

    def leave(self, source: Source) -> None:
        """Forget the broker of a source now; again does nothing."""
        address = self._by_source.pop(source, None)
        if address is not None:
            self._forget(address)

    def disconnect(self, source: Source) -> None:
        """Let go of a source whose session has ended: what has a lease keeps it until it is over."""
        self._ousted.pop(source, None)
        address = self._by_source.pop(source, None)
        if address is not None and self.servers[address].lease_until is None:
            self._forget(address)

    # -- the broker itself -------------------------------------------------------------------------------

    def know_self(self, facts: ServerFacts) -> None:
        """Take in the broker that this tracker is part of, or what has changed of it."""
        server = self.servers.get(facts.address)
        if server is None or server.source is not None:
            if server is not None:
                self._by_source.pop(server.source, None)
            server = self.servers[facts.address] = Server(facts, None, None)
        server.facts = facts
        self._mark(facts.address, None)

    def change_self(self, address: str, topics: dict[str, TopicFacts | None]) -> None:
        """Take in what has changed of the topics of the broker itself."""
        server = self.servers[address]
        changed = set()
        for name, facts in topics.items():
            before = server.topics.get(name)
            if facts is None:
                if server.topics.pop(name, None) is not None:
                    changed.add(name)
            else:
                server.topics[name] = facts
                if is_news(before, facts):
                    changed.add(name)
        if changed:
            self._mark(address, changed)

    # -- time --------------------------------------------------------------------------------------------

    def expire(self, now: float) -> list[str]:
        """Forget the brokers that were not heard of for the time of their lease; return their addresses."""
        asleep = now - self._looked_at - 2 * LOOK_S if self._looked_at is not None else 0.0
        self._looked_at = now
        if asleep > 0:
            for server in self.servers.values():
                if server.lease_until is not None:
                    server.lease_until = min(server.lease_until + asleep, now + LEASE_S)
        late = [
            address
            for address, server in self.servers.items()
            if server.lease_until is not None and server.lease_until <= now
        ]
        for address in late:
            self._by_source.pop(self.servers[address].source, None)
            self._forget(address)
        return late

    @property
    def has_leases(self) -> bool:
        """Whether time may end any."""
        return any(server.lease_until is not None for server in self.servers.values())

    def rest(self) -> None:
        """Note that leases are not looked at any more, as there are none."""
        self._looked_at = None

    # -- what is to be told ------------------------------------------------------------------------------

    def take_changes(self) -> tuple[dict[str, set[str] | None], set[str]]:
        """Return what has changed since this was asked the last time: by address, and who is gone."""
        changed, gone = self.changed, self.gone
        self.changed, self.gone = {}, set()
        return changed, gone

    def trackers(self) -> set[str]:
        """Return the addresses to which brokers report."""
        return {tracker for server in self.servers.values() for tracker in server.facts.trackers}

    def _mark(self, address: str, topics: set[str] | None) -> None:
        marked = self.changed.get(address, set())
        self.changed[address] = None if topics is None or marked is None else marked | topics

    def _forget(self, address: str) -> None:
        self._versions[address] = self.servers.pop(address).version
        if len(self._versions) > SERVERS_MAX:
            del self._versions[next(iter(self._versions))]
        self.changed.pop(address, None)
        self.gone.add(address)


def _check(server: Server, report: Report) -> Server:
    """Return the server when a change of it can be taken.

    Raises:
        RpcError: it cannot.
    """
    if report.server is not None and report.server.address != server.facts.address:
        raise RpcError(Code.INVALID_ARGUMENT, "REPORT: an address changes with a full report only")
    _check_count(len(server.topics) + len(report.topics))
    return server


def _check_count(topics: int) -> None:
    if topics > TOPICS_MAX:
        raise RpcError(Code.RESOURCE_EXHAUSTED, f"the tracker's limit of {TOPICS_MAX} topics of a broker is reached")


def is_news(before: TopicFacts | None, after: TopicFacts) -> bool:
    """Whether a topic is worth telling of again: its depth and the lag of its groups change with every message."""
    if before is None or (before.mask, before.consumers, before.created_ms) != (
        after.mask,
        after.consumers,
        after.created_ms,
    ):
        return True
    kept = [(one.name, one.mask, one.filter, one.consumers) for one in before.groups]
    return kept != [(one.name, one.mask, one.filter, one.consumers) for one in after.groups]
